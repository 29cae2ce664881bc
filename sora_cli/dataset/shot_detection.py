"""What is to be seen in a video, frame by frame, small: whether there is anything, and where its shots begin. No torch.

Something is to be seen where the picture as a whole has contrast, noise averaged away, or where a few pixels stand out
of the rest by far more than noise does: a product on white, stars, a lit face. The score of a cut is that of ffmpeg's
scdet, from the luma of neighbouring frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from einops import rearrange, reduce
from PIL import Image

from sora_cli import media
from sora_cli.media.process import CHECKED, LOCAL, ffmpeg, pieces

LOOKED_AT = (160, 96)            # pixels: what frames of videos are judged at
PICTURE = 640                    # pixels along the longer side: the same of pictures
CUT = 10.0                       # of the score, 0 to 100: what scdet's authors take for a cut
SUDDEN, NEAR = 2.0, 4            # times as much change as in frames around: a camera that shakes or rushes by has less
FLASH = 3                        # frames: as long as a flash lasts
FADE = 6                         # frames beside a dark one that a fade may still darken
AGAIN = 0.25                     # of a flash's change: frames around it that differ by less are one shot
DARK, FLAT = 32, 4               # of 8 bits, video range: the lightest parts of black, the contrast of one colour
BLOCKS = 20                      # along a row: means over them, and over frames, average noise away
APART, NOISE = 16, 6             # of 8 bits, and of the noise's spread: what stands out of the rest
FEW = 3e-4                       # of all pixels: as many have to

HALVES = (3, 4, 5, 6, 8, 10, 12, 15, 18, 21, 24, 30)  # frames: half as long as dissolves are looked for
INSIDE = (0.25, 0.5, 0.75)       # where a dissolve has to be a mixture of its ends
OTHER, PLAIN = 12.0, 5.0         # of 8 bits: by how much its ends differ, and what varies in each of them
MIXED, COMMON = 0.2, 0.5         # of the difference: what is no mixture; how much alike the ends are

Planes = list[np.ndarray]        # luma, and two of chroma, [h, w] of 8 bits in video range


@dataclass
class FrameStatistics:
    """Of every frame: whether a subject stands out, its change in %, and its means in blocks [3, h, w]."""

    subject: list[bool] = field(default_factory=list)
    change: list[float] = field(default_factory=list)
    blocks: list[np.ndarray] = field(default_factory=list)
    lightest: np.ndarray | None = None  # of every pixel [h, w]

    @property
    def frames(self) -> int:
        return len(self.blocks)

    @property
    def framed(self) -> bool:
        """Whether some side of it stays black, so that there may be bars."""
        sides = [] if self.lightest is None else [self.lightest[0], self.lightest[-1], *self.lightest.T[[0, -1]]]
        return any(side.max() <= DARK + 16 for side in sides)

    @cached_property
    def dissolves(self) -> list[tuple[int, int]]:
        """The first frames of gradual changes from one shot to the next, and the first frames behind them.

        Inside of one, every frame is a mixture of those at its ends, which have nothing in common: what moves, is lit
        otherwise or comes nearer is no mixture."""
        if self.frames < 2 * HALVES[0] + 1:
            return []
        blocks = rearrange(np.stack(self.blocks).astype(np.float32), "T c h w -> T c (h w)")
        found: list[tuple[float, int, int]] = []
        for half in HALVES:
            if self.frames > 2 * half:
                score = mixed(blocks, half)
                found += [(float(score[i]), i, i + 2 * half) for i in np.flatnonzero(score > 0).tolist()]
        taken: list[tuple[int, int]] = []
        for _, begin, end in sorted(found, reverse=True):
            if all(end <= first or last <= begin for first, last in taken):
                taken.append((begin, end))
        return sorted((begin + 1, end) for begin, end in taken)

    def nothing(self, part: slice) -> str:
        """Why there is nothing to see in some frames, or two shots at once, "" if there is something."""
        if any(begin <= part.start and part.stop <= end for begin, end in self.dissolves):
            return "a dissolve"
        blocks = np.stack(self.blocks[part])
        if 2 * sum(self.subject[part]) > len(blocks) or np.median([contrast(one) for one in blocks]) > APART:
            return ""
        return plain(blocks.mean(0))


def measure_frames(path: Path, fps: float) -> FrameStatistics:
    seen, before = FrameStatistics(), None
    for planes in frames_of(path, fps):
        luma = planes[0].astype(np.int16)
        seen.subject.append(any(map(has_subject, planes)))
        seen.change.append(0.0 if before is None else float(np.abs(luma - before).mean()) * 100 / 256)
        seen.blocks.append(blocked(planes).astype(np.uint8))
        seen.lightest = planes[0] if seen.lightest is None else np.maximum(seen.lightest, planes[0])
        before = luma
    return seen


def frames_of(path: Path, fps: float) -> Iterator[Planes]:
    """The frames of a video, small; Failed where it is damaged."""
    width, height = LOOKED_AT
    filters = f"setpts=PTS-STARTPTS,fps={media.rational(fps)},scale={width}:{height}:flags=area:out_range=tv"
    command = [ffmpeg(), *CHECKED, *LOCAL, "-i", media.as_file(path), "-map", "0:V:0"]
    command += ["-vf", f"{filters},format=yuv444p", "-fps_mode", "passthrough", "-f", "rawvideo", "pipe:1"]
    for raw in pieces(command, 3 * width * height, f"{path} is damaged", fatal="."):
        yield list(np.frombuffer(raw, np.uint8).reshape(3, height, width))


def planes_of(frame: media.Frame) -> Planes:
    """The same of a picture."""
    image = Image.fromarray(frame)
    image.thumbnail((PICTURE, PICTURE), Image.Resampling.BOX)
    luma, *chroma = np.moveaxis(np.asarray(image.convert("YCbCr")), -1, 0)
    return [16 + luma * (219 / 255), *chroma]


def blocked(planes: Planes) -> np.ndarray:
    """Means of square blocks [3, h, w]; what is left over at the edges is left out."""
    whole = np.stack(planes).astype(np.float32)
    side = max(1, max(whole.shape) // BLOCKS)
    height, width = (max(1, length // side) * side for length in whole.shape[1:])
    return reduce(whole[:, :height, :width], "c (h y) (w x) -> c h w", "mean", y=min(side, height), x=min(side, width))


def nothing(planes: Planes) -> str:
    """Why there is nothing to see in a picture, "" if there is something."""
    return "" if any(map(has_subject, planes)) else plain(blocked(planes))


def plain(blocks: np.ndarray) -> str:
    """Why there is nothing to see in means [3, h, w] without a subject."""
    if np.percentile(blocks[0], 90) < DARK:
        return "black"
    return "of one colour" if contrast(blocks) < FLAT else ""


def contrast(blocks: np.ndarray) -> float:
    """Between the lightest and the darkest parts, or the same of chroma if that is more."""
    low, high = np.percentile(blocks.reshape(3, -1), (10, 90), axis=1)
    return float((high - low).max())


def has_subject(plane: np.ndarray) -> bool:
    """Whether some pixels are far from what most are like."""
    apart = np.abs(plane - np.float32(np.median(plane)))
    noise = 1.4826 * float(np.median(apart))  # its standard deviation, whatever the few are like
    return int((apart > max(APART, NOISE * noise)).sum()) >= FEW * apart.size


# ---- dissolves --------------------------------------------------------------------------------------------


def mixed(blocks: np.ndarray, half: int) -> np.ndarray:
    """Of every run of 2 half + 1 frames [T, c, n] how much its ends differ, 0 if those between them are no mixtures."""
    first, last = blocks[: -2 * half], blocks[2 * half :]
    change = np.abs(last - first).mean((1, 2))
    away = np.zeros_like(change)
    for share in INSIDE:
        step = round(2 * half * share)
        between = blocks[step : step + len(first)]
        away = np.maximum(away, np.abs(between - first - (last - first) * np.float32(step / (2 * half))).mean((1, 2)))
    a, b = (end - end.mean(2, keepdims=True) for end in (first, last))
    plainest = np.minimum((a**2).mean((1, 2)), (b**2).mean((1, 2)))  # fades have an end without a picture
    same = (a * b).mean((1, 2)) / np.sqrt(np.maximum((a**2).mean((1, 2)) * (b**2).mean((1, 2)), 1e-6))
    good = (change >= OTHER) & (away <= MIXED * change) & (same <= COMMON) & (plainest >= PLAIN**2)
    return np.where(good, change * (1 - away / np.maximum(change, 1e-6)), 0)


# ---- shots ------------------------------------------------------------------------------------------------


def shots(seen: FrameStatistics) -> list[tuple[int, int]]:
    """The first frame and the length of every shot; what shows nothing, as a fade does, is a shot by itself."""
    begins = [0, *cuts(seen)]
    found = []
    for begin, end in zip(begins, [*begins[1:], seen.frames], strict=True):
        inside = [begin] if seen.nothing(slice(begin, end)) else [begin, *edges(seen, begin, end)]
        found += [(a, b - a) for a, b in zip(inside, [*inside[1:], end], strict=True)]
    return found


def cuts(seen: FrameStatistics) -> list[int]:
    """The frames that begin another shot; those of a flash, after which all is as before, do not."""
    change = np.array(seen.change)
    score = np.minimum(change, np.abs(np.diff(change, prepend=0.0)))
    score[change < SUDDEN * around(change)] = 0
    found, after = [], 0
    for i in range(1, seen.frames):
        if i >= after and score[i] >= CUT:
            after = next((j for j in range(i + 1, min(i + 1 + FLASH, seen.frames)) if alike(seen, i - 1, i, j)), i)
            found += [] if after > i else [i]
            after += after > i
    return found


def around(change: np.ndarray) -> np.ndarray:
    """The mean of what lies up to `NEAR` frames on both sides of each."""
    weights = np.ones(2 * NEAR + 1)
    weights[NEAR] = 0
    return np.convolve(np.pad(change, NEAR, mode="edge"), weights / weights.sum(), mode="valid")


def alike(seen: FrameStatistics, *indices: int) -> bool:
    """Whether the first and the last of three frames are like one another, beside the one between them."""
    before, there, again = (seen.blocks[i][0].astype(np.int16) for i in indices)
    return bool(np.abs(again - before).mean() < AGAIN * np.abs(there - before).mean())


def edges(seen: FrameStatistics, first: int, last: int) -> list[int]:
    """Where runs of frames without a picture begin and end between two cuts, but for flashes."""
    bare = np.array([bool(seen.nothing(slice(i, i + 1))) for i in range(first, last)])
    turns = [first, *(first + 1 + np.flatnonzero(np.diff(bare))).tolist(), last]
    runs = [(begin, end) for begin, end in zip(turns, turns[1:], strict=False) if bare[begin - first]]
    flashes = [(begin, end) for begin, end in runs if first < begin and end < last and end - begin <= FLASH
               and alike(seen, max(first, begin - FADE), begin, min(last - 1, end + FADE))]  # fmt: skip
    return [index for run in runs if run not in flashes for index in run if first < index < last]
