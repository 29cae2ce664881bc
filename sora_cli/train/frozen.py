"""The networks that a transformer learns with, and that stay as they are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sora_cli import registry
from sora_cli.dataset.shards import identity
from sora_cli.errors import SoraError
from sora_cli.models.sora import text as texts
from sora_cli.models.sora import vae as vaes

Network = tuple[dict[str, Tensor], dict[str, str]]  # tensors and the header of their file
REMEMBERED = 4096  # captions whose features are cached
NAMES = {"vae": "VAE", "text": "text tower"}


class CachedTextEncoder:
    """Captions -> text features [V, L, width] by the frozen tower, which reads none twice soon."""

    def __init__(self, tower: texts.TextTower, tokenizer: texts.Tokenizer, device: torch.device) -> None:
        self.tower, self.tokenizer, self.device = tower.to(device).eval(), tokenizer, device
        self.cached: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        read = {caption: self.cached[caption] for caption in captions if caption in self.cached}
        if new := [caption for caption in dict.fromkeys(captions) if caption not in read]:
            features = self.tower(self.tokenizer.encode(new).to(self.device))[0]
            read |= zip(new, features.unbind(), strict=True)
        older = [item for item in self.cached.items() if item[0] not in read]
        self.cached = dict([*older, *read.items()][-REMEMBERED:])  # anew: threads may share this
        return torch.stack([read[caption] for caption in captions])


@dataclass(frozen=True)
class Frozen:
    """An autoencoder and a text tower, and their identities by the names of their options."""

    vae: vaes.Vae
    encoder: CachedTextEncoder
    ids: dict[str, str]

    @classmethod
    def load(cls, vae: Path | None, text: Path | None, device: torch.device) -> "Frozen":
        """Those of a file, a run or an export; None is pocket's."""
        paths = {"vae": vae, "text": text}
        return cls.of({stem: registry.load_network(stem, path) for stem, path in paths.items()}, device)

    @classmethod
    def of(cls, networks: Mapping[str, Network], device: torch.device) -> "Frozen":
        """Those of tensors and headers that are read."""
        tokenizer, tower = texts.from_weights(*networks["text"])
        return cls(vaes.from_weights(*networks["vae"]).to(device), CachedTextEncoder(tower, tokenizer, device),
                   {stem: identity(*networks[stem]) for stem in NAMES})  # fmt: skip


def check_frozen(metadata: Mapping[str, str], given: Mapping[str, str]) -> None:
    """SoraError naming the first of these networks that is not the one a transformer was trained with; files from
    before that was written down are taken as they are."""
    for stem in others(metadata, given):
        raise SoraError(f"the transformer was trained with a different {NAMES[stem]}; give the one of its run with "
                        f"--{stem}")  # fmt: skip


def others(metadata: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Which of these networks are not those that a transformer was trained with."""
    return [stem for stem, theirs in json.loads(metadata.get("frozen", "{}")).items() if theirs != given[stem]]
