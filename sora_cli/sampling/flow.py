"""The path between data and noise, shared by training and sampling (rectified flow, Liu et al. 2022).

x_t = (1 - t) x + t e: t = 0 is data, t = 1 is noise. The network predicts x; the loss and the solver work on
the velocity v = e - x = (x_t - x) / t (x-prediction with a v-loss, Li & He 2025).
"""

import torch
from torch import Tensor

SMALLEST = 0.05  # the velocity of an x-prediction divides by t; below this it would only amplify errors


def noised(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point at t of the straight path from data to noise; t broadcasts."""
    return torch.lerp(x, noise, t)


def velocity(x_t: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The velocity that an x-prediction means at (x_t, t)."""
    return (x_t - x) / t.clamp_min(SMALLEST)


def weight(t: Tensor) -> Tensor:
    """The weight of a squared error of x in the loss on v."""
    return t.clamp_min(SMALLEST) ** -2


def shifted(t: Tensor, shift: float | Tensor) -> Tensor:
    """Move times towards noise: larger videos need more of it to be hidden (Esser et al. 2024, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def shift_for(tokens: int) -> float:
    """The shift grows with the square root of the number of tokens; 64 have shift 1.

    It is bounded: a long clip's frames are alike, so its tokens are not independent evidence."""
    return min(4.0, max(1.0, (tokens / 64) ** 0.5))


def logit_normal(count: int, rng: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Training times [count] in (0, 1)."""
    return torch.sigmoid(mean + std * torch.randn(count, generator=rng))


def schedule(steps: int, shift: float) -> Tensor:
    """Sampling times [steps + 1] from 1 down to 0."""
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).float()
