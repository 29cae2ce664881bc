"""The video autoencoders of Wan 2.1 (8 x 8 pixels, 16 channels) and Wan 2.2 (16 x 16 pixels, 48 channels).

Frames come as 1 + 4n: the first latent is frame 0 alone, every later one is four frames. All that mixes frames
looks back only, two frames at most, so a video goes through in chunks of any length: a `Stream` keeps the last
frames that every layer saw, and a whole clip is a stream of one chunk. Wan 2.2 folds 2 x 2 pixels into channels
first and carries averages around its stages. Parameter names are those of the checkpoints.

Letters: B batch, C channels, T frames of a chunk, K latent frames, H W pixels, h w latent cells.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sora_cli.errors import SoraError
from sora_cli.models.wan.tiles import WHOLE, Place, Tiling, blended

CHUNK = 4  # frames of a latent, after the first


@dataclass(frozen=True)
class WanVaeConfig:
    channels: int  # of a latent
    width: int  # features of the encoder's first stage
    decoder_width: int  # and of the decoder's last
    multiples: tuple[int, ...]  # of that width, one a stage; every stage but the last halves the size
    blocks: int  # residual blocks a stage
    halves_time: tuple[bool, ...]  # which of those stages halve the number of frames too
    residual: bool  # averages are carried around the stages
    patch: int  # pixels along each side that are folded into channels first
    mean: tuple[float, ...]  # of a latent's channels
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.halves_time) != len(self.multiples) - 1 or 2 ** sum(self.halves_time) != CHUNK:
            raise ValueError(f"{len(self.multiples)} stages do not halve time to {CHUNK} frames: {self.halves_time}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations for {self.channels} channels")

    @property
    def stride(self) -> int:
        """Pixels along each side of a latent cell."""
        return self.patch * 2 ** len(self.halves_time)

    @classmethod
    def from_hub(cls, config: Mapping[str, Any]) -> "WanVaeConfig":
        """From a checkpoint's config.json; what this network does not have is refused with a SoraError."""
        if config.get("attn_scales"):
            raise SoraError(f"this is another kind of Wan autoencoder: attn_scales is {config['attn_scales']}")
        return cls(
            channels=config["z_dim"],
            width=config["base_dim"],
            decoder_width=config.get("decoder_base_dim") or config["base_dim"],
            multiples=tuple(config["dim_mult"]),
            blocks=config["num_res_blocks"],
            halves_time=tuple(config["temperal_downsample"]),
            residual=config.get("is_residual", False),
            patch=config.get("patch_size") or 1,
            mean=tuple(config["latents_mean"]),
            std=tuple(config["latents_std"]),
        )


@dataclass
class Stream:
    """What the layers remember of the chunks of one video that they have seen."""

    begun: bool = False  # is the first frame behind us
    tails: dict[nn.Module, Tensor] = field(default_factory=dict)

    def after(self, layer: nn.Module, x: Tensor, frames: int) -> Tensor:
        """A chunk behind the last frames that the layer saw, zeros at the beginning: [B, C, frames + T, H, W]."""
        before = self.tails.get(layer)
        if before is None:
            before = x.new_zeros(*x.shape[:2], frames, *x.shape[3:])
        x = torch.cat([before, x], 2)
        self.tails[layer] = x[:, :, x.shape[2] - frames :].clone()  # a view would keep the whole chunk
        return x

    def divide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The video's first frame, or no frame, and the rest of the chunk."""
        first = 0 if self.begun else 1
        return x[:, :, :first], x[:, :, first:]


# -- Layers -----------------------------------------------------------------------------------------------


class CausalConv(nn.Conv3d):
    """A convolution that looks back in time; [B, C, T, H, W] keeps T, H and W."""

    def __init__(self, inputs: int, outputs: int, time: int = 3, side: int = 3) -> None:
        super().__init__(inputs, outputs, (time, side, side), padding=(0, side // 2, side // 2))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:  # type: ignore[override]
        return super().forward(stream.after(self, x, self.kernel_size[0] - 1))


class Norm(nn.Module):
    """Every cell's features at length one, times a gain; computed in float32."""

    def __init__(self, channels: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=1).type_as(x) * len(self.gamma) ** 0.5 * self.gamma


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(inputs), CausalConv(inputs, outputs)
        self.norm2, self.conv2 = Norm(outputs), CausalConv(outputs, outputs)
        self.conv_shortcut = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)), stream)
        return self.conv2(F.silu(self.norm2(y)), stream) + self.conv_shortcut(x)


class Attention(nn.Module):
    """Attention with one head among the cells of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, axes=2)
        self.to_qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + by_frame(self.among, x)

    def among(self, x: Tensor) -> Tensor:  # [frames, C, h, w]
        qkv = self.to_qkv(self.norm(x))
        q, k, v = rearrange(qkv, "N (n C) h w -> n N 1 (h w) C", n=3)
        y = F.scaled_dot_product_attention(q, k, v)  # (N, 1, hw, C)
        return self.proj(rearrange(y, "N 1 (h w) C -> N C h w", h=x.shape[2]))


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(channels, channels) for _ in range(2)])
        self.attentions = nn.ModuleList([Attention(channels)])

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, stream)), stream)


class Down(nn.Module):
    """Halve the size and, where asked, the number of frames; the video's first frame stays alone."""

    def __init__(self, channels: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if time else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = by_frame(self.resample, x)
        if self.time_conv is None:
            return x
        first, rest = stream.divide(x)
        before = stream.tails.get(self, first)
        stream.tails[self] = x[:, :, -1:].clone()
        if not rest.shape[2]:
            return first
        return torch.cat([first, self.time_conv(torch.cat([before, rest], 2))], 2)


class Up(nn.Module):
    """Double the size and, where asked, the number of frames; the video's first frame stays alone, and the others
    do not look back on it."""

    def __init__(self, inputs: int, outputs: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.time_conv = CausalConv(inputs, 2 * inputs, side=1) if time else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if self.time_conv is not None:
            first, rest = stream.divide(x)
            if rest.shape[2]:
                rest = rearrange(self.time_conv(rest, stream), "B (two C) T h w -> B C (T two) h w", two=2)
            x = torch.cat([first, rest], 2)
        return by_frame(self.resample, x)


class DownStage(nn.Module):
    """A stage of the Wan 2.2 encoder."""

    def __init__(self, inputs: int, outputs: int, blocks: int, smaller: bool, shorter: bool) -> None:
        super().__init__()
        self.outputs, self.time, self.side = outputs, 1 + shorter, 1 + smaller
        self.resnets = nn.ModuleList([ResBlock(outputs if i else inputs, outputs) for i in range(blocks)])
        self.downsampler = Down(outputs, shorter) if smaller else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        shortcut = averaged(x, self.outputs, self.time, self.side)
        for block in self.resnets:
            x = block(x, stream)
        if self.downsampler is not None:
            x = self.downsampler(x, stream)
        return x + shortcut


class UpStage(nn.Module):
    """A stage of either decoder; `shortcut` is that of Wan 2.2, and the two name their upsampling differently."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, up: Up | None, longer: bool, shortcut: bool
    ) -> None:  # fmt: skip
        super().__init__()
        self.outputs, self.time, self.shortcut = outputs, 1 + longer, shortcut and up is not None
        self.resnets = nn.ModuleList([ResBlock(outputs if i else inputs, outputs) for i in range(blocks + 1)])
        self.upsampler = up if shortcut else None
        self.upsamplers = nn.ModuleList([] if shortcut or up is None else [up])

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        whole = x
        for block in self.resnets:
            x = block(x, stream)
        for up in [*self.upsamplers, self.upsampler]:
            x = x if up is None else up(x, stream)
        if not self.shortcut:
            return x
        return x + repeated(whole, self.outputs, self.time, stream)


class Encoder(nn.Module):
    def __init__(self, c: WanVaeConfig) -> None:
        super().__init__()
        self.conv_in = CausalConv(3 * c.patch**2, c.width)
        self.down_blocks = nn.ModuleList(down_blocks(c))
        deepest = c.width * c.multiples[-1]
        self.mid_block, self.norm_out = Middle(deepest), Norm(deepest)
        self.conv_out = CausalConv(deepest, 2 * c.channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(x, stream)
        for block in self.down_blocks:
            x = block(x, stream)
        x = self.mid_block(x, stream)
        return self.conv_out(F.silu(self.norm_out(x)), stream)


class Decoder(nn.Module):
    def __init__(self, c: WanVaeConfig) -> None:
        super().__init__()
        deepest, finest = c.decoder_width * c.multiples[-1], c.decoder_width * c.multiples[0]
        self.conv_in, self.mid_block = CausalConv(c.channels, deepest), Middle(deepest)
        self.up_blocks = nn.ModuleList(up_blocks(c))
        self.norm_out, self.conv_out = Norm(finest), CausalConv(finest, 3 * c.patch**2)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.mid_block(self.conv_in(x, stream), stream)
        for block in self.up_blocks:
            x = block(x, stream)
        return self.conv_out(F.silu(self.norm_out(x)), stream)


class WanVae(nn.Module):
    """Videos [B, 3, 1 + 4n, H, W] in -1..1 to normalised latents [B, C, 1 + n, h, w] and back, whole or in chunks."""

    def __init__(self, config: WanVaeConfig) -> None:
        super().__init__()
        c = self.config = config
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        self.quant_conv = nn.Conv3d(2 * c.channels, 2 * c.channels, 1)
        self.post_quant_conv = nn.Conv3d(c.channels, c.channels, 1)

    def encode(self, video: Tensor, tiling: Tiling = WHOLE) -> Tensor:
        """The latents of a whole clip of 1 + 4n frames, made chunk by chunk."""
        if video.shape[2] % CHUNK != 1:
            raise ValueError(f"{video.shape[2]} frames are not 1 + {CHUNK}n")
        chunks = (video[:, :, max(0, end - CHUNK) : end] for end in range(1, video.shape[2] + 1, CHUNK))
        return torch.cat(list(self.encode_stream(chunks, tiling)), 2)

    def decode(self, latents: Tensor, tiling: Tiling = WHOLE) -> Tensor:
        return torch.cat(list(self.decode_stream(latents.split(1, 2), tiling)), 2)

    def encode_stream(self, chunks: Iterable[Tensor], tiling: Tiling = WHOLE) -> Iterator[Tensor]:
        """Latents of chunks as they come: 1 + 4n frames first, then 4n each. Every tile is a stream of its own."""
        streams: dict[Place, Stream] = defaultdict(Stream)
        for chunk in chunks:
            tile = lambda place, piece: self.encode_chunk(piece, streams[place])
            yield blended(tile, chunk, tiling, self.config.stride)

    def decode_stream(self, latents: Iterable[Tensor], tiling: Tiling = WHOLE) -> Iterator[Tensor]:
        """Frames of latents as they come, any number at a time: 1 + 4(K - 1) frames first, then 4K each."""
        streams: dict[Place, Stream] = defaultdict(Stream)
        for chunk in latents:
            yield blended(lambda place, piece: self.decode_chunk(piece, streams[place]), chunk, tiling)

    def encode_chunk(self, video: Tensor, stream: Stream) -> Tensor:
        """The latents of a video's next frames, the posterior's mode."""
        B, _, T, H, W = video.shape
        stride, extra = self.config.stride, T - (not stream.begun)
        if T == 0 or extra % CHUNK or H % stride or W % stride:
            raise ValueError(f"{T} frames of {W}x{H} are not whole latents: 1 frame, then {CHUNK} each, {stride} wide")
        patches = rearrange(video, "B C T (H a) (W b) -> B (C b a) T H W", a=self.config.patch, b=self.config.patch)
        mode = self.quant_conv(self.encoder(patches, stream)).chunk(2, 1)[0]
        stream.begun = True
        mean, std = self.statistics(mode)
        return (mode - mean) / std

    def decode_chunk(self, latents: Tensor, stream: Stream) -> Tensor:
        """The next frames of a video."""
        mean, std = self.statistics(latents)
        patches = self.decoder(self.post_quant_conv(latents * std + mean), stream)
        stream.begun = True
        video = rearrange(patches, "B (C b a) T H W -> B C T (H a) (W b)", a=self.config.patch, b=self.config.patch)
        return video.clamp(-1, 1)

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents' channels, [C, 1, 1, 1] each; no buffers, so that a network built without
        memory loads whole."""
        mean, std = like.new_tensor(self.config.mean), like.new_tensor(self.config.std)
        return rearrange(mean, "C -> C 1 1 1"), rearrange(std, "C -> C 1 1 1")


# -- Stages -----------------------------------------------------------------------------------------------


def down_blocks(c: WanVaeConfig) -> Iterator[nn.Module]:
    """The encoder's stages; those of Wan 2.1 are laid out flat."""
    inputs = c.width
    for multiple, shorter in zip(c.multiples, [*c.halves_time, None], strict=True):
        outputs, smaller = c.width * multiple, shorter is not None
        if c.residual:
            yield DownStage(inputs, outputs, c.blocks, smaller, bool(shorter))
        else:
            yield from (ResBlock(outputs if i else inputs, outputs) for i in range(c.blocks))
            if smaller:
                yield Down(outputs, bool(shorter))
        inputs = outputs


def up_blocks(c: WanVaeConfig) -> Iterator[UpStage]:
    """The decoder's stages. In Wan 2.1 doubling the size halves the channels."""
    inputs = c.decoder_width * c.multiples[-1]
    for multiple, longer in zip(reversed(c.multiples), [*reversed(c.halves_time), None], strict=True):
        outputs = c.decoder_width * multiple
        after = outputs if c.residual or longer is None else outputs // 2
        up = None if longer is None else Up(outputs, after, longer)
        yield UpStage(inputs, outputs, c.blocks, up, bool(longer), c.residual)
        inputs = after


def by_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An image layer on every frame of [B, C, T, h, w]."""
    y = layer(rearrange(x, "B C T h w -> (B T) C h w"))
    return rearrange(y, "(B T) C h w -> B C T h w", B=len(x))


def averaged(x: Tensor, channels: int, time: int, side: int) -> Tensor:
    """Fold cells into channels and average them to so many; a video's first frame has a black one before it."""
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % time, 0))
    x = rearrange(x, "B C (T a) (h b) (w c) -> B (C a b c) T h w", a=time, b=side, c=side)
    return rearrange(x, "B (C n) T h w -> B C n T h w", C=channels).mean(2)


def repeated(x: Tensor, channels: int, time: int, stream: Stream) -> Tensor:
    """Repeat channels and unfold them into cells of twice the size; a video's first frame stays one."""
    x = x.repeat_interleave(channels * time * 4 // x.shape[1], 1)
    x = rearrange(x, "B (C a b c) T h w -> B C (T a) (h b) (w c)", a=time, b=2, c=2)
    return x if stream.begun else x[:, :, time - 1 :]
