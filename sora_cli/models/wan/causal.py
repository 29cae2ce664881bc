"""Convolutions that look back in time, frame by frame, and what they remember.

A convolution over three frames is one over an image with three times the channels, so that all layers work on single
frames. Letters: B batch, I O channels before and after, T frames that one is made of, h w cells.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@dataclass
class Stream:
    """What the layers remember of the frames of one video that they have seen."""

    started: bool = False  # is the first frame behind us
    tails: dict[nn.Module, list[Tensor]] = field(default_factory=dict)

    def after(self, layer: nn.Module, x: Tensor, count: int) -> Tensor:
        """A frame with up to `count` that the layer saw last before it, side by side: [B, (1 + count) C, h, w]."""
        seen = [*self.tails.get(layer, []), x]
        self.tails[layer] = seen[-count:]
        return torch.cat(seen, 1)

    def move(self, device: torch.device | str) -> None:
        for tails in self.tails.values():
            tails[:] = [tail.to(device) for tail in tails]


class CausalConv(nn.Conv3d):
    """A convolution that looks back in time; [B, C, h, w] keeps h and w."""

    def __init__(self, inputs: int, outputs: int, time: int = 3, side: int = 3) -> None:
        super().__init__(inputs, outputs, (time, side, side))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:  # type: ignore[override]
        return self.mixed(stream.after(self, x, self.kernel_size[0] - 1))

    def mixed(self, x: Tensor) -> Tensor:
        """Consecutive frames, side by side as channels, to one; those before the video's beginning are left out."""
        return F.conv2d(x, self.kernel()[:, -x.shape[1] :], self.bias, padding=self.kernel_size[1] // 2)

    def kernel(self) -> Tensor:
        """The weights as [outputs, (T inputs), h, w] of an image convolution, laid out so once; values stay."""
        weight = rearrange(self.weight, "O I T h w -> O h w T I")
        if not weight.is_contiguous():
            self.weight.data = rearrange(weight.contiguous(), "O h w T I -> O I T h w")
        return rearrange(self.weight, "O I T h w -> O (T I) h w")


class Pointwise(CausalConv):
    """The same for every cell."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, time=1, side=1)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.mixed(x)
