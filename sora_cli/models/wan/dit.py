"""The Wan video transformer: Wan 2.1 text-to-video, Wan 2.2 TI2V and SkyReels-V2 diffusion forcing.

Every block is full self-attention over all tokens of the clip with rotary positions along time, height and
width, cross-attention to the text, and a GELU MLP; the timestep modulates both (adaLN, Peebles & Xie 2023).
The timestep belongs to a latent frame, so that given frames stand in the sequence at t = 0. SkyReels takes
the frame rate as well. Parameter names are those of the published checkpoints in the diffusers layout.

Where no gradients are asked for, what a layer has made for itself alone is overwritten by the next. Tables begin with
uniform numbers, which a checkpoint replaces: normal ones on the meta device would have torch import its compiler.

Letters: B batch, C channels, T H W latent frames, height and width, S patches of a frame, h w rows and columns
of patches, N tokens, L text tokens, D width, n heads, d width of a head.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sora_cli.models.attention import attend
from sora_cli.models.wan.configs import PATCH, WanConfig

SLOW = 16  # the frame rate that the first row of the frame-rate embedding stands for; the second is any other
PART = 8192  # tokens that go through an MLP at a time; fewer would no longer fill a GPU


class Attention(nn.Module):
    """What self- and cross-attention share. Queries and keys are normalised over all heads together."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(width, width))
        self.norm_q, self.norm_k = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)

    def split(self, x: Tensor) -> Tensor:  # [B, ..., D] -> [B, N, n, d]
        return rearrange(x, "B ... (n d) -> B (...) n d", n=self.heads)

    def among(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # [B, N or L, n, d] -> [B, N, D]
        q, k, v = (rearrange(part, "B N n d -> B n N d") for part in (q, k, v))
        return rearrange(attend(q, k, v), "B n N d -> B N (n d)")


class SelfAttention(Attention):
    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        return self.to_out(self.attended(x, rope)).view_as(x)  # (B, T, S, D)

    def attended(self, x: Tensor, rope: Tensor) -> Tensor:
        q = apply_rope(self.split(self.norm_q(self.to_q(x))), rope)  # (B, N, n, d)
        k = apply_rope(self.split(self.norm_k(self.to_k(x))), rope)
        return self.among(q, k, self.split(self.to_v(x)))  # (B, N, D)


class CrossAttention(Attention):
    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return self.to_out(self.attended(x, text)).view_as(x)  # (B, T, S, D)

    def attended(self, x: Tensor, text: Tensor) -> Tensor:
        q = self.split(self.norm_q(self.to_q(x)))  # (B, N, n, d)
        k, v = self.split(self.norm_k(self.to_k(text))), self.split(self.to_v(text))  # (B, L, n, d)
        return self.among(q, k, v)  # (B, N, D)


class Activated(nn.Module):
    def __init__(self, inputs: int, outputs: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.proj, self.activation = nn.Linear(inputs, outputs), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.proj(x))


class FeedForward(nn.Module):
    """An MLP over some thousand tokens at a time, since its hidden features are several times as many as the rest."""

    def __init__(self, width: int, hidden: int, outputs: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = nn.Sequential(Activated(width, hidden, activation), nn.Identity(), nn.Linear(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.reshape(-1, x.shape[-1]).split(PART)
        return torch.cat([self.net(part) for part in parts]).view(*x.shape[:-1], -1)


class TwoLinears(nn.Module):
    def __init__(self, inputs: int, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear_1, self.linear_2, self.activation = nn.Linear(inputs, width), nn.Linear(width, width), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.activation(self.linear_1(x)))


class Block(nn.Module):
    def __init__(self, c: WanConfig) -> None:
        super().__init__()
        self.eps = c.eps
        self.attn1 = SelfAttention(c.width, c.heads, c.eps)
        self.norm2, self.attn2 = nn.LayerNorm(c.width, c.eps), CrossAttention(c.width, c.heads, c.eps)
        self.ffn = FeedForward(c.width, c.hidden, c.width, gelu)
        self.scale_shift_table = nn.Parameter(torch.rand(1, 6, c.width))

    def forward(self, x: Tensor, text: Tensor, modulation: Tensor, rope: Tensor) -> Tensor:
        """Tokens [B, T, S, D], text [B, L, D] and modulation [B, T, 1 or S, 6, D] -> tokens [B, T, S, D], written over
        those that came where there are no gradients."""
        first, scale1, gate1, second, scale2, gate2 = (self.scale_shift_table + modulation.float()).unbind(-2)
        x = added(x, self.attn1(modulated(x, first, scale1, self.eps), rope), gate1)
        x = spare(x).add_(self.attn2(in_float(self.norm2, x), text))
        return added(x, self.ffn(modulated(x, second, scale2, self.eps)), gate2)


class Conditions(nn.Module):
    """The timestep and the text in the width of the network."""

    def __init__(self, c: WanConfig) -> None:
        super().__init__()
        self.freq_dim = c.waves
        self.precision = torch.float64 if c.paced else torch.float32  # of the angles, as the references have them
        self.time_embedder = TwoLinears(c.waves, c.width, F.silu)
        self.time_proj = nn.Linear(c.width, 6 * c.width)
        self.text_embedder = TwoLinears(c.text_width, c.width, gelu)

    def forward(self, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps [B, T, 1 or S] and text [B, L, text_width] -> time [B, T, 1 or S, D], the blocks' modulation
        [B, T, 1 or S, 6, D] and text [B, L, D]."""
        features = sinusoidal_embedding(t, self.freq_dim, self.precision).to(self.time_embedder.linear_1.weight)
        time = self.time_embedder(features).type_as(text)
        modulation = rearrange(self.time_proj(F.silu(time)), "... (six D) -> ... six D", six=6)
        return time, modulation, self.text_embedder(text)


class WanDit(nn.Module):
    """Predicts the velocity, noise minus data, of normalised latents."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        c = self.config = config
        self.patch_embedding = nn.Conv3d(c.inputs, c.width, (1, PATCH, PATCH), (1, PATCH, PATCH))
        self.condition_embedder = Conditions(c)
        self.blocks = nn.ModuleList([Block(c) for _ in range(c.layers)])
        self.proj_out = nn.Linear(c.width, c.outputs * PATCH**2)
        self.scale_shift_table = nn.Parameter(torch.rand(1, 2, c.width))
        if c.paced:
            self.fps_embedding = nn.Embedding.from_pretrained(torch.rand(2, c.width), freeze=False)
            self.fps_projection = FeedForward(c.width, c.width, 6 * c.width, F.silu)

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor, fps: float | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Noisy latents [B, C, T, H, W] -> their velocity.

        t: timesteps 0..1000, [B, 1] one a clip, [B, T] one a latent frame or [B, T, h, w] one a token; text:
        [B, L, text_width], zeros behind its end; fps: frames a second, if they are an input; positions: where
        the latent frames stand in time, [T], one after another by default."""
        T, h, w = latent_grid(x)
        positions = torch.arange(T) if positions is None else positions
        rope = rope_angles_of_grid(self.config.head_width, positions, h, w, x.device)
        tokens = self.embedded(x)  # (B, T, S, D)
        time, modulation, text = self.condition_embedder(rearrange(t, "B T ... -> B T (...)"), text)
        modulation = modulation + self.frame_rate(fps)  # (B, T, 1 or S, 6, D)
        for block in self.blocks:
            tokens = block(tokens, text, modulation, rope)  # (B, T, S, D)
        shift, scale = (self.scale_shift_table + time[..., None, :]).unbind(-2)  # (B, T, 1 or S, D)
        tokens = self.proj_out(modulated(tokens, shift, scale, self.config.eps))  # (B, T, S, 4C)
        return rearrange(tokens, "B T (h w) (a b C) -> B C T (h a) (w b)", h=h, a=PATCH, b=PATCH)

    def embedded(self, x: Tensor) -> Tensor:
        """The patches of latents as tokens [B, T, S, D]: a convolution that steps by its own size is a product."""
        patches = rearrange(x, "B C T (h a) (w b) -> B T (h w) (C a b)", a=PATCH, b=PATCH)
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def frame_rate(self, fps: float | None) -> Tensor | float:
        """What a frame rate adds to the modulation, [6, D]; nothing where it is no input."""
        if not self.config.paced:
            return 0.0
        assert fps is not None, "the frame rate is an input of this network"
        row = self.fps_embedding.weight[0 if fps == SLOW else 1]
        return rearrange(self.fps_projection(row), "(six D) -> six D", six=6)


def latent_grid(x: Tensor) -> tuple[int, int, int]:
    """Frames, rows and columns of the patches of latents [B, C, T, H, W]."""
    T, H, W = x.shape[2:]
    if H % PATCH or W % PATCH:
        raise ValueError(f"latents of {W}x{H} cells do not divide into patches of {PATCH}x{PATCH}")
    return T, H // PATCH, W // PATCH


def gelu(x: Tensor) -> Tensor:
    """GELU by the hyperbolic tangent, written over its argument."""
    return torch.ops.aten.gelu_(x, approximate="tanh")


def in_float(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm computed in float32 whatever the features are in."""
    weight, bias = norm.weight.float(), norm.bias.float()
    return F.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps).type_as(x)


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Normalised, scaled and shifted in float32, as the checkpoints were trained; [B, T, S, D]."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps).mul_(1 + scale).add_(shift).type_as(x)


def added(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + y * gate in float32, written over x where there are no gradients."""
    x = spare(x)
    return x.copy_(x.float().addcmul_(y.float(), gate))


def spare(x: Tensor) -> Tensor:
    """x to be written over, or a copy of it where a gradient may go back through x itself."""
    return x.clone() if torch.is_grad_enabled() else x


def sinusoidal_embedding(t: Tensor, width: int, precision: torch.dtype) -> Tensor:
    """Timesteps [...] as cosines and sines [..., width], of periods 2 pi to 20,000 pi; float64 needs the CPU."""
    steps = torch.arange(width // 2, dtype=precision, device="cpu")
    angles = t.to("cpu", precision)[..., None] * torch.exp(-math.log(10000) * steps / (width // 2))
    return torch.cat([angles.cos(), angles.sin()], -1)


def rope_angles_of_grid(width: int, positions: Tensor, rows: int, columns: int, device: torch.device) -> Tensor:
    """The rotary angles of every token, as complex numbers of length one [N, 1, width / 2], for pairs of features.
    A third of the features is for height, a third for width, the rest for time, with frames at `positions`."""
    side, frames = 2 * (width // 6), len(positions)
    time = rope_angles(width - 2 * side, positions)
    row, column = rope_angles(side, torch.arange(rows)), rope_angles(side, torch.arange(columns))
    along = [
        time.to(device)[:, None, None].expand(-1, rows, columns, -1),
        row.to(device)[None, :, None].expand(frames, -1, columns, -1),
        column.to(device)[None, None].expand(frames, rows, -1, -1),
    ]
    return rearrange(torch.cat(along, -1), "T h w d -> (T h w) 1 d")


def rope_angles(width: int, positions: Tensor) -> Tensor:
    """Rotations [count, width / 2] of positions [count], complex; angles in float64 on the CPU, as MPS has none."""
    speeds = 10000 ** -(torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
    angles = positions.to("cpu", torch.float64)[:, None] * speeds
    return torch.complex(angles.cos().float(), angles.sin().float())


def apply_rope(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate neighbouring pairs of features by their angles, in float32; [B, N, n, d], written over x if it is."""
    pairs = x.float()
    torch.view_as_complex(pairs.unflatten(-1, (-1, 2))).mul_(rope)
    return pairs.type_as(x)
