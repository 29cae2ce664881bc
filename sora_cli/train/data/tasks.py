"""Training tasks: what of a clip is given, and in which order the rest of it is made."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import repeat
from torch import Generator, Tensor

from sora_cli.sampling.conditioning import SPACE


class Task(NamedTuple):
    """What a training clip of T latent frames shows, and in which order the rest of it is made."""

    cond_mask: Tensor  # [2, T], 1 = given
    order: Tensor  # [T] long, 0 = anchor
    kind: str      # "family/detail", for logs


def sample_task(rng: Generator, frames: int) -> Task:
    """Draw from the training mix for a clip of `frames` latents; something always remains to be made."""
    if frames == 1:
        return Task(torch.zeros(2, 1), torch.ones(1, dtype=torch.long), "plain/single")
    shares = torch.tensor([share for _, share in MIX.values()])
    family = list(MIX)[int(torch.multinomial(shares, 1, generator=rng))]
    return MIX[family][0](rng, frames)


def sample_strides(rng: Generator, frames: int, total: int) -> tuple[int, ...]:
    """`frames` of `total` latent indices: equally spaced groups at log-uniform strides, as FDM trains.

    Half of the draws are one group, with a stride in [1, (total - 1) / (frames - 1)]; the others unite
    several (after `sample_some_indices` of plai-group/flexible-video-diffusion-modeling).
    """
    assert 1 <= frames <= total, (frames, total)
    if _coin(rng):
        return tuple(_group(rng, range(total), frames))
    chosen: set[int] = set()
    while room := frames - len(chosen):
        free = [frame for frame in range(total) if frame not in chosen]
        chosen |= set(_group(rng, free, _integer(rng, 1, room)))
    return tuple(sorted(chosen))


def _plain(rng: Generator, frames: int) -> Task:
    """Text alone: all at once, or chunk by chunk."""
    return _staged(rng, torch.zeros(2, frames), "plain/", (_once, _forward))


def _subset(rng: Generator, frames: int) -> Task:
    """FDM: equally spaced groups, each observed or made, and made in a random order."""
    groups, free = [], list(range(frames))
    while free:
        groups.append(_group(rng, free, _integer(rng, 1, len(free))))
        free = [frame for frame in free if frame not in groups[-1]]
    made = [group for i, group in enumerate(groups) if i == 0 or _coin(rng)]
    stages = torch.randperm(len(made), generator=rng) + 1 if _coin(rng) else torch.ones(len(made)).long()
    order = torch.zeros(frames, dtype=torch.long)
    for group, stage in zip(made, stages, strict=True):
        order[group] = stage
    cond_mask = repeat((order == 0).float(), "t -> part t", part=2)
    return Task(cond_mask, order, f"subset/{len(made)}")


def _anchor(rng: Generator, frames: int) -> Task:
    """What users give: a start, an end, both, the two sides of a loop, every second frame, images."""
    kind = list(ANCHORS)[_integer(rng, 0, len(ANCHORS) - 1)]
    draw, parts = ANCHORS[kind]
    cond_mask = torch.zeros(2, frames)
    cond_mask[:parts, list(draw(rng, frames))] = 1
    return _staged(rng, cond_mask, f"anchor/{kind}-", (_once, _forward, _backward))


def _random(rng: Generator, frames: int) -> Task:
    """Any frames but one, some of them as images."""
    share = torch.rand(1, generator=rng)
    space = torch.rand(frames, generator=rng) < share
    space[_integer(rng, 0, frames - 1)] = False
    time = space & (torch.rand(frames, generator=rng) < 0.5)
    return _staged(rng, torch.stack((space, time)).float(), "random/", (_once,))


MIX: dict[str, tuple[Callable[[Generator, int], Task], float]] = {
    "plain": (_plain, 0.35),
    "subset": (_subset, 0.30),
    "anchor": (_anchor, 0.25),
    "random": (_random, 0.10),
}


# ---- anchors a clip of at least two latents may show: which frames ----------------------------------------


def _wrap(rng: Generator, frames: int) -> list[int]:
    """Several frames on either side, as many as leave a third of the clip to be made."""
    most = max(frames // 3, 1)
    side = range(_integer(rng, min(2, most), most))
    return sorted({*side, *(frames - 1 - frame for frame in side)})[: frames - 1]


def _ends_or_one(rng: Generator, frames: int) -> list[int]:
    last = frames - 1
    return [[0], [last], [0, last], [_integer(rng, 0, last)]][_integer(rng, 0, 3)]


ANCHORS: dict[str, tuple[Callable[[Generator, int], Sequence[int]], int]] = {  # and how many parts are given
    "head": (lambda rng, frames: range(_integer(rng, 1, frames // 2)), 2),
    "tail": (lambda rng, frames: range(frames - _integer(rng, 1, frames // 2), frames), 2),
    "both": (lambda rng, frames: [0, frames - 1] if frames > 2 else [0], 2),
    "wrap": (_wrap, 2),
    "second": (lambda rng, frames: range(_integer(rng, 0, 1), frames, 2), 2),
    "image": (_ends_or_one, 1),
}


# ---- stages: the order in which the rest is made ----------------------------------------------------------

Stages = Callable[[Generator, int], Tensor]


def _once(rng: Generator, frames: int) -> Tensor:
    return torch.ones(frames, dtype=torch.long)


def _forward(rng: Generator, frames: int) -> Tensor:
    """Chunks of equal, log-uniform length."""
    return torch.arange(frames) // int(_log_uniform(rng, frames)) + 1


def _backward(rng: Generator, frames: int) -> Tensor:
    return _forward(rng, frames).flip(0)


def _staged(rng: Generator, cond_mask: Tensor, kind: str, ways: Sequence[Stages]) -> Task:
    """One of the ways, drawn evenly, for everything that is no anchor."""
    way = ways[_integer(rng, 0, len(ways) - 1)]
    order = way(rng, cond_mask.shape[1]).masked_fill(cond_mask[SPACE] > 0, 0)
    return Task(cond_mask, order, kind + way.__name__.strip("_"))


# ---- draws ------------------------------------------------------------------------------------------------


def _uniform(rng: Generator) -> float:
    return float(torch.rand(1, generator=rng))


def _coin(rng: Generator) -> bool:
    return _uniform(rng) < 0.5


def _integer(rng: Generator, low: int, high: int) -> int:
    """Uniform in low..high, both included."""
    return int(torch.randint(low, high + 1, (1,), generator=rng))


def _log_uniform(rng: Generator, high: float) -> float:
    """In [1, high]."""
    return math.exp(_uniform(rng) * math.log(high))


def _group(rng: Generator, free: Sequence[int], count: int) -> list[int]:
    """`count` of the free frames, equally spaced at a log-uniform stride, starting anywhere they fit."""
    last = len(free) - 1
    stride = _log_uniform(rng, last / (count - 1)) if count > 1 else 1.0
    start = _uniform(rng) * (last - (count - 1) * stride)
    return [free[int(start + i * stride)] for i in range(count)]
