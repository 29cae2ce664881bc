"""Numbers beside a clip: how well it was joined, how well it loops, how it drifts. numpy alone.

A clip is fed frame by frame (uint8 [h, w, 3], or floats in [0, 1]) and may be of any length: frames are shrunk
to at most 160 pixels across first, so that grain and the canvas's size hardly count, and then forgotten.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

Frame = np.ndarray

WIDEST = 160             # pixels
COARSE = 20              # pixels; see `Changes`
RHYTHM = 4               # frames of a latent
AROUND = 12              # neighbouring differences on each side of a join
FLOOR = 1 / (3 * 255)    # what rounding to 8 bits makes of no difference: a still clip joins a still clip
UNSEEN, SHOWS = 1.5, 3.0 # a score up to, and from; see `verdict`
FROZEN = 0.3
BINS = 8                 # of the colour histogram, a channel


def shrink(frame: Frame, widest: int = WIDEST) -> Frame:
    """Means over squares of pixels: float32 [h, w, 3] in [0, 1] of at most `widest` columns."""
    height, width, channels = frame.shape
    side = min(-(-width // widest), height)
    rows, columns = height // side, width // side
    part, exact = frame[: rows * side, : columns * side], frame.dtype == np.uint8
    kind = np.float32 if not exact else np.uint16 if side <= 16 else np.uint32  # 16 x 16 x 255 fit into 16 bits
    bands = total(kind, *(part[i::side] for i in range(side)))
    sums = total(kind, *(bands[:, i::side] for i in range(side)))
    return sums.astype(np.float32) / np.float32(side**2 * (255 if exact else 1))


def total(kind: type[np.generic], *arrays: Frame) -> Frame:
    """The sum of some arrays, one after another: numpy's own is slow along short axes."""
    found = arrays[0].astype(kind)
    for part in arrays[1:]:
        found += part
    return found


# ---- joins ------------------------------------------------------------------------------------------------


class Seam(NamedTuple):
    """How a loop closes, 1 = like anywhere else in it: where things are, and how they move."""

    position: float
    velocity: float


class Changes:
    """First and second differences of a clip; two numbers a frame and four small frames are kept.

    With |.| the mean absolute value over pixels and colours in [0, 1], and f a frame of at most 160 columns,
    d[i] = |f[i] - f[i-1]|. With g a frame of at most 20 columns, a[i] = |g[i+1] - 2 g[i] + g[i-1]|: only where
    things move less than their own blur is that an acceleration. At 160 columns an object that turns around
    has the same a as one that goes on; at 20, two to five times as much.
    """

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        self.first: list[Frame] = []      # the first two frames, of 160 columns
        self.last: list[Frame] = []       # the last two
        self.steps: list[float] = []      # d[1], d[2], ...
        self.bends: list[float] = []      # a[1], a[2], ...
        for frame in frames:
            self.add(frame)

    def add(self, frame: Frame) -> None:
        small = shrink(frame)
        if self.last:
            self.steps.append(step(self.last[-1], small))
        if len(self.last) == 2:
            self.bends.append(bend(self.last[0], self.last[1], small))
        if len(self.first) < 2:
            self.first.append(small)
        self.last = [*self.last[-1:], small]

    def boundary(self, join: int) -> float:
        """How visible it is that frames from `join` on were made to continue those before: 1 = seamless.

        The score is d[join] / median(d[join-12 .. join-1], d[join+1 .. join+12]), at least a third of a grey level
        each. It asks whether the picture changes more across the join than the same footage does by itself (as the
        seam measures of Flexible Diffusion Modeling and Mobius do). The median of both sides is unmoved by a cut nearby
        and by the rhythm of four frames to a latent. A jump in place or colour raises it; a change of direction without
        a jump does not, and a freeze lowers it below 1.
        """
        assert 1 <= join <= len(self.steps), f"no join at {join} in {len(self.steps) + 1} frames"
        before, after = self.steps[: join - 1], self.steps[join:]
        return ratio(self.steps[join - 1], before[-AROUND:] + after[:AROUND])

    def seam(self) -> Seam:
        """How visible the wrap of a loop is, where the last frame is followed by the first: 1 = seamless.

        With frame indices modulo T, position is d[0] / median(d[1 .. T-1]), velocity is max(a[T-2 .. T+1]) / median
        over i of max(a[i .. i+3]), all at least a third of a grey level. The maxima are over four frames since decoders
        of chunks turn a little at every key frame, and only there. A loop that ends where it began may still turn
        around there: its position is good and its velocity is not. A seam that repeats the first frame or stands still
        has a position below 1.
        """
        assert self.steps, "a loop has at least two frames"
        (second_last, last), (first, second) = self.last, self.first
        wrap = [bend(second_last, last, first), bend(last, first, second)]
        across = max(self.bends[-1:] + wrap + self.bends[:1])
        return Seam(ratio(step(last, first), self.steps), ratio(across, peaks(self.bends)))


def verdict(score: float) -> str:
    """A score of a join or of a seam in words.

    Where nothing is joined, the same ratio is at most 1.3 in 95 of 100 positions of scenes of the world and of what
    pocket makes, and at most 1.7 in 99 (a subject that bounces or grows is quicker at times): up to 1.5 is what footage
    does by itself. Clips cut without any care have medians of 3.7 (loops) to 7.5 (`benchmarks/joins.py`), and none of
    the cuts of `tests/test_scores.py` is below 3. Below 0.3, as in 1 of 100 positions, next to nothing moves.
    """
    if score >= SHOWS:
        return "the join shows"
    if score > UNSEEN:
        return "may be seen"
    return "cannot be seen" if score >= FROZEN else "stands still there for a moment"


def step(before: Frame, after: Frame) -> float:
    return float(np.abs(after - before).mean())


def bend(before: Frame, here: Frame, after: Frame) -> float:
    return float(np.abs(shrink(after - 2 * here + before, COARSE)).mean())


def peaks(values: Sequence[float]) -> list[float]:
    """The largest of every RHYTHM neighbours."""
    return [max(values[i : i + RHYTHM]) for i in range(max(1, len(values) - RHYTHM + 1))] if values else []


def ratio(here: float, elsewhere: Sequence[float]) -> float:
    """`here` over the median of `elsewhere`, neither below the floor; without an elsewhere, the floor is it."""
    typical = float(np.median(elsewhere)) if elsewhere else FLOOR
    return max(here, FLOOR) / max(typical, FLOOR)


# ---- drift ------------------------------------------------------------------------------------------------


class Drift:
    """Colour and detail of a clip second by second, for how it changes over time; nothing else is kept."""

    def __init__(self, fps: float, frames: Iterable[Frame] = ()) -> None:
        self.fps, self.frames = fps, 0
        self.sums: list[np.ndarray] = []          # a second: frames, then the sums of `appearance`
        self.colours: list[np.ndarray] = []       # a second: counts of the colour histogram
        for frame in frames:
            self.add(frame)

    def add(self, frame: Frame) -> None:
        if int(self.frames / self.fps) == len(self.sums):
            self.sums.append(np.zeros(4))
            self.colours.append(np.zeros(BINS**3))
        small = shrink(frame)
        self.sums[-1] += appearance(small)
        self.colours[-1] += histogram(small)
        self.frames += 1

    def curve(self) -> list[dict[str, float]]:
        """A row a second (the last may be shorter): its start in `seconds`, the number of `frames`, the means
        of `appearance`, and `histogram`, the distance of its colours to the first second's, 0 same to 1 disjoint."""
        rows = []
        for start, (sums, colours) in enumerate(zip(self.sums, self.colours, strict=True)):
            frames, *means = sums / [1, *[sums[0]] * 3]
            named = dict(zip(("colourfulness", "sharpness", "contrast"), map(float, means), strict=True))
            away = np.abs(shares(colours) - shares(self.colours[0])).sum() / 2
            rows.append({"seconds": float(start), "frames": float(frames), **named, "histogram": float(away)})
        return rows


def appearance(frame: Frame) -> np.ndarray:
    """1, then colourfulness (Hasler and Suesstrunk 2003), sharpness (the mean slope of the brightness from
    pixel to pixel) and contrast (its standard deviation), of a float frame [h, w, 3] in [0, 1]."""
    red, green, blue = np.moveaxis(frame, -1, 0)
    opponent = np.stack([red - green, (red + green) / 2 - blue])
    colourful = np.hypot(*opponent.std((1, 2))) + 0.3 * np.hypot(*opponent.mean((1, 2)))
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    slopes = np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1])
    return np.array([1.0, colourful, slopes.mean() if slopes.size else 0.0, grey.std()])


def histogram(frame: Frame) -> np.ndarray:
    """Pixels [h, w, 3] in [0, 1] counted in 8 x 8 x 8 colours, [512]."""
    level = np.clip((frame * BINS).astype(int), 0, BINS - 1)
    return np.bincount((level @ [BINS * BINS, BINS, 1]).ravel(), minlength=BINS**3)


def shares(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum()
