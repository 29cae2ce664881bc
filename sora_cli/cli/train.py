"""`sora-cli train`: a command for each of `train.options.STAGES`, and those that need more than their options."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from sora_cli import registry
from sora_cli.cli import models
from sora_cli.cli.options import DebugOption, flattened
from sora_cli.errors import SoraError
from sora_cli.registry import Entry
from sora_cli.train.options import SHIPPED, STAGES, WORLD, ExportOptions, LoraOptions, TrainOptions
from sora_cli.train.trainer import run_folder

AdaptedOption = Annotated[
    str,
    typer.Option(metavar="NAME", help="Model to adapt: a name from `weights list`, a folder, or hf:OWNER/NAME."),
]

train = typer.Typer(help="Train a network; an interrupted run is continued.")


def add(kind: type[TrainOptions]) -> None:
    """The command that trains by these options."""

    def command(options: kind, debug: DebugOption = False) -> None:  # type: ignore[valid-type]
        learn(options)

    command.__doc__ = kind.__doc__
    train.command(kind.stage)(flattened(command))


for kind in STAGES:
    add(kind)


@train.command()
@flattened
def lora(options: LoraOptions, model: AdaptedOption = SHIPPED, debug: DebugOption = False) -> None:
    """Train a LoRA on a few clips; `generate --lora` takes the printed file."""
    entry = registry.entry(model)
    check_adapted(entry)
    if options.data == WORLD and entry.kind != "sora":
        raise SoraError(f"the rendered world is for our own models; {model} learns from --data FOLDER, with "
                        f"latents of clips: sora-cli encode CLIP --model {model}")  # fmt: skip
    learn(replace(options, out=options.out or options.folder.with_name(f"lora-{Path(model).name}")), entry)


@train.command()
@flattened
def export(options: ExportOptions, debug: DebugOption = False) -> None:
    """Export trained networks as a model folder for `generate --model ./OUT`."""
    options.check()
    from sora_cli.train.export import export

    typer.echo(export(options))


def learn(options: TrainOptions, *needed: Entry) -> None:
    """Check the options and the `needed` models without torch, run the training in its folder, and print the result's
    path."""
    options.check()
    for entry in needed:
        models.check_model(entry)
    with run_folder.held(options):
        made: Path = import_module(f"sora_cli.train.recipes.{options.stage}").train(options, *needed)

        from sora_cli.train.trainer import distributed

        if distributed.is_main():
            typer.echo(made)
        distributed.shutdown()


def check_adapted(entry: Entry) -> None:
    """Refuse a model that no LoRA is trained on here, before it is fetched."""
    if entry.usage.distilled:
        raise SoraError(f"{entry.name} is distilled to a few steps, which training would undo; train on the model that "
                        "it was distilled from, whose LoRAs it takes")  # fmt: skip
    if entry.usage.boundary or entry.usage.conditioned:
        raise SoraError(f"{entry.name} is made of two transformers, which are not trained here; train on wan2.1-14b, "
                        "whose LoRAs fit both")  # fmt: skip
