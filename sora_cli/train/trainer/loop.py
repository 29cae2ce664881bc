"""The one training loop: every stage gives it a model and a loss, and gets EMA weights back.

A step draws all its randomness from (seed, step), so that a run killed at any moment and started again takes
exactly the next step it would have taken: the checkpoint holds weights, averages and optimizer state, and
there is no other state. A step may be the mean over several batches, shared among processes (see `ranks`), and its
batches may be made ahead of it (see `feed`).
"""

import copy
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.train.options import TrainOptions
from sora_cli.train.trainer import distributed, run_folder
from sora_cli.train.trainer.config import Losses, TrainerConfig
from sora_cli.train.trainer.logger import Log
from sora_cli.train.trainer.monitor import Monitor, refuse_nonsense
from sora_cli.train.trainer.prefetch import Prefetcher


class Ema:
    """An exponential moving average of a model's weights, warmed up so that early steps count less."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone().float() for k, v in model.state_dict().items()}  # in shards, if those are

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))
        now = model.state_dict()
        mine = [distributed.local(v) for v in self.state.values()]
        torch._foreach_lerp_(mine, [distributed.local(now[k]).float() for k in self.state], 1 - keep)


def optimizers(model: nn.Module, config: TrainerConfig) -> list[torch.optim.Optimizer]:
    """Muon on the matrices that a model names as hidden, AdamW on the rest (Jordan et al. 2024)."""
    hidden: list[nn.Parameter] = getattr(model, "hidden_weights", list)()
    hidden = [p for p in hidden if p.requires_grad]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    found: list[torch.optim.Optimizer] = []
    if hidden:
        found.append(torch.optim.Muon(hidden, lr=config.rate, weight_decay=config.weight_decay,
                                      adjust_lr_fn="match_rms_adamw"))  # fmt: skip
    found.append(torch.optim.AdamW(rest, lr=config.rate, betas=(0.9, 0.95), weight_decay=0.0))
    return found


# -- Checkpoints ------------------------------------------------------------------------------------------


def save_checkpoint(out: Path, step: int, model: nn.Module, average: Ema,
                    optims: list[torch.optim.Optimizer], batches: int = 1, seconds: float = 0.0) -> None:  # fmt: skip
    """One folder with all that a run goes on from, in place of the one before. All processes ask, the leader writes.
    Failed, with the one before left alone, where something is not finite."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state.items()}
    for i, optim in enumerate(optims):
        for j, state in optim.state_dict()["state"].items():
            tensors |= {f"optim.{i}.{j}.{k}": torch.as_tensor(v) for k, v in state.items()}
    broken = not all(distributed.local(v).isfinite().all() for v in tensors.values())
    if distributed.any_rank(broken, next(model.parameters()).device):
        distributed.fail(f"after step {step} there are weights that are not finite; what is saved in {out} is from "
                         "before")  # fmt: skip
    tensors = distributed.gather_full(tensors)
    if not distributed.is_main():
        return
    part, done = out / "checkpoint.part", out / f"checkpoint-{step:07d}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    weights.save_part(part, "state", tensors, {"step": str(step), "batches": str(batches), "seconds": str(seconds)})
    shutil.rmtree(done, ignore_errors=True)
    part.replace(done)  # all shards of one step appear at once, and only then do older ones go
    for other in checkpoints(out):
        if other != done:
            shutil.rmtree(other)


def checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(out.glob("checkpoint-???????"))


def load_checkpoint(out: Path, model: nn.Module, average: Ema, optims: list[torch.optim.Optimizer],
                    device: torch.device) -> tuple[int, float]:  # fmt: skip
    """Restore all that `save_checkpoint` wrote; returns the next step and the seconds that it took to get there, 0
    and 0 where there is no checkpoint. SoraError for one of another network."""
    found = checkpoints(out)
    if not found:
        return 0, 0.0
    tensors, metadata = weights.load_part(found[-1], "state")
    now, then = model.state_dict(), _under(tensors, "model.")
    if {k: v.shape for k, v in now.items()} != {k: v.shape for k, v in then.items()}:
        raise SoraError(f"{out} was begun with another network (--preset, --align, ...); go on with the options that "
                        "it was begun with, or begin anew with --fresh or another --out")  # fmt: skip
    model.load_state_dict({k: distributed.distribute_like(v, now[k]) for k, v in then.items()}, strict=True)
    for k, v in _under(tensors, "average.").items():
        average.state[k] = distributed.distribute_like(v.to(device), average.state[k])
    for i, optim in enumerate(optims):
        held = [p for group in optim.param_groups for p in group["params"]]
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, f"optim.{i}.").items():
            j, name = key.split(".", 1)
            states.setdefault(int(j), {})[name] = distributed.distribute_like(value, held[int(j)])
        optim.load_state_dict(optim.state_dict() | {"state": states})
    return int(metadata["step"]), float(metadata.get("seconds", 0))


def batches_of(options: TrainOptions) -> int:
    """Batches a step: as told, as they were when the run began, or one for each process."""
    found = checkpoints(options.folder) if options.resume else []
    if options.accumulate or not found:
        return options.accumulate or distributed.world_size()
    first = weights.find_part(found[-1], "state")[0]
    return int(weights.read_header(first).metadata.get("batches", 1))


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


# -- The loop ---------------------------------------------------------------------------------------------


def fit(model: nn.Module, loss: Callable[[Any], Losses], config: TrainerConfig, options: TrainOptions,
        sample: Callable[[nn.Module, Path], None] | None = None,
        data: Callable[[int], Any] = int,
        reached: Callable[[int, float], None] | None = None) -> dict[str, Tensor]:  # fmt: skip
    """Train until `config.steps` or `options.minutes`; returns the averaged weights, of a sharded model to the leader
    alone.

    `data(number)` makes a batch, and may do so ahead of time in a thread; by itself it is the number. `loss(batch)`
    returns named losses, of which "loss" is differentiated; those named in `log.COUNTED` are how much there was of
    something. `reached(batch, share)` is told which share of the run is over when the first batch comes that nobody has
    made yet. `sample(model, path)` draws a sheet with the averaged weights. Writes checkpoints, log.jsonl, curves.png,
    samples/ and tensorboard/ under `options.folder`."""
    device = next(model.parameters()).device
    options.folder.mkdir(parents=True, exist_ok=True)
    batches = batches_of(options)
    if distributed.is_main():
        run_folder.begin(options, config.batch, batches)
    shown = copy.deepcopy(model).to("meta") if sample and distributed.is_main() else None
    shards = distributed.FsdpModel(model, device) if options.sharded and distributed.world_size() > 1 else None
    average, optims = Ema(model, config.average), optimizers(model, config)
    start, before = load_checkpoint(options.folder, model, average, optims, device) if options.resume else (0, 0.0)
    log, watch = Log(options, config, start, batches, device), Monitor()
    clock = Clock(before, options.minutes, device)
    with Prefetcher(data, ahead(options, device), distributed.world_size(), config.steps * batches) as feed, log:
        gradients = distributed.GradAccumulator(model, loss, batches, feed, shards)
        for step in range(start, config.steps):
            spent = clock.spent()
            if start and step == start and spent >= 1:
                break  # it had ended
            if reached:
                reached((step + ahead(options, device) * (step > start)) * batches, max(step / config.steps, spent))
            at = time.perf_counter()
            losses, waited = gradients(step)
            losses |= _step(model, step, losses["loss"], config, config.rate_at(step, spent), optims, options.folder)
            average.update(model, step)
            took = time.perf_counter() - at
            log.add(step, losses, took, waited)
            for line in watch(losses["loss"], took, waited):
                log.warn(line)
            done, late = step + 1, spent >= 1
            last = done == config.steps or late
            if done % config.save_every == 0 or last:
                save_checkpoint(options.folder, done, model, average, optims, batches, clock.seconds)
            if sample and (done % config.sample_every == 0 or last):
                _sample(shown, distributed.gather_full(average.state), device, sample, log, done)
            if late:
                break
        if not sample and distributed.is_main():
            log.plot()
    averaged = distributed.gather_full(average.state)
    distributed.barrier()
    return averaged


class Clock:
    """How long a run has been learning, also before it was stopped."""

    def __init__(self, before: float, minutes: float | None, device: torch.device) -> None:
        self.before, self.minutes, self.device, self.began = before, minutes, device, time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def spent(self) -> float:
        """The share of the minutes that there are; 0 where there is no end to them."""
        return distributed.broadcast(self.seconds / (self.minutes * 60), self.device) if self.minutes else 0.0


def ahead(options: TrainOptions, device: torch.device) -> int:
    """Batches made ahead of time: as told, or a few where the processor has nothing else to do."""
    return options.prefetch if options.prefetch is not None else 2 * (device.type == "cuda")


def _step(model: nn.Module, step: int, loss: float, config: TrainerConfig, rate: float,
          optims: list[torch.optim.Optimizer], out: Path) -> dict[str, float]:  # fmt: skip
    """Learn from the gradients that there are; Failed, with nothing learned, where they make no sense."""
    norm = distributed.number(nn.utils.clip_grad_norm_(model.parameters(), config.clip))
    refuse_nonsense(step, loss, norm, next(reversed(checkpoints(out)), None))
    for optim in optims:
        for group in optim.param_groups:
            group["lr"] = rate
        optim.step()
        optim.zero_grad(set_to_none=True)
    return {"norm": norm, "lr": rate}


def _sample(shown: nn.Module | None, averaged: dict[str, Tensor], device: torch.device,
            sample: Callable[[nn.Module, Path], None], log: Log, step: int) -> None:  # fmt: skip
    """Have the leader draw a sheet with the averaged weights, in a model of its own."""
    if shown is None:
        return
    path = log.path.parent / "samples" / f"{step:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    shown.to_empty(device=device)
    shown.load_state_dict(averaged)
    shown.eval()
    with torch.no_grad():  # inference mode would leave its tensors in the caches of layouts
        sample(shown, path)
    shown.to("meta")
    log.sheet(path, step)
