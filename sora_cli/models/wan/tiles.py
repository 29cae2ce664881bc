"""A picture in overlapping tiles, worked on one by one and blended, so that a frame need not fit in memory whole.

Letters: h w cells, the unit that tiles are counted in: a latent cell or the pixels it stands for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Corner = tuple[int, int]  # top and left of a tile, in cells


@dataclass(frozen=True)
class Tiling:
    side: int  # cells along each side of a tile
    overlap: int  # cells that neighbours share at the least
    away: bool = True  # whether what idle tiles remember waits in main memory

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.side:
            raise ValueError(f"tiles of {self.side} cells cannot share {self.overlap}: take less than their side")

    def starts(self, cells: int) -> list[int]:
        """Where tiles begin along so many cells: as few as will do, evenly spread, all of the same size."""
        if cells <= self.side:
            return [0]
        last = -(-(cells - self.overlap) // (self.side - self.overlap)) - 1
        return [round(i * (cells - self.side) / last) for i in range(last + 1)]


WHOLE = Tiling(side=1 << 30, overlap=0)


def blended(process: Callable[[Corner, Tensor], Tensor], x: Tensor, tiling: Tiling, unit: int = 1) -> Tensor:
    """process(corner, tile) for every tile of x [..., h * unit, w * unit], put together to [..., h * n, w * n], where n
    is the size of a cell in what `process` gives back."""
    cells = x.shape[-2] // unit, x.shape[-1] // unit
    size = [min(tiling.side, n) * unit for n in cells]
    corners = [(top, left) for top in tiling.starts(cells[0]) for left in tiling.starts(cells[1])]
    if len(corners) == 1:
        return process(corners[0], x)
    total = shares = x.new_zeros(0)
    for top, left in corners:
        y = process((top, left), x[..., top * unit :, left * unit :][..., : size[0], : size[1]])
        n = y.shape[-2] * unit // size[0]
        if not total.numel():
            shares = y.new_zeros(cells[0] * n, cells[1] * n)
            total = y.new_zeros(*y.shape[:-2], *shares.shape)
        share = edges(y, tiling.overlap * n)
        total[..., top * n :, left * n :][..., : y.shape[-2], : y.shape[-1]] += y * share
        shares[top * n :, left * n :][: y.shape[-2], : y.shape[-1]] += share
    return total / shares


def edges(y: Tensor, overlap: int) -> Tensor:
    """How much each pixel of a tile counts, [h, w]: 1 inside, falling towards all edges over the overlap. What lies at
    the edge of the picture is in one tile only, so that it counts whole however little."""
    along = []
    for size in y.shape[-2:]:
        position = torch.arange(size, device=y.device) + 0.5
        along.append((torch.minimum(position, size - position) / max(overlap, 0.5)).clamp_max(1))
    return (along[0][:, None] * along[1]).to(y.dtype)
