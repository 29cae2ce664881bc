"""The tiny decoders of Wan's latents, for previews and drafts: taew2_1 (Wan 2.1, A14B) and taew2_2 (Wan 2.2 5B).

After TAEHV (Boer Bohan 2025, github.com/madebyollin/taehv, MIT): convolutions within frames, where every memory block
also sees what itself was given for the frame before. A latent becomes four frames by way of two temporal growths. The
first latent is frame 0 alone, so that the first three frames are dropped. It takes latents as the transformer makes
them, normalised. Parameter names are those of the published files.

Letters: B batch, C channels, K latent frames, T frames, H W pixels, h w latent cells.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sora_cli.models.wan.configs import GROWTH, WIDTHS, TinyConfig

BOUND = 3.0  # latents are squeezed between -3 and 3


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / BOUND) * BOUND


class Memory(nn.Module):
    """A residual block that sees its input and that of the frame before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Sequential(conv(2 * width, width), nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, width))

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        return F.relu(self.conv(torch.cat([x, past], 1)) + x)


class Grow(nn.Module):
    """The frames, one or two, that a frame becomes, in order of time."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(width, width * frames, 1, bias=False)

    def forward(self, x: Tensor, last: bool) -> tuple[Tensor, ...]:
        """All of them, or only the last."""
        if not last:
            return self.conv(x).chunk(self.frames, 1)
        return (F.conv2d(x, self.conv.weight[-x.shape[1] :]),)


class TinyDecoder(nn.Module):
    """Normalised latents [B, C, K, h, w] to videos [B, 3, 1 + 4(K - 1), H, W] in -1..1, latent by latent."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = nn.ModuleList(layers(config))

    def decode_stream(self, latents: Iterable[Tensor], keys: bool = False) -> Iterator[Tensor]:
        """Frames of latents [B, C, k, h, w]: one of the first, then four each; with `keys` the key frames alone."""
        memory: dict[int, Tensor] = {}
        for number, latent in enumerate(one for piece in latents for one in piece.unbind(2)):
            frames = list(self.frames(latent, 0, memory, keys))
            whole = torch.stack(frames if number else frames[-1:], 2)
            yield whole.clamp_(0, 1).mul_(2).sub_(1)

    def frames(self, x: Tensor, first: int, memory: dict[int, Tensor], keys: bool) -> Iterator[Tensor]:
        """What the layers from number `first` on make of a frame's features: a frame goes to the end before the next
        one begins, and each memory block keeps what it was given last."""
        for number, layer in enumerate(self.decoder[first:], first):
            if isinstance(layer, Grow):
                for grown in layer(x, keys):
                    yield from self.frames(grown, number + 1, memory, keys)
                return
            if isinstance(layer, Memory):
                x, memory[number] = layer(x, memory.get(number, torch.zeros_like(x))), x
            else:
                x = layer(x)
        yield F.pixel_shuffle(x, self.config.patch)


def layers(config: TinyConfig) -> Iterator[nn.Module]:
    """The decoder's layers, by whose numbers the published files name the parameters."""
    yield from (Squeeze(), conv(config.channels, WIDTHS[0]), nn.ReLU())
    for width, after, frames in zip(WIDTHS, WIDTHS[1:], GROWTH, strict=False):
        yield from (Memory(width), Memory(width), Memory(width))
        yield from (nn.Upsample(scale_factor=2), Grow(width, frames), conv(width, after, bias=False))
    yield from (nn.ReLU(), conv(WIDTHS[-1], 3 * config.patch**2))


def conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def needed(key: str) -> str | None:
    """A published file's key as the network has it; None for those of the encoder, which is not used."""
    return None if key.startswith("encoder.") else key
