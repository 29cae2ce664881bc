"""What is known of a video, and who may see whom while the rest is made.

Mask 1 = known (kept), 0 = to be made. A latent frame has two parts: space (the appearance of its key frame)
and time (the motion that leads there). A clip anchor knows both, an image anchor knows space alone.

`order` numbers the latent frames by the order in which they come to exist: 0 for anchors, then 1, 2, ...
Frame i sees frame j iff order[j] <= order[i]. For forward generation that is the causal mask, for reverse
generation its mirror image, and a known future frame is visible to all. Positions stay true times.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import torch
from einops import rearrange, repeat
from torch import Generator, Tensor

from sora_cli.errors import SoraError

SPACE, TIME = 0, 1  # rows of a known mask
ADRIFT = 64.0  # seconds from where on a time does not tell how long ago the scene began


def visible(order: Tensor) -> Tensor:
    """[..., T] stages -> bool [..., T, T]: row i sees column j iff order[j] <= order[i]."""
    return rearrange(order, "... j -> ... 1 j") <= rearrange(order, "... i -> ... i 1")


def spread(known: Tensor, parts: tuple[int, int]) -> Tensor:
    """Known parts [2, T] -> the same for every channel, [C, T, 1, 1]."""
    counts = torch.tensor(parts, device=known.device)
    return known.repeat_interleave(counts, 0, output_size=sum(parts))[:, :, None, None]


# ---- a shot's anchors -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timeline:
    """Known latents on a shot's grid, zeros elsewhere. Anchors are added one by one; nothing is changed."""

    latents: Tensor          # [C, T, H, W], C = space channels, then time channels
    known: Tensor            # [2, T], 1 = known, rows SPACE and TIME
    order: Tensor            # [T] long, 0 = anchor
    parts: tuple[int, int]   # channels of space and of time; 0 of time where a latent does not tell them apart
    stills: Mapping[int, Tensor] = field(default_factory=dict)  # pictures [S, H, W] at the end of such latents

    @classmethod
    def empty(cls, parts: tuple[int, int], frames: int, height: int, width: int) -> Self:
        """Nothing known, everything made at once. Sizes in latent frames and cells."""
        latents = torch.zeros(sum(parts), frames, height, width)
        return cls(latents, torch.zeros(2, frames), torch.ones(frames, dtype=torch.long), parts)

    def with_clip(self, at: int, clip: Tensor) -> Self:
        """Know both parts of `clip` [C, t, H, W] from latent frame `at` on (negative: from the end)."""
        return self._with(at, clip, parts=2)

    def with_image(self, at: int, image: Tensor) -> Self:
        """Know the space part at latent frame `at`, from `image` [S, H, W]; its motion is to be made. Where latents
        have no such part, only the first one is a picture; any other is still to be made, so as to end in it."""
        start = self._index(at, 1)
        if self.parts[TIME] or start == 0:
            return self._with(start, rearrange(image, "s h w -> s 1 h w"), parts=1 if self.parts[TIME] else 2)
        return replace(self, stills={**self.stills, start: image})

    def with_chunks(self, at: int, clip: Tensor) -> Self:
        """Know `clip` [C, t, H, W] from latent frame `at` on, whose first latent was encoded as a frame alone:
        unless it is the first of the video, the motion that leads there is not known."""
        start = self._index(at, clip.shape[1])
        if start == 0:
            return self.with_clip(0, clip)
        begun = self.with_image(start, clip[: self.parts[SPACE], 0])
        return begun.with_clip(start + 1, clip[:, 1:]) if clip.shape[1] > 1 else begun

    def _with(self, at: int, anchor: Tensor, parts: int) -> Self:
        channels, length, *size = anchor.shape
        assert channels == sum(self.parts[:parts]) and size == list(self.latents.shape[2:]), anchor.shape
        start = self._index(at, length)
        here = slice(start, start + length)
        latents, known, order = self.latents.clone(), self.known.clone(), self.order.clone()
        latents[:channels, here] = anchor
        known[:parts, here], order[here] = 1, 0
        return replace(self, latents=latents, known=known, order=order)

    def _index(self, at: int, length: int) -> int:
        total = self.latents.shape[1]
        start = at + total if at < 0 else at
        if not 0 <= start <= total - length:
            raise SoraError(f"{length} known latent frames at {at} do not fit into a video of {total}")
        return start

    def mask(self) -> Tensor:
        """[C, T, 1, 1]: the known mask for every channel, to multiply latents with."""
        return spread(self.known, self.parts)

    def done(self) -> frozenset[int]:
        """Latent frames known in both parts: what a planner need not make."""
        return frozenset(self.known.amin(dim=0).nonzero().flatten().tolist())


# ---- training tasks ---------------------------------------------------------------------------------------


class Task(NamedTuple):
    """What a training clip of T latent frames shows, and in which order the rest of it is made."""

    known: Tensor  # [2, T], 1 = known
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
    known = repeat((order == 0).float(), "t -> part t", part=2)
    return Task(known, order, f"subset/{len(made)}")


def _anchor(rng: Generator, frames: int) -> Task:
    """What users give: a start, an end, both, the two sides of a loop, every second frame, images."""
    kind = list(ANCHORS)[_integer(rng, 0, len(ANCHORS) - 1)]
    draw, parts = ANCHORS[kind]
    known = torch.zeros(2, frames)
    known[:parts, draw(rng, frames)] = 1
    return _staged(rng, known, f"anchor/{kind}-", (_once, _forward, _backward))


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


def _head(rng: Generator, frames: int) -> list[int]:
    return list(range(_integer(rng, 1, frames // 2)))


def _tail(rng: Generator, frames: int) -> list[int]:
    return [frames - 1 - frame for frame in _head(rng, frames)]


def _both(rng: Generator, frames: int) -> list[int]:
    return [0, frames - 1] if frames > 2 else [0]


def _wrap(rng: Generator, frames: int) -> list[int]:
    """Several frames on either side, as many as leave a third of the clip to be made."""
    most = max(frames // 3, 1)
    side = range(_integer(rng, min(2, most), most))
    return sorted({*side, *(frames - 1 - frame for frame in side)})[: frames - 1]


def _second(rng: Generator, frames: int) -> list[int]:
    return list(range(_integer(rng, 0, 1), frames, 2))


def _ends_or_one(rng: Generator, frames: int) -> list[int]:
    last = frames - 1
    return [[0], [last], [0, last], [_integer(rng, 0, last)]][_integer(rng, 0, 3)]


ANCHORS: dict[str, tuple[Callable[[Generator, int], list[int]], int]] = {  # and how many parts are known
    "head": (_head, 2),
    "tail": (_tail, 2),
    "both": (_both, 2),
    "wrap": (_wrap, 2),
    "second": (_second, 2),
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


def _staged(rng: Generator, known: Tensor, kind: str, ways: Sequence[Stages]) -> Task:
    """One of the ways, drawn evenly, for everything that is no anchor."""
    way = ways[_integer(rng, 0, len(ways) - 1)]
    order = way(rng, known.shape[1]).masked_fill(known[SPACE] > 0, 0)
    return Task(known, order, kind + way.__name__.strip("_"))


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
