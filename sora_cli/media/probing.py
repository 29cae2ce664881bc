"""What a video file holds: by decoding it once (`probe`), or from its beginning alone (`describe`)."""

import os
import re
import stat
import subprocess
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from sora_cli.errors import Failed, SoraError, counted
from sora_cli.media.process import CHECKED, LOCAL, QUIET, as_file, complaints, explain, ffmpeg, file_of, finished
from sora_cli.media.y4m import FASTEST, LARGEST, MATRICES, PRIMARIES, TRANSFERS, depth_of

INFO = ("-hide_banner", "-nostdin", "-loglevel", "info")
STILL_BRANDS = ("avif", "avis", "heic", "heix", "mif1", "msf1")  # of pictures that lie in MP4's boxes (ISO 23008-12)
TEXT_ART = ("ansi", "bintext", "xbin", "idf")    # what ffmpeg makes of a text file
LISTS = ("hls", "concat", "dash", "imf")  # name other files, which may change by themselves
FEW_BYTES = 64                   # of a frame; files with fewer are looked at before they are believed
RAW = ("h264", "hevc", "vvc", "obu", "ivf", "m4v", "mpegvideo")  # streams that have no times, or only counts of frames
UNSAID = -(2**62)                # ticks: smaller is no time (AV_NOPTS_VALUE)
STEADY_TICKS = 2.5               # by how much times may differ that were rounded to ticks
LOOK, WOVEN = 48, 4              # first frames that are looked at; so many woven ones to one that is whole
LONG, SPARSE = 1800.0, 10.0      # seconds that nobody shows one frame for, or each of many
# Of frames that nowhere say where they end, only what is left over shows that they were read wrongly. Some encoders
# fill them up, though.
ENDLESS, SOME, ODD = r"msmpeg4v\d|wmv[12]", 12, 3  # codecs, first frames that are looked at, filled ones among them
FIELDS = {"top first": "tff", "bottom first": "bff", "top coded first (swapped)": "bff",
          "bottom coded first (swapped)": "tff", "progressive": ""}  # fmt: skip
USUAL_FPS = 24.0                 # of what has no rate
ROWS = (480, 486, 512, 576, 1080)  # of pictures that are broadcast in fields


class TooLarge(Failed):
    """The video is readable, but has more pixels than we accept."""


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
    path = Path(path)
    if not path.is_file():
        raise SoraError(f"there is no file {path}")
    found = listing(path)
    size = re.search(r"#dimensions 0: (\d+)x(\d+)", found.stdout)
    tick, frames = parse_listing(found.stdout)
    if found.returncode or not (size and tick):
        raise Failed(f"{path} is not a readable video: {explain(found.stderr)}")
    lasts = frames[0].duration or 1 if frames else 1
    seen = describe(["-i", as_file(path)], str(path))
    return Media(int(size[1]), int(size[2]), float(1 / (tick * lasts)), len(frames), seen.codec, seen.pix_fmt,
                 seen.metadata)  # fmt: skip


def listing(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """ffmpeg's list (framecrc) of the first video stream of a local file, frame by frame; of its packets, not decoded,
    where the words are `-c copy`."""
    command = [ffmpeg(), *QUIET, *LOCAL, "-i", as_file(path), "-map", "0:v:0", "-fps_mode", "passthrough"]
    return finished([*command, *words, "-f", "framecrc", "pipe:1"])


class Listed(NamedTuple):
    """A line of such a list: when a frame is decoded and shown, and how long, in ticks."""

    decoded: int
    shown: int
    duration: int


def parse_listing(told: str) -> tuple[Fraction, list[Listed]]:
    """(seconds of a tick or 0 if unknown, the frames of the first stream)."""
    base = re.search(r"#tb 0: (\d+)/(\d+)", told)
    lines = re.findall(r"^0, *(-?\d+), *(-?\d+), *(-?\d+)", told, re.MULTILINE)
    return Fraction(int(base[1]), int(base[2])) if base else Fraction(0), [Listed(*map(int, line)) for line in lines]


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
    measured: bool = False       # the rates, by the times of frames, since ffmpeg does not know them
    matrix: str | None = None
    primaries: str | None = None
    transfer: str | None = None
    fields: str | None = None    # `tff` or `bff`, which of two fields comes first; "" of whole frames; None: unsaid
    metadata: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0         # as the file says, 0 if it does not
    start: float = 0.0           # seconds of the file at which the pictures begin
    sounds: tuple[int, ...] = () # samples a second of its sound tracks
    others: tuple[str, ...] = () # kinds of all other streams

    @property
    def is_image(self) -> bool:
        return self.timeless or self.metadata.get("major_brand", "").strip() in STILL_BRANDS

    @property
    def timeless(self) -> bool:
        """Whether it is a single picture, to which ffmpeg gives any requested rate."""
        return self.container.endswith("_pipe") or self.container == "image2"

    @property
    def animated(self) -> bool:
        """Whether it has a format for animations that may also hold a still picture."""
        return self.container in ("gif", "apng", "webp", "webp_anim")

    @property
    def unsaid(self) -> bool:
        """Whether it may be interlaced without declaring it."""
        return self.fields is None and not self.is_image and not self.animated and self.height in ROWS

    @property
    def alpha(self) -> bool:
        return bool(re.match(r"yuva|rgba|bgra|argb|abgr|gbrap|ya\d|yaf|ayuv|vuya|pal8", self.pix_fmt))

    @property
    def depth(self) -> int:
        """Bits of a sample."""
        return depth_of(self.pix_fmt)

    @property
    def rgb(self) -> bool:
        return bool(re.match(r"(x2)?(rgb|bgr)|0rgb|0bgr|gbr|mono|xyz|pal8", self.pix_fmt))


def looked_at(words: list[str], name: str) -> Picture:
    """What `describe` says of a file, its rate and its fields looked for where it does not say them. A file that has
    not changed since it was last asked for is not read again."""
    if state := state_of(str(file_of(words))):
        known = remembered(ffmpeg(), tuple(words), name, state)
        if known.container not in LISTS:
            return known
    return completed(words, name)


def state_of(file: str) -> tuple[int, ...]:
    """A key that changes when a file is written to; () for anything but a file."""
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return ()
    is_file = stat.S_ISREG(found.st_mode)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if is_file else ()


@lru_cache(1024)
def remembered(program: str, words: tuple[str, ...], name: str, state: tuple[int, ...]) -> Picture:
    return completed(list(words), name)


def completed(words: list[str], name: str) -> Picture:
    picture = describe(words, name)
    return picture if picture.is_image else woven(steadied(picture, words), words)


def describe(words: list[str], name: str, head: bytes = b"") -> Picture:
    """What an input (ffmpeg's words for it) holds, as ffmpeg says; of a pipe, `head` is what is known of it.

    Failed, naming `name`, if it is no video, has only sound, or is too large.
    """
    found = finished([ffmpeg(), *INFO, *LOCAL, *words, "-f", "ffmetadata", "pipe:1"], head)
    output = found.stderr
    container = re.search(r"^Input #0, (.*?), from ", output, re.MULTILINE)
    if not container:
        raise Failed(f"{name} is not a readable video: {explain(output)}")
    streams = re.findall(r"^ *Stream #0:\d.*?: Video: (?!.*\(attached pic\))(.*)$", output, re.MULTILINE)
    if not streams:
        raise Failed(f"{name} has no pictures in it, only sound or other data")
    picture = parse_stream(container[1], streams[0], parse_metadata(found.stdout))
    if picture is None or picture.codec in TEXT_ART:
        raise Failed(f"{name} is not a readable video")
    if max(picture.width, picture.height) > LARGEST:
        raise TooLarge(f"{name} is {picture.width}x{picture.height}; up to {LARGEST}x{LARGEST} can be read")
    sounds, others = parse_others(output)
    seconds = seconds_of(output)
    return replace(picture, start=start_of(streams[0], output), seconds=seconds, sounds=sounds, others=others)


def check_times(words: list[str], name: str, picture: Picture) -> int | None:
    """Failed if frames are said to be shown for so long that nobody means it. How many there are, if it was looked at,
    as where a file is too small for the time that it says it lasts, or does not say."""
    path = file_of(words)
    size = path.stat().st_size if path.is_file() else 0
    quick = picture.fps * SPARSE >= 1 and picture.seconds < LONG
    likely = quick and picture.seconds and size > picture.seconds * picture.fps * FEW_BYTES
    if picture.is_image or (likely and not picture.animated) or not size:
        return None
    times, _ = stamps(path)
    if not times:
        return None
    gaps = [after - before for before, after in pairwise(times)]
    lasts = sum(gaps) if picture.container == "avi" else max(sum(gaps), picture.seconds)  # into a pipe, its head lies
    if max(gaps, default=0) > LONG or (lasts > LONG and lasts > SPARSE * len(times)):
        raise Failed(f"{name} says that its {counted(len(times), 'frame')} last {lasts / 3600:.1f} hours, which is too "
                     "long for so few of them; its time stamps are damaged")  # fmt: skip
    return len(times)


def stamps(path: Path) -> tuple[list[float], float]:
    """When each frame is shown, in seconds, and the precision of these times. Where a container knows in which order
    frames are decoded, and not when they are shown, as AVI's, the times are those of decoding."""
    base, frames = parse_listing(listing(path, "-c", "copy").stdout)
    tick, times = float(base), [frame.shown for frame in frames]
    if min(times, default=0) < UNSAID:
        times = [frame.decoded for frame in frames]
        if min(times) < UNSAID:
            return [], tick
    return sorted(time * tick for time in times), tick


def steadied(picture: Picture, words: list[str]) -> Picture:
    """Frames at a steady rate of which ffmpeg says otherwise, as it does of few, slow or field-coded ones."""
    if picture.container in RAW and picture.fps:
        return replace(picture, nominal=picture.fps)
    if picture.fps == picture.nominal and 0 < picture.fps <= FASTEST:
        return picture
    times, tick = stamps(file_of(words))
    gaps = [after - before for before, after in pairwise(times) if after > before]
    if not gaps:  # of one frame, some containers tell the ticks of their clock
        fps = picture.fps or picture.nominal
        if fps > FASTEST:
            return replace(picture, fps=USUAL_FPS, nominal=USUAL_FPS, measured=True)
        return replace(picture, nominal=fps)
    fps = len(gaps) / sum(gaps)
    steady = max(gaps) - min(gaps) <= STEADY_TICKS * tick
    if picture.fps:
        return replace(picture, nominal=picture.fps, measured=True) if steady else picture
    return replace(picture, fps=fps, nominal=fps if steady else 1 / min(gaps), measured=True)


def start_of(line: str, output: str) -> float:
    """Seconds from where a file begins to where one of its streams does."""
    own, whole = re.search(r", start (-?[\d.]+)", line), re.search(r"^  Duration: .*, start: (-?[\d.]+)", output, re.M)
    return max(0.0, float(own[1] if own else 0) - float(whole[1] if whole else 0))


def seconds_of(output: str) -> float:
    """How long a file says it is; 0 where it does not."""
    said = re.search(r"^  Duration: (\d+):(\d+):([\d.]+)", output, re.MULTILINE)
    return int(said[1]) * 3600 + int(said[2]) * 60 + float(said[3]) if said else 0.0


def parse_others(output: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """What there is beside the pictures: rates of sound tracks that can be read, and kinds of all else."""
    rates: list[int] = []
    others = ["chapters"] * ("\n  Chapters:" in output)
    for kind, line in re.findall(r"^ *Stream #0:\d.*?: (\w+): (.*)$", output, re.MULTILINE):
        rate = re.search(r"(\d+) Hz", line)
        if kind == "Audio" and rate and not line.startswith(("none", "unknown")):
            rates.append(int(rate[1]))
        else:
            others.append("cover" if "(attached pic)" in line else kind.lower())
    others.remove("video")
    return tuple(rates), tuple(others)


def woven(picture: Picture, words: list[str], head: bytes = b"") -> Picture:
    """The same, knowing whether its first frames, of a file or of the `head` of a pipe, are woven of two fields, where
    nobody says so. A pattern of fine lines looks woven, too: only frames as tall as interlaced ones are looked at."""
    if not picture.unsaid:
        return picture
    command = [ffmpeg(), *INFO, *LOCAL, *words, "-map", "0:V:0", "-frames:v", str(LOOK)]
    command += ["-vf", "idet", "-f", "null", "-"]
    output = finished(command, head).stderr
    counts = re.findall(r"Multi frame detection: TFF: *(\d+) *BFF: *(\d+) *Progressive: *(\d+)", output)
    top, bottom, progressive = map(int, counts[-1]) if counts else (0, 0, 0)
    two = max(top, bottom) >= LOOK // 4 and min(top, bottom) + progressive < max(top, bottom) / WOVEN
    return replace(picture, fields=("tff" if top > bottom else "bff") if two else "")


def strictness(picture: Picture, words: list[str]) -> list[str]:
    """ffmpeg's words for what is an error in an input, beside wrong checksums: what is left over of a frame, unless
    its first ones are like that."""
    if not re.fullmatch(ENDLESS, picture.codec):
        return []
    strict = ["-err_detect", "crccheck+buffer"]
    command = [ffmpeg(), *CHECKED, *strict, *LOCAL, *words, "-map", "0:V:0", "-frames:v", str(SOME), "-f", "null", "-"]
    odd = complaints(finished(command).stderr)
    return strict if len(odd) < ODD else []


def parse_stream(container: str, line: str, metadata: dict[str, str]) -> Picture | None:
    """`h264 (High) (avc1), yuv420p(tv, bt709, progressive), 64x48 [SAR 1:1 DAR 4:3], 24 fps, 24 tbr` taken apart."""
    match = re.match(r"(\w+)[^,]*(?:\([^)]*\))?, (\w+)(?:\(((?:[^()]|\([^)]*\))*)\))?.*?, (\d+)x(\d+)", line)
    if not match:
        return None
    words = (match[3] or "").split(", ")
    fps, nominal = rate(line, "fps"), rate(line, "tbr")
    if container == "dv" and nominal:  # of which ffmpeg tells the ticks of the clock
        fps = nominal
    fields = next((FIELDS[word] for word in words if word in FIELDS), None)
    return Picture(
        container, match[1], match[2], int(match[4]), int(match[5]), fps, nominal,
        False, *colours(words), fields=fields, metadata=metadata,
    )  # fmt: skip


def colours(words: list[str]) -> tuple[str | None, str | None, str | None]:
    """Matrix, primaries and transfer, each None where it is not known: `bt709/unknown/unknown`, or one for all."""
    known = (MATRICES, PRIMARIES, TRANSFERS)
    for word in words:
        names = word.split("/") if "/" in word else [word] * 3
        found = [name if name in names_known else None for name, names_known in zip(names, known, strict=False)]
        if len(names) == 3 and ("/" in word or any(found)):
            return found[0], found[1], found[2]
    return None, None, None


def rate(line: str, unit: str) -> float:
    """29.97 from `..., 29.97 fps, ...`, 1000 from `1k tbr`, 0 where it is not said."""
    match = re.search(rf", ([\d.]+)(k?) {unit}\b", line)
    return float(match[1]) * (1000 if match[2] else 1) if match else 0.0


def parse_metadata(listing: str) -> dict[str, str]:
    pairs = re.findall(r"^((?:\\.|[^\\=;\[\n])+)=((?:\\.|[^\\\n])*)$", listing, re.MULTILINE | re.DOTALL)
    return {unescape(key).lower(): unescape(value) for key, value in pairs}  # Matroska has them in capitals


def unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
