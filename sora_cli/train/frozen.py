"""The networks that a transformer learns with, and that stay as they are."""

import json
from collections.abc import Mapping

from sora_cli import registry
from sora_cli.dataset.dataset import identity
from sora_cli.errors import SoraError
from sora_cli.train.options import DitOptions

NAMES = {"vae": "VAE", "text": "text tower"}


def frozen(options: DitOptions) -> dict[str, str]:
    """Which autoencoder and which text tower the transformer learns with."""
    return {stem: identity(*registry.load_network(stem, path)) for stem, path in
            (("vae", options.vae), ("text", options.text))}  # fmt: skip


def check_frozen(metadata: Mapping[str, str], given: Mapping[str, str]) -> None:
    """SoraError naming the first of these networks that is not the one a transformer was trained with; files from
    before that was written down are taken as they are."""
    for stem, theirs in json.loads(metadata.get("frozen", "{}")).items():
        if theirs != given[stem]:
            raise SoraError(f"the transformer was trained with another {NAMES[stem]}; give the one of its run with "
                            f"--{stem}")  # fmt: skip
