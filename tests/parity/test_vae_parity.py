"""The Wan autoencoders against diffusers', in float32 on the CPU."""

from typing import Any

import pytest
import torch
from reference import read_as_published, reference
from wan_cases import VAE21, VAE22, clip, distance, fill, latents, told

from sora_cli.models.wan.configs import WanVaeConfig
from sora_cli.models.wan.vae import WanVae
from sora_cli.pipelines import presets
from sora_cli.pipelines.loading import load_vae

pytestmark = pytest.mark.parity
AutoencoderKLWan = reference("diffusers", "AutoencoderKLWan")


def pair(config: dict[str, Any]) -> tuple[Any, WanVae]:
    """The reference and ours with the same weights, through the reference's own files."""
    theirs = fill(AutoencoderKLWan(**config))
    return theirs, read_as_published(theirs, load_vae)


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


@pytest.mark.parametrize("config", [presets.VAE21, presets.VAE22], ids=["Wan 2.1", "Wan 2.2"])
def test_the_published_networks_have_our_keys_and_shapes(config: WanVaeConfig) -> None:
    told: dict[str, Any] = {
        "base_dim": config.width, "decoder_base_dim": config.decoder_width, "z_dim": config.channels,
        "dim_mult": list(config.multiples), "num_res_blocks": config.blocks, "is_residual": config.residual,
        "temperal_downsample": list(config.halves_time), "in_channels": 3 * config.patch**2,
        "out_channels": 3 * config.patch**2, "patch_size": config.patch if config.patch > 1 else None,
        "latents_mean": list(config.mean), "latents_std": list(config.std),
    }  # fmt: skip
    with torch.device("meta"):
        ours, theirs = WanVae(config), AutoencoderKLWan(**told)
    shapes = [{key: tuple(value.shape) for key, value in one.state_dict().items()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 190
