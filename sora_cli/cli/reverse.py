"""`sora-cli reverse ANCHOR`: the video that leads up to a given last picture or clip."""

from dataclasses import replace
from itertools import chain
from typing import Annotated

import typer

from sora_cli import geometry, registry
from sora_cli.cli import expanding, models, options, seeds
from sora_cli.cli.connect import Connector, Passing
from sora_cli.cli.making import Making, Target
from sora_cli.cli.reading import Asked, beside, check_source, shot_like
from sora_cli.cli.screen import Screen


def reverse(
    anchor: Annotated[str, typer.Argument(help="How it ends: a picture, a video, or - for a stream.")],
    prompt: options.PromptArgument = "",
    seconds: Annotated[float, typer.Option(help="Seconds that lead up to it.")] = 5.0,
    output: options.OutputOption = None,
    res: options.ResOption = None,
    fps: options.FpsOption = None,
    input_res: options.InputResOption = None,
    input_fps: options.InputFpsOption = None,
    seed: options.VideoSeedOption = "0",
    steps: options.StepsOption = None,
    guidance: options.GuidanceOption = None,
    negative: options.NegativeOption = None,
    model: options.ModelOption = "pocket",
    device: options.DeviceOption = options.Device.auto,
    dtype: options.DtypeOption = options.Dtype.auto,
    memory: options.MemoryOption = options.Memory.auto,
    lora: options.LoraOption = None,
    expand: options.ExpandOption = "auto",
    expand_model: options.ExpandModelOption = None,
    plan: options.PlanOption = None,
    resume: options.ResumeOption = False,
    metadata: options.MetadataOption = True,
    sheet: options.SheetOption = None,
    preview: options.PreviewOption = False,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Make the video that ends with ANCHOR: generated from there backwards, and played forwards."""
    asked = Asked(anchor, res, fps, input_res, input_fps)
    target = Target(output or beside(anchor, "reverse"), force, resume, metadata, sheet, as_json)
    how = expanding.asked(expand, expand_model, model)
    plan = plan or backwards(model)
    settings = models.asked(model, prompt, seeds.number(seed), steps, guidance, negative, plan, lora)
    check_source(asked, target, model, quiet)
    with Screen(quiet, preview) as screen, asked.open(screen) as source:
        seeds.told(seed, settings.seed, screen)
        passing = Passing(source, model)
        shot = shot_like(source, settings, anew=expand != "auto")
        still = len(passing.head) == 1
        shot = replace(shot, frames=max(1, geometry.frames_for(seconds, shot.fps) - still))
        target.check_format(source.format)
        shot = expanding.expanded(shot, how, screen, [f"{expanding.named(anchor)}, with which it ends"])

        from sora_cli.engine import Engine

        making = Making(target, screen, shot.fps)
        engine = Engine(model, str(device), str(dtype), str(memory), screen.read, shot.loras)
        connector = Connector(engine, source.format, making)
        raw = chain(connector.connect(shot, head=passing.head), passing.frames())
        count = making.write(raw, source.format, {"sora": shot.to_json()})
        told = {"verb": "reverse", "input": anchor, "frames": count, "given": [shot.frames, count]}
        making.finish(told, [range(shot.frames, count)])


def backwards(model: str) -> str:
    """The plan that goes back from the anchor step by step: key frames first would jump away from it."""
    usual = registry.entry(model).usage.plan
    return "autoregressive" if usual == "hierarchy" else usual
