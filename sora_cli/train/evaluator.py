"""The judge's training: labels from the renderer, clips clean and as damaged as decoders leave them."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from sora_cli import weights
from sora_cli.errors import SoraError
from sora_cli.evaluate.network import FRAMES, GAP, HEIGHT, WIDTH, Evaluator, EvaluatorConfig, Labels
from sora_cli.train import ranks
from sora_cli.train.loop import Losses, Recipe, fit, generator
from sora_cli.train.options import TrainOptions
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, Split, sample_scene
from sora_cli.world.vocabulary import ACTIONS, PLACES, SUBJECTS

LATEST = 3.0          # seconds: clips begin anywhere before this; judgements begin at 0


@dataclass(frozen=True)
class Preset:
    channels: tuple[int, ...]
    steps: int
    batch: int
    rate: float


PRESETS = {
    "nano": Preset((32, 64, 128, 256), steps=2500, batch=32, rate=2e-3),
    "mini": Preset((32, 64, 128, 192), steps=4000, batch=128, rate=2e-3),
    "base": Preset((48, 96, 192, 384), steps=10000, batch=256, rate=2e-3),
}


def draw(count: int, seed: str, split: Split) -> tuple[list[Scene], Tensor]:
    """Scenes with one subject each, and the moments [B, T] in seconds to look at; half start at 0."""
    rng = random.Random(seed)
    scenes = [replace(sample_scene(rng, split), second=None) for _ in range(count)]
    starts = torch.tensor([rng.choice((0.0, rng.uniform(0, LATEST))) for _ in scenes])
    return scenes, starts[:, None] + GAP * torch.arange(FRAMES)


def labels(scenes: list[Scene], config: EvaluatorConfig) -> Labels:
    """Class numbers [B] of what the scenes show."""
    return Labels(
        torch.tensor([config.subjects.index(scene.subject) for scene in scenes]),
        torch.tensor([config.actions.index(scene.action) for scene in scenes]),
        torch.tensor([config.places.index(scene.place) for scene in scenes]),
    )


def damage(video: Tensor, rng: torch.Generator) -> Tensor:
    """Half of the clips blurred, all of them a little tinted and noisy, as decoders leave them."""
    share = 0.35 + 0.45 * float(torch.rand((), generator=rng))
    smaller = (round(share * HEIGHT), round(share * WIDTH))
    blurred = len(video) // 2
    frames = rearrange(video[:blurred], "b t c h w -> (b t) c h w")
    frames = F.interpolate(F.interpolate(frames, smaller, mode="area"), (HEIGHT, WIDTH), mode="bilinear")
    video = torch.cat([rearrange(frames, "(b t) c h w -> b t c h w", t=video.shape[1]), video[blurred:]])
    gain = 1 + 0.08 * torch.randn(len(video), 1, 3, 1, 1, generator=rng)
    noise = 0.02 * torch.randn(video.shape, generator=rng)
    return (video * gain.to(video) + noise.to(video)).clamp(0, 1)


class Naming:
    """The loss of one step: name subject, action and place of a batch of clips."""

    def __init__(self, network: Evaluator, batch: int, seed: int, dtype: torch.dtype) -> None:
        self.network, self.batch, self.seed, self.dtype = network, batch, seed, dtype
        self.device = next(network.parameters()).device

    def __call__(self, step: int) -> Losses:
        rng = generator(self.seed, step)
        scores, right = self.look(f"{self.seed}/{step}", "train", lambda video: damage(video, rng))
        loss = sum((F.cross_entropy(s, r, label_smoothing=0.05) for s, r in zip(scores, right, strict=True)),
                   torch.zeros((), device=self.device))  # fmt: skip
        return {"loss": loss} | accuracy(scores, right)

    def look(self, seed: str, split: Split, change: Callable[[Tensor], Tensor]) -> tuple[Labels, Labels]:
        """Scores of a batch of clips after `change`, and what they show."""
        scenes, times = draw(self.batch, seed, split)
        video = change(render(scenes, times, HEIGHT, WIDTH, self.device))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            scores = self.network(video)
        right = labels(scenes, self.network.config)
        return Labels(*(s.float() for s in scores)), Labels(*(r.to(self.device) for r in right))


def accuracy(scores: Labels, right: Labels) -> dict[str, Tensor]:
    """The share of clips whose subject, action, place are named right."""
    hits = {name: s.argmax(-1) == r for name, s, r in zip(Labels._fields, scores, right, strict=True)}
    return {name: hit.float().mean() for name, hit in hits.items()}


@torch.inference_mode()
def examine(naming: Naming, batches: int) -> dict[str, float]:
    """Accuracies on held-out combinations, undamaged."""
    naming.network.eval()
    marks = [accuracy(*naming.look(f"held-out {i}", "held-out", lambda v: v)) for i in range(batches)]
    return {name: float(torch.stack([mark[name] for mark in marks]).mean()) for name in Labels._fields}


def train(options: TrainOptions) -> Path:
    """Train on the rendered world; returns OUT/evaluator.safetensors (half precision)."""
    if options.preset not in PRESETS:
        raise SoraError(f"no evaluator preset {options.preset!r}; there are {', '.join(PRESETS)}")
    preset = PRESETS[options.preset]
    device, dtype = ranks.join(options)
    config = EvaluatorConfig(tuple(SUBJECTS), tuple(ACTIONS), tuple(PLACES), preset.channels)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)          # layers draw their first weights from the global generator
        network = Evaluator(config).to(device)
    batch = options.batch or preset.batch
    recipe = Recipe(options.steps or preset.steps, batch, preset.rate, average=0.99)
    naming = Naming(network, batch, options.seed, dtype)
    network.load_state_dict(fit(network, naming, recipe, options))
    record = {"stage": "evaluator", "seed": options.seed, "recipe": asdict(recipe)}
    record["held_out"] = examine(naming, 16)
    path = options.out / "evaluator.safetensors"
    return export(network, record, path) if ranks.leads() else path


def export(network: Evaluator, record: dict, path: Path) -> Path:
    """Write the kernels in half precision, the rest as it is, with configuration and training record."""
    tensors = {k: v.half() if v.ndim > 1 else v for k, v in network.state_dict().items()}
    metadata = {"config": asdict(network.config), "training": record}
    weights.save(path, tensors, {k: json.dumps(v) for k, v in metadata.items()})
    return path
