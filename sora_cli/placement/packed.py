"""Matrices that stay packed, in fp8 or GGUF, wherever a network lies, and are unpacked whenever they are used.

`pack` puts them in the place of a network's own. Their bytes are parameters like others, so that a network is read,
moved, kept in main memory and read from disk as every other. What is unpacked is to the bit what the loader makes of a
file that is unpacked at once. For inference only.

A LoRA that is added to a packed matrix lies beside it, and is added whenever that is unpacked: kept unpacked instead,
every matrix that a LoRA changes, and most change all of them, would take as much as if nothing were packed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sora_cli.files import quantised
from sora_cli.files.blocks import unpacked
from sora_cli.files.headers import NUMBERS, Stored
from sora_cli.files.published import never
from sora_cli.placement import offload
from sora_cli.placement.sizes import UNPACKED
from sora_cli.registry.lora import LowRank


class Packed(nn.Module):
    """A matrix [rows, columns] of packed numbers in the place of a layer's; what is made of it has the type `dtype`.

    Parameters: numbers, bytes [rows, B]; of fp8 a scale, of one number or of one for each row; a LoRA's factors; the
    layer's bias."""

    numbers: Tensor

    def __init__(self, stored: Stored, dtype: torch.dtype, layer: nn.Module) -> None:
        super().__init__()
        self.kind, self.shape, self.dtype = stored.dtype, stored.shape, dtype
        changes = [change for change in stored.changes if isinstance(change, LowRank)]
        self.strengths = [change.scale for change in changes]
        for name, part in parts_of(stored):
            empty = torch.empty(quantised.kept_shape(part), dtype=quantised.type_of(part), device="meta")
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))
        self.bias = getattr(layer, "bias", None)

    @property
    def weight(self) -> Tensor:
        """All of it, [rows, columns]."""
        rows, columns = self.shape
        numbers, scale = self.numbers, self.scales()
        if self.strengths:
            return self.changed(self.scaled(numbers, scale)).to(self.dtype)
        whole = torch.empty(self.shape, dtype=self.dtype, device=numbers.device)
        step = max(1, UNPACKED // columns)
        for begin in range(0, rows, step):
            some = slice(begin, begin + step)
            whole[some] = self.scaled(numbers[some], scale[some] if len(scale) > 1 else scale)
        return whole

    def scales(self) -> Tensor:
        """What numbers are multiplied by, float32 [1 or rows, 1]."""
        scale = self._parameters.get("scale")
        return self.numbers.new_ones(1, 1, dtype=torch.float32) if scale is None else scale.float().reshape(-1, 1)

    def scaled(self, numbers: Tensor, scale: Tensor) -> Tensor:
        found = unpacked(self.kind, numbers)
        return found.mul_(scale) if "scale" in self._parameters else found

    def changed(self, weight: Tensor) -> Tensor:
        """As the loader merges a LoRA: in float32, the whole matrix at once."""
        for number, strength in enumerate(self.strengths):
            down, up = (self.get_parameter(f"{half}{number}").float().flatten(1) for half in ("down", "up"))
            weight.addmm_(up, down, alpha=strength)
        return weight


class PackedLinear(Packed):
    """In the place of a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PackedEmbedding(Packed):
    """In the place of a table, of which only the rows that are asked for are unpacked."""

    def forward(self, which: Tensor) -> Tensor:
        """Numbers of rows [L] -> [L, columns]."""
        if self.strengths:
            return F.embedding(which, self.weight)
        scale = self.scales()
        return self.scaled(self.numbers[which], scale[which] if len(scale) > 1 else scale).to(self.dtype)


STANDS_FOR: dict[type[nn.Module], Callable[..., Packed]] = {nn.Linear: PackedLinear, nn.Embedding: PackedEmbedding}


def pack(
    network: nn.Module, locations: Mapping[str, Stored], dtype: torch.dtype, keep: Callable[[str], bool] = never
) -> dict[str, Stored]:
    """Have the matrices of a network on the meta device that are stored in few bits stay so; returns where all
    parameters lie. Those that are to be float32, and those that are changed otherwise than by factors, are unpacked."""
    found = dict(locations)
    for name, layer in list(network.named_modules()):
        stored, make = found.get(f"{name}.weight"), STANDS_FOR.get(type(layer))
        if stored and make and stays(stored) and not keep(f"{name}.weight"):
            del found[f"{name}.weight"]
            offload.replace(network, name, make(stored, dtype, layer))
            found |= {f"{name}.{part}": where for part, where in parts_of(stored)}
    return found


def stays(stored: Stored) -> bool:
    """Whether it is packed, and all its changes are a LoRA's factors of types that float32 holds exactly."""
    return quantised.packable(stored) and all(
        isinstance(change, LowRank) and {change.down.dtype, change.up.dtype} <= NUMBERS.keys()
        for change in stored.changes)  # fmt: skip


def parts_of(stored: Stored) -> Iterator[tuple[str, Stored]]:
    """What a packed matrix is made of: its numbers, their scale, and a LoRA's factors."""
    yield "numbers", replace(stored, changes=(), kept=True)
    if stored.scale:
        yield "scale", replace(stored.scale, kept=True)
    for number, change in enumerate(stored.changes):
        assert isinstance(change, LowRank)
        yield f"down{number}", replace(change.down, kept=True)
        yield f"up{number}", replace(change.up, kept=True)
