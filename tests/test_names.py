"""The authors' names of the parameters of Wan against ours: pairs that were made with the authors' own code and
diffusers' conversion scripts, and stored by module."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sora_cli.models.wan import names

DATA = Path(__file__).parent / "data"
CHECKPOINTS: dict[str, Any] = json.loads((DATA / "wan_keys.json").read_text())
ORIGINAL: dict[str, dict[str, str]] = json.loads((DATA / "wan_original_names.json").read_text())
TABLES = {"wan2.1-vae": names.VAE21, "wan2.2-vae": names.VAE22}
LEAF = r"\.(weight|bias|gamma)$"


def keys(name: str) -> list[str]:
    """All parameters of a published network, every block's."""
    known = CHECKPOINTS[name]
    spread = [(key, known["repeats"] if "*" in key else 1) for key in known["keys"]]
    return [key.replace("*", str(i)) for key, times in spread for i in range(times)]


def stored(name: str) -> dict[str, str]:
    """Ours to the authors', of one checkpoint."""
    modules = {ours: theirs for theirs, ours in ORIGINAL.get(name, ORIGINAL["dit"]).items()}
    pairs = {}
    for key in keys(name):
        block = "".join(re.findall(r"^blocks\.(\d+)", key)) if name not in ORIGINAL else ""
        stem, leaf = re.sub(LEAF, "", key), "".join(re.findall(r"\.(?:weight|bias|gamma)$", key))
        module = modules[re.sub(r"^blocks\.\d+", "blocks.*", stem) if block else stem]
        pairs[key] = module.replace("*", block) + leaf
    return pairs


@pytest.mark.parametrize("name", [name for name, known in CHECKPOINTS.items() if known["kind"] != "text"])
def test_names_are_those_of_the_authors_both_ways(name: str) -> None:
    table, pairs = TABLES.get(name, names.DIT), stored(name)
    assert {ours: table.ours_to_original(ours) for ours in pairs} == pairs
    assert {theirs: table.original_to_ours(theirs) for theirs in pairs.values()} == {t: o for o, t in pairs.items()}
    assert len(set(pairs.values())) == len(pairs) == len(keys(name))


@pytest.mark.parametrize("name", [name for name, known in CHECKPOINTS.items() if known["kind"] != "text"])
def test_our_own_names_stay(name: str) -> None:
    table = TABLES.get(name, names.DIT)
    assert [table.original_to_ours(key) for key in keys(name)] == keys(name)


def test_strange_names_stay_strange() -> None:
    for strange in ("blocks.x.ffn.0.weight", "blocks.0.ffn.1.weight", "xblocks.0.ffn.0.weight", "img_emb.proj.0"):
        assert names.DIT.original_to_ours(strange) == strange
    assert names.DIT.original_to_ours("model.diffusion_model.head.head.bias") == "proj_out.bias"


def test_the_text_encoder_has_one_table_whatever_it_is_called() -> None:
    own = keys("umt5-xxl")
    assert [names.text_to_ours(key, tied=False) for key in own] == own
    assert names.text_to_ours("encoder.embed_tokens.weight", tied=False) == "shared.weight"
    assert names.text_to_ours("encoder.embed_tokens.weight", tied=True) is None
    assert names.text_to_ours("spiece_model", tied=False) is None


def test_this_test_can_fail() -> None:
    pairs = stored("wan2.1-t2v-1.3b")
    assert pairs["blocks.7.norm2.weight"] == "blocks.7.norm3.weight"
    assert pairs["blocks.29.attn2.to_out.0.bias"] == "blocks.29.cross_attn.o.bias"
    upsampler = stored("wan2.1-vae")["decoder.up_blocks.2.upsamplers.0.resample.1.bias"]
    assert upsampler == "decoder.upsamples.11.resample.1.bias"
