"""`sora-cli evaluate`: how good a model is, in numbers that need no download."""

from typing import Annotated

import typer
from rich.console import Console

from sora_cli import registry
from sora_cli.cli.options import DebugOption, DeviceOption, JsonOption, SeedOption
from sora_cli.cli.screen import print_result
from sora_cli.errors import SoraError


def evaluate(
    model: Annotated[
        str, typer.Option(metavar="NAME", help="pocket, or a folder that `train export` made on its world.")
    ] = "pocket",
    clips: Annotated[int, typer.Option(min=1, max=100_000, help="Number of clips to make.")] = 64,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure how well a model reconstructs, follows prompts and moves, beside the worst and best possible figures."""
    entry = registry.entry(model)
    if not entry.usage.grammar:
        raise SoraError(f"the judge knows only pocket's world, and {model} makes other videos; use --model pocket")
    registry.verify(entry)

    from sora_cli import evaluate as measuring

    result = measuring.evaluate(entry, clips, seed, device)
    print_result(result, as_json)
    if not as_json:
        Console().print(measuring.table(result))
