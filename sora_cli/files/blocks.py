"""The numbers of packed weights: bytes to float32 in torch, on any device, to the bit what the references make of them.

GGUF packs 32 or 256 numbers together, as small whole numbers q beside one or two scales: d q, or d q + m; in blocks of
256 the scales of every 16 or 32 numbers are packed as well (llama.cpp: ggml-common.h, ggml-quants.c). `quantised` tells
which kinds there are. Letters: n blocks.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sora_cli.files.headers import EIGHT_BITS, PACKED

EIGHT = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
UNEVEN = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # what IQ4's numbers stand for
SCALES = {  # at which bytes of a block its scales lie, as float16
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


def unpacked(kind: str, raw: Tensor) -> Tensor:
    """Bytes [..., B] of whole blocks, or of 8-bit floats -> float32 [..., N]."""
    if kind in EIGHT_BITS:
        return eight(raw, EIGHT[kind])
    numbers, size = PACKED[kind]
    found = BLOCKS[kind](raw.reshape(-1, size))
    return found.reshape(*raw.shape[:-1], raw.shape[-1] // size * numbers)


def eight(raw: Tensor, kind: torch.dtype) -> Tensor:
    """8-bit floats; from a table on Apple's GPUs, which do not have the types."""
    if raw.device.type != "mps":
        return raw.view(kind).float()
    return looked_up(torch.arange(256, dtype=torch.uint8).view(kind).float(), raw)


def looked_up(table: Tensor, numbers: Tensor) -> Tensor:
    """What numbers stand for; several times as fast as by indexing."""
    return table.to(numbers.device).index_select(0, numbers.flatten().int()).view(numbers.shape)


def suspect(kind: str, raw: Tensor) -> bool:
    """Whether NaN or infinity may be there: by the bytes that fp8 has for them, in blocks by the scales."""
    if kind in EIGHT_BITS:
        least = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7C}[kind]
        return bool(raw.numel()) and int((raw & 0x7F).max()) >= least
    parts = raw.view(-1, PACKED[kind][1])
    return not all(bool(half(parts, at).isfinite().all()) for at in SCALES[kind])


# ---- parts of blocks [n, B] -------------------------------------------------------------------------------------


def half(raw: Tensor, at: int) -> Tensor:
    """The float16 that begins at a byte, [n, 1]."""
    return raw[:, at : at + 2].contiguous().view(torch.float16).float()


def digits(raw: Tensor, group: int, bits: int) -> Tensor:
    """Whole numbers of `bits` bits, uint8 [n, 8 / bits B]: of every `group` of bytes the lowest bits first."""
    parts = [raw.unflatten(1, (-1, group)) >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return torch.stack(parts, 2).flatten(1)


def scaled(q: Tensor, d: Tensor, m: Tensor | None = None) -> Tensor:
    """d q - m, rounded after each; q [n, N], of which the scales [n, parts] have equal parts."""
    found = q.float().unflatten(1, (d.shape[1], -1)).mul_(d[..., None])
    return found.flatten(1) if m is None else found.sub_(m[..., None]).flatten(1)


def sixes(raw: Tensor) -> tuple[Tensor, Tensor]:
    """The eight scales and eight offsets of blocks that begin with d and m: 6 bits each, which 12 bytes hold."""
    d, m, high = raw[:, 4:16].split(4, 1)
    d, m = torch.cat([d & 63, high & 15 | d >> 2 & 48], 1), torch.cat([m & 63, high >> 4 | m >> 2 & 48], 1)
    return half(raw, 0) * d.float(), half(raw, 2) * m.float()


def five(high: Tensor, low: Tensor) -> Tensor:
    """Numbers of 5 bits whose fifth lie apart, in order."""
    return digits(low, 16, 4) | digits(high, 1, 1) << 4


def uneven(raw: Tensor) -> Tensor:
    return looked_up(torch.tensor(UNEVEN, dtype=torch.float32), digits(raw, 16, 4))


# ---- kinds of blocks --------------------------------------------------------------------------------------------


def q2_k(raw: Tensor) -> Tensor:
    scales = raw[:, :16]
    return scaled(digits(raw[:, 16:80], 32, 2), half(raw, 80) * (scales & 15).float(),
                  half(raw, 82) * (scales >> 4).float())  # fmt: skip


def q3_k(raw: Tensor) -> Tensor:
    scales = digits(raw[:, 96:104], 8, 4) | digits(raw[:, 104:108], 4, 2) << 4
    q = digits(raw[:, 32:96], 32, 2) | digits(raw[:, :32], 32, 1) << 2
    return scaled(q.float().sub_(4), half(raw, 108) * scales.float().sub_(32))


def q6_k(raw: Tensor) -> Tensor:
    q = digits(raw[:, :128], 64, 4) | digits(raw[:, 128:192], 32, 2) << 4
    d = half(raw, 208) * raw[:, 192:208].contiguous().view(torch.int8).float()
    return scaled(q.float().sub_(32), d)


def iq4_xs(raw: Tensor) -> Tensor:
    scales = digits(raw[:, 4:8], 1, 4) | digits(raw[:, 2:4], 1, 2) << 4
    return scaled(uneven(raw[:, 8:]), half(raw, 0) * scales.float().sub_(32))


BLOCKS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": lambda raw: scaled(digits(raw[:, 2:], 16, 4).float().sub_(8), half(raw, 0)),
    "Q4_1": lambda raw: scaled(digits(raw[:, 4:], 16, 4), half(raw, 0), -half(raw, 2)),
    "Q5_0": lambda raw: scaled(five(raw[:, 2:6], raw[:, 6:]).float().sub_(16), half(raw, 0)),
    "Q5_1": lambda raw: scaled(five(raw[:, 4:8], raw[:, 8:]), half(raw, 0), -half(raw, 2)),
    "Q8_0": lambda raw: scaled(raw[:, 2:].contiguous().view(torch.int8), half(raw, 0)),
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": lambda raw: scaled(digits(raw[:, 16:], 32, 4), *sixes(raw)),
    "Q5_K": lambda raw: scaled(digits(raw[:, 48:], 32, 4) | digits(raw[:, 16:48], 32, 1) << 4, *sixes(raw)),
    "Q6_K": q6_k,
    "IQ4_NL": lambda raw: scaled(uneven(raw[:, 2:]), half(raw, 0)),
    "IQ4_XS": iq4_xs,
}
