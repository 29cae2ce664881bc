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

RotaryAngles = tuple[Tensor, Tensor]  # cosines and sines of rotary positions
TimeRelations = list[tuple[Tensor, Tensor]]  # a temporal group: log-distances [V, T, T, 3] and mask [V, 1, T, T]

# The names of parameters in files written before they had the field's names -> theirs now; read for one more release.
RENAMED = {"clock.": "time_embed.", "time_in.": "t_embedder.", "pace_in.": "cfg_embedder.",
           ".distance": ".temporal_bias"}  # fmt: skip


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
    bar: float  # seconds after which the time features repeat

    def __post_init__(self) -> None:
        if self.width % (8 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 8 for each of {self.heads} heads")

    @property
    def conditions(self) -> int:
        """Condition tokens a frame: timestep, guidance and step size, text, registers."""
        return 2 + self.text_tokens + self.registers


@dataclass(frozen=True)
class Conditions:
    """The conditions of a pack of videos. Per frame: t (0 where given), given parts, seconds, order; per video:
    text features, guidance, step size. Where a prompt changes along a video, `prompt_index` gives every
    frame its row of `text`, which then has one row a prompt."""

    t: Tensor  # [F] noise level, 0 clean to 1 noise
    cond_mask: Tensor  # [F, 2] 1 where the space / time latent is given
    seconds: Tensor  # [F]
    order: Tensor  # [F] stage of generation, 0 for what is given
    text: Tensor  # [V, 1 + L or more, text_width], the text tower's tokens
    guidance: Tensor  # [V] 1 = none
    step: Tensor  # [V] size of the solver's step in t, 0 = infinitesimal
    prompt_index: Tensor | None = None  # [F] row of text


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
        self.temporal_bias = nn.Parameter(torch.zeros(H, 3))  # log-distance bias (FDM, Harvey et al. 2022)

    def forward(self, x: Tensor, where: Layout, rope: RotaryAngles, between: TimeRelations) -> Tensor:
        x = x + self.across_space(self.space_norm(x), where, rope)
        if where.temporal:
            x = where.add(x, self.across_time(self.time_norm(where.take(x)), where, between))
        return x + self.mlp(self.mlp_norm(x))

    def across_space(self, x: Tensor, where: Layout, rope: RotaryAngles) -> Tensor:
        q, k, v = self.space.project(x)
        return self.space.merge(attend(apply_rope(q, rope), apply_rope(k, rope), v, where.spatial))

    def across_time(self, x: Tensor, where: Layout, between: TimeRelations) -> Tensor:
        q, k, v = self.time.project(x)  # of patches alone: conditions are each frame's own
        bias = []
        for group, (features, mask) in zip(where.temporal, between, strict=True):
            scores = torch.einsum("V q k n, H n -> V H q k", features, self.temporal_bias.float()) + mask
            bias.append(group.each(scores.to(v.dtype)))
        return self.time.merge(attend(q, k, v, where.temporal, bias))


class Dit(nn.Module):
    """Predicts clean latents (x-prediction) for packs of videos."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        c = self.config = config
        self.patch_in = nn.Linear(c.channels * PATCH**2 + 2, c.width)
        self.positions = LearnedPositions(c.width, c.bins, c.seconds)
        self.time_embed = nn.Linear(64, c.width, bias=False)
        self.t_embedder = nn.Sequential(nn.Linear(64 + 2 + 64, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        self.cfg_embedder = nn.Sequential(nn.Linear(128, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
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
        ends = [module.out for module in self.modules() if isinstance(module, Attention | SwiGLU)]
        for late in (*ends, self.patch_out, self.time_embed):  # starts as an image model, blocks as the identity
            nn.init.zeros_(late.weight)

    def hidden_weights(self) -> list[nn.Parameter]:
        """The matrices between features and features, for Muon."""
        linears = [m for m in self.blocks.modules() if isinstance(m, nn.Linear)]
        return [p for m in linears for p in m.parameters()]

    def forward(self, patches: Tensor, grids: tuple[Grid, ...], given: Conditions) -> Tensor:
        """Noisy patches [P, 4C] -> clean patches [P, 4C]."""
        return self.forward_features(patches, grids, given, 0)[0]

    def forward_features(
        self, patches: Tensor, grids: tuple[Grid, ...], given: Conditions, after: int
    ) -> tuple[Tensor, Tensor]:
        """Clean patches [P, 4C], and the features [N, D] of all tokens after so many blocks."""
        where = layout(grids, self.config.conditions, patches.device)
        x = middle = self.embed(patches, where, given)  # (N, D)
        rope, between = self.rope(where, x.dtype), self.time_relations(where, grids, given)
        for number, block in enumerate(self.blocks, 1):
            x = block(x, where, rope, between)  # (N, D)
            middle = x if number == after else middle
        return self.patch_out(self.norm(where.take(x))), middle  # (P, 4C) (N, D)

    def embed(self, patches: Tensor, where: Layout, given: Conditions) -> Tensor:
        """Everything as tokens in one list: [N, D]."""
        owner = where.frame_of_patch
        cycle = self.time_features(given.seconds)  # (F, 64)
        times = self.positions.time(given.seconds) + self.time_embed(cycle.to(self.time_embed.weight.dtype))  # (F, D)
        inputs = torch.cat([patches, given.cond_mask[owner].to(patches.dtype)], 1)
        tokens = self.patch_in(inputs) + self.positions.space(where.position) + times[owner]  # (P, D)
        level = torch.cat([sinusoidal_embedding(given.t, 64), given.cond_mask, cycle], 1).to(patches.dtype)
        cfg = torch.cat([sinusoidal_embedding(x, 64) for x in (given.guidance / 8, given.step)], 1).to(patches.dtype)
        video = where.video_of_frame
        words = given.text[:, 1 : 1 + self.config.text_tokens]  # without the start token, which says nothing
        text = self.text_in(words.to(patches.dtype)) + self.text_positions  # (V, L, D)
        text = text[video if given.prompt_index is None else given.prompt_index]  # (F, L, D)
        cond_tokens = torch.cat([(self.t_embedder(level) + times)[:, None], self.cfg_embedder(cfg)[video][:, None],
                                 text, self.registers.expand(len(video), -1, -1)], 1)  # (F, K, D)  # fmt: skip
        return where.join(cond_tokens.to(tokens.dtype), tokens)

    def time_features(self, seconds: Tensor) -> Tensor:
        """Harmonics of the bar at seconds [F] -> [F, 64]. What the last bin of time stands for, and later, is a time of
        which nobody knows how long after the start of the scene it is: its features are zero."""
        return harmonics(seconds / self.config.bar, 64) * (seconds < self.config.seconds)[:, None]

    def rope(self, where: Layout, dtype: torch.dtype) -> RotaryAngles:
        """The rotary angles of every token, [N, 1, d / 4] cosines and sines: in a half of every head's features, for
        rows and columns (RoFormer, Su et al. 2021; in two axes, Heo et al. 2024). Conditions are nowhere."""
        count = self.config.width // self.config.heads // 8
        rates = math.pi / 2 / 2 ** torch.linspace(0, 3, count, device=where.cell.device)  # periods of 4 to 32 patches
        angles = rearrange(where.cell[:, :, None] * rates, "P two n -> P (two n)")
        angles = where.join(angles.new_zeros(*where.conditions.shape, angles.shape[1]), angles)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def time_relations(self, where: Layout, grids: tuple[Grid, ...], given: Conditions) -> TimeRelations:
        """For every temporal group log-distances [V, T, T, 3] and mask [V, 1, T, T] (0 or -inf), else zeros."""
        frames = [g.frames for g in grids]
        seconds, order = given.seconds.split(frames), given.order.split(frames)
        found = []
        for group in where.temporal:
            of = [number for number, T in enumerate(frames) if group.frames == T]
            those = (torch.stack([values[n] for n in of]) for values in (seconds, order))
            features, mask = relative_time_features(*those)
            if len(of) < len(frames):  # rows of the other videos stay empty
                V, rows = len(frames), torch.tensor(of, device=features.device)
                features, mask = (x.new_zeros(V, *x.shape[1:]).index_copy(0, rows, x) for x in (features, mask))
            found.append((features, mask))
        return found


def apply_rope(x: Tensor, rope: RotaryAngles) -> Tensor:
    """Queries or keys [N, H, d], the pairs of the first half of their features rotated."""
    cos, sin = rope
    a, b, rest = x.split([cos.shape[-1]] * 2 + [x.shape[-1] - 2 * cos.shape[-1]], -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1).to(x.dtype)


def relative_time_features(seconds: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Signed log-distances [V, T, T, 3] between frames, in chunks of 1/6 s, and who may see whom [V, 1, T, T]."""
    gap = (rearrange(seconds, "V T -> V T 1") - rearrange(seconds, "V T -> V 1 T")) * 6
    features = torch.stack([gap.clamp_min(0).log1p(), (-gap).clamp_min(0).log1p(), (gap == 0).to(gap.dtype)], -1)
    later = rearrange(order, "V T -> V 1 1 T") > rearrange(order, "V T -> V 1 T 1")
    return features, torch.zeros_like(gap)[:, None].masked_fill(later, -torch.inf)


def sinusoidal_embedding(x: Tensor, width: int) -> Tensor:
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
        raise SoraError("this transformer was trained by an older version with a different clock; train it again")
    return DitConfig(**config | {"bins": tuple(config["bins"])})


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that parameters have now."""
    found = {}
    for key, tensor in tensors.items():
        for old, new in RENAMED.items():
            key = key.replace(old, new) if key.startswith(old) or key.endswith(old) else key
        found[key] = tensor
    return found


def from_weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Dit:
    """The transformer that files written by `sora-cli train dit` hold, in float32, frozen."""
    dit = Dit(config_from(metadata))
    dit.load_state_dict(renamed(tensors), strict=True)
    return dit.eval().requires_grad_(False)
