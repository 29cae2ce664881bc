"""The short trainings of benchmarks: `sora_cli.train.trainer.loop` without a folder, processes and a clock."""

from collections.abc import Callable

from torch import Tensor, nn

from sora_cli.train.trainer.checkpoint import Ema
from sora_cli.train.trainer.config import TrainerConfig
from sora_cli.train.trainer.loop import optimizers


def learn(network: nn.Module, plan: TrainerConfig, loss: Callable[[int], Tensor]) -> None:
    """Take `plan.steps` steps, by the loss of each; the network ends with its averaged weights."""
    average, optims = Ema(network, plan.average), optimizers(network, plan)
    for step in range(plan.steps):
        for optim in optims:
            optim.param_groups[0]["lr"] = plan.rate_at(step)
            optim.zero_grad(set_to_none=True)
        loss(step).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        for optim in optims:
            optim.step()
        average.update(network, step)
    network.load_state_dict(average.state)
