"""`sora-cli train captioner`: a small CoCa, learned from rendered clips and their captions.

It learns contrast and captioning at once, with open_clip's loss, on clips that are clean, damaged as decoders leave
them, in several shapes, and some of them short or an image: that is captioned without what only motion shows.
"""

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from sora_cli.captioning import STEM
from sora_cli.captioning.constrained_decoding import vocabulary
from sora_cli.captioning.pocket import Own
from sora_cli.models.sora.captioner import FRAMES, HEIGHT, RATE, WIDTH, Captioner, CaptionerConfig, Features
from sora_cli.models.sora.text import PAD, Tokenizer
from sora_cli.train.options import CaptionerOptions
from sora_cli.train.recipes.evaluator import damage
from sora_cli.train.trainer import loop
from sora_cli.train.trainer.config import Losses, Preset, TrainerConfig, generator
from sora_cli.train.trainer.stage import Stage, save_half
from sora_cli.world.captions import dense, parse
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, Split, sample_scene
from sora_cli.world.vocabulary import ACTIONS, BEATS, CAMERAS, HEIGHTS, PLACES, SIDES, SIZES, SPEEDS, SUBJECTS

LONGEST = 6.0                # seconds: half of the clips begin anywhere before this, the others at 0
STILL, SHORT = 1 / 8, 1 / 8  # of the clips: those of one frame, and those that stop within two seconds
PLAIN, SHAPES = (HEIGHT, WIDTH), ((90, 90), (120, 72))  # rows and columns that clips are rendered in
OTHERWISE = 1 / 4            # of the batches: those in one of the other shapes
LARGEST_SCALE = 100.0        # of the logits, as in Radford et al. 2021
CAPTION = 2.0                # weight of the captioning loss beside the contrastive one, as in Yu et al. 2022
EXAMINED = 512               # held-out clips that a captioner is examined on
CONTEXT = 22                 # start, at most 20 words of a dense caption, end
FIELDS = ("subject", "action", "place", "size", "speed", "camera", "side", "height", "beat")


PRESETS = {  # width, heads, layers, channels
    "nano": Preset((160, 4, 2, (32, 64, 128, 256)), steps=2500, batch=32, lr=2e-3),
    "mini": Preset((192, 6, 2, (48, 96, 192, 256)), steps=5000, batch=128, lr=2e-3),
    "base": Preset((256, 8, 3, (64, 128, 256, 384)), steps=10000, batch=256, lr=2e-3),
}


def grammar() -> dict[str, list[list[str]]]:
    """What dense captions are made of, phrase by phrase: those of clips, and those of stills."""
    seconds = ["", *(f"and {'an' if name[0] in 'aeio' else 'a'} {name}" for name in SUBJECTS)]
    who, place = [["a"], [*SIZES], [*SUBJECTS], seconds], [f", {name}" for name in PLACES]
    where = [[f", {name}" for name in table] for table in (SIDES, HEIGHTS)]
    camera, beat = [f", camera {name}" for name in CAMERAS], [f", {name}" for name in BEATS]
    return {"clip": [*who, [*ACTIONS], [*SPEEDS], place, camera, *where, beat], "still": [*who, place, *where]}


def caption_of(scene: Scene, still: bool) -> str:
    """The caption of a scene, of which a still shows no action, speed, camera or beat."""
    caption = dense(scene)
    if not still:
        return caption
    for moving in (f" {scene.action} {scene.speed}", f", camera {scene.camera}", f", {scene.beat}"):
        caption = caption.replace(moving, "")
    return caption


@dataclass(frozen=True)
class Batch:
    scenes: list[Scene]
    captions: list[str]
    times: Tensor                # [B, 9] in seconds
    shape: tuple[int, int]       # rows and columns to render


def draw(count: int, seed: str, split: Split, plain: bool = False) -> Batch:
    """Clips to render; `plain` ones are all whole and of the world's own shape."""
    rng = random.Random(seed)
    shape = PLAIN if plain or rng.random() >= OTHERWISE else rng.choice(SHAPES)
    scenes = [sample_scene(rng, split) for _ in range(count)]
    starts = [rng.choice((0.0, rng.uniform(0, LONGEST))) for _ in scenes]
    luck = [1.0 if plain else rng.random() for _ in scenes]
    lasts = [0 if x < STILL else rng.randrange(4, FRAMES) if x < STILL + SHORT else FRAMES - 1 for x in luck]
    moments = torch.arange(FRAMES).minimum(torch.tensor(lasts)[:, None])        # B 9: the last frame stays
    captions = [caption_of(scene, last == 0) for scene, last in zip(scenes, lasts, strict=True)]
    return Batch(scenes, captions, torch.tensor(starts)[:, None] + moments / RATE, shape)


def seen(batch: Batch, device: torch.device) -> Tensor:
    """The clips [B, 9, 3, 72, 120] as the network looks at them, whatever their shape."""
    video = render(batch.scenes, batch.times, *batch.shape, device)
    frames = rearrange(video, "b t c h w -> (b t) c h w")
    if batch.shape != PLAIN:
        frames = F.interpolate(frames, (HEIGHT, WIDTH), mode="bilinear", antialias=True)
    return rearrange(frames, "(b t) c h w -> b t c h w", t=FRAMES)


class CaptionerStage(Stage[CaptionerOptions]):
    """Contrast and captions at once, with open_clip's CoCaLoss."""

    def __init__(self, options: CaptionerOptions, device: torch.device, dtype: torch.dtype) -> None:
        from open_clip.loss import CoCaLoss

        super().__init__(options, device, dtype)
        preset, self.slots = PRESETS[options.preset], grammar()
        self.tokenizer = Tokenizer(vocabulary(self.slots), CONTEXT)
        self.network = CaptionerConfig(self.tokenizer.vocab_size, CONTEXT, *preset.sizes)
        torch.manual_seed(options.seed)  # weight initialisation alone
        self.model: Captioner = Captioner(self.network).to(device)
        self.config = TrainerConfig(options.steps or preset.steps, options.batch or preset.batch, preset.lr,
                                    average=0.99, save_every=100)  # fmt: skip
        self.criterion = CoCaLoss(caption_loss_weight=CAPTION, clip_loss_weight=1.0, pad_id=PAD)

    def loss(self, step: int) -> Losses:
        seed = self.options.seed
        drawn = draw(self.config.batch, f"{seed}/{step}", "train")
        tokens = self.tokenizer.encode(drawn.captions).to(self.device)
        video = damage(seen(drawn, self.device), generator(seed, step))
        with self.autocast():
            found = self.model(video, tokens)
        found = Features(*(part.float() for part in found))
        scores, right = found.scores[:, :-1], tokens[:, 1:]
        scale = self.model.scale.exp().clamp(max=LARGEST_SCALE)
        contrast, caption = self.criterion(found.video, found.text, scores, right, scale)
        hits = (scores.argmax(-1) == right)[right != PAD]
        return {"loss": contrast + caption, "contrast": contrast.detach(), "caption": caption.detach(),
                "words": hits.float().mean()}  # fmt: skip

    def export(self, averaged: dict[str, Tensor]) -> Path:
        """Write OUT/captioner.safetensors, kernels in half precision, examined on held-out clips."""
        self.model.load_state_dict(averaged)
        held_out, threshold = examine(Own(self.model, self.tokenizer, self.slots), EXAMINED)
        record = {"stage": "captioner", "seed": self.options.seed, "recipe": asdict(self.config), "held_out": held_out}
        metadata = {"config": asdict(self.network), "vocabulary": self.tokenizer.vocabulary, "grammar": self.slots,
                    "usual": threshold, "training": record}  # fmt: skip
        return save_half(self.options.folder / f"{STEM}.safetensors", averaged, metadata)


def marks(caption: str, scene: Scene) -> dict[str, bool]:
    """What a caption gets right; of two subjects, both must be named."""
    said = parse(caption)
    right = {name: getattr(said, name) == getattr(scene, name) for name in FIELDS[1:]}
    return {"subject": set(said.subjects) == set(scene.subjects), **right}


def shares(marked: Iterable[dict[str, bool]]) -> dict[str, float]:
    """The share of captions that are right, thing by thing, and in all of them."""
    rows = [row | {"all": all(row.values())} for row in marked]
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


@torch.inference_mode()
def examine(own: Own, clips: int, batch: int = 32) -> tuple[dict[str, float], float]:
    """Captions of held-out combinations, undamaged: what is said rightly of those from the beginning (which beat came
    first, later ones do not show), and R@1 among `batch` captions; and how alike all but one in a hundred of the clips
    and their captions are."""
    network, rows, recalls, similarities = own.network.eval(), [], [], []
    for number in range(clips // batch):
        drawn = draw(batch, f"held-out {number}", "held-out", plain=True)
        video, tokens = seen(drawn, own.device), own.tokenizer.encode(drawn.captions).to(own.device)
        found = network(video, tokens)
        recalls.append(((found.video @ found.text.T).argmax(1).cpu() == torch.arange(batch)).float().mean())
        starts = drawn.times[:, 0].tolist()
        for look, scene, start in zip(network.video(video).split(1), drawn.scenes, starts, strict=True):
            caption = own.say(look, own.clip)
            similarities.append(own.alike(look, caption))
            if start == 0:
                rows.append(marks(caption, scene))
    found = shares(rows) | {"recall_at_1": round(float(torch.stack(recalls).mean()), 4)}
    return found, round(float(torch.tensor(similarities).quantile(0.01)), 4)


train = partial(loop.train, CaptionerStage)
