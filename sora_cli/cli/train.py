"""`sora-cli train clip | vae | dit | lora | captioner | evaluator | export`: the recipes behind the weights."""

import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from sora_cli import registry
from sora_cli.cli import models
from sora_cli.cli.options import DebugOption, flattened
from sora_cli.dataset.summary import summary
from sora_cli.errors import SoraError
from sora_cli.registry import Entry
from sora_cli.train.options import (
    WORLD,
    CaptionerOptions,
    ClipOptions,
    DataOptions,
    DitOptions,
    EvaluatorOptions,
    ExportOptions,
    LoraOptions,
    TrainOptions,
    VaeOptions,
)
from sora_cli.train.trainer import run_folder

SHIPPED = "pocket"
AdaptedOption = Annotated[
    str,
    typer.Option(metavar="NAME", help="Model to adapt: a name from `weights list`, a folder, or hf:OWNER/NAME."),
]

train = typer.Typer(no_args_is_help=True, help="Train a network; an interrupted run is continued.")


@train.command()
@flattened
def clip(options: ClipOptions, debug: DebugOption = False) -> None:
    """Train the text tower, by contrast with video clips."""
    learn(options)


@train.command()
@flattened
def vae(options: VaeOptions, debug: DebugOption = False) -> None:
    """Train the autoencoder."""
    options = replace(options, init=shipped(options.init))
    if options.decoder_only and not options.init:
        raise SoraError("--decoder-only keeps an encoder; give its weights with --init vae.safetensors")
    if options.details and not options.init:
        raise SoraError("--details adds to latents that do not change; give their autoencoder with --init FOLDER")
    learn(options)


@train.command()
@flattened
def dit(options: DitOptions, debug: DebugOption = False) -> None:
    """Train the video transformer."""
    options = replace(options, init=shipped(options.init))
    if options.distil and not options.init:
        raise SoraError("--distil starts from trained weights; give them with --init FOLDER")
    if options.distil and options.drop_tokens:
        raise SoraError("--distil learns whole videos, and --drop-tokens leaves parts of them out; use one of them")
    check_align(options)
    learn(options)


@train.command()
@flattened
def lora(options: LoraOptions, model: AdaptedOption = SHIPPED, debug: DebugOption = False) -> None:
    """Train a LoRA on a few clips; `generate --lora` takes the printed file."""
    if options.data != WORLD and not Path(options.data).is_dir():
        raise SoraError(f"there is no folder {options.data}; --data is {WORLD}, a dataset, or a folder of latents")
    entry = registry.entry(model)
    check_adapted(entry)
    if options.data == WORLD and entry.kind != "sora":
        raise SoraError(f"the rendered world is for our own models; {model} learns from --data FOLDER, with "
                        f"latents of clips: sora-cli encode CLIP --model {model}")  # fmt: skip
    learn(replace(options, out=options.out or options.folder.with_name(f"lora-{Path(model).name}")), entry)


@train.command()
@flattened
def captioner(options: CaptionerOptions, debug: DebugOption = False) -> None:
    """Train the captioner of `sora-cli caption` on the rendered world."""
    learn(options)


@train.command()
@flattened
def evaluator(options: EvaluatorOptions, debug: DebugOption = False) -> None:
    """Train the judge of `sora-cli evaluate` on the rendered world."""
    learn(options)


@train.command()
@flattened
def export(options: ExportOptions, debug: DebugOption = False) -> None:
    """Export trained networks as a model folder for `generate --model ./OUT`."""
    options = replace(options, init=shipped(options.init))
    check_weights(options.init, options.text, options.vae)
    if not options.init.is_dir():
        raise SoraError(f"--init {options.init} is a file; give the folder of the transformer's run")
    if not any(options.init.glob("dit*.safetensors")):
        raise SoraError(f"--init {options.init} has no transformer yet; `train dit` writes it when it ends")
    from sora_cli.train.export import export

    typer.echo(export(options))


def shipped(init: Path | None) -> Any:
    """The weights to start from; `pocket` means the shipped ones unless a folder has that name."""
    return registry.PACKAGE / SHIPPED if init == Path(SHIPPED) and not init.exists() else init


def learn(options: TrainOptions, *needed: Entry) -> None:
    """Check the options and the `needed` models without torch, run the training in its folder, and print the result's
    path."""
    check(options)
    for entry in needed:
        models.check_model(entry)
    with run_folder.held(options):
        made: Path = import_module(f"sora_cli.train.recipes.{options.stage}").train(options, *needed)

        from sora_cli.train.trainer import distributed

        if distributed.is_main():
            typer.echo(made)
        distributed.shutdown()


def check(options: TrainOptions) -> None:
    """Refuse bad options before torch is imported."""
    if isinstance(options, DataOptions) and options.data != WORLD:
        if not Path(options.data).is_dir():
            raise SoraError(f"unknown --data {options.data!r}; use world, or a folder that `sora-cli data build` made")
        summary(Path(options.data))
    if options.minutes is not None and not 0 < options.minutes < math.inf:
        raise SoraError(f"--minutes is {options.minutes:g}; it must be above 0 and finite")
    if options.folder.exists() and not options.folder.is_dir():
        raise SoraError(f"--out {options.folder} is a file; it must be a folder")
    check_weights(*options.needs)


def check_weights(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.exists():
            raise SoraError(f"there are no weights {path}")


def check_adapted(entry: Entry) -> None:
    """Refuse a model that no LoRA is trained on here, before it is fetched."""
    if entry.usage.distilled:
        raise SoraError(f"{entry.name} is distilled to a few steps, which training would undo; train on the model that "
                        "it was distilled from, whose LoRAs it takes")  # fmt: skip
    if entry.usage.boundary or entry.usage.conditioned:
        raise SoraError(f"{entry.name} is made of two transformers, which are not trained here; train on wan2.1-14b, "
                        "whose LoRAs fit both")  # fmt: skip


def check_align(options: DitOptions) -> None:
    """Refuse an --align whose features this data does not have."""
    align, world = options.aim, options.data == WORLD
    if align not in ("off", "geometry", "clip") and ":" not in align:
        raise SoraError(f"unknown --align {align!r}; use geometry, clip, off, or MODEL:WEIGHTS of open_clip")
    if options.distil and align != "off":
        raise SoraError("--distil learns only from the transformer it starts from; leave out --align")
    if align == "geometry" and not world:
        raise SoraError("--align geometry needs the rendered world; for a dataset, use --align clip or off")
    if align not in ("off", "geometry") and world:
        raise SoraError(f"--align {align} needs a dataset; for the rendered world, use --align geometry or off")
    if align == "clip" and not (options.tower and options.tower.is_file()):
        raise SoraError("--align clip needs the video tower that `train clip --data DATASET` writes; "
                        "give its run with --text RUN")  # fmt: skip
