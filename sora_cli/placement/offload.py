"""Networks larger than the memory: blocks that are on the device only while they run.

What is here takes the place of a network's list of blocks, and the network goes through it as before. `Streamed`
keeps the weights in pinned host memory and copies the next block to the device while one computes; `FromDisk` reads
the next block from the checkpoint's files. Both compute exactly what the resident network does, whose blocks may differ
in what is packed in them (`packed`). For inference only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import Tensor, nn

from sora_cli.files.headers import Stored
from sora_cli.files.published import assign, never, read

ALIGNED = 256  # bytes: where a tensor may begin among others
PIECE_UNIT = 1 << 20  # pinned memory comes in powers of two; a block is rounded to so many bytes


# ---- reporting ------------------------------------------------------------------------------------------------


class ReportingBlocks(nn.Module):
    """Stands for a list of blocks, wherever they are, and reports how many of them are done, out of how many.

    On a CPU, or from a disk, one way through a large network can take minutes."""

    def __init__(self, blocks: nn.Module, report: Callable[[int, int], None]) -> None:
        super().__init__()
        self.blocks, self.report = cast(Sequence[nn.Module], blocks), report

    def __iter__(self) -> Iterator[nn.Module]:
        for number, block in enumerate(self.blocks):
            self.report(number, len(self.blocks))
            yield block
        self.report(len(self.blocks), len(self.blocks))


# ---- from host memory ----------------------------------------------------------------------------------------


class Streamed(nn.Module):
    """Stands for a list of blocks whose weights stay in host memory; it takes them over.

    Iterating yields the blocks with their weights on the device, each valid until the next is asked for. They take two
    seats there in turn: one computes while the next is copied to the other."""

    def __init__(self, blocks: Iterable[nn.Module], device: torch.device) -> None:
        super().__init__()
        blocks, cuda = list(blocks), device.type == "cuda"
        self.order: SideStream | InLine = SideStream(device) if cuda else InLine()
        layouts = [layout(block) for block in blocks]
        room = max(map(size_of, layouts), default=0)
        self.memory = [torch.empty(room, dtype=torch.uint8, device=device) for _ in range(2)]
        # plain lists: what moves the network to a device leaves these where they are
        self.host = [to_host(block, slots, pin=cuda) for block, slots in zip(blocks, layouts, strict=True)]
        self.seated = [seated(block, slots, self.memory[number % 2])
                       for number, (block, slots) in enumerate(zip(blocks, layouts, strict=True))]  # fmt: skip

    def __len__(self) -> int:
        return len(self.seated)

    def __iter__(self) -> Iterator[nn.Module]:
        for turn in range(2):
            self.order.leave(turn)
        try:
            self.fetch(0)
            for number, block in enumerate(self.seated):
                self.fetch(number + 1)
                self.order.enter(number % 2)
                yield block
                self.order.leave(number % 2)
        finally:
            self.order.drain()

    def fetch(self, number: int) -> None:
        if number < len(self.host):
            self.order.copy(number % 2, self.memory[number % 2], self.host[number])


def keep_on_host(network: nn.Module, at: str, device: torch.device) -> None:
    """Put `Streamed` in the place of the list of blocks called `at`, and move all else to the device."""
    replace(network, at, Streamed(network.get_submodule(at).children(), device))
    network.to(device)


def replace(network: nn.Module, at: str, other: nn.Module) -> None:
    owner, _, leaf = at.rpartition(".")
    setattr(network.get_submodule(owner), leaf, other)


class SideStream:
    """Copies to a CUDA device beside the computation. A seat is overwritten only after what was launched before
    `leave` is done with it, and what is launched after `enter` finds it filled."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.side = device, torch.cuda.Stream(device)
        self.left, self.filled = ([torch.cuda.Event() for _ in range(2)] for _ in range(2))

    def leave(self, turn: int) -> None:
        self.left[turn].record(torch.cuda.current_stream(self.device))

    def copy(self, turn: int, target: Tensor, pieces: list[Tensor]) -> None:
        with torch.cuda.stream(self.side):
            self.side.wait_event(self.left[turn])
            join(target, pieces)
            self.filled[turn].record(self.side)

    def enter(self, turn: int) -> None:
        torch.cuda.current_stream(self.device).wait_event(self.filled[turn])

    def drain(self) -> None:
        """What is launched from here on, and memory that is freed, comes after all copies."""
        torch.cuda.current_stream(self.device).wait_stream(self.side)


class InLine:
    """Copies where they are asked for, on devices whose work is done in the order in which it is launched."""

    def leave(self, turn: int) -> None: ...

    def copy(self, turn: int, target: Tensor, pieces: list[Tensor]) -> None:
        join(target, pieces)

    def enter(self, turn: int) -> None: ...

    def drain(self) -> None: ...


@dataclass(frozen=True)
class Slot:
    """Where a parameter lies among the bytes of its block."""

    name: str
    dtype: torch.dtype
    shape: torch.Size
    start: int

    def of(self, memory: Tensor) -> Tensor:
        """The parameter, as a view of the block's bytes."""
        size = prod(self.shape) * self.dtype.itemsize
        return memory[self.start : self.start + size].view(self.dtype).view(self.shape)


def layout(block: nn.Module) -> list[Slot]:
    assert not list(block.buffers()), "a block with buffers cannot be streamed"
    slots, end = [], 0
    for name, value in block.named_parameters():
        slots.append(Slot(name, value.dtype, value.shape, end))
        end += -(-value.nbytes // ALIGNED) * ALIGNED
    return slots


def size_of(slots: list[Slot]) -> int:
    """Bytes of a whole block, in whole units."""
    end = slots[-1].start + prod(slots[-1].shape) * slots[-1].dtype.itemsize
    return -(-end // PIECE_UNIT) * PIECE_UNIT


def seated(block: nn.Module, slots: list[Slot], memory: Tensor) -> nn.Module:
    """A copy of a block whose parameters are views of a seat's bytes."""
    shell = deepcopy(block)
    for slot in slots:
        assign(shell, slot.name, slot.of(memory))
    return shell


def to_host(block: nn.Module, slots: list[Slot], pin: bool) -> list[Tensor]:
    """Move a block's weights to host memory; nothing of them is left in the block.

    The pieces are powers of two, since torch rounds pinned memory up to those: nothing is wasted."""
    memory = torch.empty(size_of(slots), dtype=torch.uint8)
    for slot, value in zip(slots, block.parameters(), strict=True):
        slot.of(memory).copy_(value.detach())
    block.to("meta")
    sizes = [1 << bit for bit in reversed(range(len(memory).bit_length())) if len(memory) & 1 << bit]
    pieces = [in_host(size, pin) for size in sizes]
    for piece, part in zip(pieces, memory.split(sizes), strict=True):
        piece.copy_(part)
    return pieces


def in_host(size: int, pin: bool) -> Tensor:
    """Bytes of main memory; MemoryError if there are none to pin, which CUDA calls out of memory as well."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=pin)
    except RuntimeError as error:
        raise MemoryError(str(error)) from error


def join(target: Tensor, pieces: list[Tensor]) -> None:
    """Pieces one behind the other, from the target's beginning on."""
    sizes = [len(piece) for piece in pieces]
    for part, piece in zip(target[: sum(sizes)].split(sizes), pieces, strict=True):
        part.copy_(piece, non_blocking=True)


# ---- from disk -----------------------------------------------------------------------------------------------


class FromDisk(nn.Module):
    """Stands for a list of blocks on the meta device whose weights are read each time they come up.

    Iterating yields the blocks with their weights on the device, each valid until the next is asked for; a thread
    reads the next one meanwhile. Failed if a file is damaged. locations: of each block, where its parameters lie and
    which type they are to be."""

    def __init__(
        self, blocks: list[nn.Module], locations: list[dict[str, tuple[Stored, torch.dtype]]], device: torch.device
    ) -> None:
        super().__init__()
        self.blocks, self.locations, self.device = blocks, locations, device

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[nn.Module]:
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self.weights, 0)
            for number, block in enumerate(self.blocks):
                for name, value in coming.result().items():
                    assign(block, name, value.to(self.device))
                coming = reader.submit(self.weights, number + 1)
                try:
                    yield block
                finally:
                    block.to("meta")

    def weights(self, number: int) -> dict[str, Tensor]:
        """A block's weights in host memory; none behind the last."""
        locations = self.locations[number] if number < len(self.locations) else {}
        return {name: read(stored, dtype, torch.device("cpu")) for name, (stored, dtype) in locations.items()}


class Rows(nn.Module):
    """Stands for an embedding whose table stays on disk: only the rows that are asked for are read."""

    def __init__(self, table: Stored, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.table, self.dtype, self.device = table, dtype, device

    def forward(self, tokens: Tensor) -> Tensor:
        """Numbers [L] -> rows [L, D]."""
        return torch.stack([read(self.table.row(number), self.dtype, self.device) for number in tokens.tolist()])


def leave_on_disk(network: nn.Module, at: str, locations: Mapping[str, Stored], dtype: torch.dtype,
                  device: torch.device, keep: Callable[[str], bool] = never) -> dict[str, Stored]:  # fmt: skip
    """Put `FromDisk` in the place of the list of blocks called `at`; returns where all other parameters lie."""
    blocks, rest = list(network.get_submodule(at).children()), dict(locations)
    of_block: list[dict[str, tuple[Stored, torch.dtype]]] = []
    for number, block in enumerate(blocks):
        full = {name: f"{at}.{number}.{name}" for name, _ in block.named_parameters()}
        of_block.append({name: (rest.pop(key), torch.float32 if keep(key) else dtype) for name, key in full.items()})
    replace(network, at, FromDisk(blocks, of_block, device))
    return rest
