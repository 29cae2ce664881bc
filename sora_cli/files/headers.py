"""The header of a safetensors file, read by hand and in bounded space, since strangers wrote it: which tensors there
are, and where their numbers lie. No torch.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Optional

from sora_cli.errors import Failed, SoraError
from sora_cli.files.sniff import instead

if TYPE_CHECKING:
    from torch import Tensor

# of a number, or of a block of numbers that are packed together: how many numbers, and bytes
NUMBERS = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2)}
EIGHT_BITS = {"F8_E4M3": (1, 1), "F8_E5M2": (1, 1)}
PACKED = {  # of GGUF, see `blocks`
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
    "IQ4_NL": (32, 18), "IQ4_XS": (256, 136),
}  # fmt: skip
READABLE = NUMBERS | EIGHT_BITS | PACKED
OTHERS = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8, "F64": 8}
MOST_HEADER_BYTES = 20_000_000
NAMED = 3  # keys that an error names before it counts the rest

WeightDelta = Callable[["Tensor"], None]  # changes a tensor of float32 on the CPU in place


@dataclass(frozen=True)
class Stored:
    """Where the numbers of one tensor lie: in which file, and from which byte on. They are multiplied by their scale,
    and changed, whenever they are read; or they are `kept` as they are stored."""

    path: Path
    key: str  # as the file has it
    dtype: str
    shape: tuple[int, ...]
    start: int
    changes: tuple[WeightDelta, ...] = ()
    scale: Optional["Stored"] = None  # one number, or one for each row
    kept: bool = False  # packed numbers as bytes, others in their own type

    @property
    def bytes(self) -> int:
        numbers, size = block_of(self.dtype)
        return math.prod(self.shape) // numbers * size

    def row(self, number: int) -> "Stored":
        """One row of a table, without the others."""
        assert 0 <= number < self.shape[0], (number, self.shape)
        each = self.bytes // self.shape[0]
        scale = self.scale.row(number) if self.scale and math.prod(self.scale.shape) > 1 else self.scale
        return replace(self, key=f"{self.key}[{number}]", shape=self.shape[1:], start=self.start + number * each,
                       scale=scale)  # fmt: skip


# ---- what is in a file: 8 bytes of length, JSON, then the numbers ----------------------------------------------


@contextmanager
def reading(path: Path) -> Iterator[BufferedReader]:
    """A file's bytes; Failed if it cannot be read."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise Failed(f"could not read {path}: {error.strerror or error}") from error


def head(file: BinaryIO, most: int = MOST_HEADER_BYTES) -> tuple[Any, int, int]:
    """The header of a safetensors file as JSON, the byte where the numbers begin, and the bytes of the file. SoraError
    if it is not safetensors or the header has more than `most` bytes; OSError if it cannot be read."""
    size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise SoraError("it is truncated or not safetensors")
    if length > most:
        raise SoraError(f"its header has {length} bytes; at most {most} are allowed")
    try:
        return json.loads(file.read(length).decode(), object_pairs_hook=once), 8 + length, size
    except (ValueError, RecursionError) as error:
        raise SoraError("its header is not JSON") from error


def contents(path: Path) -> tuple[dict[str, str], list[Stored]]:
    """A safetensors file's metadata and tensors, every claim checked against its size; Failed if one is false."""
    with reading(path) as file:
        try:
            found, begin, size = head(file)
            listed = tensors(path, found, begin, size)
        except SoraError as error:
            what = instead(path)
            said = f"{path} holds no weights: {what}" if what else f"{path} is damaged: {error}; fetch it again"
            raise Failed(said) from error
    return found.get("__metadata__") or {}, listed


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; SoraError if a key repeats, since the second would hide the first."""
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise SoraError(f"its header has {some(twice)} twice")
    return dict(pairs)


def tensors(path: Path, found: object, begin: int, size: int) -> list[Stored]:
    """A header's entries, which must fill the bytes from `begin` to the file's end without gaps."""
    if not isinstance(found, dict):
        raise SoraError("its header is not a JSON object")
    metadata = found.get("__metadata__") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SoraError("its metadata is not texts by name")
    entries = {key: value for key, value in found.items() if key != "__metadata__"}
    listed = [entry(path, key, value, begin) for key, value in entries.items()]
    listed.sort(key=lambda stored: (stored.start, stored.bytes))
    end = begin
    for stored in listed:
        if stored.start != end:
            raise SoraError(f"{shortened(stored.key)} begins at byte {stored.start} instead of {end}")
        end += stored.bytes
    if end != size:
        raise SoraError(f"it has {size} bytes, but its header describes {end}")
    return listed


def entry(path: Path, key: str, value: object, begin: int) -> Stored:
    """One tensor of a header; its numbers are as many as its shape says."""
    value = value if isinstance(value, dict) else {}
    dtype, (shape, offsets) = value.get("dtype"), map(whole_numbers, (value.get("shape"), value.get("data_offsets")))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise SoraError(f"its entry for {shortened(key)} is not a tensor")
    stored = Stored(path, key, dtype, shape, begin + offsets[0])
    if stored.bytes != offsets[1] - offsets[0]:
        raise SoraError(f"{shortened(key)} has {offsets[1] - offsets[0]} bytes instead of {stored.bytes}")
    return stored


def whole_numbers(value: object) -> tuple[int, ...] | None:
    sane = isinstance(value, list) and len(value) <= 8 and all(type(n) is int and 0 <= n < 2**48 for n in value)
    return tuple(value) if sane else None  # type: ignore[arg-type]


def block_of(dtype: str) -> tuple[int, int]:
    """How many numbers of a type are stored together, and in how many bytes; those of 8 bits have many names."""
    if dtype in READABLE:
        return READABLE[dtype]
    if dtype not in OTHERS and not dtype.startswith("F8_"):
        raise SoraError(f"it has numbers of unknown type {shortened(dtype)}")
    return 1, OTHERS.get(dtype, 1)


def label(stored: Stored) -> str:
    return f"{stored.path}: {shortened(stored.key)}"


def some(names: Iterable[str]) -> str:
    """The first few of some names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(shortened(name) for name in names[:NAMED]) + more


def lengths(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape) or "a single number"


def shortened(name: str) -> str:
    """What a stranger wrote, fit for one line of a terminal."""
    return name if re.fullmatch(r"[\w.\[\]-]{1,100}", name, re.ASCII) else ascii(name)[:100]
