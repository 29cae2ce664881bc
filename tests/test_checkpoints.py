"""Checkpoints as diffusers and transformers write them, read into networks; and all the ways they can be wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from wan_cases import VAE21, WAN, dit_inputs
from wan_cases import fill as fill_randomly

from sora_cli.errors import Failed, SoraError
from sora_cli.files import published, weights
from sora_cli.files.published import Rename, files_of, put, read_config, survey
from sora_cli.models.wan.configs import WanConfig, WanVaeConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.vae import WanVae

CPU = torch.device("cpu")
NAME = "diffusion_pytorch_model"


def tiny() -> nn.Module:
    """Two tensors, of which one is a table."""
    return nn.ModuleDict({"a": nn.Linear(3, 2, bias=False), "b": nn.Embedding(5, 2)})


def fill(network: nn.Module, files: list[Path], dtype: torch.dtype, rename: Rename | None = None, **more: Any) -> None:
    put(network, survey(network, files, rename), dtype, CPU, **more)


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def write_shards(folder: Path, tensors: dict[str, Tensor], count: int, name: str = NAME) -> list[Path]:
    """A checkpoint in `count` shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{name}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    groups = {shard: dict(list(tensors.items())[i::count]) for i, shard in enumerate(names)}
    for shard, group in groups.items():
        save_file(group, folder / shard, {"format": "pt"})
    places = {key: shard for shard, group in groups.items() for key in group}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index))
    return [folder / shard for shard in names]


@pytest.mark.parametrize("shards", [1, 3])
@torch.no_grad()
def test_a_checkpoint_in_shards_is_the_network(tmp_path: Path, shards: int) -> None:
    x, t, words = dit_inputs().values()
    build = lambda: WanDit(WanConfig.from_hub(WAN))
    network = fill_randomly(build())
    write_shards(tmp_path, state(network), shards)
    found, told = on_meta(build), []
    fill(found, files_of(tmp_path), torch.float32, progress=lambda *so_far: told.append(so_far))
    assert torch.equal(found(x, t, words), network(x, t, words))
    assert told[-1] == (told[-1][1], sum(value.nbytes for value in network.parameters()))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert not any(value.is_meta or value.requires_grad for value in found.parameters())


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_are_cast_as_torch_casts_them(
    tmp_path: Path, stored: torch.dtype, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "PIECE", 3)  # numbers at a time, so that tensors come in pieces
    tensors = {name: value.to(stored) for name, value in state(tiny()).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    found = on_meta(tiny)
    fill(found, files_of(tmp_path), dtype, keep=lambda name: name.startswith("b"))
    assert torch.equal(found["a"].weight, tensors["a.weight"].to(dtype))
    assert found["b"].weight.dtype == torch.float32 and torch.equal(found["b"].weight, tensors["b.weight"].float())


def test_keys_can_be_renamed_and_ignored(tmp_path: Path) -> None:
    tensors = {f"x.{name}": value for name, value in state(tiny()).items()}
    save_file(tensors | {"note": torch.zeros(3, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    found = on_meta(tiny)
    fill(found, files_of(tmp_path), torch.float32, rename=lambda key: key[2:] if key.startswith("x.") else None)
    assert torch.equal(found["a"].weight, tensors["x.a.weight"])


def test_one_row_of_a_table_is_read_alone(tmp_path: Path) -> None:
    tensors = state(tiny())
    save_file(tensors, tmp_path / "model.safetensors")
    where = published.survey(on_meta(tiny), files_of(tmp_path))["b.weight"]
    assert torch.equal(published.read(where.row(4), torch.float32, CPU), tensors["b.weight"][4])


# -- Which files ------------------------------------------------------------------------------------------


def hub_cache(root: Path, tensors: dict[str, Tensor]) -> Path:
    """A checkpoint as the Hugging Face cache keeps it: links to blobs."""
    blobs, part = root / "models--a--b" / "blobs", root / "models--a--b" / "snapshots" / "0f3" / "vae"
    blobs.mkdir(parents=True)
    write_shards(part, tensors, 2)
    (part / "config.json").write_text("{}")
    for number, path in enumerate(sorted(part.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("../../../blobs") / str(number))
    return part


def test_the_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    part, found = hub_cache(tmp_path, state(tiny())), on_meta(tiny)
    fill(found, files_of(part), torch.float32)
    assert read_config(part) == {} and found["a"].weight.isfinite().all()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", f"{NAME}.safetensors.index.json"])
def test_links_out_of_the_checkpoint_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").write_text('{"weight_map": {"a": "x.safetensors"}}')
    part = tmp_path / "part"
    part.mkdir()
    (part / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SoraError, match="leads out"):
        read_config(part) if name == "config.json" else files_of(part)


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", ".safetensors", "x.bin"])
def test_an_index_names_plain_files_only(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.safetensors").touch()
    part = tmp_path / "part"
    part.mkdir()
    (part / f"{NAME}.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(Failed, match="not a plain"):
        files_of(part)


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).write_text("{}")
    return root


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["model.bin", "config.json"], "pickles.*model.bin"),
        (["model.pt", "a.ckpt", "b.pth", "c.pkl"], "pickles.*and 1 more"),
        (["config.json"], "no .safetensors file"),
        (["a.safetensors", "b.safetensors"], "several"),
        (["a-00001-of-00002.safetensors"], "index"),
        (["a.safetensors.index.json", "b.safetensors.index.json"], "several"),
        (["a.safetensors.index.json"], "weight_map"),
    ],
)
def test_folders_that_hold_no_part_are_refused(tmp_path: Path, names: list[str], wrong: str) -> None:
    with pytest.raises(SoraError, match=wrong):
        files_of(folder(tmp_path, *names))


def test_a_single_file_is_a_part(tmp_path: Path) -> None:
    assert files_of(folder(tmp_path, "a.safetensors") / "a.safetensors") == [tmp_path / "a.safetensors"]
    with pytest.raises(SoraError, match="runs code"):
        files_of(folder(tmp_path, "a.pth") / "a.pth")
    with pytest.raises(SoraError, match="there is no"):
        files_of(tmp_path / "nowhere")


def test_a_checkpoint_is_told_by_what_is_loaded(tmp_path: Path) -> None:
    fingerprint = lambda: weights.fingerprint(published.loaded(tmp_path))
    write_shards(tmp_path, state(tiny()), 2)
    (tmp_path / "config.json").write_text("{}")
    before = fingerprint()
    for name in (".DS_Store", "README.md", f"{NAME}.fp16.safetensors", f"{NAME}.bin"):
        (tmp_path / name).write_bytes(b"beside it")
        assert fingerprint() == before
    (tmp_path / "config.json").write_text("{ }")
    configured = fingerprint()
    write_shards(tmp_path, {name: value + 1 for name, value in state(tiny()).items()}, 2)
    assert len({before, configured, fingerprint()}) == 3


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, state(tiny()), 2)[1].unlink()
    with pytest.raises(Failed, match="00002-of-00002"):
        files_of(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000, '"a"', b"\xff"])
def test_a_damaged_configuration_is_refused(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(Failed, match=r"config\.json"):
        read_config(tmp_path)


def test_an_endless_configuration_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(published.MOST_JSON_BYTES + 1)
    with pytest.raises(Failed, match="larger than"):
        read_config(tmp_path)
    with pytest.raises(SoraError, match=r"no config\.json"):
        read_config(tmp_path / "nowhere")


# -- Whether they fit -------------------------------------------------------------------------------------


def refusal(tmp_path: Path, tensors: dict[str, Tensor], more: dict[str, Tensor] | None = None) -> str:
    """What is said of these tensors when the tiny network is filled; nothing of it may be loaded."""
    save_file(tensors, tmp_path / "one.safetensors")
    save_file(more or {}, tmp_path / "two.safetensors")
    network, files = on_meta(tiny), [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    with pytest.raises(SoraError) as caught:
        fill(network, files[: 1 + bool(more)], torch.float32)
    assert all(value.is_meta for value in network.parameters())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    right = state(tiny())
    a, b = right["a.weight"], right["b.weight"]
    assert "lacks b.weight" in refusal(tmp_path, {"a.weight": a})
    strange = refusal(tmp_path, right | {f"c.{i}": a.clone() for i in range(5)})
    assert "one.safetensors" in strange and "c.0, c.1, c.2 and 2 more" in strange
    assert "two.safetensors" in (twice := refusal(tmp_path, right, {"b.weight": b})) and "b.weight" in twice
    assert "a.weight is 3x2, but the network needs 2x3" in refusal(tmp_path, right | {"a.weight": a.T.contiguous()})
    assert "a.weight is in I64" in refusal(tmp_path, right | {"a.weight": a.long()})
    assert "int8 and packed weights are not supported" in refusal(tmp_path, right | {"a.weight": a.to(torch.int8)})
    assert "\\n" in refusal(tmp_path, right | {"evil\n\x1b[31m": a.clone()})


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("worst", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 9])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, worst: float, place: int, kind: torch.dtype) -> None:
    tensors = {name: value.to(kind) for name, value in state(tiny()).items()}
    tensors["b.weight"].view(-1)[place] = worst
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(Failed, match=r"b\.weight holds NaN or infinity"):
        fill(on_meta(tiny), files_of(tmp_path), torch.bfloat16)


@pytest.mark.parametrize("width", [1, 7, 33, 1000])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_one_bad_number_is_found_wherever_it_is(width: int, kind: torch.dtype) -> None:
    assert published.finite(torch.randn(width).to(kind)) and published.finite(torch.zeros(0, dtype=kind))
    for place in range(width):
        x = torch.zeros(width, dtype=kind)
        x[place] = (float("nan"), float("inf"), -float("inf"))[place % 3]
        assert not published.finite(x), place


def test_numbers_too_large_for_the_type_are_refused(tmp_path: Path) -> None:
    tensors = state(tiny())
    tensors["b.weight"][0, 0] = 1e5
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(Failed, match=r"too large for torch\.float16; try bfloat16"):
        fill(on_meta(tiny), files_of(tmp_path), torch.float16)


# -- Headers of strangers ---------------------------------------------------------------------------------


def raw(header: str | bytes, numbers: int = 0) -> bytes:
    header = header.encode() if isinstance(header, str) else header
    return len(header).to_bytes(8, "little") + header + bytes(numbers)


def spelled(**changes: Any) -> str:
    return json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes})


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "truncated"),
        (b"\xff" * 8, "truncated"),
        (raw(spelled(), 24)[:-1], "describes"),
        (raw(spelled(), 25), "describes"),
        (raw("[]"), "not a JSON object"),
        (raw("{"), "not JSON"),
        (raw("[" * 100_000), "not JSON"),
        (raw(b"\xff"), "not JSON"),
        (raw('{"a": 1}'), "not a tensor"),
        (raw(spelled(shape=[2, -3]), 24), "not a tensor"),
        (raw(spelled(shape=[2, True]), 24), "not a tensor"),
        (raw(spelled(shape=[2**60]), 24), "not a tensor"),
        (raw(spelled(shape=[1] * 9), 4), "not a tensor"),
        (raw(spelled(shape=[2, 4]), 24), "24 bytes instead of 32"),
        (raw(spelled(dtype="C64"), 24), "unknown type"),
        (raw(spelled(data_offsets=[8, 32]), 32), "begins at"),
        (raw(spelled()[:-1] + ', "b": {"dtype": "F32", "shape": [1], "data_offsets": [20, 24]}}', 24), "begins at"),
        (raw(spelled()[:-1] + ", " + spelled()[1:], 24), "twice"),
        (raw(spelled().encode("utf-16"), 24), "not JSON"),
        (raw(spelled()[:-1] + ', "__metadata__": {"base_model": ["x"]}}', 24), "metadata is not texts"),
        (raw(spelled()[:-1] + ', "__metadata__": {"lora_alpha": 8}}', 24), "metadata is not texts"),
        (raw(spelled()[:-1] + ', "__metadata__": ["x"]}', 24), "metadata is not texts"),
    ],
)  # fmt: skip
def test_false_headers_are_refused(tmp_path: Path, content: bytes, wrong: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(Failed, match=wrong) as caught:
        published.about(path)
    assert str(path) in str(caught.value)
    path.write_bytes(raw(spelled(), 24))
    assert [stored.shape for stored in published.about(path)[1]] == [(2, 3)]


def test_an_endless_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((2**33).to_bytes(8, "little"))
        file.truncate(2**33 + 8)  # sparse
    with pytest.raises(Failed, match="at most"):
        published.about(path)


def test_a_file_that_shrinks_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    save_file(state(tiny()), tmp_path / "model.safetensors")
    network, files = on_meta(tiny), files_of(tmp_path)
    places = published.survey(network, files)
    os.truncate(files[0], files[0].stat().st_size - 4)
    with pytest.raises(Failed, match="truncated in"):
        published.put(network, places, torch.float32, CPU)


# -- Memory -----------------------------------------------------------------------------------------------

PEAK = """
import sys
from pathlib import Path
import torch
from torch import nn
from sora_cli.files.published import files_of, put, survey

def status(word):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(word))

layers, width, place = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
with torch.device("meta"):
    network = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
torch.ones(2).bfloat16().isfinite().all()  # what torch sets up on first use is not the checkpoint's
before = status("VmRSS")
put(network, survey(network, files_of(place)), torch.bfloat16, torch.device("cpu"))
print(status("VmHWM") - before, sum(value.nbytes for value in network.parameters()))
"""


def peak(place: Path, layers: int, width: int, shards: int) -> tuple[int, int]:
    """How far memory rose while a float32 checkpoint of zeros was cast to bfloat16, and what that network takes."""
    names = [f"{i}.weight" for i in range(layers)]
    each, places = 4 * width * width, {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        mine = names[shard::shards]
        shape = {"dtype": "F32", "shape": [width, width]}
        header = {key: shape | {"data_offsets": [i * each, (i + 1) * each]} for i, key in enumerate(mine)}
        with (place / name).open("wb") as file:
            file.write(raw(json.dumps(header)))
            file.truncate(file.tell() + each * len(mine))  # sparse: the disk holds nothing
        places |= dict.fromkeys(mine, name)
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    words = [sys.executable, "-c", PEAK, str(layers), str(width), str(place)]
    rise, size = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return int(rise), int(size)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells the peak on Linux only")
def test_loading_costs_the_cast_network_and_a_piece(tmp_path: Path) -> None:
    rise, size = peak(tmp_path, layers=14, width=2048, shards=2)
    assert size == 14 * 2048**2 * 2
    assert rise < size + 60_000_000, f"{rise / 1e6:.0f} MB for {size / 1e6:.0f} MB"


@torch.no_grad()
def test_this_test_can_fail(tmp_path: Path) -> None:
    """The autoencoder's numbers are really those of the file."""
    build = lambda: WanVae(WanVaeConfig.from_hub(VAE21))
    right, other, found = fill_randomly(build(), seed=1), fill_randomly(build(), seed=2), on_meta(build)
    save_file(state(right), tmp_path / "a.safetensors")
    fill(found, files_of(tmp_path), torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), right.parameters(), strict=True))
    assert not torch.equal(found.quant_conv.weight, other.quant_conv.weight)
