"""Text-to-video and image-to-video from end to end against diffusers' pipelines: transformer, autoencoder, UniPC,
guidance and the known first frame together."""

from typing import Any

import pytest
import torch
from reference import reference
from test_dit_parity import WanTransformer3DModel
from test_dit_parity import pair as dit_pair
from test_solver_parity import UniPCMultistepScheduler
from test_vae_parity import pair as vae_pair
from torch import Tensor
from wan_cases import VAE22, WAN, distance, told

from sora_cli.sampling.solvers import timesteps, unipc, unipc_sigmas

pytestmark = pytest.mark.parity
WanPipeline = reference("diffusers", "WanPipeline")
WanImageToVideoPipeline = reference("diffusers", "WanImageToVideoPipeline")

RNG = torch.Generator().manual_seed(0)
NOISE = torch.randn(1, VAE22["z_dim"], 5, 4, 4, generator=RNG)
TEXT, NEGATIVE = torch.randn(2, 1, 12, WAN["text_dim"], generator=RNG)
IMAGE = torch.rand(1, 3, 64, 64, generator=RNG)
CALL: dict[str, Any] = {
    "prompt_embeds": TEXT, "negative_prompt_embeds": NEGATIVE, "latents": NOISE, "height": 64, "width": 64,
    "num_frames": 17, "num_inference_steps": 6, "guidance_scale": 5.0, "output_type": "pt",
}  # fmt: skip
NETWORKS = dit_pair(WanTransformer3DModel, WAN | {"in_channels": 6, "out_channels": 6}) + vae_pair(VAE22)


def parts() -> dict[str, Any]:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    return {"tokenizer": None, "text_encoder": None, "transformer": NETWORKS[0], "vae": NETWORKS[2],
            "scheduler": scheduler}  # fmt: skip


def made(start: Tensor | None = None) -> Tensor:
    """Frames [1, T, 3, H, W] in 0..1; start: the latent of a known first frame."""
    _, dit, _, vae = NETWORKS
    known = torch.tensor([[start is not None, *[False] * 4]])

    def given(x: Tensor) -> Tensor:
        return x if start is None else torch.cat([start, x[:, :, 1:]], 2)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        t = timesteps(sigma) * ~known
        towards, away = dit(given(x), t, TEXT), dit(given(x), t, NEGATIVE)
        return away + 5 * (towards - away)

    *_, x = unipc(velocity, NOISE, unipc_sigmas(6, 5.0))
    return (vae.decode(given(x)) / 2 + 0.5).transpose(1, 2)


@torch.no_grad()
def test_text_to_video() -> None:
    pipeline = WanPipeline(**parts())
    pipeline.set_progress_bar_config(disable=True)
    assert told("text to video, pixels", distance(made(), pipeline(**CALL).frames)) <= 1e-5


@torch.no_grad()
def test_image_to_video() -> None:
    pipeline = WanImageToVideoPipeline(**parts(), expand_timesteps=True)
    pipeline.set_progress_bar_config(disable=True)
    start = NETWORKS[3].encode(IMAGE[:, :, None] * 2 - 1)
    expected = pipeline(image=IMAGE, **CALL).frames
    assert distance(expected, made()) > 1e-2, "the image changes nothing"
    assert told("image to video, pixels", distance(made(start), expected)) <= 1e-5
