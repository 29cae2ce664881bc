"""Weights of 8 bits and fewer, in the layouts of ComfyUI and of GGUF: to the bit what their authors' own code reads."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sora_cli.errors import Failed, SoraError
from sora_cli.files import gguf_header, headers, published

CPU = torch.device("cpu")
E4, E5 = torch.float8_e4m3fn, torch.float8_e5m2
PREFIX = "model.diffusion_model."
NEW = {"float8_e4m3fn": E4, "float8_e5m2": E5}


def network(rows: int = 6, columns: int = 512) -> nn.Module:
    with torch.device("meta"):
        return nn.ModuleDict({"a": nn.Linear(columns, rows), "b": nn.Linear(columns, rows)})


def weights(rows: int = 6, columns: int = 512) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in network(rows, columns).state_dict().items()}
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def eight(value: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """As ComfyUI's tools make it: the largest number becomes the largest of the type."""
    scale = value.abs().max() / torch.finfo(kind).max
    return (value / scale).to(kind), scale


def old(kind: torch.dtype) -> dict[str, Tensor]:
    there = weights()
    quantised = {name: eight(there[name], kind) for name in ("a.weight", "b.weight")}
    scales = {name.replace("weight", "scale_weight"): scale for name, (_, scale) in quantised.items()}
    return there | {name: value for name, (value, _) in quantised.items()} | scales | {
        "scaled_fp8": torch.empty(2, dtype=kind), "a.scale_input": torch.tensor(0.5),
    }  # fmt: skip


def new(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """With one layer that is not quantised."""
    there = weights()
    value, scale = eight(there["a.weight"], NEW[name])
    told = {"format_version": "1.0", "layers": {"a": {"format": name}}}
    there |= {"a.weight": value, "a.weight_scale": scale, "a.input_scale": torch.tensor(0.5)}
    return there, {"_quantization_metadata": json.dumps(told)}


def read(path: Path, dtype: torch.dtype, rename: published.Rename | None = None) -> dict[str, Tensor]:
    made = network()
    published.put(made, published.survey(made, [path], rename), dtype, CPU)
    return made.state_dict()


def due(there: dict[str, Tensor], name: str, scale: str, dtype: torch.dtype) -> Tensor:
    factor = there.get(f"{name.partition('.')[0]}.{scale}", torch.tensor(1.0)) if name.endswith("weight") else 1
    return (there[name].float() * factor).to(dtype)


# ---- fp8_scaled ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [E4, E5])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_the_older_layout(tmp_path: Path, kind: torch.dtype, prefix: str, dtype: torch.dtype,
                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(published, "PIECE", 1000)  # numbers at a time: pieces that end inside a row
    there = old(kind)
    save_file({prefix + name: value for name, value in there.items()}, tmp_path / "a.safetensors")
    found = read(tmp_path / "a.safetensors", dtype, lambda key: key.removeprefix(PREFIX))
    assert set(found) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    for name, value in found.items():
        assert torch.equal(value, due(there, name, "scale_weight", dtype)), name
    assert (found["a.weight"].float() - weights()["a.weight"]).abs().max() < 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NEW)
def test_the_newer_layout(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    there, told = new(name)
    save_file(there, tmp_path / "a.safetensors", told)
    found = read(tmp_path / "a.safetensors", dtype)
    assert all(torch.equal(value, due(there, key, "weight_scale", dtype)) for key, value in found.items())


def test_formats_beside_the_layers_and_bytes_that_hold_floats(tmp_path: Path) -> None:
    there, _ = new("float8_e4m3fn")
    config = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    stored = there | {"a.weight": there["a.weight"].view(torch.uint8), "a.comfy_quant": config}
    save_file(stored, tmp_path / "a.safetensors")
    found = read(tmp_path / "a.safetensors", torch.float32)
    assert torch.equal(found["a.weight"], due(there, "a.weight", "weight_scale", torch.float32))


def test_without_a_scale_a_number_is_itself(tmp_path: Path) -> None:
    there = weights() | {"a.weight": weights()["a.weight"].to(E4)}
    save_file(there, tmp_path / "a.safetensors")
    assert torch.equal(read(tmp_path / "a.safetensors", torch.float32)["a.weight"], there["a.weight"].float())


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_a_scale_for_each_row(tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "PIECE", 700)
    scale = torch.linspace(0.1, 2, 6)
    there = weights() | {"a.weight": weights()["a.weight"].to(E4), "a.scale_weight": scale.view(shape)}
    save_file(there, tmp_path / "a.safetensors")
    found = read(tmp_path / "a.safetensors", torch.float32)["a.weight"]
    assert torch.equal(found, there["a.weight"].float() * scale[:, None])
    stored = published.survey(network(), [tmp_path / "a.safetensors"])["a.weight"]
    assert torch.equal(published.read(stored.row(4), torch.float32, CPU), found[4])


def test_scales_are_found_in_another_shard(tmp_path: Path) -> None:
    there = old(E4)
    scales = {key: there.pop(key) for key in list(there) if "scale_weight" in key}
    save_file(there, tmp_path / "a.safetensors")
    save_file(scales, tmp_path / "b.safetensors")
    made = network()
    where = published.survey(made, [tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    published.put(made, where, torch.float32, CPU)
    assert torch.equal(made.state_dict()["b.weight"], due(there | scales, "b.weight", "scale_weight", torch.float32))


def layers(form: str) -> dict[str, str]:
    return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": {"a": {"format": form}}})}


@pytest.mark.parametrize(
    ("change", "told", "wrong"),
    [
        ({}, layers("nvfp4"), r"quantised as nvfp4 \(a\), which is not supported; supported formats: float8_e4m3fn"),
        ({}, layers("mxfp8"), "quantised as mxfp8"),
        ({}, layers("int8_tensorwise"), "quantised as int8_tensorwise"),
        ({}, layers("convrot_w4a4"), "quantised as convrot_w4a4"),
        ({"a.comfy_quant": torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)}, None, "quantised as nvfp4"),
        ({"a.weight": torch.ones(6, 512, dtype=torch.int8), "a.weight_scale": torch.tensor(1.0)}, None, "in I8: int8"),
        ({"a.weight": torch.ones(6, 256, dtype=torch.uint8), "a.weight_scale_2": torch.tensor(1.0)}, None, "nvfp4"),
        ({"a.weight_scale": torch.ones(6, 16, dtype=torch.uint8)}, None, "quantised as mxfp8 or similar"),
        ({"a.weight_scale": torch.ones(6, 4)}, None, "6x4 for 6x512: block scales are not supported"),
        ({"a.weight.absmax": torch.ones(48)}, None, "bitsandbytes"),
        ({"a.weight_scale_inv": torch.ones(1, 4)}, None, "fp8 in blocks"),
        ({"c.weight_scale": torch.tensor(1.0)}, None, "for a different network, which also has c.weight_scale"),
        ({"a.weight_scale": torch.tensor(torch.nan)}, None, "a.weight_scale holds NaN"),
    ],
)
def test_other_quantisations_are_named(tmp_path: Path, change: Any, told: Any, wrong: str) -> None:
    there = weights() | {"a.weight": weights()["a.weight"].to(E4)} | change
    save_file(there, tmp_path / "a.safetensors", told)
    with pytest.raises(SoraError, match=wrong) as refused:
        read(tmp_path / "a.safetensors", torch.float32)
    assert "\n" not in str(refused.value)


def test_numbers_that_are_none_and_that_grow_too_large_are_named(tmp_path: Path) -> None:
    bad = weights()["a.weight"].to(E4)
    bad.view(torch.uint8)[3, 5] = 0x7F
    save_file(weights() | {"a.weight": bad}, tmp_path / "a.safetensors")
    with pytest.raises(Failed, match="NaN"):
        read(tmp_path / "a.safetensors", torch.float32)
    large = {"a.weight": torch.full((6, 512), 400.0).to(E4), "a.scale_weight": torch.tensor(1000.0)}
    save_file(weights() | large, tmp_path / "a.safetensors")
    with pytest.raises(Failed, match=r"too large for torch.float16; try bfloat16"):
        read(tmp_path / "a.safetensors", torch.float16)


# ---- GGUF ---------------------------------------------------------------------------------------------------

PACKED = tuple(headers.PACKED)


def packed_file(path: Path, kinds: dict[str, str], told: Callable[[Any], None] = lambda writer: None) -> dict[str, Any]:
    """A file as city96's tools write it; what is in it, unpacked by the library."""
    gguf = pytest.importorskip("gguf")
    writer, there = gguf.GGUFWriter(path, "wan"), {}
    told(writer)
    for name, value in weights().items():
        kind = gguf.GGMLQuantizationType[kinds.get(name, "F32")]
        raw = raw_blocks(gguf, value.numpy(), kind)
        there[name] = gguf.quants.dequantize(raw, kind)
        shape = None if kind.name in ("F32", "F16") else raw.shape
        writer.add_tensor(name, raw, raw_shape=shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return there


def raw_blocks(gguf: Any, value: np.ndarray, kind: Any) -> np.ndarray:
    """Packed numbers; random ones, with sane scales, where the library only unpacks."""
    try:
        return gguf.quants.quantize(value, kind)
    except NotImplementedError:
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        raw = np.random.default_rng(0).integers(0, 256, (*value.shape[:-1], value.shape[-1] // numbers, size), np.uint8)
        scales = {"Q6_K": [208], "Q5_K": [0, 2], "Q4_K": [0, 2], "Q3_K": [108], "Q2_K": [80, 82]}
        for at in scales.get(kind.name, [0]):
            raw[..., at : at + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
        return raw.reshape(*value.shape[:-1], -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [*PACKED, "F16", "BF16"])
def test_packed_numbers_are_the_librarys(tmp_path: Path, kind: str, dtype: torch.dtype,
                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(published, "PIECE", 1000)
    there = packed_file(tmp_path / "a.gguf", {"a.weight": kind, "b.weight": "Q8_0"})
    found = read(tmp_path / "a.gguf", dtype)
    for name, value in found.items():
        assert value.shape == weights()[name].shape
        assert torch.equal(value, torch.from_numpy(np.array(there[name], np.float32)).to(dtype)), name
    assert (found["b.weight"].float() - weights()["b.weight"]).abs().max() < 0.1
    stored = published.survey(network(), [tmp_path / "a.gguf"])["a.weight"]
    assert torch.equal(published.read(stored.row(2), dtype, CPU), found["a.weight"][2])


def test_the_header_is_what_the_library_reads(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")

    def told(writer: Any) -> None:
        writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(40)])
        writer.add_array("tokenizer.ggml.scores", [0.5] * 40)
        writer.add_bool("tokenizer.ggml.add_space_prefix", True)
        writer.add_custom_alignment(64)

    packed_file(tmp_path / "a.gguf", {"a.weight": "Q6_K"}, told)
    about, listed = gguf_header.contents(tmp_path / "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert about["general.architecture"] == "wan" and about["general.alignment"] == 64
    assert [(one.name, one.tensor_type.name, int(one.data_offset), int(one.n_bytes)) for one in reader.tensors] == [
        (stored.key, stored.dtype, stored.start, stored.bytes) for stored in listed
    ]
    assert {kind.name: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items() if kind.name in headers.PACKED} == (
        headers.PACKED
    )
    names = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    assert all(names[number] == name for number, name in (gguf_header.DTYPES | gguf_header.REFUSED).items())


def test_shapes_of_five_sides_and_shapes_from_before(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "wan")
    five = np.random.default_rng(0).standard_normal((3, 4, 1, 2, 2)).astype(np.float32)
    writer.add_tensor("patch_embedding.weight", five)
    writer.add_array("comfy.gguf.orig_shape.b", [3, 4, 1, 1])
    writer.add_tensor("b", np.arange(12, dtype=np.float32))
    for name, no_shape in (("c", [-3, -4]), ("d", [3.0, 4.0])):
        writer.add_array(f"comfy.gguf.orig_shape.{name}", no_shape)
        writer.add_tensor(name, np.arange(12, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first, second, *others = published.about(tmp_path / "a.gguf")[1]
    assert [one.shape for one in others] == [(12,), (12,)]
    assert np.array_equal(published.read(first, torch.float32, CPU).numpy(), five)
    assert second.shape == (3, 4, 1, 1)
    assert published.read(second, torch.float32, CPU).flatten().tolist() == [*range(12)]


def test_the_library_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = packed_file(tmp_path / "a.gguf", {"a.weight": "Q8_0"})
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert np.array_equal(read(tmp_path / "a.gguf", torch.float32)["a.weight"], there["a.weight"])


def test_damaged_files_are_named(tmp_path: Path) -> None:
    """Cut anywhere, or with any of its first bytes changed: an error in one line, or the same tensors."""
    packed_file(tmp_path / "a.gguf", {"a.weight": "Q8_0"})
    whole, bad = (tmp_path / "a.gguf").read_bytes(), tmp_path / "b.gguf"
    for length in (0, 3, 10, 30, 100, 300, len(whole) // 2):
        bad.write_bytes(whole[:length])
        with pytest.raises(Failed, match=r"damaged|truncated"):
            published.about(bad)
    for at in range(200):
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            published.about(bad)
        except (Failed, SoraError) as error:
            assert "\n" not in str(error)


def test_types_that_are_not_unpacked_are_named(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "wan")
    writer.add_tensor("a.weight", np.zeros((6, 110 * 2), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ3_S)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SoraError, match=r"packed as IQ3_S \(a.weight\), which is not supported; supported types: Q4_0"):
        published.about(tmp_path / "a.gguf")
