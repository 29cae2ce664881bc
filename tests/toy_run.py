"""A small training with the project's loop, in one of several processes: OUT STEPS [BATCHES [DIES_AT]]."""

import gc
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sora_cli.train.options import TrainOptions
from sora_cli.train.trainer import distributed, loop
from sora_cli.train.trainer.config import Losses, TrainerConfig, generator
from sora_cli.train.trainer.stage import Stage


class Fork(nn.Module):
    """Every other batch leaves a branch out, as pictures leave out motion."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.aside = nn.Linear(16, 24, bias=False), nn.Linear(24, 16, bias=False)
        self.out, self.scale = nn.Linear(24, 16, bias=False), nn.Parameter(torch.ones(16))

    def forward(self, x: torch.Tensor, whole: bool) -> torch.Tensor:
        y = self.into(x).relu()
        return x + self.out(y) + (self.aside(y) * self.scale if whole else 0)


class Forked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks, self.last = nn.Linear(16, 16), nn.ModuleList([Fork(), Fork()]), nn.Linear(16, 16)

    def hidden_weights(self) -> list[nn.Parameter]:
        return [p for p in self.blocks.parameters() if p.ndim == 2]

    def forward(self, x: torch.Tensor, whole: bool) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, whole)
        return self.last(x)


@dataclass(frozen=True)
class Asked(TrainOptions):
    """A run that can be spread over processes."""

    stage = "toy"
    shard: bool = False


class Mirror(Stage[Asked]):
    """Learn to negate. Process 1 kills itself at batch `dies_at`, once."""

    dies_at: int | None = None

    def __init__(self, options: Asked, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(options, device, dtype)
        torch.manual_seed(0)
        self.model = Forked()
        self.config = TrainerConfig(steps=options.steps or 1, batch=32, rate=0.02, warmup=2, save_every=5)

    def loss(self, number: int) -> Losses:
        again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        if self.dies_at is not None and number >= self.dies_at and not distributed.is_main() and not again:
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.randn(32, 16, generator=generator(3, number))
        whole = number % 2 == 0 and number % 12 < 8  # now and then a whole step has none
        return {"loss": (self.model(x, whole) + x).square().mean()}


def main(out: str, steps: int, batches: int | None = None, dies_at: int | None = None, shard: bool = False) -> None:
    torch.set_num_threads(1)
    options = Asked(steps=steps, seed=3, out=Path(out), device="cpu", dtype="float32", accumulate=batches, shard=shard)
    stage = Mirror(options, *distributed.init(options))
    stage.dies_at = dies_at
    state = loop.fit(stage)
    trained = distributed.gather_full(stage.model.state_dict())
    if distributed.is_main():
        torch.save({**trained, **{f"average.{k}": v for k, v in state.items()}}, Path(out) / "end.pt")
    distributed.shutdown()


def worker(rank: int, processes: int, port: int, *asked: object) -> None:
    """One of `processes`, told what torchrun tells."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    gc.freeze()  # as `forked.begin` does
    main(*asked)  # type: ignore[arg-type]
