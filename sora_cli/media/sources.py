"""Where frames come from: files, numbered images and standard input, all as raw y4m frames."""

import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, partial
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from sora_cli.errors import Failed, SoraError, be, counted, no_op
from sora_cli.media import y4m
from sora_cli.media.convert import SHARP, Frame, from_rgb, retimed
from sora_cli.media.damage import unsaid
from sora_cli.media.kinds import IMAGES, ending
from sora_cli.media.mending import coloured, mending, planes_of, whole
from sora_cli.media.names import STREAM, check_input, sequence_of
from sora_cli.media.probing import LONG, SPARSE, STRICT, USUAL_FPS, Picture, describe, looked_at, too_long, woven
from sora_cli.media.process import BLOCK, CHECKED, LOCAL, Y4M_IN, Through, as_file, ffmpeg, file_of, rational
from sora_cli.media.profiles import in_srgb
from sora_cli.media.retiming import Retiming
from sora_cli.media.sound import STEADY, Sound
from sora_cli.media.y4m import FASTEST, MAGIC, Format, Size

FATAL = r"partial file|\[Eval @ "  # a file that is cut off; how ffmpeg begins what BELIEVABLE prints
RESIZED = r"Reconfiguring filter graph because .* (\d+x\d+)"
UNEVEN = r"^\[Parsed_fps_.* (\d+) frames dropped, (\d+) frames duplicated"
# Whatever was known before: a frame that is shown too late (see `count_packets`) follows the one before it at once, so
# that nothing is filled up, and its time is printed as an error, once.
BELIEVABLE = (rf"setpts='if(gt(T-PREV_OUTT\,{LONG})+gt(T\,{LONG})*gt(T\,{SPARSE}*(N+1))\,"
              r"PREV_OUTPTS+1+0*if(ld(0)\,0\,st(0\,print(T\,16)))\,PTS)'")  # fmt: skip
HEADS = (1 << 18, 1 << 20, 1 << 22, 1 << 24)     # bytes of a pipe to look at before knowing what it is, ...
WOVEN_HEAD = HEADS[2]            # ... and whether it is woven of two fields

COUNTED = ("-loglevel", "repeat+level+verbose")  # with what filters did to frames
Y4M = ("-strict", "-1", "-f", "yuv4mpegpipe")
NATIVE = "format=" + "|".join(sorted({*y4m.PIX_FMTS.values()} - {"yuva444p"}))
FIRST = "trim=end_frame=1,fps={rate}:eof_action=pass,trim=end_frame=1"      # however short or long it is shown

OTHERS = {"video": "other pictures", "audio": "sound that cannot be read", "subtitle": "subtitles",
          "data": "data such as timecode", "attachment": "attachments", "cover": "a cover", "chapters": "chapters"}
INTERLACED = {"p": "", "?": "", "t": "tff", "b": "bff", "m": "mixed"}        # by y4m's letters, as `whole` calls it
Started = tuple[Format, Iterator[bytes], Through]


@dataclass(eq=False)
class Source(Iterator[bytes], AbstractContextManager["Source"]):
    """The raw frames of one input, one by one and once.

    `format` says what a frame is, `notes` what was changed on the way (a variable rate, transparency), `metadata`
    are the tags of a file, `sound` is its first sound track. The first frame is read at the start, so that what cannot
    be read is known early.
    """

    name: str
    format: Format
    raw: Iterator[bytes]
    metadata: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sound: Sound | None = None
    left_out: tuple[str, ...] = ()                       # streams that no output of ours has
    is_image: bool = False                               # a single picture, which has no rate of its own
    damage: Callable[[], str] = str                      # looks for what no decoder speaks of; "" for none
    held: ExitStack = field(default_factory=ExitStack)   # what to close with it
    again: "Callable[[], Source] | None" = None          # opens it once more, where that is possible
    listener: Callable[[str], None] = no_op

    def __post_init__(self) -> None:
        first = next(self.raw, None)
        if first is None:
            raise Failed(f"{self.name} has no frames")
        self.raw = chain([first], self.raw)

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

    def report_to(self, listener: Callable[[str], None]) -> None:
        """Have every note said, those that there are and those to come: damage is known at the end."""
        self.listener = listener
        for note in self.notes:
            listener(f"{self.name}: {note}")

    def say(self, note: str) -> None:
        self.notes.append(note)
        self.listener(f"{self.name}: {note}")

    def __next__(self) -> bytes:
        return next(self.raw)

    def __exit__(self, *_: object) -> None:
        self.held.close()


def open_source(name: str, size: Size | None = None, fps: float | None = None, input_size: Size | None = None,
                input_fps: float | None = None, stream: IO[bytes] | None = None,
                rgb: bool = False) -> Source:  # fmt: skip
    """The frames of a file, of numbered images (`a%05d.png`) or of standard input (`-`; `stream` stands for it).

    Without `size` and `fps` they come as they are. `input_size` and `input_fps` say that the input is rgb24 without
    a header; `input_fps` is also the rate of images. With `rgb`, the planes of RGB pictures are green, blue and red,
    bit for bit, which no other program understands. SoraError for what is not there, Failed for what is broken.
    """
    if input_size and not input_fps:
        raise SoraError("raw frames need a frame rate as well as a size; give both")
    check_input(name)
    is_stream, is_sequence = name == STREAM, not Path(name).exists()
    with ExitStack() as held:
        opening = Opening("standard input" if is_stream else name, held, size, fps, input_size, input_fps, rgb)
        if is_stream:
            source = opening.open_stream(stream or standard_input())
        else:
            source = opening.open_images() if is_sequence else opening.open_file()
        source.held = held.pop_all()
    if not is_stream and (is_sequence or Path(name).is_file()):
        source.again = partial(open_source, name, size, fps, input_size, input_fps, rgb=rgb)
    return source


def standard_input() -> IO[bytes]:
    if sys.stdin is None:            # it was closed before we began
        raise Failed("standard input has no frames")
    if sys.stdin.isatty():
        raise SoraError("- reads a video from standard input, which is the terminal; pipe one in or give a name")
    return sys.stdin.buffer


@dataclass(frozen=True)
class Opening:
    """An input on its way to a source: what is asked of it, another size or rate (None: as it is), and how to take
    what has no header. `held` is what to close with the source."""

    name: str
    held: ExitStack
    size: Size | None = None
    fps: float | None = None
    input_size: Size | None = None
    input_fps: float | None = None
    rgb: bool = False                # keep pictures that are RGB as such

    def open_file(self) -> Source:
        """A regular file; named pipes and /dev/fd/... are streams."""
        file = self.held.enter_context(open(self.name, "rb"))      # noqa: SIM115
        if not os.path.isfile(self.name) or self.input_size or file.peek(len(MAGIC)).startswith(MAGIC):
            return self.open_stream(file)
        path = Path(self.name)
        path, notes = self.held.enter_context(in_srgb(path)) if ending(self.name) in IMAGES else (path, [])
        source = self.decode(["-i", as_file(path)])
        source.notes += notes
        return source

    def open_images(self) -> Source:
        sequence = sequence_of(self.name)
        assert sequence
        rate = rational(self.input_fps or USUAL_FPS)
        begin = ["-f", "image2", "-pattern_type", "sequence", "-start_number", str(sequence.numbers()[0])]
        return self.decode([*begin, "-framerate", rate, "-i", as_file(sequence.pattern())])

    def open_stream(self, stream: IO[bytes]) -> Source:
        """Raw frames if their size is told, y4m if it begins like that, else whatever ffmpeg can read from a pipe."""
        if (size := self.input_size) and self.input_fps:
            format = Format(*size, Fraction(rational(self.input_fps)), "444", tags=y4m.RGB if self.rgb else ())
            return self.resample(from_rgb(read_rgb(stream, size, self.name), size, format), format)
        head = stream.read(len(MAGIC))
        if head == MAGIC:
            format = self.read_format(stream, MAGIC)
            return self.resample(y4m.read_frames(stream, format, self.name), format)
        if not head:
            raise Failed(f"{self.name} has no frames")
        return self.open_container(stream, head)

    def open_container(self, stream: IO[bytes], head: bytes) -> Source:
        """A stream that ffmpeg reads. A short one is put in a file: some containers want to be read backwards."""
        words = ["-i", "pipe:0"]
        for longest in HEADS:
            head += stream.read(longest - len(head))
            if len(head) < longest:
                spool = self.held.enter_context(tempfile.NamedTemporaryFile(prefix="sora-"))      # noqa: SIM115
                spool.write(head)
                spool.flush()
                return self.decode(["-i", as_file(spool.name)])
            try:
                picture = describe(words, self.name, head)
            except Failed as error:
                reason = error
                continue
            if picture.unsaid and longest < WOVEN_HEAD:
                continue
            feed = chain([head], iter(partial(available, stream), b""))
            return self.decode(words, woven(picture, words, head), feed)
        if "moov" in str(reason):
            raise Failed(f"{self.name} is an MP4 with its index at the end, which cannot be read from a "
                         "pipe; give the file name")  # fmt: skip
        raise reason

    def resample(self, frames: Iterator[bytes], format: Format) -> Source:
        """Frames at the size and rate that are asked, untouched where none is."""
        mended, notes = whole(INTERLACED[format.interlace])
        filters = [*mended, *([f"fps={rational(self.fps)}"] if self.fps else []), *self.scaled]
        if not filters:
            return Source(self.name, format, frames)
        first = next(frames, None)
        if first is None:
            raise Failed(f"{self.name} has no frames")

        def filtered(filters: list[str], frames: Iterable[bytes]) -> Started | None:
            command = [ffmpeg(), *Y4M_IN, "-vf", ",".join(filters), *Y4M, "pipe:1"]
            return self.run(command, y4m.stream(frames, format))

        found = filtered(filters, chain([first], frames))
        if found is None:  # too short for one frame at this rate
            found = filtered([FIRST.format(rate=rational(self.fps or USUAL_FPS)), *self.scaled], [first])
        assert found
        made, changed, _ = found
        return Source(self.name, replace(made, interlace="p", tags=format.tags), changed, notes=notes)

    def decode(self, words: list[str], picture: Picture | None = None, feed: Iterator[bytes] | None = None) -> Source:
        """What ffmpeg decodes of an input (`words`), of which a `picture` may be known, or of what it is fed: upright,
        whole, at a constant rate, in its own planes if y4m can hold them."""
        picture, piped = picture or looked_at(words, self.name), feed is not None
        is_image = picture.is_image or (picture.animated and picture.packets == 1)
        default = self.input_fps or self.fps or USUAL_FPS
        if picture.timeless and "-framerate" not in words:
            words = ["-framerate", rational(default), *words]  # one frame at any rate
        rate, notes = self.pace(picture)
        (fields, fielded), (mended, said) = whole(picture.fields), mending(picture)
        exact = self.rgb and (picture.alpha or picture.rgb)
        planes = planes_of(picture, exact) if picture.alpha or picture.rgb else [NATIVE]
        sound = None if is_image else self.sound_of(picture, words, piped)

        def start(timed: str) -> Started | None:
            graph = ",".join(["setpts=PTS-STARTPTS", BELIEVABLE, *fields, timed, *mended, *self.scaled, *planes])
            command = [ffmpeg(), *CHECKED, *COUNTED, *(STRICT if picture.strict else ()), *LOCAL, *words]
            command += ["-map", "0:V:0", "-vf", graph, "-fps_mode", "passthrough", *Y4M, "pipe:1"]
            if sound and piped:  # one more output, the sound alone
                command += ["-map", "0:a:0", "-af", STEADY.format(rate=sound.rate), "-c:a", "flac", "-f", "matroska"]
                command += ["-y", as_file(sound.path)]
            return self.run(command, feed)

        first = FIRST.format(rate=rational(default))
        unpaced = picture.timeless and not self.fps  # a filter would hold a frame, and lose it where their kind changes
        found = start("null" if unpaced else first if is_image and not picture.timeless else f"fps={rate}")
        if found is None and not piped:   # too short for one frame at this rate
            found = start(first)
        if found is None:
            raise Failed(f"{self.name} has no frames")
        format, frames, through = found
        aspect = "1:1" if picture.timeless else format.aspect  # as in browsers: densities are for printers
        format = replace(format, tags=y4m.RGB if exact else format.tags, aspect=aspect)
        if picture.depth > format.depth:
            notes = [*notes, f"its {picture.depth} bits per colour are reduced to {format.depth}"]
        due = round(picture.seconds * format.rate) if picture.seconds else 0
        source = Source(self.name, coloured(format, picture), frames, picture.metadata, [*notes, *fielded, *said],
                        sound, left_out(picture), is_image, damage=partial(unsaid, file_of(words), picture.container))
        moved = () if self.fps or is_image else ("left out",) if picture.varies else ("left out", "repeated")
        source.raw = attended(source, source.raw, through, due, partial(adapted, picture, moved))
        return source

    @property
    def scaled(self) -> list[str]:
        """The filters to the size that is asked."""
        return [f"scale={self.size[0]}:{self.size[1]}:{SHARP}", "setsar=1"] if self.size else []

    def run(self, command: list[str], feed: Iterator[bytes] | None = None) -> Started | None:
        """Start a command that writes y4m; its header and its frames, None if there are none."""
        through = Through(command, feed, f"{self.name} is not a readable video", FATAL)
        self.held.callback(through.close)
        stream = BufferedReader(through, BLOCK)
        if not stream.peek(1):
            return None
        format = self.read_format(stream)
        return (format, y4m.read_frames(stream, format, self.name), through) if stream.peek(1) else None

    def read_format(self, stream: IO[bytes], start: bytes = b"") -> Format:
        """`y4m.read_format`, with errors that name the input."""
        try:
            return y4m.read_format(stream, start)
        except SoraError as error:
            raise SoraError(f"{self.name}: {error}") from error

    def pace(self, picture: Picture) -> tuple[str, list[str]]:
        """The constant rate in the words of the fps filter, and a note if the video's own varies."""
        clock = picture.varies and picture.ticking
        rate = self.fps or (picture.usual or picture.fps if clock else picture.nominal)
        notes = [f"its frame rate varies; read at a constant {counted(float(rate), 'frame')} a second"] * picture.varies
        if self.fps:
            fast = not picture.is_image and picture.fps > FASTEST
            return rational(rate), [*notes, *[f"it says that it has {picture.fps:g} frames a second"] * fast]
        return rational(rate, 6e-3) if clock or picture.measured else "source_fps", notes

    def sound_of(self, picture: Picture, words: list[str], piped: bool) -> Sound | None:
        """The first sound track of an input; that of a pipe is put into a file while its pictures are read."""
        if not picture.sounds:
            return None
        if not piped:
            return Sound(str(file_of(words)), picture.sounds[0])
        spool = self.held.enter_context(tempfile.NamedTemporaryFile(prefix="sora-", suffix=".mka"))      # noqa: SIM115
        return Sound(spool.name, picture.sounds[0], picture.start)


def read_rgb(stream: IO[bytes], size: Size, name: str) -> Iterator[Frame]:
    """rgb24 frames off a stream; Failed if it ends inside of one."""
    shape = (*reversed(size), 3)
    for number, raw in enumerate(iter(lambda: stream.read(math.prod(shape)), b"")):
        if len(raw) < math.prod(shape):
            raise Failed(f"{name} is cut off: it ends in the middle of frame {number}")
        yield np.frombuffer(raw, np.uint8).reshape(shape)


def available(stream: IO[bytes]) -> bytes:
    """What has come so far, at least one byte, nothing at the end: a slow stream is shown as it comes."""
    return stream.read1(BLOCK) if hasattr(stream, "read1") else stream.read(BLOCK)


def attended(source: Source, raw: Iterator[bytes], through: Through, due: int,
             more: Callable[[str], Iterator[str]]) -> Iterator[bytes]:  # fmt: skip
    """A source's frames; after the last one, a note if they are damaged, as the decoder says or the file shows, and
    what `more` says of all that ffmpeg printed."""
    count = 0
    try:
        for count, frame in enumerate(raw, 1):  # noqa: B007
            yield frame
    except Failed as error:
        if re.fullmatch(r"[\d.]+", through.said):
            raise too_long(f"{source.name} says that a frame is shown after", float(through.said)) from error
        raise
    said = through.said or source.damage()
    if said:
        of = f", of about {due}" if due > count + 1 else ""
        source.say(f"it is damaged ({said}); {counted(count, 'frame')} could be read{of}")
    for note in more(through.log):
        source.say(note)


def adapted(picture: Picture, moved: Sequence[str], log: str) -> Iterator[str]:
    """Notes on frames that were scaled, or `moved` to come at a constant rate, by what ffmpeg printed."""
    if {*re.findall(RESIZED, log)} - {f"{picture.width}x{picture.height}"}:
        yield "its pictures are of several sizes; all are shown in that of the first"
    counts = np.array(re.findall(UNEVEN, log, re.MULTILINE), int).reshape(-1, 2)  # of every kind of frames that came
    totals = zip(counts.sum(0).tolist(), moved, strict=False)
    if told := " and ".join(f"{total} {be(total)} {how}" for total, how in totals if total):
        yield f"its frames are not evenly spaced: {told}"


def left_out(picture: Picture) -> tuple[str, ...]:
    """In words, the streams beside the first pictures and the first sound."""
    count = len(picture.sounds) - 1
    more = [counted(count, "more sound track")] if count > 0 else []
    return (*more, *dict.fromkeys(OTHERS[other] for other in picture.others if other in OTHERS))
