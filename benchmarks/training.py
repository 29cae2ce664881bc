"""How fast `sora-cli train dit` learns, what it waits for, and how much of what the machine could do it reaches.

    python benchmarks/training.py                              # nano and mini on the world, small batches
    python benchmarks/training.py --presets mini --batch 256 --options --prefetch 2
    python benchmarks/training.py --data DATASET --options --drop-tokens 0.25

Each preset trains for a few steps in a process of its own, and the figures are those of the last line of its log, when
the first data is there and kernels are warm. The matrix rate is that of large products, measured there.
"""

import argparse
import json
import tempfile
from pathlib import Path

from measuring import Row, grid, measure, parser, show
from rich.table import Table

from sora_cli.placement.estimate.cost import quantity


def learn(preset: str, asked: argparse.Namespace, out: Path) -> Row:
    """The last line of a short training's log, with its peak memory."""
    made = measure(["train", "dit", "--preset", preset, "--data", asked.data, "--steps", str(asked.steps),
                    "--batch", str(asked.batch), "--out", str(out), *asked.options])  # fmt: skip
    line = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    return {**line, "preset": preset, "peak_bytes": made.peak}


def report(rows: list[Row]) -> Table:
    table = grid("sora-cli train dit", "preset", "samples/s", "tokens/s", "data wait", "of the matrix rate", "waste",
                 "peak")  # fmt: skip
    for row in rows:
        waste = f"{row['waste']:.1%}" if "waste" in row else "-"
        table.add_row(row["preset"], f"{row['speed']:.1f}", f"{row['tokens']:.0f}", f"{row['data_wait']:.0%}",
                      f"{row['mfu']:.0%}", waste, quantity(row["peak_bytes"], "B"))  # fmt: skip
    return table


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--presets", nargs="+", choices=["nano", "mini", "base"], default=["nano", "mini"])
    options.add_argument("--data", default="world", help="world, or a dataset of `data build`")
    options.add_argument("--steps", type=int, default=20, help="a multiple of ten, the steps of a line in the log")
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--options", nargs=argparse.REMAINDER, default=["--eager"],
                         help="for `train dit`, last of all; --eager unless told")  # fmt: skip
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [learn(preset, asked, Path(folder) / preset) for preset in asked.presets]
    show({"rows": rows}, [report(rows)], asked.json)


if __name__ == "__main__":
    main()
