"""`sora-cli world`: look at what the model learns from."""

from pathlib import Path
from typing import Annotated

import typer

from sora_cli.cli.options import DebugOption, ForceOption, SeedOption
from sora_cli.cli.outputs import check_output
from sora_cli.world.scene import Split


def world(
    sample: Annotated[int, typer.Option(min=1, max=256, help="Number of scenes.")] = 16,
    output: Annotated[Path, typer.Option("--output", "-o", help="Output file, a PNG.")] = Path("sheet.png"),
    seed: SeedOption = 0,
    split: Annotated[Split, typer.Option(help="Scenes that training sees, or never sees.")] = "train",
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw a sheet of scenes from the rendered training world, with captions."""
    check_output(output, (".png",), force)

    from sora_cli.world.sheet import sheet

    sheet(output, sample, seed, split)
    typer.echo(str(output))
