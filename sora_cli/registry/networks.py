"""What the networks of a Hub model are: as its table in weights.toml says, or the config.json files of a folder. No
torch."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, get_origin, get_type_hints

from sora_cli.errors import SoraError
from sora_cli.models.wan.configs import Umt5Config, WanConfig, WanVaeConfig, checked, counts


@dataclass(frozen=True)
class Network:
    """The networks of a Hub model by their role."""

    dit: WanConfig
    vae: WanVaeConfig
    text: Umt5Config


KINDS: dict[str, Any] = get_type_hints(Network)
TABLES: dict[str, Callable[..., Any]] = {  # what makes them of a table
    "dit": WanConfig.from_table, "vae": WanVaeConfig.from_table, "text": Umt5Config,
}  # fmt: skip


def keys_of(role: str) -> tuple[dict[str, type], list[str]]:
    """The keys of a network's table with the types of their values, and which of them it cannot do without."""
    hints, parameters = get_type_hints(TABLES[role]), signature(TABLES[role]).parameters.values()
    keys = {one.name: list if get_origin(hints[one.name]) else hints[one.name] for one in parameters}
    return keys, [one.name for one in parameters if one.default is one.empty]


def read(name: str, said: Mapping[str, Mapping[str, Any]]) -> Network | None:
    """The networks of the model of this name, from tables with the right keys; None if one is unknown. SoraError for
    sizes that no network has."""
    if not said.keys() >= KINDS.keys():
        return None
    found = {}
    for role, make in TABLES.items():
        try:
            found[role] = checked(make(**counts(said[role])))
        except (TypeError, ValueError) as error:
            raise SoraError(f"[{name}] network {role}: {error}") from error
    return Network(**found)


def configured(like: Network | None, configs: Mapping[str, Mapping[str, Any]]) -> Network | None:
    """The networks that config.json files describe by role, and those of `like` where they describe none; what is wrong
    in them is said when they are loaded."""
    if like is None:
        return None
    for role, config in configs.items():
        with suppress(SoraError, LookupError, TypeError, ValueError, ArithmeticError):
            like = replace(like, **{role: checked(KINDS[role].from_hub(config))})
    return like
