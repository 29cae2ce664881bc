"""The Wan transformer against diffusers', in float32 on the CPU."""

from typing import Any

import pytest
import torch
from reference import reference
from torch import nn
from wan_cases import SKYREELS, WAN, distance, dit_inputs, fill, told

from sora_cli.models.wan.dit import WanConfig, WanDit

pytestmark = pytest.mark.parity
WanTransformer3DModel = reference("diffusers", "WanTransformer3DModel")
SkyReelsV2Transformer3DModel = reference("diffusers", "SkyReelsV2Transformer3DModel")


def pair(kind: Any, config: dict[str, Any]) -> tuple[nn.Module, WanDit]:
    """The reference and ours with the same weights, through the reference's own configuration file."""
    theirs = fill(kind(**config))
    ours = WanDit(WanConfig.from_hub(theirs.config))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours.eval()


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
