"""A continuous TECO: the video autoencoder.

Frames come in as 1 + 4n. Latent 0 is frame 0 alone; every later latent is a chunk of four frames.
One latent cell covers 16 x 16 pixels and has two parts:

- the *space latent* s: what the chunk's last frame (its key frame) looks like, read from that frame alone,
  so that a start or end image has an exact latent and nothing leaks into it. It is a small picture of space/4
  channels at 1/8 of the resolution, whose 2 x 2 cells are the channels of one (see `fine`). The first of them show
  a picture by themselves; the `details` after them add what is faint, and are scaled so that noise hides them first;
- the *time latent* tau: how the chunk gets there, read from the chunk, the key frame before it, and a
  causal memory over strongly pooled key frames (TECO, Yan et al. 2022, with its codebook replaced by a
  KL-regularised Gaussian).

Detail is carried between 1/16 and 1/8 by the parameter-free space-to-channel shortcuts of DC-AE, and no
convolution runs above 1/4 of the resolution, so that a laptop decodes faster than it plays.

Letters: B batch, C channels, T frames, K latent frames, H W pixels, h w latent cells.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sora_cli.models.sora.conv import Conv, Down, Memory, ResBlock, Up, fold_channels

STRIDE = 16  # pixels per latent cell
FINE = 8  # pixels per cell of the picture that the space latent is
SUB = STRIDE // FINE
CHUNK = 4  # frames per latent, after the first


@dataclass(frozen=True)
class VaeConfig:
    space: int  # channels of the space latent, four for each of its small picture
    details: int  # how many of these, the last ones, add detail to what the others show by themselves
    time: int  # channels of the time latent
    deep: int  # features at 1/16
    wide: int  # features at 1/8, on the way in
    paint: int  # features at 1/8, on the way out
    tail: int  # features at 1/4
    blocks: int  # residual blocks a stage
    memory: int  # key frames that the causal memory looks back on
    zoom: int  # pixels painted, a side, for each that is read: 1 or 2

    def __post_init__(self) -> None:
        if self.zoom not in (1, 2) or not 0 <= self.details < self.space:
            raise ValueError(f"zoom {self.zoom} must be 1 or 2, and details {self.details} below space {self.space}")

    @property
    def parts(self) -> tuple[int, int, int]:
        """Channels that show a picture by themselves, those of its details, and those of motion."""
        return self.space - self.details, self.details, self.time

    @property
    def channels(self) -> int:
        return self.space + self.time


# -- The two halves ---------------------------------------------------------------------------------------


class PictureEncoder(nn.Module):
    """Key frames -> moments of channels of the space latent."""

    def __init__(self, width: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.glance = Conv(3, width, kernel=12, stride=FINE)
        self.picture = nn.Sequential(*[ResBlock(width) for _ in range(2 * blocks)])
        self.to_space = Conv(width, 2 * channels // SUB**2, kernel=1)
        almost_noiseless(self.to_space)

    def shown(self, frames: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 2c, H/8, W/8]
        return self.to_space(self.picture(self.glance(frames)))


class Encoder(PictureEncoder):
    """Key frames -> the space posterior; all frames -> features -> the time posterior. Details have a network of their
    own, learned beside latents that stay."""

    def __init__(self, config: VaeConfig) -> None:
        c = config
        super().__init__(c.wide, c.space - c.details, c.blocks)
        self.detail = PictureEncoder(c.paint, c.details, c.blocks) if c.details else None
        self.stem = Conv(3, c.wide, kernel=12, stride=8)
        self.wide = nn.Sequential(*[ResBlock(c.wide) for _ in range(c.blocks)])
        self.down = Down(c.wide, c.deep)
        self.deep = nn.Sequential(*[ResBlock(c.deep) for _ in range(c.blocks)])
        self.memory = Memory(c.deep, c.memory)
        self.motion = nn.Sequential(Conv((CHUNK + 1) * c.deep, c.deep, kernel=1), ResBlock(c.deep))
        self.to_time = Conv(c.deep, 2 * c.time, kernel=1)
        almost_noiseless(self.to_time)

    def space(self, video: Tensor) -> Tensor:
        """Key frames [B, 3, K, H, W] -> moments of their space latents [B, K, 2c, h, w]."""
        frames = _frames(video)
        moments = self.shown(frames)
        if self.detail:
            pairs = zip(moments.chunk(2, 1), self.detail.shown(frames).chunk(2, 1), strict=True)
            moments = torch.cat([part for pair in pairs for part in pair], 1)
        return rearrange(cells(moments), "(B K) C h w -> B K C h w", K=video.shape[2])

    def features(self, video: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W] -> [B, T, deep, h, w]."""
        x = self.deep(self.down(self.wide(self.stem(_frames(video)))))
        return rearrange(x, "(B T) C h w -> B T C h w", T=video.shape[2])

    def time(self, e: Tensor, past: Tensor) -> Tensor:
        """Features of the previous key frame and n chunks [B, 1+4n, C, h, w], pooled past key frames
        [B, m, C] (the previous one last) -> time moments of the n chunks [B, n, 2c, h, w]."""
        B, n = e.shape[0], (e.shape[1] - 1) // CHUNK
        recalled = self.memory(torch.cat([past, pooled(e[:, CHUNK::CHUNK])], 1))[:, -n:]
        chunks = torch.stack([e[:, i * CHUNK : i * CHUNK + CHUNK + 1] for i in range(n)], 1)
        motion = self.motion[0](rearrange(chunks, "B n f C h w -> (B n) (f C) h w"))
        motion = motion + rearrange(recalled, "B n C -> (B n) C 1 1")
        return rearrange(self.to_time(self.motion[1](motion)), "(B n) C h w -> B n C h w", B=B)


def almost_noiseless(head: Conv) -> None:
    """What moments begin with."""
    nn.init.constant_(head.bias[len(head.bias) // 2 :], -5.0)


class Decoder(nn.Module):
    """Latents -> frames: key frames from s alone, the three between from both key frames' features and tau."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        c = config
        self.coarse = c.space - c.details
        self.stem = Conv(c.space, c.deep)
        self.deep = nn.Sequential(*[ResBlock(c.deep) for _ in range(c.blocks + 1)])
        self.fuse = nn.Sequential(
            Conv(2 * c.deep + c.time, c.deep, kernel=1),
            *[ResBlock(c.deep) for _ in range(c.blocks)],
            Conv(c.deep, (CHUNK - 1) * c.deep, kernel=1),
        )
        self.unknown_motion = nn.Parameter(torch.zeros(c.time))
        self.up = Up(c.deep, c.paint)
        self.wide = nn.Sequential(*[ResBlock(c.paint) for _ in range(c.blocks)])
        self.up2 = Up(c.paint, c.tail)
        self.tail = ResBlock(c.tail)
        self.up3 = Up(c.tail, c.tail // 2) if c.zoom == 2 else nn.Identity()
        self.to_pixels = Conv(c.tail // c.zoom, 3 * 4 * 4)

    def keys(self, s: Tensor) -> Tensor:
        """Space latents [N, c, h, w] -> features of key frames [N, deep, h, w]."""
        x = self.stem(s.contiguous(memory_format=torch.channels_last))
        return self.deep(x + fold_channels(s[:, : self.coarse], x.shape[1]).to(x.dtype))

    def between(self, before: Tensor, after: Tensor, tau: Tensor) -> Tensor:
        """Features of two key frames [N, deep, h, w] and motion [N, c, h, w] -> three between [N, 3, deep, h, w]."""
        x = self.fuse(torch.cat([before, after, tau], 1))
        change = rearrange(x, "N (f C) h w -> N f C h w", f=CHUNK - 1)
        share = torch.arange(1, CHUNK, device=x.device).view(1, -1, 1, 1, 1).to(before.dtype) / CHUNK
        return torch.lerp(before[:, None], after[:, None], share) + change

    def paint(self, g: Tensor) -> Tensor:
        """Features [N, deep, h, w] -> pixels [N, 3, 16h, 16w], or twice as many a side."""
        x = self.tail(self.up2(self.wide(self.up(g.contiguous(memory_format=torch.channels_last)))))
        return F.pixel_shuffle(self.to_pixels(self.up3(x)), 4)


class Vae(nn.Module):
    """The video autoencoder. Latents are [B, space + time, K, h, w], normalised per channel."""

    mean: Tensor
    std: Tensor
    independent = True  # a frame depends on the key frames on both sides alone

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config, self.channels, self.zoom = config, config.channels, config.zoom
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("std", torch.ones(config.channels))

    def hidden_weights(self) -> list[nn.Parameter]:
        """The matrices between features and features, for Muon."""
        outer = {"glance", "stem", "to_space", "to_time", "to_pixels"}
        return [p for name, p in self.named_parameters() if p.ndim == 2 and outer.isdisjoint(name.split("."))]

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Video [B, 3, 1+4n, H, W] in [-1, 1] -> mean and log-variance [B, C, 1+n, h, w]; the first
        latent has no motion, so its time part is a constant 0 with variance 1."""
        s = self.encoder.space(video[:, :, ::CHUNK])
        mean, logvar = _with_still(s[:, :1], self.config.time)
        if video.shape[2] == 1:
            return mean, logvar
        e = self.encoder.features(video)
        rest = _joined(s[:, 1:], self.encoder.time(e, pooled(e[:, :1])))
        return torch.cat([mean, rest[0]], 2), torch.cat([logvar, rest[1]], 2)

    def normalise(self, latents: Tensor) -> Tensor:
        return (latents - self.mean.view(-1, 1, 1, 1)) / self.std.view(-1, 1, 1, 1)

    def denormalise(self, latents: Tensor) -> Tensor:
        return latents * self.std.view(-1, 1, 1, 1) + self.mean.view(-1, 1, 1, 1)

    def encode(self, video: Tensor) -> Tensor:
        """Video [B, 3, 1+4n, H, W] in [-1, 1], H and W multiples of 16 -> normalised latents [B, C, 1+n, h, w]."""
        return self.normalise(self.moments(video)[0])

    def encode_stream(self, frames: Iterable[Tensor], group: int = 2) -> Iterator[Tensor]:
        """1+4n frames [B, 3, H, W] in [-1, 1] -> latents [B, C, k, h, w], the first alone and then `group` at a
        time, whose concatenation is `encode` of the whole. Memory does not grow with n: all that is kept are
        one key frame's features and as many pooled key frames as the memory looks back on."""
        coming = iter(frames)
        first = next(coming)[:, :, None]
        yield self.normalise(_with_still(self.encoder.space(first), self.config.time)[0])
        e = self.encoder.features(first)
        past = pooled(e)
        while chunks := list(islice(coming, group * CHUNK)):
            assert len(chunks) % CHUNK == 0, f"{len(chunks)} frames are not whole chunks of {CHUNK}"
            video = torch.stack(chunks, 2)
            e = torch.cat([e[:, -1:], self.encoder.features(video)], 1)
            s = self.encoder.space(video[:, :, CHUNK - 1 :: CHUNK])
            yield self.normalise(_joined(s, self.encoder.time(e, past))[0])
            past = torch.cat([past, pooled(e[:, CHUNK::CHUNK])], 1)[:, -self.config.memory :]

    def decode_raw(self, latents: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Unnormalised latents [B, C, K, h, w] -> (pixels [B, 3, T, H, W], features of the last key frame).

        `previous` are the features of the key frame before the first latent; without them the first latent
        is a single frame and T = 1 + 4(K-1), else T = 4K."""
        s, tau = latents.split([self.config.space, self.config.time], 1)
        B, K = s.shape[0], s.shape[2]
        g = rearrange(self.decoder.keys(rearrange(s, "B C K h w -> (B K) C h w")), "(B K) C h w -> B K C h w", B=B)
        features = [g[:, :1]] if previous is None else []
        before = g[:, :-1] if previous is None else torch.cat([previous[:, None], g[:, :-1]], 1)
        if n := before.shape[1]:
            motion = rearrange(tau[:, :, K - n :], "B C n h w -> (B n) C h w")
            mid = self.decoder.between(before.flatten(0, 1), g[:, K - n :].flatten(0, 1), motion)
            chunk = torch.cat([rearrange(mid, "(B n) f C h w -> B n f C h w", n=n), g[:, K - n :, None]], 2)
            features.append(rearrange(chunk, "B n f C h w -> B (n f) C h w"))
        frames = torch.cat(features, 1)
        pixels = self.decoder.paint(frames.flatten(0, 1))
        return rearrange(pixels, "(B T) C H W -> B C T H W", B=B), g[:, -1]

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, K, h, w] -> video [B, 3, 1 + 4(K-1), 16h, 16w] in [-1, 1], times `zoom` a side."""
        return self.decode_raw(self.denormalise(latents))[0].clamp(-1, 1)

    def key_features(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, K, h, w] -> features of their last key frame [B, deep, h, w], bit for bit."""
        s = self.denormalise(latents.to(self.mean))[:, : self.config.space]
        g = self.decoder.keys(rearrange(s, "B C K h w -> (B K) C h w"))
        return rearrange(g, "(B K) C h w -> B K C h w", K=s.shape[2])[:, -1]

    def stream(
        self, latents: Tensor, group: int = 2, previous: Tensor | None = None, cyclic: bool = False
    ) -> Iterator[Tensor]:
        """Decode [B, C, K, h, w] a few latents at a time, yielding videos [B, 3, t, H, W] in [-1, 1] whose
        concatenation is `decode(latents)`. With `previous`, the features of the key frame before, or `cyclic`,
        where that is the last one, they are 4K frames."""
        pieces = latents.split(group, 2)
        return self.decode_stream(pieces, self.key_features(pieces[-1]) if cyclic else previous)

    def decode_stream(self, pieces: Iterable[Tensor], previous: Tensor | None = None) -> Iterator[Tensor]:
        """Pieces of one video's latents [B, C, k, h, w], wherever they are -> their videos [B, 3, t, H, W] in
        [-1, 1]. Memory does not grow with their number: all that is kept is one key frame's features."""
        for piece in pieces:
            pixels, previous = self.decode_raw(self.denormalise(piece.to(self.mean)), previous)
            yield pixels.clamp(-1, 1)


def config_from(metadata: Mapping[str, str]) -> VaeConfig:
    """The configuration in the header of a file; those from before there were details, or a zoom, have none."""
    config = json.loads(metadata["config"])
    return VaeConfig(**{"details": 0, "zoom": 1, "paint": config["wide"]} | config)


def from_weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Vae:
    """The autoencoder that a file written by `sora-cli train vae` holds, in float32, frozen."""
    vae = Vae(config_from(metadata))
    vae.load_state_dict(tensors, strict=True)
    return vae.eval().requires_grad_(False)


def fine(s: Tensor) -> Tensor:
    """Space latents [..., c, h, w] -> the small pictures that they are [..., c/4, 2h, 2w]."""
    return F.pixel_shuffle(s, SUB)


def cells(picture: Tensor) -> Tensor:
    """The exact inverse of `fine`: [..., c/4, 2h, 2w] -> [..., c, h, w]."""
    return F.pixel_unshuffle(picture, SUB)


def _frames(video: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B T, C, H, W], channels innermost."""
    return rearrange(video, "B C T H W -> (B T) C H W").contiguous(memory_format=torch.channels_last)


def pooled(e: Tensor) -> Tensor:
    """Features [B, T, C, h, w] -> one token a frame for the memory [B, T, C]."""
    return e.mean((-2, -1))


def _joined(s: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of space and of time, each [B, n, 2c, h, w] -> mean and log-variance [B, C, n, h, w]."""
    joined = [torch.cat(pair, 2) for pair in zip(s.chunk(2, 2), tau.chunk(2, 2), strict=True)]
    mean, logvar = (rearrange(x, "B n C h w -> B C n h w") for x in joined)
    return mean, logvar


def _with_still(moments: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """Space moments of one frame [B, 1, 2c, h, w] -> mean and log-variance [B, c + time, 1, h, w]."""
    mean, logvar = rearrange(moments, "B K C h w -> B C K h w").chunk(2, 1)
    motionless = torch.zeros_like(mean[:, :1]).expand(-1, time, -1, -1, -1)
    return torch.cat([mean, motionless], 1), torch.cat([logvar, motionless], 1)
