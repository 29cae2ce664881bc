"""Another frame rate: frames that are left out, or interpolated along the motion by ffmpeg's minterpolate.

Frame j of the result shows the time j / rate of the video. Where a frame is there at that time it is taken as it is;
between two frames across a cut the nearer one is. docs/preview.md has what the settings were chosen by.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, cycle, islice
from typing import Any, Generic, TypeVar

from sora_cli.media.process import rational

MOTION = "minterpolate=fps={rate}:mi_mode=mci:mc_mode=aobmc:scd=fdiff"
BEHIND = 3  # frames that the filter wants to see after the last that it makes

Item = TypeVar("Item")


@dataclass(frozen=True)
class Retiming:
    """From `made` to `shown` frames a second.

    `frames`: exactly so many, as many as last as long if it is not told. `turn`: of a loop, how many are made, so that
    the last leads to the first. `end`: where the rate is raised, the made frame that is the last of `frames`, as it
    is."""

    made: Fraction
    shown: Fraction
    frames: int | None = None
    turn: int = 0
    cyclic: bool = False
    end: int | None = None

    @classmethod
    def between(cls, made: float, shown: float, frames: int | None = None, **more: Any) -> "Retiming":
        """From rates as they are typed."""
        return cls(Fraction(rational(made)), Fraction(rational(shown)), frames, **more)

    @property
    def ratio(self) -> Fraction:
        """Frames shown for each that is made; those of a loop are spread over it evenly."""
        return Fraction(self.frames, self.turn) if self.turn and self.frames else self.shown / self.made

    @property
    def raises(self) -> bool:
        return self.ratio > 1

    @property
    def by(self) -> str:
        """The method, for notes and records."""
        return "ffmpeg's minterpolate" if self.raises else "leaving frames out"

    @property
    def filter(self) -> str:
        """ffmpeg's filter from the made frames to those between."""
        rate = self.made * self.ratio
        return MOTION.format(rate=f"{rate.numerator}/{rate.denominator}")

    def count(self, made: int) -> int:
        """The number of shown frames for so many made ones: all whose time is before the end."""
        return math.ceil(made * self.ratio) if self.frames is None else self.frames

    def at(self, made: int) -> Fraction:
        """Where a made frame lies among those shown."""
        if self.frames is None:
            return made * self.ratio
        return Fraction(self.frames - 1) if made == self.end else min(made * self.ratio, Fraction(self.frames))

    def record(self) -> dict[str, object]:
        """What the record beside a video says of it."""
        return {"made": float(self.made), "shown": float(self.shown), "by": self.by}

    def note(self) -> str:
        """The note on the conversion."""
        made, shown = float(self.made), float(self.shown)
        if self.raises:
            return f"made at {made:g} frames a second; those between, for {shown:g}, are interpolated by {self.by}"
        return f"made at {made:g} frames a second, and shown at {shown:g} by {self.by}"

    def dropped(self, frames: Iterable[Item]) -> Iterator[Item]:
        """Of frames that are too many, those that are on the screen at the times that are shown."""
        wanted = 0
        for number, frame in enumerate(frames):
            while math.floor(wanted / self.ratio) <= number:
                if self.frames is not None and wanted >= self.frames:
                    return
                yield frame
                wanted += 1


class Padded(Generic[Item]):
    """Made frames on their way into the filter, with the few behind the last that it wants to see: the first again in
    a loop, the last again elsewhere."""

    def __init__(self, frames: Iterable[Item], retiming: Retiming) -> None:
        self.frames, self.retiming = frames, retiming
        self.count, self.over = 0, False
        self.last: deque[Item] = deque(maxlen=1)

    def __iter__(self) -> Iterator[Item]:
        rest = iter(self.frames)
        first = list(islice(rest, BEHIND)) if self.retiming.cyclic else []
        for frame in chain(first, rest):
            self.count += 1
            self.last.append(frame)
            yield frame
        self.over = True
        yield from islice(cycle(first or self.last), BEHIND)

    def limited(self, shown: Iterable[bytes]) -> Iterator[bytes]:
        """What the filter made, up to the end of the video, which is known when the filter gets there."""
        for number, frame in enumerate(shown):
            if (self.over or self.retiming.frames is not None) and number >= self.retiming.count(self.count):
                return
            yield frame
