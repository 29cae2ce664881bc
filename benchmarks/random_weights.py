"""Files of random weights at real sizes, packed or not, written piece by piece: they need not fit in memory."""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from sora_cli.files.blocks import EIGHT, SCALES
from sora_cli.files.gguf_header import ALIGNMENT, DTYPES, TEXT
from sora_cli.files.headers import EIGHT_BITS, NUMBERS, PACKED, block_of

PIECE = 1 << 20  # blocks that are drawn at a time
NORMAL = 64  # deviation of 8-bit floats before they are scaled
KINDS = {name: number for number, name in DTYPES.items()}
LARGEST = {  # that a block's numbers are, in multiples of its scale
    "Q4_0": 8, "Q4_1": 15, "Q5_0": 16, "Q5_1": 31, "Q8_0": 128, "Q2_K": 45, "Q3_K": 128, "Q4_K": 945, "Q5_K": 1953,
    "Q6_K": 4096, "IQ4_NL": 127, "IQ4_XS": 4064,
}  # fmt: skip
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Random:
    """A tensor that is to be drawn: its name in the file, shape and type."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def bytes(self) -> int:
        numbers, size = block_of(self.kind)
        return prod(self.shape) // numbers * size


def of_network(network: nn.Module, names: Mapping[str, str], kind: str, other: str = "F32") -> list[Random]:
    """The parameters of a network, which may be on the meta device, by the names of a file: matrices in one type, all
    else in another, as quantised files have them."""
    fits = lambda value: value.dim() == 2 and value.shape[1] % block_of(kind)[0] == 0
    return [Random(names[name], tuple(value.shape), kind if fits(value) else other)
            for name, value in network.named_parameters()]  # fmt: skip


def write(path: Path, tensors: Iterable[Random], architecture: str = "wan") -> int:
    """Draw a file, GGUF or safetensors by its ending; returns its bytes. 8-bit floats get a `scale_weight` each."""
    listed = list(tensors)
    if path.suffix != ".gguf":
        listed += [Random(one.name.removesuffix("weight") + "scale_weight", (), "F32")
                   for one in listed if one.kind in EIGHT_BITS]  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        starts = gguf_header(file, listed, architecture) if path.suffix == ".gguf" else safetensors_header(file, listed)
        for one, start in zip(listed, starts, strict=True):
            file.write(bytes(start - file.tell()))
            for piece in drawn(one, rng):
                file.write(piece.numpy().data)
        return file.tell()


# ---- numbers ----------------------------------------------------------------------------------------------


def drawn(one: Random, rng: torch.Generator) -> Iterator[Tensor]:
    """The bytes of a tensor, some at a time: numbers of the size of a trained network's."""
    numbers, size = block_of(one.kind)
    total = prod(one.shape) // numbers
    spread = 0.7 / max(1, prod(one.shape[1:])) ** 0.5
    for begin in range(0, total, PIECE):
        count = min(PIECE, total - begin)
        if one.kind in PACKED:
            yield blocks(one.kind, count, size, spread, rng)
        elif one.kind in EIGHT_BITS:
            yield (torch.randn(count, generator=rng) * NORMAL).to(EIGHT[one.kind]).view(torch.uint8)
        elif one.name.endswith("scale_weight"):
            yield torch.full((1,), 1 / NORMAL / 64).view(torch.uint8)
        else:
            found = torch.randn(count, generator=rng) * (spread if len(one.shape) > 1 else 0.3)
            found += len(one.shape) == 1 and not one.name.endswith("bias")  # the gain of a norm
            yield found.to(FLOATS[one.kind]).view(torch.uint8)


def blocks(kind: str, count: int, size: int, spread: float, rng: torch.Generator) -> Tensor:
    """Random blocks with scales of their own, [count B]."""
    found = torch.randint(0, 256, (count, size), generator=rng, dtype=torch.uint8)
    for at in SCALES[kind]:
        scale = torch.full((count, 1), spread / LARGEST[kind]).half()
        found[:, at : at + 2] = scale.view(torch.uint8)
    return found.flatten()


# ---- headers ----------------------------------------------------------------------------------------------


def safetensors_header(file: BinaryIO, listed: list[Random]) -> list[int]:
    """Write it; returns where each tensor is to begin."""
    entries, starts, end = {}, [], 0
    for one in listed:
        entries[one.name] = {"dtype": one.kind, "shape": one.shape, "data_offsets": [end, end + one.bytes]}
        starts.append(end)
        end += one.bytes
    told = json.dumps(entries).encode()
    file.write(struct.pack("<Q", len(told)) + told)
    return [file.tell() + start for start in starts]


def gguf_header(file: BinaryIO, listed: list[Random], architecture: str) -> list[int]:
    """Write it, version 3; returns where each tensor is to begin."""
    text = lambda words: struct.pack("<Q", len(words.encode())) + words.encode()
    told = text("general.architecture") + struct.pack("<I", TEXT) + text(architecture)
    starts, end = [], 0
    for one in listed:
        sides = tuple(reversed(one.shape))
        told += text(one.name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, KINDS[one.kind], end)
        starts.append(end)
        end = -(-(end + one.bytes) // ALIGNMENT) * ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), 1) + told
    begin = -(-len(head) // ALIGNMENT) * ALIGNMENT
    file.write(head.ljust(begin, b"\0"))
    return [begin + start for start in starts]


assert FLOATS.keys() == NUMBERS.keys()
