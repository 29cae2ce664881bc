"""The judge's training: labels from the renderer for every cell, clips clean and as damaged as decoders leave them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sora_cli.models.sora.evaluator import (
    CELL,
    HEIGHT,
    STILLS,
    WIDTH,
    Evaluator,
    EvaluatorConfig,
    Labels,
    filled,
    frames_of,
    moments,
)
from sora_cli.train.options import EvaluatorOptions
from sora_cli.train.trainer import loop
from sora_cli.train.trainer.config import Losses, Preset, TrainerConfig, generator
from sora_cli.train.trainer.stage import Stage, save_half
from sora_cli.world.field import STRIDE, field
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, Split, sample_scene
from sora_cli.world.vocabulary import ACTIONS, PLACES, SUBJECTS

LATEST = 60.0         # seconds: clips begin anywhere before this, half of them at 0
PAIRS = 0.4           # the share of clips that show two subjects
COVERED = 0.3         # of a cell, from which on it shows a subject
NOBODY = 0.1          # what a cell without anybody counts; most are


PRESETS = {  # of the stages: what, how
    "nano": Preset(((32, 64, 128, 256), (16, 64, 128, 128)), steps=2400, batch=16, lr=2e-3),
    "mini": Preset(((32, 64, 128, 256), (32, 64, 128, 192)), steps=4000, batch=128, lr=2e-3),
    "base": Preset(((48, 96, 192, 384), (32, 96, 192, 256)), steps=10000, batch=256, lr=2e-3),
}


def draw(count: int, seed: str, split: Split, pairs: float = PAIRS) -> tuple[list[Scene], Tensor]:
    """Scenes, and the moments [B, T] in seconds to look at."""
    rng = random.Random(seed)
    scenes = [peopled(sample_scene(rng, split), rng, pairs) for _ in range(count)]
    starts = torch.tensor([rng.choice((0.0, rng.uniform(0, LATEST))) for _ in scenes])
    return scenes, torch.stack([moments(float(start)) for start in starts])


def peopled(scene: Scene, rng: random.Random, pairs: float) -> Scene:
    """The scene with its subject alone, or with any other beside it."""
    other = rng.choice([name for name in SUBJECTS if name != scene.subject])
    return replace(scene, second=other if rng.random() < pairs else None)


def labels(scenes: Sequence[Scene], times: Tensor, config: EvaluatorConfig, device: torch.device) -> Labels:
    """Class numbers of what the scenes show, of subject and action in every cell [B, T, h, w]."""
    cover = field(scenes, times, HEIGHT * STRIDE // CELL, WIDTH * STRIDE // CELL, device)[:, :, :, 0]  # B T 2 h w
    most, who = cover.max(2)

    def in_cells(numbers: list[list[int]], nobody: int) -> Tensor:
        """What the subject says that covers most of a cell, if that is enough."""
        label = torch.tensor(numbers, device=device)[:, None, :, None, None].expand_as(cover)
        return torch.where(most > COVERED, label.gather(2, who[:, :, None])[:, :, 0], nobody)

    subjects, actions, places = config.subjects, config.actions, config.places
    cast = [[subjects.index(name) for name in (scene.subject, scene.second or scene.subject)] for scene in scenes]
    acts = [[actions.index(scene.action)] * 2 for scene in scenes]
    return Labels(
        in_cells(cast, len(subjects))[:, ::STILLS],
        in_cells(acts, len(actions)),
        torch.tensor([places.index(scene.place) for scene in scenes], device=device),
    )


def damage(video: Tensor, rng: torch.Generator) -> Tensor:
    """Half of the clips blurred, all of them a little tinted and noisy, as decoders leave them."""
    share = 0.35 + 0.45 * float(torch.rand((), generator=rng))
    smaller = (round(share * HEIGHT), round(share * WIDTH))
    sharp, blurred = video.tensor_split(2)
    frames = F.interpolate(F.interpolate(frames_of(blurred), smaller, mode="area"), (HEIGHT, WIDTH), mode="bilinear")
    video = torch.cat([sharp, frames.unflatten(0, (len(blurred), -1))])
    gain = 1 + 0.08 * torch.randn(len(video), 1, 3, 1, 1, generator=rng)
    noise = 0.02 * torch.randn(video.shape[1:], generator=rng)      # the same for all: it takes long to draw
    return video.mul_(gain.to(video)).add_(noise.to(video)).clamp_(0, 1)


class EvaluatorStage(Stage[EvaluatorOptions]):
    """Name subjects, action and place of a batch of clips."""

    def __init__(self, options: EvaluatorOptions, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(options, device, dtype)
        preset = PRESETS[options.preset]
        self.names = EvaluatorConfig(tuple(SUBJECTS), tuple(ACTIONS), tuple(PLACES), *preset.sizes)
        torch.manual_seed(options.seed)  # weight initialisation alone
        self.model: Evaluator = Evaluator(self.names).to(device)
        self.config = TrainerConfig(options.steps or preset.steps, options.batch or preset.batch, preset.lr,
                                    average=0.99)  # fmt: skip

    def loss(self, step: int) -> Losses:
        rng = generator(self.options.seed, step)
        scenes, times = draw(self.config.batch, f"{self.options.seed}/{step}", "train")
        scores = self.look(scenes, times, lambda video: damage(video, rng))
        right = labels(scenes, times, self.names, self.device)
        loss = in_cells(scores.subject, right.subject) + in_cells(scores.action, right.action)
        loss = loss + F.cross_entropy(scores.place, right.place, label_smoothing=0.05)
        marks = accuracy(scores, scenes, self.names)
        return {"loss": loss} | {name: torch.tensor(mark, device=self.device) for name, mark in marks.items()}

    def export(self, averaged: dict[str, Tensor]) -> Path:
        """Write OUT/evaluator.safetensors: kernels in half precision, with configuration and training record."""
        self.model.load_state_dict(averaged)
        record = {"stage": "evaluator", "seed": self.options.seed, "recipe": asdict(self.config)}
        record["held_out"] = self.examine(16)
        metadata = {"config": asdict(self.names), "training": record}
        return save_half(self.options.folder / "evaluator.safetensors", averaged, metadata)

    def look(self, scenes: Sequence[Scene], times: Tensor, change: Callable[[Tensor], Tensor]) -> Labels:
        """Scores of these clips after `change`."""
        video = change(render(scenes, times, HEIGHT, WIDTH, self.device))
        with self.autocast():
            scores = self.model(video)
        return Labels(*(s.float() for s in scores))

    @torch.inference_mode()
    def examine(self, batches: int) -> dict[str, float]:
        """Accuracies on held-out combinations, undamaged, half of them pairs; "subject" counts single ones."""
        self.model.eval()
        marks = []
        for number in range(batches):
            scenes, times = draw(self.config.batch, f"held-out {number}", "held-out", pairs=number % 2)
            marks.append(accuracy(self.look(scenes, times, lambda video: video), scenes, self.names))
        alone, together = marks[::2], marks[1::2]
        kinds = {"subject": alone, "pairs": together, "action": marks, "place": marks}
        return {kind: sum(mark[kind] for mark in found) / len(found) for kind, found in kinds.items()}


def in_cells(scores: Tensor, right: Tensor) -> Tensor:
    """Cross entropy over all cells, of which those of somebody count most."""
    count = torch.ones(scores.shape[-1], device=scores.device)
    count[-1] = NOBODY
    return F.cross_entropy(scores.flatten(0, 3), right.flatten(), weight=count)


def accuracy(scores: Labels, scenes: Sequence[Scene], config: EvaluatorConfig) -> dict[str, float]:
    """The share of clips whose subject, action, place are named right, and that of pairs of which both are."""
    found = filled(scores.subject)
    cast = [set(row.topk(len(scene.subjects)).indices.tolist()) == {config.subjects.index(n) for n in scene.subjects}
            for row, scene in zip(found, scenes, strict=True)]  # fmt: skip
    action, place = filled(scores.action).argmax(-1).tolist(), scores.place.argmax(-1).tolist()
    return {
        "subject": mean_of([hit for hit, scene in zip(cast, scenes, strict=True) if not scene.second]),
        "pairs": mean_of([hit for hit, scene in zip(cast, scenes, strict=True) if scene.second]),
        "action": mean_of([config.actions[n] == scene.action for n, scene in zip(action, scenes, strict=True)]),
        "place": mean_of([config.places[n] == scene.place for n, scene in zip(place, scenes, strict=True)]),
    }


def mean_of(hits: Sequence[bool]) -> float:
    """The share of hits; of nothing, all."""
    return sum(hits) / len(hits) if hits else 1.0


train = partial(loop.train, EvaluatorStage)
