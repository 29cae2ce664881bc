"""Measures of video quality with closed forms; every one takes videos [B, T, C, H, W] in [0, 1]."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor


def psnr(x: Tensor, y: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, per frame and then averaged; equal frames count as 100 dB."""
    error = reduce((x - y).square(), "b t c h w -> b t", "mean")
    return float((-10 * error.clamp_min(1e-10).log10()).mean())


def ssim(x: Tensor, y: Tensor, window: int = 11, sigma: float = 1.5) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window, valid positions only, mean over channels."""
    x, y = (rearrange(v, "b t c h w -> (b t c) 1 h w") for v in (x, y))
    blur = gaussian_blur(window, sigma)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (var_x + var_y + c2)).mean())


class gaussian_blur:
    """A separable Gaussian over images [N, 1, H, W] without padding."""

    def __init__(self, window: int, sigma: float) -> None:
        at = torch.arange(window) - (window - 1) / 2
        self.kernel = torch.softmax(-at.square() / (2 * sigma**2), 0)

    def __call__(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x)
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


def frechet(x: Tensor, y: Tensor, dimensions: int = 24) -> float:
    """Fréchet distance of two clouds of features [N, D] as Gaussians (Heusel et al. 2017), in the leading principal
    directions of the second, so that fewer samples than features will do."""
    x, y = x.double(), y.double()
    centre = y.mean(0)
    _, _, directions = torch.linalg.svd(y - centre, full_matrices=False)
    one, other = (((v - centre) @ directions[:dimensions].T) for v in (x, y))
    covariances = [v.T.cov().reshape(v.shape[1], v.shape[1]) for v in (one, other)]
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp_min(0).sqrt().sum()
    apart = (one.mean(0) - other.mean(0)).square().sum()
    return float(apart + sum(c.trace() for c in covariances) - 2 * root)
