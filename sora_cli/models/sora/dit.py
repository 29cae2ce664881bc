"""The Video DiT.

A block is spatial attention inside each frame over [conditions | patches], then time attention of every patch
position over the frames it may see, then a SwiGLU MLP. Timestep, guidance, step size and text are not
modulations but *tokens*, in front of every frame's patches. Time attention follows the order of generation:
frame i sees frame j iff order[j] <= order[i] (anchors have order 0), so the same weights generate forwards,
backwards, and key frames first.

Letters: N tokens, P patches, F frames of all videos, V videos, D width, H heads, L text tokens, K conditions.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sora_cli.errors import SoraError
from sora_cli.models.sora.patches import PATCH, Grid, Layout, LearnedPositions, attend, layout

Turn = tuple[Tensor, Tensor]  # cosines and sines of rotary positions


@dataclass(frozen=True)
class DitConfig:
    channels: int  # of a latent
    width: int
    depth: int
    heads: int
    text_width: int
    text_tokens: int
    registers: int
    bins: tuple[int, int, int]  # positions learned along time, height and width
    seconds: float  # the time that the last of the time bins stands for
    bar: float  # seconds after which the clock shows the same again

    def __post_init__(self) -> None:
        if self.width % (8 * self.heads):
            raise ValueError(f"width {self.width} does not divide by {self.heads} heads of a multiple of 8")

    @property
    def conditions(self) -> int:
        """Condition tokens a frame: timestep, guidance and step size, text, registers."""
        return 2 + self.text_tokens + self.registers


@dataclass(frozen=True)
class Conditions:
    """What a pack of videos is told. Per frame: t (0 where known), known parts, seconds, order; per video:
    text features, guidance, step size. Where a prompt changes along a video, `told` gives every frame its row
    of `text`, which then has one row a prompt."""

    t: Tensor  # [F] noise level, 0 clean to 1 noise
    known: Tensor  # [F, 2] 1 where the space / time latent is given
    seconds: Tensor  # [F]
    order: Tensor  # [F] stage of generation, 0 for what is given
    text: Tensor  # [V, 1 + L or more, text_width], the text tower's tokens
    guidance: Tensor  # [V] 1 = none
    step: Tensor  # [V] size of the solver's step in t, 0 = infinitesimal
    told: Tensor | None = None  # [F] row of text


class RMSNorm(nn.RMSNorm):
    """torch's own where gradients or a compiler are at work, with gains in the precision of what they multiply: it is
    slow otherwise. Its steps one by one are slow on a processor, so that sampling there takes the length of every
    vector at once."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-6)
        return x * (x.shape[-1] ** 0.5 / length) * self.weight


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm, self.k_norm = RMSNorm(width // heads), RMSNorm(width // heads)
        self.out = nn.Linear(width, width, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # [N, D] -> 3 x [N, H, d]
        q, k, v = (rearrange(part, "N (H d) -> N H d", H=self.heads) for part in self.qkv(x).chunk(3, -1))
        return self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v

    def merge(self, mixed: Tensor) -> Tensor:  # [N, H, d] -> [N, D]
        return self.out(rearrange(mixed, "N H d -> N (H d)"))


def hidden_width(width: int) -> int:
    """Hidden units of an MLP: 8/3 of the width, in whole vectors of 32."""
    return 32 * math.ceil(width * 8 / 3 / 32)


class SwiGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = hidden_width(width)
        self.into = nn.Linear(width, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.into(x).chunk(2, -1)
        return self.out(F.silu(gate) * value)


class Block(nn.Module):
    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        D, H = config.width, config.heads
        self.space_norm, self.space = RMSNorm(D), Attention(D, H)
        self.time_norm, self.time = RMSNorm(D), Attention(D, H)
        self.mlp_norm, self.mlp = RMSNorm(D), SwiGLU(D)
        self.distance = nn.Parameter(torch.zeros(H, 3))  # log-distance bias (FDM, Harvey et al. 2022)

    def forward(self, x: Tensor, where: Layout, turn: Turn, distance: list[tuple[Tensor, Tensor]]) -> Tensor:
        x = x + self.across_space(self.space_norm(x), where, turn)
        if where.temporal:
            x = where.add(x, self.across_time(self.time_norm(where.take(x)), where, distance))
        return x + self.mlp(self.mlp_norm(x))

    def across_space(self, x: Tensor, where: Layout, turn: Turn) -> Tensor:
        q, k, v = self.space.project(x)
        return self.space.merge(attend(turned(q, turn), turned(k, turn), v, where.spatial))

    def across_time(self, x: Tensor, where: Layout, distance: list[tuple[Tensor, Tensor]]) -> Tensor:
        q, k, v = self.time.project(x)  # of patches alone: conditions are each frame's own
        bias = []
        for group, (features, hidden) in zip(where.temporal, distance, strict=True):
            scores = torch.einsum("V q k n, H n -> V H q k", features, self.distance.float()) + hidden
            bias.append(group.each(scores.to(v.dtype)))
        return self.time.merge(attend(q, k, v, where.temporal, bias))


class Dit(nn.Module):
    """Predicts clean latents (x-prediction) for packs of videos."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        c = self.config = config
        self.patch_in = nn.Linear(c.channels * PATCH**2 + 2, c.width)
        self.positions = LearnedPositions(c.width, c.bins, c.seconds)
        self.clock = nn.Linear(64, c.width, bias=False)
        self.time_in = nn.Sequential(nn.Linear(64 + 2 + 64, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        self.pace_in = nn.Sequential(nn.Linear(128, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        self.text_in = nn.Linear(c.text_width, c.width)
        self.text_positions = nn.Parameter(torch.randn(c.text_tokens, c.width) * 0.02)
        self.registers = nn.Parameter(torch.randn(c.registers, c.width) * 0.02)
        self.blocks = nn.ModuleList([Block(c) for _ in range(c.depth)])
        self.norm = RMSNorm(c.width)
        self.patch_out = nn.Linear(c.width, c.channels * PATCH**2)
        self.initialise()

    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.modules():  # every block starts as the identity, and the network as an image model
            if isinstance(block, Block):
                for out in (block.space.out, block.time.out, block.mlp.out):
                    nn.init.zeros_(out.weight)
        for late in (self.patch_out, self.clock):
            nn.init.zeros_(late.weight)

    def hidden_weights(self) -> list[nn.Parameter]:
        """The matrices between features and features, for Muon."""
        linears = [m for m in self.blocks.modules() if isinstance(m, nn.Linear)]
        return [p for m in linears for p in m.parameters()]

    def forward(self, patches: Tensor, grids: tuple[Grid, ...], given: Conditions) -> Tensor:
        """Noisy patches [P, 4C] -> clean patches [P, 4C]."""
        return self.seen(patches, grids, given, 0)[0]

    def seen(self, patches: Tensor, grids: tuple[Grid, ...], given: Conditions, after: int) -> tuple[Tensor, Tensor]:
        """Clean patches [P, 4C], and the features [N, D] of all tokens after so many blocks."""
        where = layout(grids, self.config.conditions, patches.device)
        x = middle = self.embed(patches, where, given)  # (N, D)
        turn, distance = self.turn(where, x.dtype), self.distances(where, grids, given)
        for number, block in enumerate(self.blocks, 1):
            x = block(x, where, turn, distance)  # (N, D)
            middle = x if number == after else middle
        return self.patch_out(self.norm(where.take(x))), middle  # (P, 4C) (N, D)

    def embed(self, patches: Tensor, where: Layout, given: Conditions) -> Tensor:
        """Everything as tokens in one list: [N, D]."""
        owner = where.frame_of_patch
        shown = self.shown(given.seconds)  # (F, 64)
        when = self.positions.time(given.seconds) + self.clock(shown.to(self.clock.weight.dtype))  # (F, D)
        seen = torch.cat([patches, given.known[owner].to(patches.dtype)], 1)
        tokens = self.patch_in(seen) + self.positions.space(where.place) + when[owner]  # (P, D)
        level = torch.cat([waves(given.t, 64), given.known, shown], 1).to(patches.dtype)
        pace = torch.cat([waves(given.guidance / 8, 64), waves(given.step, 64)], 1).to(patches.dtype)
        video = where.video_of_frame
        words = given.text[:, 1 : 1 + self.config.text_tokens]  # without the start token, which says nothing
        text = self.text_in(words.to(patches.dtype)) + self.text_positions  # (V, L, D)
        text = text[video if given.told is None else given.told]  # (F, L, D)
        heads = torch.cat([(self.time_in(level) + when)[:, None], self.pace_in(pace)[video][:, None], text,
                           self.registers.expand(len(video), -1, -1)], 1)  # (F, K, D)  # fmt: skip
        return where.join(heads.to(tokens.dtype), tokens)

    def shown(self, seconds: Tensor) -> Tensor:
        """What the clock shows [F] -> [F, 64]. What the last bin of time stands for, and later, is a time of which
        nobody knows how long after the start of the scene it is: then the clock shows nothing."""
        return harmonics(seconds / self.config.bar, 64) * (seconds < self.config.seconds)[:, None]

    def turn(self, where: Layout, dtype: torch.dtype) -> Turn:
        """The rotary angles of every token, [N, 1, d / 2] cosines and signed sines for both features of a pair: in a
        half of every head's features, for rows and columns (RoFormer, Su et al. 2021; in two axes, Heo et al. 2024).
        Conditions are nowhere."""
        count = self.config.width // self.config.heads // 8
        rates = math.pi / 2 / 2 ** torch.linspace(0, 3, count, device=where.cell.device)  # periods of 4 to 32 patches
        angles = rearrange(where.cell[:, :, None] * rates, "P two n -> P (two n)")
        angles = where.join(angles.new_zeros(*where.conditions.shape, angles.shape[1]), angles)[:, None]
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)

    def distances(self, where: Layout, grids: tuple[Grid, ...], given: Conditions) -> list[tuple[Tensor, Tensor]]:
        """For every temporal group: signed log-distances [V, T, T, 3] and the order-of-generation mask
        [V, 1, T, T] (0 or -inf), with zeros at the videos of other groups."""
        frames = [g.frames for g in grids]
        seconds, order = given.seconds.split(frames), given.order.split(frames)
        found = []
        for group in where.temporal:
            of = [number for number, T in enumerate(frames) if group.frames == T]
            features, hidden = relations(torch.stack([seconds[n] for n in of]), torch.stack([order[n] for n in of]))
            if len(of) < len(frames):  # rows of the other videos stay empty
                rows = torch.tensor(of, device=features.device)
                features = features.new_zeros(len(frames), *features.shape[1:]).index_copy(0, rows, features)
                hidden = hidden.new_zeros(len(frames), *hidden.shape[1:]).index_copy(0, rows, hidden)
            found.append((features, hidden))
        return found


def turned(x: Tensor, turn: Turn) -> Tensor:
    """Queries or keys [N, H, d], the pairs of the first half of their features turned."""
    cos, sin = turn
    pairs, still = x.split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], -1)
    a, b = pairs.chunk(2, -1)
    return torch.cat([pairs * cos + torch.cat([b, a], -1) * sin, still], -1).to(x.dtype)


def relations(seconds: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Signed log-distances [V, T, T, 3] between frames, in chunks of 1/6 s, and who may see whom [V, 1, T, T]."""
    gap = (rearrange(seconds, "V T -> V T 1") - rearrange(seconds, "V T -> V 1 T")) * 6
    features = torch.stack([gap.clamp_min(0).log1p(), (-gap).clamp_min(0).log1p(), (gap == 0).to(gap.dtype)], -1)
    later = rearrange(order, "V T -> V 1 1 T") > rearrange(order, "V T -> V 1 T 1")
    return features, torch.zeros_like(gap)[:, None].masked_fill(later, -torch.inf)


def waves(x: Tensor, width: int) -> Tensor:
    """Sinusoidal features [n] -> [n, width] of numbers around 0..1, with 1/8 up to 32 periods."""
    frequencies = 2 ** torch.linspace(-2, 6, width // 2, device=x.device)
    angles = x.float()[:, None] * frequencies * math.pi
    return torch.cat([angles.cos(), angles.sin()], -1)


def harmonics(x: Tensor, width: int) -> Tensor:
    """[n] -> [n, width]: sines and cosines that repeat whenever x grows by 1, up to width / 2 times as often."""
    angles = x.float()[:, None] * torch.arange(1, width // 2 + 1, device=x.device) * (2 * math.pi)
    return torch.cat([angles.cos(), angles.sin()], -1)


def config_from(metadata: Mapping[str, str]) -> DitConfig:
    """The configuration in the header of a file that `sora-cli train dit` wrote. SoraError for a file from before the
    clock had a bar: it read times in another way."""
    config = json.loads(metadata["config"])
    if "bar" not in config:
        raise SoraError("this transformer was trained by an older version, whose clock was another; train it again")
    return DitConfig(**config | {"bins": tuple(config["bins"])})


def from_weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Dit:
    """The transformer that files written by `sora-cli train dit` hold, in float32, frozen."""
    dit = Dit(config_from(metadata))
    dit.load_state_dict(tensors, strict=True)
    return dit.eval().requires_grad_(False)
