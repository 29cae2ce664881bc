"""Sample sheets: frames of videos in rows, as one PNG, for people who would rather look."""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from sora_cli import media


def save_sheet(path: Path, rows: list[Tensor]) -> None:
    """Rows of frames [3, T, H, W] in [-1, 1], one above the other; written whole or not at all."""
    lines = [rearrange(row.float().cpu(), "C T H W -> H (T W) C") for row in rows]
    width = max(line.shape[1] for line in lines)
    lines = [torch.nn.functional.pad(line, (0, 0, 0, width - line.shape[1]), value=-1) for line in lines]
    pixels = ((torch.cat(lines) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    media.write_image(path, pixels)
