"""`sora-cli extend VIDEO`: what comes after, or what came before."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import typer

from sora_cli import geometry
from sora_cli.cli import expanding, models, options, seeds
from sora_cli.cli.connect import Connector, Passing
from sora_cli.cli.making import Making, Target, keep_latents
from sora_cli.cli.reading import Asked, Whole, beside, check_source, shot_like
from sora_cli.cli.screen import Screen
from sora_cli.shot import Shot

DEFAULT_SECONDS = 5.0


def extend(
    video: Annotated[str, typer.Argument(help="A video, numbered images (%05d.png), or - for a stream.")],
    prompt: options.PromptArgument = "",
    after: Annotated[float | None, typer.Option(help="Seconds to add at the end (5 unless told).")] = None,
    before: Annotated[float | None, typer.Option(help="Seconds to add at the start.")] = None,
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
    """Add what comes after a video, or what came before it; the video itself stays as it is."""
    asked = Asked(video, res, fps, input_res, input_fps)
    target = Target(output or beside(video, "extended"), force, resume, metadata, sheet, as_json)
    how = expanding.asked(expand, expand_model, model)
    settings = models.asked(model, prompt, seeds.number(seed), steps, guidance, negative, plan, lora)
    seconds = {"before": before, "after": DEFAULT_SECONDS if before is None and after is None else after}
    check_source(asked, target, model, quiet)
    with Screen(quiet, preview) as screen, asked.open(screen) as source:
        seeds.told(seed, settings.seed, screen)
        shot = shot_like(source, settings, anew=expand != "auto")
        sides = " and ".join(side for side, length in seconds.items() if length is not None)
        shot = expanding.expanded(shot, how, screen, [f"{expanding.named(video)}, {sides} which the new part is"])
        shots = {side: replace(shot, frames=geometry.frames_for(length, shot.fps))
                 for side, length in seconds.items() if length is not None}  # fmt: skip
        target.check_format(source.format)

        from sora_cli.engine import Engine

        making = Making(target, screen, shot.fps)
        engine = Engine(model, str(device), str(dtype), str(memory), screen.read, shot.loras)
        connector = Connector(engine, source.format, making)
        passing = Passing(source, model)
        own = None if asked.changed else Whole.beside(video, shot)
        raw = frames(connector, passing, shots, own)
        count = making.write(raw, source.format, {"sora": list(shots.values())[-1].to_json()})
        if own and own.header.frames == passing.count and set(shots) == {"after"}:
            header = replace(own.header, frames=count, shot="", video="")
            keep_latents(target, header, own.followed_by(making.latents))
        start = shots["before"].frames if "before" in shots else 0
        told = {"verb": "extend", "input": video, "frames": count, "given": [start, start + passing.count]}
        making.finish(told, [range(start, start + passing.count)])


def frames(connector: Connector, passing: Passing, shots: dict[str, Shot], own: Whole | None) -> Iterator[bytes]:
    """The output's raw frames: what came before, the given ones as they are, what comes after."""
    if "before" in shots:
        yield from connector.connect(shots["before"], head=passing.head, name="before")
    yield from passing.frames()
    if "after" in shots:
        kept = own.end() if own and own.header.frames == passing.count else None
        yield from connector.connect(shots["after"], list(passing.tail), name="after", kept=kept)
