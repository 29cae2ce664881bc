"""What packed networks take at their real sizes: random weights through one step on the CPU, the peak of memory beside
its prediction.

    python benchmarks/packed.py                                  # the 14B of Wan 2.2 A14B, as Q4_0, in 9 GB
    python benchmarks/packed.py --network umt5 --kind F8_E4M3    # the text encoder, on 512 tokens
    python benchmarks/packed.py --network 5b --kind Q4_K --res 256x160 --where disk --unpacked

The file is written piece by piece and removed afterwards; loading and the step run in a process of their own. Peaks are
those of its resident size (VmHWM of Linux), set back in between, and RssFile says how much of that are pages of files:
weights are read, not mapped, so that these are the libraries'. `--unpacked` unpacks all while loading, to compare.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import Row, grid, note, show
from random_weights import Random, of_network, write
from rich.table import Table
from torch import Tensor, nn

from sora_cli.files.headers import EIGHT_BITS, PACKED
from sora_cli.files.published import put, survey, weights_in
from sora_cli.models.wan.configs import CONTEXT, Umt5Config, WanConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.text import Umt5
from sora_cli.pipelines import presets
from sora_cli.pipelines.loading import in_float
from sora_cli.placement.device import free_at_once
from sora_cli.placement.held import of_tensors
from sora_cli.placement.machine import Free
from sora_cli.placement.memory import Placement, Transformer, peaks
from sora_cli.placement.offload import keep_on_host, leave_on_disk
from sora_cli.placement.packed import pack
from sora_cli.placement.sizes import BFLOAT16, Needs
from sora_cli.registry.networks import Network
from sora_cli.sampling.solvers import euler, euler_sigmas, timesteps


def dit(heads: int, layers: int, hidden: int, channels: int, text: int = 4096, width: int = 128) -> WanConfig:
    return WanConfig(channels, channels, heads, width, layers, hidden, text, 256, 1e-6, False)


DITS = {
    "a14b": (dit(40, 40, 13824, 16), presets.VAE21), "5b": (dit(24, 30, 14336, 48), presets.VAE22),
    "1.3b": (dit(12, 30, 8960, 16), presets.VAE21), "tiny": (dit(2, 3, 512, 16, 256), presets.VAE21),
}  # fmt: skip
TINY = Umt5Config(500, 256, 4, 512, 2, head_width=64)
TEXTS = {"umt5": presets.UMT5, "tiny-umt5": TINY}


@dataclass(frozen=True)
class Case:
    """A network, how its file has it, and what goes through it."""

    network: str
    kind: str
    where: Transformer = "resident"
    unpacked: bool = False
    width: int = 256
    height: int = 144
    frames: int = 5

    @property
    def suffix(self) -> str:
        return ".gguf" if self.kind in PACKED else ".safetensors"

    @property
    def latents(self) -> int:
        return 1 + (self.frames - 1) // 4

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return Umt5(TEXTS[self.network]) if self.network in TEXTS else WanDit(DITS[self.network][0])

    def tensors(self) -> list[Random]:
        bare = self.build()
        return of_network(bare, {name: name for name, _ in bare.named_parameters()}, self.kind)

    def sizes(self) -> Network:
        config, vae = DITS[self.network if self.network in DITS else "1.3b"]
        return Network(config, vae, TEXTS.get(self.network, presets.UMT5))


# ---- predicted --------------------------------------------------------------------------------------------


def needs_of(case: Case, path: Path) -> Needs:
    role = "text" if case.network in TEXTS else "dit"
    found = None if case.unpacked else of_tensors(weights_in([path]))
    return Needs(case.network, case.sizes(), case.width, case.height, case.latents, case.latents, BFLOAT16,
                 held={role: found} if found else {})  # fmt: skip


def predicted(case: Case, path: Path, device: torch.device) -> dict[str, float]:
    """The peaks of the stage by memory.py, with nothing else in memory."""
    stage = "text" if case.network in TEXTS else "denoising"
    text = {"cpu": "cpu" if case.where == "resident" else "streamed"}.get(device.type, "device")
    placement = Placement(text, case.where, "float32", 0, 0, keep=False)  # type: ignore[arg-type]
    found = peaks(placement, needs_of(case, path), Free(device.type, 1e12, 1e12))
    return {"device": found[stage], "host": found["host"]}


# ---- measured ---------------------------------------------------------------------------------------------


def load(case: Case, path: Path, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network, with its blocks where the case has them."""
    network, at = case.build(), "encoder.block" if case.network in TEXTS else "blocks"
    places = survey(network, [path])
    if not case.unpacked:
        places = pack(network, places, dtype, in_float)
    if case.where == "disk":
        free_at_once()
        places = leave_on_disk(network, at, places, dtype, device, in_float)
    put(network, places, dtype, torch.device("cpu") if case.where == "streamed" else device, in_float)
    if case.where == "streamed":
        keep_on_host(network, at, device)
    return network.eval()


@torch.no_grad()
def step(case: Case, network: nn.Module, device: torch.device, dtype: torch.dtype) -> Tensor:
    """One step of Euler's solver, without guidance; of a text encoder, one text."""
    rng = torch.Generator().manual_seed(0)
    if case.network in TEXTS:
        vocabulary = TEXTS[case.network].vocabulary
        return network(torch.randint(0, vocabulary, (CONTEXT,), generator=rng).to(device))
    config, vae = DITS[case.network]
    noise = torch.randn(config.inputs, case.latents, case.height // vae.stride, case.width // vae.stride, generator=rng)
    text = torch.randn(1, CONTEXT, config.text_width, generator=rng).to(device, dtype)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return network(x[None].to(dtype), timesteps(sigma).to(device)[None, None], text)[0].float()

    *_, x = euler(velocity, noise.to(device), euler_sigmas(1, 5.0).to(device))
    return x


def status() -> dict[str, int]:
    """Bytes of this process as Linux counts them."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[0] in ("VmHWM:", "RssAnon:", "RssFile:")}


def alone(case: Case, path: Path) -> Row:
    """Load and step in this process, which must be new."""
    cpu, dtype = torch.device("cpu"), torch.bfloat16
    begun = time.perf_counter()
    network = load(case, path, cpu, dtype)
    loaded, loading = status(), time.perf_counter() - begun
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    begun = time.perf_counter()
    made = step(case, network, cpu, dtype)
    assert bool(made.isfinite().all()), "the step made no numbers"
    told = {"loaded": loaded, "stepped": status(), "seconds": {"loading": loading, "step": time.perf_counter() - begun}}
    return {**told, "sum": float(made.double().abs().sum())}


def measured(case: Case, folder: Path) -> Row:
    path = folder / f"{case.network}-{case.kind}{case.suffix}"
    note(f"writing {path}")
    bytes = write(path, case.tensors())
    note(f"{bytes / 1e9:.2f} GB; loading, and one step")
    try:
        words = [sys.executable, __file__, *words_of(case), "--alone", str(path)]
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
        row = json.loads(done.stdout)
        told = predicted(case, path, torch.device("cpu"))["device"]
    finally:
        path.unlink()
    peak = max(row["loaded"]["VmHWM"], row["stepped"]["VmHWM"])
    return {"case": vars(case), "file": bytes, "predicted": told, "peak": peak, "ratio": peak / told, **row}


# ---- report -----------------------------------------------------------------------------------------------


def report(row: Row) -> Table:
    case = Case(**row["case"])
    table = grid(f"{case.network}, {case.kind}, {case.where}{', unpacked' if case.unpacked else ''}", "", "GB", "s")
    loaded, stepped, seconds = row["loaded"], row["stepped"], row["seconds"]
    lines: list[tuple[str, float, float | None]] = [
        ("file", row["file"], None), ("peak while loading", loaded["VmHWM"], seconds["loading"]),
        ("peak of a step", stepped["VmHWM"], seconds["step"]), ("of which pages of files", stepped["RssFile"], None),
        ("predicted", row["predicted"], None),
    ]  # fmt: skip
    for name, size, took in lines:
        table.add_row(name, f"{size / 1e9:.2f}", "" if took is None else f"{took:.0f}")
    table.add_row("peak over predicted", f"{row['ratio']:.2f}", "")
    return table


def words_of(case: Case) -> list[str]:
    size = [f"--{name}={getattr(case, name)}" for name in ("network", "kind", "where", "frames")]
    return [*size, f"--res={case.width}x{case.height}", *(["--unpacked"] if case.unpacked else [])]


def case_of(asked: Any) -> Case:
    width, height = map(int, asked.res.split("x"))
    token = 2 * DITS[asked.network][1].stride if asked.network in DITS else 1
    if width % token or height % token:
        raise SystemExit(f"--res {asked.res}: both sides of {asked.network} are multiples of {token}")
    return Case(asked.network, asked.kind, asked.where, asked.unpacked, width, height, asked.frames)


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--network", choices=[*DITS, *TEXTS], default="a14b")
    made.add_argument("--kind", choices=[*PACKED, *EIGHT_BITS, "BF16"], default="Q4_0")
    made.add_argument("--where", choices=["resident", "disk"], default="resident")
    made.add_argument("--unpacked", action="store_true", help="unpack all while loading")
    made.add_argument("--res", default="256x144")
    made.add_argument("--frames", type=int, default=5)
    made.add_argument("--folder", type=Path, help="for the file; a temporary one by default")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    made.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    asked = made.parse_args()
    if asked.alone:
        print(json.dumps(alone(case_of(asked), asked.alone)))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        row = measured(case_of(asked), Path(folder))
    show(row, [report(row)], asked.json)


if __name__ == "__main__":
    main()
