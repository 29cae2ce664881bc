"""The sprite atlas on a device, with two coarser levels for small sprites."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sora_cli.world.vocabulary import SUBJECTS

PATH = Path(__file__).with_name("sprites.png")
CELL, COLUMNS = 128, 8
NAMES = [*SUBJECTS, "surfboard"]
INDEX = {name: i for i, name in enumerate(NAMES)}


@dataclass(frozen=True)
class Atlas:
    levels: tuple[Tensor, ...]     # [1, 4, H, W] premultiplied RGBA, each half as large as the one before
    feet: np.ndarray               # [sprites] lowest opaque row below the centre, as a share of the cell
    wide: np.ndarray               # [sprites] width of the opaque part, as a share of the cell


@lru_cache(maxsize=4)
def atlas(device: str = "cpu") -> Atlas:
    """The atlas on `device`; read once."""
    with Image.open(PATH) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGBA"))).float() / 255
    pixels = torch.cat([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], dim=-1)
    full = rearrange(pixels, "h w c -> 1 c h w")
    cells = rearrange(full[0, 3] > 0.5, "(r h) (c w) -> (r c) h w", h=CELL, w=CELL)[: len(NAMES)].numpy()
    feet = np.array([np.flatnonzero(cell.any(1)).max() + 1 for cell in cells]) / CELL - 0.5
    wide = np.array([np.ptp(np.flatnonzero(cell.any(0))) for cell in cells]) / CELL
    levels = (full, F.avg_pool2d(full, 2), F.avg_pool2d(full, 4))
    return Atlas(tuple(level.to(device) for level in levels), feet, wide)
