"""Options that several commands share, so that a word means the same thing everywhere.

Those that belong together are the fields of a frozen dataclass; a command takes them as one parameter, which
`flattened` spreads over its command line.
"""

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import typer

from sora_cli.errors import SoraError
from sora_cli.media import SUFFIXES
from sora_cli.shot import PLANS

SUITED = "as suits the model"
FORMATS = ", ".join(suffix[1:] for suffix in SUFFIXES[:-1])  # the last is that of images


def flattened(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose dataclass parameters become one option per field."""
    hints = get_type_hints(command, include_extras=True)
    bundles: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        parameters += options_of(bundles[name]) if name in bundles else [parameter.replace(annotation=hints[name])]

    @wraps(command)
    def flat(**given: Any) -> Any:
        for name, kind in bundles.items():
            given[name] = bundled(kind, given)
        return command(**given)

    named = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    flat.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in named}
    return flat


def bundled(kind: Any, given: dict[str, Any]) -> Any:
    """Build a dataclass from command-line options, and remove these from `given`."""
    hints, own = get_type_hints(kind), inspect.signature(kind).parameters
    return kind(**{name: bundled(hints[name], given) if is_dataclass(hints[name]) else given.pop(name)
                   for name in own})  # fmt: skip


def options_of(bundle: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters, its own before those that it inherits, under its `panel` in the help;
    of a field that is a dataclass, its fields."""
    hints, own = get_type_hints(bundle, include_extras=True), inspect.signature(bundle).parameters
    panels: dict[str, str | None] = {}
    for kind in bundle.__mro__:
        for name in vars(kind).get("__annotations__", ()):
            panels.setdefault(name, vars(kind).get("panel"))
    found: list[inspect.Parameter] = []
    for name in filter(own.__contains__, panels):
        if is_dataclass(hints[name]):
            found += options_of(hints[name])
        else:
            found.append(own[name].replace(annotation=under(hints[name], panels[name])))
    return found


def under(hint: Any, panel: str | None) -> Any:
    """The option, listed under the heading `panel` in the help."""
    options = [copy(option) for option in hint.__metadata__]
    for option in options:
        option.rich_help_panel = panel
    return Annotated[hint.__origin__, *options]


def named(parameter: typer.CallbackParam, name: str | None) -> str | None:
    """The name that is given, if any; SoraError for an empty one, which scripts make of unset variables."""
    if name == "":
        word = str(parameter.name).upper() if parameter.required else parameter.opts[-1]
        raise SoraError(f"{word} is empty; give a name{'' if parameter.required else ', or leave it out'}")
    return name


# ---- one by one -------------------------------------------------------------------------------------------

ModelOption = Annotated[
    str, typer.Option(metavar="NAME", help="A name from `sora-cli weights list`, a file, a folder, or hf:OWNER/NAME.")
]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Random seed; the same seed gives the same result.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no notes.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")]
PreviewOption = Annotated[
    bool,
    typer.Option("--preview", help="Preview the video while it is made, at every step: in the terminal, and as "
                 "OUTPUT.preview.webp, which is removed when the video is complete."),
]  # fmt: skip
DeviceOption = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Device to compute on.")]
DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Number format of the networks.")
]
VideoArgument = Annotated[
    str, typer.Argument(callback=named, help="A video, numbered images (%05d.png), or - for standard input.")
]
PromptArgument = Annotated[str, typer.Argument(help="What to show; by default the prompt stored in the input.")]
OutputOption = Annotated[
    str | None,
    typer.Option("--output", "-o", callback=named, help="Output file; its extension is the format: "
                 f"{FORMATS}, or %05d.png for numbered images. - writes y4m to stdout."),
]  # fmt: skip
ResOption = Annotated[str | None, typer.Option(metavar="WxH", help="Size in pixels; by default that of the input.")]
FpsOption = Annotated[float | None, typer.Option(help="Frames per second; by default those of the input.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the time and memory it would take, and stop.")
]
LosslessOption = Annotated[bool, typer.Option("--lossless", help="Write WebP without loss. PNG and APNG always are.")]
PlanOption = Annotated[
    str | None, typer.Option(help=f"Order in which frames are generated: {', '.join(PLANS)}.", show_default=SUITED)
]


# ---- what belongs together --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """How a video is read: resized, at another rate, or as raw frames, which need size and rate."""

    panel: ClassVar[str] = "Input"

    res: ResOption = None
    fps: FpsOption = None
    input_res: Annotated[
        str | None, typer.Option(metavar="WxH", help="Read the input as raw rgb24 frames of this size.")
    ] = None
    input_fps: Annotated[float | None, typer.Option(help="Frame rate of raw input or numbered images.")] = None


@dataclass(frozen=True)
class Compute:
    """Where networks run."""

    panel: ClassVar[str] = "Compute"

    device: DeviceOption = "auto"
    dtype: DtypeOption = "auto"
    memory: Annotated[
        Literal["auto", "low", "high"],
        typer.Option(help="Memory for a Hub model: what is free, as little as possible, or no limit."),
    ] = "auto"

    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Threads to compute on.", show_default="all free processors"),
    ] = None

    @property
    def words(self) -> tuple[str, str, str]:
        return self.device, self.dtype, self.memory

    @property
    def decoder(self) -> str:
        return "full"

    @property
    def asked(self) -> dict[str, str]:
        """What of it determines a video: the number format, if one is named, and a draft's decoder."""
        return ({} if self.dtype == "auto" else {"dtype": self.dtype}) | self.drafted

    @property
    def drafted(self) -> dict[str, str]:
        """The entry for a draft's decoder in the record; empty for the model's own decoder."""
        return {} if self.decoder == "full" else {"decoder": self.decoder}


@dataclass(frozen=True)
class Decoding(Compute):
    """The same, for commands that decode latents."""

    panel: ClassVar[str] = Compute.panel

    decoder: Annotated[
        Literal["full", "tiny"],
        typer.Option(help="The model's own decoder, or for drafts a tiny one: many times faster, a little less fine."),
    ] = "full"


@dataclass(frozen=True)
class Sampling:
    """How a video is sampled."""

    panel: ClassVar[str] = "Sampling"

    seed: Annotated[
        str,
        typer.Option(
            metavar="N|random", help="Random seed; the same seed gives the same video. random, or -1, draws one."
        ),
    ] = "0"
    steps: Annotated[
        int | None, typer.Option(help="Sampling steps; more steps are slower and finer.", show_default=SUITED)
    ] = None
    guidance: Annotated[
        str | None,
        typer.Option(metavar="G[,LOW]", help="How closely to follow the prompt; G,LOW sets two transformers apart.",
                     show_default=SUITED),
    ] = None
    negative: Annotated[str | None, typer.Option(metavar="TEXT", help="What not to show.", show_default=SUITED)] = None
    model: ModelOption = "pocket"
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="[high:|low:]FILE[:STRENGTH]", help="Apply a LoRA; high: or low: selects one of two "
                     "transformers. Repeat the option to apply several."),
    ] = None
    expand: Annotated[
        str,
        typer.Option(metavar="auto|off|grammar|URL", help="How a prompt becomes the caption that the model reads: "
                     "as the model was trained (auto), unchanged (off), by pocket's grammar, or by an LLM at an "
                     "OpenAI-compatible URL."),
    ] = "auto"  # fmt: skip
    expand_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="LLM to use at the URL of --expand; URL#NAME does the same.")
    ] = None


@dataclass(frozen=True)
class Keeping:
    """How an output is written, and what is kept beside it."""

    panel: ClassVar[str] = "Output"

    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False
    metadata: Annotated[
        bool,
        typer.Option(
            "--metadata/--no-metadata", help="Store the settings in the file, and a record and latents beside it."
        ),
    ] = True
    audio: Annotated[bool, typer.Option("--audio/--no-audio", help="Keep the sound of given videos.")] = True
    lossless: LosslessOption = False
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Also write a contact sheet.")] = None
    force: ForceOption = False
    as_json: JsonOption = False


@dataclass(frozen=True)
class Showing:
    """What the terminal shows."""

    panel: ClassVar[str] = "Terminal"

    preview: PreviewOption = False
    quiet: QuietOption = False
    debug: DebugOption = False


@dataclass(frozen=True)
class Continuing:
    """The options of a verb that continues a video."""

    reading: Input
    sampling: Sampling
    compute: Decoding
    keeping: Keeping
    showing: Showing
    dry_run: DryRunOption = False
