"""Pictures that move by themselves, GIF, WebP and APNG: at a size for sharing, or as they were made."""

import os
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from sora_cli.errors import SoraError, counted
from sora_cli.media.convert import SHARP, in_rgb
from sora_cli.media.process import QUIET, as_file, explain, ffmpeg, finished
from sora_cli.media.writer import FileSink
from sora_cli.media.y4m import Format

MOVING_IMAGES = (".gif", ".webp", ".apng")
SHARED = (".gif", ".webp")       # are passed on in chats and on pages, where their size counts
WIDEST = 480                     # pixels
SLOWEST, FASTEST = Fraction(119, 10), Fraction(15)  # frames a second: 11.99 is half of 23.98
FASTEST_GIF = 50                 # frames a second; a GIF counts in hundredths, and below two of them players give up
LOSSLESS = ("-c:v", "ffv1", "-f", "nut")
# dots in a fixed pattern, which stand still where the picture does: nearer to it, and a quarter smaller, than dots
# that spread errors (of two clips of pocket: 2.1 and 2.6 MB at 30.6 and 29.4 dB, against 2.7 and 3.5 at 29.9 and 28.7)
DITHER = "dither=bayer:bayer_scale=5:diff_mode=rectangle"


@dataclass(frozen=True)
class Shared:
    """A moving image as it is written: `format` is that of its frames, of which `keep` (above over below) remain."""

    format: Format
    keep: Fraction = Fraction(1)
    lossless: bool = False  # of WebP

    @classmethod
    def of(cls, name: str, made: Format, size: bool = False, rate: bool = False, lossless: bool = False) -> "Shared":
        """Frames that were made in one format as `name` holds them: a GIF or WebP is at most 480 pixels wide and has
        12 to 15 frames a second, but for the `size` and the `rate` that are asked for, and for what is `lossless`.
        SoraError where a file of this kind is never lossless."""
        suffix = Path(name).suffix.lower()
        if lossless and suffix not in (".png", ".apng", ".webp"):
            raise SoraError(f"{name} cannot be lossless; .png, .apng and .webp can")
        if suffix not in SHARED or lossless:
            return cls(made, lossless=lossless)
        width, height = made.size if size else smaller(made)
        fps = made.rate if rate else slower(made.rate)
        aspect = made.aspect if size else "1:1"
        return cls(replace(made, width=width, height=height, rate=fps, aspect=aspect), fps / made.rate)

    def count(self, frames: int) -> int:
        """The number of frames that remain of so many."""
        return -(-frames * self.keep.numerator // self.keep.denominator)

    def note(self, name: str, made: Format) -> str:
        """A note on what is reduced, and which options avoid it; "" if nothing is."""
        (width, height), (w, h) = self.format.size, made.size
        small, slow = self.format.size != made.size, self.format.rate != made.rate
        changes = [f"{width}x{height} instead of {w}x{h}"] * small
        changes += [f"{counted(self.format.fps, 'frame')} a second instead of {made.fps:g}"] * slow
        options = [f"--res {made.seen[0]}x{made.seen[1]}"] * small + [f"--fps {made.fps:g}"] * slow
        return f"{name}: for sharing, {' and '.join(changes)}; {' '.join(options)} keeps all" if changes else ""

    def filters(self, made: Format, most: int) -> list[str]:
        """From frames as they were made to those that are written, in RGB of at most so many bits."""
        above, below = self.keep.as_integer_ratio()
        thinned = [f"select='lt(mod(n*{above},{below}),{above})'", f"settb={1 / self.format.rate}", "setpts=N",
                   f"fps={self.format.rate}:eof_action=pass"]  # fmt: skip
        scaled = [f"scale={self.format.width}:{self.format.height}:{SHARP}", "setsar=1"]
        small = self.format.size != made.size
        return [*thinned * (self.keep != 1), in_rgb(made, most), *scaled * small]


def smaller(made: Format) -> tuple[int, int]:
    """The size for sharing, in square pixels, with even sides."""
    width, height = made.seen
    if width <= WIDEST:
        return width, height
    return WIDEST, max(2, round(height * WIDEST / width / 2) * 2)


def slower(rate: Fraction) -> Fraction:
    """The rate for sharing: every second, third, ... frame where that gives 12 to 15 a second, else 15."""
    if rate <= FASTEST:
        return rate
    whole = rate / -(-rate // FASTEST)
    return whole if whole >= SLOWEST else FASTEST


def moving_image(path: Path, format: Format, loops: int, shared: Shared) -> FileSink:
    """A sink for raw frames of `format` that plays `loops` times, 0 is for ever."""
    suffix = path.suffix.lower()
    filters = ",".join(shared.filters(format, 16 if suffix == ".apng" else 8))
    if suffix == ".gif":
        return GifSink(path, format, filters, loops)
    if suffix == ".apng":
        return FileSink(path, format, ["-vf", filters, "-plays", str(loops), "-f", "apng"])
    quality = ["-lossless", "1"] if shared.lossless else ["-quality", "90"]
    words = ["-vf", f"{filters},format=bgra" if shared.lossless else filters, "-c:v", "libwebp", *quality]
    return FileSink(path, format, [*words, "-loop", str(loops), "-f", "webp"])


class GifSink(FileSink):
    """Raw frames into a GIF with one palette, which is chosen when all of them are there: however many they are, they
    wait on the disk and not in memory."""

    def __init__(self, path: Path, format: Format, filters: str, loops: int) -> None:
        super().__init__(path, format, ["-vf", f"{filters},format=gbrp", *LOSSLESS])
        self.loops = {0: 0, 1: -1}.get(loops, loops - 1)  # GIF counts repetitions, and 0 of them are endless
        self.palette, self.whole = self.another("palette"), self.another("whole")

    def keep(self) -> None:
        frames = ["-i", as_file(self.part)]
        self.run(*frames, "-vf", "palettegen=stats_mode=full", "-f", "image2", "-c:v", "png", "-update", "1",
                 as_file(self.palette))  # fmt: skip
        self.run(*frames, "-i", as_file(self.palette), "-lavfi", f"paletteuse={DITHER}", "-fps_mode", "passthrough",
                 "-loop", str(self.loops), "-f", "gif", as_file(self.whole))  # fmt: skip
        os.replace(self.whole, self.path)

    def run(self, *words: str) -> None:
        done = finished([ffmpeg(), *QUIET, "-y", *words])
        if done.returncode or done.stderr:
            self.fail(explain(done.stderr), done.returncode)
