"""A small training with the project's loop, to be started by torchrun: OUT STEPS [BATCHES [DIES_AT]]."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from sora_cli.train import loop, ranks
from sora_cli.train.options import TrainOptions


class Forked(nn.Module):
    """Every other batch leaves a branch out, as pictures leave out motion."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.aside, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def hidden_weights(self) -> list[nn.Parameter]:
        return [self.into.weight, self.aside.weight]

    def forward(self, x: torch.Tensor, whole: bool) -> torch.Tensor:
        y = self.into(x).relu()
        return self.out(y + self.aside(y) if whole else y)


def main(out: str, steps: str, batches: str = "", dies_at: str = "") -> None:
    torch.set_num_threads(1)
    options = TrainOptions("nano", "world", int(steps), None, None, 3, Path(out), "cpu", "float32",
                           accumulate=int(batches) if batches else None)  # fmt: skip
    ranks.join(options)
    torch.manual_seed(0)
    model = Forked()

    def loss(number: int) -> loop.Losses:
        if dies_at and number >= int(dies_at) and not ranks.leads():
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.randn(32, 16, generator=loop.generator(3, number))
        return {"loss": (model(x, number % 2 == 0) + x).square().mean()}

    recipe = loop.Recipe(steps=int(steps), batch=32, rate=0.02, warmup=2, save_every=5)
    state = loop.fit(model, loss, recipe, options)
    if ranks.leads():
        torch.save({**model.state_dict(), **{f"average.{k}": v for k, v in state.items()}}, Path(out) / "end.pt")
    ranks.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
