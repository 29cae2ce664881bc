"""Whether memory stays where it is when a video is longer: peaks of whole commands, for a short input and a long one.

    python benchmarks/memory.py                      # 10 s and 60 s at 640x360
    python benchmarks/memory.py --seconds 1 2 --res 320x180 --steps 1 --only decode

Each command runs in a process of its own on ffmpeg's test pattern. Memory is the largest sum of the resident
sizes of that process and its ffmpegs; the ffmpeg that feeds a pipe is not among them. `encode` is measured since
`decode` needs its latents; these are all of a video in memory, a few kilobytes a frame.
"""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from measuring import Measured, Row, grid, measure, note, parser, show
from rich.table import Table

from sora_cli import media

COMMANDS = ("encode", "decode", "extend a file", "extend a pipe")


@dataclass(frozen=True)
class Input:
    """ffmpeg's test pattern: its length in seconds, its size WxH and its frames a second."""

    seconds: float
    res: str
    fps: float
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / f"{self.seconds:g}.mp4"

    @property
    def latents(self) -> Path:
        return self.folder / f"{self.seconds:g}-latents.safetensors"      # not where extend looks for its own

    def words(self) -> list[str]:
        """ffmpeg's command up to its output."""
        pattern = f"testsrc2=size={self.res}:rate={media.rational(self.fps)}:duration={self.seconds:g}"
        return [media.ffmpeg(), "-hide_banner", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", pattern]

    def write(self) -> None:
        if not self.path.exists():
            subprocess.run([*self.words(), "-pix_fmt", "yuv420p", "-crf", "18", str(self.path)], check=True)


def run(command: str, clip: Input, steps: int, after: float, model: str) -> Measured:
    """One command on one input, to its end."""
    quiet = ["--model", model, "--quiet"]
    extend = ["--after", str(after), "--steps", str(steps), *quiet]
    clip.write()
    if command == "encode":
        return measure(["encode", str(clip.path), "-o", str(clip.latents), "--force", *quiet])
    if command == "decode":
        if not clip.latents.exists():
            run("encode", clip, steps, after, model)
        return measure(["decode", str(clip.latents), "-o", str(clip.folder / "decoded.mp4"), "--force", *quiet])
    if command == "extend a file":
        return measure(["extend", str(clip.path), "-o", str(clip.folder / "more.mp4"), "--force", *extend])
    return through_a_pipe(clip, extend)


def through_a_pipe(clip: Input, extend: list[str]) -> Measured:
    """y4m from ffmpeg into `extend -`, whose y4m nobody keeps."""
    words = [*clip.words(), "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as feeding:
        try:
            return measure(["extend", "-", *extend], feeding.stdout, thrown_away=True)
        finally:
            feeding.kill()


def report(rows: list[Row], seconds: list[float]) -> Table:
    lengths = [f"{length:g} s, MB" for length in seconds]
    table = grid("peak memory", "command", *lengths, f"{seconds[-1]:g} s over {seconds[0]:g} s")
    for row in rows:
        peaks = [peak["peak"] for peak in row["runs"]]
        table.add_row(row["command"], *(f"{peak / 1e6:.0f}" for peak in peaks), f"{row['ratio']:.2f}")
    return table


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, nargs="+", default=[10, 60])
    options.add_argument("--res", default="640x360")
    options.add_argument("--fps", type=float, default=24)
    options.add_argument("--after", type=float, default=2, help="seconds that extend adds")
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--only", nargs="+", choices=COMMANDS, default=COMMANDS)
    asked = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clips = [Input(seconds, asked.res, asked.fps, Path(folder)) for seconds in asked.seconds]
        for command in asked.only:
            note(command)
            runs = [run(command, clip, asked.steps, asked.after, asked.model) for clip in clips]
            ratio = runs[-1].peak / max(1, runs[0].peak)
            told = [{"seconds": clip.seconds, "wall": one.wall, "peak": one.peak}
                    for clip, one in zip(clips, runs, strict=True)]  # fmt: skip
            rows.append({"command": command, "runs": told, "ratio": ratio})
    found = {"res": asked.res, "fps": asked.fps, "after": asked.after, "rows": rows}
    show(found, [report(rows, asked.seconds)], asked.json)


if __name__ == "__main__":
    main()
