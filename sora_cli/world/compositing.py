"""Layers of sprites and soft shadows onto pictures, each inside a box of its own size."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from sora_cli.world.sprites import CELL, COLUMNS, Atlas, atlas


@dataclass(frozen=True)
class Layer:
    """One sprite or shadow in each of n different frames; arrays [n], in pixels."""

    frame: np.ndarray              # which picture
    cell: np.ndarray               # which sprite
    x: np.ndarray                  # the centre
    y: np.ndarray
    wide: np.ndarray               # negative mirrors
    tall: np.ndarray
    angle: np.ndarray              # radians, clockwise

    def where(self, chosen: np.ndarray) -> "Layer":
        return Layer(*(getattr(self, field.name)[chosen] for field in fields(self)))


def joined(layers: Sequence[Layer]) -> Layer:
    return Layer(*(np.concatenate([getattr(layer, f.name) for layer in layers]) for f in fields(Layer)))


def stamp(picture: Tensor, layer: Layer) -> None:
    """Composite sprites onto picture [N, 3, H, W], each from the atlas level nearest to its size."""
    sheet = atlas(str(picture.device))
    pixels = np.maximum(np.abs(layer.wide), np.abs(layer.tall))
    level = np.clip(np.round(np.log2(CELL / np.maximum(pixels, 1))), 0, len(sheet.levels) - 1).astype(int)
    for number in np.unique(level):
        _stamp_level(picture, layer.where(level == number), sheet, int(number))


def shade(picture: Tensor, layer: Layer, light: float, strength: float) -> None:
    """Blend soft ellipses of a grey `light` onto picture [N, 3, H, W]."""
    box = _Box(picture, layer, 2.0 * layer.wide, 2.0 * layer.tall)
    across, down = (box.dx / (0.8 * box.column(layer.wide))), (box.dy / (0.8 * box.column(layer.tall)))
    cover = strength * (torch.exp(-down.square()) * torch.exp(-across.square()))[:, None]
    box.blend(1 - cover, light * cover.expand(-1, 3, -1, -1))


def _stamp_level(picture: Tensor, layer: Layer, sheet: Atlas, level: int) -> None:
    cos, sin, source = np.cos(layer.angle), np.sin(layer.angle), sheet.levels[level]
    wide, tall = np.abs(layer.wide) / 2, np.abs(layer.tall) / 2
    box = _Box(picture, layer, abs(cos) * wide + abs(sin) * tall, abs(sin) * wide + abs(cos) * tall)
    steps = 2 / COLUMNS, 2 * (CELL >> level) / source.shape[2]          # a cell in units of the sampling grid
    grid = torch.empty(len(layer.x), box.tall, box.wide, 2, device=picture.device)
    for i, (p, q, size, cell) in enumerate(((box.dx, box.dy, layer.wide, layer.cell % COLUMNS),
                                            (box.dy, -box.dx, layer.tall, layer.cell // COLUMNS))):
        middle, half = box.column((cell + 0.5) * steps[i] - 1), steps[i] / 2
        torch.add(p * box.column(steps[i] * cos / size) + middle, q * box.column(steps[i] * sin / size),
                  out=grid[..., i])
        torch.clamp(grid[..., i], middle - half, middle + half, out=grid[..., i])
    drawn = F.grid_sample(source, rearrange(grid, "n h w two -> 1 (n h) w two"), align_corners=False)
    drawn = rearrange(drawn, "1 c (n h) w -> n c h w", h=box.tall)
    box.blend(1 - drawn[:, 3:], drawn[:, :3])


def _tight(picture: Tensor) -> bool:
    return picture.device.type == "cpu"


class _Box:
    """Equal boxes around a layer's centres: tight on the CPU, elsewhere the whole frame in one operation."""

    def __init__(self, picture: Tensor, layer: Layer, half_wide: np.ndarray, half_tall: np.ndarray):
        self.picture, self.frame = picture, layer.frame
        self.tight = _tight(picture)
        if self.tight:
            self.tall, self.wide = int(2 * half_tall.max()) + 3, int(2 * half_wide.max()) + 3
            self.left = np.floor(layer.x - self.wide / 2).astype(int)
            self.top = np.floor(layer.y - self.tall / 2).astype(int)
        else:
            self.tall, self.wide = picture.shape[-2:]
            self.left = self.top = np.zeros(len(layer.x), int)
        steps = torch.arange(max(self.wide, self.tall), device=picture.device)
        self.dx = self.column(self.left + 0.5 - layer.x) + steps[None, None, :self.wide]       # [n, 1, w]
        self.dy = self.column(self.top + 0.5 - layer.y) + steps[None, :self.tall, None]        # [n, h, 1]

    def column(self, values: np.ndarray) -> Tensor:
        """[n] -> [n, 1, 1] on the picture's device."""
        return torch.from_numpy(values).float().to(self.picture.device)[:, None, None]

    def blend(self, keep: Tensor, light: Tensor) -> None:
        """picture = picture * keep + light inside the boxes. keep [n, 1, h, w], light [n, 3, h, w]."""
        if not self.tight:
            index = torch.from_numpy(self.frame).to(self.picture.device)
            self.picture[index] = self.picture[index] * keep + light
            return
        height, width = self.picture.shape[-2:]
        corners = zip(self.frame.tolist(), self.left.tolist(), self.top.tolist(), strict=True)
        for i, (frame, x, y) in enumerate(corners):
            x0, x1, y0, y1 = max(-x, 0), min(width - x, self.wide), max(-y, 0), min(height - y, self.tall)
            if x0 < x1 and y0 < y1:
                target = self.picture[frame, :, y + y0:y + y1, x + x0:x + x1]
                target.mul_(keep[i, :, y0:y1, x0:x1]).add_(light[i, :, y0:y1, x0:x1])
