"""What a model's weights take where they stay packed, by the headers of the files that are here. No torch."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from sora_cli.errors import SoraError
from sora_cli.files import published, quantised
from sora_cli.files.headers import Stored
from sora_cli.placement.sizes import FLOAT32, Held, Weights, blocks_of
from sora_cli.registry import Entry, Part, lora
from sora_cli.registry.hub.cache import folder_of, is_whole
from sora_cli.registry.hub.pins import Lock
from sora_cli.registry.hub.pins import read as read_lock
from sora_cli.registry.schema import EXPERTS, LORAS
from sora_cli.shot import Lora

BLOCK = re.compile(r"(?:^|\.)(?:blocks?|blk)\.(\d+)\.")  # in the names of every program
PACKED = re.compile(r"(?<!f16)(?<!f32)\.gguf$|fp8", re.IGNORECASE)  # in the names of files
IN_FLOAT = "time_embed"  # of the transformer; matrices whose names have it are unpacked, to float32


def held(entry: Entry, loras: Sequence[Lora] = ()) -> dict[str, Held]:
    """The weights of a model's transformer and text encoder, by role, if some are packed: by the headers of their
    files, or by the file names before these are fetched. With the LoRAs that lie beside those of the transformer.

    Files that cannot be read are passed over: whoever loads them says what is wrong."""
    lock = read_lock()
    every = (*loras, *own_loras(entry, lock))
    found: dict[str, list[Held | None]] = {"dit": [], "text": []}  # a model may have two transformers
    for part in entry.parts:
        if (role := part.role.partition("_")[0]) in found:
            with suppress(SoraError, OSError):
                whole = is_whole(part, lock)
                files = published.files_of(folder_of(part, lock)) if whole else []
                seen = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
                one = of_files(seen) if whole else by_name(entry, role, part)
                if one and role == "dit":
                    one = beside(one, [added for added in every if added.expert in ("", EXPERTS.get(part.role))])
                if one or whole:
                    found[role].append(one)
    packed = {role: [one for one in parts if one] for role, parts in found.items()}
    return {role: max(parts, key=lambda one: one.whole.at(FLOAT32)) for role, parts in packed.items()
            if parts and len(parts) == len(found[role])}  # fmt: skip


def by_name(entry: Entry, role: str, part: Part) -> Held | None:
    """Of a file that is yet to be fetched and is called packed: as if all of it were, alike."""
    if entry.network is None or not any(map(PACKED.search, part.names)):
        return None
    blocks = blocks_of(getattr(entry.network, role))
    block = part.bytes * blocks.block / blocks.weights
    return Held(Weights(part.bytes), Weights(block), Weights(part.bytes - blocks.layers * block))


def own_loras(entry: Entry, lock: Lock) -> list[Lora]:
    """Those that are parts of a model, as far as they are here."""
    return [Lora(str(folder_of(part, lock)), expert=LORAS[part.role]) for part in entry.parts
            if part.role in LORAS and is_whole(part, lock)]  # fmt: skip


def beside(weights: Held, loras: Sequence[Lora]) -> Held:
    """With LoRAs, as if they changed all blocks alike."""
    bytes = sum(lora.file_of(one).stat().st_size for one in loras if one.strength)
    share = bytes * weights.block.packed / max(1.0, weights.whole.packed)
    return Held(weights.whole + Weights(bytes), weights.block + Weights(share), weights.around)


@lru_cache(maxsize=16)
def of_files(files: tuple[tuple[Path, int, int], ...]) -> Held | None:
    """Of files, which are read again when they change; None if nothing is packed."""
    return of_tensors(published.weights_in(path for path, *_ in files))


def of_tensors(listed: Iterable[Stored]) -> Held | None:
    blocks: defaultdict[str, Weights] = defaultdict(Weights)
    for stored in listed:
        number = BLOCK.search(stored.key)
        blocks[number[1] if number else ""] += taken(stored)
    around, whole = blocks.pop("", Weights()), Weights()
    for block in blocks.values():
        whole += block
    if not (whole + around).packed:
        return None
    largest = max(blocks.values(), key=lambda block: block.at(FLOAT32), default=Weights())
    return Held(whole + around, largest, around)


def taken(stored: Stored) -> Weights:
    """What one tensor takes."""
    numbers = math.prod(stored.shape)
    if not quantised.packable(stored):
        return Weights(numbers=numbers)
    if IN_FLOAT in stored.key:
        return Weights(FLOAT32 * numbers)
    return Weights(stored.bytes + (stored.scale.bytes if stored.scale else 0))
