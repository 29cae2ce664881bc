"""`sora-cli train clip | vae | dit | lora | captioner | evaluator | export`: the recipes behind the weights."""

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sora_cli import registry
from sora_cli.cli import models
from sora_cli.cli.options import DebugOption, Device, DeviceOption, Dtype, DtypeOption, ModelOption, SeedOption
from sora_cli.data.shards import read_index
from sora_cli.errors import SoraError
from sora_cli.train import runs
from sora_cli.train.options import LoraOptions, TrainOptions


class Stage(StrEnum):
    clip = "clip"
    vae = "vae"
    dit = "dit"
    lora = "lora"
    captioner = "captioner"
    evaluator = "evaluator"
    export = "export"


class Preset(StrEnum):
    nano = "nano"
    mini = "mini"
    base = "base"


WORLD, SHIPPED = "world", "pocket"


def train(
    stage: Annotated[Stage, typer.Argument(help="Which network.")],
    preset: Annotated[Preset, typer.Option(help="How large.")] = Preset.nano,
    data: Annotated[str, typer.Option(help="What to learn from: world, or a dataset of `data build`.")] = "world",
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps in all.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after so much time.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples per step.")] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Batches a step, shared by the processes that torchrun starts.")
    ] = None,
    prefetch: Annotated[
        int | None,
        typer.Option(min=0, max=64, help="Batches made ahead by a thread; unless told, 2 on a GPU and 0 on a CPU."),
    ] = None,
    shard: Annotated[
        bool, typer.Option("--shard", help="dit: spread weights and optimizer over torchrun's processes (FSDP2).")
    ] = False,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="dit: compute blocks twice, for a fraction of the memory.")
    ] = False,
    drop_tokens: Annotated[
        float, typer.Option(min=0, max=0.9, help="dit: the share of each video's patches that training leaves out.")
    ] = 0.0,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder (runs/STAGE-PRESET unless told).")] = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on where OUT stopped.")] = True,
    init: Annotated[
        Path | None, typer.Option(help="Weights to start from: pocket, a run, an exported folder, or a file.")
    ] = None,
    decoder_only: Annotated[
        bool, typer.Option("--decoder-only", help="vae: keep the encoder of --init; latents stay what they are.")
    ] = False,
    details: Annotated[
        bool, typer.Option("--details", help="vae: keep the latents of --init, and learn details beside them.")
    ] = False,
    zoom: Annotated[
        int, typer.Option(min=1, max=2, help="vae: pixels painted, a side, for each that is read.")
    ] = 1,
    text: Annotated[Path | None, typer.Option(help="dit: text tower; the shipped one unless told.")] = None,
    coarse: Annotated[
        bool, typer.Option("--coarse", help="dit: a smaller network for latents without details, to grow from.")
    ] = False,
    vae: Annotated[Path | None, typer.Option(help="dit: VAE; the shipped one unless told.")] = None,
    align: Annotated[
        str | None,
        typer.Option(help="dit: what a middle block tells: geometry (unless told, of the world), off (of other data), "
                     "clip (features of the tower beside --text), or those of open_clip's MODEL:WEIGHTS."),
    ] = None,
    distil: Annotated[
        bool, typer.Option("--distil", help="dit: bake guidance and the size of steps into the weights of --init.")
    ] = False,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--eager", help="dit: fuse layers; unless told, where there is a C++ compiler."),
    ] = None,
    model: ModelOption = "pocket",
    rank: Annotated[int, typer.Option(min=1, help="lora: of what is added to each matrix.")] = 16,
    debug: DebugOption = False,
) -> None:
    """Train the text tower, the VAE, the video transformer, the captioner or the evaluator; resumes a stopped run.

    `export` gathers what was trained (--init RUN of the transformer, --vae, --text) in the folder --out, which
    `generate --model ./OUT` runs. `lora` changes --model a little, from clips in --data, and leaves a file for
    `generate --lora`."""
    if init == Path(SHIPPED) and not init.exists():
        init = registry.PACKAGE / SHIPPED
    name = f"{stage}-{Path(model).name if stage is Stage.lora else preset}{'-distilled' * distil}"
    options = TrainOptions(
        str(preset), data, steps, minutes, batch, seed, out or Path("runs") / name,
        str(device), str(dtype), str(stage), fresh=not resume, init=init, decoder_only=decoder_only,
        text=text, vae=vae, distil=distil, compile=bool(shutil.which("g++")) if compiled is None else compiled,
        accumulate=accumulate, prefetch=prefetch, shard=shard, checkpoint_activations=checkpoint_activations,
        drop_tokens=drop_tokens, details=details, zoom=zoom, coarse=coarse, align=align,
    )  # fmt: skip
    if stage is Stage.lora:
        options = LoraOptions(**vars(options), model=model, rank=rank)
        check_clips(data, model)
    check(options)
    if stage is Stage.evaluator and data != WORLD:
        raise SoraError(f"the evaluator trains on the rendered world: --data world, not {data}")
    if stage is not Stage.dit and (shard or checkpoint_activations or drop_tokens or align):
        raise SoraError("--shard, --checkpoint-activations, --drop-tokens and --align are for the transformer: dit")
    if stage is Stage.dit:
        check_align(options)
    if stage in (Stage.clip, Stage.captioner, Stage.evaluator) and init:
        raise SoraError(f"train {stage} begins from nothing; leave --init away (--resume goes on with a run)")
    if stage is Stage.export and not (init and init.is_dir()):
        raise SoraError("export gathers what was trained; say which transformer with --init RUN, a folder")
    if stage is Stage.export:
        from sora_cli.train.export import export

        typer.echo(export(options))
        return
    if stage is Stage.lora:
        models.check_model(model)
    with runs.held(options):
        learn(stage, options)


def learn(stage: Stage, options: TrainOptions) -> None:
    """Run a stage, in the folder that it has."""
    match stage:
        case Stage.clip:
            from sora_cli.train import clip

            clip.train(options)
        case Stage.vae:
            from sora_cli.train import vae as autoencoder

            autoencoder.train(options)
        case Stage.dit:
            from sora_cli.train import dit

            dit.train(options)
        case Stage.lora:
            from sora_cli.train import lora

            assert isinstance(options, LoraOptions)
            typer.echo(lora.train(options))
        case Stage.captioner:
            from sora_cli.train import captioner

            captioner.train(options)
        case Stage.evaluator:
            from sora_cli.train import evaluator

            evaluator.train(options)

    from sora_cli.train import ranks

    ranks.leave()


def check(options: TrainOptions) -> None:
    """Refuse what cannot work before torch is imported."""
    if options.data != WORLD and not isinstance(options, LoraOptions):  # which takes folders of clips, too
        if not Path(options.data).is_dir():
            raise SoraError(f"unknown data {options.data!r}; it is world, or a folder that `sora-cli data build` made")
        read_index(Path(options.data))
    if options.minutes is not None and options.minutes <= 0:
        raise SoraError(f"--minutes is {options.minutes:g}; it must be above 0")
    if options.out.exists() and not options.out.is_dir():
        raise SoraError(f"--out {options.out} is a file; it must be a folder")
    if options.decoder_only and not options.init:
        raise SoraError("--decoder-only keeps an encoder; say which with --init vae.safetensors")
    if options.details and not options.init:
        raise SoraError("--details are learned beside latents that stay as they are; say whose with --init FOLDER")
    if options.distil and not options.init:
        raise SoraError("--distil changes weights that are trained; say which with --init FOLDER")
    if options.distil and options.drop_tokens:
        raise SoraError("--distil learns whole videos, and --drop-tokens leaves parts of them out; use one of them")
    for path in (options.init, options.text, options.vae):
        if path is not None and not path.exists():
            raise SoraError(f"there are no weights {path}")


def check_align(options: TrainOptions) -> None:
    """Refuse what nobody can tell a middle block of this data."""
    align, world = options.aim, options.data == WORLD
    if align not in ("off", "geometry", "clip") and ":" not in align:
        raise SoraError(f"unknown --align {align!r}; it is geometry, clip, off, or MODEL:WEIGHTS of open_clip")
    if options.distil and align != "off":
        raise SoraError("--distil learns from the transformer that it began with; leave --align away")
    if align == "geometry" and not world:
        raise SoraError("--align geometry is what the rendered world knows of itself; of a dataset it is clip or off")
    if align not in ("off", "geometry") and world:
        raise SoraError(f"--align {align} is for datasets; the world knows its geometry: --align geometry, or off")
    if align == "clip" and not (options.tower and options.tower.is_file()):
        raise SoraError("--align clip needs the video tower that `train clip --data DATASET` leaves beside the words; "
                        "say where with --text RUN")  # fmt: skip


def check_clips(data: str, model: str) -> None:
    """Refuse what a LoRA for this model cannot be trained on, before the model is fetched."""
    if data != WORLD and not Path(data).is_dir():
        raise SoraError(f"there is no folder {data}; --data is {WORLD}, a dataset, or a folder of latents")
    if data == WORLD and registry.entry(model).kind != "sora":
        raise SoraError(f"the rendered world is for models of ours; {model} learns from --data FOLDER, with latents of "
                        f"clips: sora-cli encode CLIP --model {model}")  # fmt: skip
