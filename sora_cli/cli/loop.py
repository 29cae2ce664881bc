"""`sora-cli loop VIDEO | PROMPT`: a clip that plays for ever without a visible seam."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sora_cli import geometry, media
from sora_cli.cli import options
from sora_cli.cli.connect import Connector, PassThrough, Request
from sora_cli.cli.dry_run import show_plan
from sora_cli.cli.filming import Order
from sora_cli.cli.inputs import beside
from sora_cli.cli.jobs import Job, Loader
from sora_cli.cli.options import Continuing, Input, flattened
from sora_cli.cli.output_job import OutputJob
from sora_cli.cli.outputs import slug
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError
from sora_cli.shot import Shot, check_prompt

PROMPTED = "; for a prompt, what suits the model."


@dataclass(frozen=True)
class Turning(Input):
    """The options of an input that may be a prompt instead of a video."""

    res: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size in pixels; by default that of VIDEO" + PROMPTED)
    ] = None
    fps: Annotated[float | None, typer.Option(help="Frames per second; by default those of VIDEO" + PROMPTED)] = None


@dataclass(frozen=True)
class Looping(Continuing):
    """The options of `loop`."""

    reading: Turning


@flattened
def loop(
    what: Annotated[str, typer.Argument(metavar="VIDEO|PROMPT", help="A video to close into a loop, or a prompt.")],
    prompt: options.PromptArgument = "",
    seconds: Annotated[
        float | None, typer.Option(help="Length of the loop (default: about 4), or of the part that closes VIDEO (1).")
    ] = None,
    times: Annotated[int, typer.Option(min=1, max=10_000, help="How many times the file plays the loop.")] = 1,
    output: options.OutputOption = None,
    *,
    more: Looping,
) -> list[Job]:
    """Make a seamless loop from a prompt, or close a video into one."""
    request = Request.of("loop", what, more, prompt)
    if is_video(what):
        length = 1.0 if seconds is None else seconds
        record = {"seconds": length, "times": times}
        return request.jobs(output or beside(what, "loop"), partial(connector_frames, length),
                            partial(close, request, length, times), record, times)  # fmt: skip
    if prompt:
        raise SoraError(f"there is no video {what}; for a loop from a prompt, give the prompt alone")
    if more.reading.input_res is not None or more.reading.input_fps is not None:
        raise SoraError(f"there is no video {what}, and --input-res and --input-fps say how to read one")
    check_prompt(what)
    lasting = request.entry.usage.bar or 4.0 if seconds is None else seconds
    shot = round_shot(replace(request.settings, prompt=what), request.video, lasting)
    request = replace(request, settings=shot, video=replace(request.video, name=media.STREAM))
    target = request.target(output or f"{slug(what)}-loop.mp4", times=times)
    order = Order([shot], request.entry, request.expansion, more.sampling.seed, times=times)
    jobs = [order.job(0, target, more.compute, more.showing)]
    return show_plan(order, jobs) if more.dry_run else jobs


def is_video(what: str) -> bool:
    """Whether an argument names a video: an existing file, a stream, or a name with a video's extension."""
    return what == media.STREAM or Path(what).suffix.lower() in media.SUFFIXES or os.path.isfile(what)


def round_shot(settings: Shot, reading: Input, seconds: float) -> Shot:
    """The shot of a loop, its length rounded to a multiple of 4 frames, at least 8."""
    width, height = (settings.width, settings.height) if reading.res is None else geometry.parse_res(reading.res)
    rate = settings.fps if reading.fps is None else reading.fps
    chunks = max(2, round(geometry.frames_for(seconds, rate) / geometry.TIME_STRIDE))
    return replace(settings, width=width, height=height, fps=rate, frames=chunks * geometry.TIME_STRIDE, loop=True)


def close(request: Request, seconds: float, times: int, target: Target, loader: Loader, screen: Screen) -> None:
    """A given video and a connector from its end to its beginning, which fits both."""
    with request.opened(target, screen) as (source, shot):
        shot, faster = replace(shot, frames=connector_frames(seconds, shot)), request.video.faster(source)
        output = OutputJob(target, screen, shot.fps, retiming=replace(faster, cyclic=True) if faster else None)
        where = "from whose end it leads back to the start"
        shot, connector = request.connector(shot, source, output, where, loader)
        passthrough = PassThrough(source, request.entry)
        raw = repeated(passthrough, connector, shot, partial(request.video.open_slow, rgb=target.images), times)
        count = output.write_given(raw, source.format, {"sora": shot.to_json()})
        request.finish(output, count, range(passthrough.count), times=times)


def connector_frames(seconds: float, shot: Shot) -> int:
    """Frames from one key frame to another, both given: 3, 7, 11, ..."""
    chunks = max(1, round((geometry.frames_for(seconds, shot.fps) + 1) / geometry.TIME_STRIDE))
    return chunks * geometry.TIME_STRIDE - 1


def repeated(passthrough: PassThrough, connector: Connector, shot: Shot, reopened: Callable[[], media.Source],
             times: int) -> Iterator[bytes]:  # fmt: skip
    """The video and its connector, again and again; the connector is made once."""
    yield from passthrough.frames()
    connector.output.place_sound(passthrough.source.sound, 0, passthrough.count, times)
    between = []
    for raw in connector.connect(shot, list(passthrough.tail), passthrough.head):
        yield raw
        if times > 1:
            between.append(raw)
    for _ in range(times - 1):
        with reopened() as again:
            yield from again
        yield from between
