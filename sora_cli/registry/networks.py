"""What the networks of a Hub model are: as its table in weights.toml says, or the config.json files of a folder. No
torch."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

from sora_cli.errors import SoraError
from sora_cli.models.wan.configs import Umt5Config, WanConfig, WanVaeConfig, checked


@dataclass(frozen=True)
class Network:
    """The networks of a Hub model by their role."""

    dit: WanConfig
    vae: WanVaeConfig
    text: Umt5Config


KINDS: dict[str, Any] = get_type_hints(Network)


def read(said: Mapping[str, Mapping[str, Any]]) -> Network | None:
    """The networks of a model by role; None if one is unknown. ValueError for sizes that no network has."""
    if not said.keys() >= KINDS.keys():
        return None
    try:
        dit, vae = WanConfig.from_table(**said["dit"]), WanVaeConfig.from_table(**said["vae"])
        return Network(checked(dit), checked(vae), checked(Umt5Config(**said["text"])))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"network: {error}") from error


def configured(like: Network | None, configs: Mapping[str, Mapping[str, Any]]) -> Network | None:
    """The networks that config.json files describe by role, and those of `like` where they describe none; what is wrong
    in them is said when they are loaded."""
    if like is None:
        return None
    for role, config in configs.items():
        with suppress(SoraError, LookupError, TypeError, ValueError, ArithmeticError):
            like = replace(like, **{role: checked(KINDS[role].from_hub(config))})
    return like
