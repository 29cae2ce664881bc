"""Raw frames to RGB and back, and to other rates, through one ffmpeg between two generators."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

from sora_cli.errors import SoraError
from sora_cli.media import y4m
from sora_cli.media.process import QUIET, Y4M_IN, ffmpeg, pieces
from sora_cli.media.retiming import Padded, Retiming
from sora_cli.media.y4m import Format, Size

Frame = np.ndarray               # uint8 [h, w, 3], RGB

UNREADABLE = "these frames cannot be read"
FITS = ("stretch", "cover", "contain")
RAW_RGB = ("-f", "rawvideo", "-pix_fmt", "rgb24")
YUV = "scale=out_color_matrix=bt709:out_range=pc,format=yuv444p"  # in which minterpolate works
SHARP = "flags=lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
WIDE = ("bt2020", "smpte431", "smpte432")
PLANES = "mergeplanes=0x000102:"  # to RGB and back in y4m, which knows no RGB


def to_rgb(frames: Iterable[bytes], format: Format, size: Size, fit: str = "stretch") -> Iterator[Frame]:
    """Raw frames -> uint8 [h, w, 3] of exactly `size`.

    `fit`: cover fills it and cuts the edges off, contain shows the whole picture between black bars, stretch
    does neither. Frames are read one by one as they are asked for; what `frames` raises comes out here.
    """
    width, height = size
    filters = f"{declare(format)},{fitting(format, size, fit)}"
    command = [ffmpeg(), *Y4M_IN, "-vf", filters, "-fps_mode", "passthrough", *RAW_RGB, "pipe:1"]
    for raw in pieces(command, 3 * width * height, UNREADABLE, y4m.stream(frames, format)):
        yield np.frombuffer(raw, np.uint8).reshape(height, width, 3)


def from_rgb(
    frames: Iterable[Frame], source_size: Size, format: Format, retiming: Retiming | None = None
) -> Iterator[bytes]:
    """RGB frames uint8 [h, w, 3] of `source_size` -> raw frames of `format`, in its size, chroma, range, colours, and
    with `retiming` at its rate. Those between are made before anything is enlarged: that is less work."""
    if retiming and not retiming.raises:
        frames, retiming = retiming.dropped(frames), None
    width, height = format.size
    filters, planes = f"scale={width}:{height}:{SHARP}", format.rgb_planes if format.rgb else format.pix_fmt
    if not format.rgb:
        filters += f":out_color_matrix={format.matrix}:out_range={'pc' if format.full_range else 'tv'}"
    between = f"{YUV},{retiming.filter}," if retiming else ""
    rate, pixels = retiming.made if retiming else format.rate, "x".join(map(str, source_size))
    command = [ffmpeg(), *QUIET, *RAW_RGB, "-video_size", pixels, "-framerate", f"{rate.numerator}/{rate.denominator}"]
    command += ["-i", "pipe:0", "-vf", f"{between}{filters},format={planes}"]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "pipe:1"]
    padded = Padded(frames, retiming) if retiming else None
    feed = (contiguous(frame, source_size) for frame in padded or frames)
    shown = pieces(command, format.frame_bytes, UNREADABLE, feed)
    yield from padded.limited(shown) if padded else shown


def retimed(frames: Iterable[bytes], format: Format, retiming: Retiming | None) -> Iterator[bytes]:
    """Raw frames at another rate; unchanged without a retiming. New ones are made in 8 bits, in YUV."""
    if retiming is None or not retiming.raises:
        yield from retiming.dropped(frames) if retiming else frames
        return
    padded = Padded(frames, retiming)
    planar = f"{YUV},{retiming.filter},format={format.rgb_planes},{PLANES}{format.pix_fmt}"
    filters = f"{declare(format)},{planar if format.rgb else f'{retiming.filter},format={format.pix_fmt}'}"
    command = [ffmpeg(), *Y4M_IN, "-vf", filters, "-fps_mode", "passthrough", "-f", "rawvideo"]
    command += ["-strict", "-1", "pipe:1"]
    made = pieces(command, format.frame_bytes, UNREADABLE, y4m.stream(padded, format))
    for count, raw in enumerate(padded.limited(made), 1):
        yield padded.last[0] if retiming.end is not None and count == retiming.frames else raw


def contiguous(frame: Frame, size: Size) -> memoryview:
    assert frame.dtype == np.uint8 and frame.shape == (*reversed(size), 3), frame.shape
    return np.ascontiguousarray(frame).data


def declare(format: Format) -> str:
    """Filters that declare the colour space for the filters after them; y4m cannot express all of it."""
    named = f"color_primaries={format.primaries}:color_trc={format.transfer}"
    if format.rgb:
        return f"{PLANES}{format.rgb_planes},setparams=colorspace=gbr:{named}:range=pc"
    return f"setparams=colorspace={format.matrix}:{named}:range={'pc' if format.full_range else 'tv'}"


def in_rgb(format: Format, most: int) -> str:
    """Filters to RGB of 8 bits, or of 16 where frames have more than 8 and `most` allows it. It says of itself that it
    is sRGB, as which a video's is shown; wider colours say theirs."""
    pixels = "rgb48be" if min(most, format.depth) > 8 else "rgb24"
    primaries = format.primaries if format.primaries in WIDE else "bt709"
    srgb = f"setparams=color_primaries={primaries}:color_trc=iec61966-2-1"
    return f"{declare(format)},scale={SHARP},format={pixels},{srgb}"


def fitting(format: Format, size: Size, fit: str) -> str:
    """The filters from the picture to RGB of exactly `size`."""
    if fit not in FITS:
        raise SoraError(f"unknown fit {fit!r}; choose one of {', '.join(FITS)}")
    (width, height), (w, h) = size, fitted(format, size, fit)
    chain = [f"scale={w}:{h}:{SHARP}", "format=rgb24"]
    if fit == "cover":
        chain.append(f"crop={width}:{height}")
    if fit == "contain":
        chain.append(f"pad={width}:{height}:(ow-iw)/2:(oh-ih)/2:black")
    return ",".join(chain)


def fitted(format: Format, size: Size, fit: str) -> Size:
    """The size of the whole picture, pixels made square, that fills `size` (cover) or fits into it (contain)."""
    if fit == "stretch":
        return size
    shape = format.width * format.pixel_aspect / format.height
    wider = shape > Fraction(*size)
    if wider == (fit == "cover"):
        return max(1, round(size[1] * shape)), size[1]
    return size[0], max(1, round(size[0] / shape))
