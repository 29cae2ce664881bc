"""NaViT patches: videos of any size, shape and length in one flat list of tokens.

A pack is a list of videos. For every frame of every video it holds first that frame's condition tokens, then
its patches, row by row. `Layout` knows who sits where: the *spatial* segments (one a frame) and the *temporal*
ones (one a patch position, across the frames of its video). Segments of equal length are attended together,
so attention is a few plain SDPA calls and no token is padding (Dehghani et al. 2023, "Patch n' Pack").

Letters: N tokens, D width, H heads, C channels, T frames, h w patches down and across.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

PATCH = 2  # latent cells a side
ROUND = 256  # the token list is padded to a multiple of this; padding belongs to no segment


@dataclass(frozen=True)
class Grid:
    """One video in patches: frames, rows, columns."""

    frames: int
    height: int
    width: int


def grid_of(latents: Tensor) -> Grid:
    """The patch grid of latents [C, T, 2h, 2w]."""
    _, frames, height, width = latents.shape
    assert height % PATCH == 0 and width % PATCH == 0, f"latents of {height} x {width} do not divide by {PATCH}"
    return Grid(frames, height // PATCH, width // PATCH)


def patchify(videos: Sequence[Tensor]) -> Tensor:
    """Videos of latents, each [C, T, 2h, 2w] -> patches [N, 4C]."""
    return torch.cat([rearrange(v, "C T (h p) (w q) -> (T h w) (C p q)", p=PATCH, q=PATCH) for v in videos])


def unpatchify(patches: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
    """The exact inverse of `patchify`."""
    parts = patches.split([g.frames * g.height * g.width for g in grids])
    return [rearrange(part, "(T h w) (C p q) -> C T (h p) (w q)", T=g.frames, h=g.height, p=PATCH, q=PATCH)
            for part, g in zip(parts, grids, strict=True)]  # fmt: skip


@dataclass(frozen=True)
class Segments:
    """Segments of one length: token indices [G, n] and the video each belongs to [G]."""

    index: Tensor
    video: Tensor
    grid_frames: int


@dataclass(frozen=True)
class Layout:
    """Where everything sits in the flat token list of a pack."""

    tokens: int  # length of the list: rounded up, since every new length costs the processor new kernels
    patches: Tensor  # [P] flat index of every patch
    conditions: Tensor  # [frames, K] flat index of every frame's condition tokens
    video_of_frame: Tensor  # [frames]
    frame_of_patch: Tensor  # [P]
    place: Tensor  # [P, 2] fractional (y, x) of every patch's centre, 0 to 1
    spatial: tuple[Segments, ...]
    temporal: tuple[Segments, ...]  # of videos with more than one frame


@lru_cache(maxsize=64)
def layout(grids: tuple[Grid, ...], conditions: int, device: torch.device) -> Layout:
    """The layout of a pack of videos with `conditions` condition tokens a frame."""
    at, frames, K = 0, 0, conditions
    patches, heads, videos, owners, places = [], [], [], [], []
    spatial: dict[int, list[tuple[Tensor, int]]] = {}
    temporal: dict[int, list[tuple[Tensor, int]]] = {}
    for number, g in enumerate(grids):
        size = g.height * g.width
        index = at + torch.arange(g.frames * (K + size)).view(g.frames, K + size)
        heads.append(index[:, :K])
        patches.append(index[:, K:].flatten())
        spatial.setdefault(K + size, []).append((index, number))
        if g.frames > 1:
            temporal.setdefault(g.frames, []).append((index[:, K:].T, number))
        videos.append(torch.full((g.frames,), number))
        owners.append(frames + torch.arange(g.frames).repeat_interleave(size))
        y, x = (torch.arange(g.height) + 0.5) / g.height, (torch.arange(g.width) + 0.5) / g.width
        places.append(torch.cartesian_prod(y, x).repeat(g.frames, 1))
        at, frames = at + index.numel(), frames + g.frames
    chosen, cond, video, owner, place = (torch.cat(x).to(device) for x in (patches, heads, videos, owners, places))
    groups = _segments(spatial, device), _segments(temporal, device)
    return Layout(ROUND * -(-at // ROUND), chosen, cond, video, owner, place, *groups)


def _segments(found: dict[int, list[tuple[Tensor, int]]], device: torch.device) -> tuple[Segments, ...]:
    groups = []
    for length, members in found.items():
        index = torch.cat([m for m, _ in members])
        video = torch.cat([torch.full((len(m),), n) for m, n in members])
        groups.append(Segments(index.to(device), video.to(device), length))
    return tuple(groups)


def attend(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[Segments],
           bias: Sequence[Tensor | None] | None = None) -> Tensor:  # fmt: skip
    """Attention inside every segment: q, k, v [N, H, D] -> [N, H, D]; tokens in no segment get zeros.

    `bias`, one a group, is added to the scores: [G, H, n, n] or broadcastable to it; -inf hides."""
    out = torch.zeros_like(q)
    for number, group in enumerate(groups):
        one, two, three = (rearrange(x[group.index], "G n H D -> G H n D") for x in (q, k, v))
        mixed = attention(one, two, three, bias[number] if bias else None)
        out[group.index] = rearrange(mixed, "G H n D -> G n H D")
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention [G, H, n, d]. On a CPU the fused kernel's backward is three times slower
    than plain products on segments as short as ours."""
    if q.device.type != "cpu" or q.shape[-2] > 256:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    with torch.autocast("cpu", enabled=False):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (scores if bias is None else scores + bias).softmax(-1) @ v


class LearnedPositions(nn.Module):
    """One learned table an axis, read by linear interpolation at fractional coordinates, and summed."""

    def __init__(self, width: int, bins: tuple[int, int, int], seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.z, self.y, self.x = (nn.Parameter(torch.randn(n, width) * 0.02) for n in bins)

    def space(self, place: Tensor) -> Tensor:
        """Fractional (y, x) [P, 2] -> [P, D]."""
        return interpolate(self.y, place[:, 0]) + interpolate(self.x, place[:, 1])

    def time(self, seconds: Tensor) -> Tensor:
        """Seconds since the start [F] -> [F, D]; the scale is logarithmic, finer near the start."""
        top = torch.log1p(torch.tensor(self.seconds))
        return interpolate(self.z, (torch.log1p(seconds.clamp_min(0)) / top).clamp(0, 1))


def interpolate(table: Tensor, at: Tensor) -> Tensor:
    """Read a table [n, D] at fractions [N] in 0..1, whose bins' centres lie at (i + 1/2) / n -> [N, D]."""
    n = table.shape[0]
    u = (at * n - 0.5).clamp(0, n - 1)
    low = u.floor().long().clamp_max(n - 2)
    return torch.lerp(table[low], table[low + 1], (u - low)[:, None].to(table.dtype))
