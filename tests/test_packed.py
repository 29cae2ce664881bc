"""Matrices that stay packed compute to the bit what the same file does that is unpacked while it loads."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from wan_cases import SKYREELS, UMT5, WAN, tokens

from sora_cli import registry
from sora_cli.errors import Failed, SoraError
from sora_cli.files import blocks, headers, published
from sora_cli.files.published import put, survey, weights_in
from sora_cli.models.wan import names
from sora_cli.models.wan.configs import Umt5Config, WanConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.text import Umt5
from sora_cli.pipelines import loading, presets
from sora_cli.placement import memory, packed
from sora_cli.placement.held import held, of_tensors
from sora_cli.placement.memory import needs_of
from sora_cli.placement.offload import Streamed, keep_on_host, leave_on_disk
from sora_cli.placement.packed import Packed, PackedEmbedding, PackedLinear, pack
from sora_cli.placement.sizes import blocks_of
from sora_cli.shot import Lora

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from random_weights import Random, drawn, gguf_header, of_network, write

CPU = torch.device("cpu")
SIDES = {"attention_head_dim": 128, "ffn_dim": 512, "text_dim": 256}  # of blocks of 256 numbers
CONFIG = WanConfig.from_hub(WAN | SIDES)
TEXT = Umt5Config.from_hub(UMT5 | {"d_model": 256, "num_heads": 4, "d_kv": 64, "d_ff": 512})
KINDS = [*headers.PACKED, *headers.EIGHT_BITS]


def bare(config: WanConfig | Umt5Config = CONFIG) -> nn.Module:
    with torch.device("meta"):
        return WanDit(config) if isinstance(config, WanConfig) else Umt5(config)


def file_of(folder: Path, network: nn.Module, kind: str, other: dict[str, str] | None = None) -> Path:
    """Random weights; `other` tells of parts of names that are of another type."""
    tensors = of_network(network, {name: name for name, _ in network.named_parameters()}, kind)
    for part, second in (other or {}).items():
        tensors = [replace(one, kind=second) if part in one.name and one.kind == kind else one for one in tensors]
    path = folder / f"a{'.gguf' if kind in headers.PACKED else '.safetensors'}"
    write(path, tensors, "wan" if isinstance(network, WanDit) else "t5encoder")
    return path


def loaded(path: Path, dtype: torch.dtype, config: WanConfig | Umt5Config = CONFIG, stays: bool = True,
           disk: bool = False) -> nn.Module:  # fmt: skip
    network, keep = bare(config), loading.in_float
    places = survey(network, [path])
    if stays:
        places = pack(network, places, dtype, keep)
    if disk:
        places = leave_on_disk(network, "blocks", places, dtype, CPU, keep)
    put(network, places, dtype, CPU, keep)
    return network.eval()


def streamed(path: Path, dtype: torch.dtype) -> nn.Module:
    network = loaded(path, dtype)
    keep_on_host(network, "blocks", CPU)
    assert isinstance(network.blocks, Streamed)
    return network


@torch.no_grad()
def answer(network: nn.Module, dtype: torch.dtype) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 4, 2, 4, 6, generator=rng), torch.randn(1, 7, 256, generator=rng)
    found: Tensor = network(x.to(dtype), torch.tensor([[0, 731]]), text.to(dtype))
    assert bool(found.isfinite().all()) and float(found.float().std()) > 1e-3
    return found


def packed_in(network: nn.Module) -> list[str]:
    return [name for name, part in network.named_modules() if isinstance(part, Packed)]


# ---- the same numbers ---------------------------------------------------------------------------------------


ALSO_FLOAT = ("Q4_0", "Q6_K", "F8_E5M2")


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((k, torch.bfloat16) for k in KINDS), *((k, torch.float32) for k in ALSO_FLOAT)]
)
def test_every_type_computes_the_same(tmp_path: Path, kind: str, dtype: torch.dtype,
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Wherever the blocks lie; all their matrices stay packed, and the timestep's own are in float32."""
    monkeypatch.setattr(packed, "UNPACKED", 30_000)  # numbers at a time: parts that are no whole matrix
    path = file_of(tmp_path, bare(), kind)
    due = answer(loaded(path, dtype, stays=False), dtype)
    network = loaded(path, dtype)
    assert len(packed_in(network)) == 2 * 10 + 4 and not any("time_embedder" in name for name in packed_in(network))
    for one in (network, streamed(path, dtype), loaded(path, dtype, disk=True)):
        for _ in range(2):
            assert torch.equal(answer(one, dtype), due)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_packed_weights_compute_the_same_on_cuda(kind: str) -> None:
    """What is unpacked there is what is unpacked on the CPU, to the bit."""
    raw = torch.frombuffer(bytearray(drawn_bytes(kind)), dtype=torch.uint8).view(16, -1)
    assert torch.equal(blocks.unpacked(kind, raw.cuda()).cpu(), blocks.unpacked(kind, raw))


def drawn_bytes(kind: str) -> bytes:
    return b"".join(bytes(piece.tolist()) for piece in drawn(Random("weight", (16, 512), kind), torch.Generator()))


def test_packed_weights_take_what_the_file_does(tmp_path: Path) -> None:
    path = file_of(tmp_path, bare(), "Q4_0")
    network = loaded(path, torch.bfloat16)
    parts = [value.nbytes for name, value in network.named_parameters() if name.endswith(".numbers")]
    numbers = sum(value.numel() for value in bare().parameters() if value.dim() == 2)
    assert sum(parts) < 0.6 * numbers
    told = of_tensors(weights_in([path]))
    assert told and told.whole.at(2) == pytest.approx(sum(value.nbytes for value in network.parameters()), rel=0.01)
    block = sum(value.nbytes for value in network.get_submodule("blocks.0").parameters())
    assert told.block.at(2) == pytest.approx(block, rel=0.02)


@pytest.mark.parametrize("scales", [(), (1,), (512,), (512, 1)])
def test_scales_of_every_shape(tmp_path: Path, scales: tuple[int, ...]) -> None:
    path = file_of(tmp_path, bare(), "F8_E4M3")
    there = load_file(path)
    for name in [name for name in there if "ffn.net.0" in name and name.endswith("scale_weight")]:
        there[name] = torch.rand(scales, generator=torch.Generator().manual_seed(0)) * 1e-3
    save_file(there, path)
    assert torch.equal(answer(loaded(path, torch.bfloat16), torch.bfloat16),
                       answer(loaded(path, torch.bfloat16, stays=False), torch.bfloat16))  # fmt: skip


@pytest.mark.parametrize("other", [{"ffn.net.2": "Q6_K"}, {"blocks.1.": "Q8_0", "to_v": "Q5_K"}, {"blocks.0.": "F16"}])
def test_blocks_of_several_types(tmp_path: Path, other: dict[str, str]) -> None:
    """As in Q4_K_M, where some layers have more bits than in others."""
    path, dtype = file_of(tmp_path, bare(), "Q4_K", other), torch.bfloat16
    due = answer(loaded(path, dtype, stays=False), dtype)
    for one in (loaded(path, dtype), streamed(path, dtype), loaded(path, dtype, disk=True)):
        assert torch.equal(answer(one, dtype), due)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["F8_E4M3", "Q8_0", "Q6_K", "Q4_0"])
def test_the_text_encoder_and_its_table(tmp_path: Path, kind: str) -> None:
    path, text = file_of(tmp_path, bare(TEXT), kind), tokens(40)
    due = loaded(path, torch.bfloat16, TEXT, stays=False)(text)
    network = loaded(path, torch.bfloat16, TEXT)
    assert isinstance(network.shared, PackedEmbedding) and torch.equal(network(text), due)
    assert torch.equal(network.shared.weight[text], network.shared(text))


def test_the_frame_rate_is_told_by_a_packed_table(tmp_path: Path) -> None:
    config = WanConfig.from_hub(SKYREELS | SIDES)
    path = file_of(tmp_path, bare(config), "Q8_0")
    found = []
    for stays in (True, False):
        network = loaded(path, torch.float32, config, stays)
        found.append(network.frame_rate(24))  # type: ignore[operator]
        assert isinstance(network.fps_embedding, PackedEmbedding) is stays
    assert torch.equal(*found)


def test_what_was_loaded_by_name_is_loaded_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the functions that the pipeline calls; streamed, the table is read row by row, unpacked."""
    for kind, config in (("DIT", CONFIG), ("TEXT", TEXT)):
        before = getattr(loading, kind)
        monkeypatch.setattr(loading, kind, replace(before, presets={"Tiny": (config, lambda key: key)}))
    (tmp_path / "text").mkdir()
    path, text = file_of(tmp_path, bare(), "Q5_K"), file_of(tmp_path / "text", bare(TEXT), "Q5_1")
    answers = {unpacked: answer(loading.load_dit(path, CPU, torch.bfloat16, unpacked=unpacked), torch.bfloat16)
               for unpacked in (True, False)}  # fmt: skip
    assert torch.equal(answers[True], answers[False])
    assert packed_in(loading.load_dit(path, CPU, torch.bfloat16)) != []
    assert packed_in(loading.load_dit(path, CPU, torch.bfloat16, unpacked=True)) == []
    with torch.no_grad():
        due = loading.load_text(text, CPU, torch.bfloat16, unpacked=True)(tokens(9))
        for streams in (True, False):
            assert torch.equal(loading.load_text(text, CPU, torch.bfloat16, streams)(tokens(9)), due)


# ---- LoRA ---------------------------------------------------------------------------------------------------


def lora(path: Path, kind: torch.dtype = torch.float32, more: dict[str, Tensor] | None = None) -> Lora:
    rng = torch.Generator().manual_seed(2)
    names = [name for name, value in bare().named_parameters() if value.dim() == 2 and "blocks." in name]
    there = dict(more or {})
    for name in names:
        rows, columns = bare().get_parameter(name).shape
        stem = f"transformer.{name.removesuffix('.weight')}"
        there[f"{stem}.lora_A.weight"] = torch.randn(3, columns, generator=rng).to(kind) / 20
        there[f"{stem}.lora_B.weight"] = torch.randn(rows, 3, generator=rng).to(kind) / 20
        there[f"{stem}.alpha"] = torch.tensor(2)
    save_file(there, path)
    return Lora(str(path), 0.7)


@pytest.mark.parametrize("numbers", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["Q4_K", "F8_E5M2", "Q8_0"])
def test_a_lora_is_added_beside_packed_numbers(tmp_path: Path, kind: str, numbers: torch.dtype,
                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """To the bit as it is merged while loading; nothing of it is unpacked to stay."""
    monkeypatch.setattr(loading, "DIT", replace(loading.DIT, presets={"Tiny": (CONFIG, lambda key: key)}))
    path, dtype = file_of(tmp_path, bare(), kind), torch.bfloat16
    loras = [lora(tmp_path / "one.safetensors", numbers), lora(tmp_path / "two.safetensors", numbers)]
    due = loading.load_dit(path, CPU, dtype, loras=loras, unpacked=True)
    plain = answer(loading.load_dit(path, CPU, dtype), dtype)
    network = loading.load_dit(path, CPU, dtype, loras=loras)
    assert len(packed_in(network)) == 24 and not torch.equal(answer(network, dtype), plain)
    assert torch.equal(answer(network, dtype), answer(due, dtype))
    assert torch.equal(answer(loading.load_dit(path, CPU, dtype, True, loras=loras), dtype), answer(due, dtype))


def test_whole_differences_are_merged_while_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "DIT", replace(loading.DIT, presets={"Tiny": (CONFIG, lambda key: key)}))
    path = file_of(tmp_path, bare(), "Q4_0")
    more = {"transformer.blocks.0.attn1.to_q.diff": torch.full((256, 256), 0.01),
            "transformer.blocks.1.ffn.net.2.diff_b": torch.full((256,), 0.1)}  # fmt: skip
    added = lora(tmp_path / "one.safetensors", more=more)
    network = loading.load_dit(path, CPU, torch.bfloat16, loras=[added])
    assert len(packed_in(network)) == 23 and isinstance(network.get_submodule("blocks.0.attn1.to_q"), nn.Linear)
    due = loading.load_dit(path, CPU, torch.bfloat16, loras=[added], unpacked=True)
    assert torch.equal(answer(network, torch.bfloat16), answer(due, torch.bfloat16))


# ---- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_none_are_found_while_loading(tmp_path: Path, kind: str) -> None:
    path = file_of(tmp_path, bare(), kind)
    where = survey(bare(), [path])["blocks.1.attn2.to_k.weight"]
    bad = bytearray(path.read_bytes())
    at = where.start + (17 if kind in headers.EIGHT_BITS else 3 * headers.PACKED[kind][1] + blocks.SCALES[kind][-1])
    bad[at : at + 2] = b"\x7f\x7f" if kind in headers.EIGHT_BITS else b"\x00\x7e"
    path.write_bytes(bad)
    for disk in (False, True):
        with pytest.raises(Failed, match=r"attn2.to_k.weight holds NaN or infinity"):
            answer(loaded(path, torch.bfloat16, disk=disk), torch.bfloat16)


def test_numbers_that_float16_does_not_hold_are_named(tmp_path: Path) -> None:
    path = file_of(tmp_path, bare(), "Q8_0")
    where = survey(bare(), [path])["blocks.0.ffn.net.2.weight"]
    bad = bytearray(path.read_bytes())
    bad[where.start : where.start + 2] = np.float16(60000).tobytes()
    path.write_bytes(bad)
    with pytest.raises(Failed, match=r"too large for torch.float16; try bfloat16"):
        loaded(path, torch.float16)
    loaded(path, torch.bfloat16)


def test_scales_beyond_all_numbers_are_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, bare(), "F8_E4M3")
    there = load_file(path)
    there["blocks.0.ffn.net.2.scale_weight"] = torch.tensor(3e38)
    save_file(there, path)
    with pytest.raises(Failed, match=r"ffn.net.2.weight holds NaN or infinity"):
        loaded(path, torch.bfloat16)


def test_rows_that_are_no_whole_blocks_are_unpacked(tmp_path: Path) -> None:
    """A table of 24 columns in blocks of 32, as files hold that were reshaped."""
    write(tmp_path / "a.gguf", [Random("weight", (4, 96), "Q4_0")])
    (stored,) = published.about(tmp_path / "a.gguf")[1]
    network = nn.ModuleDict({"a": nn.Linear(24, 16, bias=False, device="meta")})
    places = pack(network, {"a.weight": replace(stored, shape=(16, 24))}, torch.float32)
    assert isinstance(network["a"], nn.Linear)
    put(network, places, torch.float32, CPU)
    assert network["a"].weight.shape == (16, 24)
    with pytest.raises(SoraError, match="not a Wan transformer known"):
        loading.load_dit(tmp_path / "a.gguf", CPU, torch.float32)


# ---- predicted ----------------------------------------------------------------------------------------------


def test_predictions_count_what_stays_packed(tmp_path: Path) -> None:
    """Q4 of the 14B fits into 14 GB where bfloat16 takes 29, and the unpacked matrix is counted."""
    from packed import Case, needs_of, predicted

    with torch.device("meta"):
        network = Case("a14b", "Q4_0").build()
    tensors = of_network(network, {name: name for name, _ in network.named_parameters()}, "Q4_0")
    listed = [headers.Stored(tmp_path, one.name, one.kind, one.shape, 0) for one in tensors]
    told = of_tensors(listed)
    assert told and told.whole.at(2) == pytest.approx(14.29e9 * 4.5 / 8, rel=0.02)
    path = file_of(tmp_path, Case("tiny", "Q4_0").build(), "Q4_0")
    case = Case("tiny", "Q4_0")
    small, large = needs_of(case, path), needs_of(replace(case, unpacked=True), path)
    assert small.dit < 0.5 * large.dit and small.dit_ahead() < 0.5 * large.dit_ahead()
    assert small.denoising(True) > large.denoising(True)
    assert predicted(case, path, CPU)["device"] == memory.peaks(
        memory.Placement("cpu", "resident", "float32", 0, 0, keep=False), small, memory.Free("cpu", 1e12, 1e12)
    )["denoising"]  # fmt: skip
    assert isinstance(loaded(path, torch.bfloat16, WanConfig(16, 16, 2, 128, 3, 512, 256, 256, 1e-6, False))
                      .get_submodule("blocks.2.ffn.net.2"), PackedLinear)  # fmt: skip


def hollow(path: Path, kind: str) -> Path:
    """A file of the real 1.3B, all of it but its numbers."""
    with torch.device("meta"):
        network = WanDit(presets.DITS["Wan 2.1 T2V 1.3B"])
    named = {name: names.DIT.ours_to_original(name) for name, _ in network.named_parameters()}
    listed = of_network(network, named, kind)
    with path.open("wb") as file:
        starts = gguf_header(file, listed, "wan")
        file.truncate(starts[-1] + listed[-1].bytes)
    return path


@pytest.mark.parametrize(("kind", "bits"), [("Q4_K", 4.5), ("Q8_0", 8.5), ("Q6_K", 6.5625), ("F16", 0)])
def test_a_file_is_counted_as_it_stays(tmp_path: Path, kind: str, bits: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the real size, by its header alone; LoRAs lie beside what is packed, and are merged into what is not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entry = registry.entry(str(hollow(tmp_path / "wan.gguf", kind)))
    style = Lora(str(tmp_path / "style.safetensors"), 0.5)
    save_file({"a": torch.zeros(1_000_000)}, style.path)
    found = {}
    for loras in ((), (style,), (style, style), (replace(style, strength=0.0),)):
        found[loras] = needs_of(entry, entry.canvas(832, 480), 21, 21, 2, loras=loras)
    plain, numbers = found[()], presets_weights()
    assert plain.dit == pytest.approx(numbers * (bits or 16) / 8, rel=0.03)
    assert 2 / 30 * plain.dit < plain.dit_ahead() < 0.11 * plain.dit and plain.text > 11e9
    for loras, needs in found.items():
        added = 4e6 * sum(one.strength != 0 for one in loras) if bits else 0
        assert needs.dit - plain.dit == pytest.approx(added, rel=0.01)


def presets_weights() -> int:
    network = registry.entry("wan2.1-1.3b").network
    assert network
    return blocks_of(network.dit).weights


def test_files_that_are_damaged_count_as_unpacked(tmp_path: Path) -> None:
    path = hollow(tmp_path / "wan.gguf", "Q4_0")
    entry = registry.entry(str(path))
    os.truncate(path, 100)
    assert held(entry) == {} and held(registry.entry("wan2.1-1.3b")) == {}


@pytest.mark.parametrize(("name", "packed"), [
    ("Wan2.2-T2V-A14B-HighNoise-Q4_K_M.gguf", True), ("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", True),
    ("umt5-xxl-encoder-Q8_0.gguf", True), ("wan2.2_t2v_high_noise_14B_fp16.safetensors", False),
    ("Wan2.2-T2V-A14B-LowNoise-F16.gguf", False), ("wan-BF16.gguf", False),
])  # fmt: skip
def test_what_is_yet_to_be_fetched_is_packed_if_it_is_named_so(name: str, packed: bool) -> None:
    entry = registry.entry("wan2.2-a14b")
    parts = tuple(replace(part, names=(name,), bytes=9_650_000_000) if part.role.startswith("dit") else part
                  for part in entry.parts)  # fmt: skip
    found = held(replace(entry, parts=parts)).get("dit")
    assert bool(found) == packed
    if found:
        assert entry.network and found.whole.packed == 9_650_000_000
        total = entry.network.dit.layers * found.block.packed + found.around.packed
        assert total == pytest.approx(found.whole.packed)
