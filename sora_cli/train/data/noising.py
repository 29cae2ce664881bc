"""Clips with noise, each for a task of its own: what the transformer is asked, and what counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from sora_cli.models.sora.patches import PATCH, Grid, patchify
from sora_cli.sampling import flow
from sora_cli.train.data.packing import Clip, Pack
from sora_cli.train.data.tasks import Task, sample_task

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CLEAN_CONTEXT = 0.7
# The noise levels, in logits: latents are pictures, whose outlines survive much noise; and what a caption and a time
# say of a subject's pose has to be learned from what shows next to nothing.
NOISY, WIDE_APART = 1.2, 1.4


@dataclass(frozen=True)
class NoisedSample:
    """V videos of one shape: noisy input, target, weight in the loss, frame conditions, and what else is known."""

    noisy: Tensor  # [V, C, T, h, w]
    clean: Tensor
    weight: Tensor  # [V, C, T, h, w]
    t: Tensor  # [V, T]
    cond_mask: Tensor  # [V, T, 2]
    order: Tensor  # [V, T]
    seconds: Tensor  # [V, T]
    aim: Tensor | None = None  # [V, K, T, h, w], of cells or of patches
Chosen = Callable[[int], Task]


def example(clips: Sequence[Clip], parts: tuple[int, int], rng: torch.Generator, subject: float = 1.0,
            asked: Chosen | None = None) -> NoisedSample:  # fmt: skip
    """Noise clips of one shape, each for a task drawn from the mix, or `asked` for T frames. Known parts are clean, or
    now and then slightly noised with the level given, which keeps long rollouts from drifting. An error counts
    `subject` times where one is; the motion of a frame that stands alone does not count."""
    clean = torch.stack([clip.latents for clip in clips])
    V, C, T, h, w = clean.shape
    drawn = [levels(T, rng, flow.shift_for(h * w // 4), asked) for _ in clips]
    t, each, cond_mask, order = (torch.stack(x) for x in zip(*drawn, strict=True))
    each, counts = (torch.repeat_interleave(x, torch.tensor(parts), -1) for x in (each, 1 - cond_mask))  # (V, T, C)
    for number, clip in enumerate(clips):
        if clip.first:
            counts[number, 0, parts[0] :] = 0
    level, counts = (rearrange(x, "V T C -> V C T 1 1") for x in (each, counts))
    noise = torch.randn(clean.shape, generator=rng)
    weight = (counts * flow.weight(level)).expand_as(clean)
    if subject != 1 and all(clip.cover is not None for clip in clips):
        here = torch.stack([patch_cover(clip.cover) for clip in clips if clip.cover is not None])
        weight = weight * (1 + (subject - 1) * here[:, None])
    aims = [rearrange(clip.aim, "T K h w -> K T h w") for clip in clips if clip.aim is not None]
    seconds = torch.stack([clip.seconds for clip in clips])
    return NoisedSample(flow.noised(clean, noise, level), clean, weight, t, cond_mask, order, seconds,
                        torch.stack(aims) if len(aims) == V else None)  # fmt: skip


def levels(T: int, rng: torch.Generator, shift: float, asked: Chosen | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The noise of a task's frames [T] and of their parts [T, 2], which are given [T, 2], and their order [T]."""
    task = asked(T) if asked else sample_task(rng, T)
    cond_mask = rearrange(task.cond_mask, "p T -> T p").float()
    t_per_stage = flow.shifted(flow.logit_normal(int(task.order.max()) + 1, rng, NOISY, WIDE_APART), shift)
    t = t_per_stage[task.order]
    noised_context = torch.rand((), generator=rng) > CLEAN_CONTEXT
    context = torch.rand((), generator=rng) * 0.3 * noised_context
    t = torch.where(cond_mask.amin(1).bool(), context, t)  # where nothing is to be made
    return t, torch.where(cond_mask.bool(), context, t[:, None]), cond_mask, task.order


def patch_cover(cover: Tensor) -> Tensor:
    """1 in all cells of the patches in which there is a subject: [T, h, w] -> [T, h, w]."""
    seen = (reduce(cover, "T (h p) (w q) -> T h w", "mean", p=PATCH, q=PATCH) > 0.05).float()
    return repeat(seen, "T h w -> T (h p) (w q)", p=PATCH, q=PATCH)


def examples_of(pack: Pack, parts: tuple[int, int], subject: float = 1.0) -> list[NoisedSample]:
    """The clips of a pack: in one example where they are alike, else each in one of its own."""
    uniform_shape = len({clip.latents.shape for clip in pack.clips}) == 1
    groups = [pack.clips] if uniform_shape else [[clip] for clip in pack.clips]
    return [example(group, parts, pack.rng, subject) for group in groups]


def patches_of(examples: Sequence[NoisedSample], name: str, grids: tuple[Grid, ...], side: int = PATCH) -> Tensor:
    """One field of examples, of which `side` x `side` cells are a patch, in patches [P, side^2 C]."""
    if len(examples) == 1:
        return patchify(getattr(examples[0], name), grids, side)
    return patchify([video for e in examples for video in getattr(e, name)], grids, side)
Tensors = TypeVar("Tensors", bound="DataclassInstance")


def to_device(e: Tensors, device: torch.device) -> Tensors:
    found = {field.name: getattr(e, field.name) for field in fields(e)}
    return replace(e, **{name: value.to(device) for name, value in found.items() if value is not None})
