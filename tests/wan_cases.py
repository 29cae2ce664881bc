"""The tiny Wan networks that the parity tests hold against the references and that the golden files were made of."""

from typing import Any

import torch
from torch import Tensor, nn

WAN: dict[str, Any] = {  # as in a config.json
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 20, "in_channels": 4, "out_channels": 4,
    "text_dim": 16, "freq_dim": 32, "ffn_dim": 48, "num_layers": 2, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "image_dim": None, "added_kv_proj_dim": None,
    "rope_max_seq_len": 32,
}  # fmt: skip
SKYREELS = WAN | {"inject_sample_info": True}
UMT5: dict[str, Any] = {
    "model_type": "umt5", "feed_forward_proj": "gated-gelu", "vocab_size": 50, "d_model": 24, "num_heads": 3, "d_kv": 8,
    "d_ff": 40, "num_layers": 2, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}  # fmt: skip
VAE21: dict[str, Any] = {
    "base_dim": 4, "z_dim": 4, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [],
    "temperal_downsample": [False, True, True], "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.0, 2.0, 0.5, 1.5],
}  # fmt: skip
VAE22: dict[str, Any] = {
    "base_dim": 4, "decoder_base_dim": 8, "z_dim": 6, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [],
    "temperal_downsample": [False, True, True], "is_residual": True, "in_channels": 12, "out_channels": 12,
    "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [0.1, -0.2, 0.3, 0.0, 0.5, -0.4],
    "latents_std": [1.0, 2.0, 0.5, 1.5, 0.8, 1.2],
}  # fmt: skip


def fill(network: nn.Module, seed: int = 0) -> nn.Module:
    """Numbers of a trained network's size in every parameter, the same for the same names, shapes and seed.

    No parameter keeps its initial value, so that a bias or a norm that is not read cannot go unnoticed."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(network.state_dict().items()):
            noise = torch.randn(value.shape, generator=rng)
            if name.endswith("bias") or "table" in name:
                value.copy_(0.3 * noise)
            elif value.numel() == value.shape[0]:  # the gain of a norm
                value.copy_(1 + 0.3 * noise)
            else:
                value.copy_(0.7 * noise / value[0].numel() ** 0.5)
    return network.eval().requires_grad_(False)


def dit_inputs() -> dict[str, Tensor]:
    """Two clips of 3 latent frames of 6 x 10, with a timestep for every frame: a known start, a known end."""
    rng = torch.Generator().manual_seed(1)
    text = torch.randn(2, 7, WAN["text_dim"], generator=rng)
    text[1, 1:] = 0  # a text of one token
    return {
        "x": torch.randn(2, WAN["in_channels"], 3, 6, 10, generator=rng),
        "t": torch.tensor([[0, 731, 731], [412, 412, 0]]),
        "text": text,
    }


def tokens(length: int) -> Tensor:
    """A text [L] that ends in the end-of-text token."""
    rng = torch.Generator().manual_seed(length)
    return torch.cat([torch.randint(2, UMT5["vocab_size"], (length - 1,), generator=rng), torch.tensor([1])])


def clip(frames: int) -> Tensor:
    """A video [1, 3, T, 32, 48] in -1..1."""
    return torch.rand(1, 3, frames, 32, 48, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def latents(channels: int, count: int) -> Tensor:
    """Normalised latents [1, C, K, 2, 3]."""
    return torch.randn(1, channels, count, 2, 3, generator=torch.Generator().manual_seed(count))


START = torch.randn(1, 4, 2, 3, 5, generator=torch.Generator().manual_seed(0))


def network(x: Tensor, t: Tensor) -> Tensor:
    """A velocity in place of a network's: nonlinear in x and in the timestep."""
    return torch.sin(2 * x + t / 300) + 0.3 * x * torch.cos(t / 200)


def scaled(x: Tensor, sigma: Tensor) -> Tensor:
    """`network` for solvers that name noise levels."""
    return network(x, sigma * 1000)


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, for tensors of one shape."""
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    return float((a - b).abs().max())


def told(what: str, difference: float) -> float:
    """A difference, said where pytest shows output (`make parity`)."""
    print(f"{what}: {difference:.1e}")
    return difference
