"""How long `sora-cli generate` takes, how much memory, where the time goes, and what the machine could do.

    python benchmarks/speed.py                     # 20 s and 60 s at 1280x720
    python benchmarks/speed.py --seconds 5 --res 640x384 --json

Each clip is made in a process of its own. Memory is the largest sum of the resident sizes of that process and
its ffmpeg. The limit is the matrix product of torch, measured here at the shapes of the video transformer.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import grid, measure, parser, show
from rich.table import Table

from sora_cli import registry
from sora_cli.placement.estimate import Model, product_rate

PROMPT = "a cat surfing"


def generate(seconds: float, res: str, model: str, folder: Path) -> dict[str, Any]:
    """One clip; what --json says of it, with the wall time of the whole process and its peak memory."""
    made = measure(["generate", PROMPT, "--seconds", str(seconds), "--res", res, "--model", model,
                    "-o", str(folder / f"{seconds:g}.mp4"), "--json", "--quiet"])  # fmt: skip
    return {**json.loads(made.said), "seconds": seconds, "process_wall": made.wall, "peak_bytes": made.peak}


def width_of(model: str) -> int:
    """The width D of a model's video transformer, from the header of its weights."""
    return Model.of(registry.entry(model)).config.width


def report(clips: list[dict[str, Any]], rates: dict[str, float]) -> list[Table]:
    speed = grid("sora-cli generate", "video", "wall s", "peak MB", "s per s of video", "where the time goes",
                 "DiT GFLOP/s")  # fmt: skip
    for clip in clips:
        speed.add_row(
            f"{clip['seconds']:g} s", f"{clip['process_wall']:.1f}", f"{clip['peak_bytes'] / 1e6:.0f}",
            f"{clip['process_wall'] / clip['seconds']:.2f}", shares(clip), rate_text(clip),
        )  # fmt: skip
    limit = grid("matrix products of torch here", "dtype", "GFLOP/s")
    for dtype, rate in rates.items():
        limit.add_row(dtype, f"{rate / 1e9:.0f}")
    return [speed, limit]


def shares(clip: dict[str, Any]) -> str:
    """Each stage as a share of the process's wall time; the rest is start-up, imports and loading."""
    stages = dict(clip["timings"])
    stages["rest"] = max(0.0, clip["process_wall"] - sum(stages.values()))
    return ", ".join(f"{name} {seconds / clip['process_wall']:.0%}" for name, seconds in stages.items())


def rate_text(clip: dict[str, Any]) -> str:
    rate = dit_rate(clip)
    return "-" if rate is None else f"{rate / 1e9:.0f}"


def dit_rate(clip: dict[str, Any]) -> float | None:
    """FLOP/s that the video transformer reached, if the engine counted its products."""
    spent = clip["timings"].get("dit")
    return clip["flops"] / spent if spent else None


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, nargs="+", default=[20, 60])
    options.add_argument("--res", default="1280x720")
    options.add_argument("--tokens", type=int, default=1920, help="rows of the measured product")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = [generate(seconds, asked.res, asked.model, Path(folder)) for seconds in asked.seconds]
    width = width_of(asked.model)
    rates = {
        str(dtype).removeprefix("torch."): product_rate(asked.tokens, width, torch.device("cpu"), dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    found = {"clips": clips, "matrix_product_flops": rates, "threads": torch.get_num_threads()}
    show(found, report(clips, rates), asked.json)


if __name__ == "__main__":
    main()
