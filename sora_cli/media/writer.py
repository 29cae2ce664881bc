"""Files written by ffmpeg from frames on its stdin: whole under their name, or nothing at all."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sora_cli.errors import Failed
from sora_cli.files.owned import part_of, sweep
from sora_cli.media.convert import Frame
from sora_cli.media.process import QUIET, as_file, explain, ffmpeg, start
from sora_cli.media.y4m import Format, Size

H264 = ("-c:v", "libx264", "-preset", "superfast", "-crf", "18", "-pix_fmt", "yuv420p")
MP4 = ("-movflags", "+faststart+use_metadata_tags", "-f", "mp4")


class Encoder:
    """An ffmpeg that reads frames from its stdin and writes `part`, which becomes `path` when all went well.

    A context manager: the file appears when the block ends well, and nothing is left when it does not. Failed
    carries ffmpeg's own words. `waited` are the seconds spent on the encoder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.part = part_of(self.path)
        self.waited = 0.0

    def command(self) -> list[str]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        sweep(self.path)
        self.complaints = tempfile.TemporaryFile()
        self.process = start(self.command(), stdin=subprocess.PIPE, stderr=self.complaints)
        return self

    def send(self, *pieces: bytes | memoryview) -> None:
        assert self.process.stdin
        started = time.perf_counter()
        try:
            for piece in pieces:
                self.process.stdin.write(piece)
        except BrokenPipeError:
            self.give_up()
        self.waited += time.perf_counter() - started

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.abandon()

    def finish(self) -> None:
        assert self.process.stdin
        started = time.perf_counter()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            self.give_up()
        if self.process.wait() != 0 or self.complaint():
            self.give_up()
        self.keep()
        self.waited += time.perf_counter() - started

    def keep(self) -> None:
        os.replace(self.part, self.path)

    def abandon(self) -> None:
        """Stop ffmpeg if it still runs and remove what is not complete."""
        self.process.kill()
        self.process.wait()
        self.complaints.close()
        self.part.unlink(missing_ok=True)

    def complaint(self) -> str:
        self.complaints.seek(0)
        return explain(self.complaints.read().decode(errors="replace"))

    def give_up(self) -> None:
        reason = f"it ended with code {self.process.wait()}"
        raise Failed(f"ffmpeg could not write {self.path}: {self.complaint() or reason}")


class FileSink(Encoder):
    """Raw frames through ffmpeg into one file."""

    def __init__(self, path: Path, format: Format, words: list[str]) -> None:
        super().__init__(path)
        self.format, self.words = format, words
        self.frames = 0

    def command(self) -> list[str]:
        source = [ffmpeg(), *QUIET, "-y", "-f", "yuv4mpegpipe", "-i", "pipe:0", "-fps_mode", "passthrough"]
        return [*source, *self.words, self.target()]

    def target(self) -> str:
        return as_file(self.part)

    def write(self, raw: bytes) -> None:
        assert len(raw) == self.format.frame_bytes, (len(raw), self.format)
        self.send(*([] if self.frames else [self.format.header()]), b"FRAME\n", raw)
        self.frames += 1

    def finish(self) -> None:
        if self.frames == 0:
            raise Failed(f"there are no frames to write to {self.path}")
        super().finish()


def write_image(
    path: Path | str, frame: Frame, size: Size | None = None, metadata: Mapping[str, object] | None = None
) -> None:
    """One frame as a PNG of exactly `size`, written whole or not at all."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    path, tags = Path(path), PngInfo()
    for key, value in (metadata or {}).items():
        tags.add_itxt(key, plain(value))
    image = Image.fromarray(frame)
    part = part_of(path)
    try:
        sweep(path)
        image.resize(size or image.size, Image.Resampling.LANCZOS).save(part, format="PNG", pnginfo=tags)
        os.replace(part, path)
    except OSError as error:
        raise Failed(f"could not write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def write_moving(path: Path | str, frames: Sequence[Frame], seconds: float) -> None:
    """Frames, each shown so long, as a WebP that plays for ever, whole or not at all; fast rather than small."""
    from PIL import Image

    path = Path(path)
    part, (first, *others) = part_of(path), map(Image.fromarray, frames)
    try:
        sweep(path)
        first.save(part, format="WEBP", save_all=True, append_images=others, duration=round(1000 * seconds), loop=0,
                   quality=80, method=0)  # fmt: skip
        os.replace(part, path)
    except OSError as error:
        raise Failed(f"could not write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def tagging(metadata: Mapping[str, object]) -> list[str]:
    """ffmpeg's words for the tags of an output."""
    return [word for key, value in metadata.items() for word in ("-metadata", f"{key}={plain(value)}")]


def plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
