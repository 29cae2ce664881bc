"""Predicted sizes against the networks themselves; placements against what machines have free."""

import json
import os
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from wan_cases import UMT5, VAE21, VAE22, WAN

from sora_cli import geometry, registry
from sora_cli.errors import SoraError
from sora_cli.models import attention
from sora_cli.models.wan.configs import Umt5Config, WanConfig, WanVaeConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.text import Umt5
from sora_cli.models.wan.tiles import Tiling
from sora_cli.models.wan.vae import Stream, WanVae
from sora_cli.placement import memory, sizes
from sora_cli.placement.device import free_caches, pick_dtype
from sora_cli.placement.machine import Free, host_free
from sora_cli.placement.memory import Placement, choose, needs_of, peaks
from sora_cli.placement.sizes import FLOAT32, Needs, tiles_along
from sora_cli.registry.networks import Network, configured, read

DATA = Path(__file__).parent / "data"
CHECKPOINTS: dict[str, Any] = json.loads((DATA / "wan_keys.json").read_text())
OURS = {"wan2.1-t2v-1.3b": "wan2.1-1.3b", "wan2.2-ti2v-5b": "wan2.2-5b", "skyreels-v2-df-1.3b": "skyreels2-1.3b"}
SMALL_DIT, SMALL_TEXT = WanConfig.from_hub(WAN), Umt5Config.from_hub(UMT5)
SMALL_VAES = {"vae21": WanVaeConfig.from_hub(VAE21), "vae22": WanVaeConfig.from_hub(VAE22)}
GB = 1e9


HELD = """
import sys, torch
from sora_cli.placement.device import free_at_once

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

if sys.argv[1] == "at once":
    free_at_once()
torch.ones(5_000_000)  # C learns from its end that blocks of 20 MB come and go
before, small, large = resident(), [], []
for _ in range(20):
    large.append(torch.ones(4_000_000))
    small.append(torch.ones(20_000))
del large
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_blocks_go_back_to_the_system() -> None:
    """320 MB are freed, and 1.6 MB not: what C keeps for later other programs cannot have."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    words = [sys.executable, "-c", HELD, "at once"]
    kept = subprocess.run(words, capture_output=True, text=True, check=True, env=usual)
    assert int(kept.stdout) < 20_000


def weights_of(network: torch.nn.Module) -> int:
    return sum(value.numel() for value in network.state_dict().values())


# -- Networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_transformers_have_the_published_sizes(name: str) -> None:
    config = CHECKPOINTS[name]["config"]
    network = registry.entry(OURS[name]).network
    assert network is not None
    with torch.device("meta"):
        assert sizes.blocks_of(network.dit).weights == weights_of(WanDit(WanConfig.from_hub(config)))
    assert network.dit.width == config["num_attention_heads"] * config["attention_head_dim"]


@pytest.mark.parametrize(("name", "model"), [("wan2.1-vae", "wan2.1-1.3b"), ("wan2.2-vae", "wan2.2-5b")])
def test_autoencoders_have_the_published_sizes(name: str, model: str) -> None:
    config, network = WanVaeConfig.from_hub(CHECKPOINTS[name]["config"]), registry.entry(model).network
    assert network is not None
    with torch.device("meta"):
        assert sizes.weights(network.vae) == weights_of(WanVae(config))
    assert network.vae.stride == config.stride == registry.entry(model).cell
    assert network.vae.channels == config.channels == network.dit.outputs


def test_the_text_encoder_has_the_published_size() -> None:
    network = registry.entry("wan2.1-1.3b").network
    assert network is not None
    with torch.device("meta"):
        text = Umt5(Umt5Config.from_hub(CHECKPOINTS["umt5-xxl"]["config"]))
    assert sizes.blocks_of(network.text).weights == weights_of(text)
    assert sizes.blocks_of(network.text).block == weights_of(text.encoder.block[0])


def test_models_that_share_networks_have_the_same_sizes() -> None:
    five, fast = (registry.entry(name).network for name in ("wan2.2-5b", "fastwan-5b"))
    assert five == fast and registry.entry("pocket").network is None


def counted(network: torch.nn.Module, *given: torch.Tensor) -> int:
    """FLOP by torch's own count, of a network without memory."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*given)
    return counter.get_total_flops()


def test_the_transformer_costs_what_torch_counts() -> None:
    """At the real size, on tensors without memory; only the timestep's own layers are not counted."""
    network = registry.entry("wan2.1-1.3b").network
    assert network is not None
    with torch.device("meta"):
        dit = WanDit(WanConfig.from_hub(CHECKPOINTS["wan2.1-t2v-1.3b"]["config"]))
        x, text = torch.zeros(1, 16, 2, 60, 104), torch.zeros(1, 512, 4096)
    tokens = 2 * 30 * 52
    assert sizes.products(network.dit, tokens) + sizes.attention(network.dit, tokens) == pytest.approx(
        counted(dit, x, torch.zeros(1, 2), text), rel=0.01
    )


@pytest.mark.parametrize("name", SMALL_VAES)
def test_the_decoder_costs_what_torch_counts(name: str) -> None:
    """A later latent costs the difference of two lengths, but for the attention in the middle."""
    vae = SMALL_VAES[name]
    network = WanVae(vae)
    z = torch.zeros(1, vae.channels, 3, 4, 4)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.decode(z[:, :, :2])
        two = counter.get_total_flops()
        network.decode(z)
    later = counter.get_total_flops() - 2 * two
    assert sizes.decoding(vae).work * 16 * vae.stride**2 == pytest.approx(later, rel=0.03)


@pytest.mark.parametrize("name", SMALL_VAES)
def test_a_stream_keeps_what_is_told(name: str) -> None:
    vae = SMALL_VAES[name]
    network, stream = WanVae(vae), Stream()
    with torch.no_grad():
        for _ in range(3):
            network.decode_chunk(torch.zeros(1, vae.channels, 1, 2, 4), stream)
    kept = sum(tail.numel() for tails in stream.tails.values() for tail in tails)
    assert kept == sizes.decoding(vae).tails * 8 * vae.stride**2


def test_small_networks_are_counted_like_large_ones() -> None:
    for dit in (SMALL_DIT, replace(SMALL_DIT, paced=True)):
        assert sizes.blocks_of(dit).weights == weights_of(WanDit(dit))
    assert sizes.blocks_of(SMALL_TEXT).weights == weights_of(Umt5(SMALL_TEXT))


class Living(TorchDispatchMode):
    """Counts the bytes of the tensors that are there, and the most there were."""

    now = most = 0

    def __torch_dispatch__(self, op: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        made = op(*given, **(named or {}))
        known = {tensor.untyped_storage()._cdata for tensor in tree_leaves([given, named]) if torch.is_tensor(tensor)}
        for storage in {tensor.untyped_storage() for tensor in tree_leaves(made) if torch.is_tensor(tensor)}:
            if storage._cdata not in known:
                self.now += storage.nbytes()
                weakref.finalize(storage, self.gone, storage.nbytes())
        self.most = max(self.most, self.now)
        return made

    def gone(self, bytes: int) -> None:
        self.now -= bytes


@pytest.mark.parametrize(("name", "model"), [("wan2.1-vae", "wan2.1-1.3b"), ("wan2.2-vae", "wan2.2-5b")])
def test_the_decoder_takes_what_is_told(name: str, model: str) -> None:
    """At the real size, on tensors without memory, of which two latents have as many as more."""
    one = needs(model)
    vae, pixels = one.network.vae, one.width * one.height
    with torch.device("meta"), torch.inference_mode():
        network, stream = WanVae(WanVaeConfig.from_hub(CHECKPOINTS[name]["config"])), Stream()
        latents = torch.zeros(1, vae.channels, 2, one.height // vae.stride, one.width // vae.stride)
        network.decode(latents[..., :2, :2])  # lays out the weights
        with Living() as living:
            for piece in latents.split(1, 2):
                network.decode_chunk(piece, stream)
    told = FLOAT32 * sizes.decoding(vae).tails * pixels + sizes.decoding_buffers(vae, pixels, FLOAT32, gpu=False)
    assert living.most == pytest.approx(told, rel=0.03)


MEASURE = """
import torch
from pathlib import Path
from test_memory import CHECKPOINTS
from sora_cli.models.wan.configs import WanConfig
from sora_cli.models.wan.dit import WanDit
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
config = WanConfig.from_hub(CHECKPOINTS["wan2.1-t2v-1.3b"]["config"] | {"num_layers": 1})
with torch.device("meta"):
    network = WanDit(config).bfloat16()
network = network.to_empty(device="cpu")
for parameter in network.parameters():
    parameter.data.zero_()
given = torch.zeros(1, 16, 4, 32, 32).bfloat16(), torch.zeros(1, 4), torch.zeros(1, 512, 4096).bfloat16()
with torch.inference_mode():
    network(given[0][:, :, :1, :4, :4], given[1][:, :1], given[2])
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    network(*given)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of memory from /proc")
def test_a_block_of_the_real_width_takes_what_is_told() -> None:
    """One block on 1,024 tokens, which takes some forty MB. Large tensors are mapped one by one, as they are at
    real sizes."""
    environment = {"MALLOC_MMAP_THRESHOLD_": "1000000", "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, env=environment, check=True)
    large = replace(SMALL_DIT, heads=12, head_width=128, hidden=8960)
    told = sizes.denoising_buffers(large, 1024, 2, gpu=False)
    assert float(found.stdout) == pytest.approx(told, rel=0.2)  # processors with AMX pack weights: 17 % more


@pytest.mark.parametrize(("kind", "told"), [("mps", 1 << 30), ("cuda", 0), ("cpu", 0)])
def test_scores_are_counted_where_they_are_made(kind: str, told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of 27,280 tokens and 24 heads would be 71 GB; they are made in parts."""
    like = Placement("streamed", "resident", "float32", 0, 0, keep=False)
    before = peaks(like, needs(), machine(kind, 64, 64))["denoising"]
    monkeypatch.setattr(attention, "SCORES", 0)
    assert before - peaks(like, needs(), machine(kind, 64, 64))["denoising"] == pytest.approx(told, rel=0.1)


# -- Needs ------------------------------------------------------------------------------------------------


def needs(name: str = "wan2.2-5b", width: int = 0, height: int = 0, frames: int = 0) -> Needs:
    """Those of a model's own video, unless told otherwise, in bfloat16."""
    model = registry.entry(name)
    latents = geometry.latents_for(frames or model.usage.frames)
    canvas = model.canvas(width or model.usage.width, height or model.usage.height)
    return needs_of(model, canvas, latents, latents, 2)


def test_tokens_are_those_of_the_papers() -> None:
    assert [needs(name).tokens for name in ("wan2.1-1.3b", "wan2.2-5b", "skyreels2-1.3b")] == [32760, 27280, 51000]


def test_the_authors_peaks() -> None:
    """8.19 GB were measured for Wan 2.1 on a GPU with text on the CPU and frames decoded in float32, by a decoder that
    has all frames of a latent at their full size at once; ours has one."""
    one = needs("wan2.1-1.3b")
    free = Free("cuda", 24 * GB, 64 * GB)
    peak = peaks(Placement("cpu", "resident", "float32", 0, 0, keep=False), one, free)
    assert 5 * GB < max(peak[stage] for stage in ("text", "denoising", "decoding")) < 8.19 * GB


def test_sizes_come_from_the_model_its_folder_or_the_most_similar_one(tmp_path: Path) -> None:
    pocket, five, one = (registry.entry(name) for name in ("pocket", "wan2.2-5b", "wan2.1-1.3b"))
    with pytest.raises(SoraError, match="networks of pocket"):
        needs_of(pocket, pocket.canvas(1280, 720), 8, 30, 2)
    for like in (five, one):
        untold = replace(like, name="mine", network=None)
        assert needs_of(untold, like.canvas(640, 384), 8, 8, 2).network == like.network
    configs = {"dit": WAN, "vae": VAE22, "text": UMT5}
    assert configured(five.network, configs) == Network(SMALL_DIT, SMALL_VAES["vae22"], SMALL_TEXT)
    for wrong in ("many", 0, -30, 1.5, True, [30], None):
        assert configured(one.network, {"dit": {"num_layers": wrong, "attention_head_dim": wrong}}) == one.network
    for wrong in (2, [], [0, 1], [1.5], "1, 2", [True]):
        assert configured(one.network, {"vae": {"dim_mult": wrong, "temperal_downsample": 3}}) == one.network


@pytest.mark.parametrize("wrong", [{"layers": 3, "depth": 2}, {"layers": 3}])
def test_tables_that_describe_no_network_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SoraError, match=r"\[mine\] network dit: "):
        read("mine", {"dit": wrong, "vae": {}, "text": {}})


def test_without_a_window_only_frames_count() -> None:
    """Encoding and decoding need neither text nor transformer."""
    five = registry.entry("wan2.2-5b")
    told = choose(needs_of(five, five.canvas(416, 240), 0, 0, 2), machine("cuda", 8, 8))
    assert set(told.peak) == {"decoding", "host"}
    placed = choose(needs_of(five, five.canvas(64, 64), 0, 0, 2), Free.on(torch.device("cpu")), "low")
    assert placed.on_device < 3e9


@pytest.mark.parametrize(("cells", "tile", "overlap"), [(80, 32, 4), (44, 32, 4), (60, 64, 8), (104, 24, 8), (9, 8, 2)])
def test_tiles_are_counted_as_they_are_cut(cells: int, tile: int, overlap: int) -> None:
    assert tiles_along(cells, tile, overlap) == len(Tiling(tile, overlap).starts(cells))
    assert tiles_along(cells, 0, overlap) == 1


def test_longer_windows_and_larger_frames_take_more() -> None:
    base, long, large = needs(), needs(frames=241), needs(width=640, height=352)
    assert long.denoising(True) > 1.9 * base.denoising(True) and long.decoding(4, 0, True) == base.decoding(4, 0, True)
    assert large.decoding(4, 0, True) < 0.3 * base.decoding(4, 0, True) and large.dit == base.dit


def test_tiles_remember_in_main_memory() -> None:
    """A quarter of the pixels takes a quarter of the device; all tiles, which overlap, take more of main memory."""
    one, free = needs(), machine("cuda", 24, 64)
    like = Placement("streamed", "disk", "bfloat16", 0, 4, keep=False)
    whole, tiled = (peaks(replace(like, tile=tile), one, free) for tile in (0, 32))
    assert tiled["decoding"] - one.vae(2) < 0.4 * (whole["decoding"] - one.vae(2))
    assert tiled["host"] > one.waiting(2, 32) > 1.2 * one.waiting(2, 80) and tiled["host"] > whole["host"]


# -- Placements -------------------------------------------------------------------------------------------

MACHINES = [(kind, device, host) for kind in ("cuda", "cpu", "mps") for device in (4, 8, 12, 24, 141)
            for host in (2, 16, 128)]  # fmt: skip


def machine(kind: str, device: float, host: float) -> Free:
    return Free(kind, device * GB if kind == "cuda" else min(device, host) * GB, host * GB)


@pytest.mark.parametrize("mode", ["auto", "low", "high"])
@pytest.mark.parametrize("name", ["wan2.1-1.3b", "wan2.2-5b"])
def test_what_is_chosen_fits_and_what_does_not_is_said(name: str, mode: str) -> None:
    one, chosen = needs(name), 0
    for free in (machine(*these) for these in MACHINES):
        try:
            told = choose(one, free, mode)
        except SoraError as error:
            assert "GB is free" in str(error) and "--res" in str(error) and "\n" not in str(error)
            continue
        chosen += 1
        assert told.on_device <= free.device and told.peak["host"] <= free.host and "GB" in told.why
        assert told.peak == peaks(told, one, free)
    assert 0 < chosen < len(MACHINES)


def test_more_memory_is_never_worse() -> None:
    """In the order of what is best: a machine with more of everything gets the same or something before it."""
    one = needs()
    ranks = []
    for size in (8, 10, 12, 16, 20, 24, 32, 48, 80):
        free = machine("cuda", size, 4 * size)
        told = replace(choose(one, free), why="", peak={})
        ranks.append(list(memory.placements(one, free)).index(told))
    assert ranks == sorted(ranks, reverse=True) and ranks[-1] == 0


def test_large_machines_keep_everything_and_small_ones_stream() -> None:
    large = choose(needs(), machine("cuda", 141, 128))
    assert (large.text, large.dit, large.vae, large.tile, large.keep) == ("device", "resident", "float32", 0, True)
    small = choose(needs(), machine("cuda", 8, 32))
    assert (small.dit, small.vae, small.tile, small.keep) == ("streamed", "bfloat16", 0, False)
    smaller = choose(needs(), machine("cuda", 4, 32))
    assert (smaller.dit, smaller.tile * 16, smaller.overlap * 16) == ("streamed", 512, 64)
    poor = choose(needs(), machine("cuda", 8, 6))
    assert (poor.text, poor.dit) == ("streamed", "disk") and "every step" in poor.why


def test_text_is_read_on_the_gpu_where_it_fits_alone() -> None:
    """11.4 GB of text encoder, and what else there is after it."""
    one = needs("wan2.1-1.3b")
    told = choose(one, machine("cuda", 16, 64))
    assert (told.text, told.dit, told.keep) == ("first", "resident", True) and "before the rest is loaded" in told.why
    assert told.peak["text"] == one.text + one.reading() < 14.4 * GB < one.text + one.dit + one.vae(4) + one.reading()
    assert told.peak["host"] < 3 * GB, "nothing has to wait"
    for device in (5, 8, 10, 12, 14, 16, 24, 48):
        found = choose(one, machine("cuda", device, 64))
        alone = one.text + one.reading() <= 0.9 * device * GB
        assert alone == (found.text in ("device", "first")), device
    assert choose(one, machine("mps", 20, 20)).text in ("device", "first")


@pytest.mark.parametrize(("size", "tile", "away"), [(60, 0, True), (52, 32, False), (20, 32, True), (4, 16, True)])
def test_tiles_stay_on_a_card_that_holds_them(size: int, tile: int, away: bool) -> None:
    frames = replace(needs(), window=0, latents=0, width=3840, height=2176)
    told = choose(frames, machine("cuda", size, 128))
    assert (told.tile, told.away) == (tile, away) and told.peak["decoding"] <= 0.9 * size * GB
    assert ("wait in main memory" in told.why) == (tile > 0 and away)
    if tile:
        other = peaks(replace(told, away=not away), frames, machine("cuda", size, 128))
        change = frames.waiting(2, tile) * (1 if away else -1)
        assert other["decoding"] - told.peak["decoding"] == pytest.approx(change)
        assert other["host"] - told.peak["host"] == pytest.approx(-change)


def test_main_memory_is_not_counted_twice() -> None:
    """Where the device's memory is main memory, blocks in main memory would save nothing."""
    free = machine("cpu", 16, 16)
    options = list(memory.placements(needs(), free))
    assert "streamed" not in {option.dit for option in options} and not any(option.tile for option in options)
    told = choose(needs(), free)
    assert told.text in ("cpu", "streamed") and told.peak["host"] == told.on_device


def test_the_modes() -> None:
    one, free = needs("wan2.1-1.3b"), machine("cuda", 24, 64)
    low, auto, high = (choose(one, free, mode) for mode in ("low", "auto", "high"))
    assert low.on_device <= auto.on_device <= high.on_device
    assert (high.dit, high.text, high.tile, high.keep) == ("resident", "device", 0, True)
    assert (low.text, low.dit, low.keep) == ("cpu", "streamed", False)
    with pytest.raises(SoraError, match=r"needs 20 GB of GPU memory"):
        choose(one, machine("cuda", 16, 64), "high")


def test_a_refusal_names_numbers_and_what_helps() -> None:
    line = (r"wan2.2-5b at 1280x704 needs \S+ GB of GPU memory to denoise, but 2.0 GB is free; "
            r"try a smaller --res, fewer --frames, or --model wan2.1-1.3b")  # fmt: skip
    with pytest.raises(SoraError, match=f"^{line}$"):
        choose(needs(), machine("cuda", 2, 64))
    with pytest.raises(SoraError, match=r"of main memory.*--model pocket"):
        choose(needs("wan2.1-1.3b"), machine("cpu", 2, 2))


def test_shorter_numbers_are_used_or_named_where_they_help() -> None:
    """In memory shared with the GPU nothing is gained by tiles, so that frames alone are decoded in bfloat16."""
    one = replace(needs("wan2.1-1.3b"), size=FLOAT32)
    assert one.decoders(shared=True) == [("float32", 0), ("bfloat16", 0)]
    assert one.decoders(shared=False) == [("float32", tile) for tile in (0, 64, 32)]
    frames = replace(one, window=0, latents=0)
    found = [choose(frames, machine("mps", size, size)).vae for size in range(2, 40) if fits(frames, size)]
    assert set(found) == {"float32", "bfloat16"} and found == sorted(found)
    size = next(size for size in range(1, 40) if fits(replace(one, size=2), size))
    with pytest.raises(SoraError, match="; try --dtype bfloat16, a smaller --res"):
        choose(one, machine("mps", size, size))
    with pytest.raises(SoraError, match="; try a smaller --res"):
        choose(one, machine("mps", 1, 1))


def fits(those: Needs, size: int) -> bool:
    """On a machine of so many GB that the GPU shares."""
    with suppress(SoraError):
        return bool(choose(those, machine("mps", size, size)))
    return False


@pytest.mark.parametrize(("macos", "large", "auto"), [(14, True, "bfloat16"), (14, False, "float32"),
                                                      (13, True, "float32"), (13, False, "float32")])  # fmt: skip
def test_large_networks_are_in_bfloat16_where_apple_has_it(
    macos: int, large: bool, auto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: (macos, 0) >= (major, minor))
    mps = torch.device("mps")
    assert pick_dtype("auto", mps, large) == getattr(torch, auto) and pick_dtype("float32", mps) == torch.float32
    if macos == 13:
        with pytest.raises(SoraError, match="macOS 14"):
            pick_dtype("bfloat16", mps)


@pytest.mark.parametrize(("capability", "large", "auto"), [
    ((7, 0), True, "float16"), ((7, 5), True, "float16"), ((6, 1), False, "float32"), ((7, 5), False, "float32"),
    ((8, 0), True, "bfloat16"), ((8, 9), False, "bfloat16"), ((9, 0), True, "bfloat16"), ((12, 0), True, "bfloat16"),
])  # fmt: skip
def test_a_card_computes_in_what_it_is_fast_in(
    capability: tuple[int, int], large: bool, auto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V100, T4, Pascal; A100, 4090, H100, Blackwell."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    card = torch.device("cuda")
    assert pick_dtype("auto", card, large) == getattr(torch, auto)
    for name in ("float32", "float16", "bfloat16"):
        assert pick_dtype(name, card, large) == getattr(torch, name), "what is asked is taken"


@pytest.mark.parametrize(("there", "auto"), [(True, "bfloat16"), (False, "float32")])
def test_a_processor_computes_in_what_it_is_fast_in(there: bool, auto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: there)
    for large in (True, False):
        assert pick_dtype("auto", torch.device("cpu"), large) == getattr(torch, auto)


def test_frames_are_decoded_in_the_shorter_numbers_of_the_transformer() -> None:
    """A card without bfloat16 has float16."""
    five = registry.entry("wan2.2-5b")
    for dtype in (torch.float16, torch.bfloat16):
        one = needs_of(five, five.canvas(1280, 704), 31, 31, 2, memory.half_of(dtype))
        found = choose(one, machine("cuda", 8, 32))
        assert f"torch.{found.vae}" == str(dtype) and f"whole in {found.vae}" in found.why
        assert {option.vae for option in memory.placements(one, machine("cuda", 8, 32))} == {"float32", found.vae}


@pytest.mark.parametrize(("kind", "emptied"), [("cuda", ["device", "pinned"]), ("mps", ["apple"]), ("cpu", [])])
def test_every_device_gets_back_what_torch_keeps(
    kind: str, emptied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("device"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: done.append("apple"))
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: done.append("pinned"), raising=False)
    free_caches(torch.device(kind))
    assert done == emptied


# -- What is free -----------------------------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 64000000 kB\nMemFree: 1 kB\nMemAvailable: 32000000 kB\n"}


def test_available_memory_is_what_linux_says(tmp_path: Path) -> None:
    assert host_free(write(tmp_path, MEMINFO)) == 32000000 * 1024


def test_a_control_group_limits_it(tmp_path: Path) -> None:
    """Of either version; limits of parents count, and cached files do not."""
    second = {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "8000000000\n",
              "sys/fs/cgroup/a/memory.current": "3000000000\n", "sys/fs/cgroup/a/b/memory.max": "max\n",
              "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 1000000000\n"}  # fmt: skip
    assert host_free(write(tmp_path / "2", MEMINFO | second)) == 6e9
    first = {"proc/self/cgroup": "8:pids:/\n4:memory:/docker/x\n0::/\n",
             "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000\n",
             "sys/fs/cgroup/memory/memory.usage_in_bytes": "500000000\n"}  # fmt: skip
    assert host_free(write(tmp_path / "1", MEMINFO | first)) == 1.5e9


def test_where_nothing_is_said_half_of_the_machine_counts(tmp_path: Path) -> None:
    assert 0 < host_free(tmp_path) < 1e14


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "there"))
    free = Free.on(torch.device("cpu"))
    assert free.shared and free.device == pytest.approx(free.host, rel=0.2) and 0 < free.disk < 1e18
