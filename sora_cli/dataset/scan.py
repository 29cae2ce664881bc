"""Every file of a folder: what it is, its shots, or why it is of no use. No torch.

A video is decoded once, small, by one ffmpeg that says of every frame how light and dark it is (signalstats), how much
it differs from the one before, and how likely a cut lies between them (scdet). Videos are counted in frames at a steady
rate: their own, or every n-th of it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sora_cli import media
from sora_cli.dataset import footage
from sora_cli.errors import Failed, SoraError
from sora_cli.geometry import WIDEST_ASPECT
from sora_cli.media.process import LOCAL, QUIET, Through, buffered, ffmpeg

CUT = 10.0                       # of scdet's score, 0 to 100: what its authors take for a cut
STILL = 0.03                     # % of the range by which frames differ where nothing moves, compression apart
DARK, FLAT = 32, 4               # of 8 bits, video range: the lightest parts of black, the contrast of one colour
SHORTEST, FEWEST = 0.5, 5        # seconds and frames of a shot
SMALLEST = 64                    # pixels along the shorter side
LOOKED_AT = (160, 96)            # pixels: what frames are judged at
KEYS = ("YLOW", "YHIGH", "mafd", "score")


@dataclass(frozen=True)
class Take:
    """Frames without a cut between them, from number `first` on; `reason` says why they are of no use."""

    first: int
    frames: int
    reason: str = ""


@dataclass(frozen=True)
class Record:
    """A file of the folder. Sizes are as it is shown: upright, in square pixels."""

    file: str                    # below the folder, with / between its parts
    bytes: int = 0
    modified: int = 0            # nanoseconds
    kind: str = ""               # video or image
    width: int = 0
    height: int = 0
    own_fps: float = 0
    fps: float = 0               # at which frames are counted
    takes: tuple[Take, ...] = ()
    reason: str = ""             # why it is of no use

    @property
    def size(self) -> media.Size:
        return self.width, self.height

    def fits(self, other: "Record", most: float) -> bool:
        """Whether this is what a scan would say of a file that looks like `other` from outside."""
        same = (self.file, self.bytes, self.modified) == (other.file, other.bytes, other.modified)
        return same and self.fps == (footage.thinned(self.own_fps, most) if self.own_fps else 0)

    def line(self) -> dict[str, Any]:
        return {**asdict(self), "takes": [asdict(take) for take in self.takes]}

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> "Record":
        """The inverse of `line`, which may hold more."""
        plain = {key: value for key, value in line.items() if key in cls.__dataclass_fields__}
        takes = tuple(Take(**{key: take[key] for key in Take.__dataclass_fields__}) for take in plain.pop("takes"))
        return cls(**plain, takes=takes)


def files_of(folder: Path, leave_out: Path) -> list[str]:
    """Every file below a folder, sorted; those of the dataset that lies in it left out."""
    found = []
    for where, folders, names in os.walk(folder):
        here = Path(where)
        folders[:] = [name for name in folders if (here / name).resolve() != leave_out.resolve()]
        found += [(here / name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def outside(folder: Path, file: str) -> Record:
    """What is known of a file without opening it."""
    try:
        told = (folder / file).stat()
    except OSError as error:
        return Record(file, reason=f"broken: {(error.strerror or 'unreadable').lower()}")
    return Record(file, told.st_size, told.st_mtime_ns)


def examine(folder: Path, begun: Record, most: float) -> Record:
    """A file opened and judged; nothing that is in it can stop a scan."""
    path = folder / begun.file
    suffix = path.suffix.lower()
    found: dict[str, Any] = {}
    if begun.reason:
        return begun
    if not path.is_file() or suffix not in footage.VIDEOS + footage.IMAGES:
        found["reason"] = "no video or image by its name"
    elif not begun.bytes:
        found["reason"] = "broken: it is empty"
    else:
        try:
            picture = suffix in (*footage.IMAGES, ".gif") and not footage.moves(path)
            found = of_image(path) if picture else of_video(path, most)
        except SoraError as error:
            found["reason"] = "broken: " + " ".join(str(error).replace(str(path), "it").split())
        except OSError as error:
            found["reason"] = f"broken: {(error.strerror or 'unreadable').lower()}"
    return Record(begun.file, begun.bytes, begun.modified, **found)


def of_image(path: Path) -> dict[str, Any]:
    frame = footage.read_image(path)
    height, width = frame.shape[:2]
    luma = 16 + frame.reshape(-1, 3)[:: max(1, width * height // 20_000)] @ np.array([0.183, 0.614, 0.062])
    low, high = np.percentile(luma, (10, 90))
    found: dict[str, Any] = {"kind": "image", "width": width, "height": height}
    reason = wrong_size(width, height) or empty(float(low), float(high))
    return found | ({"reason": reason} if reason else {"takes": (Take(0, 1),)})


def of_video(path: Path, most: float) -> dict[str, Any]:
    with media.open_source(str(path)) as source:
        format = source.format
    width, height = max(1, round(format.width * format.pixel_aspect)), format.height
    fps = footage.thinned(format.fps, most)
    found: dict[str, Any] = {"kind": "video", "width": width, "height": height, "own_fps": format.fps, "fps": fps}
    if reason := wrong_size(width, height):
        return found | {"reason": reason}
    looks = np.array(list(looked_at(path, fps)))
    if len(looks) == 0:
        raise Failed(f"{path} has no frames")
    takes = tuple(judged(take, looks, fps) for take in cut(looks[:, KEYS.index("score")]))
    if all(take.reason for take in takes):
        reasons = list(dict.fromkeys(take.reason for take in takes))
        return found | {"takes": takes, "reason": reasons[0] if len(reasons) == 1 else "no shot: " + ", ".join(reasons)}
    return found | {"takes": takes}


def looked_at(path: Path, fps: float) -> Iterator[tuple[float, ...]]:
    """Of every frame: luma of its 10th and 90th percentile, difference to the one before in %, score of a cut."""
    width, height = LOOKED_AT
    filters = f"setpts=PTS-STARTPTS,fps={media.rational(fps)},scale={width}:{height}:flags=area:out_range=tv"
    filters += ",format=yuv420p,signalstats,scdet=threshold=100,metadata=print:file=-"
    command = [ffmpeg(), *QUIET, *LOCAL, "-i", media.as_file(path), "-map", "0:V:0", "-vf", filters]
    command += ["-fps_mode", "passthrough", "-f", "null", os.devnull]
    with closing(Through(command, blame=f"{path} is damaged", fatal=".")) as through:
        seen: dict[str, float] = {}
        for line in buffered(through):
            name, _, value = line.decode().rstrip().rpartition("=")
            if (key := name.rpartition(".")[2]) in KEYS:
                seen[key] = float(value)
            if key == KEYS[-1]:
                yield tuple(seen[key] for key in KEYS)


def cut(scores: Iterable[float]) -> list[Take]:
    """Shots, by the score of every frame for being the first of one."""
    scores = list(scores)
    begins = [0, *(i for i, score in enumerate(scores) if i and score >= CUT)]
    return [Take(begin, end - begin) for begin, end in zip(begins, [*begins[1:], len(scores)], strict=True)]


def judged(take: Take, looks: np.ndarray, fps: float) -> Take:
    """A shot with the reason why it is of no use, if there is one."""
    low, high, motion, _ = looks[take.first : take.first + take.frames].T
    if take.frames < FEWEST or take.frames / fps < SHORTEST:
        reason = f"too short: {take.frames / fps:.2g} s"
    else:
        reason = empty(float(np.median(low)), float(np.median(high)))
        if not reason and motion[1:].mean() < STILL:
            reason = "static: nothing moves"
    return Take(take.first, take.frames, reason)


def empty(low: float, high: float) -> str:
    if high < DARK:
        return "black"
    return "of one colour" if high - low < FLAT else ""


def wrong_size(width: int, height: int) -> str:
    if min(width, height) < SMALLEST:
        return f"tiny: {width}x{height}, and {SMALLEST} pixels are the least"
    if max(width / height, height / width) > WIDEST_ASPECT:
        return f"too elongated: {width}x{height}, and {WIDEST_ASPECT:g} to 1 is the most"
    return ""
