"""`sora-cli train clip`: the text tower, learned by contrast with rendered clips, through open_clip.

Two moments of a clip, stacked as channels, show a video tower what is there and how it moves; open_clip's
text transformer and contrastive loss do the rest. A second, small loss asks every token to still know its
word: contrast alone lets look-alikes fall together (fox and crab, spinning and swinging), and it is tokens
that the DiT reads. Only the text tower is exported.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from sora_cli import weights
from sora_cli.errors import SoraError
from sora_cli.models.sora.text import PAD, TextConfig, Tokenizer, text_weights
from sora_cli.train import ranks
from sora_cli.train.loop import Losses, Recipe, fit
from sora_cli.train.options import TrainOptions
from sora_cli.world.captions import dense, sparse, words
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, Split, sample_scene

if TYPE_CHECKING:
    from open_clip.model import CLIP

HEIGHT, WIDTH = 64, 112
MOMENTS, GAP = 2, 0.5        # frames that the video tower sees at once, seconds between them
LONGEST = 8.0                # seconds: clips begin anywhere in here
LARGEST_SCALE = 100.0        # of the logits, as in Radford et al. 2021
WORDS = 0.2                  # weight of the loss on words


@dataclass(frozen=True)
class Preset:
    width: int
    heads: int
    layers: int
    embed_dim: int
    channels: tuple[int, ...]    # of the video tower; every entry halves the picture
    steps: int
    batch: int
    rate: float


PRESETS = {
    "nano": Preset(128, 4, 3, 128, (32, 64, 128, 192), steps=800, batch=64, rate=2e-3),
    "mini": Preset(192, 6, 4, 192, (48, 96, 192, 384), steps=6000, batch=256, rate=2e-3),
    "base": Preset(256, 8, 6, 256, (64, 128, 256, 512), steps=20000, batch=512, rate=1e-3),
}
CONTEXT = 20                     # start, at most 16 words of a dense caption, end, and two to spare


class VideoTower(nn.Module):
    """Frames stacked as channels through a small convolutional network; only used while training."""

    def __init__(self, channels: Sequence[int], embed_dim: int) -> None:
        super().__init__()
        stages = zip([3 * MOMENTS, *channels], channels, strict=False)
        self.stages = nn.Sequential(*(self._stage(i, o) for i, o in stages))
        self.head = nn.Linear(2 * channels[-1], embed_dim)

    @staticmethod
    def _stage(inside: int, outside: int) -> nn.Sequential:
        conv = nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.GELU())

    def forward(self, video: Tensor) -> Tensor:
        x = rearrange(video, "b t c h w -> b (t c) h w") * 2 - 1
        x = self.stages(x.contiguous(memory_format=torch.channels_last))            # B C h w
        mean, peak = reduce(x, "b c h w -> b c", "mean"), reduce(x, "b c h w -> b c", "max")
        return self.head(torch.cat([mean, peak], dim=-1))                           # B embed_dim


def build(preset: Preset, tokenizer: Tokenizer) -> tuple[TextConfig, "CLIP"]:
    """open_clip's CLIP with our video tower in the place of its image tower."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    config = TextConfig(tokenizer.vocab_size, CONTEXT, preset.width, preset.heads, preset.layers,
                        preset.embed_dim)  # fmt: skip
    text = CLIPTextCfg(context_length=config.context, vocab_size=config.vocab_size, width=config.width,
                       heads=config.heads, layers=config.layers)  # fmt: skip
    clip = CLIP(preset.embed_dim, CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=64), text)
    clip.visual = VideoTower(preset.channels, preset.embed_dim)
    clip.hidden_weights = partial(hidden_weights, clip)
    return config, clip


def hidden_weights(clip: "CLIP") -> list[nn.Parameter]:
    """The matrices inside the text transformer, for Muon."""
    return [p for p in clip.transformer.parameters() if p.ndim == 2]


def draw(count: int, seed: str, split: Split) -> tuple[list[Scene], list[str], Tensor]:
    """Scenes, their captions (half dense, half sparse) and the moments [B, T] in seconds to look at."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng, split) for _ in range(count)]
    captions = [dense(scene) if i % 2 == 0 else sparse(scene, rng) for i, scene in enumerate(scenes)]
    starts = torch.tensor([rng.uniform(0, LONGEST) for _ in scenes])
    return scenes, captions, starts[:, None] + GAP * torch.arange(MOMENTS)


def read(clip: "CLIP", tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Features of all tokens [B, L, D] and the pooled text [B, embed_dim], by open_clip's own parts."""
    from open_clip.transformer import text_global_pool

    x = clip.token_embedding(tokens) + clip.positional_embedding                    # B L D
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))                # B L D
    return x, text_global_pool(x, tokens) @ clip.text_projection


class Contrast:
    """The loss of one step: captions against clips, clips against captions, and tokens against words."""

    def __init__(self, clip: "CLIP", tokenizer: Tokenizer, batch: int, seed: int,
                 dtype: torch.dtype) -> None:  # fmt: skip
        from open_clip.loss import ClipLoss

        self.clip, self.tokenizer, self.batch, self.seed, self.dtype = clip, tokenizer, batch, seed, dtype
        self.loss = ClipLoss()
        self.device = next(clip.parameters()).device

    def __call__(self, step: int) -> Losses:
        videos, texts, words = self.embed(f"{self.seed}/{step}", "train")
        contrast = self.loss(videos, texts, self.clip.logit_scale.exp().clamp(max=LARGEST_SCALE))
        right = (videos @ texts.T).argmax(1) == torch.arange(self.batch, device=self.device)
        return {"loss": contrast + WORDS * words, "contrast": contrast.detach(), "words": words.detach(),
                "recall": right.float().mean()}  # fmt: skip

    def embed(self, seed: str, split: Split) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings [B, embed_dim] of length 1 of `batch` clips and of their captions; the loss on words."""
        scenes, captions, times = draw(self.batch, seed, split)
        video = render(scenes, times, HEIGHT, WIDTH, self.device)
        tokens = self.tokenizer.encode(captions).to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            video, (features, text) = self.clip.encode_image(video), read(self.clip, tokens)
            scores = features @ self.clip.token_embedding.weight.T                  # B L vocabulary
        words = F.cross_entropy(scores.float().flatten(0, 1), tokens.flatten(), ignore_index=PAD)
        return F.normalize(video.float(), dim=-1), F.normalize(text.float(), dim=-1), words


@torch.inference_mode()
def recall(contrast: Contrast, batches: int) -> float:
    """R@1: how often a held-out clip is nearest to its own caption among a batch of captions."""
    contrast.clip.eval()
    pairs = [contrast.embed(f"held-out {i}", "held-out") for i in range(batches)]
    own = torch.arange(contrast.batch, device=contrast.device)
    return float(torch.stack([((v @ t.T).argmax(1) == own).float().mean() for v, t, _ in pairs]).mean())


def train(options: TrainOptions) -> Path:
    """Train on the rendered world; returns the exported text tower, OUT/text.safetensors."""
    if options.preset not in PRESETS:
        raise SoraError(f"no clip preset {options.preset!r}; there are {', '.join(PRESETS)}")
    if options.data != "world":
        raise SoraError(f"the text tower trains on the rendered world: --data world, not {options.data}")
    return run(PRESETS[options.preset], options)


def run(preset: Preset, options: TrainOptions) -> Path:
    """Train one preset as the options say."""
    device, dtype = ranks.join(options)
    tokenizer = Tokenizer(words(), CONTEXT)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)          # layers draw their first weights from the global generator
        config, clip = build(preset, tokenizer)
    clip.to(device)
    batch = options.batch or preset.batch
    recipe = Recipe(steps=options.steps or preset.steps, batch=batch, rate=preset.rate, average=0.99)
    contrast = Contrast(clip, tokenizer, batch, options.seed, dtype)
    clip.load_state_dict(fit(clip, contrast, recipe, options))
    record = {"stage": "clip", "seed": options.seed, "recipe": asdict(recipe)}
    record["held_out_recall_at_1"] = recall(contrast, 4)
    metadata = {"config": asdict(config), "vocabulary": tokenizer.vocabulary, "training": record}
    path = options.out / "text.safetensors"
    if ranks.leads():
        weights.save(path, text_weights(clip), {key: json.dumps(value) for key, value in metadata.items()})
    return path
