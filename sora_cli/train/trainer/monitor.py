"""Early warnings: errors that end a training, and signs that somebody should look at."""

import math
from collections.abc import Iterator
from pathlib import Path

from sora_cli.train.trainer import distributed

SETTLED = 50  # steps before a loss is compared with anything; the running mean reaches about as far back
WORSE, LONG = 3.0, 200  # so many times the best running mean, for so many steps, is a divergence
STARVED, BRIEF = 0.5, 100  # this share of so many steps, spent waiting for data, is worth a line


def refuse_nonsense(step: int, loss: float, norm: float, good: Path | None) -> None:
    """Fail where the loss or the gradient of a step is not finite; nothing has been learned from it yet."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    left = f"{good} is from before; continue from it with another --seed" if good else "there is no checkpoint yet"
    distributed.fail(f"step {step + 1} has a loss of {loss:g} and a gradient of norm {norm:g}, so training stops; "
                     f"{left}")  # fmt: skip


class Monitor:
    """Looks at every step, and says each thing once."""

    def __init__(self) -> None:
        self.mean, self.best, self.steps, self.worse = 0.0, math.inf, 0, 0
        self.took = self.waited = 0.0  # seconds
        self.diverged = self.starved = False

    def __call__(self, loss: float, took: float, waited: float) -> Iterator[str]:
        self.steps += 1
        yield from self.divergence(loss)
        yield from self.starvation(took, waited)

    def divergence(self, loss: float) -> Iterator[str]:
        self.mean += (loss - self.mean) / min(self.steps, SETTLED)
        if self.steps >= SETTLED:
            self.best = min(self.best, self.mean)
        self.worse = self.worse + 1 if self.mean > WORSE * self.best else 0
        if self.worse >= LONG and not self.diverged:
            self.diverged = True
            yield f"the loss is {self.mean:.3g} on average, after {self.best:.3g} at its best: this run has diverged"

    def starvation(self, took: float, waited: float) -> Iterator[str]:
        self.took, self.waited = self.took + took, self.waited + waited
        if self.steps % BRIEF:
            return
        wait, self.took, self.waited = self.waited / max(self.took, 1e-9), 0.0, 0.0
        if wait > STARVED and not self.starved:
            self.starved = True
            yield f"{wait:.0%} of the time is spent waiting for data; --prefetch 2 loads it ahead, if cores are free"
