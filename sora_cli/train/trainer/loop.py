"""The one training loop: a stage learns, and gets EMA weights back.

A step draws all its randomness from (seed, step), so that a run killed at any moment and started again takes
exactly the next step it would have taken: the checkpoint holds weights, averages and optimizer state, and
there is no other state. A step may be the mean over several batches, shared among processes (see `distributed`), and
its batches may be made ahead of it (see `prefetch`).
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sora_cli.placement.machine import short_of
from sora_cli.train.trainer import checkpoint, distributed, run_folder
from sora_cli.train.trainer.checkpoint import Ema, Progress, checkpoints
from sora_cli.train.trainer.config import TrainerConfig
from sora_cli.train.trainer.logger import Log
from sora_cli.train.trainer.monitor import Monitor, refuse_nonsense
from sora_cli.train.trainer.prefetch import Prefetcher
from sora_cli.train.trainer.stage import Options, Stage


def optimizers(model: nn.Module, config: TrainerConfig) -> list[torch.optim.Optimizer]:
    """Muon on the matrices that a model names as hidden, AdamW on the rest (Jordan et al. 2024)."""
    hidden: list[nn.Parameter] = getattr(model, "hidden_weights", list)()
    hidden = [p for p in hidden if p.requires_grad]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    found: list[torch.optim.Optimizer] = []
    if hidden:
        muon = distributed.ShardedMuon if isinstance(hidden[0], DTensor) else torch.optim.Muon
        found.append(muon(hidden, lr=config.rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"))
    found.append(torch.optim.AdamW(rest, lr=config.rate, betas=(0.9, 0.95), weight_decay=0.0))
    return found


def train(kind: Callable[[Options, torch.device, torch.dtype], Stage[Options]], options: Options) -> Path:
    """Build a stage, have it learn, and export it in the main process; returns what it made, or the run folder."""
    if options.threads:
        torch.set_num_threads(options.threads)
    stage = kind(options, *distributed.init(options))
    averaged = fit(stage)
    return stage.export(averaged) if distributed.is_main() else options.folder


def fit(stage: Stage[Any]) -> dict[str, Tensor]:
    """Train until the steps or the minutes are over; returns the averaged weights, of a sharded model to the main
    process alone. Writes checkpoints, log.jsonl, curves.png, samples/ and tensorboard/ under `options.folder`."""
    options, config, model, sample = stage.options, stage.config, stage.model, stage.sample
    device = next(model.parameters()).device
    options.folder.mkdir(parents=True, exist_ok=True)
    resumed = checkpoint.progress(options.folder) if options.resume else Progress()
    start = resumed.step  # a step has batches as asked, as when the run began, or one for each process
    batches = options.accumulate or (resumed.batches if start else distributed.world_size())
    asked = getattr(options, "prefetch", None)
    ahead = asked if asked is not None else 2 * (device.type == "cuda")  # whose processor is idle
    if distributed.is_main():
        kept = {"dtype": str(stage.dtype).removeprefix("torch.")} | stage.identity()
        run_folder.begin(options, config.batch, batches, kept)
    shown = copy.deepcopy(model).to("meta") if sample and distributed.is_main() else None
    shards = distributed.FsdpModel(model, device) if options.shard and distributed.world_size() > 1 else None
    average, optims = Ema(model, config.average), optimizers(model, config)
    if start:
        checkpoint.load(options.folder, model, average, optims)
    log, monitor = Log(options, config, start, batches, device), Monitor()
    clock = Clock(resumed.seconds, options.minutes, device)
    with Prefetcher(stage.batch, ahead, distributed.world_size(), config.steps * batches) as feed, log:
        gradients = distributed.GradAccumulator(model, stage.loss, batches, feed, shards)
        for step in range(start, config.steps):
            spent = clock.spent()
            if start and step == start and spent >= 1:
                break  # it had ended
            unasked = (step + ahead * (step > start)) * batches
            stage.reached(unasked, max(step / config.steps, spent))
            at = time.perf_counter()
            losses, waited = gradients(step)
            losses |= _step(model, step, losses["loss"], config, config.lr_at(step, spent), optims, options.folder)
            average.update(model, step)
            took = time.perf_counter() - at
            log.add(step, losses, took, waited)
            for line in monitor(losses["loss"], took, waited):
                log.warn(line)
            done, late = step + 1, spent >= 1
            last = done == config.steps or late
            if sample and (done % config.sample_every == 0 or last):  # first: a run goes on behind its checkpoint
                _sample(shown, distributed.gather_full(average.state), device, sample, log, done)
            if done % config.save_every == 0 or last:
                checkpoint.save(options.folder, Progress(done, batches, clock.seconds), model, average, optims)
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


def _step(model: nn.Module, step: int, loss: float, config: TrainerConfig, lr: float,
          optims: list[torch.optim.Optimizer], out: Path) -> dict[str, float]:  # fmt: skip
    """Take an optimizer step with the gradients; Failed, with nothing learned, if they are not finite."""
    total = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
    refuse_nonsense(step, loss, norm, next(reversed(checkpoints(out)), None))
    for optim in optims:
        for group in optim.param_groups:
            group["lr"] = lr
        optim.step()
        optim.zero_grad(set_to_none=True)
    return {"norm": norm, "lr": lr}


def _sample(shown: nn.Module | None, averaged: dict[str, Tensor], device: torch.device,
            sample: Callable[[nn.Module, Path], None], log: Log, step: int) -> None:  # fmt: skip
    """Have the main process draw a sheet with the averaged weights, in a model of its own."""
    if shown is None:
        return
    path = log.path.parent / "samples" / f"{step:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    shown.to_empty(device=device)
    shown.load_state_dict(averaged)
    shown.eval()
    try:
        with torch.no_grad():  # tensors of inference mode in some cache would end a training
            sample(shown, path)
        log.sheet(path, step)
    except (MemoryError, RuntimeError) as error:
        if not (memory := short_of(error)):
            raise
        log.warn(f"no sheet is drawn at step {step}: {memory} ran out")
    shown.to("meta")
