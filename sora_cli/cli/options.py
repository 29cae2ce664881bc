"""Options that several commands share, so that a word means the same thing everywhere."""

from enum import StrEnum
from typing import Annotated

import typer


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Dtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Number format of the networks.")]
ModelOption = Annotated[str, typer.Option(metavar="NAME", help="Which weights to use.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
