"""What a middle block is to tell of a video while the transformer learns: where everything is, before what it looks
like.

As in REPA (Yu et al. 2024), a small head reads the features of a middle block, which come from noisy latents like all
others, and is taken away after training. REPA asks it for the features of a pretrained encoder. The world's renderer
knows more than any encoder does: which part of which sprite is in every cell. Where things are and how they are turned
is then settled once, by a smooth field, instead of patch by patch. Of people's own footage nobody knows that: there the
head tells the features of an encoder, as in REPA.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sora_cli.models.sora.dit import Conditions, Dit, RMSNorm
from sora_cli.models.sora.patches import PATCH, Grid, layout
from sora_cli.world.field import SUBJECTS_MOST

MIDDLE = 3  # the block that is asked
TURNS = (0.5, 1.0, 2.0, 4.0)  # of the sines and cosines of u and v


# An aim predicts `numbers` numbers of every patch, of `side` x `side` cells; its loss, of predictions [P, numbers] and
# the targets of the patches [P, K], counts `weight` times beside that of the latents.


class Geometry:
    """The world's field (`world.field`), cell by cell: each subject's cover, and u and v as sines and cosines."""

    numbers, side, weight = SUBJECTS_MOST * (1 + 4 * len(TURNS)) * PATCH**2, PATCH, 4.0

    def loss(self, predicted: Tensor, aim: Tensor) -> Tensor:
        target = rearrange(aim, "P (s f k) -> f P s k", s=SUBJECTS_MOST, f=3)
        cover, uv = target[0], target[1:]
        guess = rearrange(predicted, "P (s f k) -> P s f k", s=SUBJECTS_MOST, k=PATCH**2)
        right = torch.cat([sinusoids(axis) for axis in uv], 2)  # (P, s, 16, k)
        apart = (cover[:, :, None] * (guess[:, :, 1:] - right).square()).sum()
        return SUBJECTS_MOST * (guess[:, :, 0] - cover).square().mean() + apart / (right.shape[2] * cover.sum() + 1)


def sinusoids(x: Tensor) -> Tensor:
    """[P, s, k] -> sines and cosines [P, s, 2 * TURNS, k]."""
    angles = [2 * math.pi * turns * x for turns in TURNS]
    return torch.stack([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 2)


class Features:
    """Features of an image encoder, a vector a patch: their cosine is all that counts, as in REPA."""

    side, weight = 1, 2.0

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers

    def loss(self, predicted: Tensor, aim: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(predicted, aim, dim=-1).mean()


Aim = Geometry | Features


class Encoder(Protocol):
    """An image encoder, which tells `numbers` of every patch."""

    numbers: int

    def look(self, latents: Tensor, seconds: Tensor, frames: Sequence[int]) -> Tensor:
        """Features of these frames of a whole clip [C, T, h, w]: [N, numbers, h / 2, w / 2]."""


class Learner(nn.Module):
    """A transformer in training, with a head on a middle block if it has an aim to predict."""

    def __init__(self, dit: Dit, aim: Aim | None) -> None:
        super().__init__()
        self.dit, self.aim = dit, aim
        width = dit.config.width
        self.head = nn.Sequential(RMSNorm(width), nn.Linear(width, width), nn.SiLU(),
                                  nn.Linear(width, aim.numbers)) if aim else None  # fmt: skip

    @property
    def blocks(self) -> nn.ModuleList:
        return self.dit.blocks

    def hidden_weights(self) -> list[nn.Parameter]:
        return self.dit.hidden_weights()

    def forward(self, patches: Tensor, grids: tuple[Grid, ...], given: Conditions) -> tuple[Tensor, Tensor | None]:
        """Noisy patches -> clean patches [P, 4C], and what a middle block tells of them [P, numbers]."""
        if self.head is None:
            return self.dit(patches, grids, given), None
        clean, middle = self.dit.forward_features(patches, grids, given, MIDDLE)
        return clean, self.head(layout(grids, self.dit.config.conditions, patches.device).take(middle))


def transformer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformer's weights among those of a learner."""
    return {key.removeprefix("dit."): value for key, value in state.items() if key.startswith("dit.")}
