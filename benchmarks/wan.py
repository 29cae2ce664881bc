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
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measuring import Row, grid, note, show
from rich.table import Table
from torch import Tensor, nn

from sora_cli.estimate import product_rate
from sora_cli.models.wan.dit import PATCH, WanConfig, WanDit
from sora_cli.models.wan.vae import CHUNK, WanVae, WanVaeConfig
from sora_cli.solvers import timesteps, unipc, unipc_sigmas

Config = dict[str, Any]
Size = tuple[int, int, int]  # latent frames, rows and columns

TEXT = 512  # tokens
WHOLE_CLIP = 50  # steps of the published timings, two networks each
GUIDANCE, SHIFT = 5.0, 5.0
IN_FLOAT = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")  # as the published weights are loaded
PUBLISHED = {  # of 50 steps with guidance, where the weights come from and in FastVideo's measurements
    "1.3B, 832x480, 81 frames": "RTX 4090 261 s in all, 8.19 GB; H200 95.2 s without the decoder",
    "5B, 1280x704, 121 frames": "RTX 4090 535 s in all, 22.9 GB; H200 157.2 s without the decoder",
}


# ---- cases ------------------------------------------------------------------------------------------------


def dit(heads: int, layers: int, hidden: int, channels: int, text: int = 4096) -> Config:
    return {
        "patch_size": [1, PATCH, PATCH], "num_attention_heads": heads, "attention_head_dim": 128,
        "in_channels": channels, "out_channels": channels, "text_dim": text, "freq_dim": 256, "ffn_dim": hidden,
        "num_layers": layers, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": 1e-6,
    }  # fmt: skip


def vae21(width: int, channels: int = 16) -> Config:
    return {
        "base_dim": width, "z_dim": channels, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [],
        "temperal_downsample": [False, True, True], "latents_mean": [0.1] * channels, "latents_std": [1.5] * channels,
    }  # fmt: skip


def vae22(width: int, decoder: int, channels: int = 48) -> Config:
    return vae21(width, channels) | {
        "decoder_base_dim": decoder, "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2,
        "scale_factor_spatial": 16,
    }  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    task: str  # a method of Side
    size: Size
    dit: Config | None = None
    vae: Config | None = None
    steps: int = 0


def cases(scale: str) -> list[Case]:
    """What is measured at a scale: `tiny` for a test, `reduced` for a CPU, `real` for a GPU."""
    if scale == "real":
        small, large = dit(12, 30, 8960, 16), dit(24, 30, 14336, 48)
        return [
            *row_of("1.3B, 832x480, 81 frames", small, (21, 60, 104), vae21(96), 2),
            *row_of("5B, 1280x704, 121 frames", large, (31, 44, 80), vae22(160, 256), 2),
        ]
    tiny = scale == "tiny"
    heads, hidden, text = (1, 256, 64) if tiny else (6, 4480, 4096)
    network, size = dit(heads, 2, hidden, 16, text), (2, 2, 4) if tiny else (4, 40, 60)
    old, new = (vae21(4), vae22(4, 8)) if tiny else (vae21(32), vae22(40, 64))
    return [
        Case("velocity", "velocity", size, network),
        Case("velocity, a time a frame", "velocity_by_frame", size, network),
        Case("decode 2.1", "decode", (3, 2, 2) if tiny else (3, 16, 24), vae=old),
        Case("encode 2.1", "encode", (3, 2, 2) if tiny else (3, 16, 24), vae=old),
        Case("decode 2.2", "decode", (3, 2, 2) if tiny else (3, 10, 16), vae=new),
        Case("encode 2.2", "encode", (3, 2, 2) if tiny else (3, 10, 16), vae=new),
        Case("text to video", "video", (3, 2, 2) if tiny else (3, 16, 24), dit(1 if tiny else 4, 2, hidden, 16, text), old, 4),
    ]  # fmt: skip


def row_of(name: str, network: Config, size: Size, vae: Config, steps: int) -> list[Case]:
    """All that is measured of a published pair of networks."""
    return [
        Case(f"{name}: velocity", "velocity", size, network),
        Case(f"{name}: velocity, a time a frame", "velocity_by_frame", size, network),
        Case(f"{name}: decode", "decode", size, vae=vae),
        Case(f"{name}: encode", "encode", size, vae=vae),
        Case(f"{name}: text to video, {steps} steps", "video", size, network, vae, steps),
    ]


def products(case: Case) -> float:
    """Floating-point operations of the matrix products and the attention of a velocity."""
    assert case.dit
    c, (T, h, w) = WanConfig.from_hub(case.dit), case.size
    N, D = T * h * w // PATCH**2, c.width
    tokens = 2 * N * (6 * D**2 + 2 * D * c.hidden) + 2 * TEXT * 2 * D**2
    return c.layers * (tokens + 4 * N * (N + TEXT) * D)


# ---- both sides -------------------------------------------------------------------------------------------


class Side:
    """One implementation of a case's networks, and the inputs, which are the same for both."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype) -> None:
        self.case, self.device, self.dtype = case, device, dtype
        with built_on(device, dtype):
            self.dit = self.make_dit(case.dit) if case.dit else None
            self.vae = self.make_vae(case.vae) if case.vae else None
        for network in (self.dit, self.vae):
            if network is not None:
                network.eval().requires_grad_(False)
        if self.dit is not None:
            for name, value in self.dit.named_parameters():
                if set(IN_FLOAT) & set(name.split(".")):
                    value.data = value.data.float()
        self.give(case.size)

    def make_dit(self, config: Config) -> nn.Module:
        raise NotImplementedError

    def make_vae(self, config: Config) -> nn.Module:
        raise NotImplementedError

    def give(self, size: Size) -> None:
        """Take inputs of so many latent frames, rows and columns; the numbers come from one seed."""
        rng, (K, h, w) = torch.Generator().manual_seed(0), size
        at_random = lambda *shape: torch.randn(*shape, generator=rng).to(self.device)
        channels = self.case.dit["in_channels"] if self.case.dit else self.case.vae["z_dim"]  # type: ignore[index]
        self.latents = at_random(1, channels, K, h, w)
        if self.case.dit:
            self.text, self.negative = at_random(2, 1, TEXT, self.case.dit["text_dim"]).to(self.dtype)
        if self.case.vae:
            stride = self.case.vae.get("scale_factor_spatial", 8)
            self.pixels = (h * stride, w * stride)
        if self.case.task == "encode":
            self.clip = at_random(1, 3, 1 + CHUNK * (K - 1), *self.pixels).to(self.dtype).clamp_(-1, 1)
        self.times = torch.full((1, K), 731)
        self.times[:, 0] = 0

    def run(self) -> Tensor:
        with torch.no_grad():
            return getattr(self, self.case.task)()


class Ours(Side):
    def make_dit(self, config: Config) -> nn.Module:
        return WanDit(WanConfig.from_hub(config))

    def make_vae(self, config: Config) -> nn.Module:
        return WanVae(WanVaeConfig.from_hub(config))

    def adopt(self, other: Side) -> None:
        """Take the other's weights."""
        for own, theirs in ((self.dit, other.dit), (self.vae, other.vae)):
            if own is not None and theirs is not None:
                own.load_state_dict(theirs.state_dict(), strict=True, assign=True)

    def velocity(self) -> Tensor:
        assert self.dit is not None
        return self.dit(self.latents.to(self.dtype), self.times[:, -1:], self.text)

    def velocity_by_frame(self) -> Tensor:
        assert self.dit is not None
        return self.dit(self.latents.to(self.dtype), self.times, self.text)

    def decode(self) -> Tensor:
        return self.vae.decode(self.latents.to(self.dtype))  # type: ignore[union-attr, operator]

    def encode(self) -> Tensor:
        return self.vae.encode(self.clip)  # type: ignore[union-attr, operator]

    def video(self) -> Tensor:
        """Frames in 0..1, as the pipeline gives them."""
        network = self.dit
        assert network is not None

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            x, t = x.to(self.dtype), timesteps(sigma)[None, None]
            towards, away = network(x, t, self.text), network(x, t, self.negative)
            return away + GUIDANCE * (towards - away)

        *_, x = unipc(velocity, self.latents, unipc_sigmas(self.case.steps, SHIFT))
        video: Tensor = self.vae.decode(x.to(self.dtype))  # type: ignore[union-attr, operator]
        return (video / 2 + 0.5).transpose(1, 2)


class Theirs(Side):
    def make_dit(self, config: Config) -> nn.Module:
        return reference("WanTransformer3DModel")(**config)

    def make_vae(self, config: Config) -> nn.Module:
        return reference("AutoencoderKLWan")(**config)

    def statistics(self) -> tuple[Tensor, Tensor]:
        c = self.vae.config  # type: ignore[union-attr]
        mean, std = (torch.tensor(numbers, device=self.device, dtype=self.dtype)[:, None, None, None]
                     for numbers in (c.latents_mean, c.latents_std))  # type: ignore[union-attr]  # fmt: skip
        return mean, std

    def velocity(self) -> Tensor:
        assert self.dit is not None
        return self.dit(self.latents.to(self.dtype), self.times[:, -1].to(self.device), self.text, return_dict=False)[0]

    def velocity_by_frame(self) -> Tensor:
        """The reference is told the time of every token."""
        assert self.dit is not None
        tokens = self.latents[0, 0, 0].numel() // PATCH**2
        times = self.times.repeat_interleave(tokens, 1).to(self.device)
        return self.dit(self.latents.to(self.dtype), times, self.text, return_dict=False)[0]

    def decode(self) -> Tensor:
        mean, std = self.statistics()
        return self.vae.decode(self.latents.to(self.dtype) * std + mean, return_dict=False)[0]  # type: ignore

    def encode(self) -> Tensor:
        mean, std = self.statistics()
        return (self.vae.encode(self.clip).latent_dist.mode() - mean) / std  # type: ignore

    def video(self) -> Tensor:
        scheduler = reference("UniPCMultistepScheduler")(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
        )
        pipeline = reference("WanPipeline")(None, None, self.vae, scheduler, self.dit)
        pipeline.set_progress_bar_config(disable=True)
        height, width = self.pixels
        return pipeline(
            prompt_embeds=self.text, negative_prompt_embeds=self.negative, latents=self.latents, height=height,
            width=width, num_frames=1 + CHUNK * (self.latents.shape[2] - 1), num_inference_steps=self.case.steps,
            guidance_scale=GUIDANCE, output_type="pt",
        ).frames  # fmt: skip


def reference(name: str) -> Any:
    """A class of diffusers, imported as if there were no torchvision: it is not needed, and one built for another
    torch breaks the import."""
    try:
        with mock.patch.dict(sys.modules, {"torchvision": None}):  # type: ignore[dict-item]
            found = getattr(importlib.import_module("diffusers"), name)
            loaded = {key: module for key, module in sys.modules.items() if module is not None}
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error.name} is missing: pip install 'sora-cli[parity]' to compare with diffusers") from None
    sys.modules.update(loaded)
    return found


@contextmanager
def built_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Parameters are made there and in that type, never larger."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


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
    ours = Ours(case, device, dtype)
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
        rate = product_rate(8192 if asked.scale == "real" else 1024, WanConfig.from_hub(case.dit).width, device, kind)
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
            step, decode = (found.get((f"{name}: {part}", dtype)) for part in ("velocity", "decode"))
            if step and decode:
                made = next(row for key, row in found.items() if key[0].startswith(f"{name}: text") and key[1] == dtype)
                table.add_row(name, dtype, f"{2 * WHOLE_CLIP * step['seconds']['ours']:.0f}",
                              f"{decode['seconds']['ours']:.1f}", f"{made['memory']['ours']['total'] / 1e9:.1f}",
                              published)  # fmt: skip
    return table


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--scale", choices=("tiny", "reduced", "real"), help="reduced on a CPU, real on a GPU")
    made.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), help="both on a CPU, bfloat16 on a GPU")
    made.add_argument("--only", nargs="+", metavar="NAME", help="rows whose name begins so")
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
