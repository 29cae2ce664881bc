"""Options that several commands share, so that a word means the same thing everywhere."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sora_cli.shot import PLANS

SUITED = "as suits the model"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Dtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Memory(StrEnum):
    auto = "auto"
    low = "low"
    high = "high"


DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Number format of the networks.")]
MemoryOption = Annotated[
    Memory, typer.Option(help="What a Hub model may take: what is free, as little as it can, or all it wants.")
]
ModelOption = Annotated[
    str, typer.Option(metavar="NAME", help="One of `sora-cli weights list`, a folder, or hf:OWNER/NAME.")
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE[:STRENGTH]", help="Merge a LoRA into the model; again for more of them."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
VideoSeedOption = Annotated[
    str, typer.Option(metavar="N|random", help="Same seed, same result; random, or -1, draws one and says which.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

PromptArgument = Annotated[str, typer.Argument(help="What to show; VIDEO's own prompt, if it has one, unless told.")]
OutputOption = Annotated[
    str | None,
    typer.Option("--output", "-o", help="Where to; the ending says what: mp4, mov, mkv, webm, y4m, gif, webp, apng, "
                                        "%05d.png, or - for a y4m stream."),
]  # fmt: skip
ResOption = Annotated[str | None, typer.Option(metavar="WxH", help="Another size than that of the input.")]
FpsOption = Annotated[float | None, typer.Option(help="Another frame rate than that of the input.")]
InputResOption = Annotated[str | None, typer.Option(metavar="WxH", help="The input is raw rgb24 of this size.")]
InputFpsOption = Annotated[float | None, typer.Option(help="The rate of raw input, or of numbered images.")]
StepsOption = Annotated[
    int | None, typer.Option(help="Steps of the sampler; more is slower and finer.", show_default=SUITED)
]
GuidanceOption = Annotated[
    float | None, typer.Option(help="How strictly to follow the prompt.", show_default=SUITED)
]
NegativeOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What not to show.", show_default=SUITED)
]
PlanOption = Annotated[
    str | None, typer.Option(help=f"Order of generation: {', '.join(PLANS)}.", show_default=SUITED)
]
ExpandOption = Annotated[
    str,
    typer.Option(metavar="auto|off|grammar|URL", help="How a prompt becomes the caption that the model reads: by what "
                 "it was trained on, not at all, by pocket's grammar, or by an LLM behind an OpenAI-compatible URL.")
]  # fmt: skip
ExpandModelOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which LLM at the URL of --expand; URL#NAME says the same.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on where an unfinished run stopped.")]
MetadataOption = Annotated[
    bool, typer.Option("--metadata/--no-metadata", help="Keep the shot in the file, and a record and latents beside.")
]
SheetOption = Annotated[Path | None, typer.Option(metavar="PNG", help="Also draw a contact sheet.")]
PreviewOption = Annotated[bool, typer.Option("--preview", help="Show in the terminal how it takes shape.")]
