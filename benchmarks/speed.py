"""How long `sora-cli generate` takes, how much memory, where the time goes, and what the machine could do.

    python benchmarks/speed.py                     # 20 s and 60 s at 1280x720
    python benchmarks/speed.py --seconds 5 --res 640x384 --json

Each clip is made in a process of its own. Memory is the largest sum of the resident sizes of that process and
its ffmpeg. The limit is the matrix product of torch, measured here at the shapes of the video transformer.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sora_cli.estimate import Model, product_rate

PROMPT = "a cat surfing"
PROC = Path("/proc")
SAMPLES_A_SECOND = 20


def resident(pid: int) -> int:
    """Bytes that a process and its descendants hold in memory now (0 where there is no /proc)."""
    try:
        status = (PROC / str(pid) / "status").read_text()
        children = (PROC / str(pid) / "task" / str(pid) / "children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")]
    return sum(own) + sum(resident(int(child)) for child in children.split())


def generate(seconds: float, res: str, model: str, folder: Path) -> dict[str, Any]:
    """One clip; what --json says of it, with the wall time of the whole process and its peak memory."""
    command = [sys.executable, "-m", "sora_cli", "generate", PROMPT, "--seconds", str(seconds), "--res", res,
               "--model", model, "-o", str(folder / f"{seconds:g}.mp4"), "--json", "--quiet"]  # fmt: skip
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(1 / SAMPLES_A_SECOND)
    wall = time.perf_counter() - started
    assert process.stdout
    if process.returncode:
        raise SystemExit(process.returncode)
    return {**json.loads(process.stdout.read()), "seconds": seconds, "process_wall": wall, "peak_bytes": peak}


def width_of(model: str) -> int:
    """The width D of a model's video transformer, from the header of its weights."""
    return Model.registered(model).config.width


def report(clips: list[dict[str, Any]], rates: dict[str, float]) -> list[Table]:
    speed = Table(title="sora-cli generate", title_justify="left")
    for column in ("video", "wall s", "peak MB", "s per s of video", "where the time goes", "DiT GFLOP/s"):
        speed.add_column(column, justify="left" if column.startswith("where") else "right")
    for clip in clips:
        speed.add_row(
            f"{clip['seconds']:g} s", f"{clip['process_wall']:.1f}", f"{clip['peak_bytes'] / 1e6:.0f}",
            f"{clip['process_wall'] / clip['seconds']:.2f}", shares(clip), rate_text(clip),
        )  # fmt: skip
    limit = Table(title="matrix products of torch here", title_justify="left")
    limit.add_column("dtype")
    limit.add_column("GFLOP/s", justify="right")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[20, 60])
    parser.add_argument("--res", default="1280x720")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--tokens", type=int, default=1920, help="rows of the measured product")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = [generate(seconds, asked.res, asked.model, Path(folder)) for seconds in asked.seconds]
    width = width_of(asked.model)
    rates = {
        str(dtype).removeprefix("torch."): product_rate(asked.tokens, width, torch.device("cpu"), dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    if asked.json:
        print(json.dumps({"clips": clips, "matrix_product_flops": rates, "threads": torch.get_num_threads()}))
        return
    for table in report(clips, rates):
        Console().print(table)


if __name__ == "__main__":
    main()
