"""Guidance and the size of a step, baked into the transformer: one forward a step, and few steps.

Both are inputs from the start, fed 1 and 0. Here the network learns what they mean:

- at step size 0 its target is the guided prediction of a frozen teacher (Meng et al. 2023), uncond + g (cond - uncond);
- at step size d it is the mean velocity of two of its own steps of d / 2, without gradients (shortcut models, Frans et
  al. 2024, eq. 5).

Everything unknown is made at once and has one noise level, as when sampling.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor

from sora_cli.models.sora.dit import Conditions, Dit
from sora_cli.models.sora.patches import Grid, patchify, unpatchify
from sora_cli.sampling import flow
from sora_cli.sampling.conditioning import expand_mask
from sora_cli.train.data.tasks import sample_task
from sora_cli.train.trainer.config import Losses

LARGEST_GUIDANCE = 6.0
FEWEST, MOST = 2, 64  # steps of the samplers that are imitated
TEACHER = 0.5  # the share of videos at step size 0


@dataclass(frozen=True)
class Task:
    """A pack of V videos of one shape: what is noisy, how much, and how far a step goes."""

    noisy: Tensor  # [V, C, T, h, w]
    to_make: Tensor  # [V, C, T, 1, 1] 1 = to be made
    cond_mask: Tensor  # [V, T, 2]
    seconds: Tensor  # [V, T]
    t: Tensor  # [V]
    step: Tensor  # [V] 0 = infinitesimal
    guidance: Tensor  # [V]


def draw(clean: Tensor, seconds: Tensor, parts: tuple[int, int], rng: torch.Generator) -> Task:
    """Noise clean latents [V, C, T, h, w] at the levels that samplers of FEWEST to MOST steps pass through."""
    V, _, T, h, w = clean.shape
    shift = flow.shift_for(h * w // 4)
    cond_mask = torch.stack([sample_task(rng, T).cond_mask for _ in range(V)])  # (V, 2, T)
    to_make = torch.stack([1 - expand_mask(one, parts) for one in cond_mask])
    steps = (FEWEST * (MOST / FEWEST) ** torch.rand(V, generator=rng)).round()
    left = (torch.rand(V, generator=rng) * steps).floor() + 1  # steps to go, so that the first of all is met as well
    t, then = (flow.shifted(u, shift) for u in (left / steps, (left - 1) / steps))
    step = torch.where(torch.rand(V, generator=rng) < TEACHER, 0.0, t - then)
    guidance = LARGEST_GUIDANCE ** torch.rand(V, generator=rng)
    level = t.view(-1, 1, 1, 1, 1) * to_make
    noise = torch.randn(clean.shape, generator=rng)
    noisy, frames = flow.noised(clean, noise, level), rearrange(cond_mask, "V p T -> V T p")
    return Task(noisy, to_make, frames, seconds, t, step, guidance)


class Student:
    """A transformer at the points of a task: clean latents and velocities [V, C, T, h, w]."""

    def __init__(self, dit: Dit, task: Task, text: Tensor) -> None:
        self.dit, self.task, self.text = dit, task, text
        V, _, T, h, w = task.noisy.shape
        self.grids = (Grid(T, h // 2, w // 2),) * V
        self.is_context = task.cond_mask.amin(-1)  # (V, T) 1 where nothing is to be made

    def clean(self, x: Tensor, t: Tensor, guidance: Tensor, step: Tensor, text: Tensor | None = None) -> Tensor:
        is_target = 1 - self.is_context
        given = Conditions(
            (t[:, None] * is_target).flatten(), self.task.cond_mask.flatten(0, 1), self.task.seconds.flatten(),
            is_target.long().flatten(), self.text if text is None else text, guidance, step,
        )  # fmt: skip
        return torch.stack(unpatchify(self.dit(patchify(list(x)), self.grids, given).float(), self.grids))

    def velocity(self, x: Tensor, t: Tensor, step: Tensor) -> Tensor:
        clean = self.clean(x, t, self.task.guidance, step)
        return flow.velocity(x, clean, t.view(-1, 1, 1, 1, 1)) * self.task.to_make


@torch.no_grad()
def cfg_target(teacher: Student) -> Tensor:
    """The teacher's guided prediction of the clean latents, where the step size is 0."""
    task = teacher.task
    one = torch.ones_like(task.t)
    cond = teacher.clean(task.noisy, task.t, one, 0 * one)
    uncond = teacher.clean(task.noisy, task.t, one, 0 * one, torch.zeros_like(teacher.text))
    return uncond + task.guidance.view(-1, 1, 1, 1, 1) * (cond - uncond)


@torch.no_grad()
def shortcut_target(student: Student) -> Tensor:
    """The clean latents that the mean velocity of two half steps points to."""
    task, half = student.task, student.task.step / 2
    first = student.velocity(task.noisy, task.t, half)
    middle = task.noisy - half.view(-1, 1, 1, 1, 1) * first
    mean = (first + student.velocity(middle, task.t - half, half)) / 2
    return task.noisy - task.t.clamp_min(flow.SMALLEST).view(-1, 1, 1, 1, 1) * mean


def loss(dit: Dit, teacher: Dit, task: Task, text: Tensor) -> Losses:
    """The v-space error against both kinds of target, over everything that is to be made."""
    student = Student(dit, task, text)
    infinitesimal = (task.step == 0).view(-1, 1, 1, 1, 1)
    target = torch.where(infinitesimal, cfg_target(Student(teacher, task, text)), shortcut_target(student))
    predicted = student.clean(task.noisy, task.t, task.guidance, task.step)
    error = (predicted - target).square() * task.to_make * flow.weight(task.t).view(-1, 1, 1, 1, 1)
    h, w = error.shape[-2:]
    total = reduce(error, "V C T h w -> V", "sum") / (reduce(task.to_make, "V C T 1 1 -> V", "sum") * h * w)
    small = infinitesimal.flatten()
    halves = {name: (total.detach() * chosen).sum() / chosen.sum().clamp_min(1)
              for name, chosen in (("guided", small), ("stepped", ~small))}  # fmt: skip
    return {"loss": total.mean()} | halves
