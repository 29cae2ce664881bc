"""Invisible joins: where given pictures meet generated ones.

A given frame comes out as it is, while the frames beside it come from the decoder, which blurs a little and may
miss a shade. What the decoder makes of the given frame itself shows by how much: that difference is added to
the generated frames next to it and fades out, its coarse part (colour, contrast, light) over about a second,
its fine part (sharpness) within a few frames, before things have moved on. No torch.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from PIL import Image

from sora_cli.media.convert import Frame
from sora_cli.media.y4m import Size

COARSE, FINE = 24, 5  # frames over which a difference fades
CELL = 16  # the coarse part is what survives at 1/16 of the size


@dataclass(frozen=True)
class Difference:
    """Given minus decoded, float16 [h, w, 3], in levels of 0..255."""

    coarse: np.ndarray
    fine: np.ndarray

    @classmethod
    def between(cls, given: Frame, decoded: Frame) -> "Difference":
        """The difference between a given frame and its decoded version, which may be smaller."""
        height, width = given.shape[:2]
        whole = given.astype(np.float32) - enlarge(decoded, (width, height))
        coarse = blurred(whole)
        return cls(coarse.astype(np.float16), (whole - coarse).astype(np.float16))

    def after(self, frames: int, other: int | None = None) -> np.ndarray | None:
        """What is left of it so many frames away, the first neighbour being 1; None when it has faded. `other`
        frames away, on the other side, there is another one to share a short gap with."""
        if frames > COARSE:
            return None
        left = share(frames, other, COARSE) * self.coarse.astype(np.float32)
        return left + share(frames, other, FINE) * self.fine if frames <= FINE else left


def share(frames: int, other: int | None, reach: int) -> float:
    """How much of a difference holds so far from it; with another one nearby, both are at most 1 together."""
    here, there = fading(frames, reach), fading(other, reach) if other else 0.0
    return here / max(1.0, here + there)


def fading(frames: int, reach: int) -> float:
    """From 1 at the join to 0 beyond `reach` frames, smooth at both ends."""
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, frames / (reach + 1)))


def blurred(values: np.ndarray) -> np.ndarray:
    """The coarse (low-frequency) part of float32 [h, w, 3]."""
    height, width = values.shape[:2]
    small = (max(1, width // CELL), max(1, height // CELL))
    planes = (Image.fromarray(np.ascontiguousarray(values[..., c])) for c in range(3))
    soft = (p.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BICUBIC) for p in planes)
    return np.stack([np.asarray(p) for p in soft], -1)


def enlarge(frame: Frame, size: Size) -> Frame:
    """A frame at (width, height), by Lanczos; the very frame where it has that size."""
    if frame.shape[1::-1] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def fill(frames: Iterable[Frame], count: int, size: Size, before: Difference | None = None,
         after: Difference | None = None) -> Iterator[Frame]:  # fmt: skip
    """The `count` generated frames of a gap at full size, matched to what is given before and after it."""
    for number, frame in zip(range(1, count + 1), frames, strict=False):
        near, far = number, count + 1 - number
        sides = ((before, near, far if after else None), (after, far, near if before else None))
        left = [rest for side, away, other in sides if side and (rest := side.after(away, other)) is not None]
        large = enlarge(frame, size)
        if left:
            large = np.clip(np.rint(large + sum(left)), 0, 255).astype(np.uint8)
        yield large


@dataclass(frozen=True)
class Piece:
    """Given frames on the timeline, at full size, opened when their turn comes."""

    start: int
    count: int
    frames: Callable[[], Iterator[Frame]]
    decoded: Frame              # what the decoder makes of one of them
    shown: int = 0              # which one that is


def joined(decoded: Iterator[Frame], total: int, pieces: Iterable[Piece], size: Size) -> Iterator[Frame]:
    """A whole video at full size: given frames as they are, decoded ones between them. `decoded` has all
    `total` frames, those under the pieces too."""
    at, before = 0, None
    for piece in sorted(pieces, key=lambda piece: piece.start):
        given = piece.frames()
        first = list(islice(given, piece.shown + 1))
        after = Difference.between(first[-1], piece.decoded) if piece.start > at else None
        yield from fill(decoded, piece.start - at, size, before, after)
        for last, below in zip(islice(chain(first, given), piece.count), decoded, strict=False):  # noqa: B007
            yield last
        at, before = piece.start + piece.count, Difference.between(last, below)
    yield from fill(decoded, total - at, size, before)
