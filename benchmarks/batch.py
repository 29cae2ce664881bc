"""How many videos a minute `sora-cli batch` makes, and how many as many processes of `sora-cli generate` do.

    python benchmarks/batch.py --jobs 200 --alone 10

Half of the processes run before the batch and half of them after it, since a machine is not always as fast. Memory is
read as videos are finished: it should not grow with their number. Videos that both make must be the same bits."""

import json
import subprocess
import tempfile
import time
from pathlib import Path

from measuring import PROGRAM, grid, measure, parser, resident, show

EARLY = 20  # videos, after which memory should be what it stays


def listed(folder: Path, jobs: int) -> Path:
    """A list of so many videos, one a seed."""
    path = folder / "jobs.jsonl"
    with path.open("w") as file:
        for seed in range(jobs):
            told = {"prompt": "a cat surfing", "seed": seed, "output": str(folder / f"{seed}.mp4")}
            file.write(json.dumps(told) + "\n")
    return path


def batch(path: Path, words: list[str]) -> tuple[float, list[int]]:
    """Seconds that the list took, and bytes of memory after each of its videos."""
    started, found = time.perf_counter(), []
    process = subprocess.Popen([*PROGRAM, "batch", str(path), "--json", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if json.loads(line)["event"] == "made":
            found.append(resident(process.pid))
    if process.wait():
        raise SystemExit(f"the batch ended with {process.returncode}")
    return time.perf_counter() - started, found


def alone(folder: Path, seeds: range, words: list[str]) -> float:
    """Seconds of as many processes, one after another."""
    return sum(measure(["generate", "a cat surfing", "--seed", str(seed), "-o", str(folder / f"alone-{seed}.mp4"),
                        *words], thrown_away=True).wall for seed in seeds)  # fmt: skip


def same(folder: Path, seeds: range) -> int:
    """How many of the videos are those that processes of their own made."""
    return sum((folder / f"{n}.mp4").read_bytes() == (folder / f"alone-{n}.mp4").read_bytes() for n in seeds)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--jobs", type=int, default=40, help="videos of the batch")
    made.add_argument("--alone", type=int, default=6, help="videos by processes of their own")
    made.add_argument("--seconds", type=float, default=2.0)
    made.add_argument("--res", default="320x192")
    asked = made.parse_args()
    words = ["--model", asked.model, "--seconds", f"{asked.seconds:g}", "--res", asked.res, "-q"]
    with tempfile.TemporaryDirectory() as name:
        folder, half = Path(name), asked.alone // 2
        first = alone(folder, range(half), words)
        many, memory = batch(listed(folder, asked.jobs), words)
        single = first + alone(folder, range(half, asked.alone), words)
        equal = same(folder, range(min(asked.alone, asked.jobs)))
    rates = {"batch": 60 * asked.jobs / many, "processes": 60 * asked.alone / single}
    found = {
        "videos a minute": {name: round(rate, 2) for name, rate in rates.items()},
        "times as many": round(rates["batch"] / rates["processes"], 2),
        "memory": {f"after {n}": memory[n - 1] for n in sorted({1, min(EARLY, asked.jobs), asked.jobs})},
        "identical": f"{equal} of {min(asked.alone, asked.jobs)}",
    }
    speed = grid(f"{asked.seconds:g} s at {asked.res}", "", "videos a minute")
    for name, rate in rates.items():
        speed.add_row(name, f"{rate:.1f}")
    speed.add_row("times as many", f"{found['times as many']}")
    speed.add_row("identical", f"{found['identical']}")
    table = grid("memory", "videos", "MB")
    for name, size in found["memory"].items():  # type: ignore[attr-defined]
        table.add_row(name, f"{size / 1e6:.0f}")
    show(found, [speed, table], asked.json)


if __name__ == "__main__":
    main()
