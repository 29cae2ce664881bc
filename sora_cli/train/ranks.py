"""Training in several processes, as torchrun starts them; a single one needs none of this.

    torchrun --nproc-per-node 2 -m sora_cli train dit

A step is the mean over a fixed number of batches, numbered on through the run, of which every process takes its share.
What is learned depends on how many batches there are, not on how many processes share them: a run may go on with more
or fewer of them. Weights are the same everywhere, so one process alone writes files.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sora_cli.device import pick_device, pick_dtype
from sora_cli.errors import SoraError
from sora_cli.train.options import TrainOptions


def join(options: TrainOptions) -> tuple[torch.device, torch.dtype]:
    """Where this process computes, and in which precision; meets the others where torchrun started several."""
    device = pick_device(options.device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device, pick_dtype(options.dtype, device)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return not dist.is_initialized() or dist.get_rank() == 0


def agree(value: float, device: torch.device) -> float:
    """The leader's value, for what depends on a clock."""
    if count() == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    dist.broadcast(told, 0)
    return float(told)


class Objective(nn.Module):
    """A loss as a module, which engines for several processes can wrap: number of a batch -> named losses."""

    def __init__(self, model: nn.Module, loss: Callable[[int], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, number: int) -> dict[str, Tensor]:
        return self.loss(number)


class Step:
    """Gradients of one step, averaged over `batches` batches and all processes."""

    def __init__(self, model: nn.Module, loss: Callable[[int], dict[str, Tensor]], batches: int) -> None:
        if batches % count():
            fitting = -(-batches // count()) * count()
            raise SoraError(f"{count()} processes cannot share {batches} batches a step; "
                            f"use --accumulate {fitting} or another number of processes")  # fmt: skip
        self.batches = batches
        self.objective: nn.Module = Objective(model, loss)
        if count() > 1:  # not every batch reaches every weight: pictures have no motion
            self.objective = nn.parallel.DistributedDataParallel(self.objective, find_unused_parameters=True)

    def __call__(self, step: int) -> dict[str, float]:
        """Add the gradients of a step to the weights'; its losses, the mean over all batches."""
        rank = dist.get_rank() if count() > 1 else 0
        mine = range(step * self.batches + rank, (step + 1) * self.batches, count())
        sums: dict[str, Tensor] = {}
        for number in mine:
            alone = count() > 1 and number != mine[-1]  # gradients meet once, after the last
            with self.objective.no_sync() if alone else nullcontext():  # type: ignore[operator]
                losses = self.objective(number)
                (losses["loss"] / len(mine)).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float() / self.batches
        total = torch.stack(list(sums.values()))
        if count() > 1:
            dist.all_reduce(total)
        return dict(zip(sums, total.tolist(), strict=True))
