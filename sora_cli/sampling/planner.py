"""Flexible Diffusion Modeling: a long video as windows of (observed, latent) frames.

A window is one call of the sampler: it makes its `latent` frames while it looks at its `observed` ones.
The network is the same for every scheme; only the order in which frames come to exist differs
(Harvey et al., "Flexible Diffusion Modeling of Long Videos", 2022). All indices count latent frames.
"""

from bisect import bisect, bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice, pairwise, takewhile, zip_longest
from itertools import count as count_from
from math import ceil
from operator import lt

from sora_cli.errors import SoraError


@dataclass(frozen=True)
class Window:
    """Frames made together, and the frames they see: both sorted, with nothing in common."""

    observed: tuple[int, ...]
    latent: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.latent and set(self.latent).isdisjoint(self.observed), self
        assert all(all(map(lt, part, part[1:])) for part in (self.observed, self.latent)), self

    def __len__(self) -> int:
        return len(self.observed) + len(self.latent)

    @property
    def frames(self) -> tuple[int, ...]:
        """Everything in the window, in the order of time."""
        return tuple(sorted(self.observed + self.latent))


class Done:
    """Frames that exist, in the order of time. A window looks at a few of them: an hour is planned in no time."""

    def __init__(self, frames: Iterable[int]) -> None:
        self.sorted, self.all = sorted(frames), set(frames)

    def __len__(self) -> int:
        return len(self.sorted)

    def __contains__(self, frame: int) -> bool:
        return frame in self.all

    def add(self, frames: Sequence[int]) -> None:
        for frame in frames:
            insort(self.sorted, frame)
        self.all.update(frames)

    def around(self, latent: Sequence[int], count: int) -> list[int]:
        """Those among the new frames, and the nearest `count` on either side."""
        first, last = bisect_left(self.sorted, latent[0]), bisect(self.sorted, latent[-1])
        return self.sorted[max(0, first - count) : last + count]

    def on_circle(self, frame: int, count: int) -> list[int]:
        """The nearest `count` on either side of a frame of a circle, each once."""
        first, total = bisect(self.sorted, frame) - count, len(self.sorted)
        return [self.sorted[index % total] for index in range(first, first + min(2 * count, total))]

    def without(self, frames: Sequence[int], index: int) -> int:
        """The frame at an index among those that are not these."""
        for gone in sorted(bisect_left(self.sorted, frame) for frame in frames):
            index += gone <= index
        return self.sorted[index]


def plan(total: int, scheme: str, given: frozenset[int] = frozenset(), size: int = 16, step: int = 8) -> list[Window]:
    """Windows which make every frame of `range(total)` that is not `given`, each exactly once.

    A window holds at most `size` frames (`full` excepted) and makes `step` of them, or more while there
    are too few finished frames to fill the rest. Frame 0 is in every window (`sliding` excepted) as soon as it exists.
    Raises SoraError for an unknown scheme or numbers that make no plan.
    """
    if scheme not in SCHEMES:
        raise SoraError(f"unknown plan {scheme!r}; choose one of {', '.join(SCHEMES)}")
    if not 1 <= step < size:
        raise SoraError(f"a window of {size} frames cannot make {step}; make between 1 and {size - 1}")
    if total < 1:
        raise SoraError(f"a video needs at least 1 latent frame, not {total}")
    if outside := sorted(frame for frame in given if not 0 <= frame < total):
        raise SoraError(f"given frames {outside} lie outside the {total} latent frames of the video")
    order, context = SCHEMES[scheme]
    done, windows = Done(given), []
    for latent in order(total, done, size, step):
        windows.append(Window(tuple(sorted(context(latent, done, size - len(latent)))), latent))
        done.add(latent)
    return windows


def mirrored(windows: Iterable[Window], total: int) -> list[Window]:
    """The same plan from the end to the beginning."""
    def flipped(frames: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(total - 1 - frame for frame in reversed(frames))

    return [Window(flipped(window.observed), flipped(window.latent)) for window in windows]


def circle(total: int, size: int, step: int) -> list[Window]:
    """Windows for a loop, in which frames i and i + total are one and the same.

    Indices are unrolled: a window across the seam has frames below 0 or from `total` on, so that times in it
    run on. The first window goes once around, with nothing observed; the others fill the gaps, level by level.
    """
    keys = tuple(sorted({i * total // size for i in range(size)}))
    done, windows = Done(keys), [Window((), keys)]
    while len(done) < total:
        for before, after in pairwise([*done.sorted, total]):
            if latent := _inside(range(before + 1, after), step):
                windows.append(Window(_around(latent, done, total, size - len(latent)), latent))
                done.add(latent)
    return windows


# ---- in which order frames come to exist ------------------------------------------------------------------


def _sweep(total: int, done: Done, size: int, step: int) -> Iterator[tuple[int, ...]]:
    """Fill the leftmost hole until none is left; away from what exists, so a lone end grows backwards."""
    start = 0
    while start < total:
        if start in done:
            start += 1
            continue
        after = bisect(done.sorted, start)
        stop = done.sorted[after] if after < len(done) else total
        hole, room = range(start, stop), _room(len(done), size, step)
        backwards = len(done) > 0 and done.sorted[0] > start
        yield tuple(hole[-room:] if backwards else hole[:room])


def _hierarchy(total: int, done: Done, size: int, step: int) -> Iterator[tuple[int, ...]]:
    """Key frames over the whole video first, then what lies between them, level by level."""
    for level in _levels(range(total), frozenset(done.all), size, step):
        yield from _joined(level, list(done.sorted), size, step)


def _room(done: int, size: int, step: int) -> int:
    """How many frames a window may make: `step`, or all that so many finished frames cannot fill."""
    return max(step, size - done)


# ---- which finished frames a window sees ------------------------------------------------------------------


def _everything(latent: Sequence[int], done: Done, budget: int) -> list[int]:
    """All of them, so that windows grow: for the cache, or for short videos."""
    return done.sorted


def _nearest(latent: Sequence[int], done: Done, budget: int) -> list[int]:
    """Frame 0, then both neighbours of every new frame, then whatever is closest in time."""
    past = done.around(latent, budget + 1)
    past = [0, *past] if 0 in done and past[:1] != [0] else past
    borders = _borders(latent, past)

    def rank(frame: int) -> tuple[bool, bool, int, int]:
        return frame != 0, frame not in borders, min(abs(frame - new) for new in latent), frame

    return sorted(past, key=rank)[:budget]


def _touching(latent: Sequence[int], done: Done, budget: int) -> list[int]:
    """Finished frames in one piece with the new ones, from both sides in turn: for models that only saw whole clips."""
    before = list(islice(takewhile(done.__contains__, range(latent[0] - 1, -1, -1)), budget))
    after = list(islice(takewhile(done.__contains__, count_from(latent[-1] + 1)), budget))
    in_turn = chain.from_iterable(zip_longest(before, after))
    return [frame for frame in in_turn if frame is not None][:budget]


def _near_and_far(latent: Sequence[int], done: Done, budget: int) -> list[int]:
    """Half of them next to the new frames, half spread over the rest, with frame 0."""
    far = max(budget // 2, 1)
    near = _nearest(latent, done, budget - far + 1)
    near = [frame for frame in near if frame][: budget - far]
    rest = evenly_spaced(range(len(done) - len(near)), far)
    return near + [done.without(near, index) for index in rest]


def _borders(latent: Sequence[int], past: Sequence[int]) -> set[int]:
    """The finished frames right before and right after each new one."""
    positions = (bisect(past, new) for new in latent)
    return {frame for position in positions for frame in past[max(position - 1, 0) : position + 1]}


def _around(latent: Sequence[int], done: Done, total: int, budget: int) -> tuple[int, ...]:
    """The nearest finished frames of a circle, each where it is nearest to the new ones."""
    middle = (latent[0] + latent[-1]) / 2
    nearest = (frame + total * round((middle - frame) / total) for frame in done.on_circle(latent[0], budget))
    return tuple(sorted(sorted(nearest, key=lambda frame: (abs(frame - middle), frame))[:budget]))


# ---- key frames -------------------------------------------------------------------------------------------


def evenly_spaced(frames: Sequence[int], count: int) -> list[int]:
    """At most `count` of the frames, evenly spaced, with the first and the last among them."""
    if count >= len(frames):
        return list(frames)
    last = len(frames) - 1
    return [frames[(2 * i * last + count - 1) // (2 * max(count - 1, 1))] for i in range(count)]


def _inside(gap: Sequence[int], count: int) -> tuple[int, ...]:
    """At most `count` frames of a gap, evenly spaced between its borders."""
    if len(gap) <= count:
        return tuple(gap)
    return tuple(gap[(2 * i + 1) * len(gap) // (2 * count)] for i in range(count))


def _levels(frames: Sequence[int], given: frozenset[int], size: int, step: int) -> list[Sequence[int]]:
    """From coarse to fine: the first fits one window, each next one has at most `step` new frames a gap."""
    fewest = ceil((len(frames) - 1) / (step + 1)) + 1
    if _fits(frames, given, size, step) or fewest >= len(frames):
        return [frames]
    choices = [evenly_spaced(frames, count) for count in range(size, fewest, -1)]
    keys = next((keys for keys in choices if _fits(keys, given, size, step)), evenly_spaced(frames, fewest))
    return [*_levels(keys, given, size, step), frames]


def _fits(frames: Sequence[int], given: frozenset[int], size: int, step: int) -> bool:
    return len(set(frames) - given) <= _room(len(given), size, step)


def _joined(level: Sequence[int], seen: Sequence[int], size: int, step: int) -> Iterator[tuple[int, ...]]:
    """Neighbouring gaps of a level in one window, as long as all their borders are visible in it too."""
    room, past = _room(len(seen), size, step), set(seen)
    new = (frame for frame in level if frame not in past)
    gaps = (tuple(gap) for _, gap in groupby(new, key=lambda frame: bisect(seen, frame)))
    pieces = [gap[i : i + room] for gap in gaps for i in range(0, len(gap), room)]
    window: tuple[int, ...] = ()
    for piece in pieces:
        joined = window + piece
        if window and (len(joined) > room or len(joined) + len(_borders(joined, seen) | {0}) > size):
            yield window
            joined = piece
        window = joined
    if window:
        yield window


# ---- schemes ----------------------------------------------------------------------------------------------

Order = Callable[[int, Done, int, int], Iterator[tuple[int, ...]]]  # (total, done, size, step) -> latent, ...
Context = Callable[[Sequence[int], Done, int], Iterable[int]]  # (latent, done, budget) -> observed

SCHEMES: dict[str, tuple[Order, Context]] = {
    "full": (_sweep, _everything),
    "autoregressive": (_sweep, _nearest),
    "sliding": (_sweep, _touching),
    "long-range": (_sweep, _near_and_far),
    "hierarchy": (_hierarchy, _nearest),
}
