"""The short trainings of benchmarks: `sora_cli.train.trainer.loop` without a folder, processes and a clock."""

from collections.abc import Callable

from torch import Tensor, nn

from sora_cli.train.trainer.checkpoint import Ema
from sora_cli.train.trainer.config import TrainerConfig
from sora_cli.train.trainer.loop import optimizers


class Learning:
    """A network on its way: steps, one after another, and the averaged weights in the end."""

    def __init__(self, network: nn.Module, plan: TrainerConfig) -> None:
        self.network, self.plan = network, plan
        self.average, self.optims = Ema(network, plan.average), optimizers(network, plan)

    def step(self, number: int, loss: Callable[[int], Tensor], spent: float = 0.0) -> None:
        """Take a step, at the rate of the share of the time that is `spent`."""
        for optim in self.optims:
            optim.param_groups[0]["lr"] = self.plan.lr_at(number, spent)
            optim.zero_grad(set_to_none=True)
        loss(number).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip)
        for optim in self.optims:
            optim.step()
        self.average.update(self.network, number)

    def end(self) -> None:
        self.network.load_state_dict(self.average.state)


def learn(network: nn.Module, plan: TrainerConfig, loss: Callable[[int], Tensor]) -> None:
    """Take `plan.steps` steps, by the loss of each; the network ends with its averaged weights."""
    learning = Learning(network, plan)
    for step in range(plan.steps):
        learning.step(step, loss)
    learning.end()
