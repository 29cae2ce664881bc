"""What LoRA files say of their own strength: in the header, in JSON in it, and in PEFT's file beside them. No torch."""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sora_cli.errors import SoraError
from sora_cli.files.headers import shortened, some
from sora_cli.files.published import read_json

ALPHAS = ("lora_alpha", "network_alpha", "ss_network_alpha", "linear_alpha", "alpha")  # as programs call it in a header
RANKS = ("r", "rank", "lora_rank", "network_dim", "ss_network_dim")
UNSAID = ("", "none", "null")  # how programs write that they have no number
DEEPEST = 4  # of settings in settings
COMPONENT = re.compile(r"(transformer|transformer_2|unet|denoiser|dit|diffusion_model|model|base_model)\.(.+)")
ADAPTER = "lora_adapter_metadata"  # in a header that diffusers wrote: the configuration of PEFT as JSON
BESIDE = "adapter_config.json"  # where PEFT keeps it
OTHER_KINDS = ("use_dora", "alpha_pattern")  # settings that make it something else


def scale_rule(path: Path, header: Mapping[str, str], ranks: Collection[int],
               expert: str = "") -> Callable[[int], float]:  # fmt: skip
    """Which share of B A is added at some rank where it has no alpha: trainers keep one in the header or in a file
    beside it, and without any it is all of it. SoraError for kinds of LoRA that are not supported, for settings that
    contradict one another, and for a rank that is none of `ranks`."""
    settings = configuration(path, header, expert)
    if other := [name for name in OTHER_KINDS if any(one.get(name) for one in settings)]:
        raise SoraError(f"{path} is a LoRA with {other[0]}, which is not supported; convert it to a plain LoRA")
    alpha = number(path, settings, ALPHAS, needed=True) if ranks else None
    if alpha is None:
        return lambda rank: 1.0
    rank = number(path, settings, RANKS, needed=False)
    if rank is not None and rank not in ranks:
        raise SoraError(f"{path} says that its rank is {rank:g}, but has {some(map(str, sorted(ranks)))}: "
                        "it is not clear which one its alpha is for")  # fmt: skip
    root = any(str(one.get("use_rslora", "")).lower() in ("true", "1") for one in settings)
    return lambda rank: alpha / (math.sqrt(rank) if root else rank)


def number(path: Path, settings: Sequence[Mapping[str, Any]], names: Sequence[str], needed: bool) -> float | None:
    """The one number that settings give under any of some names; None if there is none. What is no number is passed
    over unless it is `needed`."""
    found: dict[float, str] = {}
    for name, value in ((name, one[name]) for one in settings for name in names if name in one):
        if value is None or isinstance(value, bool) or str(value).strip().lower() in UNSAID:
            continue
        try:
            found.setdefault(float(value), name)
        except (TypeError, ValueError, OverflowError):
            if needed:
                raise SoraError(f"{path} says that its {name} is {shortened(str(value))}, not a number") from None
    if bad := [name for value, name in found.items() if not math.isfinite(value)]:
        raise SoraError(f"{path} has {bad[0]} that is not a finite number")
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise SoraError(f"{path} contradicts itself: {first} is {one:g} and {second} is {other:g}")
    return next(iter(found), None)


def configuration(path: Path, header: Mapping[str, str], expert: str = "") -> list[dict[str, Any]]:
    """What a file says of itself: its header, what is JSON in there, and PEFT's settings beside it; of two transformers
    what is said of this one, which has only what is said of the first where nothing is said of it."""
    found: list[Any] = [header]
    for text in header.values():
        with suppress(ValueError, TypeError, RecursionError):
            found += nested(json.loads(text), DEEPEST)
    alone = path.name.startswith("adapter_model") or len(list(path.parent.glob("*.safetensors"))) == 1
    if alone and (beside := path.with_name(BESIDE)).is_file():
        found.append(read_json(beside))
    return [of_component(one, expert) for one in found if isinstance(one, dict)]


def nested(found: Any, deep: int) -> Iterator[dict[str, Any]]:
    """An object of JSON and those in it. Of inner ones only names count that mean nothing else."""
    if isinstance(found, dict) and deep:
        yield found if deep == DEEPEST else {name: value for name, value in found.items() if "_" in name}
        for value in found.values():
            yield from nested(value, deep - 1)


def of_component(settings: Mapping[str, Any], expert: str) -> dict[str, Any]:
    """Settings without the component that they are for, as diffusers writes them: `transformer.lora_alpha`. Those of
    other networks keep it."""
    parted = [(COMPONENT.fullmatch(name), name, value) for name, value in settings.items()]
    seconds = any(match and match[1] == "transformer_2" for match, _, _ in parted)
    passed_over = ("transformer" if expert == "low" else "transformer_2") if seconds else ""
    return {match[2] if match else name: value for match, name, value in parted
            if not (match and match[1] == passed_over)}  # fmt: skip
