"""How many videos a minute `sora-cli batch` makes, and how many as many processes of `sora-cli generate` do.

    python benchmarks/batch.py --jobs 200 --alone 5

The peak of memory is told for a few jobs and for all of them: it should not grow with their number."""

import json
import tempfile
from pathlib import Path

from measuring import Measured, grid, measure, parser, show

FEW = 5


def options(model: str, seconds: float, res: str) -> list[str]:
    return ["--model", model, "--seconds", f"{seconds:g}", "--res", res, "-q"]


def batch(folder: Path, jobs: int, words: list[str]) -> Measured:
    """So many videos, one a seed, as one batch."""
    path = folder / f"{jobs}.jsonl"
    with path.open("w") as file:
        for seed in range(jobs):
            told = {"prompt": "a cat surfing", "seed": seed, "output": str(folder / f"{jobs}-{seed}.mp4")}
            file.write(json.dumps(told) + "\n")
    return measure(["batch", str(path), *words])


def alone(folder: Path, jobs: int, words: list[str]) -> list[Measured]:
    """The same, each by a process of its own."""
    return [measure(["generate", "a cat surfing", "--seed", str(seed), "-o", str(folder / f"alone-{seed}.mp4"), *words])
            for seed in range(jobs)]  # fmt: skip


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--jobs", type=int, default=20, help="videos of the batch")
    made.add_argument("--alone", type=int, default=5, help="videos by processes of their own")
    made.add_argument("--seconds", type=float, default=2.0)
    made.add_argument("--res", default="320x192")
    asked = made.parse_args()
    words = options(asked.model, asked.seconds, asked.res)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = (batch(folder, jobs, words) for jobs in (FEW, asked.jobs))
        single = alone(folder, asked.alone, words)
    rates = {"batch": asked.jobs / many.wall, "processes": asked.alone / sum(one.wall for one in single)}
    found = {
        "videos a minute": {name: round(60 * rate, 2) for name, rate in rates.items()},
        "times as many": round(rates["batch"] / rates["processes"], 2),
        "peak": {f"batch of {FEW}": few.peak, f"batch of {asked.jobs}": many.peak,
                 "process": max(one.peak for one in single)},
    }  # fmt: skip
    speed = grid(f"{asked.seconds:g} s at {asked.res}", "", "videos a minute")
    for name, rate in rates.items():
        speed.add_row(name, f"{60 * rate:.1f}")
    speed.add_row("times as many", f"{found['times as many']}")
    memory = grid("peak memory", "", "MB")
    for name, peak in found["peak"].items():  # type: ignore[attr-defined]
        memory.add_row(name, f"{peak / 1e6:.0f}")
    show(found, [speed, memory], asked.json)


if __name__ == "__main__":
    main()
