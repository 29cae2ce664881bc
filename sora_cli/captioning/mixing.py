"""Captions by people and by machines, mixed: mostly synthetic ones make a model follow prompts, a share of human ones
keeps it used to how people write (Betker et al. 2023 found 95 % synthetic best). No torch."""

import random
from collections.abc import Mapping

from sora_cli.errors import SoraError


def is_human(name: str, share: float, seed: int = 0) -> bool:
    """Whether the human caption of a file is the one to keep. That depends on its name, the share and the seed alone:
    other files change nothing, and a larger share keeps all that a smaller one kept."""
    return random.Random(f"{seed}/{name}").random() < share


def mixed(human: Mapping[str, str], synthetic: Mapping[str, str], share: float, seed: int = 0) -> dict[str, str]:
    """One caption for every file that has any, in the order of their names. Where a file has both, the human one is
    taken for about this share of the files; SoraError for no share between 0 and 1."""
    if not 0 <= share <= 1:
        raise SoraError(f"a share of human captions is between 0 and 1, not {share:g}")

    def pick(name: str) -> str:
        both = name in human and name in synthetic
        return human[name] if name not in synthetic or both and is_human(name, share, seed) else synthetic[name]

    return {name: pick(name) for name in sorted({*human, *synthetic})}
