"""Whether a long render survives crashes: killed at random moments, it must end in the same latents as if it were not.

    python benchmarks/crash.py                          # 60 s at 320x180, ten kills, a dead ffmpeg, a full disk
    python benchmarks/crash.py --seconds 1 --steps 1 --trials 1 --only kill
    python benchmarks/crash.py --trials 1 --kills 10    # one render, killed ten times on its way

The real command runs in processes of its own. An undisturbed run comes first: its time is that in which the kills
fall, its latents are what all others are compared with, byte by byte (the whole file, which also holds the hash of
the video). Then

kill       SIGKILL at a random moment, --resume, ... to the end
encoder    the ffmpeg that encodes is killed while frames are decoded; the command must fail with a line, leave no
           half-written video, and be resumed
disk       the disk is filled after the first window, and again while frames are encoded; a tmpfs where one may be
           mounted, else a limit on the size of files, and then once only

`kept` are the windows on the disk after each crash, `made again` the share of all the transformer's work that the
last run did. In the end nothing but the video, its record and its latents may be in the folder.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from measuring import PROC, PROGRAM, Row, children, grid, measure, note, parser, show
from rich.table import Table

from sora_cli import media
from sora_cli.storage import latent_file

PROMPT = "a cat surfing"
POLLS_A_SECOND = 50
PATIENCE = 3600.0            # seconds for a moment that should have come long ago
DISK = 128_000_000           # bytes of the small disk
BLOCKS = (1 << 16, 1 << 9)   # bytes written at a time to fill it: first fast, then to the brim
LIMIT = 0.5                  # of the video's size, where the size of files is limited


@dataclass(frozen=True)
class Render:
    """One video to make, and what it leaves in its folder."""

    folder: Path
    words: tuple[str, ...]

    @property
    def video(self) -> Path:
        return self.folder / "out.mp4"

    @property
    def latents(self) -> Path:
        return self.video.with_suffix(".safetensors")

    @property
    def record(self) -> Path:
        return self.video.with_suffix(".json")

    @property
    def parts(self) -> list[Path]:
        return [path for path in self.folder.glob(f"{self.video.name}.*.part") if path.stat().st_size]

    @property
    def asked(self) -> list[str]:
        return ["generate", *self.words, "-o", str(self.video), "--json", "--quiet"]

    def windows(self) -> int:
        """Finished ones that are kept on the disk."""
        return len(list(self.folder.glob("*.resume/window-*.safetensors")))

    def half_written(self) -> list[str]:
        """What nobody should find after a failure: parts of files, and a video that cannot be whole."""
        return sorted(path.name for path in (*self.folder.glob("*.part"), *self.folder.glob(self.video.name)))

    def remains(self) -> list[str]:
        """What nobody should find in the end."""
        wanted = {self.video, self.latents, self.record}
        return sorted(path.name for path in self.folder.iterdir() if path not in wanted)

    def start(self, *more: str, before: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
        words = [*PROGRAM, *self.asked, *more]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=before)

    def finish(self) -> Row:
        """Resumed to the end, if it is not there yet: what its record says, and whether --resume alone did it."""
        alone = True
        if not self.record.exists():
            alone = self.start("--resume").wait() == 0
        if not alone:
            measure([*self.asked, "--resume", "--force"])
        told: Row = json.loads(self.record.read_text())
        return {"flops": told["flops"], "alone": alone}


@dataclass(frozen=True)
class Reference:
    """The undisturbed run."""

    render: Render
    wall: float
    flops: float
    windows: int

    def compare(self, render: Render, told: Row) -> Row:
        """Whether another render ended in the same latents, and how much of the work was done at its end."""
        ours, theirs = self.render.latents.read_bytes(), render.latents.read_bytes()
        return {
            "identical": ours == theirs, "same_numbers": same_numbers(self.render.latents, render.latents),
            "made_again": told["flops"] / self.flops, "alone": told["alone"], "remains": render.remains(),
        }  # fmt: skip


def same_numbers(one: Path, other: Path) -> bool:
    """Whether the tensors of two files agree in every bit, whatever their headers say."""
    (ours, _), (theirs, _) = latent_file.load(one), latent_file.load(other)
    return ours.shape == theirs.shape and ours.numpy().tobytes() == theirs.numpy().tobytes()


def undisturbed(render: Render) -> Reference:
    render.folder.mkdir()
    plan = json.loads(measure([*render.asked, "--dry-run"]).said)["plan"]
    made = measure(render.asked)
    return Reference(render, made.wall, json.loads(made.said)["flops"], len(plan))


# ---- killed -----------------------------------------------------------------------------------------------


def killed(reference: Reference, render: Render, moments: list[float]) -> Row:
    """Killed at each of these moments, in seconds after each start, and resumed at last."""
    render.folder.mkdir()
    kept = []
    for number, moment in enumerate(moments):
        process = render.start(*["--resume"] * (number > 0))
        try:
            process.communicate(timeout=moment)
            break                # it was there before the knife
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kept.append(render.windows())
    return {"what": "kill", "at": moments[: len(kept)], "kept": kept, **reference.compare(render, render.finish())}


# ---- without its ffmpeg -----------------------------------------------------------------------------------


def encoder_of(render: Render, pid: int) -> int | None:
    """The ffmpeg that writes the video, if it runs already."""
    for child in children(pid):
        try:
            words = (PROC / str(child) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(media.as_file(part).encode() in words for part in render.folder.glob("*.part")):
            return child
    return None


def wait_for(what: Callable[[], object], process: subprocess.Popen[bytes]) -> bool:
    """Until `what` is true; False if the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(1 / POLLS_A_SECOND)
    return True


def ending(process: subprocess.Popen[bytes], render: Render) -> Row:
    """How a disturbed run ended: its exit code, its last line, the windows it kept and what it left lying about."""
    _, said = process.communicate()
    lines = said.decode(errors="replace").strip().splitlines()
    said_last = [line.replace(f"{render.folder}/", "") for line in lines[-1:]]
    return {"code": [process.returncode], "said": said_last, "kept": [render.windows()],
            "half_written": render.half_written()}  # fmt: skip


def without_encoder(reference: Reference, render: Render) -> Row:
    render.folder.mkdir()
    process = render.start()
    if wait_for(lambda: encoder_of(render, process.pid), process):
        encoder = encoder_of(render, process.pid)
        with suppress(ProcessLookupError):      # it has just ended
            os.kill(encoder or process.pid, signal.SIGKILL)
    row = {"what": "encoder", **ending(process, render)}
    return row | reference.compare(render, render.finish())


# ---- without room -----------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, room: int) -> Iterator[bool]:
    """A file system of `room` bytes in memory at `folder`; False where none may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(folder)]
    there = shutil.which("mount") is not None and subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write to a file until there is no room for anything else."""
    for block in BLOCKS:
        with suppress(OSError), path.open("ab", buffering=0) as file:
            while file.write(bytes(block)):
                pass


def without_room(reference: Reference, render: Render) -> Row:
    """The disk is filled twice, and room is made again each time; then it is resumed to the end."""
    with small_disk(render.folder, DISK) as there:
        if not there:
            return limited(reference, render)
        first = filled(render, render.windows)
        second = filled(render, lambda: render.parts, "--resume")
        row = {name: first[name] + second[name] for name in first}
        return {"what": "disk", **row, **reference.compare(render, render.finish())}


def filled(render: Render, moment: Callable[[], object], *more: str) -> Row:
    """One run on a disk that is filled when the moment has come."""
    ballast = render.folder / "ballast"
    process = render.start(*more)
    try:
        if wait_for(moment, process):
            fill(ballast)
        return ending(process, render)
    finally:
        ballast.unlink(missing_ok=True)


def limited(reference: Reference, render: Render) -> Row:
    """A run that may not write files as large as its video will be."""
    most = round(LIMIT * reference.render.video.stat().st_size)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    row = {"what": "disk (limit)", **ending(render.start(before=limit), render)}
    return row | reference.compare(render, render.finish())


# ---- all of it --------------------------------------------------------------------------------------------


def report(reference: Reference, rows: list[Row]) -> list[Table]:
    title = f"{reference.windows} windows, {reference.wall:.1f} s undisturbed"
    table = grid(title, "crash", "at, s", "kept", "made again", "latents", "exit", "left behind")
    for row in rows:
        table.add_row(
            row["what"], spaced(f"{moment:.1f}" for moment in row.get("at", ())), spaced(row["kept"]),
            f"{row['made_again']:.0%}", verdict(row), spaced(row.get("code", ())),
            spaced([*row.get("half_written", ()), *row["remains"]]),
        )  # fmt: skip
    crashed = [row for row in rows if row["kept"]]
    done = grid("in all", "", "")
    for name, field in (("latents identical in every bit", "same_numbers"), ("so is the whole file", "identical"),
                        ("--resume was enough", "alone")):  # fmt: skip
        done.add_row(name, f"{sum(row[field] for row in crashed)} of {len(crashed)}")
    kept = sum(row["kept"][-1] for row in crashed)
    done.add_row("windows that need not be made again", f"{kept} of {len(crashed) * reference.windows}")
    told = grid("what it said", "", *[""] * max((len(row.get("said", ())) for row in rows), default=0))
    for row in rows:
        if row.get("said"):
            told.add_row(row["what"], *row["said"])
    return [table, done, told] if told.row_count else [table, done]


def verdict(row: Row) -> str:
    if row["identical"]:
        return "identical"
    return "identical, not the header" if row["same_numbers"] else "DIFFERENT"


def spaced(words: Iterable[object]) -> str:
    return " ".join(map(str, words))


def parse() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=("kill", "encoder", "disk"), default=["kill", "encoder", "disk"])
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--res", default="320x180")
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--plan", default="hierarchy")
    options.add_argument("--trials", type=int, default=10, help="renders that are killed")
    options.add_argument("--kills", type=int, default=1, help="how often each is killed")
    options.add_argument("--seed", type=int, default=0, help="seed of the video and of the moments")
    options.add_argument("--folder", type=Path, help="where to work (the usual place for temporary files)")
    return options.parse_args()


def crashes(asked: argparse.Namespace, reference: Reference, folder: Path) -> Iterator[Row]:
    """All that is asked, each in a folder of its own."""
    rng = random.Random(asked.seed)
    words = reference.render.words
    for trial in range(asked.trials if "kill" in asked.only else 0):
        longest = reference.wall * (2 / asked.kills if asked.kills > 1 else 1)  # many kills share one render
        moments = [rng.uniform(0, longest) for _ in range(asked.kills)]
        note(f"kill {trial + 1} of {asked.trials}")
        yield killed(reference, Render(folder / f"kill-{trial}", words), moments)
    for name, crash in (("encoder", without_encoder), ("disk", without_room)):
        if name in asked.only:
            note(name)
            yield crash(reference, Render(folder / name, words))


def main() -> None:
    asked = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))        # so that nothing stays mounted
    words = (PROMPT, "--seconds", str(asked.seconds), "--res", asked.res, "--steps", str(asked.steps), "--plan",
             asked.plan, "--seed", str(asked.seed), "--model", asked.model)  # fmt: skip
    with tempfile.TemporaryDirectory(dir=asked.folder) as made:
        folder = Path(made)
        note("undisturbed")
        reference = undisturbed(Render(folder / "undisturbed", words))
        rows = []
        for row in crashes(asked, reference, folder):
            note(json.dumps(row))
            rows.append(row)
    found = {"seconds": asked.seconds, "res": asked.res, "windows": reference.windows, "wall": reference.wall,
             "rows": rows}  # fmt: skip
    show(found, report(reference, rows), asked.json)


if __name__ == "__main__":
    main()
