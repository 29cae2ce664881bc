"""Packs for training: clips of any resolution, aspect and length in a budget of tokens (NaViT, Dehghani et al. 2023).

A pack of a dataset is a pure function of (seed, number). Clips are drawn alike, and are whole where they fit. The last
two share what is left: of all ways to cut them in time, one that wastes least is taken. What is drawn does not hang on
what would fill a pack best, for then a few shapes would be all that is ever learned from. A cut clip is a random range
of its frames, or a strided subset, as FDM trains.

Training may also drop patch positions of a video, the same in all of its frames, so that a position stays a column of
time attention: more videos for the same work (NaViT section 3; MaskDiT, Zheng et al. 2023).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import reduce
from torch import Tensor

from sora_cli.dataset.dataset import Dataset
from sora_cli.errors import SoraError
from sora_cli.models.sora.patches import PATCH, ROUND, Grid, grid_of
from sora_cli.sampling.conditioning import NULL_TIME
from sora_cli.train.align import Encoder
from sora_cli.train.data.tasks import sample_strides
from sora_cli.train.trainer.config import generator

DROP_TEXT = 0.1
TIMED = 0.7  # the share of clips whose seconds are those of their scene
STILLS = 0.1  # the share of clips that are shown as one frame
LOOSE = 0.002  # the share of the budget that may stay empty if a clip stays longer for it
TRIES = 20  # clips that are drawn for a place
SHEET = 6  # videos that sheets show
SEEN = 0.02  # the share of a cell from which on a subject is there

Shape = tuple[int, int, int]  # of latents: T, h, w


class Clip(NamedTuple):
    """A video to be learned from, and what is known of it besides."""

    latents: Tensor  # [C, T, h, w]
    seconds: Tensor  # [T] of their frames
    caption: str
    first: bool = True  # whether the first latent is a frame alone, whose motion is nothing
    aim: Tensor | None = None  # what a middle block is to tell of it [T, K, h, w], or of its patches, see `align`
    cover: Tensor | None = None  # how much of each cell is subject [T, h, w]


@dataclass(frozen=True)
class Pack:
    """Clips to be learned from together."""

    clips: list[Clip]
    grids: tuple[Grid, ...]
    text: Tensor  # [V, 1 + L, D], zeros where the caption is dropped
    rng: torch.Generator  # what is left of the pack's randomness
    padding_fraction: float = 0.0  # share of the token list that is empty
    subject: float = 1.0  # how much more an error counts where a subject is


def pack_of(clips: list[Clip], text: Tensor, rng: torch.Generator, drop: float = 0.0) -> Pack:
    """A pack of these clips and features of their captions, some of which are dropped, as are positions."""
    with_text = torch.rand(len(clips), generator=rng) >= DROP_TEXT
    grids = tuple(drop_tokens(grid_of(clip.latents), drop, rng, clip.cover) for clip in clips)
    return Pack(clips, grids, text * with_text.to(text)[:, None, None], rng)


def drop_tokens(grid: Grid, drop: float, rng: torch.Generator, cover: Tensor | None = None) -> Grid:
    """A grid without a random share of its positions. Where subjects cover them [T, h, w] they go last."""
    if not drop:
        return grid
    chance = torch.rand(grid.size, generator=rng)
    if cover is not None:
        chance += reduce(cover, "T (h p) (w q) -> (h w)", "max", p=PATCH, q=PATCH) > SEEN
    positions = chance.topk(kept_count(grid.size, drop)).indices
    return Grid(grid.frames, grid.height, grid.width, tuple(positions.sort().values.tolist()))


def kept_count(size: int, drop: float) -> int:
    return max(1, round(size * (1 - drop)))


def tokens_of(grids: Sequence[Grid], conditions: int) -> int:
    """Tokens of a pack, conditions included and padding not."""
    return sum(g.frames * (g.size + conditions) for g in grids)


class Packs:
    """Packs of a dataset, `budget` tokens each, with `conditions` condition tokens a frame. `tower` is the identity of
    the conditioner's text tower, whose features a dataset may have; `encoder` makes what a middle block is to tell."""

    def __init__(self, source: Dataset, conditioner: Callable[[list[str]], Tensor], conditions: int, budget: int,
                 seed: int, drop: float = 0.0, uniform_shape: bool = False, tower: str | None = None,
                 encoder: Encoder | None = None) -> None:  # fmt: skip
        self.source, self.conditioner, self.conditions, self.tower = source, conditioner, conditions, tower
        self.seed, self.drop, self.uniform_shape, self.encoder = seed, drop, uniform_shape, encoder
        self.costs = [self.cost(number, shape) for number, shape in enumerate(source.shapes)]
        largest = max(self.costs)
        if largest > budget:
            raise SoraError(f"a frame of clip {self.costs.index(largest)} has {largest} tokens, but a batch {budget}; "
                            f"use a --batch that is {-(-largest // budget)} times as large")  # fmt: skip
        self.budget = budget

    def cost(self, number: int, shape: Shape) -> int:
        """Tokens of a frame."""
        _, h, w = shape
        if h % PATCH or w % PATCH:
            raise SoraError(f"clip {number}: latents of {w}x{h} cells do not divide into patches of {PATCH}x{PATCH}")
        return self.conditions + kept_count(h * w // PATCH**2, self.drop)

    def plan(self, number: int) -> list[tuple[int, int]]:
        """Which clips are in a pack, and how many frames of each."""
        rng = random.Random(self.seed * 32_452_843 + number)
        return self.plan_uniform(rng) if self.uniform_shape else self.plan_mixed(rng)

    def plan_mixed(self, rng: random.Random) -> list[tuple[int, int]]:
        """Clips of any shapes, which fill the budget."""
        left, chosen, largest = self.budget, list[tuple[int, int]](), max(self.costs)
        while (clip := self.draw(left, {number for number, _ in chosen}, rng)) is not None:
            frames = 1 if rng.random() < STILLS else self.source.shapes[clip][0]
            ends = [(clip, frames)]
            if frames * self.costs[clip] + largest > left:
                ends = self.shared(clip, frames, rng.randrange(len(self.costs)), left)
            chosen += ends
            left -= sum(frames * self.costs[number] for number, frames in ends)
        return chosen

    def draw(self, left: int, seen: set[int], rng: random.Random) -> int | None:
        """A clip of which a frame fits, and that is not in the pack yet, as long as half of them are not."""
        for _ in range(TRIES):
            clip = rng.randrange(len(self.costs))
            if self.costs[clip] <= left and (clip not in seen or 2 * len(seen) > len(self.costs)):
                return clip
        return None

    def shared(self, clip: int, frames: int, other: int, left: int) -> list[tuple[int, int]]:
        """A clip, of so many frames or fewer, and another one beside it, so that next to nothing of `left` stays."""
        one, two, most = self.costs[clip], self.costs[other], self.source.shapes[other][0]
        ways = []
        for mine in range(min(frames, left // one), 0, -1):
            its = min(most, (left - mine * one) // two)
            ways.append((left - mine * one - its * two, mine, its))
        least = min(rest for rest, *_ in ways)
        _, mine, its = next(way for way in ways if way[0] <= least + LOOSE * self.budget)
        return [(clip, mine), (other, its)] if its else [(clip, mine)]

    def plan_uniform(self, rng: random.Random) -> list[tuple[int, int]]:
        """Clips of one shape, as many as fit."""
        first = rng.randrange(len(self.costs))
        length, *size = self.source.shapes[first]
        frames = 1 if rng.random() < STILLS else min(length, self.budget // self.costs[first])
        able = [i for i, (T, *rest) in enumerate(self.source.shapes) if frames <= T and rest == size]
        return [(rng.choice(able), frames) for _ in range(self.budget // (frames * self.costs[first]))]

    def at(self, number: int) -> Pack:
        plan, rng = self.plan(number), generator(self.seed, number)
        clips = [self.clip(index, frames, rng) for index, frames in plan]
        pack = pack_of(clips, self.text([index for index, _ in plan], clips), rng, self.drop)
        used = tokens_of(pack.grids, self.conditions)
        even = len({(g.frames, g.size) for g in pack.grids}) == 1
        whole = used if even else max(self.budget, ROUND * -(-used // ROUND))
        return Pack(pack.clips, pack.grids, pack.text, rng, 1 - used / whole)

    def clip(self, index: int, frames: int, rng: torch.Generator) -> Clip:
        """So many frames of a clip: all, a range, or a subset."""
        latents, seconds, caption = self.source[index]
        chosen = list(some(latents.shape[1], frames, rng))
        adrift = 0.0 if torch.rand((), generator=rng) < TIMED else NULL_TIME
        aim = self.encoder.look(latents, seconds, chosen) if self.encoder else None
        return Clip(latents[:, chosen].float(), seconds[chosen] + adrift, caption, chosen[0] == 0, aim)

    def text(self, numbers: list[int], clips: list[Clip]) -> Tensor:
        """Features of captions [V, 1 + L, D]: those that the dataset has, or the text tower's."""
        found = [self.source.features(number, self.tower) for number in numbers]
        cached = [features for features in found if features is not None]
        return torch.stack(cached) if len(cached) == len(found) else self.conditioner([clip.caption for clip in clips])

    def shown(self) -> tuple[Tensor, Grid]:
        """What sheets show: features of the first captions, and the shape of each video, that of the first clip."""
        numbers = list(range(min(SHEET, len(self.source))))
        T, h, w = self.source.shapes[0]
        text = self.text(numbers, [self.clip(number, 1, generator(0, number)) for number in numbers])
        return text, Grid(min(T, 3), h // PATCH, w // PATCH)


def some(total: int, frames: int, rng: torch.Generator) -> Sequence[int]:
    """`frames` of `total`, in order: neighbours as often as a subset of all."""
    if frames == total:
        return range(total)
    if torch.rand((), generator=rng) < 0.5:
        return sample_strides(rng, frames, total)
    first = int(torch.randint(total - frames + 1, (), generator=rng))
    return range(first, first + frames)
