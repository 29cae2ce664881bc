"""Every file of a folder: what it is, its shots, or why it is of no use. No torch.

A video is decoded once, small (`shot_detection`). Videos are counted in frames at a steady rate: their own, or every
n-th of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sora_cli import media
from sora_cli.dataset import footage, shot_detection
from sora_cli.dataset.shards import NUMBER, Kinds, Row, are_bars, holds, read_lines
from sora_cli.errors import Failed, SoraError
from sora_cli.geometry import WIDEST_ASPECT
from sora_cli.media.bars import Bars
from sora_cli.media.kinds import unread, walk
from sora_cli.media.probing import TooLarge

STILL = 0.03                     # % of the range by which frames differ where nothing moves, compression apart
SHORTEST, FEWEST = 0.5, 5        # seconds and frames of a shot
SMALLEST = 64                    # pixels along the shorter side


@dataclass(frozen=True)
class VideoShot:
    """Frames without a cut between them, from number `first` on; `reason` says why they are of no use."""

    first: int
    frames: int
    reason: str = ""


@dataclass(frozen=True)
class ScannedFile:
    """A file of the folder, as a scan finds it. Sizes are as it is shown: upright, in square pixels."""

    file: str                    # below the folder, with / between its parts
    bytes: int = 0
    modified: int = 0            # nanoseconds
    kind: str = ""               # video or image
    width: int = 0
    height: int = 0
    own_fps: float = 0
    fps: float = 0               # at which frames are counted
    takes: tuple[VideoShot, ...] = ()
    bars: Bars = footage.WHOLE    # black rows and columns around it
    reason: str = ""             # why it is of no use
    notes: tuple[str, ...] = ()  # what it has to suffer where it is read

    @property
    def size(self) -> media.Size:
        return self.width, self.height

    @property
    def inner(self) -> media.Size:
        """The size without bars."""
        return self.bars.within(self.size)

    @property
    def unseen(self) -> bool:
        """Whether a file could not even be looked at from outside."""
        return not self.modified and self.reason.startswith("broken")

    def fits(self, other: "ScannedFile", most: float) -> bool:
        """Whether this is what a scan would say of a file that looks like `other` from outside."""
        same = (self.file, self.bytes, self.modified) == (other.file, other.bytes, other.modified)
        return same and self.fps == (footage.decimated_fps(self.own_fps, most) if self.own_fps else 0)

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> "ScannedFile":
        """The inverse of `asdict`, of a line that may hold more."""
        plain = {key: value for key, value in line.items() if key in cls.__dataclass_fields__}
        fields = VideoShot.__dataclass_fields__
        shots = tuple(VideoShot(**{key: shot[key] for key in fields}) for shot in plain.pop("takes"))
        plain |= {"bars": Bars(*plain.get("bars", ())), "notes": tuple(plain.get("notes", ()))}
        return cls(**plain, takes=shots)


FILE: Kinds = {
    "file": str, "bytes": int, "modified": int, "kind": str, "width": int, "height": int, "own_fps": NUMBER,
    "fps": NUMBER, "takes": list, "reason": str, "notes": list,
}  # fmt: skip
SHOT: Kinds = {"first": int, "frames": int, "reason": str}


def manifest_lines(path: Path) -> list[Row]:
    """The lines of a manifest, or of a scan that was stopped, that tell of a file; others are not ours."""
    return [line for line in read_lines(path) if is_file(line)]


def is_file(line: Row) -> bool:
    """Whether a line, which may be a stranger's, tells of a file; older lines have no notes."""
    if not holds({"notes": []} | line, FILE) or not all(holds(shot, SHOT) for shot in line["takes"]):
        return False
    sized = not line["kind"] or line["reason"] or min(line["width"], line["height"]) > 0
    return sized and are_bars(line) and all(isinstance(note, str) for note in line.get("notes", ()))


def files_of(folder: Path, leave_out: Path) -> dict[str, str]:
    """Every file below a folder, sorted, but for the dataset in it, each with why it is no footage, if so."""
    return {file: reason or unread(file) for file, reason in walk(folder, leave_out)}


def outside(folder: Path, file: str, reason: str = "") -> ScannedFile:
    """What is known of a file without opening it."""
    if reason:
        return ScannedFile(file, reason=reason)
    try:
        status = (folder / file).stat()
    except OSError as error:
        return ScannedFile(file, reason=f"broken: {(error.strerror or 'unreadable').lower()}")
    return ScannedFile(file, status.st_size, status.st_mtime_ns)


def examine(folder: Path, record: ScannedFile, most: float) -> ScannedFile:
    """A file opened and judged; nothing that is in it can stop a scan."""
    path = folder / record.file
    if record.reason:
        return record
    if not path.is_file() or not media.is_footage(record.file):
        return replace(record, reason="not a video or image by its name")
    if not record.bytes:
        return replace(record, reason="broken: it is empty")
    try:
        return replace(record, **(of_image(path) if footage.is_image(path) else of_video(path, most)))
    except SoraError as error:
        kind = "too large" if isinstance(error, TooLarge) else "broken"
        return replace(record, reason=f"{kind}: " + " ".join(str(error).replace(str(path), "it").split()))
    except OSError as error:
        return replace(record, reason=f"broken: {(error.strerror or 'unreadable').lower()}")


def of_image(path: Path) -> dict[str, Any]:
    frame = footage.read_image(path)
    height, width = frame.shape[:2]
    reason = wrong_size(width, height) or shot_detection.nothing(shot_detection.planes_of(frame))
    found: dict[str, Any] = {"kind": "image", "width": width, "height": height}
    return found | ({"reason": reason} if reason else {"takes": (VideoShot(0, 1),)})


def of_video(path: Path, most: float) -> dict[str, Any]:
    with media.open_source(str(path)) as source:
        format, notes, damage = source.format, tuple(source.notes), source.damage
    width, height = max(1, round(format.width * format.pixel_aspect)), format.height
    fps = footage.decimated_fps(format.fps, most)
    found: dict[str, Any] = {"kind": "video", "width": width, "height": height, "own_fps": format.fps, "fps": fps,
                             "notes": notes}  # fmt: skip
    if reason := wrong_size(width, height):
        return found | {"reason": reason}
    seen = shot_detection.measure_frames(path, fps)
    if wrong := damage():
        raise Failed(f"{path} is damaged: {wrong}")
    if not seen.frames:  # at this rate; the source had at least one
        return found | {"reason": f"too short: less than {1 / fps:.2g} s"}
    bars = footage.bars_of(path, seen.frames, fps, (width, height)) if seen.framed else footage.WHOLE
    if bars and not wrong_size(*bars.within((width, height))):
        found["bars"] = bars
    shots = tuple(judged(VideoShot(first, frames), seen, fps) for first, frames in shot_detection.shots(seen))
    if all(shot.reason for shot in shots):
        reasons = list(dict.fromkeys(shot.reason for shot in shots))
        return found | {"takes": shots, "reason": reasons[0] if len(reasons) == 1 else "no shot: " + ", ".join(reasons)}
    return found | {"takes": shots}


def judged(shot: VideoShot, seen: shot_detection.FrameStatistics, fps: float) -> VideoShot:
    """A shot with the reason why it is of no use, if there is one."""
    part = slice(shot.first, shot.first + shot.frames)
    reason = seen.nothing(part)
    if not reason and (shot.frames < FEWEST or shot.frames / fps < SHORTEST):
        reason = f"too short: {shot.frames / fps:.2g} s"
    elif not reason and np.mean(seen.change[part][1:]) < STILL:
        reason = "static: nothing moves"
    return VideoShot(shot.first, shot.frames, reason)


def wrong_size(width: int, height: int) -> str:
    if min(width, height) < SMALLEST:
        return f"tiny: {width}x{height}; the least is {SMALLEST} pixels"
    if max(width / height, height / width) > WIDEST_ASPECT:
        return f"too elongated: {width}x{height}; the most is {WIDEST_ASPECT:g} to 1"
    return ""
