"""Black bars around a picture: letterbox, pillarbox, or on one side. They are no part of what a model goes on with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sora_cli.media.y4m import Size

THIN = 8  # every so many pixels along an edge are looked at
DARK = 28  # of 255: what black comes to after compression
EDGE = 24  # of 255: by how much the picture beside a bar is lighter, along its border
NARROW, WIDE = 0.02, 0.75  # of a side: what counts as a bar, and what all bars of a side may take


@dataclass(frozen=True)
class Bars:
    """How many rows and columns of a picture are bars."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @classmethod
    def around(cls, pictures: Iterable[np.ndarray]) -> "Bars":
        """The bars that pictures [h, w, 3] have in common. The picture inside reaches them in most of them: what moves
        before a black background leaves no bars."""
        light, upright, across = None, [], []
        for picture in pictures:
            one = picture.max(2)
            light = one if light is None else np.maximum(light, one)
            upright.append(one[:, ::THIN] > DARK)
            across.append(one[::THIN].T > DARK)
        if light is None:
            return cls()
        rows, columns = ends(light, upright), ends(light.T, across)
        if -1 in rows:
            columns = 0, 0
        if -1 in columns:
            rows = 0, 0
        (top, bottom), (left, right) = ((max(0, n) for n in side) for side in (rows, columns))
        return cls(top, bottom, left, right)

    def __bool__(self) -> bool:
        return any((self.top, self.bottom, self.left, self.right))

    def inside(self, picture: np.ndarray) -> np.ndarray:
        """A picture [h, w, 3] without its bars."""
        height, width = picture.shape[:2]
        return picture[self.top : height - self.bottom, self.left : width - self.right]

    def within(self, size: Size) -> Size:
        """The size that is left of one."""
        return size[0] - self.left - self.right, size[1] - self.top - self.bottom

    def put_back(self, picture: np.ndarray) -> np.ndarray:
        """A picture with the bars painted around it."""
        return np.pad(picture, ((self.top, self.bottom), (self.left, self.right), (0, 0)))


def ends(light: np.ndarray, lit: Sequence[np.ndarray]) -> tuple[int, int]:
    """Rows at both ends of [h, w] that are black, up to an edge that every picture has: a sky that grows dark is none.
    `lit` says of each picture which of its pixels are, of every few columns. -1 where the dark is no bar, so that there
    is none across it, either."""
    dark = light.max(1) <= DARK
    if dark.all():
        return 0, 0
    found = [int(np.argmin(dark)), int(np.argmin(dark[::-1]))]
    rows = light.mean(1)
    sharp = (rows, rows[::-1])
    reached = (lit, [one[::-1] for one in lit])
    wide = NARROW * len(light)
    found = [0 if n < wide else n if side[n : n + 3].max() > side[n - 1] + EDGE and reaches(n, those) else -1
             for n, side, those in zip(found, sharp, reached, strict=True)]  # fmt: skip
    found = [n + n % 2 if n > 0 else n for n in found]  # colours are told for two rows at once
    return (found[0], found[1]) if sum(found) < WIDE * len(light) else (0, 0)


def reaches(n: int, lit: Sequence[np.ndarray]) -> bool:
    """Whether in most pictures much of row n, or of the next ones, is lit where any of them is."""
    bands = np.stack([one[n : n + 3].max(0) for one in lit])
    ever = np.stack([one.max(0) for one in lit]).max(0)
    return float(np.median(bands[:, ever].mean(1))) >= 0.5
