"""Wan2.2-A14B as people have it: two files that differ in `high` and `low`, in ComfyUI's folders, by the verbs that
users type."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_comfy import (
    NETWORK,
    TRANSFORMER,
    USAGE,
    Tensors,
    generated,
    models,
    original,
    ours,
    shown,
    weights,
    write_eight,
    write_gguf,
    write_half,
)
from test_wan_verbs import clip, picture
from wan_cases import fill

from sora_cli import registry
from sora_cli.errors import SoraError
from sora_cli.models.wan import names
from sora_cli.models.wan.configs import WanConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.pipelines import loading
from sora_cli.registry import comfy
from sora_cli.shot import Lora

__all__ = ["models", "weights"]
Sora = Callable[..., tuple[int, str]]
GIVEN = 8  # channels of a mask and of a latent, beside the noise


@pytest.fixture
def two(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models folder, where Wan 2.1 and 2.2 A14B are known as small ones of the same shapes."""
    before = registry.registry()
    plain = before["wan2.1-1.3b"]
    high = replace(USAGE, boundary=0.875, guidance_low=1.5, known_noise=1000)
    text = replace(plain, name="wan2.2-a14b", usage=high)
    seeing = replace(plain, name="wan2.2-a14b-i2v", usage=replace(high, conditioned=True, context=1),
                     network=replace(NETWORK, dit=replace(NETWORK.dit, inputs=4 + GIVEN)))  # fmt: skip
    fast = replace(text, name="wan2.2-a14b-lightning", usage=replace(high, solver="lightx2v", steps=4, guidance=1.0))
    told = before | {entry.name: entry for entry in (text, seeing, fast)}
    monkeypatch.setattr(registry, "registry", lambda: told)
    presets, rename = loading.DIT.presets, next(iter(loading.DIT.presets.values()))[1]
    config = WanConfig.from_hub(TRANSFORMER | {"in_channels": 4 + GIVEN})
    monkeypatch.setattr(loading, "DIT", replace(loading.DIT, presets={**presets, "Tiny I2V": (config, rename)}))
    monkeypatch.setenv("SORA_COMFY", str(models.parent))
    return models


def transformer(seed: int, given: int = 0) -> Tensors:
    network = fill(WanDit(WanConfig.from_hub(TRANSFORMER | {"in_channels": 4 + given})), seed)
    return original({name: value.half().float() for name, value in network.state_dict().items()})


def named(stem: str) -> list[str]:
    """The names of both files, of which `stem` is that of the one for high noise."""
    return [stem, stem.replace("High", "Low").replace("high", "low")]


def experts(folder: Path, stem: str, write: Callable[..., Tensors], given: int = 0) -> dict[str, Tensors]:
    """Both files, and what they hold by the role of the transformer."""
    halves = zip(("dit", "dit_low"), named(stem), (1, 2), strict=True)
    return {role: write(folder / name, transformer(seed, given)) for role, name, seed in halves}


def write_folder(place: Path, dits: dict[str, Tensors], models: Path) -> str:
    """The same weights in the diffusers layout, as a model of the user's own that is used like wan2.2-a14b."""
    parts = [f'{{ role = "text", path = "{models}/text_encoders/umt5_xxl_fp16.safetensors" }}',
             f'{{ role = "vae", path = "{models}/vae/wan_2.1_vae.safetensors" }}',
             f'{{ role = "tokenizer", path = "{models}/text_encoders" }}']  # fmt: skip
    for role, there in dits.items():
        (place / role).mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in ours(there).items()}, place / role / "a.safetensors")
        (place / role / "config.json").write_text(json.dumps(TRANSFORMER))
        parts.append(f'{{ role = "{role}", path = "{place / role}" }}')
    path = registry.config_folder() / "weights.toml"
    usage = {key: value for key, value in vars(registry.entry("wan2.2-a14b").usage).items() if value not in ("", ())}
    lines = [f"{key} = {json.dumps(value)}" for key, value in usage.items()]
    path.write_text(path.read_text() + f'\n[{place.name}]\nkind = "wan"\nabout = "a folder"\ncell = 8\n'
                    f"parts = [{', '.join(parts)}]\n[{place.name}.usage]\n" + "\n".join(lines) + "\n")  # fmt: skip
    return place.name


@pytest.mark.parametrize("kind", ["fp8_scaled", "Q8_0"])
def test_two_files_generate_what_the_folder_of_their_weights_does(
    two: Path, kind: str, sora: Sora, tmp_path: Path
) -> None:
    name, write = {
        "fp8_scaled": ("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", write_eight),
        "Q8_0": ("Wan2.2-T2V-A14B-HighNoise-Q8_0.gguf", write_gguf),
    }[kind]
    dits, (high, low) = experts(two / "diffusion_models", name, write), named(name)
    row = next(row for row in json.loads(sora("weights", "list", "--json")[1]) if row["name"] == high)
    assert row["state"] == "present" and low in row["about"] and "like wan2.2-a14b," in row["about"]
    assert f"  {low}" not in sora("weights", "list")[1], "the two are one model"
    found = generated(sora, high, "file")
    same = write_folder(tmp_path / "same", dits, two)
    assert torch.equal(found, generated(sora, same, "folder"))
    assert torch.equal(found, generated(sora, low, "by-the-other-half"))
    code, said = sora("extend", "file.mp4", "a cat", "--after", "0.5", "--model", high, "-o", "long.y4m", "--device",
                      "cpu", "--steps", "2")  # fmt: skip
    assert code == 0 and len(shown("long.y4m")) == 5 + 12, said
    code, said = sora("loop", "a cat", "--seconds", "0.6", "--model", high, "--device", "cpu", "-o", "loop.y4m")
    assert code == 0 and len(shown("loop.y4m")) == 16, said


def test_every_verb_from_pictures(two: Path, sora: Sora) -> None:
    experts(two / "diffusion_models", "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", write_eight, GIVEN)
    experts(two / "diffusion_models", "Wan2.2-I2V-A14B-HighNoise-Q8_0.gguf", write_gguf, GIVEN)
    start, end = picture("start.png"), picture("end.png")
    for model in ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", "Wan2.2-I2V-A14B-HighNoise-Q8_0.gguf"):
        how = ("--model", model, "--device", "cpu", "--force")
        code, said = sora("generate", "a cat", "--image", start, "--end", end, "-o", "a.y4m", *how)
        assert code == 0 and len(shown("a.y4m")) == 17, said
        given = np.asarray(Image.open(start)).astype(int)
        assert np.abs(shown("a.y4m")[0].mean((0, 1)) - given.mean((0, 1))).max() < 2
        code, said = sora("extend", clip("in.y4m"), "a cat", "--after", "0.5", "-o", "b.y4m", *how)
        made = shown("b.y4m")
        assert code == 0 and len(made) == 24, said
        assert all(np.array_equal(one, same) for one, same in zip(made[:12], shown("in.y4m"), strict=True))
        code, said = sora("loop", "in.y4m", "a cat", "--seconds", "0.4", "-o", "c.y4m", *how)
        assert code == 0 and len(shown("c.y4m")) == 12 + 11, said
    code, said = sora("reverse", end, "a cat", "--seconds", "1.5", "-o", "d.mp4", *how)
    assert code == 0 and len(shown("d.mp4")) == 36, said
    for words in (("generate", "a cat", "-o", "e.mp4"), ("loop", "a cat", "-o", "e.mp4")):
        code, said = sora(*words, *how)
        assert code == 2 and said.count("\n") == 1 and "needs a picture to start from" in said
        assert not Path("e.mp4").exists()


def test_the_name_tells_which_of_two_it_is(two: Path) -> None:
    folder = two / "diffusion_models"
    for stem in ("Wan2_2-T2V-A14B_{}_fp8_e4m3fn_KJ.safetensors", "wan2.2_t2v_{}_noise_lightx2v_4step.safetensors"):
        halves = [stem.format(word) for word in (("HIGH", "LOW") if "KJ" in stem else ("high", "low"))]
        for half in halves:
            write_half(folder / half, transformer(1))
        found = [registry.entry(half) for half in halves]
        assert [part.path.name for part in found[0].parts[:2] if part.path] == halves
        assert found[0].parts == found[1].parts
        assert ("like wan2.2-a14b-lightning" in found[0].about) == ("4step" in stem)
        assert not {part.role for part in found[0].parts} & {"lora", "lora_low"}, "they are in the files already"
    write_half(folder / "wan2.1_t2v_14B_follow.safetensors", transformer(1))
    assert "like wan2.1-1.3b" in registry.entry("wan2.1_t2v_14B_follow.safetensors").about, "no half of anything"


def test_halves_lie_in_folders_of_their_own_or_of_other_bits(two: Path) -> None:
    folder = two / "unet"
    for place, bits in (("HighNoise", "Q4_K_M"), ("LowNoise", "Q8_0")):
        (folder / place).mkdir(parents=True)
        write_half(folder / place / f"Wan2.2-T2V-A14B-{place}-{bits}.safetensors", transformer(1))
    found = registry.entry("Wan2.2-T2V-A14B-HighNoise-Q4_K_M.safetensors")
    assert found.parts[1].path == folder / "LowNoise" / "Wan2.2-T2V-A14B-LowNoise-Q8_0.safetensors"
    assert comfy.recognised() == ["Wan2.2-T2V-A14B-HighNoise-Q4_K_M.safetensors"]


def test_a_half_alone_is_refused_by_name(two: Path, sora: Sora) -> None:
    path = two / "diffusion_models" / "wan2.2_t2v_high_noise_14B_fp16.safetensors"
    write_half(path, transformer(1))
    with pytest.raises(SoraError, match=r"one of two transformers; put the other one, wan2\.2_t2v_low_noise_14B_fp16"):
        registry.entry(path.name)
    assert path.name not in comfy.recognised()
    nameless = two / "diffusion_models" / "wan2.2_i2v.safetensors"
    write_half(nameless, transformer(1, GIVEN))
    code, said = sora("generate", "x", "--model", nameless.name, "-o", "x.mp4")
    assert code == 2 and said.count("\n") == 1 and "its name does not say which; put high_noise" in said


@pytest.mark.parametrize("kind", ["fp8_scaled", "Q8_0"])
def test_loras_change_what_is_packed(two: Path, kind: str, sora: Sora, tmp_path: Path) -> None:
    """W = unpacked + alpha / rank * B A, in one of the two transformers."""
    name, write = {"fp8_scaled": ("high.safetensors", write_eight), "Q8_0": ("high.gguf", write_gguf)}[kind]
    due = experts(two / "diffusion_models", name, write)["dit_low"]
    rng = torch.Generator().manual_seed(1)
    A, B, key = torch.randn(2, 32, generator=rng), torch.randn(32, 2, generator=rng), "blocks.1.self_attn.v"
    save_file({f"diffusion_model.{key}.lora_down.weight": A, f"diffusion_model.{key}.lora_up.weight": B,
               f"diffusion_model.{key}.alpha": torch.tensor(1, dtype=torch.int64)}, tmp_path / "a.safetensors")
    lora = Lora(str(tmp_path / "a.safetensors"), 0.5, "low")
    how: dict[str, Any] = {"loras": (lora,), "device": torch.device("cpu"), "dtype": torch.float32}
    for expert, half in zip(("high", "low"), named(name), strict=True):
        place, module = two / "diffusion_models" / half, names.DIT.original_to_ours(key)
        merged, packed = (loading.load_dit(place, expert=expert, unpacked=unpacked, **how).get_submodule(module)
                          for unpacked in (True, False))  # fmt: skip
        x = torch.randn(3, 32, generator=rng)
        torch.testing.assert_close(packed(x), merged(x), rtol=1e-4, atol=1e-4)
        weight = merged.weight
        plain = due[f"{key}.weight"] if expert == "low" else transformer(1)[f"{key}.weight"]
        if expert == "low":
            torch.testing.assert_close(weight, plain + 0.5 * 1 / 2 * B @ A)
        else:
            assert (weight - plain).abs().max() < 0.05, "that for high noise is as it was"
    plain = generated(sora, name, "plain")
    code, said = sora("generate", "a cat on a boat", "--model", name, "--lora", f"low:{lora.path}:0.5",
                      "--steps", "1", "--frames", "5", "--device", "cpu", "--dtype", "float32", "--seed", "3", "-o",
                      "b.mp4")  # fmt: skip
    assert code == 0 and f"LoRA low:{lora.path} at 0.5, alpha / rank 0.5" in said
    assert torch.equal(load_file("b.safetensors")["latents"], plain), "one step is that for high noise alone"


REFUSED = [
    (("--guidance", "4,3"), "wan2.1.safetensors", "has only one transformer; give --guidance one number"),
    (("--guidance", "4;3"), "a_high.safetensors", "write a number like 4, or two of them like 4,3"),
    (("--guidance", "4,0"), "a_high.safetensors", "the second number, for low noise, must be above 0"),
    (("--guidance", "nan"), "a_high.safetensors", "write a number like 4"),
    (("--lora", "high:l.safetensors"), "wan2.1.safetensors", "has one transformer; write --lora l.safetensors without"),
    (("--lora", "low:l.safetensors"), "pocket", "pocket has one transformer"),
    (("--lora", "low:nowhere.safetensors"), "a_high.safetensors", "there is no LoRA nowhere.safetensors"),
]


@pytest.mark.parametrize(("words", "model", "line"), REFUSED)
def test_what_does_not_fit_two_transformers_is_one_line(
    two: Path, sora: Sora, words: tuple[str, ...], model: str, line: str
) -> None:
    for name in ("wan2.1", "a_high", "a_low"):
        write_half(two / "diffusion_models" / f"{name}.safetensors", transformer(1))
    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.ones(1, 32),
               "blocks.0.self_attn.q.lora_B.weight": torch.ones(32, 1)}, "l.safetensors")  # fmt: skip
    code, said = sora("generate", "a cat", "--model", model, *words, "-o", "x.mp4")
    assert code == 2 and said.count("\n") == 1 and line in said, said
    assert not Path("x.mp4").exists()


def test_guidance_of_each_is_part_of_the_shot(two: Path, sora: Sora) -> None:
    experts(two / "diffusion_models", "a_high.safetensors", write_half)
    how = ("--model", "a_high.safetensors", "--device", "cpu", "--steps", "2", "--frames", "5")
    for name, words, due in (("a", (), (2.0, 1.5)), ("b", ("--guidance", "5"), (5.0, 0.0)), ("c", ("--guidance", "5,4"),
                                                                                            (5.0, 4.0))):  # fmt: skip
        assert sora("generate", "a cat", *how, *words, "-o", f"{name}.mp4")[0] == 0
        shot = json.loads(Path(f"{name}.json").read_text())["shot"]
        assert (shot["guidance"], shot["guidance_low"]) == due
    assert sora("generate", "--from", "c.mp4", *how[:4], "-o", "d.mp4")[0] == 0
    assert torch.equal(load_file("c.safetensors")["latents"], load_file("d.safetensors")["latents"])
    code, said = sora("generate", "a cat", *how, "--dry-run")
    assert code == 0 and "of a window's steps 1 for high noise, 1 for low" in " ".join(said.split()), said
