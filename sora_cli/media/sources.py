"""Where frames come from: files, numbered images and standard input, all as raw y4m frames."""

import os
import re
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

from sora_cli.errors import Failed, SoraError, counted
from sora_cli.media import y4m
from sora_cli.media.convert import SHARP, Frame, from_rgb, retimed
from sora_cli.media.damage import unsaid
from sora_cli.media.kinds import IMAGES, ending
from sora_cli.media.mending import coloured, mending, planes_of, whole
from sora_cli.media.names import STREAM, check_input, sequence_of
from sora_cli.media.probing import LONG, SPARSE, USUAL_FPS, Picture, check_times, describe, looked_at, strictness, woven
from sora_cli.media.process import BLOCK, CHECKED, LOCAL, QUIET, Through, as_file, buffered, ffmpeg, rational
from sora_cli.media.profiles import in_srgb
from sora_cli.media.retiming import Retiming
from sora_cli.media.sound import STEADY, Sound
from sora_cli.media.y4m import FASTEST, MAGIC, Format, Size

CUT_OFF = "partial file|ended prematurely"
LATE = r"\[Eval @ "              # how ffmpeg begins what BELIEVABLE prints
# Whatever was known before: a frame that is shown too late (see `check_times`) follows the one before it at once, so
# that nothing is filled up, and its time is printed as an error, once.
BELIEVABLE = (rf"setpts='if(gt(T-PREV_OUTT\,{LONG})+gt(T\,{LONG})*gt(T\,{SPARSE}*(N+1))\,"
              r"PREV_OUTPTS+1+0*if(ld(0)\,0\,st(0\,print(T\,16)))\,PTS)'")  # fmt: skip
HEADS = (1 << 18, 1 << 20, 1 << 22, 1 << 24)     # bytes of a pipe to look at before knowing what it is, ...
WOVEN_HEAD = HEADS[2]            # ... and whether it is woven of two fields
FASTEST_NOMINAL = 120            # frames per second; above it, a variable rate is counted in ticks, not in frames

Y4M = ("-strict", "-1", "-f", "yuv4mpegpipe")
NATIVE = "format=" + "|".join(sorted({*y4m.PIX_FMTS.values()} - {"yuva444p"}))
FIRST = "trim=end_frame=1,fps={rate}:eof_action=pass,trim=end_frame=1"      # however short or long it is shown

OTHERS = {"video": "other pictures", "audio": "sound that cannot be read", "subtitle": "subtitles",
          "data": "data such as timecode", "attachment": "attachments", "cover": "a cover", "chapters": "chapters"}
Started = tuple[Format, Iterator[bytes], Through] | None


@dataclass(frozen=True)
class Wish:
    """What a reader asks for: another size or rate (None: as it is), and how to take what has no header."""

    size: Size | None = None
    fps: float | None = None
    input_size: Size | None = None
    input_fps: float | None = None
    rgb: bool = False                # keep pictures that are RGB as such

    @property
    def filters(self) -> list[str]:
        filters = [f"fps={rational(self.fps)}"] if self.fps else []
        if self.size:
            filters += [f"scale={self.size[0]}:{self.size[1]}:{SHARP}", "setsar=1"]
        return filters


class Source:
    """The raw frames of one input, one by one and once: an iterator and a context manager.

    `format` says what a frame is, `notes` what was changed on the way (a variable rate, transparency), `metadata`
    are the tags of a file, `sound` is its first sound track. The first frame is read at the start, so that what cannot
    be read is known early.
    """

    def __init__(
        self,
        name: str,
        format: Format,
        frames: Iterable[bytes],
        metadata: dict[str, str] | None = None,
        notes: Iterable[str] = (),
        sound: Sound | None = None,
    ) -> None:
        self.name, self.format, self.sound = name, format, sound
        self.metadata, self.notes = metadata or {}, list(notes)
        self.left_out: tuple[str, ...] = ()                  # streams that no output of ours has
        self.still = False                                   # a single picture, which has no rate of its own
        self.held = ExitStack()                              # what to close with it
        self.again: Callable[[], Source] | None = None       # opens it once more, where that is possible
        self.listener: Callable[[str], None] | None = None
        self.unsaid: Callable[[], str] = str                 # looks for damage that no decoder speaks of; "" for none
        rest = iter(frames)
        first = next(rest, None)
        if first is None:
            raise Failed(f"{name} has no frames")
        self.raw: Iterator[bytes] = chain([first], rest)

    @cached_property
    def frames(self) -> int | None:
        """How many there are, None for a stream. Those of a file are counted by reading it once more."""
        if self.again is None:
            return None
        with self.again() as other:
            return sum(1 for _ in other)

    def retime(self, retiming: Retiming) -> None:
        """Have it come at another rate."""
        self.raw = retimed(self.raw, self.format, retiming)
        self.format = replace(self.format, rate=retiming.shown)

    def tell(self, listener: Callable[[str], None]) -> None:
        """Have every note said, those that there are and those to come: damage is known at the end."""
        self.listener = listener
        for note in self.notes:
            listener(f"{self.name}: {note}")

    def say(self, note: str) -> None:
        self.notes.append(note)
        if self.listener:
            self.listener(f"{self.name}: {note}")

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
    rgb: bool = False,
) -> Source:
    """The frames of a file, of numbered images (`a%05d.png`) or of standard input (`-`; `stream` stands for it).

    Without `size` and `fps` they come as they are. `input_size` and `input_fps` say that the input is rgb24 without
    a header; `input_fps` is also the rate of images. With `rgb`, the planes of RGB pictures are green, blue and red,
    bit for bit, which no other program understands. SoraError for what is not there, Failed for what is broken.
    """
    if input_size and not input_fps:
        raise SoraError("raw frames need their rate as well as their size")
    check_input(name)
    wish = Wish(size, fps, input_size, input_fps, rgb)
    with ExitStack() as held:
        if name == STREAM:
            source = open_stream(stream or standard_input(), "standard input", wish, held)
        elif not Path(name).exists():
            source = open_images(name, wish, held)
        else:
            source = open_file(name, wish, held)
        source.held = held.pop_all()
    if name != STREAM and (Path(name).is_file() or not Path(name).exists()):
        source.again = partial(open_source, name, size, fps, input_size, input_fps, rgb=rgb)
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
    path, space = held.enter_context(in_srgb(Path(name))) if ending(name) in IMAGES else (Path(name), "")
    source = decode(["-i", as_file(path)], name, wish, held)
    source.notes += [f"its colours are converted from {space} to sRGB"] if space else []
    return source


def open_images(name: str, wish: Wish, held: ExitStack) -> Source:
    sequence = sequence_of(name)
    assert sequence
    rate = rational(wish.input_fps or USUAL_FPS)
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
    format = Format(*wish.input_size, Fraction(rational(wish.input_fps)), "444", tags=y4m.RGB if wish.rgb else ())
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
    mended, notes = whole({"p": "", "?": "", "t": "tff", "b": "bff", "m": "mixed"}[format.interlace])
    filters = [*mended, *wish.filters]
    if not filters:
        return Source(name, format, frames)
    first = next(frames, None)
    if first is None:
        raise Failed(f"{name} has no frames")
    command = [ffmpeg(), *QUIET, "-f", "yuv4mpegpipe", "-i", "pipe:0", "-vf"]
    found = run([*command, ",".join(filters), *Y4M, "pipe:1"], name, held, y4m.stream(chain([first], frames), format))
    if found is None:  # too short for one frame at this rate
        filters = [FIRST.format(rate=rational(wish.fps or USUAL_FPS)), *replace(wish, fps=None).filters]
        found = run([*command, ",".join(filters), *Y4M, "pipe:1"], name, held, y4m.stream([first], format))
    assert found
    made, changed, _ = found
    return Source(name, replace(made, interlace="p", tags=format.tags), changed, notes=notes)


def run(command: list[str], name: str, held: ExitStack, feed: Iterator[bytes] | None = None) -> Started:
    """Start a command that writes y4m; its header and its frames, None if there are none."""
    through = Through(command, feed, f"{name} is not a readable video", f"{CUT_OFF}|{LATE}")
    held.callback(through.close)
    stream = buffered(through)
    if not stream.peek(1):
        return None
    format = y4m.read_format(stream)
    return (format, y4m.read_frames(stream, format, name), through) if stream.peek(1) else None


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
        if picture.unsaid and longest < WOVEN_HEAD:
            continue
        feed = chain([head], iter(partial(available, stream), b""))
        return decode(["-i", "pipe:0"], name, wish, held, woven(picture, ["-i", "pipe:0"], head), feed)
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
    """What ffmpeg decodes from `words`, upright, whole, at a constant rate, in its own planes if y4m can hold them."""
    picture = picture or looked_at(words, name)
    packets = check_times(words, name, picture) if feed is None else None
    still = picture.still or (picture.animated and packets == 1)
    usual = wish.input_fps or wish.fps or USUAL_FPS
    if picture.timeless and "-framerate" not in words:
        words = ["-framerate", rational(usual), *words]  # one frame at any rate
    rate, notes = pace(picture, wish)
    (fields, fielded), (mended, said) = whole(picture.fields), mending(picture)
    strict = strictness(picture, words) if feed is None else []
    exact = wish.rgb and (picture.alpha or picture.rgb)
    planes = planes_of(picture, exact) if picture.alpha or picture.rgb else [NATIVE]
    filters = [*mended, *replace(wish, fps=None).filters, *planes]
    sound = None if still else heard(words, picture, held, feed is not None)
    spool = spooling(sound) if sound and feed is not None else []

    def start(timed: str) -> Started:
        graph = ",".join(["setpts=PTS-STARTPTS", BELIEVABLE, *fields, timed, *filters])
        command = [ffmpeg(), *CHECKED, *strict, *LOCAL, *words, "-map", "0:V:0", "-vf", graph]
        return run([*command, "-fps_mode", "passthrough", *Y4M, "pipe:1", *spool], name, held, feed)

    first = FIRST.format(rate=rational(usual))
    found = start(first if still and not picture.timeless else f"fps={rate}")
    if found is None and feed is None:   # too short for one frame at this rate
        found = start(first)
    if not found:
        raise Failed(f"{name} has no frames")
    format, frames, through = found
    aspect = "1:1" if picture.timeless else format.aspect  # as in browsers: densities are for printers
    format = replace(format, tags=y4m.RGB if exact else format.tags, aspect=aspect)
    if picture.depth > format.depth:
        notes = [*notes, f"its {picture.depth} bits of each colour are taken as {format.depth}"]
    due = round(picture.seconds * format.rate) if picture.seconds else 0
    source = Source(name, coloured(format, picture), frames, picture.metadata, [*notes, *fielded, *said], sound)
    source.unsaid = partial(unsaid, Path(words[-1].removeprefix("file:")), picture.container)
    source.raw = attended(source, source.raw, through, due)
    source.left_out, source.still = left_out(picture), bool(still)
    return source


def attended(source: Source, raw: Iterator[bytes], through: Through, due: int) -> Iterator[bytes]:
    """A source's frames; after the last one, a note if they are damaged, as the decoder says or the file shows."""
    count = 0
    try:
        for count, frame in enumerate(raw, 1):  # noqa: B007
            yield frame
    except Failed as error:
        if re.fullmatch(r"[\d.]+", through.said):
            hours = float(through.said) / 3600
            raise Failed(f"{source.name} says that a frame is shown after {hours:.1f} hours, which is too long for so "
                         "few of them; its time stamps are damaged") from error  # fmt: skip
        raise
    said = through.said or source.unsaid()
    if said:
        of = f", of about {due}" if due > count + 1 else ""
        source.say(f"it is damaged ({said}); {counted(count, 'frame')} could be read{of}")


def heard(words: list[str], picture: Picture, held: ExitStack, piped: bool) -> Sound | None:
    """The first sound track of an input; that of a pipe is put into a file while its pictures are read."""
    if not picture.sounds:
        return None
    if not piped:
        return Sound(words[-1].removeprefix("file:"), picture.sounds[0])
    spool = held.enter_context(tempfile.NamedTemporaryFile(prefix="sora-", suffix=".mka"))      # noqa: SIM115
    return Sound(spool.name, picture.sounds[0], picture.start)


def spooling(sound: Sound) -> list[str]:
    """ffmpeg's words for one more output, the sound alone."""
    steady = STEADY.format(rate=sound.rate)
    return ["-map", "0:a:0", "-af", steady, "-c:a", "flac", "-f", "matroska", "-y", as_file(sound.path)]


def left_out(picture: Picture) -> tuple[str, ...]:
    """In words, the streams beside the first pictures and the first sound."""
    count = len(picture.sounds) - 1
    more = [counted(count, "more sound track")] if count > 0 else []
    return (*more, *dict.fromkeys(OTHERS[other] for other in picture.others if other in OTHERS))


def pace(picture: Picture, wish: Wish) -> tuple[str, list[str]]:
    """The constant rate in the words of the fps filter, and a note if the video's own varies."""
    varies = not (picture.still or picture.fps == picture.nominal or not picture.fps)
    sane = not varies or picture.nominal <= min(2 * picture.fps, FASTEST_NOMINAL)
    rate = wish.fps or (picture.nominal if sane else picture.fps)
    notes = [f"its frame rate varies; taken at a constant {counted(float(rate), 'frame')} a second"] if varies else []
    if wish.fps:
        fast = not picture.still and picture.fps > FASTEST
        return rational(wish.fps), [*notes, *[f"it says that it has {picture.fps:g} frames a second"] * fast]
    return "source_fps" if sane and not picture.measured else rational(rate, 6e-3), notes
