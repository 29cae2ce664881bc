"""Our Wan networks against diffusers', in the same run, with the same random weights and inputs: seconds, memory, and
how far the results lie apart.

    python benchmarks/wan.py                      # reduced networks on the CPU, some minutes
    python benchmarks/wan.py --device cuda        # the real 1.3B and 5B networks, at the sizes they are made for
    python benchmarks/wan.py --only "decode 2.1" --dtypes bfloat16 --rounds 9

Ours and theirs take turns, so that what else the machine does hits both; seconds are medians, after one round that
does not count. Memory is that of one run in a process of its own, which has built the network and run it once on a
tiny input: what is needed at the most beyond that, with the result (VmHWM over VmRSS on Linux, where allocations from
64 KiB on go back at once when freed; torch's own count on CUDA, where the total with the weights is told as well).
The difference is the largest one, over the largest number in the reference's result. Needs the extra `parity`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import Row, grid, note, show
from rich.table import Table
from torch import Tensor
from wan_sides import REAL_STEPS, Case, Ours, Theirs, cases, products, reference, width_of

from sora_cli.placement.estimate import product_rate

WHOLE_CLIP = 50  # steps of the published timings, two networks each
PUBLISHED = {  # of 50 steps with guidance, where the weights come from and in FastVideo's measurements
    "1.3B, 832x480, 81 frames": "RTX 4090 261 s in all, 8.19 GB; H200 95.2 s without the decoder",
    "5B, 1280x704, 121 frames": "RTX 4090 535 s in all, 22.9 GB; H200 157.2 s without the decoder",
}


# ---- measuring --------------------------------------------------------------------------------------------


def seconds(work: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    found = work()
    wait()
    return time.perf_counter() - started, found


def timed(case: Case, device: torch.device, dtype: torch.dtype, rounds: int) -> Row:
    """Medians of both, taking turns, and how far their results lie apart."""
    torch.manual_seed(0)
    theirs = Theirs(case, device, dtype)
    ours = Ours(case, device, dtype, empty=True)
    ours.adopt(theirs)
    runs: dict[str, list[float]] = {"ours": [], "theirs": []}
    for i in range(rounds + 1):
        mine, found = seconds(ours.run, device)
        other, expected = seconds(theirs.run, device)
        if i == 0:
            apart = difference(found, expected)
        else:
            runs["ours"].append(mine)
            runs["theirs"].append(other)
    medians = {name: statistics.median(each) for name, each in runs.items()}
    return {"seconds": medians, "runs": runs, "ratio": medians["ours"] / medians["theirs"], "difference": apart}


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape, f"{tuple(found.shape)} against {tuple(expected.shape)}"
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


def peak(case: Case, side: str, device: torch.device, dtype: torch.dtype) -> Row:
    """Bytes that one run needs at the most, in this process, which must be new."""
    one = {"ours": Ours, "theirs": Theirs}[side](case, device, dtype)
    one.give((2, 2, 2))
    one.run()
    one.give(case.size)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one.run()
        total = torch.cuda.max_memory_allocated()
        return {"work": total - before, "total": total}
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    one.run()
    return {"work": resident("VmHWM") - before, "total": resident("VmHWM")}


def resident(what: str) -> int:
    """Bytes of this process by the name that Linux gives them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def peak_alone(case: Case, side: str, asked: argparse.Namespace, dtype: str) -> Row:
    """`peak` in a process of its own; nothing where that cannot be told."""
    if asked.device != "cuda" and not Path("/proc/self/clear_refs").exists():
        return {"work": None, "total": None}
    words = [sys.executable, __file__, "--scale", asked.scale, "--device", asked.device, "--only", case.name,
             "--dtypes", dtype, "--alone", side]  # fmt: skip
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measured(case: Case, dtype: str, asked: argparse.Namespace) -> Row:
    device, kind = torch.device(asked.device), getattr(torch, dtype)
    row = {"name": case.name, "dtype": dtype, **timed(case, device, kind, asked.rounds)}
    if device.type == "cuda":
        torch.cuda.empty_cache()
    row["memory"] = {side: peak_alone(case, side, asked, dtype) for side in ("ours", "theirs")}
    if case.dit and case.task != "video":
        rate = product_rate(8192 if asked.scale == "real" else 1024, width_of(case.dit), device, kind)
        row["share"] = products(case) / row["seconds"]["ours"] / rate
    return row


# ---- report -----------------------------------------------------------------------------------------------


def report(rows: list[Row]) -> list[Table]:
    table = grid("ours against diffusers", "", "dtype", "ours s", "theirs s", "ratio", "ours MB", "theirs MB", "ratio",
                 "difference", "of the matrix rate")  # fmt: skip
    for row in rows:
        took, work = row["seconds"], [row["memory"][side]["work"] for side in ("ours", "theirs")]
        sizes = [f"{size / 1e6:.0f}" for size in work] + [f"{work[0] / work[1]:.2f}"] if all(work) else ["-"] * 3
        table.add_row(row["name"], row["dtype"], f"{took['ours']:.3f}", f"{took['theirs']:.3f}", f"{row['ratio']:.2f}",
                      *sizes, f"{row['difference']:.0e}", f"{row['share']:.0%}" if "share" in row else "-")  # fmt: skip
    return [table]


def clips(rows: list[Row]) -> Table:
    """What whole clips come to, next to what others have published."""
    table = grid(f"{WHOLE_CLIP} steps with guidance", "", "dtype", "denoising s", "decoding s", "peak GB", "published")
    found = {(row["name"], row["dtype"]): row for row in rows}
    for name, published in PUBLISHED.items():
        for dtype in dict.fromkeys(row["dtype"] for row in rows):
            parts = ("velocity", "decode", f"text to video, {REAL_STEPS} steps")
            step, decode, made = (found.get((f"{name}: {part}", dtype)) for part in parts)
            if step and decode and made:
                table.add_row(name, dtype, f"{2 * WHOLE_CLIP * step['seconds']['ours']:.0f}",
                              f"{decode['seconds']['ours']:.1f}", f"{made['memory']['ours']['total'] / 1e9:.1f}",
                              published)  # fmt: skip
    return table


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--scale", choices=("tiny", "reduced", "real"), help="reduced on a CPU, real on a GPU")
    made.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), help="both on a CPU, bfloat16 on a GPU")
    made.add_argument("--only", nargs="+", metavar="NAME", help="rows whose names start with this")
    made.add_argument("--rounds", type=int, default=5, help="runs of each")
    made.add_argument("--json", action="store_true", help="print JSON instead of tables")
    made.add_argument("--alone", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    return made


def main() -> None:
    asked = parser().parse_args()
    asked.scale = asked.scale or {"cpu": "reduced", "cuda": "real"}[asked.device]
    asked.dtypes = asked.dtypes or {"cpu": ["float32", "bfloat16"], "cuda": ["bfloat16"]}[asked.device]
    chosen = [case for case in cases(asked.scale) if not asked.only or case.name.startswith(tuple(asked.only))]
    if asked.alone:
        case = next(case for case in chosen if case.name in asked.only)
        print(json.dumps(peak(case, asked.alone, torch.device(asked.device), getattr(torch, asked.dtypes[0]))))
        return
    reference("WanPipeline")
    rows = []
    for case in chosen:
        for dtype in asked.dtypes:
            note(f"{case.name}, {dtype}")
            rows.append(measured(case, dtype, asked))
    found = {"device": asked.device, "threads": torch.get_num_threads(), "rows": rows}
    show(found, [*report(rows), *([clips(rows)] if asked.scale == "real" else [])], asked.json)


if __name__ == "__main__":
    main()
