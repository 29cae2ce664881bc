"""What is given of a video.

Mask 1 = given (kept), 0 = to be made. A latent frame has two parts: space (the appearance of its key frame)
and time (the motion that leads there). A clip anchor gives both, an image anchor gives space alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

from sora_cli.errors import SoraError

SPACE, TIME = 0, 1  # rows of a conditioning mask
NULL_TIME = 64.0  # seconds from where on a time does not tell how long ago the scene began


def expand_mask(cond_mask: Tensor, parts: tuple[int, int]) -> Tensor:
    """A mask of parts [2, T] -> the same for every channel, [C, T, 1, 1]."""
    counts = torch.tensor(parts, device=cond_mask.device)
    return cond_mask.repeat_interleave(counts, 0, output_size=sum(parts))[:, :, None, None]


@dataclass(frozen=True)
class Timeline:
    """Given latents on a shot's grid, zeros elsewhere. Anchors are added one by one; nothing is changed."""

    parts: tuple[int, int]      # channels of space and of time; 0 of time where a latent does not tell them apart
    size: tuple[int, int, int]  # T H W
    anchors: tuple[tuple[slice, Tensor], ...] = ()  # latent frames, and what is given there, [C or S, t, H, W]
    end_frames: Mapping[int, Tensor] = field(default_factory=dict)  # pictures [S, H, W] at the end of such latents

    @classmethod
    def empty(cls, parts: tuple[int, int], frames: int, height: int, width: int) -> Self:
        """A timeline with nothing given. Sizes in latent frames and cells."""
        return cls(parts, (frames, height, width))

    def with_clip(self, at: int, clip: Tensor) -> Self:
        """Give both parts of `clip` [C, t, H, W] from latent frame `at` on (negative: from the end)."""
        return self._with(at, clip, sum(self.parts))

    def with_image(self, at: int, image: Tensor) -> Self:
        """Give the space part at latent frame `at`, from `image` [S, H, W]; its motion is to be made. Where latents
        have no such part, only the first one is a picture; any other has to be made so that it ends in it."""
        start = self._index(at, 1)
        if self.parts[TIME] or start == 0:
            return self._with(start, rearrange(image, "s h w -> s 1 h w"), self.parts[SPACE])
        return replace(self, end_frames={**self.end_frames, start: image})

    def with_chunks(self, at: int, clip: Tensor) -> Self:
        """Give `clip` [C, t, H, W] from latent frame `at` on, whose first latent was encoded as a frame alone:
        unless it is the first of the video, the motion that leads there is not given."""
        start = self._index(at, clip.shape[1])
        if start == 0:
            return self.with_clip(0, clip)
        return self.with_image(start, clip[: self.parts[SPACE], 0]).with_clip(start + 1, clip[:, 1:])

    def _with(self, at: int, anchor: Tensor, channels: int) -> Self:
        assert len(anchor) == channels and anchor.shape[2:] == self.size[1:], anchor.shape
        start = self._index(at, anchor.shape[1])
        return replace(self, anchors=(*self.anchors, (slice(start, start + anchor.shape[1]), anchor)))

    @cached_property
    def latents(self) -> Tensor:
        """[C, T, H, W], C = space channels, then time channels."""
        latents = torch.zeros(sum(self.parts), *self.size)
        for here, anchor in self.anchors:
            latents[: len(anchor), here] = anchor
        return latents

    @cached_property
    def cond_mask(self) -> Tensor:
        """[2, T], 1 = given, rows SPACE and TIME."""
        cond_mask = torch.zeros(2, self.size[0])
        for here, anchor in self.anchors:
            cond_mask[: 2 if len(anchor) == sum(self.parts) else 1, here] = 1
        return cond_mask

    def _index(self, at: int, length: int) -> int:
        total = self.size[0]
        start = at + total if at < 0 else at
        if not 0 <= start <= total - length:
            raise SoraError(f"{length} given latent frames at {at} do not fit into a video of {total}")
        return start

    def mask(self) -> Tensor:
        """[C, T, 1, 1]: the mask for every channel, to multiply latents with."""
        return expand_mask(self.cond_mask, self.parts)

    def done(self) -> frozenset[int]:
        """Latent frames given in both parts: what a planner need not make."""
        return frozenset(self.cond_mask.amin(dim=0).nonzero().flatten().tolist())
