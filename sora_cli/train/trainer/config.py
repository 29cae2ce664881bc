"""What does not depend on the machine: the schedule of a training, and the randomness of its steps."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class TrainerConfig:
    """`steps` fixes the schedule: a warm-up, a plateau, and a linear decay over the last quarter (warm-up, stable,
    decay), of the steps or of the minutes, whichever ends first."""

    steps: int
    batch: int  # samples a batch, for the progress display alone
    rate: float  # peak learning rate
    warmup: int = 100
    decay: float = 0.25  # the share of the steps over which the rate falls to zero
    average: float = 0.999  # EMA of the weights
    clip: float = 1.0
    weight_decay: float = 0.01
    save_every: int = 500
    sample_every: int = 1000

    def lr_at(self, step: int, spent: float = 0.0) -> float:
        """The learning rate of a step when this share of the time is over."""
        rise = min(1.0, (step + 1) / self.warmup)
        left = min(1 - step / self.steps, 1 - spent)
        return self.rate * rise * min(1.0, max(0.0, left) / max(1 / self.steps, self.decay))


@dataclass(frozen=True)
class Preset:
    """A size of a network, in the order of its recipe, and how it is trained where nothing is asked."""

    sizes: tuple[Any, ...]
    steps: int
    batch: int
    lr: float


def generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one step, on the CPU, the same on every device."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
