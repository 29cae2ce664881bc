"""The one training loop: every stage gives it a model and a loss, and gets EMA weights back.

A step draws all its randomness from (seed, step), so that a run killed at any moment and started again takes
exactly the next step it would have taken: the checkpoint holds weights, averages and optimizer state, and
there is no other state. A step may be the mean over several batches, shared among processes (see `ranks`).
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from sora_cli import weights
from sora_cli.train import ranks
from sora_cli.train.options import TrainOptions

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """What does not depend on the machine. `steps` fixes the schedule: a warm-up, a plateau, and a linear
    decay over the last quarter (warm-up, stable, decay), of the steps or of the minutes, whichever ends first."""

    steps: int
    batch: int  # samples a batch, for the progress display alone
    rate: float  # peak learning rate
    warmup: int = 100
    decay: float = 0.25  # the share of the steps over which the rate falls to zero
    average: float = 0.999  # EMA of the weights
    clip: float = 1.0
    weight_decay: float = 0.01
    save_every: int = 500
    sample_every: int = 1000

    def rate_at(self, step: int, spent: float = 0.0) -> float:
        """The rate of a step when this share of the time that there is has been spent."""
        rise = min(1.0, (step + 1) / self.warmup)
        left = min(1 - step / self.steps, 1 - spent)
        return self.rate * rise * min(1.0, max(0.0, left) / max(1 / self.steps, self.decay))


def generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one step, on the CPU, the same on every device."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


class Average:
    """An exponential moving average of a model's weights, warmed up so that early steps count less."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone().float() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))
        now = model.state_dict()
        torch._foreach_lerp_(list(self.state.values()), [now[k].float() for k in self.state], 1 - keep)


def optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon on the matrices that a model names as hidden, AdamW on the rest (Jordan et al. 2024)."""
    hidden: list[nn.Parameter] = getattr(model, "hidden_weights", list)()
    hidden = [p for p in hidden if p.requires_grad]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    found: list[torch.optim.Optimizer] = []
    if hidden:
        found.append(torch.optim.Muon(hidden, lr=recipe.rate, weight_decay=recipe.weight_decay,
                                      adjust_lr_fn="match_rms_adamw"))  # fmt: skip
    found.append(torch.optim.AdamW(rest, lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.0))
    return found


# -- Checkpoints ------------------------------------------------------------------------------------------


def save_checkpoint(out: Path, step: int, model: nn.Module, average: Average,
                    optims: list[torch.optim.Optimizer], batches: int = 1) -> None:  # fmt: skip
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state.items()}
    for i, optim in enumerate(optims):
        for j, state in optim.state_dict()["state"].items():
            tensors |= {f"optim.{i}.{j}.{k}": torch.as_tensor(v) for k, v in state.items()}
    part, done = out / "checkpoint.part", out / f"checkpoint-{step:07d}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    weights.save_part(part, "state", tensors, {"step": str(step), "batches": str(batches)})
    shutil.rmtree(done, ignore_errors=True)
    part.replace(done)  # all shards of one step appear at once, and only then do older ones go
    for older in checkpoints(out)[:-1]:
        shutil.rmtree(older)


def checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(out.glob("checkpoint-???????"))


def load_checkpoint(out: Path, model: nn.Module, average: Average, optims: list[torch.optim.Optimizer],
                    device: torch.device) -> int:  # fmt: skip
    """Restore all that `save_checkpoint` wrote; returns the next step, 0 where there is no checkpoint."""
    found = checkpoints(out)
    if not found:
        return 0
    tensors, metadata = weights.load_part(found[-1], "state")
    model.load_state_dict(_under(tensors, "model."), strict=True)
    average.state = {k: v.to(device) for k, v in _under(tensors, "average.").items()}
    for i, optim in enumerate(optims):
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, f"optim.{i}.").items():
            j, name = key.split(".", 1)
            states.setdefault(int(j), {})[name] = value
        optim.load_state_dict(optim.state_dict() | {"state": states})
    return int(metadata["step"])


def batches_of(options: TrainOptions) -> int:
    """Batches a step: as told, as they were when the run began, or one for each process."""
    found = [] if options.fresh else checkpoints(options.out)
    if options.accumulate or not found:
        return options.accumulate or ranks.count()
    first = weights.find_part(found[-1], "state")[0]
    return int(weights.read_header(first).metadata.get("batches", 1))


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


# -- The loop ---------------------------------------------------------------------------------------------


def fit(model: nn.Module, loss: Callable[[int], Losses], recipe: Recipe, options: TrainOptions,
        sample: Callable[[nn.Module, Path], None] | None = None) -> dict[str, Tensor]:  # fmt: skip
    """Train until `recipe.steps` or `options.minutes`; returns the averaged weights.

    `loss(number)` returns named losses of a batch, of which "loss" is differentiated. `sample(model, path)` draws a
    sheet with the averaged weights. Writes checkpoints, log.jsonl, curves.png and samples/ under `options.out`."""
    device = next(model.parameters()).device
    average, optims = Average(model, recipe.average), optimizers(model, recipe)
    options.out.mkdir(parents=True, exist_ok=True)
    batches = batches_of(options)
    start = 0 if options.fresh else load_checkpoint(options.out, model, average, optims, device)
    gradients = ranks.Step(model, loss, batches)
    log = Log(options, recipe, start, batches)
    began = time.monotonic()
    with log.progress:
        for step in range(start, recipe.steps):
            spent = (time.monotonic() - began) / (options.minutes * 60) if options.minutes else 0.0
            spent = ranks.agree(spent, device) if options.minutes else 0.0
            losses = _step(model, gradients, step, recipe.rate_at(step, spent), recipe.clip, optims)
            average.update(model, step)
            log.add(step, losses)
            done, late = step + 1, spent >= 1
            last = done == recipe.steps or late
            if ranks.leads() and (done % recipe.save_every == 0 or last):
                save_checkpoint(options.out, done, model, average, optims, batches)
            if ranks.leads() and sample and (done % recipe.sample_every == 0 or last):
                _sample(model, average, sample, options.out / "samples" / f"{done:06d}.png")
                log.plot()
            if late:
                break
    return average.state


def _step(model: nn.Module, gradients: ranks.Step, step: int, rate: float, clip: float,
          optims: list[torch.optim.Optimizer]) -> dict[str, float]:  # fmt: skip
    for optim in optims:
        for group in optim.param_groups:
            group["lr"] = rate
        optim.zero_grad(set_to_none=True)
    losses = gradients(step)
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optim in optims:
        optim.step()
    return losses | {"norm": float(norm), "rate": rate}


def _sample(model: nn.Module, average: Average, sample: Callable[[nn.Module, Path], None], path: Path) -> None:
    """Draw a sheet with the averaged weights, then put the trained ones back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    trained = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(average.state)
    model.eval()
    with torch.inference_mode():
        sample(model, path)
    model.train()
    model.load_state_dict(trained)


class Log:
    """Progress on stderr, a JSON line every ten steps, and the curves as a picture."""

    def __init__(self, options: TrainOptions, recipe: Recipe, start: int, batches: int) -> None:
        self.path, self.batch, self.every = options.out / "log.jsonl", recipe.batch * batches, 10
        if start == 0 and ranks.leads():
            self.path.write_text(json.dumps({"options": asdict(options), "recipe": asdict(recipe)}, default=str) + "\n")
        self.began, self.start = time.monotonic(), start
        self.sums: dict[str, float] = {}
        self.progress = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"),
                                 TimeRemainingColumn(), console=Console(stderr=True),
                                 disable=not ranks.leads())  # fmt: skip
        self.task = self.progress.add_task(options.out.name, total=recipe.steps, completed=start, note="")

    def add(self, step: int, losses: dict[str, float]) -> None:
        for k, v in losses.items():
            self.sums[k] = self.sums.get(k, 0.0) + v / self.every
        self.progress.update(self.task, completed=step + 1)
        if (step + 1) % self.every or not ranks.leads():
            return
        seconds = time.monotonic() - self.began
        speed = (step + 1 - self.start) * self.batch / seconds
        line = {"step": step + 1, "seconds": round(seconds, 1)} | {k: round(v, 6) for k, v in self.sums.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(line | {"speed": round(speed, 2)}) + "\n")
        self.progress.update(self.task, note=f"loss {self.sums['loss']:.4f}  {speed:.1f} samples/s")
        self.sums = {}

    def plot(self) -> None:
        """Draw every logged loss over the steps."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        rows = [line for line in lines if "step" in line]
        names = [k for k in rows[-1] if k not in ("step", "seconds", "speed", "rate")] if rows else []
        if not names:
            return
        figure, axes = plt.subplots(len(names), 1, figsize=(8, 2 * len(names)), sharex=True, squeeze=False)
        for axis, name in zip(axes[:, 0], names, strict=True):
            axis.plot([r["step"] for r in rows if name in r], [r[name] for r in rows if name in r])
            axis.set_ylabel(name)
        figure.savefig(self.path.with_name("curves.png"))
        plt.close(figure)
