"""ffmpeg both ways: write MP4 and PNG, read frames, probe files. No torch.

Frames are uint8 arrays [h, w, 3] in RGB, sizes are (width, height) pairs.
"""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from sora_cli.errors import Failed, SoraError

Frame = np.ndarray
Size = tuple[int, int]

QUIET = ("-hide_banner", "-nostdin", "-loglevel", "error")
RAW_RGB = ("-f", "rawvideo", "-pix_fmt", "rgb24")
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p")
BT709 = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv")
MP4 = ("-movflags", "+faststart+use_metadata_tags", "-f", "mp4")


def ffmpeg() -> str:
    """The ffmpeg binary: $SORA_FFMPEG, else the one that imageio-ffmpeg carries or finds."""
    if chosen := os.environ.get("SORA_FFMPEG"):
        return chosen
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise Failed("no ffmpeg was found; reinstall imageio-ffmpeg or set SORA_FFMPEG") from error


def as_file(path: Path) -> str:
    """A name that ffmpeg cannot take for a protocol (`concat:...`) or an option (`-y`)."""
    return f"file:{path}"


def part_of(path: Path) -> Path:
    """The name under which `path` is written until it is complete."""
    return path.with_name(path.name + ".part")


def rational(fps: float) -> str:
    """24.0 -> 24/1, 23.976 -> 24000/1001: exact for the rates that cameras use."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    exact = ntsc if abs(float(ntsc) - fps) < 5e-4 else Fraction(fps).limit_denominator(1000)
    return f"{exact.numerator}/{exact.denominator}"


class VideoWriter:
    """Frames of `source_size` in, an H.264 yuv420p MP4 of exactly `size` out, its index at the front.

    A context manager: the file appears under `path` when the block ends well, and nothing is left when it
    does not. `metadata` values that are not strings are stored as JSON. Failed carries ffmpeg's own words.
    """

    def __init__(
        self,
        path: Path | str,
        size: Size,
        fps: float,
        source_size: Size | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        self.path = Path(path)
        self.part = part_of(self.path)
        self.size, self.fps = size, fps
        self.source_size = source_size or size
        self.metadata = metadata or {}
        self.waited = 0.0        # seconds spent on the encoder

    def command(self) -> list[str]:
        source = "x".join(map(str, self.source_size))
        scale = "scale={}:{}:flags=lanczos:out_color_matrix=bt709:out_range=tv,setsar=1".format(*self.size)
        tags = [w for key, value in self.metadata.items() for w in ("-metadata", f"{key}={plain(value)}")]
        return [
            ffmpeg(), *QUIET, "-y",
            *RAW_RGB, "-video_size", source, "-framerate", rational(self.fps), "-i", "pipe:0",
            "-vf", scale, *H264, *BT709, *tags, *MP4, as_file(self.part),
        ]  # fmt: skip

    def __enter__(self) -> "VideoWriter":
        self.complaints = tempfile.TemporaryFile()
        self.process = start(self.command(), stdin=subprocess.PIPE, stderr=self.complaints)
        return self

    def write(self, frame: Frame) -> None:
        """One frame, uint8 [h, w, 3]."""
        assert frame.dtype == np.uint8 and frame.shape == (*reversed(self.source_size), 3), frame.shape
        assert self.process.stdin
        started = time.perf_counter()
        try:
            self.process.stdin.write(np.ascontiguousarray(frame).data)
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
        os.replace(self.part, self.path)
        self.waited += time.perf_counter() - started

    def abandon(self) -> None:
        """Stop ffmpeg if it still runs and remove what is not complete."""
        self.process.kill()
        self.process.wait()
        self.complaints.close()
        self.part.unlink(missing_ok=True)

    def complaint(self) -> str:
        self.complaints.seek(0)
        return explain(self.complaints.read())

    def give_up(self) -> None:
        reason = f"it ended with code {self.process.wait()}"
        raise Failed(f"ffmpeg could not write {self.path}: {self.complaint() or reason}")


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
        image.resize(size or image.size, Image.Resampling.LANCZOS).save(part, format="PNG", pnginfo=tags)
        os.replace(part, path)
    except OSError as error:
        raise Failed(f"could not write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def read_frames(path: Path | str) -> Iterator[Frame]:
    """The frames of a video one by one, upright, as uint8 [h, w, 3]; Failed if ffmpeg cannot read it."""
    path = readable(path)
    with tempfile.TemporaryFile() as complaints:
        command = [*reading(path), "-f", "image2pipe", "-c:v", "ppm", "pipe:1"]
        process = start(command, stdout=subprocess.PIPE, stderr=complaints)
        assert process.stdout
        try:
            while (frame := read_ppm(process.stdout)) is not None:
                yield frame
            if process.wait() != 0:
                complaints.seek(0)
                raise Failed(f"{path} is not a readable video: {explain(complaints.read())}")
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def read_ppm(stream: IO[bytes]) -> Frame | None:
    """One binary PPM image off the stream, None at its end."""
    if stream.readline() != b"P6\n":
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()
    pixels = stream.read(3 * width * height)
    if len(pixels) < 3 * width * height:
        return None
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


@dataclass(frozen=True)
class Media:
    """What a video file holds. `fps` is the stream's rate, `frames` were counted by decoding."""

    width: int
    height: int
    fps: float
    frames: int
    codec: str
    pix_fmt: str
    metadata: dict[str, str]

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


def probe(path: Path | str) -> Media:
    """Decode `path` once and say what is in it; SoraError if it is not there, Failed if it is no video."""
    path = readable(path)
    found = subprocess.run(
        [*reading(path, "info"), "-f", "framecrc", "pipe:1"], capture_output=True, text=True, errors="replace"
    )
    stream = re.search(r"Stream #.*?: Video: (\w+)[^,]*, (\w+)", found.stderr)
    size = re.search(r"#dimensions 0: (\d+)x(\d+)", found.stdout)
    base = re.search(r"#tb 0: (\d+)/(\d+)", found.stdout)
    if found.returncode or not (stream and size and base):
        raise Failed(f"{path} is not a readable video: {explain(found.stderr.encode())}")
    frames = [line for line in found.stdout.splitlines() if line.startswith("0,")]
    rate = Fraction(int(base[2]), int(base[1]) * step(frames))
    width, height = int(size[1]), int(size[2])
    return Media(width, height, float(rate), len(frames), stream[1], stream[2], read_metadata(path))


def step(frames: list[str]) -> int:
    """Ticks of the time base from one frame to the next in a framecrc listing."""
    return int(frames[0].split(",")[3]) or 1 if frames else 1


def read_metadata(path: Path | str) -> dict[str, str]:
    """The tags of a file, for example `sora`, the shot as JSON."""
    command = [ffmpeg(), *QUIET, "-i", as_file(readable(path)), "-f", "ffmetadata", "pipe:1"]
    listing = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
    pairs = re.findall(r"^((?:\\.|[^\\=;\[\n])+)=((?:\\.|[^\\\n])*)$", listing, re.MULTILINE | re.DOTALL)
    return {unescape(key): unescape(value) for key, value in pairs}


def unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def readable(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise SoraError(f"there is no file {path}")
    return path


def reading(path: Path, loglevel: str = "error") -> list[str]:
    """An ffmpeg command line up to its output, for the first video stream of a local file, frame by frame."""
    options = ["-hide_banner", "-nostdin", "-loglevel", loglevel, "-protocol_whitelist", "file,pipe"]
    return [ffmpeg(), *options, "-i", as_file(path), "-map", "0:v:0", "-fps_mode", "passthrough"]


def start(
    command: list[str], stdin: int | None = None, stdout: int | None = None, stderr: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """ffmpeg in its own session, so that Ctrl-C reaches us alone and we decide what happens to the file."""
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
    except OSError as error:
        raise Failed(f"ffmpeg does not start ({command[0]}): {error.strerror}") from error


def explain(complaint: bytes) -> str:
    """The line of ffmpeg's stderr that names the cause, without its prefixes."""
    spoken = complaint.decode(errors="replace").splitlines()
    lines = [re.sub(r"^(\[[^\]]*\]\s*)+", "", line).strip() for line in spoken]
    telling = [line for line in lines if re.search(r"no space|denied|invalid|error|no such", line, re.I)]
    return (telling or [line for line in lines if line] or [""])[0]
