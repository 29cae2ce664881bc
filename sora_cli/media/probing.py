"""What a video file holds: as ffmpeg says before decoding it (`describe`), with what it leaves out looked for
(`looked_at`), or with its frames decoded and counted (`probe`)."""

import os
import re
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, lru_cache, partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from sora_cli.errors import Failed, SoraError, counted
from sora_cli.media.process import CHECKED, LOCAL, as_file, complaints, explain, ffmpeg, file_of, finished
from sora_cli.media.y4m import FASTEST, LARGEST, MATRICES, PRIMARIES, TRANSFERS, depth_of

INFO = ("-hide_banner", "-nostdin", "-loglevel", "level+info")
DECODED = ("-map", "0:V:0", "-fps_mode", "passthrough", "-f", "framecrc", "pipe:1")  # the frames, one a line, ...
PACKETS = (*DECODED[:4], "-c", "copy", *DECODED[4:])     # ... or what they are decoded from, which takes less time
STILL_BRANDS = ("avif", "avis", "heic", "heix", "mif1", "msf1")  # of pictures that lie in MP4's boxes (ISO 23008-12)
TEXT_ART = ("ansi", "bintext", "xbin", "idf")    # what ffmpeg makes of a text file
LISTS = ("hls", "concat", "dash", "imf")  # name other files, which may change by themselves
FEW_BYTES = 64                   # of a frame; files with fewer are looked at before they are believed
RAW = ("h264", "hevc", "vvc", "obu", "ivf", "m4v", "mpegvideo")  # streams that have no times, or only counts of frames
PAUSE = 1.5                      # times the median gap between frames: a longer one is a pause
UNSAID = -(2**62)                # ticks: smaller is no time (AV_NOPTS_VALUE)
STEADY_TICKS = 2.5               # by how much times may differ that were rounded to ticks, ...
MILLISECONDS = 1.5e-3            # ... or, in seconds, to milliseconds before they came to a finer clock (FLV, MKV)
NEAR = 0.01                      # share by which a nominal rate may then differ from that of the times
LOOK, WOVEN = 48, 4              # first frames that are looked at; so many woven ones to one that is whole
LONG, SPARSE = 1800.0, 10.0      # seconds that nobody shows one frame for, or each of many
# Of frames that nowhere say where they end, only what is left over shows that they were read wrongly. Some encoders
# fill them up, though.
STRICT = ("-err_detect", "crccheck+buffer")
ENDLESS, SOME, ODD = r"msmpeg4v\d|wmv[12]", 12, 3  # codecs, first frames that are looked at, filled ones among them
FIELDS = {"top first": "tff", "bottom first": "bff", "top coded first (swapped)": "bff",
          "bottom coded first (swapped)": "tff", "progressive": ""}  # fmt: skip
USUAL_FPS = 24.0                 # of what has no rate
FASTEST_NOMINAL = 120            # frames per second; above it, a variable rate is counted in ticks, not in frames
ROWS = (480, 486, 512, 576, 1080)  # of pictures that are broadcast in fields
Times = Callable[[], tuple[list[float], float]]  # `stamps` of an input, which are listed when they are asked for


class TooLarge(Failed):
    """The video is readable, but has more pixels than we accept."""


class Listed(NamedTuple):
    """A line of ffmpeg's list (framecrc): when a frame is decoded and shown, and how long, in ticks."""

    decoded: int
    shown: int
    duration: int


def parse_listing(listing: str) -> tuple[Fraction, list[Listed]]:
    """(seconds of a tick or 0 if unknown, the frames of the first stream). A line after a backslash is part of a tag
    (see `asked`), whatever it looks like."""
    base = re.search(r"#tb 0: (\d+)/(\d+)", listing)
    lines = re.findall(r"(?<!\\\n)^0, *(-?\d+), *(-?\d+), *(-?\d+)", listing, re.MULTILINE)
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
    matrix: str | None = None
    primaries: str | None = None
    transfer: str | None = None
    measured: bool = False       # the rates, by the times of frames, since ffmpeg does not know them
    usual: float = 0.0           # between pauses, where `nominal` is a clock's; 0 if that is not known
    fields: str | None = None    # `tff` or `bff`, which of two fields comes first; "" of whole frames; None: unsaid
    metadata: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0         # as the file says, 0 if it does not
    start: float = 0.0           # seconds of the file at which the pictures begin
    sounds: tuple[int, ...] = () # samples a second of its sound tracks
    others: tuple[str, ...] = () # kinds of all other streams
    packets: int | None = None   # of the pictures, None where they were not counted
    strict: bool = False         # bits that are left over in a frame are damage

    @property
    def is_image(self) -> bool:
        return self.timeless or self.metadata.get("major_brand", "").strip() in STILL_BRANDS

    @property
    def timeless(self) -> bool:
        """Whether it is a single picture, to which ffmpeg gives any requested rate."""
        return self.container.endswith("_pipe") or self.container == "image2"

    @property
    def varies(self) -> bool:
        """Whether its frames come at a rate that is not constant."""
        return bool(self.fps) and self.fps != self.nominal and not self.is_image

    @property
    def ticking(self) -> bool:
        """Whether `nominal` is the rate of a clock that ticks far more often than frames come."""
        return self.nominal > min(2 * self.fps, FASTEST_NOMINAL)

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


@dataclass(frozen=True)
class Media:
    """What a video file holds: its size as it is shown, its frames as they were counted by decoding them, `fps` by how
    long the first one lasts, or on the average if it varies, and all that `looked_at` says."""

    width: int
    height: int
    fps: float
    frames: int
    picture: Picture

    @property
    def metadata(self) -> dict[str, str]:
        return self.picture.metadata

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


def probe(path: Path | str) -> Media:
    """Decode `path` once and say what is in it; SoraError if it is not there, Failed if it is no video."""
    path = Path(path)
    if not path.is_file():
        raise SoraError(f"there is no file {path}")
    words = ["-i", as_file(path)]
    found = asked(words, *DECODED)
    picture = described(found, str(path))
    size = re.search(r"#dimensions 0: (\d+)x(\d+)", found.stdout)
    tick, frames = parse_listing(found.stdout)
    if found.returncode or not (size and tick):
        raise Failed(f"{path} is not a readable video: {explain(found.stderr)}")
    lasts = Fraction(frames[0].duration or 1 if frames else 1)
    picture = completed(picture, words, partial(stamps, words))
    if picture.varies and frames:
        lasts = Fraction(max(1, frames[-1].shown + frames[-1].duration - frames[0].shown), len(frames))
    return Media(int(size[1]), int(size[2]), float(1 / (tick * lasts)), len(frames), picture)


def looked_at(words: list[str], name: str) -> Picture:
    """What `describe` says of a file, with what it does not say looked for. A file that has not changed since it was
    last asked for is not read again. Failed, too, if the times of its frames are damaged."""
    if state := state_of(str(file_of(words))):
        cached = remembered(ffmpeg(), tuple(words), name, state)
        if cached.container not in LISTS:
            return cached
    return examined(words, name)


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
    return examined(list(words), name)


def examined(words: list[str], name: str) -> Picture:
    times = cache(partial(stamps, words))
    picture = completed(describe(words, name), words, times)
    return replace(picture, packets=count_packets(picture, words, name, times), strict=strict(picture, words))


def completed(picture: Picture, words: list[str], times: Times) -> Picture:
    """The same with its rate and its fields looked for where ffmpeg does not say them."""
    return picture if picture.is_image else woven(steadied(picture, times), words)


def asked(words: list[str], *listing: str, head: bytes = b"") -> subprocess.CompletedProcess[str]:
    """ffmpeg on an input: what it says of it on stderr, and on stdout its list, if one is wanted, and its tags."""
    return finished([ffmpeg(), *INFO, *LOCAL, *words, *listing, "-f", "ffmetadata", "pipe:1"], head)


def describe(words: list[str], name: str, head: bytes = b"") -> Picture:
    """What an input (ffmpeg's words for it) holds, as ffmpeg says; of a pipe, `head` is what is known of it.

    Failed, naming `name`, if it is no video, has only sound, or is too large.
    """
    return described(asked(words, head=head), name)


def described(found: subprocess.CompletedProcess[str], name: str) -> Picture:
    """The same from ffmpeg's words."""
    output = re.sub(r"^\[info\] ", "", found.stderr, flags=re.MULTILINE).partition("\nOutput #")[0]
    container = re.search(r"^Input #0, (.*?), from ", output, re.MULTILINE)
    if not container:
        raise Failed(f"{name} is not a readable video: {explain(found.stderr)}")
    streams = re.findall(r"^ *Stream #0:\d.*?: Video: (?!.*\(attached pic\))(.*)$", output, re.MULTILINE)
    if not streams:
        raise Failed(f"{name} has no pictures in it, only sound or other data")
    picture = parse_stream(container[1], streams[0], parse_metadata(found.stdout))
    if picture is None or picture.codec in TEXT_ART:
        raise Failed(f"{name} is not a readable video")
    if max(picture.width, picture.height) > LARGEST:
        raise TooLarge(f"{name} is {picture.width}x{picture.height}; up to {LARGEST}x{LARGEST} can be read")
    start, (sounds, others) = start_of(streams[0], output), parse_others(output)
    return replace(picture, start=start, seconds=seconds_of(output), sounds=sounds, others=others)


def count_packets(picture: Picture, words: list[str], name: str, times: Times) -> int | None:
    """How many packets there are, None if they are not counted: they are where a file is too small for the time that it
    says it lasts, does not say, or may be a single picture. Failed if frames are said to be shown for so long that
    nobody means it."""
    path = file_of(words)
    size = path.stat().st_size if path.is_file() else 0
    quick = picture.fps * SPARSE >= 1 and picture.seconds < LONG
    likely = quick and picture.seconds and size > picture.seconds * picture.fps * FEW_BYTES
    if picture.is_image or (likely and not picture.animated) or not size:
        return None
    shown, _ = times()
    if not shown:
        return None
    gaps = [after - before for before, after in pairwise(shown)]
    lasts = sum(gaps) if picture.container == "avi" else max(sum(gaps), picture.seconds)  # into a pipe, its head lies
    if max(gaps, default=0) > LONG or (lasts > LONG and lasts > SPARSE * len(shown)):
        raise too_long(f"{name} says that its {counted(len(shown), 'frame')} last", lasts)
    return len(shown)


def too_long(said: str, seconds: float) -> Failed:
    """That what a file says of its frames cannot be."""
    hours = f"{seconds / 3600:.1f} hours"
    return Failed(f"{said} {hours}, which is too long for so few of them; its time stamps are damaged")


def stamps(words: list[str]) -> tuple[list[float], float]:
    """When each frame of an input is shown, in seconds, and the precision of these times. Where a container knows in
    which order frames are decoded, and not when they are shown, as AVI's, the times are those of decoding."""
    base, frames = parse_listing(asked(words, *PACKETS).stdout)
    tick, times = float(base), [frame.shown for frame in frames]
    if min(times, default=0) < UNSAID:
        times = [frame.decoded for frame in frames]
        if min(times) < UNSAID:
            return [], tick
    return sorted(time * tick for time in times), tick


def steadied(picture: Picture, times: Times) -> Picture:
    """The rate by the times of frames where it is steady and ffmpeg says otherwise, as it does of few, slow or
    field-coded ones; and where it only says how fast a clock ticks, the rate between pauses."""
    if picture.container in RAW and picture.fps:
        return replace(picture, nominal=picture.fps)
    if picture.fps == picture.nominal and 0 < picture.fps <= FASTEST:
        return picture
    shown, tick = times()
    gaps = [after - before for before, after in pairwise(shown) if after > before]
    if not gaps:  # of one frame, some containers tell the ticks of their clock
        fps = picture.fps or picture.nominal
        if fps > FASTEST:
            return replace(picture, fps=USUAL_FPS, nominal=USUAL_FPS, measured=True)
        return replace(picture, nominal=fps)
    own, spread = len(gaps) / sum(gaps), max(gaps) - min(gaps)
    fps = picture.fps or own
    if spread <= max(STEADY_TICKS * tick, MILLISECONDS) and abs(picture.nominal / own - 1) < NEAR:
        return replace(picture, fps=picture.nominal)  # the average counts in how long the last one is shown
    if spread <= STEADY_TICKS * tick:
        return replace(picture, fps=fps, nominal=fps, measured=True)
    found = picture if picture.fps else replace(picture, fps=fps, nominal=1 / min(gaps), measured=True)
    if not found.ticking:
        return found
    pause = PAUSE * median(gaps)
    between = [gap for gap in gaps if gap < pause]
    return replace(found, usual=max(fps, min(FASTEST_NOMINAL, len(between) / sum(between))))


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


def strict(picture: Picture, words: list[str]) -> bool:
    """Whether what is left over of a frame is an error in an input, as it is unless its first frames are like that."""
    if not re.fullmatch(ENDLESS, picture.codec):
        return False
    command = [ffmpeg(), *CHECKED, *STRICT, *LOCAL, *words, "-map", "0:V:0", "-frames:v", str(SOME), "-f", "null", "-"]
    return len(complaints(finished(command).stderr)) < ODD


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
    width, height = int(match[4]), int(match[5])
    return Picture(container, match[1], match[2], width, height, fps, nominal, *colours(words), fields=fields,
                   metadata=metadata)  # fmt: skip


def colours(words: list[str]) -> tuple[str | None, str | None, str | None]:
    """Matrix, primaries and transfer, each None where it is not known: `bt709/unknown/unknown`, or one for all."""
    accepted = (MATRICES, PRIMARIES, TRANSFERS)
    for word in words:
        names = word.split("/") if "/" in word else [word] * 3
        found = [name if name in choices else None for name, choices in zip(names, accepted, strict=False)]
        if len(names) == 3 and ("/" in word or any(found)):
            return found[0], found[1], found[2]
    return None, None, None


def rate(line: str, unit: str) -> float:
    """29.97 from `..., 29.97 fps, ...`, 1000 from `1k tbr`, 0 where it is not said."""
    match = re.search(rf", ([\d.]+)(k?) {unit}\b", line)
    return float(match[1]) * (1000 if match[2] else 1) if match else 0.0


def parse_metadata(listing: str) -> dict[str, str]:
    """The tags of ffmpeg's list, which may lie behind one of frames. Matroska has their names in capitals."""
    pairs = re.findall(r"^(?!0, )((?:\\.|[^\\=;\[\n])+)=((?:\\.|[^\\\n])*)$", listing, re.MULTILINE | re.DOTALL)
    return {unescape(key).lower(): unescape(value) for key, value in pairs}


def unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
