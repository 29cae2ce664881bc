"""`sora-cli reverse ANCHOR`: the video that leads up to a given last picture or clip."""

from dataclasses import replace
from itertools import chain
from typing import Annotated

import typer

from sora_cli import geometry
from sora_cli.cli import options
from sora_cli.cli.connect import Connector, Passing
from sora_cli.cli.making import Making, Target
from sora_cli.cli.reading import Asked, beside, check_source, shot_like
from sora_cli.cli.screen import Screen
from sora_cli.shot import Shot


def reverse(
    anchor: Annotated[str, typer.Argument(help="How it ends: a picture, a video, or - for a stream.")],
    prompt: options.PromptArgument = "",
    seconds: Annotated[float, typer.Option(help="Seconds that lead up to it.")] = 5.0,
    output: options.OutputOption = None,
    res: options.ResOption = None,
    fps: options.FpsOption = None,
    input_res: options.InputResOption = None,
    input_fps: options.InputFpsOption = None,
    seed: options.SeedOption = 0,
    steps: options.StepsOption = 8,
    guidance: options.GuidanceOption = 3.0,
    negative: options.NegativeOption = "",
    model: options.ModelOption = "pocket",
    device: options.DeviceOption = options.Device.auto,
    dtype: options.DtypeOption = options.Dtype.auto,
    plan: options.PlanOption = "autoregressive",
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
    settings = Shot(prompt, negative, seed=seed, steps=steps, guidance=guidance, model=model, plan=plan)
    check_source(asked, target, model)
    with Screen(quiet, preview) as screen, asked.open(screen) as source:
        passing = Passing(source)
        shot = shot_like(source, settings)
        still = len(passing.head) == 1
        shot = replace(shot, frames=max(1, geometry.frames_for(seconds, shot.fps) - still))
        target.check_format(source.format)

        from sora_cli.engine import Engine

        making = Making(target, screen, shot.fps)
        connector = Connector(Engine(model, str(device), str(dtype)), source.format, making)
        raw = chain(connector.connect(shot, head=passing.head), passing.frames())
        count = making.write(raw, source.format, {"sora": shot.to_json()})
        told = {"verb": "reverse", "input": anchor, "frames": count, "given": [shot.frames, count]}
        making.finish(told, [range(shot.frames, count)])
