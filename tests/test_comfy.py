"""Single files as people hold them: fp16, fp8_scaled and GGUF in ComfyUI's folders, from the command line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wan_folders
from hub_server import Hub
from safetensors.torch import load_file, save_file
from torch import Tensor
from wan_cases import UMT5, VAE21, WAN, fill

from sora_cli import media, registry
from sora_cli.errors import SoraError
from sora_cli.models.wan import names
from sora_cli.models.wan.configs import Umt5Config, WanConfig, WanVaeConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.text import Umt5
from sora_cli.models.wan.vae import WanVae
from sora_cli.pipelines import loading
from sora_cli.pipelines.wan import Wan
from sora_cli.registry import comfy, families, hub
from sora_cli.registry.networks import Network

TEXT = UMT5 | {"d_model": 32, "num_heads": 2, "d_kv": 16, "d_ff": 64}  # sides that blocks of 32 numbers fit into
TRANSFORMER = WAN | {"attention_head_dim": 16, "ffn_dim": 64, "text_dim": 32}
NETWORK = Network(WanConfig.from_table(4, 32, 2, 64, 2), WanVaeConfig.from_table(4, 4, 4),
                  Umt5Config(50, 32, 2, 64, 2, 16))  # fmt: skip
USAGE = registry.SamplingDefaults(96, 64, 24.0, 17, 2, 2.0, "", "sliding", "unipc", 5.0, window=5, context=2,
                                  trained=())
LLAMA = {  # of llama.cpp, as ComfyUI-GGUF translates them
    "encoder.final_layer_norm": "enc.output_norm", "encoder.block.": "enc.blk.", "shared": "token_embd",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b", "layer.0.SelfAttention.": "attn_",
    "layer.0.layer_norm": "attn_norm", "layer.1.layer_norm": "ffn_norm", "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up", "layer.1.DenseReluDense.wo": "ffn_down",
}  # fmt: skip
AUTHORS = {  # of Wan's own code, as Kijai's files have them
    "encoder.final_layer_norm": "norm", "encoder.block.": "blocks.", "shared": "token_embedding",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding", "layer.0.SelfAttention.": "attn.",
    "layer.0.layer_norm": "norm1", "layer.1.layer_norm": "norm2", "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1", "layer.1.DenseReluDense.wo": "ffn.fc2",
}  # fmt: skip
Tensors = dict[str, Tensor]


def renamed(key: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        key = key.replace(ours, theirs)
    return key


@pytest.fixture(scope="session")
def weights() -> dict[str, Tensors]:
    """Of every network, by our names; they are float16 numbers, so that a float16 file holds them exactly."""
    made = {
        "dit": WanDit(WanConfig.from_hub(TRANSFORMER)), "vae": WanVae(WanVaeConfig.from_hub(VAE21)),
        "text": Umt5(Umt5Config.from_hub(TEXT)),
    }  # fmt: skip
    return {role: {k: v.half().float() for k, v in fill(one).state_dict().items()} for role, one in made.items()}


@pytest.fixture
def models(tmp_path: Path, weights: dict[str, Tensors], monkeypatch: pytest.MonkeyPatch, server: Hub) -> Path:
    """ComfyUI's models folder with a VAE, a text encoder and a tokenizer, where one small Wan is known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home = tmp_path / "ComfyUI" / "models"
    for folder in ("diffusion_models", "vae", "text_encoders"):
        (home / folder).mkdir(parents=True)
    original = {names.VAE21.ours_to_original(key): value for key, value in weights["vae"].items()}
    save_file(original, home / "vae" / "wan_2.1_vae.safetensors")
    save_file(weights["text"], home / "text_encoders" / "umt5_xxl_fp16.safetensors")
    wan_folders.write_tokenizer(home / "text_encoders")
    know_the_small_one(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return home


def know_the_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = registry.own()["tiny"].parts
    wan = registry.Entry("wan2.1-1.3b", "wan", "a test", (), parts, cell=8, usage=USAGE, network=NETWORK)
    told = {"pocket": registry.registry()["pocket"], "wan2.1-1.3b": wan}
    monkeypatch.setattr(registry, "registry", lambda: told)
    configs: dict[str, Any] = {"DIT": WanConfig.from_hub(TRANSFORMER), "VAE": WanVaeConfig.from_hub(VAE21),
                               "TEXT": Umt5Config.from_hub(TEXT)}  # fmt: skip
    for kind, config in configs.items():
        before = getattr(loading, kind)
        rename = next(iter(before.presets.values()))[1]
        monkeypatch.setattr(loading, kind, replace(before, presets={"Tiny": (config, rename)}))


def original(there: Tensors) -> Tensors:
    return {names.DIT.ours_to_original(key): value for key, value in there.items()}


def is_large(name: str, value: Tensor) -> bool:
    return value.dim() == 2 and value.shape[-1] % 32 == 0 and name.endswith("weight")


def write_half(path: Path, there: Tensors, prefix: str = "") -> Tensors:
    save_file({prefix + name: value.half() for name, value in there.items()}, path)
    return there


def write_eight(path: Path, there: Tensors, new: bool = False) -> Tensors:
    """fp8_scaled, and what it says: of the older layout, or the newer."""
    due, stored, layers = {}, {} if new else {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}, {}
    for name, value in there.items():
        due[name] = stored[name] = value
        if is_large(name, value):
            scale, layer = value.abs().max() / 448, name.removesuffix(".weight")
            stored[name] = (value / scale).to(torch.float8_e4m3fn)
            due[name] = stored[name].float() * scale
            stored[f"{layer}.{'weight_scale' if new else 'scale_weight'}"] = scale
            layers[layer] = {"format": "float8_e4m3fn"}
    told = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})} if new else None
    save_file(stored, path, told)
    return due


def write_gguf(path: Path, there: Tensors, kind: str = "Q8_0", architecture: str = "wan") -> Tensors:
    gguf = pytest.importorskip("gguf")
    writer, due = gguf.GGUFWriter(path, architecture), {}
    for name, value in there.items():
        packed = gguf.GGMLQuantizationType[kind if is_large(name, value) else "F32"]
        raw = gguf.quants.quantize(value.numpy(), packed)
        due[name] = torch.from_numpy(gguf.quants.dequantize(raw, packed)).view(value.shape)
        writer.add_tensor(name, raw, raw_shape=None if packed.name == "F32" else raw.shape, raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return due


Sora = Callable[..., tuple[int, str]]


def generated(sora: Sora, model: str, name: str) -> Tensor:
    code, said = sora("generate", "a cat on a boat", "--model", model, "--steps", "1", "--frames", "5", "--device",
                      "cpu", "--dtype", "float32", "--seed", "3", "-o", f"{name}.mp4")  # fmt: skip
    assert code == 0, said
    return load_file(f"{name}.safetensors")["latents"]


def as_folder(place: Path, dit: Tensors, text: Tensors, vae: Tensors) -> str:
    """The same weights in the diffusers layout, under a name of their own."""
    for folder, config, there in (("dit", TRANSFORMER, dit), ("text", TEXT, text), ("vae", VAE21, vae)):
        (place / folder).mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in there.items()}, place / folder / "a.safetensors")
        (place / folder / "config.json").write_text(json.dumps(config))
    wan_folders.write_tokenizer(place / "tokenizer")
    parts = ", ".join(f'{{ role = "{role}", path = "{place / role}" }}' for role in ("dit", "text", "vae", "tokenizer"))
    path = registry.config_folder() / "weights.toml"
    path.write_text(path.read_text() + f"""
[{place.name}]
kind = "wan"
about = "a folder"
cell = 8
parts = [{parts}]
[{place.name}.usage]
window = 5
context = 2
steps = 2
guidance = 2.0
shift = 5.0
width = 96
height = 64
frames = 17
solver = "unipc"
plan = "sliding"
trained = []
""")
    return place.name


def shown(name: str) -> list[np.ndarray]:
    with media.open_source(name) as source:
        return list(media.to_rgb(source, source.format, source.format.size))


def ours(there: Tensors) -> Tensors:
    return {names.DIT.original_to_ours(key): value for key, value in there.items()}


@pytest.mark.parametrize("kind", ["fp16", "prefixed", "fp8_scaled", "fp8_scaled_new", "Q8_0", "Q4_0"])
def test_a_file_generates_what_the_folder_of_its_weights_does(
    models: Path, weights: dict[str, Tensors], kind: str, sora: Sora, tmp_path: Path
) -> None:
    there = original(weights["dit"])
    name = f"wan_{kind}.{'gguf' if kind.startswith('Q') else 'safetensors'}"
    path = models / "diffusion_models" / name
    write: dict[str, Callable[[], Tensors]] = {
        "fp16": lambda: write_half(path, there), "prefixed": lambda: write_half(path, there, names.PREFIX),
        "fp8_scaled": lambda: write_eight(path, there), "fp8_scaled_new": lambda: write_eight(path, there, True),
    }  # fmt: skip
    due = write[kind]() if kind in write else write_gguf(path, there, kind)
    found = generated(sora, str(path), "file")
    same = as_folder(tmp_path / "same", ours(due), weights["text"], weights["vae"])
    assert torch.equal(found, generated(sora, same, "folder"))
    assert all(np.array_equal(one, same) for one, same in zip(shown("file.mp4"), shown("folder.mp4"), strict=True))


@pytest.mark.parametrize("kind", ["fp8_scaled", "GGUF", "authors"])
def test_text_encoders_of_every_kind(
    models: Path, weights: dict[str, Tensors], kind: str, sora: Sora, tmp_path: Path
) -> None:
    dit = models / "diffusion_models" / "wan.safetensors"
    write_half(dit, original(weights["dit"]))
    folder = models / "text_encoders"
    (folder / "umt5_xxl_fp16.safetensors").unlink()
    if kind == "fp8_scaled":
        carried = {"spiece_model": torch.zeros(9, dtype=torch.uint8)}
        due = write_eight(folder / "umt5_xxl_fp8_e4m3fn_scaled.safetensors", weights["text"])
        stored = load_file(folder / "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
        save_file(stored | carried, folder / "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
    else:
        table = AUTHORS if kind == "authors" else LLAMA
        back = {renamed(key, table): key for key in weights["text"]}
        there = {renamed(key, table): value for key, value in weights["text"].items()}
        if kind == "authors":
            found = write_half(folder / "umt5-xxl-enc-fp16.safetensors", there)
        else:
            found = write_gguf(folder / "umt5-xxl-encoder-Q8_0.gguf", there, "Q8_0", "t5encoder")
        due = {back[key]: value for key, value in found.items()}
    found_latents = generated(sora, str(dit), "file")
    same = as_folder(tmp_path / "same", weights["dit"], due, weights["vae"])
    assert torch.equal(found_latents, generated(sora, same, "folder"))


# ---- what is found, and what is not --------------------------------------------------------------------------


def paths_of(entry: registry.Entry) -> dict[str, str]:
    return {part.role: part.path.name if part.path else part.repo for part in entry.parts}


def test_parts_are_found_by_the_folder_by_the_environment_and_beside(
    models: Path, weights: dict[str, Tensors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sora: Sora
) -> None:
    due = {"dit": "a.safetensors", "vae": "wan_2.1_vae.safetensors", "text": "umt5_xxl_fp16.safetensors",
           "tokenizer": "text_encoders"}  # fmt: skip
    deep = models / "diffusion_models" / "wan" / "a.safetensors"
    deep.parent.mkdir()
    write_half(deep, original(weights["dit"]))
    assert paths_of(registry.entry(str(deep))) == due
    elsewhere = tmp_path / "downloads" / "a.safetensors"
    elsewhere.parent.mkdir()
    write_half(elsewhere, original(weights["dit"]))
    assert paths_of(registry.entry("downloads/a.safetensors"))["vae"] == "tiny/wan22", "of the registered model"
    for told in (models, models.parent):
        monkeypatch.setenv("SORA_COMFY", str(told))
        assert paths_of(registry.entry(str(elsewhere))) == due
        assert registry.entry("a.safetensors").parts[0].path == deep, "by its name alone"
    code, said = sora("weights", "list", "--json")
    assert code == 0 and next(row for row in json.loads(said) if row["name"] == "a.safetensors")["state"] == "present"
    assert "a.safetensors: " in (said := sora("weights", "list")[1]) and "used like wan2.1-1.3b, with wan_2.1" in said
    monkeypatch.setenv("SORA_COMFY", str(tmp_path / "nowhere"))
    assert "set SORA_COMFY to ComfyUI's folder" in sora("generate", "x", "--model", str(deep), "-o", "x.mp4")[1]
    monkeypatch.delenv("SORA_COMFY")
    for part in ("vae/wan_2.1_vae.safetensors", "text_encoders/umt5_xxl_fp16.safetensors"):
        (elsewhere.parent / Path(part).name).write_bytes((models / part).read_bytes())
    wan_folders.write_tokenizer(elsewhere.parent / "tokenizer")
    assert paths_of(registry.entry(str(elsewhere))) == due | {"tokenizer": "tokenizer"}


def test_of_several_copies_that_with_the_most_bits(models: Path, weights: dict[str, Tensors]) -> None:
    path = models / "diffusion_models" / "a.safetensors"
    write_half(path, original(weights["dit"]))
    there = load_file(models / "vae" / "wan_2.1_vae.safetensors")
    save_file(there, models / "vae" / "qwen_image_vae.safetensors")
    save_file({key: value.half() for key, value in there.items()}, models / "vae" / "Wan2_1_VAE_fp16.safetensors")
    save_file({"decoder.conv1.weight": torch.ones(9, 9, 3, 3, 3)}, models / "vae" / "wan2.2_vae.safetensors")
    (models / "vae" / "wan_broken.safetensors").write_bytes(b"nothing")
    write_gguf(models / "text_encoders" / "umt5_Q8_0.gguf", weights["text"], architecture="t5encoder")
    found = paths_of(registry.entry(str(path)))
    assert found["vae"] == "wan_2.1_vae.safetensors" and found["text"] == "umt5_xxl_fp16.safetensors"


def test_what_is_missing_is_named_with_where_it_was_looked_for(
    models: Path, weights: dict[str, Tensors], sora: Sora
) -> None:
    path = models / "diffusion_models" / "a.safetensors"
    write_half(path, original(weights["dit"]))
    (models / "vae" / "wan_2.1_vae.safetensors").unlink()
    (models / "text_encoders" / "tokenizer.json").unlink()
    code, said = sora("generate", "a cat", "--model", str(path), "-o", "x.mp4", "--device", "cpu")
    lines = [line for line in said.splitlines() if "autoencoder" in line]
    assert code == 1 and len(lines) == 1 and not Path("x.mp4").exists()
    assert f"no autoencoder that fits in {models / 'vae'}, {path.parent}" in lines[0]
    assert "no tokenizer.json beside the text encoder" in lines[0]
    assert f"`sora-cli weights pull {path}` fetches it" in lines[0]
    assert sora("weights", "pull", str(path), "--yes")[0] == 0
    assert set(hub.locate(registry.entry(str(path)))) == {"dit", "vae", "text", "tokenizer"}
    with pytest.raises(SoraError, match=r"there is no file b\.safetensors here \(set SORA_COMFY to ComfyUI's folder\)"):
        registry.entry("b.safetensors")


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["double_blocks.0.img_attn.qkv.weight"], "a Flux model"),
        ([names.PREFIX + "double_blocks.0.img_attn.qkv.weight"], "a Flux model"),
        (["double_blocks.0.img_attn_qkv.weight", "txt_in.individual_token_refiner.blocks.0.x"], "a HunyuanVideo model"),
        ([names.PREFIX + "input_blocks.0.0.weight", "first_stage_model.x", "conditioner.embedders.0.x"], ".*SDXL"),
        (["model.diffusion_model.patchify_proj.weight", "vae.decoder.x"], "an LTX-Video model"),
        (["diffusion_model.blocks.0.self_attn.q.lora_down.weight", "patch_embedding.weight"], "a LoRA; use it with"),
        (["transformer.blocks.0.attn1.to_q.lora_A.weight"], "a LoRA"),
        (["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"], "a T5 text encoder"),
        (["text_model.encoder.layers.0.self_attn.q_proj.weight"], "a CLIP text encoder"),
        (["model.layers.0.self_attn.q_proj.weight"], "a language model"),
        (["encoder.conv1.weight", "decoder.conv1.weight"], r"an autoencoder \(VAE\)"),
        (["patch_embedding.weight", "img_emb.proj.0.weight"], "a Wan transformer that takes image embeddings"),
        (["patch_embedding.weight", "vace_blocks.0.after_proj.weight"], "a Wan VACE transformer"),
        (["patch_embedding.weight"], "a Wan transformer, 7 wide, 3 input channels"),
        (["joint_blocks.0.x"], "a Stable Diffusion 3 model"),
        (["nothing.known"], "an unknown kind of model"),
    ],
)
def test_other_files_say_what_they_seem_to_be(
    models: Path, tmp_path: Path, keys: list[str], what: str, sora: Sora
) -> None:
    save_file({key: torch.ones(7, 3, 1, 2, 2) for key in keys}, tmp_path / "a.safetensors")
    with pytest.raises(SoraError, match=f"seems to be {what}.*; supported transformers: those of"):
        registry.entry("./a.safetensors")
    code, said = sora("generate", "x", "--model", "a.safetensors", "-o", "x.mp4")
    assert code == 2 and "Traceback" not in said and not Path("x.mp4").exists()


def test_ggufs_of_other_models_say_it(models: Path, weights: dict[str, Tensors], tmp_path: Path) -> None:
    write_gguf(tmp_path / "flux.gguf", {"double_blocks.0.x": torch.ones(2)}, architecture="flux")
    with pytest.raises(SoraError, match="seems to be a GGUF of architecture flux"):
        registry.entry("flux.gguf")
    write_gguf(tmp_path / "wan.gguf", original(weights["dit"]), architecture="ltxv")
    with pytest.raises(SoraError, match="architecture ltxv"):
        registry.entry("wan.gguf")
    with pytest.raises(SoraError, match="is not a Wan autoencoder: it seems to be a GGUF of architecture ltxv"):
        loading.load_vae(tmp_path / "wan.gguf", torch.device("cpu"), torch.float32)


def test_a_part_of_the_registry_may_be_a_gguf_of_a_repository(
    models: Path, weights: dict[str, Tensors], tmp_path: Path, server: Hub
) -> None:
    write_gguf(tmp_path / "wan-Q8_0.gguf", original(weights["dit"]))
    server.publish("tiny/gguf", {"q/wan-Q8_0.gguf": (tmp_path / "wan-Q8_0.gguf").read_bytes(), "q/other.gguf": b"x"})
    name = as_folder(tmp_path / "mine", weights["dit"], weights["text"], weights["vae"])
    path = registry.config_folder() / "weights.toml"
    there = '{ role = "dit", repo = "tiny/gguf", folder = "q", names = ["wan-Q8_0.gguf"], bytes = 9000 }'
    path.write_text(path.read_text().replace(f'{{ role = "dit", path = "{tmp_path / "mine" / "dit"}" }}', there))
    hub.pull(registry.entry(name), yes=True)
    found = hub.locate(registry.entry(name))["dit"]
    assert found.name == "wan-Q8_0.gguf" and not (found.parent / "other.gguf").exists()
    assert loading.load_dit(found, torch.device("cpu"), torch.float32).config == WanConfig.from_hub(TRANSFORMER)


def test_real_sizes_are_told_apart(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the published networks, by their names and shapes alone."""
    monkeypatch.undo()
    published = json.loads((Path(__file__).parent / "data" / "wan_keys.json").read_text())
    for name, like in (("wan2.1-t2v-1.3b", "wan2.1-1.3b"), ("wan2.2-ti2v-5b", "wan2.2-5b"),
                       ("skyreels-v2-df-1.3b", "skyreels2-1.3b")):  # fmt: skip
        told = published[name]
        shapes = {
            names.DIT.ours_to_original(key.replace("*", str(i))): tuple(int(side) for side in shape.split("x"))
            for key, shape in told["keys"].items() for i in range(told["repeats"] if "*" in key else 1)
        }  # fmt: skip
        assert families.seems(shapes) == "a Wan transformer"
        network = registry.registry()[like].network
        assert network and comfy.is_dit(shapes, network.dit)
        others = [entry.network for entry in registry.registry().values() if entry.network]
        assert sum(comfy.is_dit(shapes, other.dit) for other in others) == (3 if like == "wan2.2-5b" else 1)


@pytest.mark.parametrize("name", ["\u4e2d\u6587", "a\udcff", "a\u2028b\x0bc"])
def test_a_linked_folder_is_called_anything(models: Path, name: str, sora: Sora) -> None:
    folder = models / name
    (folder / "vae").mkdir(parents=True)
    assert sora("weights", "link", str(folder))[0] == 0 and comfy.linked() == [folder]
    assert sora("weights", "unlink", str(folder))[0] == 0 and comfy.linked() == []


def test_a_whole_folder_is_linked_listed_and_used_by_every_verb(
    models: Path, weights: dict[str, Tensors], sora: Sora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve files by their published names, of which three are none."""
    there, large, small = original(weights["dit"]), models / "diffusion_models", models / "unet"
    small.mkdir()
    write_half(large / "wan2.1_t2v_1.3B_fp16.safetensors", there)
    write_half(large / "wan2.1_t2v_1.3B_prefixed.safetensors", there, names.PREFIX)
    write_eight(large / "wan2.1_t2v_1.3B_fp8_scaled.safetensors", there)
    write_gguf(small / "Wan2.1-T2V-1.3B-Q8_0.gguf", there)
    write_gguf(small / "Wan2.1-T2V-1.3B-Q4_0.gguf", there, "Q4_0")
    write_eight(models / "text_encoders" / "umt5_xxl_fp8_e4m3fn_scaled.safetensors", weights["text"])
    (models / "loras").mkdir()
    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 32), "blocks.0.self_attn.q.lora_B.weight":
               torch.zeros(32, 2)}, models / "loras" / "style.safetensors")  # fmt: skip
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(9, 3)}, large / "flux1-dev.safetensors")
    (large / "wan2.2_ti2v_5B_fp16.safetensors").write_text("<!DOCTYPE html><title>Sign in</title>")
    whole = (large / "wan2.1_t2v_1.3B_fp16.safetensors").read_bytes()
    (large / "wan2.1_t2v_14B_fp16.safetensors").write_bytes(whole[: len(whole) // 2])
    assert sum(path.suffix in (".safetensors", ".gguf") for path in models.rglob("*")) == 12
    before = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}

    code, said = sora("weights", "link", str(models.parent))
    assert code == 0 and "5 usable models" in said and comfy.linked() == [models.parent]
    code, said = sora("weights", "list")
    usable = ("wan2.1_t2v_1.3B_fp16.", "wan2.1_t2v_1.3B_prefixed.", "wan2.1_t2v_1.3B_fp8_scaled.",
              "Wan2.1-T2V-1.3B-Q8_0.", "Wan2.1-T2V-1.3B-Q4_0.")  # fmt: skip
    assert code == 0 and all(name in said for name in usable)
    assert not any(name in said for name in ("flux1", "ti2v_5B", "t2v_14B"))
    wrong_ones = {"flux1-dev": "seems to be", "wan2.2_ti2v_5B_fp16": "web page", "wan2.1_t2v_14B_fp16": "damaged"}
    for name, wrong in wrong_ones.items():
        code, said = sora("weights", "show", f"{name}.safetensors")
        assert code and wrong in said and "Traceback" not in said, said
    model = ("--model", "Wan2.1-T2V-1.3B-Q4_0.gguf")
    code, said = sora("weights", "show", model[1])
    assert code == 0 and "wan2.1-1.3b" in said
    small_video = (*model, "--steps", "1", "--device", "cpu", "--dtype", "float32")
    verbs = (("generate", "a cat", "--frames", "9"), ("extend", "a.mp4", "--after", "0.2"), ("loop", "a.mp4"),
             ("reverse", "a.mp4", "--seconds", "0.2"))  # fmt: skip
    for words in ((*verb, "-o", f"{name}.mp4") for verb, name in zip(verbs, "abcd", strict=True)):
        code, said = sora(*words, *small_video)
        assert code == 0, said
    assert [len(shown(f"{name}.mp4")) > 0 for name in "abcd"] == [True] * 4
    assert before == {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}  # used, not touched
    assert sora("weights", "unlink", str(models.parent))[0] == 0 and comfy.linked() == []
    code, said = sora("weights", "unlink", str(models.parent))
    assert code == 2 and "is not linked; linked folders: none" in said
    code, said = sora("weights", "link", str(large))
    assert code == 2 and "give ComfyUI's folder or its models folder" in said


def test_a_batch_reads_all_texts_before_its_first_video(
    models: Path, weights: dict[str, Tensors], sora: Sora, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_half(models / "diffusion_models" / "wan.safetensors", original(weights["dit"]))
    used: list[str] = []
    use, encoded = Wan.use, Wan.encoded
    monkeypatch.setattr(Wan, "use", lambda wan, role: (used.append(role), use(wan, role))[1])
    monkeypatch.setattr(Wan, "encoded", lambda wan, text: (used.append(text), encoded(wan, text))[1])
    lines = [{"prompt": f"a cat {n}", "output": f"{n}.mp4"} for n in range(3)]
    Path("jobs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    code, said = sora("batch", "jobs.jsonl", "--model", str(models / "diffusion_models" / "wan.safetensors"), "--steps",
                      "1", "--frames", "5", "--device", "cpu", "--dtype", "float32")  # fmt: skip
    assert code == 0 and all(Path(f"{n}.mp4").exists() for n in range(3)), said
    first = used.index("dit")
    assert {"a cat 0", "a cat 1", "a cat 2"} <= set(used[:first]) and "text" not in used[first:]
