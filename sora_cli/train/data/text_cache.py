"""Captions as the frozen text tower reads them, kept for a while."""

import torch
from torch import Tensor

from sora_cli.models.sora.text import TextTower, Tokenizer

REMEMBERED = 4096  # captions whose features are kept


class CachedTextEncoder:
    """Captions -> text features [V, L, width] by the frozen tower, which reads none twice soon."""

    def __init__(self, tower: TextTower, tokenizer: Tokenizer, device: torch.device) -> None:
        self.tower, self.tokenizer, self.device = tower.to(device).eval(), tokenizer, device
        self.kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        read = {caption: self.kept[caption] for caption in captions if caption in self.kept}
        if new := [caption for caption in dict.fromkeys(captions) if caption not in read]:
            features = self.tower(self.tokenizer.encode(new).to(self.device))[0]
            read |= zip(new, features.unbind(), strict=True)
        older = [item for item in self.kept.items() if item[0] not in read]
        self.kept = dict([*older, *read.items()][-REMEMBERED:])  # anew: threads may share this
        return torch.stack([read[caption] for caption in captions])
