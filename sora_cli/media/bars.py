"""Black bars around a picture: letterbox, pillarbox, or on one side. They are no part of what a model goes on with."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sora_cli.media.y4m import Size

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
        """The bars that pictures [h, w, 3] have in common."""
        lightest = None
        for picture in pictures:
            lightest = picture if lightest is None else np.maximum(lightest, picture)
        if lightest is None:
            return cls()
        light = lightest.max(2)
        (top, bottom), (left, right) = ends(light), ends(light.T)
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


def ends(light: np.ndarray) -> tuple[int, int]:
    """Rows at both ends of [h, w] that are black, up to an edge: a sky that grows dark is none."""
    dark = light.max(1) <= DARK
    if dark.all():
        return 0, 0
    found = [int(np.argmin(dark)), int(np.argmin(dark[::-1]))]
    rows = light.mean(1)
    sharp = (rows, rows[::-1])
    found = [n if n >= NARROW * len(light) and side[n : n + 3].max() > side[n - 1] + EDGE else 0
             for n, side in zip(found, sharp, strict=True)]  # fmt: skip
    found = [n + n % 2 for n in found]  # colours are told for two rows at once
    return (found[0], found[1]) if sum(found) < WIDE * len(light) else (0, 0)
