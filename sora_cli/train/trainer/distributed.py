"""Training in several processes, as torchrun starts them; a single one needs none of this.

    torchrun --nproc-per-node 2 -m sora_cli train dit

A step is the mean over a fixed number of batches, numbered on through the run, of which every process takes its share.
What is learned depends on how many batches there are, not on how many processes share them: a run may go on with more
or fewer of them. Weights are the same everywhere, or in shards that together are all of them (`FsdpModel`). One process
alone writes files, which do not say how many there were.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from sora_cli.errors import Failed, SoraError, counted
from sora_cli.placement.device import pick_device, pick_dtype
from sora_cli.train.options import TrainOptions
from sora_cli.train.trainer.prefetch import Prefetcher


def init(options: TrainOptions) -> tuple[torch.device, torch.dtype]:
    """Where this process computes, and in which precision; joins the others if torchrun started several."""
    device, several = pick_device(options.device), int(os.environ.get("WORLD_SIZE", 1)) > 1
    if several and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dtype = pick_dtype(options.dtype, device)
    if several and not dist.is_initialized():
        rendezvous("nccl" if device.type == "cuda" else "gloo")
    return device, dtype


def rendezvous(backend: str) -> None:
    """Meet the other processes; every attempt has its own keys, as torchrun's store may have stale ones."""
    store, rank, size = next(dist.rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(backend, store=dist.PrefixStore(f"attempt-{attempt}", store), rank=rank, world_size=size)


def barrier() -> None:
    """Wait until all processes are here: one that ends while others still talk to it makes them fail."""
    if world_size() > 1:
        dist.barrier()


def shutdown() -> None:
    """Leave the others, all at once."""
    barrier()
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return not dist.is_initialized() or dist.get_rank() == 0


def broadcast(value: float, device: torch.device) -> float:
    """The main process's value, for what depends on a clock."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    dist.broadcast(shared, 0)
    return float(shared)


def any_rank(true: bool, device: torch.device) -> bool:
    if world_size() == 1:
        return true
    shared = torch.tensor(float(true), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared)


def fail(why: str) -> NoReturn:
    """End all processes, which call this together, with one line."""
    raise Failed(why) if is_main() else SystemExit(Failed.exit_code)


class Objective(nn.Module):
    """A loss as a module, which engines for several processes can wrap: a batch -> named losses."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self.loss(batch)


class GradAccumulator:
    """Gradients of a step, the mean over `batches` batches in all processes; a sharded model reduces its own."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], dict[str, Tensor]], batches: int, feed: Prefetcher,
                 shards: "FsdpModel | None" = None) -> None:  # fmt: skip
        if batches % world_size():
            fitting = -(-batches // world_size()) * world_size()
            raise SoraError(f"{world_size()} processes cannot share {counted(batches, 'batch', 'batches')} a step; "
                            f"use --accumulate {fitting} or another number of processes")  # fmt: skip
        self.batches, self.feed, self.shards = batches, feed, shards
        self.objective: nn.Module = Objective(model, loss)
        if world_size() > 1 and not shards:  # not every batch reaches every weight: pictures have no motion
            self.objective = nn.parallel.DistributedDataParallel(self.objective, find_unused_parameters=True)

    def __call__(self, step: int) -> tuple[dict[str, float], float]:
        """Add a step's gradients to the weights'; its mean losses, and the seconds of waiting for batches."""
        rank = dist.get_rank() if world_size() > 1 else 0
        mine = range(step * self.batches + rank, (step + 1) * self.batches, world_size())
        sums: dict[str, Tensor] = {}
        before = self.feed.waited
        for number in mine:
            batch = self.feed(number)
            with self.maybe_sync(number == mine[-1]):  # gradients are reduced once, after the last
                losses = self.objective(batch)
                (losses["loss"] / len(mine)).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float() / self.batches
        if self.shards:
            self.shards.forget_unreached()
        waited = (self.feed.waited - before) / world_size()
        total = torch.stack([*sums.values(), torch.tensor(waited, device=losses["loss"].device)])
        if world_size() > 1:
            dist.all_reduce(total)
        *means, waited = total.tolist()
        return dict(zip(sums, means, strict=True)), waited

    def maybe_sync(self, now: bool) -> AbstractContextManager:
        if self.shards:
            self.shards.set_sync(now)
        elif world_size() > 1 and not now:
            return self.objective.no_sync()  # type: ignore[operator, no-any-return]
        return nullcontext()


# -- Models in shards -------------------------------------------------------------------------------------


class FsdpModel:
    """A model whose weights, gradients, averages and optimizer states are spread over the processes (FSDP2): its blocks
    one by one, then the rest.

    What is reduced must be the same everywhere, but not every batch reaches every weight. So on the way back through a
    block, before its gradients are reduced, zeros stand in for those that are missing; where they are missing in all
    processes, there is no gradient in the end, as in one process."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (world_size(),))
        self.model = model
        self.blocks: list[nn.Module] = list(model.blocks)  # type: ignore[arg-type]
        self.reached: list[list[bool]] = [[] for _ in self.blocks]
        self.last = True
        for number, block in enumerate(self.blocks):
            fully_shard(block, mesh=mesh)
            block.register_forward_pre_hook(partial(self.stand_in, number))
        fully_shard(model, mesh=mesh)  # type: ignore[arg-type]

    def set_sync(self, now: bool) -> None:
        """Whether gradients are reduced on the way back."""
        self.last = now
        self.model.set_requires_gradient_sync(now)  # type: ignore[operator]

    def stand_in(self, number: int, block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Have the way back through a block end in `complete`."""
        x = inputs[0].view_as(inputs[0])
        if x.requires_grad:
            x.register_hook(partial(self.complete, number, block))
        return x, *inputs[1:]

    def complete(self, number: int, block: nn.Module, _: Tensor) -> None:
        if not self.last:
            return
        weights = [p for p in block.parameters() if p.requires_grad]
        self.reached[number] = [p.grad is not None for p in weights]
        for p in weights:
            if p.grad is None:
                p.grad = torch.zeros_like(p)

    def forget_unreached(self) -> None:
        """Take back the zeros of weights that no process has reached."""
        weights = [p for block in self.blocks for p in block.parameters() if p.requires_grad]
        flags = [flag for flags in self.reached for flag in flags]
        reached = torch.tensor(flags, dtype=torch.float32, device=weights[0].device)
        dist.all_reduce(reached, dist.ReduceOp.MAX)
        for p, there in zip(weights, reached.tolist(), strict=True):
            if not there:
                p.grad = None


class ShardedMuon(torch.optim.Muon):
    """`torch.optim.Muon` on shards, with Nesterov's momentum and `match_rms_adamw`: a matrix is gathered once a step,
    and made orthogonal as a whole. torch's own asks the other processes for every product of the iteration."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                update = p.grad.lerp(state["momentum_buffer"].lerp_(p.grad, 1 - momentum), momentum)
                whole = orthogonal(update.bfloat16().full_tensor(), group)
                whole = DTensor.from_local(whole, p.device_mesh, [Replicate()], run_check=False)
                p.mul_(1 - rate * group["weight_decay"])
                p.add_(whole.redistribute(placements=p.placements), alpha=-rate * 0.2 * max(p.shape) ** 0.5)


def orthogonal(x: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Newton-Schulz iterations toward the nearest matrix with singular values of 1 (Jordan et al. 2024)."""
    a, b, c = group["ns_coefficients"]
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def local(x: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return x.to_local() if isinstance(x, DTensor) else x


def gather_full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors; all processes call this. Sharded ones go to the main process, one by one."""
    found = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            found[name] = tensor
            continue
        gathered = tensor.full_tensor()
        if is_main():
            found[name] = gathered.cpu()
    return found
