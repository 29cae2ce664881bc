"""Files written by ffmpeg from frames on its stdin: whole under their name, or nothing at all."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NoReturn, Self

from PIL import Image

from sora_cli.errors import Failed
from sora_cli.files.owned import part_of, sweep, writing
from sora_cli.media.convert import Frame
from sora_cli.media.process import Y4M_IN, as_file, explain, ffmpeg, start
from sora_cli.media.y4m import Format

H264 = ("-c:v", "libx264", "-preset", "superfast", "-crf", "18", "-pix_fmt", "yuv420p")
PREVIEW = b"sora-cli preview"  # the last bytes of one; an even number of them, as WebP has it
MOST_TAG = 120_000  # bytes; Linux passes on 131,072 of one word
MP4 = ("-movflags", "+faststart+use_metadata_tags", "-f", "mp4")


class Sink(AbstractContextManager["Sink"]):
    """Takes raw frames of one format and leaves a whole output, or none: `part` becomes `path` when the block ends
    well, and nothing is left when it does not. `waited` are the seconds spent on writing; `notes` say what is odd."""

    def __init__(self, path: Path, format: Format) -> None:
        self.path, self.part, self.format = path, part_of(path), format
        self.waited, self.frames = 0.0, 0
        self.notes: list[str] = []

    def write(self, raw: bytes) -> None:
        assert len(raw) == self.format.frame_bytes, (len(raw), self.format)
        started = time.perf_counter()
        self.put(raw)
        self.frames += 1
        self.waited += time.perf_counter() - started

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                if self.frames == 0:
                    raise Failed(f"there are no frames to write to {self.path}")
                started = time.perf_counter()
                self.finish()
                self.waited += time.perf_counter() - started
        finally:
            self.abandon()

    def put(self, raw: bytes) -> None:
        """Write one more frame."""
        raise NotImplementedError

    def finish(self) -> None:
        """After the last frame: have the output under its name."""
        os.replace(self.part, self.path)

    def abandon(self) -> None:
        """Let go of everything, and remove what is not complete."""

    def pieces(self, raw: bytes) -> list[bytes]:
        """The next frame in a y4m stream, of which the first has the header before it."""
        return [*([] if self.frames else [self.format.header()]), b"FRAME\n", raw]


class FileSink(Sink):
    """Raw frames through ffmpeg into one file; `words` are ffmpeg's from its input to its output. Failed carries its
    own words."""

    def __init__(self, path: Path, format: Format, words: list[str]) -> None:
        super().__init__(path, format)
        self.words, self.parts = words, [self.part]

    def another(self, purpose: str) -> Path:
        """One more temporary file, which goes when the others do."""
        self.parts.append(part_of(self.path.with_name(f"{self.path.name}.{purpose}")))
        return self.parts[-1]

    def __enter__(self) -> Self:
        sweep(self.path)
        self.complaints = tempfile.TemporaryFile()
        command = [ffmpeg(), *Y4M_IN, "-y", "-fps_mode", "passthrough"]
        self.process = start([*command, *self.words, self.target()], stdin=subprocess.PIPE, stderr=self.complaints)
        return self

    def target(self) -> str:
        return as_file(self.part)

    def put(self, raw: bytes) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.writelines(self.pieces(raw))
        except BrokenPipeError:
            self.give_up()

    def finish(self) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            self.give_up()
        if self.process.wait() != 0 or self.complaint():
            self.give_up()
        self.keep()

    def keep(self) -> None:
        super().finish()

    def abandon(self) -> None:
        self.process.kill()
        self.process.wait()
        self.complaints.close()
        for part in self.parts:
            part.unlink(missing_ok=True)

    def complaint(self) -> str:
        self.complaints.seek(0)
        return explain(self.complaints.read().decode(errors="replace"))

    def give_up(self) -> NoReturn:
        code = self.process.wait()
        self.fail(self.complaint(), code)

    def fail(self, why: str, code: int) -> NoReturn:
        """Failed, since a run of ffmpeg ended with this complaint, or with none but its exit code."""
        raise Failed(f"ffmpeg could not write {self.path}: {why or f'it ended with code {code}'}")


def write_image(path: Path | str, frame: Frame, metadata: Mapping[str, object] | None = None) -> None:
    """One frame as a PNG, written whole or not at all."""
    from PIL.PngImagePlugin import PngInfo

    tags = PngInfo()
    for key, value in (metadata or {}).items():
        tags.add_itxt(key, plain(value))
    with writing(Path(path)) as file:
        Image.fromarray(frame).save(file, format="PNG", pnginfo=tags)


def write_moving(path: Path | str, frames: Sequence[Frame], seconds: float) -> None:
    """Frames, each shown so long, as a WebP that plays for ever, whole or not at all; fast rather than small."""
    first, *others = map(Image.fromarray, frames)
    with writing(Path(path)) as file:
        first.save(file, format="WEBP", save_all=True, append_images=others, duration=round(1000 * seconds), loop=0,
                   quality=80, method=0, xmp=PREVIEW)  # fmt: skip


def is_preview(path: Path) -> bool:
    """Whether `write_moving` wrote a file."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(-len(PREVIEW), os.SEEK_END)  # OSError of a shorter file
        return file.read() == PREVIEW
    return False


def tagging(metadata: Mapping[str, object]) -> list[str]:
    """ffmpeg's arguments for the metadata tags of an output, without those that are too long for one."""
    tags = (f"{key}={plain(value)}" for key, value in metadata.items() if not too_long(value))
    return [word for tag in tags for word in ("-metadata", tag)]


def too_long(value: object) -> bool:
    return len(plain(value).encode(errors="replace")) > MOST_TAG


def plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
