"""y4m: one header line, then frames of raw planes. The currency between programs, bit for bit; no ffmpeg here."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import IO

from sora_cli.errors import Failed, SoraError

Size = tuple[int, int]

MAGIC = b"YUV4MPEG2"
LONGEST_LINE = 1024              # bytes of a header that is read
LONGEST_READ = 128               # that ffmpeg reads (MAX_YUV4_HEADER of libavformat/yuv4mpegdec.c)
RGB = ("COLORRANGE=FULL", "COLORMATRIX=GBR")     # tags of 4:4:4 planes that are green, blue and red
LARGEST = 8192                   # pixels along a side
SLOWEST, FASTEST = Fraction(1, 1800), 240        # frames per second; nobody shows one for longer than half an hour

DEPTHS = ("p9", "p10", "p12", "p14", "p16")
# C tag -> the name of ffmpeg
PIX_FMTS = {
    **dict.fromkeys(("420", "420jpeg", "420mpeg2", "420paldv"), "yuv420p"),
    **{"411": "yuv411p", "422": "yuv422p", "444": "yuv444p", "444alpha": "yuva444p", "mono": "gray"},
    **{f"{chroma}{depth}": f"yuv{chroma}{depth}le" for chroma in ("420", "422", "444") for depth in DEPTHS},
    **{f"mono{depth}": f"gray{depth}le" for depth in ("9", "10", "12", "16")},
}
CHROMA_STEPS = {"420": (2, 2), "411": (4, 1), "422": (2, 1), "444": (1, 1)}      # pixels to a chroma sample
# by ffmpeg's names: how colour was taken apart, and which primaries and transfer come with it by default
MATRICES = {
    "bt709": ("bt709", "bt709"),
    "smpte170m": ("smpte170m", "smpte170m"),
    "bt470bg": ("bt470bg", "smpte170m"),
    "fcc": ("bt470m", "smpte170m"),
    "smpte240m": ("smpte240m", "smpte240m"),
    "bt2020nc": ("bt2020", "bt2020-10"),
}
PRIMARIES = ("bt709", "bt470m", "bt470bg", "smpte170m", "smpte240m", "film", "bt2020", "smpte428", "smpte431",
             "smpte432", "ebu3213")  # fmt: skip
TRANSFERS = ("bt709", "bt470m", "bt470bg", "smpte170m", "smpte240m", "linear", "log100", "log316", "iec61966-2-4",
             "bt1361e", "iec61966-2-1", "bt2020-10", "bt2020-12", "smpte2084", "smpte428", "arib-std-b67")  # fmt: skip


@dataclass(frozen=True)
class Format:
    """A y4m header: what its raw frames are. `tags` are the X tags, of which four mean something here.

    XCOLORRANGE=FULL is the usual one. XCOLORMATRIX=smpte170m is ours, for pictures that are not bt709, and so are
    XCOLORPRIMARIES and XCOLORTRC, for those that do not go with the matrix: others pass over them, and known frames
    keep their colours through a pipe of our own commands.
    """

    width: int
    height: int
    rate: Fraction
    chroma: str = "420mpeg2"
    interlace: str = "p"
    aspect: str = "1:1"          # of a pixel, width to height; 0:0 is unknown
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (1 <= self.width <= LARGEST and 1 <= self.height <= LARGEST):
            raise SoraError(f"size {self.width}x{self.height} is out of range: it must be 1x1 to {LARGEST}x{LARGEST}")
        if not SLOWEST <= self.rate <= FASTEST:
            raise SoraError(f"frame rate {float(self.rate):g} is out of range: it must be {SLOWEST} to {FASTEST}")
        if self.chroma not in PIX_FMTS:
            raise SoraError(f"unknown y4m chroma {self.chroma!r}; it must be one of {', '.join(PIX_FMTS)}")

    @classmethod
    def parse(cls, line: bytes) -> "Format":
        """From a header line, with its newline or without; SoraError for anything that is not one."""
        words = line.decode("ascii", "replace").replace("\ufffd", "?").rstrip("\n").split(" ")
        if words[0] != MAGIC.decode():
            raise SoraError("this is not a y4m stream: it does not begin with YUV4MPEG2")
        found = {word[0]: word[1:] for word in words[1:] if word}
        return cls(
            int(matching(found, "W", r"\d{1,9}")), int(matching(found, "H", r"\d{1,9}")), ratio(found, "F"),
            chroma=found.get("C", "420jpeg"),
            interlace=matching(found, "I", "[pbtm?]", "p"),
            aspect=matching(found, "A", r"\d{1,9}:\d{1,9}", "1:1"),
            tags=tuple(word[1:] for word in words[1:] if word.startswith("X")),
        )  # fmt: skip

    def header(self) -> bytes:
        """The header line, with all tags, or as many as ffmpeg reads; those that mean something here come first."""
        rate = f"{self.rate.numerator}:{self.rate.denominator}"
        words = [f"W{self.width}", f"H{self.height}", f"F{rate}", f"I{self.interlace}", f"A{self.aspect}"]
        words += [f"C{self.chroma}"]
        room = LONGEST_READ - len(MAGIC) - 1 - sum(len(word) + 1 for word in words)
        kept = []
        for tag in sorted(self.tags, key=rank):
            if len(tag) + 2 <= room:
                room -= len(tag) + 2
                kept.append(tag)
        words += [f"X{tag}" for tag in self.tags if tag in kept]
        return b" ".join([MAGIC, *(word.encode("ascii", "replace") for word in words)]) + b"\n"

    @property
    def size(self) -> Size:
        return self.width, self.height

    @property
    def fps(self) -> float:
        return float(self.rate)

    @property
    def pix_fmt(self) -> str:
        """The name that ffmpeg has for these planes."""
        return PIX_FMTS[self.chroma]

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame: its planes one after the other, samples deeper than 8 bits in two bytes."""
        luma, depth = self.width * self.height, 1 + self.pix_fmt.endswith("le")
        if self.chroma.startswith("mono"):
            return luma * depth
        across, down = CHROMA_STEPS[self.chroma[:3]]
        chroma = -(-self.width // across) * -(-self.height // down)
        return (luma * (1 + (self.chroma == "444alpha")) + 2 * chroma) * depth

    @property
    def depth(self) -> int:
        """Bits of a sample."""
        return depth_of(self.pix_fmt)

    @property
    def rgb(self) -> bool:
        """Whether the planes are green, blue and red, which keeps every bit of a picture; only ours are."""
        return self.chroma in ("444", "444p16") and RGB[1] in self.tags

    @property
    def rgb_planes(self) -> str:
        """ffmpeg's name of green, blue and red planes of this depth."""
        return "gbrp16le" if self.chroma == "444p16" else "gbrp"

    @property
    def full_range(self) -> bool:
        return "COLORRANGE=FULL" in self.tags

    @property
    def matrix(self) -> str:
        """How colour was taken apart, by ffmpeg's name."""
        return self.named("COLORMATRIX", MATRICES, "bt709")

    @property
    def primaries(self) -> str:
        return self.named("COLORPRIMARIES", PRIMARIES, MATRICES[self.matrix][0])

    @property
    def transfer(self) -> str:
        return self.named("COLORTRC", TRANSFERS, MATRICES[self.matrix][1])

    def named(self, tag: str, accepted: Iterable[str], default: str) -> str:
        values = [word.partition("=")[2] for word in self.tags if word.startswith(f"{tag}=")]
        return values[-1] if values and values[-1] in accepted else default

    @property
    def seen(self) -> Size:
        """The size in square pixels: the longer one of either side, so that nothing is lost."""
        aspect = self.pixel_aspect
        width, height = (self.width * aspect, self.height) if aspect >= 1 else (self.width, self.height / aspect)
        shrunk = min(Fraction(1), Fraction(LARGEST) / max(width, height))
        return max(1, round(width * shrunk)), max(1, round(height * shrunk))

    @property
    def pixel_aspect(self) -> Fraction:
        """Width to height of a pixel; 1 where it is unknown."""
        across, down = map(int, self.aspect.split(":"))
        return Fraction(across, down) if across and down else Fraction(1)


def depth_of(pix_fmt: str) -> int:
    """Bits of a sample by ffmpeg's name of a pixel format: 10 of yuv420p10le and p010le, 16 of rgb48be; 8 of all that
    have no more, and 32 of floating point."""
    found = re.search(r"(\d+)(?:le|be)$", pix_fmt)
    number = int(found[1]) % 100 if found else 8
    whole_pixels = {30: 10, 36: 12, 48: 16, 64: 16}
    return whole_pixels.get(number, number if number in (9, 10, 12, 14, 16, 32) else 8)


def rank(tag: str) -> int:
    """Sort key of a tag: those whose loss matters most come first; LIMITED is the usual default."""
    names = ("COLORRANGE=FULL", "COLORMATRIX", "COLORPRIMARIES", "COLORTRC", "COLORRANGE")
    return next((number for number, name in enumerate(names) if tag.startswith(name)), len(names))


def ratio(found: dict[str, str], letter: str) -> Fraction:
    above, below = map(int, matching(found, letter, r"\d{1,9}:\d{1,9}").split(":"))
    return Fraction(above, below) if below else Fraction(0)


def matching(found: dict[str, str], letter: str, pattern: str, default: str | None = None) -> str:
    """The value of one header parameter; SoraError if it is missing or not of this kind."""
    value = found.get(letter, default)
    if value is None or not re.fullmatch(pattern, value, re.ASCII):
        wrong = "missing" if value is None else f"{value[:40]!r}"
        raise SoraError(f"invalid y4m header: {letter} is {wrong}")
    return value


def read_format(stream: IO[bytes], start: bytes = b"") -> Format:
    """The header off a stream, of which `start` is read already; SoraError if it is not one."""
    line = start + stream.readline(LONGEST_LINE - len(start))
    if len(line) == LONGEST_LINE:
        raise SoraError(f"invalid y4m header: its line is longer than {LONGEST_LINE} bytes")
    return Format.parse(line)


def read_frames(stream: IO[bytes], format: Format, name: str) -> Iterator[bytes]:
    """The raw frames after a header, one by one; Failed, naming the frame, if the stream ends inside of it."""
    for number, line in enumerate(iter(partial(stream.readline, LONGEST_LINE), b"")):
        if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
            raise Failed(f"{name} is cut off: it ends in the middle of frame {number}")
        if not re.match(rb"FRAME[ \n]", line):
            raise Failed(f"{name} is damaged: frame {number} does not begin with FRAME")
        raw = stream.read(format.frame_bytes)
        if len(raw) < format.frame_bytes:
            raise Failed(f"{name} is cut off: it ends in the middle of frame {number}")
        yield raw


def stream(frames: Iterable[bytes], format: Format) -> Iterator[bytes]:
    """Raw frames as the pieces of a y4m stream."""
    yield format.header()
    for raw in frames:
        yield b"FRAME\n"
        yield raw
