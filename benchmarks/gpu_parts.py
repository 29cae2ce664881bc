"""What `gpu.py` measures, part by part: each yields rows as they are found, and runs in a process of its own."""

import gc
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import batch
import packed
import torch
import wan
from measuring import PROC, Row, measure
from random_weights import write
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from wan_sides import Case, Ours, cases

from sora_cli import registry
from sora_cli.models.wan.configs import CONTEXT, Umt5Config, WanConfig, WanVaeConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.text import Umt5
from sora_cli.models.wan.vae import WanVae
from sora_cli.pipelines.loading import in_float
from sora_cli.placement import memory, sizes
from sora_cli.placement.estimate import throughput
from sora_cli.placement.estimate.wan import MEASURED_SHARES, PUBLISHED_SHARES
from sora_cli.placement.offload import keep_on_host
from sora_cli.placement.sizes import FLOAT32, Needs
from sora_cli.registry import Entry
from sora_cli.registry.networks import Network

ROOT = Path(__file__).parent.parent
TINY = Network(
    WanConfig.from_table(channels=16, width=128, heads=2, hidden=256, layers=2, text_width=64),
    WanVaeConfig.from_table(channels=16, width=8, decoder_width=8),
    Umt5Config(vocabulary=500, width=64, heads=2, hidden=128, layers=2, head_width=32),
)
DECODED = 3  # latents that a decoder is timed on; the first of them has one frame
KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION,
           "memory efficient": SDPBackend.EFFICIENT_ATTENTION, "no fused one": SDPBackend.MATH}  # fmt: skip

Rows = Iterator[Row]


@dataclass(frozen=True)
class At:
    """Where and how large it is measured; `folder` is for what is written on the way."""

    device: torch.device
    tiny: bool
    folder: Path
    dtype: torch.dtype = torch.bfloat16


def row(what: str, measured: float | str | None, unit: str = "", predicted: float | None = None, note: str = "") -> Row:
    return {"what": what, "measured": measured, "unit": unit, "predicted": predicted, "note": note}


def held(what: str, most: list[float], predicted: float, at: At) -> Row:
    """A peak; on a CPU it is not of tensors alone, and has nothing beside it."""
    return row(what, most[0] / 1e9, "GB", predicted / 1e9 if at.device.type == "cuda" else None)


# ---- measuring --------------------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def timed(work: Callable[[], Any], device: torch.device, rounds: int = 2) -> float:
    """Seconds of some work, the median after one round that does not count."""
    found = []
    for _ in range(rounds + 1):
        wait(device)
        begun = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:])


@contextmanager
def peak(device: torch.device) -> Iterator[list[float]]:
    """The most bytes of tensors on a GPU meanwhile; on a CPU those of the whole process, 0 where it does not say."""
    found: list[float] = []
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device))
        return
    refs = PROC / "self" / "clear_refs"
    if refs.exists():
        refs.write_text("5")
    yield found
    found.append(packed.status().get("VmHWM", 0) if (PROC / "self" / "status").exists() else 0)


def difference(found: Tensor, due: Tensor) -> float:
    """The largest, over the largest number that is due."""
    found, due = found.float().cpu(), due.float().cpu()
    return float((found - due).abs().max() / due.abs().max())


def random_network(build: Callable[[], nn.Module], at: At, dtype: torch.dtype | None = None) -> nn.Module:
    """A network of random numbers of a trained one's size, made where and in which type it is used."""
    with torch.device("meta"):
        network = build().to(dtype or at.dtype)
    for name, value in network.named_parameters():
        if dtype is None and in_float(name):
            value.data = value.data.float()
    network.to_empty(device=at.device).eval().requires_grad_(False)
    torch.manual_seed(0)
    for name, value in network.named_parameters():
        if value.dim() > 1:
            value.normal_(0, 0.7 / math.prod(value.shape[1:]) ** 0.5)
        else:
            value.fill_(0.0 if name.endswith("bias") else 1.0)
    return network


# ---- the machine ------------------------------------------------------------------------------------------


def machine(at: At) -> Rows:
    yield row("torch", torch.__version__, note=f"CUDA {torch.version.cuda}")
    if at.device.type == "cuda":
        told = torch.cuda.get_device_properties(at.device)
        free, total = torch.cuda.mem_get_info(at.device)
        yield row("GPU", told.name, note=f"compute capability {told.major}.{told.minor}")
        yield row("GPU memory, free", free / 1e9, "GB", note=f"of {total / 1e9:.1f}")
    rates = throughput.rates(at.device, at.dtype)
    for name in ("products", "attention", "exact"):
        yield row({"exact": "products in float32"}.get(name, name), getattr(rates, name) / 1e12, "TFLOP/s")


def tests(at: At) -> Rows:
    """Those that need a GPU, with their neighbours; on a CPU they are skipped."""
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_offload.py", "tests/test_packed.py"]
    done = subprocess.run([*words, *(["-k", "cuda"] if at.tiny else [])], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    print(done.stdout + done.stderr, file=sys.stderr)
    said = re.sub(r"=+", "", lines[-1]).strip() if lines else "nothing said"
    yield row("tests", said, note="" if done.returncode == 0 else f"exit code {done.returncode}")


# ---- parity -----------------------------------------------------------------------------------------------


def parity(at: At) -> Rows:
    """In bfloat16 here and in float32 on the CPU, and beside diffusers where it is installed."""
    chosen = [case for case in cases("tiny" if at.tiny else "reduced") if case.task in ("velocity", "decode", "encode")]
    for case in chosen:
        yield row(f"{case.name}: bfloat16 here, float32 on the CPU", both(case, at), "of the largest number")
    real = [case for case in cases("tiny" if at.tiny else "real") if case.task in ("velocity", "decode")]
    for case in real[:2]:
        try:
            told = wan.timed(case, at.device, at.dtype, rounds=1)
        except SystemExit as error:  # diffusers is not here
            yield row(f"{case.name}: beside diffusers", None, note=str(error))
            return
        yield row(f"{case.name}: beside diffusers", told["difference"], "of the largest number",
                  note=f"{told['ratio']:.2f} of its time")  # fmt: skip


def both(case: Case, at: At) -> float:
    torch.manual_seed(0)
    one = Ours(case, torch.device("cpu"), torch.float32)
    other = Ours(case, at.device, at.dtype)
    for mine, theirs in ((one.dit, other.dit), (one.vae, other.vae)):
        if mine is not None and theirs is not None:
            theirs.load_state_dict(mine.state_dict())
    return difference(other.run(), one.run())


# ---- models -----------------------------------------------------------------------------------------------


def entries() -> list[Entry]:
    """The Hub models, one of each network."""
    found: dict[Network, Entry] = {}
    for entry in registry.registry().values():
        if entry.kind == "wan" and entry.network:
            found.setdefault(entry.network, entry)
    return list(found.values())


def needs_of(entry: Entry, at: At) -> Needs:
    """What a clip of a model's own size needs; tiny networks, and a small clip of them, for a test."""
    usage = entry.usage
    canvas = entry.canvas(usage.width, usage.height)
    needs = memory.needs_of(entry, canvas, usage.window, usage.window, at.dtype.itemsize)
    if at.tiny:
        network = replace(TINY, dit=replace(TINY.dit, paced=needs.network.dit.paced))
        return replace(needs, network=network, width=64, height=64, window=3, latents=3, held={})
    return replace(needs, held={})


def model(name: str, at: At) -> Rows:
    """A pass of the transformer, and the decoder, at a model's own size, beside what was predicted."""
    entry = registry.entry(name)
    needs = needs_of(entry, at)
    rates, gpu = throughput.rates(at.device, at.dtype), at.device.type != "cpu"
    shares = PUBLISHED_SHARES if gpu else MEASURED_SHARES
    dit, vae = needs.network.dit, needs.network.vae
    due = sizes.products(dit, needs.tokens) / (shares.products * rates.products)
    due += sizes.attention(dit, needs.tokens) / (shares.attention * rates.attention)
    if at.device.type == "cuda" and needs.dit + needs.denoising(gpu) > torch.cuda.mem_get_info(at.device)[0]:
        yield row(f"{name}: a pass", None, "s", due, "does not fit whole")
    else:
        network = random_network(partial(WanDit, dit), at)
        given = inputs(needs, at)
        with peak(at.device) as most:
            took = timed(lambda: network(*given), at.device, 1)
        yield row(f"{name}: a pass of {needs.tokens} tokens", took, "s", due)
        yield held(f"{name}: its memory", most, needs.dit + needs.denoising(gpu), at)
        del network, given
    for dtype, rate in ((torch.float32, rates.exact), (at.dtype, rates.products)):
        due = sizes.decoding(vae).work * needs.width * needs.height / (shares.decoding * rate)
        yield from decoder(name, needs, at, dtype, due)


def inputs(needs: Needs, at: At) -> tuple[Tensor, Tensor, Tensor, float]:
    dit, stride = needs.network.dit, needs.network.vae.stride
    torch.manual_seed(1)
    x = torch.randn(1, dit.inputs, needs.window, needs.height // stride, needs.width // stride)
    text = torch.randn(1, CONTEXT, dit.text_width)
    t = torch.full((1, needs.window), 731)
    return x.to(at.device, at.dtype), t.to(at.device), text.to(at.device, at.dtype), 24.0


def decoder(name: str, needs: Needs, at: At, dtype: torch.dtype, due: float) -> Rows:
    vae, label = needs.network.vae, str(dtype).removeprefix("torch.")
    network = random_network(partial(WanVae, vae), at, dtype)
    z = torch.randn(1, vae.channels, DECODED, needs.height // vae.stride, needs.width // vae.stride)
    z = z.to(at.device, dtype)
    with peak(at.device) as most:
        took = timed(lambda: network.decode(z), at.device, 1)  # type: ignore[operator]
    yield row(f"{name}: a latent decoded in {label}", took / (DECODED - 1 + 0.25), "s", due)
    size = FLOAT32 if dtype == torch.float32 else 2
    told = needs.vae(size) + replace(needs, latents=DECODED).decoding(size, 0, at.device.type != "cpu")
    yield held(f"{name}: its memory in {label}", most, told, at)


def text(at: At) -> Rows:
    """UMT5-XXL on the longest text."""
    config = TINY.text if at.tiny else entries()[0].network.text  # type: ignore[union-attr]
    rates, needs = throughput.rates(at.device, at.dtype), needs_of(entries()[0], at)
    network = random_network(partial(Umt5, config), at, at.dtype)
    tokens = torch.randint(0, config.vocabulary, (CONTEXT,)).to(at.device)
    with peak(at.device) as most:
        took = timed(lambda: network(tokens), at.device)
    due = sizes.reading(config, CONTEXT) / (PUBLISHED_SHARES.products * rates.products)
    yield row("UMT5-XXL, 512 tokens", took, "s", due)
    yield held("UMT5-XXL: its memory", most, needs.text + needs.reading(), at)


# ---- what a placement costs -------------------------------------------------------------------------------


def offload(at: At) -> Rows:
    """Blocks that come from main memory: the same answer, seconds and memory beside those of a resident network."""
    needs = needs_of(registry.entry("wan2.1-1.3b"), at)
    network, given = random_network(partial(WanDit, needs.network.dit), at), inputs(needs, at)
    with torch.no_grad(), peak(at.device) as most:
        due = network(*given).cpu()
        took = timed(lambda: network(*given), at.device, 1)
    yield row("1.3B, resident: a pass", took, "s")
    yield held("1.3B, resident: memory", most, needs.dit + needs.denoising(True), at)
    keep_on_host(network.cpu(), "blocks", at.device)
    with torch.no_grad(), peak(at.device) as most:
        found = network(*given).cpu()
        took = timed(lambda: network(*given), at.device, 1)
    yield row("1.3B, blocks from main memory: a pass", took, "s", note=same(found, due))
    yield held("1.3B, blocks from main memory: memory", most, needs.dit_ahead() + needs.denoising(True), at)


def same(found: Tensor, due: Tensor) -> str:
    apart = difference(found, due)
    return "the same bits" if torch.equal(found, due) else f"differs by {apart:.0e} of the largest number"


PACKINGS = {  # types, and where the blocks are; None: all unpacked while loading
    "Q4_K": ("resident", "streamed", "disk", None), "Q8_0": ("resident", None), "F8_E4M3": ("resident", None),
}  # fmt: skip


def packings(at: At) -> Rows:
    """Packed weights of the 1.3B beside the same that are unpacked while loading."""
    base = packed.Case("tiny" if at.tiny else "1.3b", "", width=64 if at.tiny else 832, height=64 if at.tiny else 480,
                       frames=5 if at.tiny else 81)  # fmt: skip
    for kind, places in PACKINGS.items():
        case = replace(base, kind=kind)
        path = at.folder / f"{kind}{case.suffix}"
        write(path, case.tensors())
        answers: dict[str, Tensor] = {}
        for where in places:
            one = replace(case, where=where or "resident", unpacked=where is None)  # type: ignore[arg-type]
            label = f"1.3B in {kind}, {'unpacked' if where is None else where}"
            with peak(at.device) as most:
                network = packed.load(one, path, at.device, at.dtype)
                run = partial(packed.step, one, network, at.device, at.dtype)
                answers[label] = run().cpu()
                took = timed(run, at.device, 1)
            due = packed.predicted(one, path, at.device)["device"]
            first = next(iter(answers))
            note = same(answers[label], answers[first]) if label != first else ""
            yield row(f"{label}: a step", took, "s", note=note)
            yield held(f"{label}: memory", most, due, at)
            del network, run
        path.unlink()


def attention(at: At) -> Rows:
    """The kernels that torch has for it, forced one by one, and what it takes by itself."""
    heads, tokens = (2, 256) if at.tiny else (4, 16384)
    torch.manual_seed(0)
    q = torch.randn(1, heads, tokens, 128).to(at.device, at.dtype)
    attend = torch.nn.functional.scaled_dot_product_attention
    flop = 4 * tokens**2 * heads * 128
    yield row("attention, torch's choice", flop / timed(lambda: attend(q, q, q), at.device, 3) / 1e12, "TFLOP/s")
    for name, kernel in KERNELS.items():
        try:
            with sdpa_kernel(kernel):
                took = timed(lambda: attend(q, q, q), at.device, 3)
        except RuntimeError as error:
            yield row(f"attention, {name}", None, "TFLOP/s", note=str(error).splitlines()[0][:80])
            continue
        yield row(f"attention, {name}", flop / took / 1e12, "TFLOP/s")


def compiled(at: At) -> Rows:
    """torch.compile of the blocks of the 1.3B, of which a few are enough."""
    needs = needs_of(registry.entry("wan2.1-1.3b"), at)
    config = replace(needs.network.dit, layers=min(4, needs.network.dit.layers))
    network, given = random_network(partial(WanDit, config), at), inputs(needs, at)
    torch._dynamo.config.recompile_limit = 64  # blocks share their code
    with torch.no_grad():
        due = network(*given)
        eager = timed(lambda: network(*given), at.device)
        yield row(f"1.3B, {config.layers} layers, eager", eager, "s")
        for block in network.blocks:  # type: ignore[union-attr]
            block.compile(dynamic=False, backend="aot_eager" if at.tiny else "inductor")
        begun = time.perf_counter()
        found = network(*given)
        wait(at.device)
        yield row("1.3B, torch.compile: the first pass", time.perf_counter() - begun, "s", note=same(found, due))
        took = timed(lambda: network(*given), at.device)
    yield row(f"1.3B, {config.layers} layers, compiled", took, "s", note=f"{took / eager:.2f} of eager")


# ---- pocket -----------------------------------------------------------------------------------------------


def training(at: At) -> Rows:
    """`sora-cli train dit` for a minute, and for a few steps in a test."""
    device, out = ["--device", at.device.type], at.folder / "run"
    small = ["--preset", "nano", "--steps", "10", "--batch", "2", "--eager"]
    words = small if at.tiny else ["--preset", "mini", "--steps", "10000000", "--minutes", "1"]
    made = measure(["train", "dit", *words, *device, "--out", str(out)], thrown_away=True)
    line = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    waits = f"waits for data {line['data_wait']:.0%} of the time"
    yield row("train dit: samples", line["speed"], "a second", note=waits)
    yield row("train dit: of the rate of products", line["mfu"], "", note=f"{line['tokens']:.0f} tokens a second")
    yield row("train dit: the whole command", made.wall, "s")


def batches(at: At) -> Rows:
    """`sora-cli batch` and one long video of pocket."""
    jobs = 2 if at.tiny else 40
    seconds, res = (0.5, "128x96") if at.tiny else (2.0, "320x192")
    words = ["--seconds", f"{seconds:g}", "--res", res, "-q", "--device", at.device.type]
    took, _ = batch.batch(batch.listed(at.folder, jobs), words)
    yield row(f"batch of {jobs}, {seconds:g} s at {res}", 60 * jobs / took, "videos a minute")
    if not at.tiny:
        long = ["generate", "a cat surfing", "--seconds", "20", "--res", "1280x720", "-q", "--device", at.device.type]
        made = measure([*long, "-o", str(at.folder / "long.mp4")])
        yield row("pocket, 20 s at 1280x720", made.wall, "s")


PARTS: dict[str, tuple[Callable[[At], Rows], float]] = {  # and seconds that one may take
    "machine": (machine, 60),
    "tests": (tests, 90),
    "parity": (parity, 120),
    "attention": (attention, 60),
    "offload": (offload, 90),
    "packed": (packings, 180),
    "text": (text, 90),
    **{f"model {entry.name}": (partial(model, entry.name), 120) for entry in entries()},
    "training": (training, 180),
    "batch": (batches, 120),
    "compile": (compiled, 150),
}
