"""Where raw frames go: videos, moving images, numbered images, and y4m to a file or to standard output."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Self

from sora_cli.errors import Failed, SoraError, be
from sora_cli.files.owned import sweep
from sora_cli.media.convert import declare, in_rgb, to_rgb
from sora_cli.media.kinds import ending
from sora_cli.media.moving import FASTEST_GIF, MOVING_IMAGES, Shared, moving_image
from sora_cli.media.names import STREAM, Sequence, sequence_of
from sora_cli.media.process import QUIET, as_file, explain, ffmpeg, finished
from sora_cli.media.sound import Soundtrack
from sora_cli.media.writer import H264, MP4, FileSink, Sink, tagging, too_long, write_image
from sora_cli.media.y4m import RGB, Format

VP9 = ("-c:v", "libvpx-vp9", "-crf", "24", "-b:v", "0", "-deadline", "good", "-cpu-used", "5", "-row-mt", "1")
VIDEOS = {  # how pictures are encoded, and the container
    ".mp4": (H264, MP4),
    ".mov": (H264, ("-movflags", "+faststart+use_metadata_tags", "-f", "mov")),
    ".mkv": (H264, ("-f", "matroska")),
    ".webm": ((*VP9, "-pix_fmt", "yuv420p"), ("-f", "webm")),
}
SILENT = ("-f", "mp4")           # pictures until their sound is laid beside them
SUFFIXES = (*VIDEOS, ".y4m", *MOVING_IMAGES, ".png")


def open_sink(name: str, format: Format, metadata: Mapping[str, object] | None = None, loops: int = 0,
              force: bool = False, sound: Soundtrack | None = None, shared: Shared | None = None) -> Sink:  # fmt: skip
    """An output by its name: `-` (y4m), a video, a moving image, a PNG for one frame, `a%05d.png` for all of them.

    Moving images play `loops` times, 0 is for ever, and are as `shared` says; videos have what `sound` holds after the
    last frame. SoraError, before anything is written, for what cannot be: an unknown suffix, an odd size in H.264,
    numbered images that are there already (unless `force`).
    """
    if name == STREAM:
        return StreamSink(standard_output(), format)
    if ending(name) not in SUFFIXES:
        raise SoraError(f"cannot write {name}: the name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    path, suffix, sequence = Path(name), ending(name), sequence_of(name)
    check_format(path, shared.format if shared else format)
    if suffix == ".y4m":
        return Y4mSink(path, format)
    if suffix in MOVING_IMAGES:
        return moving_image(path, format, loops, shared or Shared(format))
    if suffix in VIDEOS:
        return video(path, format, metadata or {}, sound)
    return ImagesSink(sequence, format, force) if sequence else ImageSink(path, format, metadata)


def video(path: Path, format: Format, metadata: Mapping[str, object], sound: Soundtrack | None) -> Sink:
    suffix = path.suffix.lower()
    words, container = encoded(suffix, format), [*tagging(metadata), *VIDEOS[suffix][1]]
    sink = SoundSink(path, format, words, container, sound) if sound else FileSink(path, format, [*words, *container])
    if any(map(too_long, metadata.values())):
        sink.notes.append(f"{path} does not hold how it was made, which is too long for it")
    return sink


def holds_sound(name: str) -> bool:
    return name != STREAM and ending(name) in VIDEOS


def depth_held(name: str, format: Format) -> int:
    """Bits of each colour that an output keeps."""
    deep = name == STREAM or ending(name) in (".y4m", ".apng") or sequence_of(name)
    return format.depth if deep else min(8, format.depth)


def check_format(path: Path, format: Format) -> None:
    """Refuse frames that this kind of file cannot hold."""
    suffix, (width, height) = path.suffix.lower(), format.size
    if suffix in VIDEOS and VIDEOS[suffix][0] is H264 and (width % 2 or height % 2):
        even = f"{max(2, width - width % 2)}x{max(2, height - height % 2)}"
        raise SoraError(f"cannot write {path} at {width}x{height}: both sides must be even; the nearest size is {even}")
    if suffix == ".gif" and format.rate > FASTEST_GIF:
        raise SoraError(f"cannot write {path}: a GIF shows at most {FASTEST_GIF} frames a second, not {format.fps:g}")


def encoded(suffix: str, format: Format) -> list[str]:
    """ffmpeg's arguments for encoding a video."""
    declared, others = declare(format), [tag for tag in format.tags if tag not in RGB]
    limited = declare(replace(format, tags=(*others, "COLORRANGE=LIMITED")))
    scaled = f"scale=out_color_matrix={format.matrix}:out_range=tv"      # which forgets some of what it was told
    return ["-vf", f"{declared},{scaled},format=yuv420p,{limited}", *VIDEOS[suffix][0]]


class SoundSink(FileSink):
    """Raw frames into a video, beside which their sound is laid when all of them are there, in its `container`."""

    def __init__(self, path: Path, format: Format, words: list[str], container: list[str], sound: Soundtrack) -> None:
        super().__init__(path, format, [*words, *SILENT])
        self.container, self.sound, self.whole = container, sound, self.another("sound")

    def keep(self) -> None:
        rate, suffix = self.format.rate, self.path.suffix.lower()
        why, code = self.copy(self.sound.words(self.frames, rate, suffix) if self.sound.clips else [])
        if (why or code) and self.sound.clips:
            done = self.whole.exists() and not code
            self.sound.notes.append(f"the sound is {'damaged' if done else 'left out'}: {why or 'it failed'}")
            why, code = ("", 0) if done else self.copy([])
        if why or code:
            self.fail(why, code)
        os.replace(self.whole, self.path)

    def copy(self, beside: list[str]) -> tuple[str, int]:
        """The finished pictures into their container, with what is `beside` them; ffmpeg's complaint and exit code."""
        command = [ffmpeg(), *QUIET, "-y", "-i", as_file(self.part), *beside, "-c:v", "copy", *self.container]
        done = finished([*command, as_file(self.whole)])
        return explain(done.stderr), done.returncode


class ImagesSink(FileSink):
    """Raw frames into numbered PNGs, each put in place as it comes, the first with the number 1."""

    def __init__(self, sequence: Sequence, format: Format, force: bool) -> None:
        super().__init__(sequence.path(1), format, ["-vf", in_rgb(format, 16)])
        self.sequence = sequence
        if not force and (there := sequence.numbers()):
            raise SoraError(f"{sequence.path(there[0])} already exists; write the images to another folder or "
                            "overwrite them")  # fmt: skip
        self.words += ["-f", "image2", "-atomic_writing", "1", "-start_number", "1"]

    def target(self) -> str:
        return as_file(self.sequence.pattern())

    def keep(self) -> None:
        if older := [self.sequence.path(number).name for number in self.sequence.numbers() if number > self.frames]:
            span = " to ".join(dict.fromkeys((older[0], older[-1])))
            self.notes.append(f"{span} {be(len(older))} from before, and no part of this video")

    def abandon(self) -> None:
        super().abandon()
        unfinished = replace(self.sequence, after=self.sequence.after + ".tmp")
        for number in unfinished.numbers():
            unfinished.path(number).unlink(missing_ok=True)


class ImageSink(Sink):
    """One raw frame into one PNG, with its metadata."""

    def __init__(self, path: Path, format: Format, metadata: Mapping[str, object] | None) -> None:
        super().__init__(path, format)
        self.metadata = metadata

    def put(self, raw: bytes) -> None:
        if self.frames:
            raise Failed(f"{self.path} holds only one frame; for more, use {self.path.stem}%05d.png or .apng")
        self.raw = raw

    def finish(self) -> None:
        (frame,) = to_rgb([self.raw], self.format, self.format.size)
        write_image(self.path, frame, self.metadata)


class StreamSink(Sink):
    """Raw frames, bit for bit, as y4m into a stream. BrokenPipeError if nobody reads it any more."""

    def __init__(self, stream: IO[bytes], format: Format) -> None:
        super().__init__(Path(STREAM), format)
        self.stream = stream

    def put(self, raw: bytes) -> None:
        try:
            self.stream.writelines(self.pieces(raw))
            self.stream.flush()
        except OSError as error:
            silence(self.stream)
            if isinstance(error, BrokenPipeError):
                raise
            raise Failed(f"could not write to standard output: {error.strerror}") from error

    def __exit__(self, *_: object) -> None:
        pass


class Y4mSink(Sink):
    """Raw frames, bit for bit, into a .y4m file."""

    def __enter__(self) -> Self:
        try:
            sweep(self.path)
            self.stream = open(self.part, "wb")
        except OSError as error:
            raise Failed(f"could not write {self.path}: {error.strerror}") from error
        return self

    def put(self, raw: bytes) -> None:
        try:
            self.stream.writelines(self.pieces(raw))
            self.stream.flush()
        except OSError as error:
            raise Failed(f"could not write {self.path}: {error.strerror}") from error

    def abandon(self) -> None:
        self.part.unlink(missing_ok=True)
        with suppress(OSError):      # what a full disk did not take is told already
            self.stream.close()


def silence(stream: IO[bytes]) -> None:
    """What is left in a broken pipe's buffer goes nowhere, so that the interpreter does not complain at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def standard_output() -> IO[bytes]:
    if sys.stdout is None:           # it was closed before we began
        raise SoraError("- writes a video to standard output, which is closed; give a name")
    if sys.stdout.isatty():
        raise SoraError("- writes a video to standard output, which is the terminal; pipe it on or give a name")
    return sys.stdout.buffer
