"""What a video file holds: by decoding it once (`probe`), or from its beginning alone (`describe`)."""

import re
import subprocess
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from sora_cli.errors import Failed
from sora_cli.media.names import readable
from sora_cli.media.process import LOCAL, QUIET, as_file, explain, ffmpeg
from sora_cli.media.y4m import LARGEST, MATRICES

INFO = ("-hide_banner", "-nostdin", "-loglevel", "info")
TEXT_ART = ("ansi", "bintext", "xbin", "idf")    # what ffmpeg makes of a text file
HDR = ("smpte2084", "arib-std-b67")


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
        [*reading(path, INFO), "-f", "framecrc", "pipe:1"], capture_output=True, text=True, errors="replace"
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


def reading(path: Path, loudness: tuple[str, ...] = QUIET) -> list[str]:
    """An ffmpeg command line up to its output, for the first video stream of a local file, frame by frame."""
    return [ffmpeg(), *loudness, *LOCAL, "-i", as_file(path), "-map", "0:v:0", "-fps_mode", "passthrough"]


@dataclass(frozen=True)
class Picture:
    """What ffmpeg says of a video stream before decoding it; sizes are before rotation, 0 rates are unknown."""

    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    fps: float                   # on the average
    nominal: float               # frames come at multiples of this
    matrix: str | None = None
    hdr: bool = False
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def still(self) -> bool:
        return self.container.endswith("_pipe") or self.container == "image2"

    @property
    def alpha(self) -> bool:
        return bool(re.match(r"yuva|rgba|bgra|argb|abgr|gbrap|ya\d|yaf|ayuv|vuya|pal8", self.pix_fmt))

    @property
    def rgb(self) -> bool:
        return bool(re.match(r"(x2)?(rgb|bgr)|0rgb|0bgr|gbr|mono|xyz|pal8", self.pix_fmt))


def describe(source: list[str], name: str, head: bytes = b"") -> Picture:
    """What `source` (ffmpeg's words for an input) holds; of a pipe, `head` is what is known of it.

    Failed, naming `name`, if it is no video, has only sound, or is too large.
    """
    command = [ffmpeg(), *INFO, *LOCAL, *source, "-f", "ffmetadata", "pipe:1"]
    found = subprocess.run(command, input=head, capture_output=True)
    told = found.stderr.decode(errors="replace")
    container = re.search(r"^Input #0, (.*?), from ", told, re.MULTILINE)
    if not container:
        raise Failed(f"{name} is not a readable video: {explain(found.stderr)}")
    streams = re.findall(r"^ *Stream #0:\d.*?: Video: (?!.*\(attached pic\))(.*)$", told, re.MULTILINE)
    if not streams:
        raise Failed(f"{name} has no pictures in it, only sound or other data")
    metadata = parse_metadata(found.stdout.decode(errors="replace"))
    picture = parse_stream(container[1], streams[0], metadata)
    if picture is None or picture.codec in TEXT_ART:
        raise Failed(f"{name} is not a readable video")
    if max(picture.width, picture.height) > LARGEST:
        raise Failed(f"{name} is {picture.width}x{picture.height}; up to {LARGEST}x{LARGEST} can be read")
    return picture


def parse_stream(container: str, line: str, metadata: dict[str, str]) -> Picture | None:
    """`h264 (High) (avc1), yuv420p(tv, bt709, progressive), 64x48 [SAR 1:1 DAR 4:3], 24 fps, 24 tbr` taken apart."""
    match = re.match(r"(\w+)[^,]*(?:\([^)]*\))?, (\w+)(?:\(([^)]*)\))?.*?, (\d+)x(\d+)", line)
    if not match:
        return None
    colours = {name for word in (match[3] or "").split(", ") for name in word.split("/")}
    matrix = next((name for word in (match[3] or "").split(", ") if (name := word.split("/")[0]) in MATRICES), None)
    return Picture(
        container, match[1], match[2], int(match[4]), int(match[5]), rate(line, "fps"), rate(line, "tbr"),
        matrix, bool(colours & set(HDR)), metadata,
    )  # fmt: skip


def rate(line: str, unit: str) -> float:
    """29.97 from `..., 29.97 fps, ...`, 1000 from `1k tbr`, 0 where it is not said."""
    match = re.search(rf", ([\d.]+)(k?) {unit}\b", line)
    return float(match[1]) * (1000 if match[2] else 1) if match else 0.0


def read_metadata(path: Path | str) -> dict[str, str]:
    """The tags of a file, for example `sora`, the shot as JSON."""
    command = [ffmpeg(), *QUIET, "-i", as_file(readable(path)), "-f", "ffmetadata", "pipe:1"]
    return parse_metadata(subprocess.run(command, capture_output=True, text=True, errors="replace").stdout)


def parse_metadata(listing: str) -> dict[str, str]:
    pairs = re.findall(r"^((?:\\.|[^\\=;\[\n])+)=((?:\\.|[^\\\n])*)$", listing, re.MULTILINE | re.DOTALL)
    return {unescape(key): unescape(value) for key, value in pairs}


def unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
