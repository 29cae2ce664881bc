"""What is compared: held-out scenes as they are, as a model makes them, and through its autoencoder.

Videos are [T, 3, H, W] in [0, 1] on pocket's canvas, nothing cropped, so that the cells of all of them lie alike; an
autoencoder may paint them larger than the canvas.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli import geometry
from sora_cli.generation.engine import Engine
from sora_cli.models.sora.vae import Vae
from sora_cli.registry import Entry
from sora_cli.shot import Shot
from sora_cli.world.captions import dense
from sora_cli.world.field import COVERED, field
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, sample_scene
from sora_cli.world.vocabulary import SUBJECTS

FPS = 24.0
CANVAS = geometry.canvas(1280, 720)                     # what pocket makes videos on
WIDTH, HEIGHT = CANVAS.width, CANVAS.height
SHORT = 49                                              # frames of a clip that is judged
BATCH = 48                                              # frames rendered at once


def held_out(count: int, seed: int) -> list[Scene]:
    """Combinations of subject, action and place that no training saw, anywhere in the picture and on any beat; for the
    rest as people ask: one subject, large, normal, still."""
    rng = random.Random(f"evaluate/{seed}")
    return [plain(sample_scene(rng, "held-out")) for _ in range(count)]


def pairs(count: int, seed: int) -> list[Scene]:
    """The same with a second subject."""
    rng = random.Random(f"pairs/{seed}")
    scenes = [plain(sample_scene(rng, "held-out")) for _ in range(count)]
    return [replace(scene, second=rng.choice([name for name in SUBJECTS if name != scene.subject])) for scene in scenes]


def plain(scene: Scene) -> Scene:
    return replace(scene, size="large", speed="normal", camera="still", second=None)


def another(scene: Scene) -> Scene:
    names = list(SUBJECTS)
    return replace(scene, subject=names[(names.index(scene.subject) + len(names) // 2) % len(names)])


def shot_of(scene: Scene, frames: int, seed: int, entry: Entry) -> Shot:
    """A clip of the scene as the model is used, asked for by the whole caption."""
    usage, caption = entry.usage, dense(scene)
    return Shot(caption, width=WIDTH, height=HEIGHT, frames=frames, fps=FPS, seed=seed, steps=usage.steps,
                guidance=usage.guidance, model=entry.name, captions=(caption,))  # fmt: skip


def seconds(frames: int) -> Tensor:
    """The times of the first frames of a clip."""
    return torch.arange(frames) / FPS


@torch.inference_mode()
def rendered(scene: Scene, times: Tensor, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A scene as it is at these times, a few frames at a time."""
    return torch.cat([render([scene], part[None], height, width)[0] for part in times.split(BATCH)])


def covered(scene: Scene, times: Tensor, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Where its subjects are, cell by cell: true or false, [T, H / 16, W / 16]."""
    return (field([scene], times[None], height, width)[0, :, :, 0] > COVERED).any(1)


def generated(engine: Engine, shot: Shot) -> Tensor:
    return torch.cat(list(pictures(engine, shot)))


def pictures(engine: Engine, shot: Shot) -> Iterator[Tensor]:
    run = engine.start(shot)
    for _ in run.denoise():
        pass
    for frame in run.frames():
        yield rearrange(torch.from_numpy(np.ascontiguousarray(frame)), "h w c -> 1 c h w") / 255


@torch.inference_mode()
def through(vae: Vae, video: Tensor) -> Tensor:
    """A video of 1 + 4n frames, encoded and decoded."""
    latents = vae.encode(rearrange(video, "t c h w -> 1 c t h w") * 2 - 1)
    return rearrange(vae.decode(latents), "1 c t h w -> t c h w").float() / 2 + 0.5
