"""Every size is derived from another here, by exact division. Pure arithmetic, no torch."""

import math
import re
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from sora_cli.errors import SoraError

TIME_STRIDE = 4       # frames of a chunk: latent 0 is frame 0 alone, each later latent 4 frames
SPACE_STRIDE = 16     # pixels per latent cell and side
PATCH = 2             # latent cells per token and side
TOKENS = 60           # tokens of a frame on pocket's native canvas

SMALLEST_SIDE, LARGEST_SIDE = 16, 8192
WIDEST_ASPECT = 8.0


def divide(value: int, by: int, what: str = "size") -> int:
    """value / by, exactly; SoraError with the nearest legal values otherwise."""
    quotient, rest = divmod(value, by)
    if rest:
        lower, upper = quotient * by, (quotient + 1) * by
        raise SoraError(f"{what} {value} is not a multiple of {by}; the nearest are {lower} and {upper}")
    return quotient


def parse_res(text: str) -> tuple[int, int]:
    """`1280x720` -> (1280, 720), both even and sane; a SoraError otherwise."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX×*]\s*(\d{1,6})\s*", text)
    if not match:
        raise SoraError(f"resolution {text!r} is not WIDTHxHEIGHT, for example 1280x720")
    width, height = int(match[1]), int(match[2])
    check_size(width, height)
    return width, height


def check_size(width: int, height: int) -> None:
    """Refuse sizes that H.264 in yuv420p cannot store (odd sides) and absurd ones (0, 100000, 50:1)."""
    asked = f"resolution {width}x{height}"
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in (width, height)):
        raise SoraError(f"{asked} is out of range: a side must be {SMALLEST_SIDE} to {LARGEST_SIDE} pixels")
    if width % 2 or height % 2:
        even = f"{width + width % 2}x{height + height % 2}"
        raise SoraError(f"{asked} has an odd side, which H.264 (yuv420p) cannot store; the nearest is {even}")
    if max(width / height, height / width) > WIDEST_ASPECT:
        raise SoraError(f"{asked} is too narrow: the longer side may be at most {WIDEST_ASPECT:g} times the shorter")


def frames_for(seconds: float, fps: float) -> int:
    """round(seconds * fps); SoraError if that is less than one frame or not finite."""
    if not math.isfinite(seconds * fps):
        raise SoraError(f"{seconds:g} s at {fps:g} fps is not a length; both must be finite numbers")
    frames = round(seconds * fps)
    if frames < 1:
        raise SoraError(f"{seconds:g} s at {fps:g} fps is less than one frame; give at least {1 / fps:.3g} s")
    return frames


def latents_for(frames: int) -> int:
    """Latents that cover `frames` frames: 1 -> 1, 2..5 -> 2, 6..9 -> 3."""
    return math.ceil((frames - 1) / TIME_STRIDE) + 1


def frames_in(latents: int) -> int:
    """Frames that `latents` latents decode to: 1 + 4 (latents - 1)."""
    return 1 + TIME_STRIDE * (latents - 1)


def parse_address(text: str, fps: float, frames: int) -> int:
    """`2.5s` (seconds), `60` (frame) or `-1` (last frame; `-0.5s`: half a second before the end) -> frame.

    SoraError for anything else, and for an address outside the video.
    """
    match = re.fullmatch(r"\s*([+-]?)(\d{1,12}\.?\d{0,12}|\.\d{1,12})(s?)\s*", text)
    if not match or not (match[3] or match[2].isdigit()):
        raise SoraError(f"address {text[:40]!r} is not a time; write seconds (2.5s), a frame (60) or -1 for the end")
    distance = round(float(match[2]) * fps) if match[3] else int(match[2])
    frame = frames - distance if match[1] == "-" else distance
    if not 0 <= frame < frames:
        end = (frames - 1) / fps
        raise SoraError(
            f"address {text!r} is outside the video; give a frame from 0 to {frames - 1}, "
            f"seconds from 0s to {math.floor(end * 100) / 100:g}s, or -1 to -{frames} from the end"
        )
    return frame


def moved(text: str, before: tuple[float, int], after: tuple[float, int]) -> str:
    """Convert an address in a video of (fps, frames) to the same video at another rate: the nearest frame in time; the
    last frame stays the last, and an address from the end stays one from the end."""
    frame = parse_address(text, *before)
    there = after[1] - 1 if frame == before[1] - 1 else min(round(frame / before[0] * after[0]), after[1] - 1)
    return str(there - after[1]) if text.strip().startswith("-") else str(there)


def snap(frame: int) -> tuple[int, int]:
    """The latent with the nearest key frame, and that key frame (a multiple of 4; the earlier of two)."""
    latent = (frame + TIME_STRIDE // 2 - 1) // TIME_STRIDE
    return latent, latent * TIME_STRIDE


def key_frames(start: int, frames: int) -> tuple[int, int]:
    """(latent of the first key frame in `frames` frames from `start` on, number of key frames in them)."""
    first = math.ceil(start / TIME_STRIDE)
    return first, max(0, (start + frames - 1) // TIME_STRIDE - first + 1)


def runs(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers, cut wherever one is missing: (0, 1, 5) -> [[0, 1], [5]]. Ends of runs are bisected."""
    found, start = list[list[int]](), 0
    while start < len(numbers):
        stop = bisect(range(len(numbers)), numbers[start] - start, lo=start, key=lambda index: numbers[index] - index)
        found.append(list(numbers[start:stop]))
        start = stop
    return found


@dataclass(frozen=True)
class Span:
    """The generated frames, of which [lead, lead + frames) are shown.

    What lies before and after is context: frames of another video, or up to three frames that put a
    given one onto a key frame."""

    lead: int
    frames: int
    trail: int = 0

    @property
    def latents(self) -> int:
        return latents_for(self.lead + self.frames + self.trail)


def span_for(frames: int, given: Sequence[tuple[int, int]]) -> Span:
    """The span of a video with given pieces, each (first frame, count). Its lead of 0 to 3 frames brings single given
    frames closest to key frames; among equal leads, it is the one for which given clips have the fewest frames before
    their first key frame."""
    images, clips = ([at for at, count in given if (count == 1) is single] for single in (True, False))

    def lost(lead: int) -> tuple[int, int]:
        away = sum(abs(snap(frame + lead)[1] - frame - lead) for frame in images)
        return away, sum(-(frame + lead) % TIME_STRIDE for frame in clips)

    return Span(min(range(TIME_STRIDE), key=lost), frames)


@dataclass(frozen=True)
class Canvas:
    """The size that is generated, and the centred part of it that has the asked aspect. Pixels."""

    width: int
    height: int
    crop_width: int
    crop_height: int

    @property
    def crop(self) -> tuple[int, int]:
        """(width, height) of the part that is kept."""
        return self.crop_width, self.crop_height

    @property
    def left(self) -> int:
        return (self.width - self.crop_width) // 2

    @property
    def top(self) -> int:
        return (self.height - self.crop_height) // 2

    @property
    def waste(self) -> float:
        """Share of the canvas that is cropped away."""
        return 1 - self.crop_width * self.crop_height / (self.width * self.height)


@cache
def canvas(width: int, height: int, stride: int = SPACE_STRIDE, patch: int = PATCH, tokens: int = TOKENS) -> Canvas:
    """The token grid of about `tokens` tokens that covers the aspect width:height with little waste.

    1280x720 -> 10x6 tokens = 320x192 pixels, of which the centred 320x180 are kept.
    """
    unit = stride * patch
    candidates = [
        fit(columns * unit, rows * unit, width / height)
        for columns in range(1, 2 * tokens + 1)
        for rows in range(1, 2 * tokens + 1)
        if tokens <= 2 * columns * rows <= 4 * tokens
    ]
    return min(candidates, key=lambda c: abs(math.log(c.width * c.height / (unit * unit * tokens))) + c.waste)


def canvas_within(width: int, height: int, stride: int, pixels: int, patch: int = PATCH) -> Canvas:
    """The token grid that covers width x height, or the same aspect on `pixels` pixels if that is more.

    1280x720 on 1280 * 704 pixels in tokens of 32 -> 1280x704 pixels, of which the centred 1252x704 are kept.
    """
    unit = stride * patch
    scale = min(1.0, math.sqrt(pixels / (width * height)))
    columns, rows = (scale * side / unit for side in (width, height))
    if scale == 1:
        return fit(math.ceil(columns) * unit, math.ceil(rows) * unit, width / height)
    near = ({max(1, math.floor(number)), max(1, math.ceil(number))} for number in (columns, rows))
    grids = [(c, r) for c, r in product(*near) if c * r * unit**2 <= pixels or c * r == 1]
    candidates = [fit(c * unit, r * unit, width / height) for c, r in grids]
    return min(candidates, key=lambda c: math.log(pixels / (c.width * c.height)) + c.waste)


def fit(width: int, height: int, aspect: float) -> Canvas:
    """The largest centred part of width x height that has the given aspect."""
    crop_width = min(width, max(1, round(height * aspect)))
    crop_height = min(height, max(1, round(width / aspect)))
    return Canvas(width, height, crop_width, crop_height)
