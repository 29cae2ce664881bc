"""What is given, as clips and as pictures on the frames of a window, for models that see them as pictures.

Latent k stands for frames 4k - 3 to 4k of a video, the first for frame 0 alone; and so it is in a window, whose first
latent is frame 0 there, whatever else it stands for in the video.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from torch import Tensor

from sora_cli import geometry
from sora_cli.generation.plan import Given, Placed
from sora_cli.geometry import TIME_STRIDE

WARM = 4  # latents that the decoder sees before those whose frames are wanted


class Pictures(Protocol):
    """Frames that need not all be in memory, uint8 [h, w, 3] each."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> Iterable[np.ndarray]: ...


@dataclass(frozen=True)
class GivenClip:
    """What is given of a video: pictures, or latents that need no encoding. `at` counts frames from the
    first one that is shown; it may lie before it, or behind the last. `clock` is the seconds of its scene at `at`,
    where that is recorded: a model of ours records it."""

    at: int
    images: np.ndarray | Pictures | None = None  # uint8 [n, h, w, 3] of the cropped canvas
    latents: Tensor | None = None  # [C, n, h, w], the first of them a key frame at `at`
    clock: float | None = None

    @property
    def given(self) -> Given:
        """The same clip as a plan describes it."""
        if self.latents is not None:
            return Given(self.at, self.latents.shape[1], latents=True, clock=self.clock)
        assert self.images is not None
        return Given(self.at, len(self.images), clock=self.clock)


def seen(frames: Sequence[int], pieces: Iterable[tuple[int, Iterable[np.ndarray]]]) -> list[np.ndarray | None]:
    """The 1 + 4n frames of a window of latents, None where nothing is given. pieces: pictures from a frame of the video
    on; of those on the same frame the last one counts."""
    positions = {TIME_STRIDE * latent - back: TIME_STRIDE * index - back
                 for index, latent in enumerate(frames) for back in range(TIME_STRIDE if index else 1)}  # fmt: skip
    found: list[np.ndarray | None] = [None] * (1 + TIME_STRIDE * (len(frames) - 1))
    last = max(positions)
    for first, pictures in pieces:
        for frame, picture in enumerate(islice(pictures, max(0, last + 1 - first)), first):
            if frame in positions:
                found[positions[frame]] = picture
    return found


def runs(frames: Sequence[int], made: Sequence[bool]) -> Iterator[range]:
    """The generated latents of a window in consecutive runs, each with a few before it; `made` is over all latents."""
    for run in geometry.runs(sorted(frame for frame in frames if made[frame])):
        start = run[0]
        while start > max(0, run[0] - WARM) and made[start - 1]:
            start -= 1
        yield range(start, run[-1] + 1)


def used(piece: GivenClip, placed: Placed) -> Iterable[np.ndarray]:
    """The pictures of a given piece that lie on key frames and between, or its latents."""
    if piece.latents is not None:
        return piece.latents.numpy()
    assert piece.images is not None
    if not placed.count:
        return piece.images[:1]
    return piece.images[placed.start : placed.start + geometry.frames_in(placed.count)]
