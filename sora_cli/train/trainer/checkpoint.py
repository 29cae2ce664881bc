"""The state of a run on disk: weights, averages and optimizer, in shards of safetensors.

Written and read through `torch.distributed.checkpoint`: every process writes what it holds and reads what it needs, so
that no process has all of a model that is spread over many, and a run goes on with more or fewer of them. Pickles are
neither written nor read.
"""

import json
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from sora_cli.dataset.shards import checksum, damage, damage_inside
from sora_cli.errors import SoraError
from sora_cli.files import owned, weights
from sora_cli.train.trainer import distributed
from sora_cli.train.trainer.run_folder import ABOUT, PART, checkpoints

warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is one process


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps taken, batches a step, and the seconds that it took."""

    step: int = 0
    batches: int = 1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not (type(self.step) is type(self.batches) is int and type(self.seconds) in (int, float)):
            raise TypeError("not numbers")
        if not (self.step >= 0 and self.batches >= 1 and 0 <= self.seconds < float("inf")):
            raise ValueError("numbers that no run has")


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


def progress(out: Path) -> Progress:
    """How far the run in a folder is; at step 0 if there is no checkpoint. SoraError for one that is damaged, or of an
    older version."""
    found = checkpoints(out)
    if not found:
        return Progress()
    try:
        about = json.loads((found[-1] / ABOUT).read_text())
        reached = Progress(**{field.name: about[field.name] for field in fields(Progress)})
        bad = (damage_inside if distributed.is_main() else damage)(found[-1], about)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise SoraError(f"{found[-1]} is damaged or from an older version; start over with --fresh") from None
    for name, what in bad.items():
        raise SoraError(f"{found[-1] / name} {what}; start over with --fresh")
    return reached


def save(out: Path, reached: Progress, model: nn.Module, average: Ema, optims: Sequence[torch.optim.Optimizer]) -> None:
    """Replace the checkpoint; all processes call this. Failed, keeping the old one, if something is not finite."""
    state = contents(model, average, [optim.state_dict()["state"] for optim in optims])
    broken = not all(distributed.local(v).isfinite().all() for v in state.values())
    if distributed.any_rank(broken, next(model.parameters()).device):
        distributed.fail(f"weights are not finite after step {reached.step}; the checkpoint in {out} "
                         "is from before")  # fmt: skip
    part, done = out / PART, out / f"checkpoint-{reached.step:07d}"
    if distributed.is_main():
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
    distributed.barrier()
    dcp.save(state, storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True))
    if distributed.is_main():
        shards = {path.name: checksum(path) for path in sorted(part.glob("*.safetensors"))}
        weights.write(part / ABOUT, json.dumps(asdict(reached) | {"shards": shards}).encode())
        remove(done)
        part.replace(done)  # all shards of one step appear at once, and only then do older ones go
        remove_all_but(done)
    distributed.barrier()


def remove_all_but(last: Path) -> None:
    for other in checkpoints(last.parent):
        if other != last:
            remove(other)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; other files in its folder stay, in one that no longer counts as a checkpoint."""
    owned.remove(checkpoint.parent, f"{checkpoint.name}/*.safetensors", f"{checkpoint.name}/{ABOUT}", checkpoint.name)
    if checkpoint.exists():
        checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}-{time.time_ns()}"))


def load(out: Path, model: nn.Module, average: Ema, optims: Sequence[torch.optim.Optimizer]) -> None:
    """Restore in place what `save` wrote last. SoraError for a checkpoint of another network."""
    shapes = shapes_of(out)
    due = {f"model.{k}": tuple(v.shape) for k, v in model.state_dict().items()}
    if due != {k: v for k, v in shapes.items() if k.startswith("model.")}:
        raise SoraError(f"{out} was started with a different network (--preset, --align, ...); use the same options, "
                        "or start over with --fresh or another --out")  # fmt: skip
    moments = [empty_state(optim, f"optim.{i}.", shapes) for i, optim in enumerate(optims)]
    fill(contents(model, average, moments), out)
    for optim, states in zip(optims, moments, strict=True):
        optim.load_state_dict(optim.state_dict() | {"state": states})
    if distributed.is_main():
        remove_all_but(checkpoints(out)[-1])  # which a killed process may have left


def averages(out: Path) -> dict[str, Tensor]:
    """The averaged weights of the last checkpoint, unsharded."""
    prefix = "average."
    found = {name: torch.zeros(shape) for name, shape in shapes_of(out).items() if name.startswith(prefix)}
    fill(found, out)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def contents(model: nn.Module, average: Ema, moments: Sequence[Mapping[int, Mapping[str, Any]]]) -> dict[str, Tensor]:
    """All that a checkpoint holds, by its names there; `moments` are the states of optimizers, by their parameters."""
    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    state |= {f"average.{k}": v for k, v in average.state.items()}
    return state | {f"optim.{i}.{j}.{k}": torch.as_tensor(v) for i, states in enumerate(moments)
                    for j, values in states.items() for k, v in values.items()}  # fmt: skip


def fill(state: dict[str, Tensor], out: Path) -> None:
    """Read tensors from the last checkpoint, in place."""
    dcp.load(state, storage_reader=HuggingFaceStorageReader(str(checkpoints(out)[-1])))


def shapes_of(out: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of the last checkpoint and their unsharded shapes. SoraError if it is damaged."""
    folder = checkpoints(out)[-1]
    try:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError, KeyError) as error:
        raise SoraError(f"{folder} is damaged ({error}); start over with --fresh") from None
    return {name: tuple(about.size) for name, about in found.items()}  # type: ignore[union-attr]


def empty_state(optim: torch.optim.Optimizer, prefix: str,
                shapes: dict[str, tuple[int, ...]]) -> dict[int, dict[str, Tensor]]:  # fmt: skip
    """Zeros for an optimizer's state, sharded as its parameters are, where it has their shape."""
    held = [p for group in optim.param_groups for p in group["params"]]
    found: dict[int, dict[str, Any]] = {}
    for key, shape in shapes.items():
        if key.startswith(prefix):
            j, name = key.removeprefix(prefix).split(".", 1)
            like = held[int(j)]
            sharded = isinstance(like, DTensor) and tuple(like.shape) == shape
            room = torch.zeros_like(like) if sharded else torch.zeros(shape, device=like.device if shape else "cpu")
            found.setdefault(int(j), {})[name] = room
    return found
