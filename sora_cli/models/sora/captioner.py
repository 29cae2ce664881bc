"""The captioner (VCM): a small CoCa (Yu et al. 2022) for two seconds of video.

Frames become tokens; a text tower reads the caption and is held against them as a whole (contrast); decoder layers
on top of it look at the tokens and say the next word (captioning). One pass through the text serves both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from sora_cli.models.sora.conv import ShiftedConv

HEIGHT, WIDTH = 72, 120
FRAMES, RATE = 9, 4.0  # of one look: frames, and how many of them make a second
STRIDE = 4  # of the first layer, in pixels


@dataclass(frozen=True)
class CaptionerConfig:
    """Sizes of the network; every one is stored with its weights."""

    vocab_size: int  # words of the captions + 4
    context: int  # L: tokens of the longest caption, start and end included
    width: int  # D
    heads: int
    layers: int  # of the text tower, and as many that look at the video
    channels: tuple[int, ...]  # of the video tower, from the first layer on; all but two entries halve the picture

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells that the video tower ends with."""
        stride = STRIDE * 2 ** (len(self.channels) - 2)
        return -(-HEIGHT // stride), -(-WIDTH // stride)


class VideoTower(nn.Module):
    """Clips [B, 9, 3, 72, 120] in [0, 1] -> tokens [B, N, D]: one a frame (what is seen when), one a cell (where)."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        first, *_, last = config.channels
        self.stem = nn.Conv2d(3, first, 7, STRIDE, 3)
        strides = [1, *[2] * (len(config.channels) - 2)]
        sizes = zip(pairwise(config.channels), strides, strict=True)
        self.stages = nn.Sequential(*(ShiftedConv(i, o, FRAMES, stride=stride) for (i, o), stride in sizes))
        self.moment, self.cell = nn.Linear(2 * last, config.width), nn.Linear(2 * last, config.width)
        rows, columns = config.grid
        self.position = nn.Parameter(0.02 * torch.randn(FRAMES + rows * columns, config.width))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, video: Tensor) -> Tensor:
        x = rearrange(video, "b t c h w -> (b t) c h w") * 2 - 1
        x = F.relu(self.stem(x.contiguous(memory_format=torch.channels_last)))      # (B T) C H/4 W/4
        x = rearrange(self.stages(x), "(b t) c h w -> b t (h w) c", t=FRAMES)
        frame_features = torch.cat([reduce(x, "b t n c -> b t c", how) for how in ("mean", "max")], dim=-1)
        grid_features = torch.cat([reduce(x, "b t n c -> b n c", how) for how in ("mean", "max")], dim=-1)
        x = torch.cat([self.moment(frame_features), self.cell(grid_features)], dim=1)  # B N D
        return self.norm(x + self.position)


class Features(NamedTuple):
    video: Tensor  # B D, of length 1
    text: Tensor  # B D, of length 1
    scores: Tensor  # B L vocabulary: of the word that comes after each


class Captioner(nn.Module):
    """CoCa in small: a video tower, a causal text tower, and decoder layers that see both."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        width, shape = config.width, (config.width, config.heads, 4 * config.width)
        how: dict[str, Any] = {"dropout": 0.0, "activation": F.gelu, "batch_first": True, "norm_first": True}
        self.video = VideoTower(config)
        self.query = nn.Parameter(torch.randn(1, 1, width))
        self.pool = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.words = nn.Embedding(config.vocab_size, width)
        self.places = nn.Parameter(0.01 * torch.randn(config.context, width))
        self.reading = nn.ModuleList(nn.TransformerEncoderLayer(*shape, **how) for _ in range(config.layers))
        self.telling = nn.ModuleList(nn.TransformerDecoderLayer(*shape, **how) for _ in range(config.layers))
        self.summary, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, config.vocab_size)
        self.scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        nn.init.normal_(self.words.weight, std=0.02)

    def hidden_weights(self) -> list[nn.Parameter]:
        """The matrices inside the transformer layers, for Muon."""
        return [p for layers in (self.reading, self.telling) for p in layers.parameters() if p.ndim == 2]

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Captions [B, L] -> features [B, L, D], each of the words up to there."""
        x = self.words(tokens) + self.places[: tokens.shape[1]]
        mask = causal(x)
        for layer in self.reading:
            x = layer(x, src_mask=mask, is_causal=True)
        return x

    def decode(self, x: Tensor, seen: Tensor) -> Tensor:
        """Features of the words up to each [B, L, D] and tokens of a video [B, N, D] -> scores of the next word."""
        mask = causal(x)
        for layer in self.telling:
            x = layer(x, seen, tgt_mask=mask, tgt_is_causal=True)
        return self.head(self.norm(x))

    def pool_video(self, seen: Tensor) -> Tensor:
        """Tokens of a video [B, N, D] -> [B, D] of length 1."""
        found, _ = self.pool(self.query.expand(len(seen), -1, -1), seen, seen, need_weights=False)  # B 1 D
        return F.normalize(found[:, 0], dim=-1)

    def pool_text(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Features [B, L, D] of captions [B, L] -> [B, D] of length 1."""
        end = tokens.argmax(-1)[:, None, None]  # the number of the end of a text is the highest
        return F.normalize(self.summary(x.take_along_dim(end, dim=1)[:, 0]), dim=-1)

    def forward(self, video: Tensor, tokens: Tensor) -> Features:
        seen, x = self.video(video), self.encode_text(tokens)                       # B N D, B L D
        return Features(self.pool_video(seen), self.pool_text(x, tokens), self.decode(x, seen))


def causal(x: Tensor) -> Tensor:
    """What a word of features [B, L, D] may not see: those after it."""
    return nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device, dtype=x.dtype)


def from_weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Captioner:
    """The frozen network that `sora-cli train captioner` exported."""
    settings = json.loads(metadata["config"])
    network = Captioner(CaptionerConfig(**settings | {"channels": tuple(settings["channels"])}))
    network.load_state_dict(dict(tensors), strict=True)  # half-precision weights become float32 in here
    return network.eval().requires_grad_(False)
