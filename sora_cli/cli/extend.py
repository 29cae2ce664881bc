"""`sora-cli extend VIDEO`: what comes after, or what came before."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from sora_cli import geometry
from sora_cli.cli import options
from sora_cli.cli.connect import Connector, PassThrough, Request
from sora_cli.cli.inputs import SidecarLatents, beside
from sora_cli.cli.jobs import Job, Loader
from sora_cli.cli.options import Continuing, flattened
from sora_cli.cli.output_job import OutputJob
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.shot import Shot


@flattened
def extend(
    video: options.VideoArgument,
    prompt: options.PromptArgument = "",
    output: options.OutputOption = None,
    after: Annotated[float | None, typer.Option(help="Seconds to add at the end; 5 if --before is not given.")] = None,
    before: Annotated[float | None, typer.Option(help="Seconds to add at the start.")] = None,
    plan: options.PlanOption = None,
    *,
    more: Continuing,
) -> list[Job]:
    """Extend a video at its end or its start; its own frames stay unchanged."""
    request = Request.of("extend", video, more, prompt, plan)
    asked = {"before": before, "after": 5.0 if before is None and after is None else after}
    seconds = {side: length for side, length in asked.items() if length is not None}
    return request.jobs(output or beside(video, "extended"), partial(total, seconds),
                        partial(make, request, seconds), {"seconds": seconds})  # fmt: skip


def new_frames(seconds: dict[str, float], shot: Shot) -> dict[str, int]:
    return {side: geometry.frames_for(length, shot.fps) for side, length in seconds.items()}


def total(seconds: dict[str, float], shot: Shot) -> int:
    return sum(new_frames(seconds, shot).values())


def make(request: Request, seconds: dict[str, float], target: Target, loader: Loader, screen: Screen) -> None:
    """Write the extended video and the files beside it."""
    with request.opened(target, screen) as (source, shot):
        shots = {side: replace(shot, frames=count) for side, count in new_frames(seconds, shot).items()}
        output = OutputJob(target, screen, shot.fps, retiming=request.video.faster(source))
        where = f"{' and '.join(seconds)} which the new part is"
        shot, connector = request.connector(shot, source, output, where, loader)
        shots = {side: replace(shot, frames=one.frames) for side, one in shots.items()}
        passthrough = PassThrough(source, request.entry)
        sidecar = None if request.video.changed else SidecarLatents.beside(request.video.name, shot, request.entry)
        raw = frames(connector, passthrough, shots, sidecar)
        count = output.write_given(raw, source.format, {"sora": list(shots.values())[-1].to_json()})
        if sidecar and sidecar.header.frames == passthrough.count and set(shots) == {"after"}:
            header = replace(sidecar.header, frames=count, shot="", video="")
            output.keep_latents(header, sidecar.followed_by(output.latents))
        start = shots["before"].frames if "before" in shots else 0
        request.finish(output, count, range(start, start + passthrough.count))


def frames(connector: Connector, passthrough: PassThrough, shots: dict[str, Shot],
           sidecar: SidecarLatents | None) -> Iterator[bytes]:  # fmt: skip
    """The output's raw frames: new ones before, the given ones unchanged, new ones after."""
    if "before" in shots:
        yield from connector.connect(shots["before"], head=passthrough.head, name="before")
    yield from passthrough.frames()
    start = shots["before"].frames if "before" in shots else 0
    connector.output.place_sound(passthrough.source.sound, start, passthrough.count)
    if "after" in shots:
        context = sidecar.end() if sidecar and sidecar.header.frames == passthrough.count else None
        yield from connector.connect(shots["after"], list(passthrough.tail), name="after", context=context)
