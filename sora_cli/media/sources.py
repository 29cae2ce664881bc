"""Where frames come from: files, numbered images and standard input, all as raw y4m frames."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from sora_cli.errors import Failed, SoraError
from sora_cli.media import y4m
from sora_cli.media.convert import SHARP, Frame, from_rgb
from sora_cli.media.names import STREAM, check_input, sequence_of
from sora_cli.media.probing import Picture, describe
from sora_cli.media.process import BLOCK, LOCAL, QUIET, Through, as_file, buffered, ffmpeg, rational
from sora_cli.media.y4m import MAGIC, Format, Size

STILL_FPS = 24.0                 # of images, unless told
CUT_OFF = "partial file|ended prematurely"
HEADS = (1 << 18, 1 << 20, 1 << 22, 1 << 24)     # bytes of a pipe to look at before knowing what it is
FASTEST_NOMINAL = 120            # frames per second; above it, a variable rate is counted in ticks, not in frames

Y4M = ("-strict", "-1", "-f", "yuv4mpegpipe")
NATIVE = "format=" + "|".join(sorted({*y4m.PIX_FMTS.values()} - {"yuva444p"}))
OVER_BLACK = ("format=gbrap", "premultiply=inplace=1")
FROM_RGB = ("scale=out_color_matrix=bt709:out_range=tv", "format=yuv444p")


@dataclass(frozen=True)
class Wish:
    """What a reader asks for: another size or rate (None: as it is), and how to take what has no header."""

    size: Size | None = None
    fps: float | None = None
    input_size: Size | None = None
    input_fps: float | None = None

    @property
    def filters(self) -> list[str]:
        filters = [f"fps={rational(self.fps)}"] if self.fps else []
        if self.size:
            filters += [f"scale={self.size[0]}:{self.size[1]}:{SHARP}", "setsar=1"]
        return filters


class Source:
    """The raw frames of one input, one by one and once: an iterator and a context manager.

    `format` says what a frame is, `notes` what was changed on the way (a variable rate, transparency), `metadata`
    are the tags of a file. The first frame is read at the start, so that what cannot be read is known early.
    """

    def __init__(
        self,
        name: str,
        format: Format,
        frames: Iterable[bytes],
        metadata: dict[str, str] | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        self.name, self.format = name, format
        self.metadata, self.notes = metadata or {}, list(notes)
        self.held = ExitStack()                              # what to close with it
        self.again: Callable[[], Source] | None = None       # opens it once more, where that is possible
        rest = iter(frames)
        first = next(rest, None)
        if first is None:
            raise Failed(f"{name} has no frames")
        self.raw = chain([first], rest)

    @cached_property
    def frames(self) -> int | None:
        """How many there are, None for a stream. Those of a file are counted by reading it once more."""
        if self.again is None:
            return None
        with self.again() as other:
            return sum(1 for _ in other)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.raw)

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.held.close()


def open_source(
    name: str,
    size: Size | None = None,
    fps: float | None = None,
    input_size: Size | None = None,
    input_fps: float | None = None,
    stream: IO[bytes] | None = None,
) -> Source:
    """The frames of a file, of numbered images (`a%05d.png`) or of standard input (`-`; `stream` stands for it).

    Without `size` and `fps` they come as they are. `input_size` and `input_fps` say that the input is rgb24 without
    a header; `input_fps` is also the rate of images. SoraError for what is not there, Failed for what is broken.
    """
    if input_size and not input_fps:
        raise SoraError("raw frames need their rate as well as their size")
    check_input(name)
    wish = Wish(size, fps, input_size, input_fps)
    with ExitStack() as held:
        if name == STREAM:
            source = open_stream(stream or standard_input(), "standard input", wish, held)
        elif not Path(name).exists():
            source = open_images(name, wish, held)
        else:
            source = open_file(name, wish, held)
        source.held = held.pop_all()
    if name != STREAM and (Path(name).is_file() or not Path(name).exists()):
        source.again = partial(open_source, name, size, fps, input_size, input_fps)
    return source


def standard_input() -> IO[bytes]:
    if sys.stdin is None:            # it was closed before we began
        raise Failed("standard input has no frames")
    if sys.stdin.isatty():
        raise SoraError("- reads a video from standard input, which is the terminal; pipe one in or give a name")
    return sys.stdin.buffer


def open_file(name: str, wish: Wish, held: ExitStack) -> Source:
    """A regular file; named pipes and /dev/fd/... are streams."""
    if not os.path.isfile(name):
        return open_stream(held.enter_context(open(name, "rb")), name, wish, held)
    with open(name, "rb") as file:
        known = wish.input_size is not None or file.read(len(MAGIC)) == MAGIC
    if known:
        return open_stream(held.enter_context(open(name, "rb")), name, wish, held)
    return decode(["-i", as_file(name)], name, wish, held)


def open_images(name: str, wish: Wish, held: ExitStack) -> Source:
    sequence = sequence_of(name)
    assert sequence
    rate = rational(wish.input_fps or STILL_FPS)
    begin = ["-f", "image2", "-pattern_type", "sequence", "-start_number", str(sequence.numbers()[0])]
    return decode([*begin, "-framerate", rate, "-i", as_file(sequence.pattern())], name, wish, held)


def open_stream(stream: IO[bytes], name: str, wish: Wish, held: ExitStack) -> Source:
    """Raw frames if their size is told, y4m if it begins like that, else whatever ffmpeg can read from a pipe."""
    if wish.input_size:
        return open_rgb(stream, name, wish, held)
    head = stream.read(len(MAGIC))
    if head == MAGIC:
        return open_y4m(stream, name, wish, held)
    if not head:
        raise Failed(f"{name} has no frames")
    return open_container(stream, head, name, wish, held)


def open_y4m(stream: IO[bytes], name: str, wish: Wish, held: ExitStack) -> Source:
    """A stream of which the first word is read already."""
    try:
        format = y4m.read_format(stream, MAGIC)
    except SoraError as error:
        raise SoraError(f"{name}: {error}") from error
    return resample(y4m.read_frames(stream, format, name), format, name, wish, held)


def open_rgb(stream: IO[bytes], name: str, wish: Wish, held: ExitStack) -> Source:
    assert wish.input_size and wish.input_fps
    format = Format(*wish.input_size, Fraction(rational(wish.input_fps)), "444")
    frames = from_rgb(read_rgb(stream, wish.input_size, name), wish.input_size, format)
    return resample(frames, format, name, wish, held)


def read_rgb(stream: IO[bytes], size: Size, name: str) -> Iterator[Frame]:
    """rgb24 frames off a stream; Failed if it ends inside of one."""
    shape = (*reversed(size), 3)
    number = 0
    while raw := stream.read(3 * size[0] * size[1]):
        if len(raw) < 3 * size[0] * size[1]:
            raise Failed(f"{name} is cut off: it ends in the middle of frame {number}")
        yield np.frombuffer(raw, np.uint8).reshape(shape)
        number += 1


def resample(frames: Iterator[bytes], format: Format, name: str, wish: Wish, held: ExitStack) -> Source:
    """Frames at the size and rate that are asked, untouched where none is."""
    if not wish.filters:
        return Source(name, format, frames)
    command = [ffmpeg(), *QUIET, "-f", "yuv4mpegpipe", "-i", "pipe:0", "-vf", ",".join(wish.filters), *Y4M, "pipe:1"]
    found, changed = run(command, name, held, y4m.stream(frames, format))
    return Source(name, replace(found, tags=format.tags), changed)


def run(
    command: list[str], name: str, held: ExitStack, feed: Iterator[bytes] | None = None
) -> tuple[Format, Iterator[bytes]]:
    """Start a command that writes y4m; its header and its frames."""
    through = Through(command, feed, f"{name} is not a readable video", CUT_OFF)
    held.callback(through.close)
    stream = buffered(through)
    if not stream.peek(1):
        raise Failed(f"{name} has no frames")
    format = y4m.read_format(stream)
    return format, y4m.read_frames(stream, format, name)


def open_container(stream: IO[bytes], head: bytes, name: str, wish: Wish, held: ExitStack) -> Source:
    """A stream that ffmpeg reads. A short one is put in a file, since some containers want to be read backwards."""
    for longest in HEADS:
        head += stream.read(longest - len(head))
        if len(head) < longest:
            spool = held.enter_context(tempfile.NamedTemporaryFile(prefix="sora-"))      # noqa: SIM115
            spool.write(head)
            spool.flush()
            return decode(["-i", as_file(spool.name)], name, wish, held)
        try:
            picture = describe(["-i", "pipe:0"], name, head)
        except Failed as error:
            reason = error
            continue
        feed = chain([head], iter(partial(available, stream), b""))
        return decode(["-i", "pipe:0"], name, wish, held, picture, feed)
    if "moov" in str(reason):
        raise Failed(f"{name} is an MP4 with its index at the end, which no pipe can carry; give its file name")
    raise reason


def available(stream: IO[bytes]) -> bytes:
    """What has come so far, at least one byte, nothing at the end: a slow stream is shown as it comes."""
    return stream.read1(BLOCK) if hasattr(stream, "read1") else stream.read(BLOCK)


def decode(
    words: list[str],
    name: str,
    wish: Wish,
    held: ExitStack,
    picture: Picture | None = None,
    feed: Iterator[bytes] | None = None,
) -> Source:
    """What ffmpeg decodes from `words`, upright, at a constant rate, in its own planes if y4m can hold them."""
    picture = picture or describe(words, name)
    if picture.still and "-framerate" not in words:
        words = ["-framerate", rational(wish.input_fps or wish.fps or STILL_FPS), *words]  # one frame at any rate
    rate, notes = pace(picture, wish)
    filters = ["setpts=PTS-STARTPTS", f"fps={rate}", *(OVER_BLACK if picture.alpha else ())]
    filters += replace(wish, fps=None).filters
    filters += FROM_RGB if picture.alpha or picture.rgb else [NATIVE]
    command = [ffmpeg(), *QUIET, *LOCAL, *words, "-map", "0:V:0", "-vf", ",".join(filters), "-fps_mode", "passthrough"]
    format, frames = run([*command, *Y4M, "pipe:1"], name, held, feed)
    if picture.alpha:
        notes.append("transparent parts, if any, are shown on black")
    if picture.hdr:
        notes.append("its HDR colours are taken as they are and will look flat")
    return Source(name, coloured(format, picture), frames, picture.metadata, notes)


def pace(picture: Picture, wish: Wish) -> tuple[str, list[str]]:
    """The constant rate in the words of the fps filter, and a note if the video's own varies."""
    if wish.fps:
        return rational(wish.fps), []
    if picture.still or picture.fps == picture.nominal or not picture.fps:
        return "source_fps", []
    sane = picture.nominal <= min(2 * picture.fps, FASTEST_NOMINAL)
    rate = picture.nominal if sane else picture.fps
    note = f"its frame rate varies; taken at a constant {rate:g} frames a second"
    return "source_fps" if sane else rational(rate, 6e-3), [note]


def coloured(format: Format, picture: Picture) -> Format:
    """With the matrix in the header. Where a file does not name it, small pictures are taken as players do."""
    if picture.alpha or picture.rgb or format.chroma.startswith("mono"):
        return format
    small = picture.width < 1280 and picture.height < 720
    matrix = picture.matrix or ("smpte170m" if small else "bt709")
    return format if matrix == "bt709" else replace(format, tags=(*format.tags, f"COLORMATRIX={matrix}"))
