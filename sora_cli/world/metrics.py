"""Measures of video quality with closed forms; every one takes videos [B, T, C, H, W] in [0, 1].

Cells [B, T, h, w] are true where a picture matters; a cell has the same number of pixels everywhere.
"""

from collections.abc import Sequence
from statistics import fmean, stdev

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor


def estimate(values: Sequence[float]) -> dict[str, float]:
    """The mean of a sample, and the standard error of that mean (0 where one value cannot tell)."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": fmean(values), "error": error}


def psnr(x: Tensor, y: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, per frame and then averaged; equal frames count as 100 dB."""
    error = reduce((x - y).square(), "b t c h w -> b t", "mean")
    return float((-10 * error.clamp_min(1e-10).log10()).mean())


def psnr_in(x: Tensor, y: Tensor, cells: Tensor) -> float:
    """PSNR in dB of what lies in the cells, by frame and then averaged; frames without any do not count."""
    inside = pixels(cells, x)
    area = reduce(inside, "b t 1 h w -> b t", "sum") * x.shape[2]
    assert area.any(), "no frame has any of these cells"
    error = reduce((x - y).square() * inside, "b t c h w -> b t", "sum")[area > 0] / area[area > 0]
    return float((-10 * error.clamp_min(1e-10).log10()).mean())


def sharpness(x: Tensor, y: Tensor, cells: Tensor) -> float:
    """Mean gradient in the cells of x over that of y: below 1 is blurred, above 1 has edges that y lacks."""
    return float(gradient(x, cells) / gradient(y, cells))


def gradient(x: Tensor, cells: Tensor) -> Tensor:
    """Mean length of the step to the next pixel, to the right and below, over the pixels of the cells."""
    right, below = x.diff(dim=-1)[..., :-1, :], x.diff(dim=-2)[..., :-1]
    inside = pixels(cells, x)[..., :-1, :-1]
    return (torch.hypot(right, below) * inside).sum() / (x.shape[2] * inside.sum())


def pixels(cells: Tensor, x: Tensor) -> Tensor:
    """1 for every pixel of x that lies in a cell, else 0: [B, T, 1, H, W]."""
    high, wide = x.shape[-2] // cells.shape[-2], x.shape[-1] // cells.shape[-1]
    return repeat(cells.to(x), "b t h w -> b t 1 (h i) (w j)", i=high, j=wide)


def ssim(x: Tensor, y: Tensor) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window, valid positions only, mean over channels."""
    x, y = (rearrange(v, "b t c h w -> (b t c) 1 h w") for v in (x, y))
    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (var_x + var_y + c2)).mean())


def blurred(x: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Images [N, 1, H, W] under a separable Gaussian, without padding."""
    at = torch.arange(window) - (window - 1) / 2
    kernel = torch.softmax(-at.square() / (2 * sigma**2), 0).to(x)
    x = F.conv2d(x, rearrange(kernel, "k -> 1 1 k 1"))
    return F.conv2d(x, rearrange(kernel, "k -> 1 1 1 k"))


def flicker(x: Tensor, y: Tensor) -> float:
    """Mean |d x - d y| over neighbouring frames: change in time that the original does not have."""
    return float((x.diff(dim=1) - y.diff(dim=1)).abs().mean())


def motion(x: Tensor) -> float:
    """Mean |d x| over neighbouring frames."""
    return float(x.diff(dim=1).abs().mean())


def drift(x: Tensor, slices: int) -> list[float]:
    """Colour drift: distance of each time slice's mean colour from the first slice's, in [0, sqrt(C)]."""
    parts = x.tensor_split(slices, dim=1)
    colours = torch.stack([reduce(part, "b t c h w -> b c", "mean") for part in parts])
    return (colours - colours[0]).norm(dim=-1).mean(1).tolist()
