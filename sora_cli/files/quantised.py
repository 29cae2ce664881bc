"""Weights of few bits: which kinds are read, and how their numbers come out.

ComfyUI keeps weights in 8-bit floats beside a scale, `X.scale_weight` in its older files and `X.weight_scale` in its
newer ones, W = number * scale. What a newer file does to a layer is written in its header, or beside the layer as
`X.comfy_quant`. GGUF packs numbers in blocks (`blocks`). torch is imported only where tensors are touched.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora_cli.errors import SoraError
from sora_cli.files import headers
from sora_cli.files.headers import EIGHT_BITS, NUMBERS, PACKED, READABLE, Stored, block_of, label, lengths, shortened

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FORMATS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}  # as ComfyUI names them, and as headers do
SCALES = (".scale_weight", ".weight_scale")
UNUSED = (".scale_input", ".input_scale", ".comfy_quant")  # the former for products of 8 bits, which are not made here
ABOUT, BESIDE = "_quantization_metadata", ".comfy_quant"
OTHERS = {  # ends of names by which other quantisations are known
    ".weight_scale_2": "nvfp4", ".pre_quant_scale": "nvfp4 or int8 with smoothing", ".weight_codebook": "a codebook",
    ".absmax": "bitsandbytes", ".quant_map": "bitsandbytes", ".SCB": "bitsandbytes int8", ".qweight": "GPTQ or AWQ",
    ".weight_scale_inv": "fp8 in blocks", ".wscales": "SVDQuant (nunchaku)",
}  # fmt: skip
TAKE = "use the file in bf16, fp16 or fp8_scaled, or a GGUF"


# ---- which weights -----------------------------------------------------------------------------------------


def paired(listed: Iterable[Stored], metadata: Mapping[Path, Mapping[str, Any]]) -> list[Stored]:
    """Weights with their scales, without what else the quantised files hold; `metadata`: what their headers say.

    SoraError naming a quantisation that is not read."""
    listed = list(listed)
    there = {stored.key: stored for stored in listed}
    for stored in listed:
        if other := next((name for end, name in OTHERS.items() if stored.key.endswith(end)), None):
            raise SoraError(f"{stored.path} is quantised as {other}, which is not supported; {TAKE}")
    of_layer = formats(listed, metadata)
    scales = {key: key.rpartition(".")[0] + ".weight" for key in there if key.endswith(SCALES)}
    scaled = {weight: there[key] for key, weight in scales.items() if weight in there}
    found = []
    for stored in listed:
        mark = stored.key.rpartition(".")[2] == "scaled_fp8"  # an empty tensor of the older files
        if scales.get(stored.key) in there or stored.key.endswith(UNUSED) or mark:
            continue
        contained = of_layer.get(stored.key.removesuffix(".weight")) if stored.dtype == "U8" else None
        weight = replace(stored, dtype=contained) if contained else stored
        found.append(with_scale(weight, scaled[stored.key]) if stored.key in scaled else weight)
    return found


def with_scale(weight: Stored, scale: Stored) -> Stored:
    """A weight and its scale: one number, or one for each of its rows."""
    check_types([weight])
    if scale.dtype not in NUMBERS:
        raise SoraError(f"{weight.path} is quantised as mxfp8 or similar, which is not supported: "
                        f"{shortened(scale.key)} is in {shortened(scale.dtype)}; {TAKE}")  # fmt: skip
    count, rows = math.prod(scale.shape), weight.shape[0] if weight.shape else 1
    if count != 1 and (count != rows or scale.shape[0] != rows):
        raise SoraError(f"{label(scale)} is {lengths(scale.shape)} for {lengths(weight.shape)}: block scales are "
                        f"not supported; {TAKE}")  # fmt: skip
    return replace(weight, scale=scale)


def formats(listed: Iterable[Stored], metadata: Mapping[Path, Mapping[str, Any]]) -> dict[str, str]:
    """The types of quantised layers' numbers, as their files tell; SoraError for another than is read."""
    found: dict[str, str] = {}
    for path, about in metadata.items():
        layers = as_object(about.get(ABOUT)).get("layers")
        for layer, config in (layers if isinstance(layers, dict) else {}).items():
            found[layer] = type_named(path, layer, config)
    for stored in listed:
        if stored.key.endswith(BESIDE):
            layer = stored.key.removesuffix(BESIDE)
            found[layer] = type_named(stored.path, layer, as_object(text_of(stored)))
    return found


def type_named(path: Path, layer: str, config: object) -> str:
    name = config.get("format") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in FORMATS:
        raise SoraError(f"{path} is quantised as {shortened(str(name))} ({shortened(layer)}), which is not supported; "
                        f"supported formats: {' and '.join(FORMATS)}; {TAKE}")  # fmt: skip
    return FORMATS[name]


def as_object(text: object) -> Mapping[str, Any]:
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def text_of(stored: Stored) -> str:
    """The bytes of a small tensor as text, 10,000 at most."""
    with headers.reading(stored.path) as file:
        file.seek(stored.start)
        return file.read(min(stored.bytes, 10_000)).decode("utf-8", errors="replace")


def check_types(listed: Iterable[Stored], *more: str) -> None:
    """SoraError naming a tensor whose numbers are of a type that is not read; `more` are types that are read, too."""
    for stored in listed:
        if stored.dtype in ("I8", "U8"):
            raise SoraError(f"{label(stored)} is in {stored.dtype}: int8 and packed weights are not supported; {TAKE}")
        if stored.dtype not in (*READABLE, *more):
            raise SoraError(f"{label(stored)} is in {shortened(stored.dtype)}, which is not supported; "
                            f"supported types: {', '.join(NUMBERS | EIGHT_BITS)}")  # fmt: skip


# ---- their numbers -----------------------------------------------------------------------------------------


def unpacker(
    stored: Stored, read: Callable[[Stored, "torch.dtype", "torch.device"], "Tensor"]
) -> Callable[["Tensor", int], "Tensor"]:
    """A function of bytes of a tensor, and of the index of their first number, that returns the numbers: in float32, or
    in the stored type if torch has it. `read` reads the scale."""
    import torch

    from sora_cli.files.blocks import unpacked

    if stored.dtype in PACKED:
        return lambda raw, begin: unpacked(stored.dtype, raw)
    if stored.dtype not in EIGHT_BITS and not stored.scale:
        return lambda raw, begin: raw.view(type_of(stored))
    scale = read(stored.scale, torch.float32, torch.device("cpu")).flatten() if stored.scale else torch.ones(1)
    row = max(1, math.prod(stored.shape[1:]))

    def scaled(raw: "Tensor", begin: int) -> "Tensor":
        numbers = unpacked(stored.dtype, raw) if stored.dtype in EIGHT_BITS else raw.view(type_of(stored)).float()
        if len(scale) == 1:
            return numbers * scale
        return numbers * scale[torch.arange(begin, begin + len(numbers)) // row]

    return scaled


def type_of(stored: Stored) -> "torch.dtype":
    """The type of a tensor as it is kept: bytes, or its own numbers."""
    import torch

    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
    return kinds.get(stored.dtype, torch.uint8)


def kept_shape(stored: Stored) -> tuple[int, ...]:
    """The shape of a tensor as it is kept: rows of bytes, or its own."""
    numbers, size = block_of(stored.dtype) if stored.dtype in PACKED else (1, 1)
    return (*stored.shape[:-1], stored.shape[-1] // numbers * size) if stored.shape else ()


def packable(stored: Stored) -> bool:
    """Whether a matrix is stored in few bits, so that it stays packed and is unpacked when it is used."""
    if len(stored.shape) != 2 or stored.dtype not in (*EIGHT_BITS, *PACKED):
        return False
    return stored.shape[1] % block_of(stored.dtype)[0] == 0
