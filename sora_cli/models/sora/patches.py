"""NaViT patches: videos of any size, shape and length in one flat list of tokens.

A pack is a list of videos. For every frame of every video it holds first that frame's condition tokens, then
its patches, row by row. `Layout` knows who sits where: the *spatial* segments (one a frame) and the *temporal*
ones (one a patch position, across the frames of its video). Segments of equal length are attended together,
so attention is a few plain SDPA calls and no token is padding (Dehghani et al. 2023, "Patch n' Pack"). Where all
videos of a pack have as many frames and patches, segments are axes of the list, and nothing is copied.

Letters: N tokens, K condition tokens, D width, H heads, C channels, T frames, h w patches down and across.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sora_cli.models.attention import attend as attend_fused

PATCH = 2  # latent cells a side
SHORT, BRIEF = 256, 32  # longest segments attended by plain products on a CPU: with a backward to come, and without
TINY = 4  # while training, such segments are attended without products, which cost more than they compute
ROUND = 256  # the token list is padded to a multiple of this; padding belongs to no segment


@dataclass(frozen=True)
class Grid:
    """One video in patches: frames, rows, columns. Training may keep some positions alone, the same in all frames."""

    frames: int
    height: int
    width: int
    keep: tuple[int, ...] = ()  # positions that are there, counted row by row and rising; () is all of them

    @property
    def size(self) -> int:
        """Patches of a frame."""
        return len(self.keep) or self.height * self.width


def grid_of(latents: Tensor) -> Grid:
    """The patch grid of latents [C, T, 2h, 2w]."""
    _, frames, height, width = latents.shape
    assert height % PATCH == 0 and width % PATCH == 0, f"latents of {height} x {width} do not divide by {PATCH}"
    return Grid(frames, height // PATCH, width // PATCH)


def patchify(videos: Sequence[Tensor] | Tensor, grids: Sequence[Grid] = (), side: int = PATCH) -> Tensor:
    """Videos of latents, each [C, T, 2h, 2w] -> patches [N, 4C]; with `grids` those that they keep. Videos
    that are all alike may come as one tensor [V, C, T, 2h, 2w]. What is no latents may have a patch of another side."""
    if isinstance(videos, Tensor):
        x = rearrange(videos, "V C T (h p) (w q) -> V T (h w) (C p q)", p=side, q=side)
        if grids and grids[0].keep:
            keep = torch.tensor([g.keep for g in grids], device=x.device)
            x = x.gather(2, keep[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
        return x.flatten(0, 2)
    found = [rearrange(v, "C T (h p) (w q) -> T (h w) (C p q)", p=side, q=side) for v in videos]
    if grids:
        found = [x[:, list(g.keep)] if g.keep else x for x, g in zip(found, grids, strict=True)]
    return torch.cat([x.flatten(0, 1) for x in found])


def unpatchify(patches: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
    """The exact inverse of `patchify`, for grids that keep all positions."""
    parts = patches.split([g.frames * g.height * g.width for g in grids])
    return [rearrange(part, "(T h w) (C p q) -> C T (h p) (w q)", T=g.frames, h=g.height, p=PATCH, q=PATCH)
            for part, g in zip(parts, grids, strict=True)]  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """Segments of one length, attended together: anywhere in the list, by the indices of their tokens [G, n] and the
    video each is in [G]."""

    index: Tensor
    video: Tensor
    frames: int  # of the videos that they belong to

    def take(self, x: Tensor) -> Tensor:
        """Tokens [N, ...] -> segments [G, n, ...]."""
        return x[self.index]

    def put(self, parts: Tensor, onto: Tensor) -> Tensor:
        """Segments back in their places; `onto` is what other groups have put so far."""
        return onto.index_copy(0, self.index.flatten(), parts.flatten(0, 1))

    def each(self, values: Tensor) -> Tensor:
        """One value a video [V, ...] -> one a segment, to broadcast over `take`."""
        return values[self.video]


@dataclass(frozen=True)
class Regular:
    """The same of videos that are all alike, in axes of their own: no index, no copy."""

    pattern: str  # from the list to the segments' axes
    videos: int
    frames: int

    def take(self, x: Tensor) -> Tensor:
        return rearrange(x, self.pattern, V=self.videos, T=self.frames)

    def put(self, parts: Tensor, onto: Tensor) -> Tensor:
        into, out = self.pattern.split(" -> ")
        return rearrange(parts, f"{out} -> {into}")

    def each(self, values: Tensor) -> Tensor:
        return values[:, None]


Segments = Listed | Regular


@dataclass(frozen=True)
class Layout:
    """Where everything sits in the flat token list of a pack of videos."""

    tokens: int  # length of the list: rounded up, since every new length costs the processor new kernels
    patches: Tensor  # [P] flat index of every patch
    conditions: Tensor  # [frames, K] flat index of every frame's condition tokens
    video_of_frame: Tensor  # [frames]
    frame_of_patch: Tensor  # [P]
    position: Tensor  # [P, 2] fractional (y, x) of every patch's centre, 0 to 1
    cell: Tensor  # [P, 2] its row and its column
    spatial: tuple[Segments, ...]  # of tokens, one a frame
    temporal: tuple[Segments, ...]  # of patches, one a patch position in videos with more than one frame

    def join(self, cond_tokens: Tensor, patches: Tensor) -> Tensor:
        """Condition tokens [frames, K, D] and patches [P, D] -> the list [N, D]."""
        x = patches.new_zeros(self.tokens, patches.shape[1]).index_copy(0, self.patches, patches)
        return x.index_copy(0, self.conditions.flatten(), cond_tokens.flatten(0, 1))

    def take(self, x: Tensor) -> Tensor:
        """The patches of the list: [N, D] -> [P, D]."""
        return x[self.patches]

    def add(self, x: Tensor, patches: Tensor) -> Tensor:
        """The list with [P, D] added to its patches."""
        return x.index_add(0, self.patches, patches.to(x.dtype))


@dataclass(frozen=True)
class EvenLayout(Layout):
    """The same for videos that are all alike: views instead of indices, which is what compilers want, too."""

    def join(self, cond_tokens: Tensor, patches: Tensor) -> Tensor:
        return torch.cat([cond_tokens, patches.unflatten(0, (len(cond_tokens), -1))], 1).flatten(0, 1)

    def take(self, x: Tensor) -> Tensor:
        frames, K = self.conditions.shape
        return x.unflatten(0, (frames, -1))[:, K:].flatten(0, 1)

    def add(self, x: Tensor, patches: Tensor) -> Tensor:
        frames, K = self.conditions.shape
        return x + F.pad(patches.unflatten(0, (frames, -1)), (0, 0, K, 0)).flatten(0, 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for trainings, too, whose backward pass may save no tensor of inference
def layout(grids: tuple[Grid, ...], conditions: int, device: torch.device) -> Layout:
    """The layout of a pack of videos with `conditions` condition tokens a frame."""
    if len({(g.frames, g.size) for g in grids}) == 1:
        return even_layout(grids, conditions, device)
    at = before = frames = 0
    videos = []
    spatial: dict[int, list[tuple[Tensor, int]]] = {}  # segments of one length, and the video that they are in
    temporal: dict[int, list[tuple[Tensor, int]]] = {}
    for number, g in enumerate(grids):
        one = even_layout((g,), conditions, torch.device("cpu"))
        videos.append((at + one.patches, at + one.conditions, number + one.video_of_frame, frames + one.frame_of_patch,
                       one.position, one.cell))  # fmt: skip
        tokens, own = at + torch.arange(one.tokens), before + torch.arange(len(one.patches))
        for found, groups, numbers in ((spatial, one.spatial, tokens), (temporal, one.temporal, own)):
            for index in (group.take(numbers).flatten(0, 1) for group in groups):
                found.setdefault(index.shape[1], []).append((index, number))
        at, before, frames = at + one.tokens, before + len(one.patches), frames + g.frames
    chosen, cond, video, owner, where, cell = (torch.cat(x).to(device) for x in zip(*videos, strict=True))
    within = tuple(_listed(members, 1, device) for members in spatial.values())
    across = tuple(_listed(members, T, device) for T, members in temporal.items())
    return Layout(ROUND * -(-at // ROUND), chosen, cond, video, owner, where, cell, within, across)


def even_layout(grids: tuple[Grid, ...], conditions: int, device: torch.device) -> Layout:
    """The layout of videos that are all alike but for the positions that are kept of them."""
    V, T, P = len(grids), grids[0].frames, grids[0].size
    index = torch.arange(V * T * (conditions + P), device=device).view(V * T, -1)
    keep = torch.tensor([g.keep or range(P) for g in grids], device=device)
    shape = torch.tensor([[g.height, g.width] for g in grids], device=device)
    cell = torch.stack([keep // shape[:, 1:], keep % shape[:, 1:]], -1)  # (V, P, 2)
    position = (cell + 0.5) / shape[:, None]
    cell, position = (x[:, None].expand(-1, T, -1, -1).flatten(0, 2) for x in (cell, position))
    frames = torch.arange(V * T, device=device)
    within = (Regular("(V T n) ... -> V T n ...", V, T),)
    across = (Regular("(V T P) ... -> V P T ...", V, T),) if T > 1 else ()
    return EvenLayout(index.numel(), index[:, conditions:].flatten(), index[:, :conditions], frames // T,
                      frames.repeat_interleave(P), position, cell, within, across)  # fmt: skip


def _listed(members: Sequence[tuple[Tensor, int]], frames: int, device: torch.device) -> Listed:
    index = torch.cat([segments for segments, _ in members])
    video = torch.cat([torch.full((len(segments),), number) for segments, number in members])
    return Listed(index.to(device), video.to(device), frames)


def attend(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[Segments],
           bias: Sequence[Tensor | None] | None = None) -> Tensor:  # fmt: skip
    """Attention inside every segment: q, k, v [N, H, D] -> [N, H, D]; tokens in no segment get zeros.

    `bias`, one a group, is added to the scores [..., H, n, n]; -inf hides."""
    out = torch.zeros_like(v) if len(groups) != 1 or isinstance(groups[0], Listed) else v
    for number, group in enumerate(groups):
        one, two, three = (rearrange(group.take(x), "... n H D -> ... H n D") for x in (q, k, v))
        mixed = attention(one, two, three, bias[number] if bias else None)
        out = group.put(rearrange(mixed, "... H n D -> ... n H D"), out)
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention [..., H, n, d]. On a CPU the fused kernel's backward is three times slower
    than plain products on segments as short as ours, and so is its forward on very short ones."""
    plain = SHORT if torch.is_grad_enabled() else BRIEF
    if q.device.type != "cpu" or q.shape[-2] > plain:
        return fused(q, k, v, bias)
    with torch.autocast("cpu", enabled=False):
        if q.shape[-2] <= TINY and torch.is_grad_enabled():
            scores = (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-1) * q.shape[-1] ** -0.5
            return ((scores if bias is None else scores + bias).softmax(-1).unsqueeze(-1) * v.unsqueeze(-3)).sum(-2)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (scores if bias is None else scores + bias).softmax(-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """torch's own attention, whose fast kernels want one axis of segments."""
    if bias is not None:
        bias = bias.expand(*q.shape[:-1], k.shape[-2]).flatten(0, -4)
    one, two, three = (x.flatten(0, -4) for x in (q, k, v))
    return attend_fused(one, two, three, bias).reshape(q.shape)


class LearnedPositions(nn.Module):
    """One learned table an axis, read by linear interpolation at fractional coordinates, and summed."""

    def __init__(self, width: int, bins: tuple[int, int, int], seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.z, self.y, self.x = (nn.Parameter(torch.randn(n, width) * 0.02) for n in bins)

    def space(self, position: Tensor) -> Tensor:
        """Fractional (y, x) [P, 2] -> [P, D]."""
        return interpolate(self.y, position[:, 0]) + interpolate(self.x, position[:, 1])

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
