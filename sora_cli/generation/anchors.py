"""Anchors of a shot: files that show what some of its frames are. No torch.

They are looked into before any weights are loaded, so that what does not fit is refused at once, and read
twice later: small for the encoder, at full size for the frames that come out as the source has them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sora_cli import geometry, media
from sora_cli.errors import SoraError, counted
from sora_cli.media import Frame, Size
from sora_cli.shot import Shot


@dataclass(frozen=True)
class Placed:
    """An anchor on a shot's timeline: `count` frames from frame `start` on."""

    path: str
    start: int
    count: int
    fps: float
    fit: str
    notes: tuple[str, ...] = ()     # what it had to suffer on the way in
    sound: media.Sound | None = None
    left_out: tuple[str, ...] = ()  # what it has beside that
    whole: bool = True              # its own rate is no lower than the shot's: no frame is there twice

    @property
    def stop(self) -> int:
        return self.start + self.count

    def frames(self, size: Size) -> Iterator[Frame]:
        """The anchor's frames, uint8 [h, w, 3] of exactly `size`, at the shot's frame rate."""
        with media.open_source(self.path, fps=None if self.count == 1 else self.fps, rgb=True) as source:
            yield from media.to_rgb(source, source.format, size, self.fit)


@dataclass(frozen=True)
class Opened:
    """An anchor's frames as a lazy sequence: they are read when they are accessed, and never all in memory."""

    placed: Placed
    size: Size

    def __len__(self) -> int:
        return self.placed.count

    def __getitem__(self, part: slice) -> Iterator[Frame]:
        return islice(self.placed.frames(self.size), *part.indices(len(self)))


def exactly(raw: Iterator[bytes], placed: Sequence[Placed], format: media.Format) -> Iterator[bytes]:
    """A video's raw frames with those of some anchors in their places, as they are."""
    at = 0
    for one in placed:
        yield from islice(raw, one.start - at)
        given = media.from_rgb(islice(one.frames(format.size), one.count), format.size, format)
        yield from (frame for frame, _ in zip(given, raw, strict=False))
        at = one.stop
    yield from raw


def place(shot: Shot) -> list[Placed]:
    """The anchors of a shot in time order; SoraError if one is unreadable, overlaps another or leaves the video."""
    placed = sorted((locate(anchor.path, anchor.at, shot) for anchor in shot.anchors), key=lambda p: p.start)
    for one, next_ in zip(placed, placed[1:], strict=False):
        if next_.start < one.stop:
            raise SoraError(f"anchors overlap: {one.path} has frames {one.start} to {one.stop - 1}, "
                            f"and {next_.path} begins at {next_.start}")  # fmt: skip
    if sum(p.count for p in placed) >= shot.frames > 1:
        raise SoraError(f"the anchors cover all {counted(shot.frames, 'frame')}; there is nothing left to make")
    return placed


def locate(path: str, at: str, shot: Shot) -> Placed:
    """Place an anchor so that it starts at its address, or ends there if that counts from the end."""
    count, whole, source = count_frames(path, shot.fps)
    frame = geometry.parse_address(at, shot.fps, shot.frames)
    start = frame - count + 1 if at.strip().startswith("-") else frame
    if start < 0 or start + count > shot.frames:
        raise SoraError(f"anchor {path} would cover frames {start} to {start + count - 1} of a video of "
                        f"{counted(shot.frames, 'frame')}; move it, or make the video longer")  # fmt: skip
    sound = source.sound if count > 1 else None
    depth, mapped = source.format.depth, any("HDR" in note for note in source.notes)
    notes = [*source.notes, *[f"its {depth} bits per colour are reduced to 8"] * (depth > 8 and not mapped)]
    return Placed(path, start, count, shot.fps, shot.fit, tuple(notes), sound, source.left_out, whole)


def count_frames(path: str, fps: float) -> tuple[int, bool, media.Source]:
    """The number of frames of a file at this rate (1 for a picture), whether none of them is there twice because the
    file has that rate or a higher one, its sound and notes."""
    if path == media.STREAM or (Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir()):
        raise SoraError("an anchor is read more than once, which a stream cannot be; give a file")
    with media.open_source(path) as source:
        as_it_is = sum(1 for _ in source)
        above = source.format.fps - fps
    if as_it_is <= 1 or abs(above) < 1e-3:
        return as_it_is, True, source
    with media.open_source(path, fps=fps) as source:
        return sum(1 for _ in source), above > 0, source

