"""Black bars around a picture: letterbox, pillarbox, or on one side. They are no part of what a model goes on with."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sora_cli.media.y4m import Size

THIN = 8  # every so many pixels along an edge are looked at
DARK = 28  # of 255: what black comes to after compression
EDGE = 24  # of 255: by how much the picture beside a bar is lighter, along its border
LINE, CLOSE = 4, 0.2  # rows of a line that is drawn; within so much of a side it is black again behind it
SAME, FEW = 24, 1e-3  # of 255: by how much one colour varies; of all pixels: as many do where nothing moves
NARROW, WIDE = 0.02, 0.75  # of a side: what counts as a bar, and what all bars of a side may take


class Bars(NamedTuple):
    """The width of the bars on each side of a picture, in rows and columns."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @classmethod
    def around(cls, pictures: Iterable[np.ndarray]) -> "Bars":
        """The bars that pictures [h, w, 3] have in common. The picture inside reaches them in most of them: what moves
        before a black background leaves no bars."""
        upright, across = [], []
        low = high = None
        for picture in pictures:
            one = picture.max(2)
            low = picture if low is None else np.minimum(low, picture)
            high = picture if high is None else np.maximum(high, picture)
            upright.append(one[:, ::THIN] > DARK)
            across.append(one[::THIN].T > DARK)
        if low is None or high is None:
            return cls()
        light = high.max(2)
        rows, columns = ends(light, upright), ends(light.T, across)
        if -1 in rows:
            columns = 0, 0
        if -1 in columns:
            rows = 0, 0
        (top, bottom), (left, right) = ((max(0, n) for n in side) for side in (rows, columns))
        bars = cls(top, bottom, left, right)
        return cls() if bars and drawn(bars, bars.inside(low), bars.inside(high), len(upright)) else bars

    def __bool__(self) -> bool:
        return any(self)

    def inside(self, picture: np.ndarray) -> np.ndarray:
        """A picture [h, w, 3] without its bars."""
        height, width = picture.shape[:2]
        return picture[self.top : height - self.bottom, self.left : width - self.right]

    def within(self, size: Size) -> Size:
        """The size of the picture inside the bars."""
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


def drawn(bars: Bars, low: np.ndarray, high: np.ndarray, count: int) -> bool:
    """Whether what is inside of bars is drawn on black: lines, behind which it is black again, or a rectangle of which
    no side is one of the whole picture, and that has one colour along its border or does not move.

    low, high: [h, w, 3], the extremes of every pixel inside in so many pictures."""
    sides = [(np.rot90(low, turn), np.rot90(high, turn)) for turn, width in
             enumerate((bars.top, bars.right, bars.bottom, bars.left)) if width]  # fmt: skip
    if all(thin(most.max(2) > DARK) for _, most in sides):
        return True
    if not (bars.top and bars.bottom and bars.left and bars.right):
        return False
    rims = [(least[2, LINE:-LINE].min(0), most[2, LINE:-LINE].max(0)) for least, most in sides]
    flat = np.max([most for _, most in rims], 0).astype(int) - np.min([least for least, _ in rims], 0) <= SAME
    moved = high.astype(int) - low > SAME
    return bool(flat.all()) or (count > 1 and float(moved.mean()) < FEW)


def thin(lit: np.ndarray) -> bool:
    """Whether what is lit at the top of [h, w] is a line, below which it is dark again."""
    line, below = np.flatnonzero(lit[:LINE].any(0)), lit[LINE : max(LINE + 1, round(CLOSE * len(lit)))]
    return len(line) > 0 and float((~below[:, line]).any(0).mean()) >= 0.9


def reaches(n: int, lit: Sequence[np.ndarray]) -> bool:
    """Whether in most pictures much of row n, or of the next ones, is lit where any of them is."""
    bands = np.stack([one[n : n + 3].max(0) for one in lit])
    ever = np.stack([one.max(0) for one in lit]).max(0)
    return float(np.median(bands[:, ever].mean(1))) >= 0.5
