"""The layers of the autoencoder: convolutions, shortcuts that move detail into channels (DC-AE), a causal memory. And
that of the networks which look at clips: a convolution of temporally shifted channels.

Letters: B batch, C channels, H W cells, K latent frames.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn


class Conv(nn.Module):
    """A convolution whose weight is kept as the matrix [out, kernel * kernel * in] that it is, so that Muon
    can train it; seen as [out, in, kernel, kernel] it is in channels-last order already."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, zero: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.weight = nn.Parameter(torch.zeros(outputs, kernel * kernel * inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if not zero:
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = rearrange(self.weight, "O (a b I) -> O I a b", a=self.kernel, b=self.kernel)
        return F.conv2d(x, weight, self.bias, self.stride, (self.kernel - self.stride + 1) // 2)


class ShiftedConv(nn.Module):
    """A convolution with a norm, of channels that are shifted through clips of so many frames; 0: of pictures."""

    def __init__(self, inputs: int, outputs: int, frames: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(shift(x, self.frames) if self.frames else x)))


class ResBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), without norms, so that features do not depend on the picture's size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Conv(channels, channels)
        self.second = Conv(channels, channels, zero=True)  # starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Down(nn.Module):
    """Halve the size; the averaged space-to-channel shortcut of DC-AE (Chen et al. 2024) carries the detail."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, kernel=4, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + fold_channels(F.pixel_unshuffle(x, 2), y.shape[1])


class Up(nn.Module):
    """Double the size; the repeated channel-to-space shortcut of DC-AE."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs * 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.pixel_shuffle(y + fold_channels(x, y.shape[1]), 2)


def fold_channels(x: Tensor, channels: int) -> Tensor:
    """Average or repeat channels to the number asked for: [B, C, h, w] -> [B, channels, h, w]. Repeated ones are
    innermost in memory, as what they are added to: a sum over two orders takes twice the time."""
    if x.shape[1] < channels:
        times = -(-channels // x.shape[1])
        wide = repeat(x, "B C h w -> B h w (C n)", n=times)[..., :channels]
        return rearrange(wide, "B h w C -> B C h w")
    groups = x.shape[1] // channels
    return rearrange(x[:, : groups * channels], "B (C n) h w -> B C n h w", n=groups).mean(2)


def shift(x: Tensor, frames: int) -> Tensor:
    """A quarter of the channels of [(B T), C, H, W] one frame later and a quarter one earlier: motion at the price of a
    picture (temporal shift, Lin et al. 2019)."""
    clip = rearrange(x, "(b t) c h w -> b t h w c", t=frames)  # channels last, as they lie in memory
    early, late, here = clip.tensor_split((x.shape[1] // 4, x.shape[1] // 4 * 2), dim=-1)
    early, late = F.pad(early, (0, 0) * 3 + (1, 0))[:, :-1], F.pad(late, (0, 0) * 3 + (0, 1))[:, 1:]
    return rearrange(torch.cat([early, late, here], dim=-1), "b t h w c -> (b t) c h w")


class Memory(nn.Module):
    """Causal attention over one pooled token a key frame, looking back on a bounded window."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, pooled: Tensor) -> Tensor:  # [B, K, C] -> [B, K, C]
        q, k, v = rearrange(self.qkv(pooled), "B K (n H D) -> n B H K D", n=3, H=4)
        at = torch.arange(pooled.shape[1], device=pooled.device)
        back = at[:, None] - at[None, :]
        seen = (back >= 0) & (back <= self.window)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.out(rearrange(mixed, "B H K D -> B K (H D)"))
