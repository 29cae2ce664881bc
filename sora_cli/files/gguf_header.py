"""The header of a GGUF file: what it says of itself, and where its tensors lie. No torch, and no `gguf`, which unpacks
the numbers (see `quantised`) but takes seconds over the vocabularies that these headers carry.
"""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from sora_cli.errors import Failed, SoraError
from sora_cli.files.headers import PACKED, Stored, block_of, reading, shortened, whole_numbers

Metadata = dict[str, Any]  # what a file says of itself; lists but for short ones are left out

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
VERSIONS = (2, 3)
DTYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    30: "BF16",
}  # fmt: skip
REFUSED = {
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
ALIGNMENT = 32  # bytes at whose multiples tensors begin, if nothing else is said
MOST_TEXT, MOST_ENTRIES, MOST_KEPT = 1_000_000, 100_000, 8
SHAPE = "comfy.gguf.orig_shape."  # of tensors that were reshaped to be packed


def contents(path: Path) -> tuple[Metadata, list[Stored]]:
    """What a file says of itself, and its tensors, whose shapes are as torch has them.

    Failed if it is damaged, SoraError if its numbers are of a type that is not read."""
    try:
        with reading(path) as file:
            size = path.stat().st_size
            metadata, entries = header(file)
            begin = aligned(file.tell(), metadata.get("general.alignment", ALIGNMENT))
    except (ValueError, struct.error) as error:
        raise Failed(f"{path} is damaged or not a GGUF: {error}; fetch it again") from error
    listed = [stored_at(path, *entry, begin, metadata) for entry in entries]
    if any(stored.start + stored.bytes > size for stored in listed):
        raise Failed(f"{path} is truncated; fetch it again")
    return metadata, listed


def stored_at(path: Path, key: str, sides: tuple[int, ...], kind: int, offset: int, begin: int,
              metadata: Metadata) -> Stored:  # fmt: skip
    if kind not in DTYPES:
        packed = REFUSED.get(kind, f"GGUF type {kind}")
        raise SoraError(f"{path} is packed as {packed} ({shortened(key)}), which is not supported; supported "
                        f"types: {', '.join(PACKED)}")  # fmt: skip
    shape = tuple(reversed(sides))
    was = whole_numbers(metadata.get(SHAPE + key))
    if was is not None and math.prod(was) == math.prod(shape):
        shape = was
    if sides[:1] and sides[0] % block_of(DTYPES[kind])[0]:
        raise Failed(f"{path} is damaged: {shortened(key)} ends inside a block; fetch it again")
    return Stored(path, key, DTYPES[kind], shape, begin + offset)


def aligned(position: int, to: object) -> int:
    if not isinstance(to, int) or to < 1:
        raise ValueError("its alignment is not a positive number")
    return -(-position // to) * to


# ---- the bytes ---------------------------------------------------------------------------------------------


def header(file: BinaryIO) -> tuple[Metadata, list[tuple[str, tuple[int, ...], int, int]]]:
    """What a file says of itself; and of every tensor name, sides with the innermost first, type and offset."""
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version, count, entries = unpacked(file, "I")[0], *unpacked(file, "QQ")
    if version not in VERSIONS:
        raise ValueError(f"it has version {version}; supported versions: {', '.join(map(str, VERSIONS))}")
    if max(count, entries) > MOST_ENTRIES:
        raise ValueError(f"it claims {max(count, entries)} entries")
    metadata = {}
    for _ in range(entries):
        key = text(file)
        metadata[key] = value(file, unpacked(file, "I")[0])
    found = [tensor(file) for _ in range(count)]
    if len({name for name, *_ in found}) < len(found):
        raise ValueError("it has a tensor twice")
    return metadata, found


def tensor(file: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
    name, sides = text(file), unpacked(file, "I")[0]
    if sides > 8:
        raise ValueError(f"it has a tensor of {sides} dimensions")
    shape = unpacked(file, "Q" * sides)
    if any(side >= 2**48 for side in shape):
        raise ValueError("it has a tensor of impossible size")
    return name, shape, *unpacked(file, "IQ")


def value(file: BinaryIO, kind: int) -> Any:
    if kind == TEXT:
        return text(file)
    if kind != LIST:
        return unpacked(file, scalar(kind))[0]
    inner, count = unpacked(file, "IQ")
    if inner == TEXT:
        kept = [text(file) for _ in range(count)]
        return kept if count <= MOST_KEPT else None
    if count <= MOST_KEPT:
        return [unpacked(file, scalar(inner))[0] for _ in range(count)]
    file.seek(count * struct.calcsize(scalar(inner)), 1)
    return None


def scalar(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"it has a value of unknown type {kind}")
    return SCALARS[kind]


def text(file: BinaryIO) -> str:
    length = unpacked(file, "Q")[0]
    if length > MOST_TEXT:
        raise ValueError(f"it has a string of {length} bytes")
    found = file.read(length)
    if len(found) < length:
        raise ValueError("it is truncated")
    return found.decode("utf-8", errors="replace")


def unpacked(file: BinaryIO, kinds: str) -> tuple[Any, ...]:
    """Numbers without gaps between them."""
    return struct.unpack(f"<{kinds}", file.read(struct.calcsize(f"<{kinds}")))
