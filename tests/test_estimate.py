"""The estimate against what tiny models really do: the engine's count, torch's own count, the files."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from sora_cli import geometry, registry
from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.generation import engine as engines
from sora_cli.generation.plan import Plan, plan
from sora_cli.models.sora import patches
from sora_cli.models.sora.dit import Conditions, Dit, DitConfig
from sora_cli.models.sora.patches import Grid
from sora_cli.models.sora.text import TextConfig, TextTower
from sora_cli.models.sora.vae import Vae, VaeConfig
from sora_cli.pipelines import codec
from sora_cli.placement.estimate import Estimate, Model, Pictures, cost, dry_run, slowness, throughput, wan
from sora_cli.placement.estimate import sora as estimates
from sora_cli.placement.estimate.sora import decoding_of, estimate
from sora_cli.placement.estimate.throughput import Rates
from sora_cli.placement.machine import Free
from sora_cli.registry import Entry, WeightFile
from sora_cli.sampling import planner
from sora_cli.sampling.planner import Window
from sora_cli.shot import Shot
from sora_cli.world.captions import words

SHOT = Shot("a cat surfing", width=320, height=192, frames=22, steps=2, model="tiny")
DIT = DitConfig(6, 64, 2, 2, 16, 16, 1, (8, 4, 4), 16.0, 8.0)
VAE = VaeConfig(4, 0, 2, 16, 8, 8, 8, 1, 2, 1)


def windows_of(shot: Shot) -> list[Window]:
    return planner.plan(geometry.latents_for(shot.frames), shot.plan, size=4, step=2)


def planned(shot: Shot, windows: Sequence[Window]) -> Plan:
    """The plan of a shot, but in these windows."""
    return replace(plan(shot, registry.entry(shot.model)), windows=tuple(windows))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registered model of tiny random networks; the folder with its files."""
    vocabulary = sorted(set(words()))
    text = TextConfig(len(vocabulary) + 4, 20, 16, 2, 1, 8)
    networks = {"text": (TextTower(text), text), "vae": (Vae(VAE), VAE), "dit": (Dit(DIT), DIT)}
    files = []
    for stem, (network, config) in networks.items():
        metadata = {"config": json.dumps(asdict(config)), "vocabulary": json.dumps(vocabulary)}
        weights.save(path := tmp_path / f"{stem}.safetensors", network.state_dict(), metadata)
        files.append(WeightFile(path, path.stat().st_size, weights.hash_of(path)))
    entry = Entry("tiny", "sora", "", tuple(files), usage=registry.SamplingDefaults(window=4, context=2))
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": entry})
    monkeypatch.setattr(throughput, "MEASURED", 0.01)
    return tmp_path


def test_the_header_says_what_the_file_holds(tiny: Path) -> None:
    header = weights.read_header(tiny / "dit.safetensors")
    state = Dit(DIT).state_dict()
    assert header.shapes == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert header.count() == sum(tensor.numel() for tensor in state.values())
    assert Model.of(registry.entry("tiny")).config == DIT


def test_shards_are_one_header(tmp_path: Path) -> None:
    tensors = {name: torch.ones(100) for name in "abc"}
    paths = weights.save_part(tmp_path, "part", tensors, {"config": "{}"}, limit=500)
    header = weights.read_header(*paths)
    assert len(paths) == 3 and header.count() == 300 and header.count("b") == 100
    assert header.metadata["config"] == "{}"


@pytest.mark.parametrize("content", [b"", b"garbage that is long", b"\4\0\0\0\0\0\0\0null", b"\2\0\0\0\0\0\0\0[]"])
def test_what_is_no_header_fails(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dit.safetensors").write_bytes(content)
    with pytest.raises(Failed, match=r"not safetensors|not a JSON object|holds no weights: it is text: garbage"):
        weights.read_header(tmp_path / "dit.safetensors")
    with pytest.raises(Failed, match="missing"):
        weights.read_header(tmp_path / "vae.safetensors")


@pytest.mark.parametrize(
    "change", [{}, {"guidance": 1.0}, {"plan": "full"}, {"frames": 1}, {"width": 96, "height": 320}]
)
def test_the_work_is_what_the_engine_counts(tiny: Path, monkeypatch: pytest.MonkeyPatch, change: dict) -> None:
    shot = replace(SHOT, **change)
    run = engines.Engine(registry.entry("tiny"), "cpu", "float32").start(shot)
    list(run.denoise())
    told = dry_run(run.plan, "cpu", "float32")
    assert told.products == pytest.approx(run.flops, rel=0.15)
    assert told.windows == len(run.plan.windows) and run.latents is not None
    assert told.latents == run.latents.shape[1]
    assert told.disk["latents"] == run.latents.numel() * 4


def counted(work: Callable[[], object]) -> int:
    """FLOP of matrix products and convolutions, by torch's own count."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_the_transformer_costs_what_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings and the positions' tables are counted as products too, hence 15 %."""
    monkeypatch.setattr(patches, "BRIEF", 256)  # torch does not count its fused attention on a processor
    config = replace(DIT, width=96, depth=4, registers=4)
    dit, frames = Dit(config), 8
    given = Conditions(
        t=torch.ones(frames), cond_mask=torch.zeros(frames, 2), seconds=torch.arange(frames) / 6,
        order=torch.ones(frames, dtype=torch.long), text=torch.zeros(1, 20, 16),
        guidance=torch.ones(1), step=torch.zeros(1),
    )  # fmt: skip
    flops = counted(lambda: dit(torch.zeros(frames * 60, 24), (Grid(frames, 6, 10),), given))
    window, header = Window((), tuple(range(frames))), header_of(dit)
    products = estimates.products_of(header, config, 60, window)
    assert products + estimates.attention_of(config, 60, window) == pytest.approx(flops, rel=0.15)


def header_of(network: torch.nn.Module) -> weights.Header:
    return weights.Header({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, {})


def test_the_decoder_costs_what_torch_counts() -> None:
    vae = Vae(VAE)
    long, short = (counted(lambda n=n: vae.decode(torch.zeros(1, 6, n, 12, 20))) for n in (9, 1))  # type: ignore[misc]
    assert decoding_of(header_of(vae), 60) == pytest.approx((long - short) / 32, rel=0.02)


def test_guidance_steps_and_length_cost_what_they_multiply(tiny: Path) -> None:
    def cost(shot: Shot) -> Estimate:
        return estimate(planned(shot, windows_of(SHOT)), Model.of(registry.entry("tiny")), 1e9, 4)

    base = cost(SHOT)
    assert cost(replace(SHOT, guidance=1)).products * 2 == base.products
    assert cost(replace(SHOT, steps=6)).attention == 3 * base.attention
    longer = cost(replace(SHOT, frames=44))
    assert longer.decoding == 2 * base.decoding and longer.memory["decoding"] == base.memory["decoding"]
    assert longer.memory["latents"] > base.memory["latents"]


def test_a_faster_machine_takes_less_time_and_nothing_else(tiny: Path) -> None:
    made, model = planned(SHOT, windows_of(SHOT)), Model.of(registry.entry("tiny"))
    slow, fast = (estimate(made, model, rate, 4) for rate in (1e9, 2e9))
    assert fast.seconds["denoising"] == slow.seconds["denoising"] / 2
    assert replace(fast, seconds=slow.seconds) == slow


def test_long_windows_cost_memory(tiny: Path) -> None:
    """The plan `full` sees everything at once: its scores grow with the square of the video's length."""
    shot, model = replace(SHOT, frames=4001), Model.of(registry.entry("tiny"))
    few, full = (
        estimate(planned(shot, [Window(tuple(range(n)), (n,))]), model, 1e9, 4).memory["denoising"]
        for n in (100, 1000)
    )
    assert full > 20 * few


def test_nothing_to_make_costs_no_denoising(tiny: Path) -> None:
    told = dry_run(planned(SHOT, []), "cpu", "float32")
    assert told.products == told.attention == told.tokens == told.memory["denoising"] == 0 < told.decoding


def test_the_engines_constant() -> None:
    assert estimates.DECODED == codec.DECODED


def test_pocket_as_measured() -> None:
    """20 s at 1280x720 on one core of a Xeon with AMX, at the rate that it multiplies: within a third of what was
    measured, and of the memory with ffmpeg's, less the 356 MB that torch for CUDA takes more than `PROGRAM`."""
    shot = Shot("a cat surfing", frames=480, steps=5, guidance=1.0)
    windows = planner.plan(121, shot.plan, size=8, step=6)
    told = estimate(planned(shot, windows), Model.of(registry.entry("pocket")), 1748e9, 2)
    assert sum(told.seconds.values()) == pytest.approx(18.0, rel=0.33)
    assert told.peak == pytest.approx(900e6 - 356e6, rel=0.2)


def test_the_table_and_json(tiny: Path) -> None:
    told = dry_run(planned(SHOT, windows_of(SHOT)), "cpu", "float32")
    console = Console(file=io.StringIO(), width=120)
    console.print(told.table())
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(word in text for word in ("windows", "FLOP", "denoising", "MB", "7 latent frames"))
    assert json.loads(json.dumps(told.to_dict()))["peak"] == told.peak > 0


def test_refusals(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(registry.entry("tiny"), kind="other")
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": other})
    with pytest.raises(SoraError, match="of kind other"):
        dry_run(planned(SHOT, windows_of(SHOT)))


# ---- Hub models -------------------------------------------------------------------------------------------

RATES, CPU, GPU = Rates(1e12, 5e11, 5e11), Free("cpu", 64e9, 64e9), Free("cuda", 140e9, 120e9)
HUB = Shot("a cat surfing", "blurred", 832, 480, 81, 16, steps=50, guidance=6, model="wan2.1-1.3b")
WHOLE = [Window((), tuple(range(21)))]


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def hub_cost(shot: Shot = HUB, windows: list[Window] = WHOLE, free: Free = CPU, rates: Rates = RATES) -> Estimate:
    return wan.estimate(planned(shot, windows), rates, free, 2)


def test_a_hub_model_is_counted_in_tokens_and_passes(no_cache: Path) -> None:
    """The published numbers of Wan 2.1: 32,760 tokens, about 0.28 PFLOP a pass, a hundred passes."""
    told = hub_cost()
    assert (told.tokens, told.latents, told.windows, told.steps) == (32760, 21, 1, 50)
    assert told.step == pytest.approx(2 * 0.283e15, rel=0.01)
    assert told.products + told.attention == pytest.approx(50 * told.step)
    once = hub_cost(replace(HUB, guidance=1))
    assert once.attention == told.attention / 2 and once.decoding == told.decoding and once.reading < told.reading
    assert once.tokens == told.tokens and once.memory["denoising"] == told.memory["denoising"]


def test_observed_frames_of_a_window_are_tokens_too(no_cache: Path) -> None:
    more = hub_cost(replace(HUB, frames=145), [*WHOLE, Window((16, 17, 18, 19, 20), tuple(range(21, 37)))])
    assert more.products == 2 * hub_cost().products and more.tokens == hub_cost().tokens and more.latents == 37


def test_a_gpu_is_told_apart_from_main_memory_and_is_not_slow(no_cache: Path) -> None:
    told = hub_cost(free=GPU)
    assert told.host > 0 and told.peak == max(told.memory.values()) and told.device == "cuda"
    assert slowness(told) is None and "GPU" in told.guesses


def test_the_times_published_for_an_h200(no_cache: Path) -> None:
    """95.2 s and 157.2 s to denoise, where products run at 680 and attention at 380 TFLOP/s: within a quarter."""
    rates = Rates(680e12, 380e12, 300e12)
    five = Shot("x", "y", 1280, 704, 121, 24, steps=50, guidance=5, model="wan2.2-5b")
    assert hub_cost(free=GPU, rates=rates).seconds["denoising"] == pytest.approx(95.2, rel=0.25)
    told = hub_cost(five, [Window((), tuple(range(31)))], GPU, rates)
    assert told.seconds["denoising"] == pytest.approx(157.2, rel=0.25)


@pytest.mark.parametrize("model", ["wan2.1-1.3b", "fastwan-5b", "wan2.2-a14b"])
def test_a_draft_saves_what_its_decoder_does(no_cache: Path, model: str) -> None:
    """The work is 1/25 or 1/200 of the decoder's, whose weights and buffers are not there; 23 MB are to be fetched.
    With given pictures the whole autoencoder encodes them, and only the work is less."""
    entry = registry.entry(model)
    assert entry.network is not None
    usage = entry.usage
    shot = Shot("a", "b", usage.width, usage.height, usage.frames, usage.fps, steps=4, guidance=1, model=model)
    windows, small = [Window((), tuple(range(usage.window)))], Free("cuda", 80e9, 64e9)

    def cost(draft: bool, given: bool = False) -> Estimate:
        return wan.estimate(planned(shot, windows), RATES, small, 2, pictures=Pictures(given, draft))

    whole, draft, both = cost(draft=False), cost(draft=True), cost(draft=True, given=True)
    ratio = 25 if entry.cell == 8 else 200
    assert whole.decoding / draft.decoding == pytest.approx(ratio, rel=0.2) and both.decoding == draft.decoding
    assert draft.time < whole.time and draft.seconds["decoding"] < 0.1 * whole.seconds["decoding"]
    assert draft.memory["decoding"] < whole.memory["decoding"] and both.memory == cost(False, given=True).memory
    assert draft.download["tiny"] == pytest.approx(23e6, rel=0.02) and "tiny" not in whole.download
    assert (draft.products, draft.attention, draft.disk) == (whole.products, whole.attention, whole.disk)


def test_a_cpu_is_called_slow_in_hours(no_cache: Path) -> None:
    told = hub_cost(rates=Rates(1e12, 1e12, 1e12))
    said = slowness(told)
    assert said is not None and "wan2.1-1.3b" in said and cost.duration(told.time) in said and "hours" in said
    short = hub_cost(replace(HUB, steps=1, guidance=1, frames=1), [Window((), (0,))])
    assert short.time < 600 and slowness(short) is None


def test_what_is_read_from_disk_at_every_pass_takes_time(no_cache: Path) -> None:
    """On a machine with 3 GB and a fast processor the files are read a hundred times, at 1 GB/s."""
    fast, small = Rates(1e15, 1e15, 1e15), Free("cuda", 5.5e9, 4.5e9)
    told = hub_cost(replace(HUB, width=416, height=240), free=replace(small, device=3e9), rates=fast)
    assert told.placement is not None and told.placement.dit == "disk"
    assert told.seconds["denoising"] == pytest.approx(100 * 5.68, rel=0.01)


def test_what_is_downloaded_already_is_not_told_again(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.entry("wan2.1-1.3b")
    assert hub_cost().download == {part.role: part.bytes for part in entry.parts}
    half = {"text": 1.0, "dit": 0.5}
    monkeypatch.setattr(wan, "arrived", lambda part, lock: half.get(part.role, 0) * part.bytes)
    assert hub_cost().download == {"dit": 2.84e9, "vae": 508e6, "tokenizer": 17e6}


def test_hub_models_go_through_the_same_door(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "MEASURED", 0.01)
    monkeypatch.setattr("sora_cli.placement.machine.host_free", lambda: 64e9)
    told = dry_run(planned(HUB, WHOLE), "cpu", "float32")
    console = Console(file=io.StringIO(), width=150)
    console.print(told.table())
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(word in text for word in ("32760 tokens", "PFLOP", "a step", "download", "placement", "guesses"))
    assert json.loads(json.dumps(told.to_dict()))["placement"]["dit"] == "resident"


def test_quantities_and_durations_are_spoken() -> None:
    quantities = [cost.quantity(value, "B") for value in (0, 999, 1500, 2.84e9, 2.2e13)]
    assert quantities == ["0 B", "999 B", "1.5 kB", "2.8 GB", "22 TB"]
    spoken = [cost.duration(s) for s in (0.26, 38, 840, 50000, 5e5)]
    assert spoken == ["0.3 s", "38 s", "14 minutes", "14 hours", "5.8 days"]
