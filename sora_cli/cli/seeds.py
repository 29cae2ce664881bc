"""`--seed` of what makes videos: a number, or `random` (`-1` elsewhere) for one that is drawn. No torch."""

import secrets

from sora_cli.cli.screen import Screen
from sora_cli.errors import SoraError

RANDOM = ("random", "-1")
DRAWN = 2**31  # seeds that may be drawn: those below, as other tools have them
MOST = 2**63 - 1  # generators take no larger one


def number(seed: str) -> int:
    """The seed in a text, or a random one for `random` and -1; SoraError for anything else."""
    if seed in RANDOM:
        return secrets.randbelow(DRAWN)
    if not (seed.isascii() and seed.isdigit()) or len(seed) > len(str(MOST)) or int(seed) > MOST:
        raise SoraError(f"--seed is {seed[:40]!a}; it must be a whole number from 0 to {MOST}, or random")
    return int(seed)


def announce(seed: str, drawn: int, screen: Screen) -> None:
    """Print the seed that was drawn, so that it can be used again."""
    if seed in RANDOM:
        screen.note(f"seed {drawn}")
