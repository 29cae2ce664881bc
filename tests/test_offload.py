"""Blocks that are on the device only while they run: the same answers, bit for bit, and little memory."""

import random
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from wan_cases import UMT5, WAN, dit_inputs, fill, tokens

from sora_cli.errors import Failed
from sora_cli.files import published
from sora_cli.files.published import put, survey
from sora_cli.models.wan.configs import Umt5Config, WanConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.text import Umt5
from sora_cli.placement import offload
from sora_cli.placement.offload import FromDisk, Rows, SideStream, Streamed, keep_on_host, leave_on_disk

CPU = torch.device("cpu")


def dit(layers: int = 5) -> WanDit:
    return WanDit(WanConfig.from_hub(WAN | {"num_layers": layers}))


def saved(network: nn.Module, folder: Path) -> list[Path]:
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "all.safetensors")
    return [folder / "all.safetensors"]


def blocks(count: int, width: int = 8) -> list[nn.Module]:
    return [nn.Linear(width, width).requires_grad_(False) for _ in range(count)]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_blocks_compute_the_same(dtype: torch.dtype) -> None:
    x, t, words = dit_inputs().values()
    network = fill(dit()).to(dtype)
    due = network(x.to(dtype), t, words.to(dtype))
    keep_on_host(network, "blocks", CPU)
    assert isinstance(network.blocks, Streamed)
    for _ in range(2):  # seats are used again
        assert torch.equal(network(x.to(dtype), t, words.to(dtype)), due)
    assert len(network.blocks) == 5 and not any("attn" in name for name, _ in network.named_parameters())


def test_a_pass_that_ends_early_does_not_spoil_the_next() -> None:
    there = blocks(3)
    due = [block.weight.clone() for block in there]
    turns = Streamed(there, CPU)
    assert all(value.is_meta for block in there for value in block.parameters())  # taken over
    next(iter(turns))
    assert [torch.equal(block.weight, weight) for block, weight in zip(turns, due, strict=True)] == [True] * 3


@pytest.mark.parametrize("widths", [(8, 9), (9, 8, 8, 40), (40, 8, 9, 300, 7)])
def test_blocks_of_different_shapes_take_turns(widths: tuple[int, ...]) -> None:
    there = [block for width in widths for block in blocks(1, width)]
    due = [block.weight.clone() for block in there]
    turns = Streamed(there, CPU)
    for _ in range(2):
        found = [torch.equal(block.weight, weight) for block, weight in zip(turns, due, strict=True)]
        assert found == [True] * len(due)


# -- The order on a CUDA device, played through ----------------------------------------------------------------


class Device:
    """Queues of work that a scheduler takes from in any order that the events allow."""

    def __init__(self) -> None:
        self.main, self.side = Queue(), Queue()
        self.current = self.main

    @contextmanager
    def using(self, queue: "Queue") -> Iterator[None]:
        self.current, before = queue, self.current
        yield
        self.current = before

    def run(self, choose: Callable[[list["Queue"]], "Queue"]) -> None:
        while ready := [queue for queue in (self.main, self.side) if queue.work and queue.work[0][0]()]:
            choose(ready).work.popleft()[1]()
        assert not self.main.work and not self.side.work, "the device waits for ever"


class Queue:
    """A stream; work is (may it run now, what it does)."""

    def __init__(self) -> None:
        self.work: deque[tuple[Callable[[], bool], Callable[[], Any]]] = deque()

    def launch(self, what: Callable[[], Any], when: Callable[[], bool] = lambda: True) -> None:
        self.work.append((when, what))

    def wait_event(self, event: "Event") -> None:
        due = event.asked
        self.launch(lambda: None, lambda: event.done >= due)

    def wait_stream(self, other: "Queue") -> None:
        event = Event()
        event.record(other)
        self.wait_event(event)


class Event:
    asked = done = 0

    def record(self, queue: Queue) -> None:
        self.asked += 1
        due = self.asked
        queue.launch(lambda: setattr(self, "done", due))


ORDERS: dict[str, Callable[[list[Queue]], Queue]] = {
    "computes first": lambda ready: ready[0],
    "copies first": lambda ready: ready[-1],
} | {f"random {i}": random.Random(i).choice for i in range(5)}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("waits", [True, False])
def test_a_seat_is_not_overwritten_while_it_is_in_use(order: str, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block computes with its own weights, however the device orders its work; without the waits not."""
    device, join = Device(), offload.join
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: device.side)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: device.current)
    monkeypatch.setattr(torch.cuda, "stream", device.using)
    monkeypatch.setattr(offload, "join", lambda to, pieces: device.current.launch(lambda: join(to, pieces)))
    if not waits:
        monkeypatch.setattr(Queue, "wait_event", lambda *_: None)
    there = blocks(6)
    due, found = [block.weight.clone() for block in there], []
    turns = Streamed(there, CPU)
    turns.order = SideStream(CPU)
    for _ in range(2):
        for block in turns:
            device.current.launch(lambda block=block: found.append(block.weight.clone()))
    device.run(ORDERS[order])
    assert all(map(torch.equal, found, due * 2)) == waits


@torch.no_grad()
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_streamed_blocks_compute_the_same_on_cuda() -> None:
    cuda = torch.device("cuda")
    x, t, words = (value.to(cuda) for value in dit_inputs().values())
    network = fill(dit(7)).to(cuda)
    due = network(x, t, words)
    keep_on_host(network.cpu(), "blocks", cuda)
    for _ in range(5):
        assert torch.equal(network(x, t, words), due)


# -- From disk -------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_from_disk_compute_the_same(tmp_path: Path, dtype: torch.dtype) -> None:
    x, t, words = dit_inputs().values()
    keep = lambda name: "scale_shift_table" in name or "norm2" in name
    files = saved(fill(dit()), tmp_path)
    with torch.device("meta"):
        resident, network = dit(), dit()
    published.put(resident, published.survey(resident, files), dtype, CPU, keep)
    put(network, leave_on_disk(network, "blocks", survey(network, files), dtype, CPU, keep), dtype, CPU, keep)
    assert isinstance(network.blocks, FromDisk)
    due = resident(x.to(dtype), t, words.to(dtype))
    for _ in range(2):
        assert torch.equal(network(x.to(dtype), t, words.to(dtype)), due)


@torch.no_grad()
def test_the_text_encoder_reads_only_the_rows_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = lambda: Umt5(Umt5Config.from_hub(UMT5))
    whole = fill(build())
    files = saved(whole, tmp_path)
    with torch.device("meta"):
        network = build()
    rest = leave_on_disk(network, "encoder.block", survey(network, files), torch.float32, CPU)
    network.shared = Rows(rest.pop("shared.weight"), torch.float32, CPU)
    put(network, rest, torch.float32, CPU)
    assert [name for name, _ in network.named_parameters()] == ["encoder.final_layer_norm.weight"]
    taken: list[str] = []
    read = published.read
    monkeypatch.setattr(offload, "read", lambda stored, *how: (taken.append(stored.key), read(stored, *how))[1])
    text = torch.tensor([3, 17, 3, 1])
    assert torch.equal(network(text), whole(text))
    assert {key for key in taken if "shared" in key} == {f"shared.weight[{i}]" for i in (1, 3, 17)}
    assert torch.equal(network(tokens(40)), whole(tokens(40)))


def test_two_blocks_are_in_memory_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, alive = nn.Sequential(*blocks(6)), weakref.WeakSet[Tensor]()
    files = saved(network, tmp_path)
    network.to("meta")
    read = published.read

    def watched(*what: Any) -> Tensor:
        found = read(*what)
        alive.add(found)
        return found

    monkeypatch.setattr(offload, "read", watched)
    holder = nn.ModuleDict({"list": network})
    places = {f"list.{name}": where for name, where in survey(network, files).items()}
    assert leave_on_disk(holder, "list", places, torch.float32, CPU) == {}
    most = 0
    for block in holder["list"]:
        assert not block.weight.is_meta
        most = max(most, sum(value.nbytes for value in alive))
    assert 0 < most <= 2 * sum(value.nbytes for value in network[0].parameters())
    assert all(value.is_meta for value in network.parameters())


def test_a_file_that_is_damaged_meanwhile_is_named(tmp_path: Path) -> None:
    network = nn.Sequential(*blocks(3))
    files = saved(network, tmp_path)
    holder = nn.ModuleDict({"list": network.to("meta")})
    places = {f"list.{name}": where for name, where in survey(network, files).items()}
    leave_on_disk(holder, "list", places, torch.float32, CPU)
    files[0].write_bytes(files[0].read_bytes()[:-8])
    with pytest.raises(Failed, match="truncated"):
        list(holder["list"])
