"""Parts of published models: from folders as diffusers writes them, and from single files with the authors' names."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import wan_folders
from safetensors.torch import save_file
from torch import Tensor, nn
from wan_cases import SKYREELS, UMT5, VAE21, VAE22, WAN, clip, distance, dit_inputs, fill, latents, tokens

from sora_cli.errors import SoraError
from sora_cli.files import published
from sora_cli.models.wan import names
from sora_cli.models.wan.configs import Umt5Config, WanConfig, WanVaeConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.text import Umt5, Umt5Tokenizer
from sora_cli.models.wan.vae import WanVae
from sora_cli.pipelines import loading, presets
from sora_cli.pipelines.loading import load_dit, load_text, load_vae

CPU = torch.device("cpu")
CHECKPOINTS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "wan_keys.json").read_text())
FLOAT, HALF = torch.float32, torch.bfloat16


def dit(config: dict[str, Any]) -> WanDit:
    return fill(WanDit(WanConfig.from_hub(config)))  # type: ignore[return-value]


def vae(config: dict[str, Any]) -> WanVae:
    return fill(WanVae(WanVaeConfig.from_hub(config)))  # type: ignore[return-value]


def text() -> Umt5:
    return fill(Umt5(Umt5Config.from_hub(UMT5)))  # type: ignore[return-value]


def folder(place: Path, network: nn.Module, config: dict[str, Any]) -> Path:
    """A part as diffusers writes it, in one file."""
    place.mkdir(exist_ok=True)
    save_file(weights(network), place / "diffusion_pytorch_model.safetensors")
    (place / "config.json").write_text(json.dumps(config | {"_class_name": "Wan", "_diffusers_version": "0.42.1"}))
    return place


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def only(monkeypatch: pytest.MonkeyPatch, kind: str, config: Any, rename: Callable[[str], str | None]) -> None:
    """Know one network, a tiny one."""
    monkeypatch.setattr(loading, kind, replace(getattr(loading, kind), presets={"Tiny": (config, rename)}))


# -- Folders ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("config", [WAN, SKYREELS])
def test_a_transformer_answers_as_it_was_saved(tmp_path: Path, config: dict[str, Any], streamed: bool) -> None:
    x, t, words = dit_inputs().values()
    network = dit(config)
    found = load_dit(folder(tmp_path, network, config), CPU, FLOAT, streamed)
    assert torch.equal(found(x, t, words, 24), network(x, t, words, 24))
    assert not found.training and not any(value.requires_grad for value in found.parameters())


@torch.no_grad()
@pytest.mark.parametrize("config", [WAN, SKYREELS])
def test_in_half_precision_the_delicate_parts_are_not(tmp_path: Path, config: dict[str, Any]) -> None:
    x, t, words = dit_inputs().values()
    network = dit(config)
    found = load_dit(folder(tmp_path, network, config), CPU, HALF)
    whole = {name for name, value in found.named_parameters() if value.dtype == FLOAT}
    assert {name.removeprefix("blocks.0.").removeprefix("blocks.1.") for name in whole} == {
        "scale_shift_table", "norm2.weight", "norm2.bias",
        *(f"condition_embedder.time_embedder.linear_{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")),
    }  # fmt: skip
    answer, due = found(x.to(HALF), t, words.to(HALF), 24), network(x, t, words, 24)
    assert answer.dtype == HALF and distance(answer.float(), due) <= 0.05 * float(due.abs().max())
    assert torch.equal(load_dit(tmp_path, CPU, HALF, True)(x.to(HALF), t, words.to(HALF), 24), answer)


@torch.no_grad()
@pytest.mark.parametrize("config", [VAE21, VAE22])
def test_an_autoencoder_answers_as_it_was_saved(tmp_path: Path, config: dict[str, Any]) -> None:
    network, z = vae(config), latents(config["z_dim"], 2)
    found = load_vae(folder(tmp_path, network, config), CPU, FLOAT)
    assert torch.equal(found.decode(z), network.decode(z))
    assert torch.equal(found.encode(clip(5)), network.encode(clip(5)))
    half = load_vae(tmp_path, CPU, HALF).decode(z.to(HALF))
    assert half.dtype == HALF and 0 < distance(half.float(), network.decode(z)) < 0.2


@torch.no_grad()
@pytest.mark.parametrize("tables", [[names.TABLE], [names.TIED], [names.TABLE, names.TIED]])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_text_encoder_has_its_table_by_either_name(tmp_path: Path, tables: list[str], streamed: bool) -> None:
    network = text()
    there = weights(network)
    table = there.pop(names.TABLE)
    save_file(there | {name: table.clone() for name in tables}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(UMT5))
    found = load_text(tmp_path, CPU, FLOAT, streamed)
    assert torch.equal(found(tokens(9)), network(tokens(9)))


def test_a_text_encoder_without_a_table_is_refused(tmp_path: Path) -> None:
    there = weights(text())
    del there[names.TABLE]
    save_file(there, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(UMT5))
    with pytest.raises(SoraError, match=r"lacks shared\.weight"):
        load_text(tmp_path, CPU, FLOAT)


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder(tmp_path, dit(WAN), WAN)
    load_dit(tmp_path, CPU, HALF, progress=lambda *so_far: told.append(so_far))
    assert told[-1][0] == told[-1][1] == sum(value.nbytes for value in dit(WAN).parameters())


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"image_dim": 1280}, "image_dim is 1280"),
        ({"added_kv_proj_dim": 5120}, "added_kv_proj_dim"),
        ({"num_layers": 10**9}, "has num_layers = .*; it must be from 1 to"),
        ({"num_layers": "2"}, "has num_layers = .*; it must be from 1 to"),
        ({"attention_head_dim": 19}, "must be even"),
        ({"text_dim": "x"}, "does not describe a Wan transformer"),
        ({"ffn_dim": -1}, "does not describe a Wan transformer"),
        ({"in_channels": 8}, "patch_embedding"),
        ({"num_layers": 1}, "for a different network"),
        ({"num_layers": 3}, "lacks"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], wrong: str) -> None:
    with pytest.raises(SoraError, match=wrong):
        load_dit(folder(tmp_path, dit(WAN), WAN | change), CPU, FLOAT)


def test_the_authors_own_configuration_is_answered_with_what_to_do(tmp_path: Path) -> None:
    folder(tmp_path, dit(WAN), {})
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanModel", "dim": 1536, "in_dim": 16}))
    with pytest.raises(SoraError, match=r"lacks 'in_channels'.*give the \.safetensors file itself"):
        load_dit(tmp_path, CPU, FLOAT)


# -- Single files -----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", names.PREFIX])
@pytest.mark.parametrize("named", ["ours", "theirs"])
def test_a_transformer_in_a_single_file(
    tmp_path: Path, prefix: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, t, words = dit_inputs().values()
    network = dit(WAN)
    spell = names.DIT.ours_to_original if named == "theirs" else str
    file = tmp_path / "wan_fp16.safetensors"
    save_file({prefix + spell(name): value for name, value in weights(network).items()}, file)
    only(monkeypatch, "DIT", network.config, names.DIT.original_to_ours)
    assert torch.equal(load_dit(file, CPU, FLOAT)(x, t, words), network(x, t, words))
    assert torch.equal(load_dit(tmp_path, CPU, FLOAT)(x, t, words), network(x, t, words))


@torch.no_grad()
@pytest.mark.parametrize(("config", "table"), [(VAE21, names.VAE21), (VAE22, names.VAE22)])
def test_an_autoencoder_in_a_single_file(
    tmp_path: Path, config: dict[str, Any], table: names.Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, z = vae(config), latents(config["z_dim"], 2)
    there = {table.ours_to_original(name): value for name, value in weights(network).items()}
    save_file(there, tmp_path / "a.safetensors")
    only(monkeypatch, "VAE", network.config, table.original_to_ours)
    assert torch.equal(load_vae(tmp_path / "a.safetensors", CPU, FLOAT).decode(z), network.decode(z))


@torch.no_grad()
def test_a_text_encoder_in_a_single_file_with_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = text()
    words = {names.TOKENIZER: torch.zeros(7, dtype=torch.uint8)}
    save_file(weights(network) | words, tmp_path / "a.safetensors")
    only(monkeypatch, "TEXT", network.config, lambda key: names.text_to_ours(key, tied=False))
    assert torch.equal(load_text(tmp_path / "a.safetensors", CPU, FLOAT)(tokens(9)), network(tokens(9)))


def headers_only(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A file of the right size that holds nothing."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(file.tell() + end)  # sparse
    return path


def as_published(name: str, spell: Callable[[str], str]) -> dict[str, list[int]]:
    told = CHECKPOINTS[name]
    return {
        spell(key.replace("*", str(i))): [int(side) for side in shape.split("x")]
        for key, shape in told["keys"].items()
        for i in range(told["repeats"] if "*" in key else 1)
    }


@pytest.mark.parametrize(
    ("name", "kind", "spell", "due"),
    [
        ("wan2.1-t2v-1.3b", "DIT", names.DIT.ours_to_original, presets.DITS["Wan 2.1 T2V 1.3B"]),
        ("wan2.2-ti2v-5b", "DIT", names.DIT.ours_to_original, presets.DITS["Wan 2.2 TI2V 5B"]),
        ("skyreels-v2-df-1.3b", "DIT", names.DIT.ours_to_original, presets.DITS["SkyReels-V2 DF 1.3B"]),
        ("wan2.1-vae", "VAE", names.VAE21.ours_to_original, presets.VAE21),
        ("wan2.2-vae", "VAE", names.VAE22.ours_to_original, presets.VAE22),
        ("umt5-xxl", "TEXT", str, presets.UMT5),
    ],
)
def test_published_networks_are_known_by_their_shapes(
    tmp_path: Path, name: str, kind: str, spell: Callable[[str], str], due: Any
) -> None:
    """At the real sizes; nothing is read but headers. The configuration is that of the published config.json."""
    files = [headers_only(tmp_path / "a.safetensors", as_published(name, spell))]
    config, rename = loading.recognised(files, getattr(loading, kind))
    assert config == due
    network = loading.on_meta(getattr(loading, kind).build, config)
    assert published.survey(network, files, rename).keys() == network.state_dict().keys()
    told = type(due).from_hub(CHECKPOINTS[name]["config"])
    if name == "wan2.2-vae":  # whose stored configuration leaves the latents' statistics out
        told = replace(told, mean=due.mean, std=due.std)
    assert told == due


def test_other_networks_are_answered_with_what_is_known(tmp_path: Path) -> None:
    shapes = as_published("wan2.1-14b", names.DIT.ours_to_original)
    shapes["patch_embedding.weight"][1] = 20  # channels of none of them
    file = headers_only(tmp_path / "a.safetensors", shapes)
    with pytest.raises(SoraError, match=r"Wan 2\.1 T2V 1\.3B, Wan 2\.2 TI2V 5B, SkyReels-V2"):
        load_dit(file, CPU, FLOAT)
    with pytest.raises(SoraError, match="is not a Wan autoencoder known"):
        load_vae(file, CPU, FLOAT)


def test_the_statistics_of_the_latents_are_the_published_ones() -> None:
    assert (len(presets.MEAN22), len(presets.STD22)) == (48, 48)
    assert sum(presets.MEAN22) == pytest.approx(-0.5589, abs=1e-6) and presets.MEAN22[19] == 0.5109
    assert sum(presets.STD22) == pytest.approx(32.5360, abs=1e-6) and presets.STD22[39] == 1.6887


VALUES = [("transformer", "eps", "small"), ("transformer", "num_attention_heads", 10**30),
          ("transformer", "ffn_dim", -8), ("transformer", "text_dim", [1]),
          ("transformer", "inject_sample_info", "yes"),
          ("vae", "latents_mean", ["a"] * 16), ("vae", "latents_std", [float("nan")] * 16),
          ("vae", "latents_std", "x" * 16), ("vae", "latents_std", [0.0] * 16),
          ("vae", "latents_std", [1.0] * 15 + [-1.0]), ("vae", "latents_std", [1e-40] * 16),
          ("vae", "base_dim", 1.5), ("vae", "is_residual", 1), ("vae", "temperal_downsample", [0, 1, 1]),
          ("text_encoder", "layer_norm_epsilon", None), ("text_encoder", "d_ff", True),
          ("text_encoder", "num_layers", "2")]  # fmt: skip


@pytest.mark.parametrize(("part", "key", "value"), VALUES)
def test_every_value_of_a_configuration_is_looked_at(tmp_path: Path, part: str, key: str, value: Any) -> None:
    folder = wan_folders.write(tmp_path / "wan", wan_folders.WAN21, channels=16)
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    roles = {"transformer": "dit", "vae": "vae", "text_encoder": "text"}
    with pytest.raises(SoraError, match=str(path)) as caught:
        loading.check({roles[part]: folder / part})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(("change", "wrong"), [
    ({"model": {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]}}, "cannot read a prompt"),
    ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "is not the tokenizer of UMT5"),
    ({"post_processor": None}, "is not the tokenizer of UMT5"),
])  # fmt: skip
def test_a_tokenizer_of_another_kind_is_one_line(tmp_path: Path, change: dict[str, Any], wrong: str) -> None:
    wan_folders.write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SoraError, match=rf"tokenizer\.json {wrong}") as told:
        Umt5Tokenizer(path)
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


@pytest.mark.parametrize("text", ["{}", '{"a": 1}', "[]", "null", "<html>", "", '{"version": "1.0", "model": {}}'])
def test_what_is_no_tokenizer_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(SoraError, match=r"tokenizer\.json is not a tokenizer"):
        Umt5Tokenizer(tmp_path / "tokenizer.json")
