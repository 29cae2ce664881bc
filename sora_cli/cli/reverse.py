"""`sora-cli reverse ANCHOR`: the video that leads up to a given last picture or clip."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from sora_cli import geometry, media
from sora_cli.cli import options
from sora_cli.cli.connect import Connector, Passing, Request
from sora_cli.cli.jobs import Job, Loader
from sora_cli.cli.making import Making
from sora_cli.cli.options import Continuing, flattened
from sora_cli.cli.reading import beside
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.shot import Shot


@flattened
def reverse(
    anchor: Annotated[str, typer.Argument(help="How the video ends: an image, a video, or - for standard input.")],
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
    return [request.job(output or beside(anchor, "reverse"), partial(new_frames, seconds),
                        partial(make, request, seconds), {"seconds": seconds})]  # fmt: skip


def new_frames(seconds: float, shot: Shot) -> int:
    return geometry.frames_for(seconds, shot.fps)


def make(request: Request, seconds: float, target: Target, loader: Loader, screen: Screen) -> None:
    """Write the new frames, the anchor, and the files beside them."""
    with request.opened(target, screen) as (source, shot):
        passing, rates = Passing(source, request.entry), request.video.faster(source)
        if len(passing.head) == 1:
            rates, frames = up_to_picture(seconds, shot, rates)
        else:
            frames = new_frames(seconds, shot)
        making = Making(target, screen, shot.fps, retiming=rates)
        shot = replace(shot, frames=frames)
        shot, connector = request.connector(shot, source, making, "with which it ends", loader)
        count = making.write_given(leading(connector, passing, shot), source.format, {"sora": shot.to_json()})
        request.finish(making, count, range(frames, frames + passing.count))


def up_to_picture(seconds: float, shot: Shot, rates: media.Retiming | None) -> tuple[media.Retiming | None, int]:
    """The number of new frames before a picture that ends the video, and the conversion that keeps it last."""
    if rates is None:
        return None, max(1, geometry.frames_for(seconds, shot.fps) - 1)
    shown = replace(shot, fps=float(rates.shown), frames=geometry.frames_for(seconds, float(rates.shown)))
    made = max(2, shown.at(shot.fps).frames)
    return replace(rates, frames=shown.frames, end=made - 1), made - 1


def leading(connector: Connector, passing: Passing, shot: Shot) -> Iterator[bytes]:
    """The output's raw frames: new ones, then the given ones unchanged."""
    yield from connector.connect(shot, head=passing.head)
    yield from passing.frames()
    connector.making.place_sound(passing.source.sound, shot.frames, passing.count)
