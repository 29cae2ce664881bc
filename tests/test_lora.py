"""LoRA: every way of writing one gives the same weights, wherever these lie; training one; and what is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny as tiny_models
import torch
import wan_folders
from safetensors.torch import save_file
from test_engine import tiny_part
from test_wan_pipeline import SHOT, Tiny, checkpoints, finished, latents, tiny  # noqa: F401
from torch import Tensor
from typer.testing import CliRunner
from wan_cases import WAN, dit_inputs, fill

from sora_cli import registry
from sora_cli.cli import app
from sora_cli.cli.describing import shot_in
from sora_cli.errors import Failed, SoraError
from sora_cli.files import published as reading
from sora_cli.files.weights import read_header
from sora_cli.generation.engine import Engine
from sora_cli.models.wan import names
from sora_cli.models.wan.configs import WanConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.pipelines.loading import load_dit
from sora_cli.registry import lora
from sora_cli.registry.lora_settings import ADAPTER as ADAPTED_BY
from sora_cli.registry.lora_settings import scale_rule
from sora_cli.shot import Lora, Shot
from sora_cli.storage import latent_file as files
from sora_cli.train.data.world_packs import Bucket, Phase
from sora_cli.train.options import LoraOptions
from sora_cli.train.recipes import lora as training
from sora_cli.train.trainer.config import generator

CPU, RANK, ALPHA = torch.device("cpu"), 3, 6.0
FLOAT, HALF = torch.float32, torch.bfloat16
CHANGED = ("blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.ffn.net.0.proj", "blocks.0.ffn.net.2",
           "condition_embedder.time_proj", "proj_out")  # fmt: skip
RUNNER = CliRunner()


def dit(seed: int = 0) -> WanDit:
    return fill(WanDit(WanConfig.from_hub(WAN)), seed)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny transformer as diffusers writes it."""
    place = tmp_path_factory.mktemp("dit")
    save_file({name: value.clone() for name, value in dit().state_dict().items()}, place / "dit.safetensors")
    (place / "config.json").write_text(json.dumps(WAN))
    return place


def factors(network: torch.nn.Module, of: tuple[str, ...] = CHANGED, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of some matrices."""
    rng, weights = torch.Generator().manual_seed(seed), network.state_dict()
    shapes = {name: weights[f"{name}.weight"].shape for name in of}
    return {name: (torch.randn(RANK, wide, generator=rng), torch.randn(tall, RANK, generator=rng) / 10)
            for name, (tall, wide) in shapes.items()}  # fmt: skip


def original(name: str) -> str:
    return names.DIT.ours_to_original(f"{name}.weight").removesuffix(".weight")


def kohya(name: str) -> str:
    return name.replace(".", "_")


def write(path: Path, prefix: str, named: Callable[[str], str], down: str, up: str, alpha: float | None = None,
          metadata: dict[str, str] | None = None, **more: Any) -> Path:  # fmt: skip
    tensors = {}
    for name, (A, B) in factors(dit(), **more).items():
        module = prefix + named(name)
        tensors |= {f"{module}.{down}": A, f"{module}.{up}": B}
        if alpha is not None:
            tensors[f"{module}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, metadata)
    return path


def plain(name: str) -> str:
    return name


PEFT = ("lora_A.weight", "lora_B.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")
ADAPTER = {ADAPTED_BY: json.dumps({"transformer.r": RANK, "transformer.lora_alpha": ALPHA})}
WAYS: dict[str, tuple[Any, ...]] = {
    "diffusers": ("transformer.", plain, *PEFT, None, ADAPTER),
    "diffusers, named": ("transformer.", plain, "lora_A.default.weight", "lora_B.default.weight", None, ADAPTER),
    "ComfyUI": ("diffusion_model.", original, *KOHYA, ALPHA),
    "original, A and B": ("diffusion_model.", original, *PEFT, ALPHA),
    "whole checkpoints": ("model.diffusion_model.", original, *KOHYA, ALPHA),
    "kohya": ("lora_unet_", lambda name: kohya(original(name)), *KOHYA, ALPHA),
    "kohya, twice underscored": ("lora_unet__", lambda name: kohya(original(name)), *KOHYA, ALPHA),
    "kohya of diffusers": ("lora_transformer_", kohya, *KOHYA, ALPHA),
    "no prefix": ("", original, *PEFT, ALPHA),
    "compiled": ("transformer._orig_mod.", plain, *PEFT, ALPHA),
    "compiled, flat": ("lora_unet__orig_mod_", lambda name: kohya(original(name)), *KOHYA, ALPHA),
    "blocks compiled": ("model.", lambda name: name.replace("blocks.0.", "blocks.0._orig_mod."), *PEFT, ALPHA),
    "wrapped again and again": ("module._orig_mod.base_model.model.diffusion_model.", original, *PEFT, ALPHA),
    "FSDP": ("_fsdp_wrapped_module.", lambda name: f"{name}.base_layer", *PEFT, ALPHA),
    "lightning": ("model.", original, *PEFT, ALPHA),
    "a distilled generator": ("generator.model.", original, *PEFT, ALPHA),
    "an adapter by its name": ("transformer.", plain, "lora_A.my-style.weight", "lora_B.my-style.weight", ALPHA),
    "no .weight": ("dit.", original, "lora_A", "lora_B", ALPHA),
    "older diffusers": ("transformer.", plain, "lora.down.weight", "lora.up.weight", ALPHA),
    "linear layers": ("unet.", original, "lora_linear_layer.down.weight", "lora_linear_layer.up.weight", ALPHA),
    "kohya's header": ("", original, *PEFT, None, {"ss_network_alpha": str(ALPHA), "ss_network_dim": str(RANK)}),
    "musubi's header": ("", original, *PEFT, None, {"network_alpha": f"{ALPHA:.1f}", "network_dim": str(RANK)}),
    "plain words": ("", original, *PEFT, None, {"alpha": str(ALPHA), "rank": str(RANK), "r": f"{RANK:.1f}"}),
    "ai-toolkit's settings": ("", original, *PEFT, None, {"network": json.dumps({"linear_alpha": ALPHA})}),
    "settings in settings": ("", original, *PEFT, None, {"job": json.dumps({"net": {"args": {"lora_alpha": ALPHA}}})}),
    "another component": ("unet.", plain, *PEFT, None, {ADAPTED_BY: json.dumps({"unet.lora_alpha": ALPHA})}),
    "others left empty": ("", original, *PEFT, None, {"lora_alpha": f"{ALPHA}", "network_alpha": "None", "alpha": ""}),
    "a text encoder's": ("transformer.", plain, *PEFT, None, {ADAPTED_BY: json.dumps(
        {"transformer.lora_alpha": ALPHA, "text_encoder.lora_alpha": 1, "text_encoder.r": 77})}),
    "of two, the first": ("transformer.", plain, *PEFT, None, {ADAPTED_BY: json.dumps(
        {"transformer.lora_alpha": ALPHA, "transformer_2.lora_alpha": 1})}),
    "JSON in a header": ("", original, *PEFT, None, {"config": json.dumps({"r": RANK, "lora_alpha": ALPHA})}),
}


def due(scale: float, seed: int = 0) -> dict[str, Tensor]:
    """W + scale B A, by hand."""
    weights = {name: value.clone() for name, value in dit().state_dict().items()}
    for name, (A, B) in factors(dit(), seed=seed).items():
        weights[f"{name}.weight"] += scale * B @ A
    return weights


def close(found: WanDit, expected: dict[str, Tensor]) -> None:
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)


# ---- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_of_writing_give_the_same_weights(folder: Path, tmp_path: Path, way: str) -> None:
    path = write(tmp_path / "a.safetensors", *WAYS[way])
    close(load_dit(folder, CPU, FLOAT, loras=[Lora(str(path), 0.8)]), due(0.8 * ALPHA / RANK))


def test_without_alpha_it_is_all_of_b_a(folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", "transformer.", plain, *PEFT)
    close(load_dit(folder, CPU, FLOAT, loras=[Lora(str(path), -0.5)]), due(-0.5))


@pytest.mark.parametrize(("more", "share"), [({}, ALPHA / RANK), ({"use_rslora": True}, ALPHA / RANK**0.5)])
def test_a_folder_of_peft_says_its_alpha_beside(folder: Path, tmp_path: Path, more: Any, share: float) -> None:
    write(tmp_path / "adapter_model.safetensors", "base_model.model.", plain, *PEFT)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA, "r": RANK, **more}))
    close(load_dit(folder, CPU, FLOAT, loras=[Lora(str(tmp_path))]), due(share))


def test_what_lies_beside_another_is_not_its_own(folder: Path, tmp_path: Path) -> None:
    for name in ("one.safetensors", "two.safetensors"):
        write(tmp_path / name, "transformer.", plain, *PEFT)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA, "r": RANK}))
    close(load_dit(folder, CPU, FLOAT, loras=[Lora(str(tmp_path / "one.safetensors"))]), due(1))
    (tmp_path / "two.safetensors").unlink()
    close(load_dit(folder, CPU, FLOAT, loras=[Lora(str(tmp_path / "one.safetensors"))]), due(ALPHA / RANK))


@pytest.mark.parametrize(
    ("header", "wrong"),
    [
        ({"alpha": "1", "ss_network_alpha": "8"}, "contradicts itself: .*alpha is . and .*alpha is ."),
        ({"alpha": "1", "rank": str(RANK), "network_dim": "77"}, "contradicts itself: rank is .* network_dim is 77"),
        ({"lora_alpha": "1", "rank": "77"}, f"its rank is 77, but has {RANK}"),
        ({"alpha": "nan"}, "alpha that is not a finite number"),
        ({"lora_alpha": "one"}, "its lora_alpha is one, not a number"),
        ({"network_alpha": "[1]"}, "its network_alpha is .*1.*, not a number"),
        ({"config": json.dumps({"lora_alpha": {"q": 1}})}, "its lora_alpha is .*, not a number"),
        ({"config": json.dumps({"lora_alpha": 10**400})}, "its lora_alpha is .*, not a number"),
    ],
)
def test_a_header_that_contradicts_is_refused(folder: Path, tmp_path: Path, header: Any, wrong: str) -> None:
    asked = Lora(str(write(tmp_path / "a.safetensors", "transformer.", plain, *PEFT, None, header)))
    for attempt in (lambda: lora.check([asked]), lambda: load_dit(folder, CPU, FLOAT, loras=[asked])):
        with pytest.raises(SoraError, match=wrong) as refused:
            attempt()
        assert "\n" not in str(refused.value)


def test_each_of_two_transformers_has_its_own_alpha(tmp_path: Path) -> None:
    header = {ADAPTED_BY: json.dumps({"transformer.lora_alpha": 6, "transformer_2.lora_alpha": 1})}
    path = write(tmp_path / "a.safetensors", "transformer.", plain, *PEFT, None, header)
    shares = [scale_rule(path, read_header(path).metadata, {RANK}, expert)(RANK) for expert in ("high", "low", "")]
    assert shares == [2, 1 / 3, 2]
    alone = {ADAPTED_BY: json.dumps({"transformer.lora_alpha": 6})}
    path = write(tmp_path / "b.safetensors", "transformer.", plain, *PEFT, None, alone)
    shares = [scale_rule(path, read_header(path).metadata, {RANK}, expert)(RANK) for expert in ("high", "low", "")]
    assert shares == [2, 2, 2]


@pytest.mark.parametrize(("names", "kind"), [(("lokr_w1", "lokr_w2"), "a LoKr"), (("hada_w1_a", "hada_w1_b"), "a LoHa"),
                                             (("oft_blocks", "rescale"), "an OFT"), (("vera_lambda_b", "x"), "a VeRA"),
                                             (("lora_A.weight", "lora_magnitude_vector"), "a DoRA")])  # fmt: skip
def test_other_kinds_are_called_by_their_names(folder: Path, tmp_path: Path, names: Any, kind: str) -> None:
    path = write(tmp_path / "a.safetensors", "lycoris_", lambda name: kohya(original(name)), *names)
    with pytest.raises(SoraError, match=f"is {kind}, which is not supported"):
        load_dit(folder, CPU, FLOAT, loras=[Lora(str(path))])


def test_numbers_of_64_bits_are_cast(folder: Path, tmp_path: Path) -> None:
    asked = damaged(tmp_path / "a.safetensors", lambda t: {key: value.double() for key, value in t.items()})
    close(load_dit(folder, CPU, FLOAT, loras=[asked]), due(1))


def test_what_is_used_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", "transformer.", plain, *PEFT, None, {"alpha": "1", "rank": str(RANK)})
    assert lora.note(Lora(str(path), 0.8)) == f"LoRA {path} at 0.8, alpha / rank {1 / RANK:g}"
    write(path, "transformer.", plain, *PEFT, 0.0)
    assert "changes nothing" in lora.note(Lora(str(path)))
    zeros = damaged(path, lambda t: {key: value * ("lora_A" in key) for key, value in t.items()})
    assert "changes nothing" in lora.note(zeros)
    one = damaged(path, lambda t: {key: value * ("lora_A" in key or "ffn" in key) for key, value in t.items()})
    assert "changes nothing" not in lora.note(one)


def test_alpha_may_be_a_whole_number(folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", "lora_unet_", lambda name: kohya(original(name)), *KOHYA, int(ALPHA))
    close(load_dit(folder, CPU, FLOAT, loras=[Lora(str(path))]), due(ALPHA / RANK))


def test_differences_of_whole_tensors_are_added(folder: Path, tmp_path: Path) -> None:
    """As distilled models are published: norms, biases, modulations, and a convolution of low rank."""
    expected, rng = {k: v.clone() for k, v in dit().state_dict().items()}, torch.Generator().manual_seed(1)
    theirs = {
        "blocks.0.norm3.diff": "blocks.0.norm2.weight", "blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
        "blocks.1.self_attn.q.diff_b": "blocks.1.attn1.to_q.bias", "blocks.1.diff_m": "blocks.1.scale_shift_table",
        "head.diff_m": "scale_shift_table", "patch_embedding.diff": "patch_embedding.weight",
    }  # fmt: skip
    tensors = {key: torch.randn(expected[name].shape, generator=rng) for key, name in theirs.items()}
    for key, name in theirs.items():
        expected[name] += 0.5 * tensors[key]
    A, B = torch.randn(2, 4, 1, 2, 2, generator=rng), torch.randn(40, 2, 1, 1, 1, generator=rng)
    expected["patch_embedding.weight"] += 0.5 * torch.einsum("ir, rchwd -> ichwd", B[..., 0, 0, 0], A)
    tensors |= {"patch_embedding.lora_down.weight": A, "patch_embedding.lora_up.weight": B}
    save_file({f"diffusion_model.{key}": value for key, value in tensors.items()}, tmp_path / "a.safetensors")
    close(load_dit(folder, CPU, FLOAT, loras=[Lora(str(tmp_path / "a.safetensors"), 0.5)]), expected)


def test_several_add_up(folder: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "a.safetensors", *WAYS["ComfyUI"])
    two = write(tmp_path / "b.safetensors", "transformer.", plain, *PEFT, seed=7)
    expected, plain_weights, other = due(0.5 * ALPHA / RANK), dit().state_dict(), due(-1.0, seed=7)
    expected = {name: value + other[name] - plain_weights[name] for name, value in expected.items()}
    close(load_dit(folder, CPU, FLOAT, loras=[Lora(str(one), 0.5), Lora(str(two), -1.0)]), expected)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_blocks_from_disk_are_the_resident_ones(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    path = write(tmp_path / "a.safetensors", *WAYS["kohya"])
    x, t, words = dit_inputs().values()
    given = x.to(dtype), t, words.to(dtype)
    here, there = (load_dit(folder, CPU, dtype, streamed, loras=[Lora(str(path))]) for streamed in (False, True))
    assert torch.equal(here(*given), there(*given))
    assert not torch.equal(load_dit(folder, CPU, dtype)(*given), here(*given))


def test_nothing_of_it_is_none_of_it(folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", *WAYS["kohya"])
    there, none = load_dit(folder, CPU, HALF, loras=[Lora(str(path), 0.0)]), load_dit(folder, CPU, HALF)
    assert all(torch.equal(a, b) for a, b in zip(there.parameters(), none.parameters(), strict=True))


# ---- what is refused ----------------------------------------------------------------------------------------


def damaged(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], metadata: Any = None) -> Lora:
    tensors = {}
    for name, (A, B) in factors(dit()).items():
        tensors |= {f"transformer.{name}.lora_A.weight": A, f"transformer.{name}.lora_B.weight": B}
    save_file({key: value.contiguous() for key, value in change(tensors).items()}, path, metadata)
    return Lora(str(path))


def without(tensors: dict[str, Tensor], *ends: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.endswith(ends)}


Q = "transformer.blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda t: t | {"vace_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 2), "y": torch.ones(1)},
         "2 of its 14 tensors match nothing in it, the first is vace_blocks.0.attn1.to_q.lora_A.weight"),
        (lambda t: t | {f"{Q}.lora_magnitude_vector": torch.ones(2)}, "is a DoRA, which is not supported"),
        (lambda t: {f"{Q}.lora_A.weight": torch.ones(2, 40), f"{Q}.lora_B.weight": torch.ones(50, 2)},
         "1 of its 1 change does not fit, the first is .*blocks.0.attn1.to_q.lora_B.weight, 50x2 for 40x40"),
        (lambda t: {f"{Q}.lora_A.weight": torch.ones(2, 40), f"{Q}.lora_B.weight": torch.ones(40, 3)}, "does not fit"),
        (lambda t: {f"{Q}.lora_A.weight": torch.ones(40), f"{Q}.lora_B.weight": torch.ones(40)}, "does not fit"),
        (lambda t: without(t, "to_q.lora_B.weight"), "lacks a factor.* blocks.0.attn1.to_q"),
        (lambda t: t | {f"{Q}.lora_down.weight": torch.ones(3, 40)}, "changes .* twice"),
        (lambda t: t | {f"{Q}.alpha": torch.ones(2)}, "an alpha must be one number"),
        (lambda t: t | {f"{Q}.alpha": torch.tensor(torch.nan)}, "an alpha that is not a finite number"),
        (lambda t: {key: one.to(torch.int8) for key, one in t.items()}, "int8 and packed weights are not supported"),
        (lambda t: {}, "holds no LoRA"),
        (lambda t: {key.replace("to_q", "to_query"): value for key, value in t.items() if "to_q" in key},
         "match nothing.*its shapes would fit, but its names"),
        (lambda t: {"transformer.blocks.0.norm2.lora_A.weight": torch.ones(2, 1),
                    "transformer.blocks.0.norm2.lora_B.weight": torch.ones(40, 2)},
         "norm2.weight, which is not a matrix"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path, change: Any, wrong: str) -> None:
    asked = damaged(tmp_path / "a.safetensors", change)
    with pytest.raises(SoraError, match=wrong) as refused:
        load_dit(folder, CPU, FLOAT, loras=[asked])
    assert "\n" not in str(refused.value) and "a.safetensors" in str(refused.value)


def test_other_kinds_and_damage_are_refused(folder: Path, tmp_path: Path) -> None:
    settings = {ADAPTED_BY: json.dumps({"transformer.use_dora": True})}
    with pytest.raises(SoraError, match="a LoRA with use_dora"):
        load_dit(folder, CPU, FLOAT, loras=[damaged(tmp_path / "a.safetensors", dict, settings)])
    infinite = damaged(tmp_path / "b.safetensors", lambda t: {key: value * torch.inf for key, value in t.items()})
    with pytest.raises(Failed, match="NaN or infinity"):
        load_dit(folder, CPU, FLOAT, loras=[infinite])
    (tmp_path / "c.safetensors").write_bytes(b"\x09")
    (tmp_path / "d.pt").write_bytes(b"PK")
    for name, wrong in {"c.safetensors": "damaged", "d.pt": "a pickle", "e.safetensors": "there is no LoRA"}.items():
        with pytest.raises(SoraError, match=wrong):
            lora.check([Lora(str(tmp_path / name))])


def test_on_the_command_line() -> None:
    assert Lora.parse("a.safetensors") == Lora("a.safetensors", 1.0)
    assert Lora.parse("my:style.safetensors:-0.5") == Lora("my:style.safetensors", -0.5)
    assert Lora.parse("C:\\a.safetensors") == Lora("C:\\a.safetensors")
    for text in ("a:1_0", "a:0,8", "a:50%", "a:1_0e-1", "a:\uff11", "https://huggingface.co/x/y/a.safetensors"):
        with pytest.raises(SoraError, match=r"write it like style\.safetensors:0\.8|is a URL"):
            Lora.parse(text)
    assert Lora.parse("2024") == Lora("2024") and Lora.parse("a:1e-1") == Lora("a", 0.1)
    for strength in ("nan", "inf", "11"):
        with pytest.raises(SoraError, match="strength of a is"):
            Shot("a cat", loras=(Lora.parse(f"a:{strength}"),))
    shot = Shot("a cat", loras=(Lora("a", 0.5), Lora("b")))
    assert Shot.from_json(shot.to_json()) == shot
    with pytest.raises(SoraError, match="loras"):
        Shot.from_json('{"prompt": "x", "loras": [{"path": "a", "strength": "much"}]}')


# ---- videos -------------------------------------------------------------------------------------------------


def random_lora(path: Path, tensors: dict[str, Tensor], seed: int = 0) -> Lora:
    """Rank 2, on all matrices of a transformer's blocks."""
    rng, made = torch.Generator().manual_seed(seed), {}
    for name, value in tensors.items():
        if name.startswith("blocks.") and value.ndim == 2 and name.endswith(".weight"):
            module = f"transformer.{name.removesuffix('.weight')}"
            made[f"{module}.lora_A.weight"] = torch.randn(2, value.shape[1], generator=rng)
            made[f"{module}.lora_B.weight"] = torch.randn(value.shape[0], 2, generator=rng)
    save_file(made, path)
    return Lora(str(path))


def test_wan_takes_one_in_every_placement(tiny: Tiny, checkpoints: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    base = load_dit(checkpoints[wan_folders.WAN22] / "transformer", CPU, FLOAT)
    one = random_lora(tmp_path / "a.safetensors", base.state_dict())
    shot = Shot(**{**vars(SHOT), "loras": (one,)})
    made = [latents(finished(with_loras(tiny(dit=dit), one), shot)) for dit in ("resident", "streamed", "disk")]
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])
    assert not torch.allclose(made[0], latents(finished(tiny())), atol=1e-3)


def with_loras(engine: Engine, *loras: Lora) -> Engine:
    return Engine(registry.entry("tiny"), "cpu", "float32", loras=loras)


@pytest.fixture
def pocket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_models.install(monkeypatch.setattr)
    random_lora(tmp_path / "style.safetensors", tiny_part("tiny", "dit")[0])
    return tmp_path


ASKED = ["generate", "a cat", "--frames", "5", "--res", "64x64", *tiny_models.QUICK]


def ran(*words: str) -> None:
    told = RUNNER.invoke(app, [*words, "--quiet"])
    assert told.exit_code == 0, told.output + repr(told.exception)


def test_generate_merges_it_and_says_so(pocket: Path) -> None:
    ran(*ASKED, "-o", "plain.mp4")
    ran(*ASKED, "-o", "none.mp4", "--lora", "style.safetensors:0")
    ran(*ASKED, "-o", "much.mp4", "--lora", "style.safetensors:0.8")
    ran("generate", "--from", "much.mp4", "-o", "again.mp4", *tiny_models.QUICK)
    made = {name: files.load(f"{name}.safetensors")[0] for name in ("plain", "none", "much", "again")}
    assert torch.equal(made["plain"], made["none"]) and torch.equal(made["much"], made["again"])
    assert not torch.equal(made["plain"], made["much"])
    assert shot_in(Path("much.mp4")).loras == (Lora("style.safetensors", 0.8),)
    assert "LoRA style.safetensors at 0.8, alpha / rank 1" in json.loads(Path("much.json").read_text())["notes"]


def test_the_other_verbs_merge_it_too(pocket: Path) -> None:
    ran(*ASKED, "-o", "a.mp4")
    merging = ["--lora", "style.safetensors:0.5", *tiny_models.QUICK]
    ran("extend", "a.mp4", "--after", "0.2", "-o", "b.mp4", *merging)
    ran("reverse", "a.mp4", "--seconds", "0.2", "-o", "c.mp4", *merging)
    ran("loop", "a.mp4", "-o", "d.mp4", "--seconds", "0.2", *merging)
    ran("loop", "a cat", "-o", "e.mp4", "--seconds", "0.4", "--res", "64x64", *merging)
    for name in "bcde":
        assert shot_in(Path(f"{name}.mp4")).loras == (Lora("style.safetensors", 0.5),)


def test_another_lora_is_another_video(pocket: Path) -> None:
    engine = Engine(registry.entry("pocket"), "cpu", "float32", loras=[Lora("style.safetensors")])
    run = engine.start(Shot("a cat", width=64, height=64, frames=5, loras=(Lora("style.safetensors"),)))
    before = run.identity()
    assert run.identity() == before
    random_lora(pocket / "style.safetensors", tiny_part("tiny", "dit")[0], seed=1)
    assert run.identity() != before


def test_what_lies_beside_does_not_overwrite_it(pocket: Path) -> None:
    before = Path("style.safetensors").read_bytes()
    told = RUNNER.invoke(app, [*ASKED, "-o", "style.mp4", "--force", "--lora", "style.safetensors"])
    assert isinstance(told.exception, SoraError) and "would overwrite the LoRA" in str(told.exception)
    assert Path("style.safetensors").read_bytes() == before
    told = RUNNER.invoke(app, [*ASKED, "-o", "x.mp4", "--lora", "nowhere.safetensors"])
    assert isinstance(told.exception, SoraError) and "there is no LoRA nowhere" in str(told.exception)


# ---- training -----------------------------------------------------------------------------------------------


def options(out: Path, **changes: Any) -> LoraOptions:
    plain = {"data": "clips", "steps": 40, "batch": 2, "seed": 3, "out": out, "device": "cpu", "dtype": "float32",
             "rank": 2}  # fmt: skip
    return LoraOptions(**(plain | changes))


def learn(options: LoraOptions, model: str = "pocket") -> Path:
    return training.train(options, registry.entry(model))


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "RATES", {"sora": 3e-2, "wan": 3e-2})
    monkeypatch.setattr(training, "DROP_TEXT", 0.0)


def encoded(folder: Path, model: str, shape: tuple[int, ...], width: int, height: int, fps: float = 24.0) -> None:
    """One clip as `encode` leaves it, with its caption beside."""
    folder.mkdir()
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.5 + 1
    frames = 1 + 4 * (shape[1] - 1)
    files.save(folder / "a.safetensors", made, files.Header.of(registry.entry(model), width, height, fps, frames))
    (folder / "a.txt").write_text("a cat in the snow\n")


def test_ours_learns_a_clip_and_generates_with_it(pocket: Path, quick: None) -> None:
    encoded(pocket / "clips", "pocket", (6, 3, 4, 4), 64, 64)
    path = learn(options(pocket / "run"))
    assert path == pocket / "run" / "lora.safetensors"
    told = losses(pocket / "run")
    assert told[-1] < 0.8 * told[0]
    ran(*ASKED, "-o", "plain.mp4")
    ran(*ASKED, "-o", "mine.mp4", "--lora", str(path))
    made = [files.load(f"{name}.safetensors")[0] for name in ("plain", "mine")]
    assert not torch.allclose(*made, atol=1e-2)


def test_the_rendered_world_teaches_too(pocket: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(1, 2, 2)
    monkeypatch.setattr(training, "GROWN", (Phase(0.0, ((bucket, 1.0),)),))
    monkeypatch.setattr(training.dit_training, "WINDOW", 2)
    told = RUNNER.invoke(app, ["train", "lora", "--steps", "2", "--batch", "1", "--rank", "2", "--out", "w",
                               "--device", "cpu", "--dtype", "float32"])  # fmt: skip
    assert told.exit_code == 0, told.output + repr(told.exception)
    assert told.stdout.strip() == "w/lora.safetensors"
    header = json.loads(reading_header(Path("w/lora.safetensors"))["training"])
    assert header["model"] == "pocket" and header["rank"] == "2"


def reading_header(path: Path) -> dict[str, str]:
    return training.weights.read_header(path).metadata


@pytest.mark.parametrize("kind", [wan_folders.WAN22, wan_folders.SKYREELS2])
def test_wan_learns_a_clip(tiny: Tiny, tmp_path: Path, quick: None, kind: str) -> None:  # noqa: F811
    """What is trained is what is merged: the network with its file computes what it did beside its factors."""
    pipeline = tiny(kind).pipeline
    encoded(tmp_path / "clips", "tiny", (6, 2, 4, 6) if kind == wan_folders.WAN22 else (4, 2, 8, 12), 96, 64)
    asked = options(tmp_path / "run", data=str(tmp_path / "clips"), rank=4, steps=40)
    path = learn(asked, "tiny")
    told = losses(tmp_path / "run")
    assert told[-1] < 0.8 * told[0]
    header = reading_header(path)
    assert header["base_model"] == "tiny" and header["rank"] == header["alpha"] == "4"
    settings = json.loads(header[ADAPTED_BY])
    assert settings["transformer.r"] == settings["transformer.lora_alpha"] == 4
    keys = {stored.key for stored in reading.about(path)[1]}
    assert "transformer.blocks.0.attn1.to_out.0.lora_A.weight" in keys and len(keys) == 2 * 2 * 10
    merged = load_dit(pipeline.paths["dit"], CPU, FLOAT, loras=[Lora(str(path))])
    base = load_dit(pipeline.paths["dit"], CPU, FLOAT)
    assert error(merged, pipeline, tmp_path / "clips") < 0.8 * error(base, pipeline, tmp_path / "clips")


@torch.no_grad()
def error(network: WanDit, pipeline: Any, folder: Path) -> float:
    """The loss on the clip, at noise of its own."""
    x, rng, found = files.load(folder / "a.safetensors")[0], generator(99, 0), 0.0
    text = pipeline.read(["a cat in the snow"], None)
    for t in (0.4, 0.6, 0.8, 0.95):
        noise = torch.randn(x.shape, generator=rng)
        made = network(torch.lerp(x, noise, t)[None], torch.tensor([[1000 * t]]), text, 24.0)[0]
        found += float((made - (noise - x)).square().mean())
    return found


def test_checkpointing_changes_no_gradient(folder: Path) -> None:
    x, t, words = dit_inputs().values()
    found = []
    for recomputed in (False, True):
        network = load_dit(folder, CPU, FLOAT)
        torch.manual_seed(0)
        adapter = training.Adapter(network, 2)
        for part in adapter.factors:
            torch.nn.init.normal_(part.up)  # type: ignore[arg-type]
        if recomputed:
            training.dit_training.recompute(network.blocks)
        network(x, t, words).square().mean().backward()
        found.append([part.grad for part in adapter.parameters()])
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_a_gradient_is_the_slope(folder: Path) -> None:
    """What writes over its input for sampling must not do so under a gradient."""
    x, t, words = dit_inputs().values()
    network = load_dit(folder, CPU, FLOAT).double()
    given = x.double(), t, words.double()
    adapter = training.Adapter(network, 2).double()
    torch.manual_seed(1)
    part = adapter.factors[0]
    ahead = torch.randn_like(part.up)  # type: ignore[arg-type]

    def value(by: float) -> Tensor:
        with torch.no_grad():
            part.up.copy_(by * ahead)  # type: ignore[operator]
        return network(*given).double().square().mean()

    value(0.0).backward()
    slope = float((part.up.grad * ahead).sum())  # type: ignore[operator]
    with torch.no_grad():
        measured = float(value(1e-2) - value(-1e-2)) / 2e-2
    assert slope == pytest.approx(measured, rel=2e-2)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"data": "empty"}, "has no latents; make some: sora-cli encode CLIP --model pocket"),
        ({"rank": 17}, "--rank is 17; it must be 1 to 16 for this model"),
    ],
)
def test_trainings_that_cannot_be_are_refused(pocket: Path, changes: dict[str, Any], wrong: str) -> None:
    encoded(pocket / "clips", "pocket", (6, 3, 4, 4), 64, 64)
    (pocket / "empty").mkdir()
    with pytest.raises(SoraError, match=wrong):
        learn(options(pocket / "run", **changes))
    assert not (pocket / "run").exists()


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--data", "nowhere"], "there is no folder nowhere"),
        (["--model", "tiny"], "the rendered world is for our own models; tiny learns from --data FOLDER"),
        (["--model", "./mine"], "there is no model in mine"),
        (["--model", "few"], "few is distilled to a few steps, which training would undo"),
        (["--model", "dmd"], "dmd is distilled to a few steps, which training would undo"),
        (["--model", "two"], "two is made of two transformers, which are not trained here"),
        (["--model", "pictures"], "pictures is made of two transformers, which are not trained here"),
    ],
)
def test_what_cannot_teach_is_refused_before_any_download(
    pocket: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], wrong: str
) -> None:
    usages = {"tiny": {}, "pocket": {}, "few": {"solver": "lightx2v"}, "dmd": {"solver": "dmd"},
              "two": {"boundary": 0.9}, "pictures": {"conditioned": True}}  # fmt: skip
    models = {name: registry.Entry(name, "wan", "a test", usage=registry.SamplingDefaults(**usage))
              for name, usage in usages.items()}  # fmt: skip
    monkeypatch.setattr(registry, "registry", lambda: models)
    told = RUNNER.invoke(app, ["train", "lora", *words])
    assert isinstance(told.exception, SoraError) and wrong in str(told.exception)


def test_latents_of_others_and_without_words_are_refused(pocket: Path) -> None:
    encoded(pocket / "clips", "pocket", (6, 3, 4, 4), 64, 64)
    Path("clips/a.txt").unlink()
    with pytest.raises(SoraError, match=r"a.safetensors has no caption; write it into a\.txt"):
        learn(options(pocket / "run"))
    made, header = files.load("clips/a.safetensors")
    files.save("clips/a.safetensors", made, dataclasses.replace(header, vae="0" * 64))
    with pytest.raises(SoraError, match="was made with the autoencoder"):
        learn(options(pocket / "run"))


def test_a_run_goes_on_only_as_it_began(pocket: Path, quick: None) -> None:
    encoded(pocket / "clips", "pocket", (6, 3, 4, 4), 64, 64)
    learn(options(pocket / "run", steps=2))
    with pytest.raises(SoraError, match="another training run: rank was 2 and is now 3; --fresh"):
        learn(options(pocket / "run", steps=4, rank=3))
    entry, path = registry.entry("pocket"), pocket / "dit.safetensors"
    (dit,) = entry.part("dit")
    path.write_bytes(dit.path.read_bytes()[:-1] + b"\0")
    exchanged = dataclasses.replace(entry, files=(*entry.part("vae"), dataclasses.replace(dit, path=path)))
    with pytest.raises(SoraError, match="holds another training run: weights was"):
        training.train(options(pocket / "run", steps=4), exchanged)
    learn(options(pocket / "run", steps=4))


@pytest.mark.parametrize("key", ["base_model", "ss_base_model_version", "modelspec.architecture"])
def test_what_it_was_trained_on_is_said_by_whatever_name(folder: Path, tmp_path: Path, key: str) -> None:
    name = "blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)}
    save_file(tensors, tmp_path / "a.safetensors", {key: "another-model"})
    assert "trained on another-model" in lora.note(Lora(str(tmp_path / "a.safetensors")))
