"""The networks that a transformer learns with, and that stay as they are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sora_cli import registry
from sora_cli.dataset.dataset import identity
from sora_cli.errors import SoraError
from sora_cli.models.sora.text import from_weights as text_from_weights
from sora_cli.models.sora.vae import Vae
from sora_cli.models.sora.vae import from_weights as vae_from_weights
from sora_cli.train.data.text_cache import CachedTextEncoder

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
        networks = {stem: registry.load_network(stem, path) for stem, path in (("vae", vae), ("text", text))}
        tokenizer, tower = text_from_weights(*networks["text"])
        return cls(vae_from_weights(*networks["vae"]).to(device), CachedTextEncoder(tower, tokenizer, device),
                   {stem: identity(*network) for stem, network in networks.items()})  # fmt: skip

    def check(self, metadata: Mapping[str, str]) -> None:
        """SoraError if a transformer of this header was trained with others."""
        check_frozen(metadata, self.ids)


def check_frozen(metadata: Mapping[str, str], given: Mapping[str, str]) -> None:
    """SoraError naming the first of these networks that is not the one a transformer was trained with; files from
    before that was written down are taken as they are."""
    for stem, theirs in json.loads(metadata.get("frozen", "{}")).items():
        if theirs != given[stem]:
            raise SoraError(f"the transformer was trained with another {NAMES[stem]}; give the one of its run with "
                            f"--{stem}")  # fmt: skip
