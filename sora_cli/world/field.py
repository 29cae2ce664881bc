"""Where the subjects of a scene are, cell by cell: what a renderer knows of a picture and a network can learn to tell.

A cell's cover is the share of it that a subject hides, with the board under its feet; u and v say which part of the
sprite is there: -1/2 to 1/2 from its left to its right and from its top to its bottom, turned, mirrored and scaled with
it. The board is below the sprite and stands out on both sides, so that its u and v go on as far as 1.
"""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli.world.compositing import Layer, joined
from sora_cli.world.render import Actor, Frame, actors
from sora_cli.world.scene import Scene
from sora_cli.world.sprites import CELL, COLUMNS, NAMES, atlas

STRIDE = 16                        # pixels of a cell
FINE = 4                           # points a cell and side at which a sprite is read
LEVEL = 2                          # of the atlas: as coarse as the points
SUBJECTS_MOST = 2
COVERED = 0.15  # of a cell, from which on it is the subject's


@torch.no_grad()
def field(scenes: Sequence[Scene], times: Tensor, height: int, width: int,
          device: str | torch.device = "cpu") -> Tensor:
    """Cover, u and v of the first and the second subject at times [B, T] in seconds: [B, T, 2, 3, H / 16, W / 16].
    Where a subject is not, all three are 0."""
    assert height % STRIDE == 0 and width % STRIDE == 0, f"{width}x{height} is no whole number of cells"
    B, T = times.shape
    seconds = times.double().cpu().numpy()
    runs = [(scene, scene.begins + own) for scene, own in zip(scenes, seconds, strict=True)]
    cast, grid = list(actors(runs, Frame(height, width))), _Grid(height, width, torch.device(device))
    found = torch.zeros(SUBJECTS_MOST, B * T, 3, height // STRIDE, width // STRIDE, device=device)
    for rank in range(SUBJECTS_MOST):
        if here := [actor for actor in cast if actor.rank == rank]:
            index = torch.from_numpy(np.concatenate([actor.frames for actor in here])).to(device)
            found[rank, index] = grid.cells(here)
    return rearrange(found, "r (b t) c h w -> b t r c h w", b=B)


class _Grid:
    """Points of a frame, FINE by FINE a cell."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        step = STRIDE / FINE
        self.x, self.y = ((torch.arange(size * FINE // STRIDE, device=device) + 0.5) * step for size in (width, height))
        self.device = device
        sheet, size = atlas(str(device)).levels[LEVEL][0, 3], CELL >> LEVEL
        self.alpha = rearrange(sheet, "(r h) (c w) -> (r c) h w", h=size, w=size, c=COLUMNS)[: len(NAMES)]

    def cells(self, cast: list[Actor]) -> Tensor:
        """[n, 3, h, w] of the frames of actors, one after another."""
        sprites = joined([actor.sprite() for actor in cast])
        u, v = self.inside(sprites)
        cover = self.read(sprites, u, v)
        if any(actor.surfs for actor in cast):
            boards = joined([actor.board() for actor in cast])
            surfs = np.concatenate([np.full(len(actor.frames), actor.surfs) for actor in cast])
            cover = torch.maximum(cover, self.read(boards, *self.inside(boards)) * self.column(surfs))
        whole = _pooled(cover)
        return torch.stack([whole, *(_pooled(x * cover) / whole.clamp_min(1e-3) for x in (u, v))], 1)

    def inside(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """u and v [n, rows, columns] of all points in a layer's own frame."""
        dx, dy = self.x[None, None, :] - self.column(layer.x), self.y[None, :, None] - self.column(layer.y)
        cos, sin = self.column(np.cos(layer.angle)), self.column(np.sin(layer.angle))
        return (dx * cos + dy * sin) / self.column(layer.wide), (dy * cos - dx * sin) / self.column(layer.tall)

    def read(self, layer: Layer, u: Tensor, v: Tensor) -> Tensor:
        """How opaque a layer is at these points."""
        size = self.alpha.shape[-1]
        row, column = (((x + 0.5) * size).long().clamp(0, size - 1) for x in (v, u))
        cell = torch.from_numpy(layer.cell).to(self.device)[:, None, None]
        return self.alpha[cell, row, column] * ((u.abs() < 0.5) & (v.abs() < 0.5))

    def column(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).float().to(self.device)[:, None, None]


def _pooled(x: Tensor) -> Tensor:
    return rearrange(x, "n (h i) (w j) -> n h w (i j)", i=FINE, j=FINE).mean(-1)
