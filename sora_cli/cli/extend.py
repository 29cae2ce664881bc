"""`sora-cli extend VIDEO`: what comes after, or what came before."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from sora_cli import geometry
from sora_cli.cli import options
from sora_cli.cli.connect import Connector, Passing, Request
from sora_cli.cli.jobs import Job, Networks
from sora_cli.cli.making import Making, keep_latents
from sora_cli.cli.options import Continuing, flattened
from sora_cli.cli.reading import Whole, beside
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.shot import Shot

DEFAULT_SECONDS = 5.0


@flattened
def extend(
    video: Annotated[str, typer.Argument(help="A video, numbered images (%05d.png), or - for standard input.")],
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
    asked = {"before": before, "after": DEFAULT_SECONDS if before is None and after is None else after}
    seconds = {side: length for side, length in asked.items() if length is not None}
    return [request.job(output or beside(video, "extended"), partial(total, seconds),
                        partial(make, request, seconds), {"seconds": seconds})]  # fmt: skip


def new_frames(seconds: dict[str, float], shot: Shot) -> dict[str, int]:
    return {side: geometry.frames_for(length, shot.fps) for side, length in seconds.items()}


def total(seconds: dict[str, float], shot: Shot) -> int:
    return sum(new_frames(seconds, shot).values())


def make(request: Request, seconds: dict[str, float], target: Target, networks: Networks, screen: Screen) -> None:
    """Write the extended video and the files beside it."""
    with request.opened(target, screen) as (source, shot):
        shots = {side: replace(shot, frames=count) for side, count in new_frames(seconds, shot).items()}
        making = Making(target, screen, shot.fps, retiming=request.video.faster(source))
        where = f"{' and '.join(seconds)} which the new part is"
        shot, connector = request.connector(shot, source, making, where, networks)
        shots = {side: replace(shot, frames=one.frames) for side, one in shots.items()}
        passing = Passing(source, request.entry)
        own = None if request.video.changed else Whole.beside(request.video.name, shot, request.entry)
        raw = frames(connector, passing, shots, own)
        count = making.write_given(raw, source.format, {"sora": list(shots.values())[-1].to_json()})
        if own and own.header.frames == passing.count and set(shots) == {"after"}:
            header = replace(own.header, frames=count, shot="", video="")
            keep_latents(target, header, own.followed_by(making.latents))
        start = shots["before"].frames if "before" in shots else 0
        request.finish(making, count, range(start, start + passing.count))


def frames(connector: Connector, passing: Passing, shots: dict[str, Shot], own: Whole | None) -> Iterator[bytes]:
    """The output's raw frames: new ones before, the given ones unchanged, new ones after."""
    if "before" in shots:
        yield from connector.connect(shots["before"], head=passing.head, name="before")
    yield from passing.frames()
    start = shots["before"].frames if "before" in shots else 0
    connector.making.place_sound(passing.source.sound, start, passing.count)
    if "after" in shots:
        kept = own.end() if own and own.header.frames == passing.count else None
        yield from connector.connect(shots["after"], list(passing.tail), name="after", kept=kept)
