"""What each `sora-cli train` command may be asked for: its options, declared once, as frozen records."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

WORLD = "world"

Choice = Annotated[Literal["nano", "mini", "base"], typer.Option(help="Size of the network.")]
Source = Annotated[str, typer.Option(help="Training data: world, or a dataset of `data build`.")]
Init = Annotated[Path | None, typer.Option(help="Weights to start from: pocket, a run, an exported folder, or a file.")]
Text = Annotated[Path | None, typer.Option(help="Text tower; by default pocket's.")]
Autoencoder = Annotated[Path | None, typer.Option(help="Autoencoder; by default pocket's.")]


@dataclass(frozen=True)
class TrainOptions:
    """Options of every training; None means that the preset decides."""

    stage: ClassVar[str]
    panel: ClassVar[str] = "Every training"
    shard = False  # among processes; an option of models that are too large for one

    steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many steps in total.")] = None
    minutes: Annotated[float | None, typer.Option(help="Stop after this much time in total.")] = None
    batch: Annotated[int | None, typer.Option(min=1, help="Samples per step.")] = None
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Batches per step, shared among torchrun's processes.")
    ] = None
    prefetch: Annotated[
        int | None, typer.Option(min=0, max=64, help="Batches to prepare ahead; by default 2 on a GPU, 0 on a CPU.")
    ] = None
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads to compute on.", show_default="all processors")
    ] = None
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Random seed; the same seed gives the same result.")
    ] = 0
    out: Annotated[Path | None, typer.Option(help="Run folder; by default runs/STAGE-PRESET.")] = None
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

    def record(self) -> str:
        """The options as JSON for a checkpoint's header, without the folders of whoever trained it."""
        said = {"stage": self.stage, **asdict(self)}
        return json.dumps({key: Path(value).name if isinstance(value, Path) or key == "data" else str(value)
                           for key, value in said.items()})  # fmt: skip


@dataclass(frozen=True)
class SizedOptions(TrainOptions):
    """Options of networks that come in several sizes."""

    preset: Choice = "nano"

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.preset}"


@dataclass(frozen=True)
class DataOptions(SizedOptions):
    """Options of networks that learn from the world or from footage."""

    data: Source = WORLD


@dataclass(frozen=True)
class ClipOptions(DataOptions):
    """Options of `train clip`."""

    stage = "clip"


@dataclass(frozen=True)
class VaeOptions(DataOptions):
    """Options of `train vae`."""

    stage = "vae"
    init: Init = None
    decoder_only: Annotated[
        bool, typer.Option("--decoder-only", help="Keep the encoder of --init, and so its latents.")
    ] = False
    details: Annotated[
        bool, typer.Option("--details", help="Keep the latents of --init, and learn details beside them.")
    ] = False
    zoom: Annotated[int, typer.Option(min=1, max=2, help="Upscaling of the decoder, per side.")] = 1


@dataclass(frozen=True)
class DitOptions(DataOptions):
    """Options of `train dit`."""

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
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Recompute activations to save memory.")
    ] = False

    @property
    def name(self) -> str:
        return f"{super().name}{'-distilled' * self.distil}"

    @property
    def compile(self) -> bool:
        """Whether blocks are compiled: a minute for each shape of pack, then twice as fast."""
        return bool(shutil.which("g++")) if self.compiled is None else self.compiled

    @property
    def aim(self) -> str:
        """What a middle block is aligned with: by default the geometry of the world, and nothing for other data."""
        return self.align or ("geometry" if self.data == WORLD and not self.distil else "off")

    @property
    def tower(self) -> Path | None:
        """Where the video tower lies that was trained together with `text`, if it is there."""
        return self.text and (self.text if self.text.is_dir() else self.text.parent) / "video.safetensors"


@dataclass(frozen=True)
class LoraOptions(TrainOptions):
    """Options of `train lora`."""

    stage = "lora"
    data: Annotated[
        str, typer.Option(help="Training data: world, a dataset, or a folder of latents with captions beside them.")
    ] = WORLD
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA.")] = 16


@dataclass(frozen=True)
class CaptionerOptions(SizedOptions):
    """Options of `train captioner`, which learns from the world alone."""

    stage = "captioner"


@dataclass(frozen=True)
class EvaluatorOptions(SizedOptions):
    """Options of `train evaluator`, which learns from the world alone."""

    stage = "evaluator"


@dataclass(frozen=True)
class ExportOptions:
    """Options of `train export`."""

    init: Annotated[Path, typer.Option(help="Transformer: a run of `train dit`.")]
    text: Text = None
    vae: Autoencoder = None
    out: Annotated[Path, typer.Option(help="Folder of the model.")] = Path("model")
