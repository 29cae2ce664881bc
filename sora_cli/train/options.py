"""What each `sora-cli train` command may be asked for: its options, declared once, as frozen records. Their docstrings
are the commands' help. No torch."""

import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from sora_cli import registry
from sora_cli.dataset.summary import summary
from sora_cli.errors import SoraError
from sora_cli.files.owned import folder

WORLD, SHIPPED = "world", "pocket"


def shipped(init: Path | None) -> Path | None:
    """The weights to start from; `pocket` means the shipped ones unless a folder has that name."""
    return registry.PACKAGE / SHIPPED if init == Path(SHIPPED) and not init.exists() else init


Init = Annotated[
    Path | None,
    typer.Option(callback=shipped, help="Weights to start from: pocket, a run, an exported folder, or a file."),
]
Text = Annotated[Path | None, typer.Option(help="Text tower; by default pocket's.")]
Autoencoder = Annotated[Path | None, typer.Option(help="Autoencoder; by default pocket's.")]


@dataclass(frozen=True)
class TrainOptions:
    """Options of every training; None means that the preset decides."""

    stage: ClassVar[str]
    panel: ClassVar[str] = "Every training"
    shard = False  # among processes; an option of models that are too large for one

    steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many steps in total.")] = None
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes in total.")] = None
    batch: Annotated[int | None, typer.Option(min=1, help="Samples per step.")] = None
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Batches per step, shared among torchrun's processes.")
    ] = None
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads to compute on.", show_default="all processors")
    ] = None
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Random seed; the same seed gives the same result.")
    ] = 0
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", parser=folder, help="Run folder; by default runs/STAGE-PRESET.")
    ] = None
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Device to compute on.")] = "auto"
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="Number format of the networks.")] = (
        "auto"
    )
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Continue the run in OUT, or start over.")] = True

    @property
    def name(self) -> str:
        return self.stage

    @property
    def folder(self) -> Path:
        """The run folder: checkpoints, log, sheets, curves, and the weights in the end."""
        return self.out or Path("runs") / self.name

    @property
    def needs(self) -> tuple[Path, ...]:
        """Weights that it starts from."""
        given = (getattr(self, name, None) for name in ("init", "text", "vae"))
        return tuple(path for path in given if path is not None)

    def check(self) -> None:
        """Refuse bad options before torch is imported."""
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise SoraError(f"--minutes is {self.minutes:g}; it must be above 0 and finite")
        if self.folder.exists() and not self.folder.is_dir():
            raise SoraError(f"--out {self.folder} is a file; it must be a folder")
        check_weights(*self.needs)

    def record(self) -> str:
        """The options as JSON for a checkpoint's header, without the folders of whoever trained it."""
        said = {"stage": self.stage, **asdict(self)}
        return json.dumps({key: Path(value).name if isinstance(value, Path) or key == "data" else str(value)
                           for key, value in said.items()})  # fmt: skip


@dataclass(frozen=True)
class SizedOptions(TrainOptions):
    """Options of networks that come in several sizes."""

    preset: Annotated[Literal["nano", "mini", "base"], typer.Option(help="Size of the network.")] = "nano"

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.preset}"


@dataclass(frozen=True)
class DataOptions(SizedOptions):
    """Options of networks that learn from the world or from footage."""

    data: Annotated[str, typer.Option(help="Training data: world, or a dataset of `data build`.")] = WORLD

    def check(self) -> None:
        if self.data != WORLD:
            if not folder(self.data).is_dir():
                raise SoraError(f"unknown --data {self.data!r}; use world, or a folder that `sora-cli data build` made")
            summary(Path(self.data))
        super().check()


@dataclass(frozen=True)
class ClipOptions(DataOptions):
    """Train the text tower, by contrast with video clips."""

    stage = "clip"


@dataclass(frozen=True)
class VaeOptions(DataOptions):
    """Train the autoencoder."""

    stage = "vae"
    init: Init = None
    decoder_only: Annotated[
        bool, typer.Option("--decoder-only", help="Keep the encoder of --init, and so its latents.")
    ] = False
    details: Annotated[
        bool, typer.Option("--details", help="Keep the latents of --init, and learn details beside them.")
    ] = False
    zoom: Annotated[int, typer.Option(min=1, max=2, help="Upscaling of the decoder, per side.")] = 1

    def check(self) -> None:
        if self.decoder_only and not self.init:
            raise SoraError("--decoder-only keeps an encoder; give its weights with --init vae.safetensors")
        if self.details and not self.init:
            raise SoraError("--details adds to latents that do not change; give their autoencoder with --init FOLDER")
        if self.details and self.decoder_only:
            raise SoraError("--decoder-only keeps the latents, and --details adds to them; use one of them")
        super().check()


@dataclass(frozen=True)
class DitOptions(DataOptions):
    """Train the video transformer."""

    stage = "dit"
    init: Init = None
    text: Text = None
    vae: Autoencoder = None
    coarse: Annotated[
        bool, typer.Option("--coarse", help="Train a smaller network for latents without details, to grow from.")
    ] = False
    distil: Annotated[
        bool, typer.Option("--distil", help="Distil guidance and step size into the weights of --init.")
    ] = False
    align: Annotated[
        str | None,
        typer.Option(help="What a middle block is aligned with: geometry (default for world), off (for other data), "
                     "clip (the video tower beside --text), or MODEL:WEIGHTS of open_clip."),
    ] = None  # fmt: skip
    drop_tokens: Annotated[float, typer.Option(min=0, max=0.9, help="Share of each video's patches to leave out.")] = (
        0.0
    )
    compiled: Annotated[
        bool | None, typer.Option("--compile/--eager", help="Compile blocks; by default where there is a C++ compiler.")
    ] = None
    shard: Annotated[
        bool, typer.Option("--shard", help="Shard weights and optimizer among torchrun's processes (FSDP2).")
    ] = False
    prefetch: Annotated[
        int | None,
        typer.Option(min=0, max=64, help="Batches to prepare ahead.", show_default="2 on a GPU, 0 on a CPU"),
    ] = None
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Recompute activations to save memory.")
    ] = False

    @property
    def name(self) -> str:
        return f"{super().name}{'-distilled' * self.distil}"

    @property
    def compile(self) -> bool:
        """Whether blocks are compiled: a minute for each shape of pack, then twice as fast."""
        return self.compilable and (bool(shutil.which("g++")) if self.compiled is None else self.compiled)

    @property
    def compilable(self) -> bool:
        """Whether there are few shapes of packs, and blocks are whole: each shape is a program, which blocks share."""
        return (self.data == WORLD or self.distil) and not self.shard

    @property
    def aim(self) -> str:
        """What a middle block is aligned with: by default the geometry of the world, and nothing for other data."""
        return self.align or ("geometry" if self.data == WORLD and not self.distil else "off")

    @property
    def tower(self) -> Path | None:
        """Where the video tower lies that was trained together with `text`, if it is there."""
        return self.text and (self.text if self.text.is_dir() else self.text.parent) / "video.safetensors"

    def check(self) -> None:
        if self.distil and not self.init:
            raise SoraError("--distil starts from trained weights; give them with --init FOLDER")
        if self.distil and self.drop_tokens:
            raise SoraError("--distil learns whole videos, and --drop-tokens leaves parts of them out; use one of them")
        if self.compiled and not self.compilable:
            raise SoraError("--compile needs packs of few shapes (the rendered world, or --distil), and no --shard")
        self.check_aim()
        super().check()

    def check_aim(self) -> None:
        """Refuse an --align whose features this data does not have."""
        align, world = self.aim, self.data == WORLD
        if align not in ("off", "geometry", "clip") and ":" not in align:
            raise SoraError(f"unknown --align {align!r}; use geometry, clip, off, or MODEL:WEIGHTS of open_clip")
        if self.distil and align != "off":
            raise SoraError("--distil learns only from the transformer it starts from; leave out --align")
        if align == "geometry" and not world:
            raise SoraError("--align geometry needs the rendered world; for a dataset, use --align clip or off")
        if align not in ("off", "geometry") and world:
            raise SoraError(f"--align {align} needs a dataset; for the rendered world, use --align geometry or off")
        if align == "clip" and not (self.tower and self.tower.is_file()):
            raise SoraError("--align clip needs the video tower that `train clip --data DATASET` writes; "
                            "give its run with --text RUN")  # fmt: skip


@dataclass(frozen=True)
class CaptionerOptions(SizedOptions):
    """Train the captioner of `sora-cli caption` on the rendered world."""

    stage = "captioner"


@dataclass(frozen=True)
class EvaluatorOptions(SizedOptions):
    """Train the judge of `sora-cli evaluate` on the rendered world."""

    stage = "evaluator"


STAGES: tuple[type[TrainOptions], ...] = (ClipOptions, VaeOptions, DitOptions, CaptionerOptions, EvaluatorOptions)


@dataclass(frozen=True)
class LoraOptions(TrainOptions):
    stage = "lora"
    data: Annotated[
        str, typer.Option(help="Training data: world, a dataset, or a folder of latents with captions beside them.")
    ] = WORLD
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA.")] = 16

    def check(self) -> None:
        if self.data != WORLD and not folder(self.data).is_dir():
            raise SoraError(f"there is no folder {self.data}; --data is {WORLD}, a dataset, or a folder of latents")
        super().check()


@dataclass(frozen=True)
class ExportOptions:
    init: Annotated[Path, typer.Option(callback=shipped, help="Transformer: a run of `train dit`.")]
    text: Text = None
    vae: Autoencoder = None
    out: Annotated[Path, typer.Option(metavar="FOLDER", parser=folder, help="Folder of the model.")] = Path("model")

    def check(self) -> None:
        check_weights(self.init, self.text, self.vae)
        if not self.init.is_dir():
            raise SoraError(f"--init {self.init} is a file; give the folder of the transformer's run")
        if not any(self.init.glob("dit*.safetensors")):
            raise SoraError(f"--init {self.init} has no transformer yet; `train dit` writes it when it ends")


def check_weights(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.exists():
            raise SoraError(f"there are no weights {path}")
