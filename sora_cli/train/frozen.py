"""The networks that a transformer learns with, and that stay as they are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sora_cli import registry
from sora_cli.dataset.dataset import identity
from sora_cli.errors import SoraError
from sora_cli.models.sora.text import from_weights as text_from_weights
from sora_cli.models.sora.vae import Vae
from sora_cli.models.sora.vae import from_weights as vae_from_weights
from sora_cli.train.data.text_cache import CachedTextEncoder

Network = tuple[dict[str, Tensor], dict[str, str]]  # tensors and the header of their file
NAMES = {"vae": "VAE", "text": "text tower"}


@dataclass(frozen=True)
class Frozen:
    """An autoencoder and a text tower, and their identities by the names of their options."""

    vae: Vae
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
        tokenizer, tower = text_from_weights(*networks["text"])
        return cls(vae_from_weights(*networks["vae"]).to(device), CachedTextEncoder(tower, tokenizer, device),
                   {stem: identity(*networks[stem]) for stem in NAMES})  # fmt: skip


def check_frozen(metadata: Mapping[str, str], given: Mapping[str, str]) -> None:
    """SoraError naming the first of these networks that is not the one a transformer was trained with; files from
    before that was written down are taken as they are."""
    for stem, theirs in json.loads(metadata.get("frozen", "{}")).items():
        if theirs != given[stem]:
            raise SoraError(f"the transformer was trained with another {NAMES[stem]}; give the one of its run with "
                            f"--{stem}")  # fmt: skip
