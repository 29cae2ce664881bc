"""How large the networks of a Hub model are: weights, work and buffers, as the networks themselves have them. They are
built without memory; no torch before something is counted.

Letters: N tokens, D width.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from sora_cli.models.wan.configs import CONTEXT, GROWTH, PATCH, WIDTHS, TinyConfig, Umt5Config, WanConfig, WanVaeConfig

if TYPE_CHECKING:
    from torch import nn

FLOAT32, BFLOAT16 = 4, 2  # bytes
BLOCK = re.compile(r"\bblocks?\.0\.")  # in the names of parameters


@lru_cache(16)
def built(config: WanConfig | WanVaeConfig | TinyConfig | Umt5Config) -> Any:
    """A network on torch's meta device."""
    import torch

    from sora_cli.models.wan.dit import WanDit
    from sora_cli.models.wan.text import Umt5
    from sora_cli.models.wan.tiny_decoder import TinyDecoder
    from sora_cli.models.wan.vae import WanVae

    networks: dict[type, Any] = {WanConfig: WanDit, WanVaeConfig: WanVae, TinyConfig: TinyDecoder, Umt5Config: Umt5}
    with torch.device("meta"):
        return networks[type(config)](config)


@lru_cache(16)
def weights(config: WanVaeConfig | TinyConfig) -> int:
    """Numbers in the weights of an autoencoder, or of a tiny decoder."""
    return sum(value.numel() for value in built(config).parameters())


# ---- the transformer and the text encoder -----------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """Numbers in the weights of a network that is mostly blocks, all of one size."""

    layers: int
    block: int
    around: int  # in no block
    matrix: int  # the largest of a block
    largest: int  # and the largest outside of the blocks

    @property
    def weights(self) -> int:
        return self.layers * self.block + self.around


@lru_cache(16)
def blocks_of(config: WanConfig | Umt5Config) -> Blocks:
    """Counted in a network of one block."""
    sizes = {name: value.numel() for name, value in built(replace(config, layers=1)).named_parameters()}
    inside = [size for name, size in sizes.items() if BLOCK.search(name)]
    outside = [size for name, size in sizes.items() if not BLOCK.search(name)]
    return Blocks(config.layers, sum(inside), sum(outside), max(inside), max(outside))


def products(dit: WanConfig, tokens: int) -> float:
    """FLOP of the transformer's matrices in one pass; keys and values of the text are made of the text's tokens."""
    text = 2 * dit.width**2
    ends = (dit.inputs + dit.outputs) * PATCH**2 * dit.width  # weights that every token meets outside of the blocks
    return 2 * dit.layers * (tokens * (blocks_of(dit).block - text) + CONTEXT * text) + 2 * tokens * ends


def attention(dit: WanConfig, tokens: int) -> float:
    """FLOP of the scores and of what they gather, among the tokens and to the text."""
    return dit.layers * 4 * dit.width * tokens * (tokens + CONTEXT)


def denoising_buffers(dit: WanConfig, tokens: int, size: int, gpu: bool, scored: bool = False) -> float:
    """Bytes inside a block of the transformer at the most, on numbers of `size` bytes: in attention, where the keys are
    normed or the values gathered, with a part of the scores if the device makes them, or in the MLP. And the text and
    the rotations."""
    from sora_cli.models.attention import SCORES
    from sora_cli.models.wan.dit import PART

    keys = 4 * size + norm(size, gpu)  # next to tokens, tokens normed and queries
    scores = min(SCORES, 2 * FLOAT32 * dit.heads * tokens**2) if scored else 0
    gathered = max(keys * dit.width * tokens, 7 * size * dit.width * tokens + scores)
    mlp = size * (3 * dit.width * tokens + dit.hidden * min(tokens, PART))
    text = size * CONTEXT * (dit.text_width + dit.width)
    return max(gathered, mlp) + text + FLOAT32 * dit.head_width * tokens


def norm(size: int, gpu: bool) -> int:
    """Bytes that a norm makes of a number of `size` bytes: on a GPU the result alone, on a CPU copies in float32."""
    return size if gpu else FLOAT32 * (2 if size == FLOAT32 else 3)


def reading(text: Umt5Config, tokens: int) -> float:
    """FLOP to read a text."""
    return 2 * tokens * text.layers * blocks_of(text).block


def reading_buffers(text: Umt5Config, tokens: int, size: int) -> float:
    """Bytes inside a block of the text encoder: in the MLP two halves and their product, in attention the biases of all
    pairs."""
    mlp = size * tokens * (2 * text.width + 4 * text.hidden)
    attention = size * tokens * 5 * text.width + tokens**2 * (2 * size * text.heads + 3 * 8)
    return max(mlp, attention)


# ---- the autoencoders -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Convolutions:
    """What the convolutions of a network take for each pixel of a frame."""

    work: float  # FLOP on one latent of a long video
    tails: float  # numbers kept of the last frames


@lru_cache(16)
def decoding(config: WanVaeConfig | TinyConfig) -> Convolutions:
    network = built(config)
    first = [] if isinstance(config, TinyConfig) else [network.post_quant_conv]
    return convolutions([*first, network.decoder], config.stride, 1)


@lru_cache(16)
def encoding(config: WanVaeConfig) -> Convolutions:
    network = built(config)
    return convolutions([network.encoder, network.quant_conv], config.patch, 2 ** sum(config.halves_time))


def convolutions(parts: Iterable["nn.Module"], side: float, frames: float) -> Convolutions:
    """Of layers in the order in which they run, from cells of so many pixels a side and so many frames a latent on. The
    products of attention in a frame are few beside them, and are left out."""
    from torch import nn

    from sora_cli.models.wan.causal import CausalConv
    from sora_cli.models.wan.tiny_decoder import Grow, Memory
    from sora_cli.models.wan.vae import Down, Up

    work, tails, made = 0.0, 0.0, 1.0  # frames that the next convolution makes of one
    for layer in chain.from_iterable(part.modules() for part in parts):
        match layer:
            case nn.Upsample():
                side /= 2
            case Up(time_conv=CausalConv()):
                made = 2.0
            case Down(time_conv=CausalConv()):  # the next one makes the frames smaller, and leads to the one over time
                made = 0.5
            case Grow():
                made = layer.frames
            case Memory():
                tails += layer.width / side**2
            case nn.Conv2d() | nn.Conv3d():
                side *= layer.stride[-1]
                work += 2 * sum(value.numel() for value in layer.parameters()) * frames / side**2
                if isinstance(layer, CausalConv):
                    tails += (layer.kernel_size[0] - 1) * layer.in_channels / side**2
                frames, made = frames * made, 1.0
    return Convolutions(work, tails)


def decoding_buffers(config: WanVaeConfig | TinyConfig, pixels: int, size: int, gpu: bool) -> float:
    """Bytes of the layer of a decoder that takes most, on frames of so many pixels: where cells are smallest. A GPU may
    copy what a convolution reads and writes into the order that suits it."""
    taken = tiny_buffers(size, gpu) if isinstance(config, TinyConfig) else stage_buffers(config, size, gpu)
    return taken * pixels / config.patch**2


@lru_cache(64)
def stage_buffers(config: WanVaeConfig, size: int, gpu: bool) -> float:
    """Bytes for each cell of the last stage, while its first block runs or norms what it looks at. Earlier stages hold
    their input where it is carried around them, and what it became until all of that is made larger, frame by frame.
    What comes to a block stays until the result is added to it. What a convolution over time looks at is put together,
    next to the frame that is forgotten then. The encoder takes less."""
    *stages, last = built(config).decoder.up_blocks
    held, first = 0.0, last.resnets[0].conv1
    for stage in stages:
        held = (held + stage.shortcut * stage.resnets[0].conv1.in_channels + stage.time * stage.outputs) / 4
    came, made, time = first.in_channels, first.out_channels, first.kernel_size[0]
    there = held + came
    running = there + max((time + 1) * came, (time * came + made) * (1 + gpu), (time + 1) * made * (1 + gpu))
    normed = max(size * there + norm(size, gpu) * came, size * (there + made) + norm(size, gpu) * made)
    return max(size * running, normed)


def tiny_buffers(size: int, gpu: bool) -> float:
    """Bytes for each cell behind the last stage. At every stage a frame and what it grows into wait while the first of
    these goes on, here through a convolution and a ReLU."""
    stages = zip(reversed(WIDTHS[:-1]), reversed(GROWTH), strict=True)
    waiting = sum(width * (1 + grown) / 4**above for above, (width, grown) in enumerate(stages))
    return size * (waiting + sum(WIDTHS[-2:]) * (1 + gpu))
