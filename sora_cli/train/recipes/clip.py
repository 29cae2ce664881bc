"""`sora-cli train clip`: the text tower, learned by contrast with clips, through open_clip.

Two moments of a clip, stacked as channels, show a video tower what is there and how it moves; open_clip's
text transformer and contrastive loss do the rest. A second, small loss asks every token to still know its
word: contrast alone lets look-alikes fall together (fox and crab, spinning and swinging), and it is tokens
that the DiT reads. The text tower is exported; the video tower lies beside it, for `train dit --align clip`.
"""

import json
import random
import zlib
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sora_cli.dataset.dataset import Dataset
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.models.sora.text import PAD, UNKNOWN, TextConfig, Tokenizer, text_weights
from sora_cli.models.sora.text import words as words_of
from sora_cli.train.options import WORLD, ClipOptions
from sora_cli.train.recipes import tower
from sora_cli.train.recipes.tower import GAP, MOMENTS, TowerConfig, VideoTower
from sora_cli.train.trainer import loop
from sora_cli.train.trainer.config import Losses, Preset, TrainerConfig
from sora_cli.train.trainer.logger import note_unread
from sora_cli.train.trainer.stage import Stage
from sora_cli.world.captions import dense, sparse, words
from sora_cli.world.render import render
from sora_cli.world.scene import Split, sample_scene

if TYPE_CHECKING:
    from open_clip.model import CLIP

HEIGHT, WIDTH = 64, 112
LONGEST = 8.0                # seconds: clips begin anywhere in here
LARGEST_SCALE = 100.0        # of the logits, as in Radford et al. 2021
WORDS = 0.2                  # weight of the loss on words
CONTEXT = 24                 # at least: start, 20 words of a dense caption of the world, end, and two to spare
MOST_WORDS, MOST_DIFFERENT = 32, 10_000    # words of a caption, and of a dataset, that are read
WORD_DROPOUT = 0.05          # the share of a dataset's words that are read as unknown, so that such words say nothing


PRESETS = {  # width, heads, layers, embed_dim; channels of the video tower, of which every entry halves the picture
    "nano": Preset((128, 4, 3, 128, (32, 64, 128, 192)), steps=800, batch=64, lr=2e-3),
    "mini": Preset((192, 6, 4, 192, (48, 96, 192, 384)), steps=6000, batch=256, lr=2e-3),
    "base": Preset((256, 8, 6, 256, (64, 128, 256, 512)), steps=20000, batch=512, lr=1e-3),
}


class World:
    """Scenes that are rendered as they are asked for; captions are half dense, half sparse."""

    context = CONTEXT            # L of the text tower
    channels = 3                 # of a moment
    halvings = 4                 # of a moment's sides that make it a few cells
    most = 1 << 62               # clips that can be told apart by their captions
    word_dropout = 0.0           # the share of words that are read as unknown
    latents = ""                 # the identity of the autoencoder whose latents moments are, "" if they are pictures

    def __init__(self, device: torch.device) -> None:
        self.vocabulary, self.device = words(), device

    def draw(self, count: int, seed: str, split: Split) -> tuple[Tensor, list[str]]:
        """Moments [B, MOMENTS, C, h, w], of about unit size, and captions."""
        rng = random.Random(seed)
        scenes = [sample_scene(rng, split) for _ in range(count)]
        captions = [dense(scene) if i % 2 == 0 else sparse(scene, rng) for i, scene in enumerate(scenes)]
        starts = torch.tensor([rng.uniform(0, LONGEST) for _ in scenes])
        times = starts[:, None] + GAP * torch.arange(MOMENTS)
        return render(scenes, times, HEIGHT, WIDTH, self.device) * 2 - 1, captions


class Footage:
    """The latents of a dataset that have captions. A batch has no caption twice: contrast would take the same for
    different. Nothing is held out, for a word that stands in one caption alone would never be learned."""

    halvings, word_dropout = 3, WORD_DROPOUT

    def __init__(self, folder: str) -> None:
        self.dataset = Dataset(folder)
        self.numbers: dict[str, list[int]] = {}
        for number, caption in enumerate(self.dataset.captions):
            if words_of(caption):
                self.numbers.setdefault(caption, []).append(number)
        self.channels, self.most, self.latents = self.dataset.channels, len(self.numbers), self.dataset.vae
        if self.most < 2:
            raise SoraError(f"the captions of {folder} are all the same, or there are none; learning words "
                            "needs clips with different captions")  # fmt: skip
        said = Counter(word for caption in self.numbers for word in words_of(caption))
        self.vocabulary = sorted(word for word, _ in said.most_common(MOST_DIFFERENT))
        longest = max(len(words_of(caption)) for caption in self.numbers)
        self.context = max(CONTEXT, min(longest, MOST_WORDS) + 4)

    def draw(self, count: int, seed: str, split: Split) -> tuple[Tensor, list[str]]:
        rng = random.Random(seed)
        captions = rng.sample(list(self.numbers), count)
        return torch.stack([self.moments(rng.choice(self.numbers[caption]), rng) for caption in captions]), captions

    def moments(self, number: int, rng: random.Random) -> Tensor:
        """A latent frame from anywhere in a clip, and those that follow in steps of about GAP."""
        latents, seconds, _ = self.dataset[number]
        first = rng.randint(0, max(0, len(seconds) - 1 - tower.stride(seconds) * (MOMENTS - 1)))
        return tower.moments(latents, seconds, [first])[0]


Clips = World | Footage


def network_of(preset: Preset, clips: Clips, tokenizer: Tokenizer) -> tuple[TextConfig, "CLIP"]:
    """open_clip's CLIP with our video tower in the place of its image tower."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    width, heads, layers, embed_dim, channels = preset.sizes
    config = TextConfig(tokenizer.vocab_size, clips.context, width, heads, layers, embed_dim)
    text = CLIPTextCfg(context_length=config.context, vocab_size=config.vocab_size, width=config.width,
                       heads=config.heads, layers=config.layers)  # fmt: skip
    clip = CLIP(embed_dim, CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=64), text)
    clip.visual = VideoTower(TowerConfig(clips.channels, channels[-clips.halvings :], embed_dim))
    clip.hidden_weights = lambda: [p for p in clip.transformer.parameters() if p.ndim == 2]  # for Muon
    return config, clip


def word_dropout(tokens: Tensor, share: float, seed: str, end: int) -> Tensor:
    """Tokens [B, L], so many of whose words are unknown."""
    if not share:
        return tokens
    rng = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    lost = (torch.rand(tokens.shape, generator=rng) < share) & (tokens > UNKNOWN) & (tokens < end)
    return tokens.masked_fill(lost, UNKNOWN)


def read(clip: "CLIP", tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Features of all tokens [B, L, D] and the pooled text [B, embed_dim], by open_clip's own parts."""
    from open_clip.transformer import text_global_pool

    x = clip.token_embedding(tokens) + clip.positional_embedding                    # B L D
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))                # B L D
    return x, text_global_pool(x, tokens) @ clip.text_projection


class ClipStage(Stage[ClipOptions]):
    """Captions against clips, clips against captions, and tokens against words."""

    model: "CLIP"

    def __init__(self, options: ClipOptions, device: torch.device, dtype: torch.dtype) -> None:
        from open_clip.loss import ClipLoss

        super().__init__(options, device, dtype)
        preset = PRESETS[options.preset]
        self.clips: Clips = World(device) if options.data == WORLD else Footage(options.data)
        self.tokenizer = Tokenizer(self.clips.vocabulary, self.clips.context)
        if isinstance(self.clips, Footage):
            note_unread(self.clips.dataset.captions, self.tokenizer.most)
        torch.manual_seed(options.seed)  # weight initialisation alone
        self.tower, self.model = network_of(preset, self.clips, self.tokenizer)
        self.model.to(device)
        self.config = TrainerConfig(steps=options.steps or preset.steps, rate=preset.lr, average=0.99,
                                    batch=min(options.batch or preset.batch, self.clips.most))  # fmt: skip
        self.contrast = ClipLoss()

    def loss(self, step: int) -> Losses:
        videos, texts, words = self.embed(f"{self.options.seed}/{step}", "train")
        contrast = self.contrast(videos, texts, self.model.logit_scale.exp().clamp(max=LARGEST_SCALE))
        right = (videos @ texts.T).argmax(1) == torch.arange(len(videos), device=self.device)
        return {"loss": contrast + WORDS * words, "contrast": contrast.detach(), "words": words.detach(),
                "recall": right.float().mean()}  # fmt: skip

    def embed(self, seed: str, split: Split) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings [B, embed_dim] of length 1 of a batch of clips and of their captions; the loss on words."""
        moments, captions = self.clips.draw(self.config.batch, seed, split)
        tokens = word_dropout(self.tokenizer.encode(captions), self.clips.word_dropout, seed, self.tokenizer.end)
        tokens = tokens.to(self.device)
        with self.autocast():
            video, (features, text) = self.model.encode_image(moments.to(self.device)), read(self.model, tokens)
            scores = features @ self.model.token_embedding.weight.T                 # B L vocabulary
        in_vocabulary = tokens.masked_fill(tokens == UNKNOWN, PAD).flatten()
        words = F.cross_entropy(scores.float().flatten(0, 1), in_vocabulary, ignore_index=PAD)
        return F.normalize(video.float(), dim=-1), F.normalize(text.float(), dim=-1), words

    @torch.inference_mode()
    def recall(self, batches: int) -> float:
        """R@1: how often a held-out clip is nearest to its own caption among a batch of captions."""
        self.model.eval()
        pairs = [self.embed(f"held-out {i}", "held-out") for i in range(batches)]
        own = torch.arange(self.config.batch, device=self.device)
        return float(torch.stack([((v @ t.T).argmax(1) == own).float().mean() for v, t, _ in pairs]).mean())

    def export(self, averaged: dict[str, Tensor]) -> Path:
        """Write the text tower, OUT/text.safetensors, and the video tower beside it, OUT/video.safetensors."""
        self.model.load_state_dict(averaged)
        options = self.options
        record = {"stage": "clip", "data": Path(options.data).name, "seed": options.seed, "recipe": asdict(self.config)}
        record["held_out_recall_at_1" if options.data == WORLD else "recall_at_1"] = self.recall(4)
        metadata = {"config": asdict(self.tower), "vocabulary": self.tokenizer.vocabulary, "training": record}
        path = options.folder / "text.safetensors"
        weights.save(path, text_weights(self.model), {key: json.dumps(value) for key, value in metadata.items()})
        tower.save(options.folder / "video.safetensors", self.model.visual, self.clips.latents, record)
        return path


train = partial(loop.train, ClipStage)
