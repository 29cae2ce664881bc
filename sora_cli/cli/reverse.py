"""`sora-cli reverse ANCHOR`: the video that leads up to a given last picture or clip."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from sora_cli import geometry, media
from sora_cli.cli import options
from sora_cli.cli.connect import Connector, PassThrough, Request
from sora_cli.cli.inputs import beside
from sora_cli.cli.jobs import Job, Loader
from sora_cli.cli.options import Continuing, flattened
from sora_cli.cli.output_job import OutputJob
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.shot import Shot


@flattened
def reverse(
    anchor: Annotated[
        str,
        typer.Argument(callback=options.named, help="How the video ends: an image, a video, or - for standard input."),
    ],
    prompt: options.PromptArgument = "",
    seconds: Annotated[float, typer.Option(help="Seconds to make before ANCHOR.")] = 5.0,
    output: options.OutputOption = None,
    plan: options.PlanOption = None,
    *,
    more: Continuing,
) -> list[Job]:
    """Make the video that leads up to an image or clip."""
    request = Request.of("reverse", anchor, more, prompt, plan)
    if plan is None and request.settings.plan == "hierarchy":  # key frames first would jump away from the anchor
        request = replace(request, settings=replace(request.settings, plan="autoregressive"))
    return request.jobs(output or beside(anchor, "reverse"), partial(new_frames, seconds),
                        partial(make, request, seconds), {"seconds": seconds})  # fmt: skip


def new_frames(seconds: float, shot: Shot) -> int:
    return geometry.frames_for(seconds, shot.fps)


def make(request: Request, seconds: float, target: Target, loader: Loader, screen: Screen) -> None:
    """Write the new frames, the anchor, and the files beside them."""
    with request.opened(target, screen) as (source, shot):
        passthrough, rates = PassThrough(source, request.entry), request.video.faster(source)
        if len(passthrough.head) == 1:
            rates, frames = up_to_picture(seconds, shot, rates)
        else:
            frames = new_frames(seconds, shot)
        output = OutputJob(target, screen, shot.fps, retiming=rates)
        shot = replace(shot, frames=frames)
        shot, connector = request.connector(shot, source, output, "with which it ends", loader)
        count = output.write_given(leading(connector, passthrough, shot), source.format, {"sora": shot.to_json()})
        request.finish(output, count, range(frames, frames + passthrough.count))


def up_to_picture(seconds: float, shot: Shot, rates: media.Retiming | None) -> tuple[media.Retiming | None, int]:
    """The number of new frames before a picture that ends the video, and the conversion that keeps it last."""
    if rates is None:
        return None, max(1, geometry.frames_for(seconds, shot.fps) - 1)
    shown = replace(shot, fps=float(rates.shown), frames=geometry.frames_for(seconds, float(rates.shown)))
    made = max(2, shown.at(shot.fps).frames)
    return replace(rates, frames=shown.frames, end=made - 1), made - 1


def leading(connector: Connector, passthrough: PassThrough, shot: Shot) -> Iterator[bytes]:
    """The output's raw frames: new ones, then the given ones unchanged."""
    yield from connector.connect(shot, head=passthrough.head)
    yield from passthrough.frames()
    connector.output.place_sound(passthrough.source.sound, shot.frames, passthrough.count)
