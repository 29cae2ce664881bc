"""Frames of clips and pictures as a dataset wants them: upright, in square pixels, at a steady rate, filling their
canvas with a little cut off at the edges. No torch.

Frames are uint8 arrays [h, w, 3] in RGB. Sizes are (width, height).
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sora_cli import media
from sora_cli.errors import Failed
from sora_cli.media.bars import Bars
from sora_cli.media.kinds import IMAGES, ending
from sora_cli.media.probing import TooLarge, looked_at
from sora_cli.media.profiles import to_srgb
from sora_cli.media.sources import Opening
from sora_cli.media.y4m import LARGEST

ANIMATED = ("GIF", "PNG", "WEBP")  # formats whose pictures follow one another; those of others are a choice
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what is too large is refused below
WHOLE = Bars()                   # pictures without bars
LOOKS = 24                       # frames of a clip by which bars are found
SLACK = 1.01                     # 30.3 frames a second pass for 30


def decimated_fps(fps: float, most: float) -> float:
    """Every n-th frame of a video, so that there are at most `most` a second: 60 -> 30, 50 -> 25, 12 -> 12."""
    return fps / math.ceil(fps / (most * SLACK))


def covering(size: media.Size, canvas: media.Size) -> media.Size:
    """The size of a whole picture that keeps its aspect and leaves nothing of the canvas bare."""
    scale = max(c / s for c, s in zip(canvas, size, strict=True))
    width, height = (max(c, round(s * scale)) for c, s in zip(canvas, size, strict=True))
    return width, height


def middle(frame: media.Frame, canvas: media.Size) -> media.Frame:
    """The centred part of a frame that is as large as the canvas."""
    (width, height), (h, w) = canvas, frame.shape[:2]
    top, left = (h - height) // 2, (w - width) // 2
    return frame[top : top + height, left : left + width]


def read_video(path: Path, first: int, fps: float, size: media.Size, canvas: media.Size,
               bars: Bars) -> Iterator[media.Frame]:  # fmt: skip
    """Frames of a video from number `first` on, counted at `fps`, without their bars; `size` is what it is shown at."""
    inner = bars.within(size)
    width, height = covering(inner, canvas)
    scale = width / inner[0], height / inner[1]
    large = round(size[0] * scale[0]), round(size[1] * scale[1])
    top, left = min(round(bars.top * scale[1]), large[1] - height), min(round(bars.left * scale[0]), large[0] - width)
    words = ["-i", media.as_file(path)]
    picture = looked_at(words, str(path))
    seconds, passed = (first - 0.5) / fps, 0
    with ExitStack() as held:
        opening = Opening(str(path), held, large, fps)
        try:
            source = opening.decode([*(["-ss", f"{seconds:.6f}"] if seconds > 0 else []), *words], picture)
        except Failed:
            if not first:
                raise
            source, passed = opening.decode(words, picture), first  # of WebP and some APNG, where nothing is found
        for frame in islice(media.to_rgb(source, source.format, large), passed, None):
            yield middle(frame[top : top + height, left : left + width], canvas)


def bars_of(path: Path, frames: int, fps: float, size: media.Size) -> Bars:
    """The black bars of a video of so many frames, by a few of them."""
    with media.open_source(str(path), fps=fps * min(1.0, LOOKS / frames)) as source:
        return Bars.around(islice(media.to_rgb(source, source.format, size), LOOKS))


def read_image(path: Path, canvas: media.Size | None = None) -> media.Frame:
    """A picture, upright, its transparent parts on black, on its canvas if there is one; of several in one file, as
    phones and scanners write them, the first. TooLarge, or Failed if it is broken."""
    try:
        with Image.open(path) as image:
            if max(image.size) > LARGEST:
                raise TooLarge(f"{path} is {image.width}x{image.height}; at most {LARGEST}x{LARGEST} is supported")
            upright = plain(to_srgb(image)[0])
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{path} is larger than {LARGEST}x{LARGEST}, the most that is supported") from error
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        raise Failed(f"{path} is not a readable image: {error}") from error
    if canvas is None:
        return np.asarray(upright)
    return middle(np.asarray(upright.resize(covering(upright.size, canvas), Image.Resampling.LANCZOS)), canvas)


def plain(image: Image.Image) -> Image.Image:
    """In RGB, over black."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")


def is_image(path: Path) -> bool:
    """Whether a file is a picture that does not move: by what is in it, and where that may be either, by its name."""
    format, moves = None, False
    with suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError), Image.open(path) as image:
        format, moves = image.format, bool(getattr(image, "is_animated", False))
    named = ending(path.name) in (*IMAGES, ".gif")
    return named and not moves if format in (*ANIMATED, None) else named or not moves


def read(path: Path, row: Mapping[str, Any], first: int, frames: int, canvas: media.Size) -> np.ndarray:
    """At most `frames` frames of a video from number `first` on, or the one of a picture: [T, h, w, 3]. `row`: what the
    index of a dataset says of the file."""
    if row["kind"] == "image":
        return read_image(path, canvas)[None]
    coming = read_video(path, first, row["fps"] or 1.0, row["size"], canvas, Bars(*row.get("bars", ())))
    found = list(islice(coming, frames))
    coming.close()  # type: ignore[attr-defined]
    if not found:
        raise Failed(f"{path} has no frame {first}")
    return np.stack(found)
