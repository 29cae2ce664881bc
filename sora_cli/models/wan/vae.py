"""The video autoencoders of Wan 2.1 (8 x 8 pixels, 16 channels) and Wan 2.2 (16 x 16 pixels, 48 channels).

Frames come as 1 + 4n: the first latent is frame 0 alone, every later one is four frames. All that mixes frames
looks back only, two frames at most, so that frames go through the networks one by one: a `Stream` keeps the last
frames that every layer saw. A frame goes to the end before the next one begins, and only one is in memory at the
full size. Wan 2.2 folds 2 x 2 pixels into channels first and carries averages around its stages. Parameter names
are those of the checkpoints.

Channels lie innermost in memory, where the norms and the convolutions want them. This is for inference: what a
layer has made for itself alone is overwritten by the next, so that no gradient can go back through it.

Letters: B batch, C channels, T frames of a chunk, K latent frames, H W pixels, h w latent cells.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from sora_cli.models.attention import attend
from sora_cli.models.wan.causal import CausalConv, Pointwise, Stream
from sora_cli.models.wan.configs import CHUNK, WanVaeConfig
from sora_cli.models.wan.tiles import WHOLE, Corner, Tiling, blended

LAST = torch.channels_last


# -- Layers -----------------------------------------------------------------------------------------------


class Norm(nn.Module):
    """Every cell's features at length one, times a gain and the root of their number."""

    def __init__(self, channels: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.rms_norm(rearrange(x, "B C h w -> B h w C"), (x.shape[1],), self.gamma.flatten(), eps=1e-24)
        return rearrange(x, "B h w C -> B C h w")


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(inputs), CausalConv(inputs, outputs)
        self.norm2, self.conv2 = Norm(outputs), CausalConv(outputs, outputs)
        self.conv_shortcut = Pointwise(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        y = self.conv1(silu(self.norm1(x)), stream)
        y = silu(self.norm2(y))
        y = self.conv2(y, stream)
        return y.add_(self.conv_shortcut(x))


class Attention(nn.Module):
    """Attention with one head among the cells of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, axes=2)
        self.to_qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(self.norm(x))
        q, k, v = rearrange(qkv, "B (n C) h w -> n B 1 (h w) C", n=3)
        y = attend(q, k, v)  # (B, 1, hw, C)
        return x + self.proj(rearrange(y, "B 1 (h w) C -> B C h w", h=x.shape[2]))


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
        self.time_conv = CausalConv(channels, channels, side=1) if time else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor | None:
        """A smaller frame, or nothing where another one is awaited."""
        x = self.resample(x)
        if self.time_conv is None:
            return x
        seen = stream.tails[self] = [*stream.tails.get(self, []), x]
        if len(seen) == 2:
            return None
        stream.tails[self] = [x]
        return x if len(seen) == 1 else self.time_conv.mixed(torch.cat(seen, 1))


class Up(nn.Module):
    """Double the size and, where asked, the frames; the video's first stays alone, and none looks back on it."""

    def __init__(self, inputs: int, outputs: int, time: bool) -> None:
        super().__init__()
        self.time_conv = CausalConv(inputs, 2 * inputs, side=1) if time else None
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Conv2d(inputs, outputs, 3, padding=1)
        )

    def longer(self, x: Tensor, stream: Stream) -> tuple[Tensor, ...]:
        """The frames, one or two, that a frame becomes; still small, to be made larger one by one."""
        if self.time_conv is None:
            return (x,)
        if self.time_conv not in stream.tails:
            stream.tails[self.time_conv] = []
            return (x,)
        return self.time_conv(x, stream).chunk(2, 1)


class DownStage(nn.Module):
    """A stage of the Wan 2.2 encoder."""

    def __init__(self, inputs: int, outputs: int, blocks: int, smaller: bool, shorter: bool) -> None:
        super().__init__()
        self.outputs, self.time, self.side = outputs, 1 + shorter, 1 + smaller
        self.resnets = nn.ModuleList([ResBlock(outputs if i else inputs, outputs) for i in range(blocks)])
        self.downsampler = Down(outputs, shorter) if smaller else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor | None:
        """A smaller frame, or nothing where another one is awaited."""
        whole = [*stream.tails.pop(self, []), x]
        for block in self.resnets:
            x = block(x, stream)
        y = x if self.downsampler is None else self.downsampler(x, stream)
        if y is None:
            stream.tails[self] = whole
            return None
        return y + averaged(whole, self.outputs, self.time, self.side)


class UpStage(nn.Module):
    """A stage of either decoder; `shortcut` is that of Wan 2.2, and the two name their upsampling differently."""

    def __init__(self, inputs: int, outputs: int, blocks: int, up: Up | None, longer: bool, shortcut: bool) -> None:
        super().__init__()
        self.outputs, self.time, self.shortcut = outputs, 1 + longer, shortcut and up is not None
        self.resnets = nn.ModuleList([ResBlock(outputs if i else inputs, outputs) for i in range(blocks + 1)])
        self.upsampler = up if shortcut else None
        self.upsamplers = nn.ModuleList([] if shortcut or up is None else [up])

    def forward(self, x: Tensor, stream: Stream) -> Iterator[Tensor]:
        """The frames that a frame becomes, made as they are asked for."""
        whole = x if self.shortcut else None
        for block in self.resnets:
            x = block(x, stream)
        up = cast(Up | None, self.upsamplers[0] if self.upsamplers else self.upsampler)
        if up is None:
            yield x
            return
        small = up.longer(x, stream)
        for index, x in enumerate(small, self.time - len(small)):
            if whole is None:
                yield up.resample(x)
            else:
                yield up.resample(x).add_(repeated(whole, self.outputs, self.time, index))


class Encoder(nn.Module):
    def __init__(self, c: WanVaeConfig) -> None:
        super().__init__()
        self.conv_in = CausalConv(3 * c.patch**2, c.width)
        self.down_blocks = nn.ModuleList(down_blocks(c))
        deepest = c.width * c.multiples[-1]
        self.mid_block, self.norm_out = Middle(deepest), Norm(deepest)
        self.conv_out = CausalConv(deepest, 2 * c.channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor | None:
        """The latent that ends with this frame, if one does."""
        y: Tensor | None = self.conv_in(x, stream)
        for block in self.down_blocks:
            y = block(y, stream)
            if y is None:
                return None
        y = self.mid_block(y, stream)
        return self.conv_out(silu(self.norm_out(y)), stream)


class Decoder(nn.Module):
    def __init__(self, c: WanVaeConfig) -> None:
        super().__init__()
        deepest, finest = c.decoder_width * c.multiples[-1], c.decoder_width * c.multiples[0]
        self.conv_in, self.mid_block = CausalConv(c.channels, deepest), Middle(deepest)
        self.up_blocks = nn.ModuleList(up_blocks(c))
        self.norm_out, self.conv_out = Norm(finest), CausalConv(finest, 3 * c.patch**2)

    def forward(self, x: Tensor, stream: Stream) -> Iterator[Tensor]:
        """The frames of a latent. Every stage is at one frame at a time: the finest ends before the next begins."""
        frames: Iterable[Tensor] = [self.mid_block(self.conv_in(x, stream), stream)]
        for stage in self.up_blocks:
            frames = chain.from_iterable(map(partial(stage, stream=stream), frames))
        return map(partial(self.ended, stream=stream), frames)

    def ended(self, x: Tensor, stream: Stream) -> Tensor:
        return self.conv_out(silu(self.norm_out(x)), stream)


class WanVae(nn.Module):
    """Videos [B, 3, 1 + 4n, H, W] in -1..1 to normalised latents [B, C, 1 + n, h, w] and back, whole or in chunks."""

    def __init__(self, config: WanVaeConfig) -> None:
        super().__init__()
        c = self.config = config
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        self.quant_conv = Pointwise(2 * c.channels, 2 * c.channels)
        self.post_quant_conv = Pointwise(c.channels, c.channels)

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
        streams: dict[Corner, Stream] = defaultdict(Stream)
        for chunk in chunks:
            yield blended(partial(tile, self.encode_chunk, streams, tiling.away), chunk, tiling, self.config.stride)

    def decode_stream(self, latents: Iterable[Tensor], tiling: Tiling = WHOLE) -> Iterator[Tensor]:
        """Frames of latents as they come, any number at a time: 1 + 4(K - 1) frames first, then 4K each."""
        streams: dict[Corner, Stream] = defaultdict(Stream)
        for chunk in latents:
            yield blended(partial(tile, self.decode_chunk, streams, tiling.away), chunk, tiling)

    def encode_chunk(self, video: Tensor, stream: Stream) -> Tensor:
        """The latents of a video's next frames, the posterior's mode."""
        B, _, T, H, W = video.shape
        stride, extra = self.config.stride, T - (not stream.started)
        if T == 0 or extra % CHUNK or H % stride or W % stride:
            raise ValueError(f"{T} frames of {W}x{H} are not whole latents: 1 frame, then {CHUNK} each, {stride} wide")
        patches = rearrange(video, "B C T (h a) (w b) -> T B (C b a) h w", a=self.config.patch, b=self.config.patch)
        found = (self.encoder(frame.contiguous(memory_format=LAST), stream) for frame in patches)
        modes = [self.quant_conv(z).chunk(2, 1)[0] for z in found if z is not None]
        stream.started = True
        mean, std = self.statistics(video)
        return (torch.stack(modes, 2) - mean) / std

    def decode_chunk(self, latents: Tensor, stream: Stream) -> Tensor:
        """The next frames of a video."""
        mean, std = self.statistics(latents)
        frames: list[Tensor] = []
        for z in (latents * std + mean).unbind(2):
            frames += self.decoder(self.post_quant_conv(z.contiguous(memory_format=LAST)), stream)
        patches = torch.stack(frames, 2).clamp_(-1, 1)
        return rearrange(patches, "B (C b a) T h w -> B C T (h a) (w b)", a=self.config.patch, b=self.config.patch)

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents' channels, [C, 1, 1, 1] each; buffers would stay on the meta device."""
        mean, std = like.new_tensor(self.config.mean), like.new_tensor(self.config.std)
        return rearrange(mean, "C -> C 1 1 1"), rearrange(std, "C -> C 1 1 1")


def tile(
    work: Callable[[Tensor, Stream], Tensor], streams: dict[Corner, Stream], away: bool, corner: Corner, piece: Tensor
) -> Tensor:  # fmt: skip
    """What work(piece, stream) makes of one tile, while all that others remember waits `away` in main memory."""
    for other, stream in streams.items() if away else ():
        stream.move(piece.device if other == corner else "cpu")
    return work(piece, streams[corner])


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


def silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True)


def averaged(frames: list[Tensor], channels: int, time: int, side: int) -> Tensor:
    """Fold one or two frames (the first of a video after a black one) and their cells into averaged channels."""
    black = [torch.zeros_like(frames[0])] * (time - len(frames))
    x = rearrange([*black, *frames], "a B C (h b) (w c) -> B (C a b c) h w", b=side, c=side)
    return reduce(x, "B (C n) h w -> B C h w", "mean", C=channels)


def repeated(x: Tensor, channels: int, time: int, index: int) -> Tensor:
    """Repeat channels and unfold them into cells of twice the size: one, by its index, of so many frames."""
    x = x.repeat_interleave(channels * time * 4 // x.shape[1], 1)
    x = rearrange(x, "B (C a n) h w -> a B (C n) h w", a=time, n=4)[index]
    return F.pixel_shuffle(x, 2)
