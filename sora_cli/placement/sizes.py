"""How large the networks of a Hub model are: weights, work and buffers, as the networks themselves have them, and what
the stages of a video take. They are built without memory; no torch before something is counted.

Weights that are packed take what their files do, and a matrix as it is unpacked; `python benchmarks/packed.py` measures
it. MB predicted, and measured as the peak of networks of the real widths on a CPU:

    transformer, a layer    1.3B on 11,552 tokens 367, 372 in bfloat16 and 524, 517 in float32; 5B on 6,272 396, 402
    decoder of Wan 2.1      256 x 256 433, 430 and 783, 786; 512 x 384 1298, 1283; 256 x 256 in tiles of 192 771, 768
    decoder of Wan 2.2      256 x 256 380, 377 and 686, 688; 512 x 384 1140, 1126; 256 x 256 in tiles of 192 613, 612
    text encoder            512 tokens 124, 120

An encoder takes less than its decoder (65 % in Wan 2.1, 35 % in 2.2), and counts as much. Blocks below 32 MB, which C
keeps in its heap, take up to twice as much, so that small videos need more. On a GPU nothing is measured yet: there,
norms are taken to copy nothing, and convolutions all that they read and write.

Letters: N tokens, D width.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from sora_cli import geometry
from sora_cli.models.wan.configs import CONTEXT, GROWTH, PATCH, WIDTHS, TinyConfig, Umt5Config, WanConfig, WanVaeConfig
from sora_cli.registry.networks import Network

if TYPE_CHECKING:
    from torch import nn

Decoder = Literal["float32", "bfloat16", "float16"]

FLOAT32, BFLOAT16 = 4, 2  # bytes
LIBRARIES = 30e6  # bytes that libraries set up with the first products
ENCODER, ENCODER_PIXEL = 52e6, 105  # bytes of ffmpeg: at rest, and a pixel of a frame
AHEAD = 2  # blocks in memory at a time, of which one is on its way
UNPACKED, UNPACKING = 1 << 22, 10  # numbers that are unpacked at a time, and bytes that one takes meanwhile
LATENTS = 8  # copies of a window's latents in float32: noise, two velocities, what a solver remembers
SIDES, OVERLAP = (512, 256), 64  # of tiles, in pixels
BLOCK = re.compile(r"\bblocks?\.0\.")  # in the names of parameters


@lru_cache(16)
def built(config: WanConfig | WanVaeConfig | TinyConfig | Umt5Config) -> Any:
    """A network on torch's meta device, to be looked at alone: it is built once, and nothing may be put into it."""
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


# ---- the stages of a video -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """Of a part of a network: bytes that are packed, and numbers that are not."""

    packed: float = 0.0
    numbers: float = 0.0

    def at(self, size: int) -> float:
        """Bytes, with so many for each number."""
        return self.packed + size * self.numbers

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(self.packed + other.packed, self.numbers + other.numbers)


@dataclass(frozen=True)
class Held:
    """The weights of a network of which some are packed."""

    whole: Weights
    block: Weights  # the largest one
    around: Weights  # all that is in no block


@dataclass(frozen=True)
class Needs:
    """Bytes that the stages of one video take; without a window, those of its frames alone."""

    name: str
    network: Network
    width: int  # of the canvas, in pixels
    height: int
    window: int  # latent frames that the transformer sees at once
    latents: int  # of the whole video
    size: int  # bytes of a number of the transformer and the text encoder
    half: Decoder = "bfloat16"  # the shorter numbers of the autoencoder
    held: Mapping[str, Held] = field(default_factory=dict)  # weights of which some are packed, by role
    draft: bool = False  # whether a tiny decoder takes the place of the whole autoencoder

    @property
    def decoder(self) -> WanVaeConfig | TinyConfig:
        """The network of the last stage, which decodes frames, and unless it is tiny encodes them as well."""
        return self.network.vae.tiny if self.draft else self.network.vae

    @property
    def tokens(self) -> int:
        """N, of a window."""
        side = self.network.vae.stride * PATCH
        return self.window * geometry.divide(self.width, side) * geometry.divide(self.height, side)

    @property
    def numbers(self) -> int:
        """Of one latent frame."""
        return self.network.vae.channels * self.width * self.height // self.network.vae.stride**2

    def weights(self, role: Literal["dit", "text"]) -> Held:
        """Of the transformer or the text encoder."""
        blocks = blocks_of(getattr(self.network, role))
        parts = (blocks.weights, blocks.block, blocks.around)
        return self.held.get(role) or Held(*(Weights(numbers=numbers) for numbers in parts))

    @property
    def text(self) -> float:
        return self.weights("text").whole.at(self.size)

    @property
    def dit(self) -> float:
        return self.weights("dit").whole.at(self.size)

    def text_ahead(self) -> float:
        """The text encoder block by block, with the rows of its table that a text looks up."""
        rows = self.size * CONTEXT * self.network.text.width
        return AHEAD * self.weights("text").block.at(self.size) + rows

    def dit_ahead(self) -> float:
        """The transformer block by block."""
        dit = self.weights("dit")
        return AHEAD * dit.block.at(self.size) + dit.around.at(self.size)

    def reading(self) -> float:
        """Buffers of the text encoder."""
        text = self.network.text
        matrix = self.unpacked(blocks_of(text).matrix) if "text" in self.held else 0.0
        return LIBRARIES + reading_buffers(text, CONTEXT, self.size) + matrix

    def denoising(self, gpu: bool, scored: bool = False) -> float:
        """Buffers of the transformer and of the solver; guidance runs it twice, one after the other."""
        dit, solver = self.network.dit, LATENTS * FLOAT32 * self.window * self.numbers
        inside = denoising_buffers(dit, self.tokens, self.size, gpu, scored)
        if "dit" in self.held:
            blocks = blocks_of(dit)
            inside = max(inside + self.unpacked(blocks.matrix), self.unpacked(blocks.largest))
        return LIBRARIES + inside + solver

    def unpacked(self, matrix: int) -> float:
        """Bytes of a matrix of so many numbers when it is unpacked, part after part."""
        return self.size * matrix + UNPACKING * min(matrix, UNPACKED)

    def vae(self, size: int) -> float:
        return size * weights(self.decoder)

    def decoding(self, size: int, tile: int, gpu: bool) -> float:
        """Buffers of the decoder, whole (0) or in tiles of so many cells, its last frames, pictures of two latents."""
        pixels, decoder = self.width * self.height, self.decoder
        _, of_tile = self.tiled(tile)
        pictures = 3 * geometry.TIME_STRIDE * pixels * (2 * FLOAT32 + (2 if tile else 1) * size)
        tails = size * decoding(decoder).tails * of_tile
        return LIBRARIES + tails + decoding_buffers(decoder, of_tile, size, gpu) + pictures

    def waiting(self, size: int, tile: int) -> float:
        """What tiles remember of their last frames, in main memory until it is their turn."""
        count, of_tile = self.tiled(tile)
        return size * decoding(self.network.vae).tails * count * of_tile if tile else 0.0

    def tiled(self, tile: int) -> tuple[int, int]:
        """How many tiles a frame has, and how many pixels a tile."""
        stride = self.network.vae.stride
        sides = self.height // stride, self.width // stride
        count = math.prod(tiles_along(side, tile, self.overlap) for side in sides)
        return count, stride**2 * math.prod(min(tile or side, side) for side in sides)

    @property
    def overlap(self) -> int:
        """Cells that neighbouring tiles share."""
        return OVERLAP // self.network.vae.stride

    def decoders(self, shared: bool) -> list[tuple[Decoder, int]]:
        """Ways to decode, the best first, as number format and side of a tile in latent cells: in float32; in half as
        long numbers where the transformer is in such or tiles are no help; in tiles where they can wait elsewhere. A
        tiny decoder has the transformer's numbers, and needs no tiles."""
        if self.draft:
            return [("float32" if self.size == FLOAT32 else self.half, 0)]
        longest = 0 if shared else max(self.width, self.height)
        tiles = [side // self.network.vae.stride for side in SIDES if side < longest]
        if self.size == BFLOAT16 or shared:
            return [("float32", 0), *((self.half, tile) for tile in (0, *tiles))]
        return [("float32", tile) for tile in (0, *tiles)]

    def whole_video(self) -> float:
        """Bytes of main memory for the latents of all frames, and for the program that encodes them."""
        return 3 * FLOAT32 * self.latents * self.numbers + ENCODER + ENCODER_PIXEL * self.width * self.height


def tiles_along(cells: int, tile: int, overlap: int) -> int:
    """Tiles along so many cells."""
    return 1 if not tile or cells <= tile else math.ceil((cells - overlap) / (tile - overlap))
