"""What a video will look like, while it is made: at every step of the sampler the velocity points at some data, and
that is decoded, fast rather than fine."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sora_cli import geometry
from sora_cli.errors import Failed
from sora_cli.generation.plan import Plan
from sora_cli.pipelines import Pipeline, Velocity, WindowInputs
from sora_cli.placement.machine import short_of
from sora_cli.sampling import planner

LARGEST = 384  # pixels along the longer side of a picture


class Guess:
    """A velocity field that keeps the data it pointed at last, x - t v, and changes nothing (sampling/flow.py)."""

    def __init__(self, velocity: Velocity, inputs: WindowInputs) -> None:
        self.velocity, self.inputs = velocity, inputs
        self.found: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        velocity = self.velocity(x, t)
        self.found = x - t.to(x) * velocity
        return velocity

    @property
    def clean(self) -> Tensor | None:
        """The data [C, T, h, w] on the CPU, with what is given as it is; None before the first step."""
        if self.found is None:
            return None
        given = self.inputs.cond_mask.amin(0)[None, :, None, None] > 0
        return torch.where(given, self.inputs.x, self.found).float().cpu()


@dataclass
class Preview:
    """The key frames of an unfinished video; final ones are decoded once. It ends without error if memory runs out."""

    pipeline: Pipeline
    plan: Plan
    pictures: dict[int, np.ndarray] = field(default_factory=dict)  # by latent
    final: set[int] = field(default_factory=set)
    over: bool = False

    def render(self, latents: Tensor, done: Sequence[int], guess: Guess | None, most: int) -> list[np.ndarray]:
        """At most so many pictures, uint8 [h, w, 3], evenly spaced over the latents that are done or guessed."""
        total, clean, guessed = latents.shape[1], None, []
        if guess is not None and (clean := guess.clean) is not None:
            guessed = [frame % total for frame in guess.inputs.frames]
            latents = latents.clone()
            latents[:, guessed] = clean
        seen = sorted({*done, *guessed})
        shown = set(planner.evenly_spaced(seen, most))
        stale = {frame for frame in seen if frame not in self.final}
        if self.pipeline.codec.vae.independent:
            stale &= shown
        try:
            for group in [] if self.over else geometry.runs(sorted(stale)):
                made = self.pipeline.sketches(latents[:, group], self.plan.canvas)
                self.pictures |= dict(zip(group, map(small, made), strict=False))
        except (RuntimeError, MemoryError, Failed) as error:
            if not (short_of(error) or isinstance(error, Failed)):
                raise
            self.over = True
        self.final |= set(done) & self.pictures.keys()
        return [self.pictures[frame] for frame in sorted(shown & self.pictures.keys())]


def small(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    return np.asarray(image)
