"""Whether work survives being killed: `train`, `data build` and `caption`, at ten random moments each, then to the end.

    python benchmarks/kills.py
    python benchmarks/kills.py --only caption --kills 3

The real commands run in processes of their own. An undisturbed run comes first; the kills (SIGKILL) fall into the time
that it took. The same command, given again, must end in the same bytes, must leave files of other people in its folder
alone, and nothing half-written. `benchmarks/crash.py` does the same to `generate`, and `benchmarks/batch.py` to lists.
"""

import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
from measuring import PROGRAM, Row, grid, note, parser, show

CLIPS = 12
MINE = "notes of mine.txt"
PASSING = {"lock", "scan.jsonl", "log.jsonl", "run.json", "curves.png"}  # they say when, or how long


@dataclass(frozen=True)
class Work:
    """A command: its words, from the folder of clips and to its output; whether that is a folder, and whether other
    files may lie in it."""

    words: Callable[[Path, Path], list[str]]
    folder: bool = True
    shared: bool = False


WORKS = {
    "train": Work(lambda clips, out: ["train", "lora", "--steps", "150", "--batch", "1", "--out", str(out)],
                  shared=True),
    "build": Work(lambda clips, out: ["data", "build", str(clips), "-o", str(out), "--size", "128x128"]),
    "caption": Work(lambda clips, out: ["caption", str(clips), "-o", str(out), "--quiet"], folder=False),
}


def make_clips(folder: Path) -> None:
    """A dozen different clips with captions."""
    folder.mkdir()
    for number in range(CLIPS):
        source = f"testsrc2=size=160x96:rate=12:duration=2,hue=h={30 * number}"
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source,
                        str(folder / f"{number:02d}.mp4")], check=True)  # fmt: skip
        (folder / f"{number:02d}.txt").write_text(f"pattern {number}")


def content(out: Path) -> dict[str, str]:
    """What is there: the lines of a table, in any order, or the hash of each file."""
    if out.is_file():
        return {line: "" for line in out.read_text().splitlines()}
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files
            if path.name not in PASSING | {MINE} and "checkpoint" not in str(path.parent.name)
            and not path.parent.name.startswith(("latents-", "tensorboard"))}  # fmt: skip


def disturbed(words: list[str], wall: float, kills: int, rng: random.Random) -> int:
    """Run a command, kill it at random moments at most so many times, and run it to the end; how many kills hit it."""
    for hits in range(kills):
        process = subprocess.Popen([*PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if not process.wait(rng.uniform(0, wall)):
                return hits  # it was quicker than that
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    finish(words)
    return kills


def finish(words: list[str]) -> None:
    """Run a command to its end; a video or table that is there already was finished before its process was killed."""
    last = subprocess.run([*PROGRAM, *words], capture_output=True, text=True)
    if last.returncode and "already exists" not in last.stderr:
        raise SystemExit(f"sora-cli {' '.join(words)}: {last.stderr}")


def tried(name: str, home: Path, kills: int, rng: random.Random) -> Row:
    """Kill a work until so many kills have hit it: what goes on ends after a few, and another begins from nothing."""
    work, clips = WORKS[name], home / "clips"
    file = name if work.folder else f"{name}.jsonl"  # a file of weights has the name of its run
    whole = home / "whole" / file
    whole.parent.mkdir(exist_ok=True)
    begun = time.perf_counter()
    note(f"{name}: undisturbed")
    finish(work.words(clips, whole))
    wall, hits, rounds, same, mine = time.perf_counter() - begun, 0, 0, True, True
    while hits < kills:
        out = home / f"killed-{rounds}" / file
        out.parent.mkdir(exist_ok=True)
        if work.shared:
            out.mkdir()
            (out / MINE).write_text("mine")
        hits += disturbed(work.words(clips, out), wall, kills - hits, rng)
        rounds += 1
        same &= content(whole) == content(out)
        mine &= not work.shared or (out / MINE).read_text() == "mine"
        note(f"{name}: {hits} kills in {rounds} rounds")
    parts = [path.name for path in home.rglob("*") if ".part" in path.name or ".tmp" in path.name]
    return {"wall": wall, "kills": hits, "rounds": rounds, "same": same, "mine": mine, "half-written": parts}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=list(WORKS), default=list(WORKS))
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    rng, found = random.Random(asked.seed), Row()
    with tempfile.TemporaryDirectory() as home:
        make_clips(Path(home) / "clips")
        for name in asked.only:
            found[name] = tried(name, Path(home), asked.kills, rng)
    columns = "", "undisturbed", "kills", "rounds", "same bytes", "others' files kept", "half-written"
    table = grid("killed, and run again", *columns)
    for name, row in found.items():
        yes = ["yes" if row[key] else "NO" for key in ("same", "mine")]
        counts = [str(row[key]) for key in ("kills", "rounds")]
        table.add_row(name, f"{row['wall']:.0f} s", *counts, *yes, ", ".join(row["half-written"]) or "none")
    show(found, [table], asked.json)
    sys.exit(not all(row["same"] and row["mine"] and not row["half-written"] for row in found.values()))


if __name__ == "__main__":
    main()
