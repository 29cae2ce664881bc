"""The folder of a training run: one process at a time, and one training in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sora_cli import __version__
from sora_cli.dataset import shards
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.files.owned import Owned, remove, sweep
from sora_cli.train.options import WORLD, TrainOptions

KIND, OTHERWISE = "training run", "--fresh starts over, --out goes elsewhere"
DIGIT = "[0-9]"
CHECKPOINT, PART, ABOUT, PHASES = f"checkpoint-{7 * DIGIT}", "checkpoint.part", "run.json", "phases.json"
SHOWN = (f"samples/{6 * DIGIT}.png", "samples", "log.jsonl", "likeness.jsonl", "curves.png", PHASES)
# What a run writes, folders behind what is in them
WRITTEN = (
    f"{CHECKPOINT}/*.safetensors", f"{CHECKPOINT}/{ABOUT}", CHECKPOINT, f"{PART}/*", PART, f"latents-*/{8 * DIGIT}.*",
    "latents-*", "tensorboard/events.out.tfevents.*", "tensorboard", *SHOWN,
)  # fmt: skip
MADE = {"clip": ("text", "video")}  # the networks of a stage, where it is not one of its own name
WHERE = ("shard", "offset", "bytes")  # of a sample: where it lies, and not what it is
# Options that may change while a run goes on, and those that are compared by what they name
FREE = {
    "steps", "minutes", "batch", "accumulate", "prefetch", "out", "device", "dtype", "resume", "compiled", "shard",
    "checkpoint_activations", "threads", "align", "data", "init", "text", "vae",
}  # fmt: skip


def checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted({path.parent for name in (ABOUT, "*.safetensors") for path in out.glob(f"{CHECKPOINT}/{name}")})


@contextmanager
def held(options: TrainOptions) -> Iterator[None]:
    """The run folder, taken by the process that writes; emptied of an earlier run where that is asked for."""
    if int(os.environ.get("RANK", 0)):
        yield
        return
    with Owned(options.folder) as own:
        for part in options.folder.glob("latents-*/*.part"):  # of a process that was killed
            sweep(part.with_name(part.name.rsplit(".", 2)[0]))
        if not options.resume:
            check_needed(options)
        begun = bool(checkpoints(options.folder))
        if not begun and own.stored_identity() is None:
            check_results(options)
        elif not options.resume:
            own.remove(*WRITTEN, *results(options.stage))
        elif not begun:
            remove(options.folder, PHASES)  # of steps that are taken again
        yield


def results(stage: str) -> Iterator[str]:
    """The names of the weights that a stage leaves."""
    for stem in MADE.get(stage, (stage,)):
        yield from (f"{stem}.safetensors", f"{stem}-{5 * DIGIT}-of-{5 * DIGIT}.safetensors")


def check_results(options: TrainOptions) -> None:
    """SoraError if a run would write over what lies in a folder that is of no run."""
    for pattern in (*results(options.stage), *SHOWN):
        for path in filter(Path.is_file, options.folder.glob(pattern)):
            raise SoraError(f"{path} is not of a {KIND} and would be overwritten; give another --out")


def check_needed(options: TrainOptions) -> None:
    """SoraError if a run that starts over would remove what it starts from."""
    for path in options.needs:
        if options.folder.resolve() in (path.resolve(), *path.resolve().parents):
            raise SoraError(f"--fresh would empty {options.folder}, but {path} is in use; give another --out")


def begin(options: TrainOptions, batch: int, batches: int, more: dict[str, Any]) -> None:
    """Say in the folder which training this is, or SoraError naming the first difference to the one that is there."""
    own = Owned(options.folder, identity(options, batch, batches) | more, KIND, OTHERWISE)
    stored, begun = own.stored_identity(), bool(checkpoints(options.folder))
    if begun and stored is None:
        raise SoraError(f"{options.folder} does not say which {KIND} its checkpoints are of; {OTHERWISE}")
    if not begun and stored not in (None, own.identity) and not any(options.folder.glob("*.safetensors")):
        own.remove(*WRITTEN)  # of another run that was stopped before its first checkpoint
    own.begin()


def identity(options: TrainOptions, batch: int, batches: int) -> dict[str, Any]:
    """All that a run must keep from its first step to its last."""
    asked = asdict(options)
    found = {"stage": options.stage} | {name: value for name, value in asked.items() if name not in FREE}
    found |= {"batch": batch, "accumulate": batches, "data": data_id(asked.get("data", WORLD)), "version": __version__}
    if init := asked.get("init"):  # which weights these are, of one file or of a folder
        found["init"] = weights.fingerprint(sorted(init.glob("*.safetensors")) if init.is_dir() else [init])[:16]
    return found


def data_id(data: str) -> str:
    """What is learned from: the world, the samples of a dataset, or the files of a folder, wherever it lies."""
    folder = Path(data)
    if data == WORLD:
        return data
    if shards.is_dataset(folder):
        header, rows = shards.read_index(folder)
        samples = [{name: value for name, value in row.items() if name not in WHERE} for row in rows]
        return shards.hash_of([header["vae"], header["text"], samples])[:16]
    return weights.fingerprint(sorted(filter(Path.is_file, folder.iterdir())))[:16]
