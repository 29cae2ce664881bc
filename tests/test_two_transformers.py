"""What the registry knows of models of two transformers: tables, folders, repositories, sizes, and what they cost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wan_folders
from hub_server import Hub

from sora_cli import registry
from sora_cli.errors import SoraError
from sora_cli.generation.plan import plan
from sora_cli.models.wan import names
from sora_cli.placement.estimate import wan as estimates
from sora_cli.placement.estimate.throughput import Rates
from sora_cli.placement.machine import Free
from sora_cli.placement.sizes import blocks_of
from sora_cli.registry import comfy, families, hub
from sora_cli.sampling.planner import Window
from sora_cli.shot import Shot

T2V, I2V = "wan2.2-a14b", "wan2.2-a14b-i2v"
VARIANTS = ("", "-fp16", "-fp8", "-gguf", "-lightning")


@pytest.mark.parametrize(("name", "boundary", "guidance", "shift"), [(T2V, 0.875, (4.0, 3.0), 12.0),
                                                                     (I2V, 0.9, (3.5, 3.5), 5.0)])  # fmt: skip
def test_settings_are_those_of_the_authors(name: str, boundary: float, guidance: tuple[float, float],
                                           shift: float) -> None:  # fmt: skip
    for variant in VARIANTS[:-1]:
        usage = registry.entry(name + variant).usage
        assert (usage.boundary, usage.shift, usage.steps, usage.fps, usage.frames) == (boundary, shift, 40, 16.0, 81)
        assert (usage.guidance, usage.guidance_low or usage.guidance) == guidance
    usage = registry.entry(name + "-lightning").usage
    assert (usage.solver, usage.steps, usage.shift, usage.boundary) == ("lightx2v", 4, 5.0, boundary)
    assert (usage.guidance, usage.guidance_low, usage.conditioned) == (1.0, 0.0, name == I2V)


@pytest.mark.parametrize("name", [T2V, I2V])
def test_files_are_named_and_shared(name: str) -> None:
    """Of the variants in ComfyUI's files, every part but the tokenizer's is one file; Lightning's are those of fp8."""
    for variant in VARIANTS[1:]:
        parts = {part.role: part for part in registry.entry(name + variant).parts}
        assert {"dit", "dit_low", "vae", "text", "tokenizer"} <= parts.keys()
        high, low = (parts[role].names for role in ("dit", "dit_low"))
        assert len(high) == len(low) == 1 and high[0].replace("high", "low").replace("High", "Low") == low[0]
        assert comfy.HALF.search(high[0]) and ("i2v" in high[0].lower()) == (name == I2V)
    eight, fast = ({part.role: part for part in registry.entry(name + variant).parts}
                   for variant in ("-fp8", "-lightning"))  # fmt: skip
    assert {role: fast[role] for role in eight} == eight and fast.keys() - eight.keys() == {"lora", "lora_low"}


def test_real_sizes_are_told_apart() -> None:
    """By the keys and shapes of the published networks; T2V A14B has those of Wan 2.1 14B."""
    told = json.loads((Path(__file__).parent / "data" / "wan_keys.json").read_text())["wan2.1-14b"]
    shapes = {names.DIT.ours_to_original(key.replace("*", str(i))): tuple(int(side) for side in shape.split("x"))
              for key, shape in told["keys"].items() for i in range(told["repeats"] if "*" in key else 1)}  # fmt: skip
    seeing = shapes | {"patch_embedding.weight": (5120, 36, 1, 2, 2)}
    assert families.seems(seeing) == "a Wan transformer"
    fitting = [{entry.name.removesuffix(variant) for entry in registry.registry().values() for variant in VARIANTS[1:]
                if entry.network and comfy.is_dit(some, entry.network.dit)} & {T2V, I2V, "wan2.1-14b", "skyreels2-14b"}
               for some in (shapes, seeing)]  # fmt: skip
    assert fitting == [{T2V, "wan2.1-14b", "skyreels2-14b"}, {I2V}]
    network = registry.entry(I2V).network
    assert network is not None
    assert blocks_of(network.dit).weights == 14_288_901_184, "20 channels of 5120 x 4 more than text to video"


MINE = """
[mine]
kind = "wan"
about = "two"
like = "wan2.2-a14b"
parts = [{ role = "dit", path = "a" }, { role = "dit_low", path = "b" }, { role = "vae", path = "c" }]
"""
BROKEN = {
    "a boundary for one": (MINE.replace('{ role = "dit_low", path = "b" }, ', ""), "boundary = 0.875; with"),
    "no boundary for two": (MINE + "[mine.usage]\nboundary = 0.0", "boundary = 0; with a part of role"),
    "a boundary beyond all noise": (MINE + "[mine.usage]\nboundary = 1.5", "it must be between 0 and 1"),
    "a LoRA for no transformer": (MINE.replace("dit_low", "lora_low") + "[mine.usage]\nboundary = 0.0",
                                  "no 'dit_low' to merge it into"),
    "guidance of a wrong type": (MINE + '[mine.usage]\nguidance_low = "3"', "guidance_low = '3'; it must be a number"),
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "sora-cli").mkdir(parents=True)
    return tmp_path / "config" / "sora-cli"


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_table_is_one_line(fault: str, home: Path) -> None:
    content, line = BROKEN[fault]
    (home / "weights.toml").write_text(content)
    with pytest.raises(SoraError) as caught:
        registry.entry("mine")
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_the_example_of_the_documentation(home: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "hub.md").read_text(encoding="utf-8")
    (home / "weights.toml").write_text(page.split("```toml\n")[2].split("```")[0])
    found, like = registry.entry("my-four-steps"), registry.entry("wan2.2-a14b-lightning")
    assert found.usage == like.usage and found.network == like.network
    assert [part.role for part in found.parts] == ["dit", "dit_low", "lora", "lora_low", "vae", "text", "tokenizer"]


@pytest.mark.parametrize(("kind", "like"), [(wan_folders.A14B, T2V), (wan_folders.A14B_I2V, I2V)])
def test_a_folder_of_two(kind: str, like: str, tmp_path: Path) -> None:
    folder = wan_folders.write_two(tmp_path / "model", kind, channels=16)
    found, known = registry.entry(str(folder)), registry.entry(like)
    assert found.usage == registry.replace(known.usage, boundary=0.85), "its model_index.json has another one"
    assert [part.role for part in found.parts] == ["dit", "dit_low", "vae", "text", "tokenizer"]
    assert found.network and (found.network.dit.outputs, found.network.dit.inputs) == (16, 16 + 20 * (like == I2V))
    index = folder / "model_index.json"
    for told in ("{}", '{"boundary_ratio": null}'):
        index.write_text(told)
        assert registry.entry(str(folder)).usage == known.usage
    for told in ("2.0", '"x"', "true", "[0.5]", "NaN"):
        index.write_text(f'{{"boundary_ratio": {told}}}')
        with pytest.raises(SoraError, match=r"has boundary_ratio .*; it must be between 0 and 1"):
            registry.entry(str(folder))
    index.write_text("{}")
    config = folder / "transformer_2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": 3}))
    with pytest.raises(SoraError, match="two transformers that differ in num_layers"):
        registry.entry(str(folder))


def test_a_half_of_two_is_not_taken_for_a_whole(tmp_path: Path) -> None:
    folder = wan_folders.write_two(tmp_path / "model", wan_folders.A14B, channels=16)
    index = folder / "model_index.json"
    shutil.rmtree(folder / "transformer_2")
    for told in (["diffusers", "WanTransformer3DModel"], ["x", "Y"]):
        index.write_text(json.dumps({"transformer_2": told, "boundary_ratio": 0.875}))
        with pytest.raises(SoraError, match=r"lacks transformer_2/, which its model_index\.json names"):
            registry.entry(str(folder))
    for one in ([None, None], None):
        index.write_text(json.dumps({"transformer_2": one, "boundary_ratio": None}))
        assert [part.role for part in registry.entry(str(folder)).parts][:2] == ["dit", "vae"]


def test_a_repository_of_two(server: Hub, tmp_path: Path) -> None:
    server.publish("tiny/two", wan_folders.write_two(tmp_path / "two", wan_folders.A14B, channels=16))
    entry = registry.entry("hf:tiny/two")
    assert entry.usage == registry.replace(registry.entry(T2V).usage, boundary=0.85)
    hub.pull(entry, yes=True)
    assert list(hub.locate(entry)) == ["dit", "dit_low", "vae", "text", "tokenizer"]


def cost(name: str, shot: dict[str, Any], windows: int = 1) -> Any:
    frames = [Window((), tuple(range(21 * n, 21 * n + 21))) for n in range(windows)]
    usage = registry.entry(name).usage
    asked = {"steps": usage.steps, "guidance": usage.guidance, "guidance_low": usage.guidance_low} | shot
    whole = Shot("a cat", width=832, height=480, frames=81, fps=16.0, model=name, plan="sliding", **asked)
    planned = replace(plan(whole, registry.entry(name)), windows=tuple(frames))
    free = Free("cuda", 40e9, 60e9)
    return estimates.estimate(planned, Rates(1e14, 1e14, 1e13), free, 2)


def test_one_transformer_counts_at_a_time_and_every_switch_reads_one() -> None:
    one, two = cost("wan2.1-14b", {"steps": 40}), cost(T2V, {})
    assert two.peak == one.peak and (one.experts, two.experts, two.switches) == ((), (26, 14), 1)
    assert two.products == one.products, "eighty passes each"
    assert two.seconds["loading"] - one.seconds["loading"] == pytest.approx(57.15, rel=1e-6)
    assert cost(T2V, {}, windows=3).switches == 5
    packed = cost(T2V + "-fp8", {})
    assert packed.seconds["loading"] == pytest.approx(2 * 14.3 + 0.5, abs=0.1)
    fast = cost(T2V + "-lightning", {})
    assert (fast.experts, fast.switches) == ((2, 2), 1) and fast.products * 20 == pytest.approx(two.products)
    half = cost(T2V, {"guidance": 1.0, "guidance_low": 3.0})
    assert half.products == pytest.approx(two.products * (26 + 2 * 14) / 80)
    assert cost(I2V, {}).seconds["encoding"] > 0 and "encoding" not in two.seconds
