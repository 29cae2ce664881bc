"""The Wan autoencoders against diffusers', in float32 on the CPU."""

from typing import Any

import pytest
import torch
from reference import reference
from wan_cases import VAE21, VAE22, clip, distance, fill, latents, told

from sora_cli.models.wan.vae import WanVae, WanVaeConfig

pytestmark = pytest.mark.parity
AutoencoderKLWan = reference("diffusers", "AutoencoderKLWan")


def pair(config: dict[str, Any]) -> tuple[Any, WanVae]:
    theirs = fill(AutoencoderKLWan(**config))
    ours = WanVae(WanVaeConfig.from_hub(theirs.config))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours.eval()


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5, 17])
@pytest.mark.parametrize("config", [VAE21, VAE22])
def test_encoding(config: dict[str, Any], frames: int) -> None:
    theirs, ours = pair(config)
    expected = theirs.encode(clip(frames)).latent_dist.mode()
    mean, std = ours.statistics(expected)
    found = ours.encode(clip(frames)) * std + mean
    assert told(f"encode {frames} frames, {config['z_dim']} channels", distance(found, expected)) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("config", [VAE21, VAE22])
def test_decoding(config: dict[str, Any], count: int) -> None:
    theirs, ours = pair(config)
    z = latents(ours.config.channels, count)
    mean, std = ours.statistics(z)
    expected = theirs.decode(z * std + mean, return_dict=False)[0]
    assert expected.abs().mean() < 0.9, "the comparison is of clipped pixels"
    assert told(f"decode {count} latents, {config['z_dim']} channels", distance(ours.decode(z), expected)) <= 1e-5
