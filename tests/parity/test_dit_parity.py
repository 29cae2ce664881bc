"""The Wan transformer against diffusers', in float32 on the CPU."""

from typing import Any

import pytest
import torch
from reference import read_as_published, reference
from torch import nn
from wan_cases import SKYREELS, WAN, distance, dit_inputs, fill, told

from sora_cli.models.wan.configs import WanConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.pipelines import presets
from sora_cli.pipelines.loading import load_dit
from sora_cli.placement.machine import host_free

pytestmark = pytest.mark.parity
WanTransformer3DModel = reference("diffusers", "WanTransformer3DModel")
SkyReelsV2Transformer3DModel = reference("diffusers", "SkyReelsV2Transformer3DModel")


def pair(kind: Any, config: dict[str, Any]) -> tuple[nn.Module, WanDit]:
    """The reference and ours with the same weights, through the reference's own files."""
    theirs = fill(kind(**config))
    return theirs, read_as_published(theirs, load_dit)


@torch.no_grad()
def test_one_timestep_for_the_whole_clip() -> None:
    theirs, ours = pair(WanTransformer3DModel, WAN)
    x, text = dit_inputs()["x"], dit_inputs()["text"]
    t = torch.tensor([999, 17])
    expected = theirs(x, t, text, return_dict=False)[0]
    found = ours(x, t[:, None], text)
    assert told("dit, one timestep", distance(found, expected)) <= 1e-6


@torch.no_grad()
@pytest.mark.parametrize("per_token", [False, True])
def test_a_timestep_for_every_frame_or_token(per_token: bool) -> None:
    """The reference takes one timestep a token; a frame's tokens share theirs, or each has its own."""
    theirs, ours = pair(WanTransformer3DModel, WAN)
    x, t, text = dit_inputs().values()
    tokens = t[..., None, None].expand(-1, -1, x.shape[3] // 2, x.shape[4] // 2).clone()
    if per_token:
        tokens += torch.arange(tokens.numel()).reshape(tokens.shape)
    expected = theirs(x, tokens.flatten(1), text, return_dict=False)[0]
    assert told("dit, many timesteps", distance(ours(x, tokens if per_token else t, text), expected)) <= 1e-6


@torch.no_grad()
@pytest.mark.parametrize("fps", [16, 24])
def test_diffusion_forcing_with_a_frame_rate(fps: int) -> None:
    """The reference adds the frame rate to one clip at a time; ours takes both together."""
    theirs, ours = pair(SkyReelsV2Transformer3DModel, SKYREELS)
    x, t, text = dit_inputs().values()
    row = [int(fps != 16)]
    each = [theirs(*one, enable_diffusion_forcing=True, fps=row, return_dict=False)[0]
            for one in zip(x.split(1), t.split(1), text.split(1), strict=True)]  # fmt: skip
    assert told("dit, skyreels", distance(ours(x, t, text, fps), torch.cat(each))) <= 1e-6


@torch.no_grad()
def test_bfloat16_differs_by_its_rounding() -> None:
    theirs, ours = pair(WanTransformer3DModel, WAN)
    x, t, text = dit_inputs().values()
    exact = ours(x, t, text)
    rounded = ours.to(torch.bfloat16)(x.bfloat16(), t, text.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert told("dit, bfloat16", distance(rounded.float(), exact) / float(exact.abs().max())) <= 3e-2


def as_published(config: WanConfig) -> dict[str, Any]:
    """A configuration of ours as the reference's arguments."""
    told = WAN | {
        "num_attention_heads": config.heads, "attention_head_dim": config.head_width, "in_channels": config.inputs,
        "out_channels": config.outputs, "text_dim": config.text_width, "freq_dim": config.waves,
        "ffn_dim": config.hidden, "num_layers": config.layers, "eps": config.eps,
    }  # fmt: skip
    return told | ({"inject_sample_info": True} if config.paced else {})


@pytest.mark.parametrize("name", presets.DITS)
def test_the_published_networks_have_our_keys_and_shapes(name: str) -> None:
    config = presets.DITS[name]
    kind = SkyReelsV2Transformer3DModel if config.paced else WanTransformer3DModel
    with torch.device("meta"):
        ours, theirs = WanDit(config), kind(**as_published(config))
    shapes = [{key: tuple(value.shape) for key, value in one.state_dict().items()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 800


@torch.no_grad()
@pytest.mark.skipif(host_free() < 9e9, reason="needs 9 GB of memory")
def test_the_real_size() -> None:
    """Wan 2.1 1.3B with random weights, which both networks share; a timestep for every frame."""
    (config,) = (config for config in presets.DITS.values() if config.width == 1536 and not config.paced)
    theirs = WanTransformer3DModel(**as_published(config)).eval().requires_grad_(False)
    with torch.device("meta"):
        ours = WanDit(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    rng = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 16, 4, 16, 20, generator=rng), torch.randn(1, 20, 4096, generator=rng)
    t = torch.tensor([[0, 731, 731, 731]])
    tokens = t[..., None].expand(-1, -1, 80).flatten(1)
    expected = theirs(x, tokens, text, return_dict=False)[0]
    assert told("dit, 1.3B, 320 tokens", distance(ours(x, t, text), expected) / float(expected.abs().max())) <= 1e-5
