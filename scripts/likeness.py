"""How like the scenes pictures become while a transformer learns: `python scripts/likeness.py RUN [RUN ...]`.

Draws docs/likeness.png from what runs of `sora-cli train dit` wrote down, one after another: PSNR of held-out pictures
against their scenes, in the subject's cells and as a whole, over the minutes of training.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from sora_cli.train.recipes.likeness import FILE

OUT = Path(__file__).parent.parent / "docs" / "likeness.png"
Point = tuple[float, float, float]  # minutes, dB of the subject, dB of the whole


def lines_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def points_of(run: Path, before: float) -> tuple[list[Point], float]:
    """What a run wrote down, and the minutes at which it ended; it began after so many."""
    log = [line for line in lines_of(run / "log.jsonl") if "step" in line]
    minutes = {line["step"]: before + line["seconds"] / 60 for line in log}
    ends = before + log[-1]["seconds"] / 60
    found = [(minutes.get(line["step"], ends), line["subject"], line["whole"]) for line in lines_of(run / FILE)]
    return found, ends


def main(runs: list[Path]) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    before, every = 0.0, list[Point]()
    for run in runs:
        if before:
            axes.axvline(before, color="lightgrey")
        found, before = points_of(run, before)
        every += found
    times, subject, whole = zip(*every, strict=True)
    axes.plot(times, subject, marker=".", label="in the subject's cells")
    axes.plot(times, whole, marker=".", label="whole pictures")
    axes.set(xlabel="minutes of training", ylabel="dB against the scene")
    axes.legend()
    figure.savefig(OUT, dpi=110)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder of `sora-cli train dit`")
    main(options.parse_args().runs)
