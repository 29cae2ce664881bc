"""How large the networks of a Hub model are: weights, work and buffers, from the sizes in weights.toml. No torch.

Everything is counted as the networks of models/wan compute it, and tests hold it against them.

Letters: N tokens, D width, F features inside an MLP, L text tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

FLOAT32, BFLOAT16 = 4, 2  # bytes
PATCH = 2  # latent cells along each side of a token
TEXT_TOKENS = 512  # that the transformer attends to, most of them zeros
PART = 8192  # tokens that go through the transformer's MLP at a time
SCORES = 1 << 30  # bytes of scores, and of their softmax, at a time where a device makes them


@dataclass(frozen=True)
class Dit:
    """The transformer: blocks of attention among tokens, attention to the text and an MLP."""

    channels: int  # of a latent
    width: int
    heads: int
    hidden: int
    layers: int
    paced: bool = False  # whether the frame rate is an input
    text_width: int = 4096
    waves: int = 256  # sinusoids of a timestep's embedding
    given: int = 0  # channels of its input beside the latent, for what is given

    @property
    def inputs(self) -> int:
        """Channels that it takes."""
        return self.channels + self.given

    @property
    def block(self) -> int:
        """Weights of a block."""
        return 8 * self.width**2 + 2 * self.width * self.hidden + self.hidden + 21 * self.width

    @property
    def matrix(self) -> int:
        """Numbers of a block's largest matrix."""
        return self.width * max(self.width, self.hidden)

    @property
    def largest(self) -> int:
        """And of the largest outside of the blocks, which makes the modulation of the timestep."""
        return 6 * self.width**2

    @property
    def around(self) -> int:
        """Weights before and behind the blocks."""
        D, pixels = self.width, self.channels * PATCH**2
        embeddings = (self.inputs * PATCH**2 + self.waves + self.text_width + 3 + 2 * D) * D + 2 * D
        frame_rate = 7 * D**2 + 9 * D if self.paced else 0
        return embeddings + 6 * D * (D + 1) + pixels * (D + 1) + 2 * D + frame_rate

    @property
    def weights(self) -> int:
        return self.layers * self.block + self.around

    def products(self, tokens: int) -> float:
        """FLOP of the matrices in one pass; keys and values of the text are made of the text's tokens."""
        text = 2 * self.width**2
        return 2 * self.layers * (tokens * (self.block - text) + TEXT_TOKENS * text) + 2 * tokens * self.ends

    @property
    def ends(self) -> int:
        """Weights that every token meets outside of the blocks."""
        return (self.inputs + self.channels) * PATCH**2 * self.width

    def attention(self, tokens: int) -> float:
        """FLOP of the scores and of what they gather, among the tokens and to the text."""
        return self.layers * 4 * self.width * tokens * (tokens + TEXT_TOKENS)

    def buffers(self, tokens: int, size: int, gpu: bool, scored: bool = False) -> float:
        """Bytes inside a block at the most, on numbers of `size` bytes: in attention, where the keys are normed or the
        values gathered, with a part of the scores if the device makes them, or in the MLP. And the text and the
        rotations."""
        keys = 4 * size + norm(size, gpu)  # next to tokens, tokens normed and queries
        scores = min(SCORES, 2 * FLOAT32 * self.heads * tokens**2) if scored else 0
        attention = max(keys * self.width * tokens, 7 * size * self.width * tokens + scores)
        mlp = size * (3 * self.width * tokens + self.hidden * min(tokens, PART))
        text = size * TEXT_TOKENS * (self.text_width + self.width)
        return max(attention, mlp) + text + FLOAT32 * self.width / self.heads * tokens


def norm(size: int, gpu: bool) -> int:
    """Bytes that a norm makes of a number of `size` bytes: on a GPU the result alone, on a CPU copies in float32."""
    return size if gpu else FLOAT32 * (2 if size == FLOAT32 else 3)


@dataclass(frozen=True)
class Layer:
    """A convolution of the autoencoder on frames of cells that are `stride` pixels wide, one at a time."""

    inputs: int
    outputs: int
    time: int  # taps along time; all but one look back on frames that are kept
    side: int  # taps along height and width
    stride: int
    frames: int  # that it makes of one latent
    held: float = 0  # channels that others hold meanwhile, of this layer's size
    normed: float = 0  # channels that are there while its input is normed, if it is

    @property
    def weights(self) -> int:
        return self.outputs * (self.inputs * self.time * self.side**2 + 1)

    def work(self, pixels: int) -> float:
        """FLOP on the frames of one latent of so many pixels each."""
        return 2 * self.weights * self.frames * pixels / self.stride**2

    def tail(self, pixels: int) -> float:
        """Numbers kept of the frames before."""
        return (self.time - 1) * self.inputs * pixels / self.stride**2

    def buffers(self, pixels: int, size: int, gpu: bool) -> float:
        """Bytes while it runs, or while its input is normed. What it looks at is put together, next to the frame that
        is forgotten then, and the result comes; a GPU may copy both sides into the order that suits it."""
        seen = self.inputs * self.time
        forgotten = self.inputs if self.time > 1 else 0
        running = self.held + max(seen + forgotten, (seen + self.outputs) * (1 + gpu))
        normed = size * self.normed + norm(size, gpu) * self.inputs if self.normed else 0
        return max(size * running, normed) * pixels / self.stride**2


@dataclass(frozen=True)
class Vae:
    """The autoencoder: stages of residual blocks that halve, or double, the size."""

    channels: int
    width: int
    decoder_width: int
    patch: int = 1  # pixels along each side that are folded into channels
    residual: bool = False  # averages are carried around the stages
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    halves_time: tuple[bool, ...] = (False, True, True)

    @property
    def stride(self) -> int:
        """Pixels along each side of a latent cell."""
        return self.patch * 2 ** len(self.halves_time)

    @cached_property
    def weights(self) -> int:
        """All but the gains of norms, one in ten thousand."""
        return sum(layer.weights for layer in (*self.encoder, *self.decoder))

    @property
    def tiny(self) -> "Tiny":
        """The tiny decoder of the same latents."""
        return Tiny(self.channels, self.patch)

    def decoding(self, pixels: int) -> float:
        """FLOP to decode one latent of a long video, on frames of so many pixels."""
        return sum(layer.work(pixels) for layer in self.decoder)

    def encoding(self, pixels: int) -> float:
        return sum(layer.work(pixels) for layer in self.encoder)

    def tails(self, pixels: int) -> float:
        """Numbers that the decoder keeps of a video's last frames."""
        return sum(layer.tail(pixels) for layer in self.decoder)

    def buffers(self, pixels: int, size: int, gpu: bool) -> float:
        """Bytes of the layer of the decoder that takes most; the encoder's take less."""
        return max(layer.buffers(pixels, size, gpu) for layer in self.decoder)

    @cached_property
    def decoder(self) -> tuple[Layer, ...]:
        return tuple(self.from_latents())

    @cached_property
    def encoder(self) -> tuple[Layer, ...]:
        return tuple(self.from_pixels())

    def from_latents(self) -> Iterator[Layer]:
        """A stage holds its input to its end where it is carried around, and what it becomes until all of that is made
        larger, frame by frame; larger cells of these count as fewer channels."""
        stride, frames, inputs, held = self.stride, 1, self.decoder_width * self.multiples[-1], 0.0
        yield Layer(self.channels, self.channels, 1, 1, stride, frames)
        yield Layer(self.channels, inputs, 3, 3, stride, frames)
        yield from middle(inputs, stride, frames)
        for multiple, longer in zip(reversed(self.multiples), (*reversed(self.halves_time), None), strict=True):
            outputs = self.decoder_width * multiple
            held += inputs if self.residual and longer is not None else 0
            yield from residual(inputs, outputs, self.blocks + 1, stride, frames, held)
            if longer is not None:
                after = outputs if self.residual else outputs // 2
                if longer:
                    yield Layer(outputs, 2 * outputs, 3, 1, stride, frames, held)
                held = (held + (1 + longer) * outputs) / 4
                stride, frames, inputs = stride // 2, frames * (1 + longer), after
                yield Layer(outputs, after, 1, 3, stride, frames, held)
        yield Layer(outputs, 3 * self.patch**2, 3, 3, stride, frames, held + outputs, normed=held + outputs)

    def from_pixels(self) -> Iterator[Layer]:
        """The frames of a layer are those of one latent, four where the video comes in."""
        stride, frames, inputs = self.patch, 2 ** sum(self.halves_time), self.width
        yield Layer(3 * self.patch**2, inputs, 3, 3, stride, frames)
        for multiple, shorter in zip(self.multiples, (*self.halves_time, None), strict=True):
            outputs = self.width * multiple
            yield from residual(inputs, outputs, self.blocks, stride, frames)
            inputs = outputs
            if shorter is not None:
                stride *= 2
                yield Layer(outputs, outputs, 1, 3, stride, frames)
                if shorter:
                    frames //= 2
                    yield Layer(outputs, outputs, 3, 1, stride, frames)
        yield from middle(inputs, stride, frames)
        yield Layer(inputs, 2 * self.channels, 3, 3, stride, frames)
        yield Layer(2 * self.channels, 2 * self.channels, 1, 1, stride, frames)


@dataclass(frozen=True)
class Tiny:
    """The tiny decoder of an autoencoder's latents: three stages of three memory blocks, which double the size."""

    channels: int  # of a latent
    patch: int  # pixels along each side that the last layer makes of a cell
    widths: tuple[int, ...] = (256, 128, 64, 64)  # features of the stages, and behind the last
    growth: tuple[int, ...] = (1, 2, 2)  # frames that a stage makes of one

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.decoder())

    def decoding(self, pixels: int) -> float:
        """FLOP to decode one latent of a long video, on frames of so many pixels."""
        return sum(layer.work(pixels) for layer in self.decoder())

    def tails(self, pixels: int) -> float:
        """Numbers kept of the last frames: every memory block's input."""
        cells = (pixels / (self.patch * 2**stage) ** 2 for stage in range(len(self.growth), 0, -1))
        return sum(3 * width * count for width, count in zip(self.widths, cells, strict=False))

    def buffers(self, pixels: int, size: int, gpu: bool) -> float:
        """Bytes behind the last stage, where cells are smallest. At every stage a frame and what it grows into wait
        while the first of these goes on, here through a convolution, whose sides a GPU may copy, and a ReLU."""
        inside, outside = self.widths[-2:]
        stages = zip(reversed(self.widths[:-1]), reversed(self.growth), strict=True)
        waiting = sum(width * (1 + grown) / 4**above for above, (width, grown) in enumerate(stages))
        return size * (waiting + (inside + outside) * (1 + gpu)) * pixels / self.patch**2

    def decoder(self) -> Iterator[Layer]:
        stride, frames = self.patch * 2 ** len(self.growth), 1
        yield Layer(self.channels, self.widths[0], 1, 3, stride, frames)
        for width, after, grown in zip(self.widths, self.widths[1:], self.growth, strict=False):
            for _ in range(3):
                yield Layer(2 * width, width, 1, 3, stride, frames)
                yield Layer(width, width, 1, 3, stride, frames)
                yield Layer(width, width, 1, 3, stride, frames)
            stride //= 2
            yield Layer(width, grown * width, 1, 1, stride, frames)
            frames *= grown
            yield Layer(width, after, 1, 3, stride, frames)
        yield Layer(self.widths[-1], 3 * self.patch**2, 1, 3, stride, frames)


def residual(inputs: int, outputs: int, blocks: int, stride: int, frames: int, held: float = 0) -> Iterator[Layer]:
    """The blocks of a stage. What comes to a block stays until the result is added to it."""
    for block in range(blocks):
        came = outputs if block else inputs
        there = held + came
        yield Layer(came, outputs, 3, 3, stride, frames, there, normed=there)
        yield Layer(outputs, outputs, 3, 3, stride, frames, there, normed=there + outputs)
        if came != outputs:
            yield Layer(came, outputs, 1, 1, stride, frames, held + outputs)


def middle(width: int, stride: int, frames: int) -> Iterator[Layer]:
    """Two blocks around the attention in a frame, whose products alone count: other layers take more memory."""
    yield from residual(width, width, 1, stride, frames)
    yield Layer(width, 3 * width, 1, 1, stride, frames)
    yield Layer(width, width, 1, 1, stride, frames)
    yield from residual(width, width, 1, stride, frames)


@dataclass(frozen=True)
class Text:
    """The text encoder, of one text at a time."""

    vocabulary: int
    width: int
    heads: int
    hidden: int
    layers: int
    head_width: int = 64
    buckets: int = 32  # of relative positions

    @property
    def block(self) -> int:
        products = self.width * (4 * self.heads * self.head_width + 3 * self.hidden)
        return products + self.buckets * self.heads + 2 * self.width

    @property
    def matrix(self) -> int:
        """Numbers of a block's largest matrix."""
        return self.width * max(self.heads * self.head_width, self.hidden)

    @property
    def weights(self) -> int:
        return self.vocabulary * self.width + self.layers * self.block + self.width

    def work(self, tokens: int) -> float:
        """FLOP to read a text."""
        return 2 * tokens * self.layers * self.block

    def buffers(self, tokens: int, size: int) -> float:
        """Bytes inside a block: in the MLP two halves and their product, in attention the biases of all pairs."""
        mlp = size * tokens * (2 * self.width + 4 * self.hidden)
        attention = size * tokens * 5 * self.width + tokens**2 * (2 * size * self.heads + 3 * 8)
        return max(mlp, attention)


@dataclass(frozen=True)
class Network:
    """The networks of a Hub model by their role."""

    dit: Dit
    vae: Vae
    text: Text


KINDS: dict[str, type[Dit] | type[Vae] | type[Text]] = {"dit": Dit, "vae": Vae, "text": Text}
CONFIGS = {  # our names of sizes, and those of a published config.json
    "dit": {"channels": "in_channels", "heads": "num_attention_heads", "hidden": "ffn_dim", "layers": "num_layers",
            "paced": "inject_sample_info", "text_width": "text_dim", "waves": "freq_dim"},
    "vae": {"channels": "z_dim", "width": "base_dim", "decoder_width": "decoder_base_dim", "patch": "patch_size",
            "residual": "is_residual", "multiples": "dim_mult", "blocks": "num_res_blocks",
            "halves_time": "temperal_downsample"},
    "text": {"vocabulary": "vocab_size", "width": "d_model", "heads": "num_heads", "hidden": "d_ff",
             "layers": "num_layers", "head_width": "d_kv", "buckets": "relative_attention_num_buckets"},
}  # fmt: skip


def read(said: Mapping[str, Mapping[str, Any]]) -> Network | None:
    """The sizes of a model by role; None if one is unknown. ValueError for sizes that no network has."""
    if not said.keys() >= KINDS.keys():
        return None
    try:
        return Network(**{role: kind(**said[role]) for role, kind in KINDS.items()})  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"network: {error}") from error


def sized(like: Network | None, configs: Mapping[str, Mapping[str, Any]]) -> Network | None:
    """A network with what its config.json files tell by role, and `like` another where they do not."""
    if like is None:
        return None
    for role, config in configs.items():
        before = getattr(like, role)
        said = {ours: plain(config.get(theirs)) for ours, theirs in CONFIGS[role].items()}
        sizes: dict[str, Any] = {name: size for name, size in said.items() if fitting(size, getattr(before, name))}
        if role == "dit" and fitting(width := config.get("attention_head_dim", 0), before.width):
            sizes["width"] = width * int(sizes.get("heads", before.heads))
        if role == "dit" and fitting(made := config.get("out_channels", 0), before.channels) and "channels" in sizes:
            sizes |= {"channels": made, "given": max(0, sizes["channels"] - made)}
        if role == "vae" and "width" in sizes:
            sizes.setdefault("decoder_width", sizes["width"])
        like = replace(like, **{role: replace(before, **sizes)})
    return like


def fitting(size: Any, before: Any) -> bool:
    """Whether a value of a configuration can replace a size: of the same type and, if a number, above 0."""
    if isinstance(before, tuple):
        return isinstance(size, tuple) and len(size) > 0 and all(fitting(item, before[0]) for item in size)
    return type(size) is type(before) and (isinstance(size, bool) or size > 0)


def plain(size: Any) -> Any:
    return tuple(size) if isinstance(size, list) else size
