"""`sora-cli loop VIDEO | PROMPT`: a clip that plays for ever without a visible seam."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sora_cli import geometry, media, registry
from sora_cli.cli import expanding, models, options, seeds
from sora_cli.cli.connect import Connector, Passing
from sora_cli.cli.making import Making, Target, format_of, header_of, keep_latents
from sora_cli.cli.options import Compute, Input, Keeping, Sampling, Showing, flattened
from sora_cli.cli.outputs import slug
from sora_cli.cli.reading import Asked, beside, check_source, shot_like
from sora_cli.cli.screen import Screen
from sora_cli.errors import SoraError
from sora_cli.media.seams import Changes
from sora_cli.shot import Shot, check_prompt

if TYPE_CHECKING:
    import numpy as np

    from sora_cli.generation.engine import Engine

CONNECTOR_SECONDS, LOOP_SECONDS = 1.0, 4.0


@flattened
def loop(
    what: Annotated[str, typer.Argument(metavar="VIDEO|PROMPT", help="A video to close, or what to show.")],
    prompt: options.PromptArgument = "",
    seconds: Annotated[
        float | None, typer.Option(help="Of the loop (4), or of what is added to close VIDEO (1).")
    ] = None,
    times: Annotated[int, typer.Option(min=1, max=10_000, help="Repeat the loop in the file.")] = 1,
    output: options.OutputOption = None,
    *,
    reading: Input,
    sampling: Sampling,
    compute: Compute,
    keeping: Keeping,
    showing: Showing,
) -> None:
    """Make a clip that plays for ever: close VIDEO, or make a new one from a PROMPT."""
    model, how = sampling.model, expanding.asked(sampling.expand, sampling.expand_model, sampling.model)
    settings = models.asked(sampling, prompt)
    name = output or (beside(what, "loop") if is_video(what) else f"{slug(what)}-loop.mp4")
    target = Target(name, **vars(keeping))
    work: partial[None]
    if is_video(what):
        asked = Asked(what, **vars(reading))
        check_closing(asked, target, model, times, showing.quiet)
        length = CONNECTOR_SECONDS if seconds is None else seconds
        work = partial(close, asked, target, settings, how, length, times, sampling.expand != "auto")
    else:
        if prompt:
            raise SoraError(f"there is no video {what}; for a loop from a prompt, give the prompt alone")
        length = registry.entry(model).usage.bar or LOOP_SECONDS if seconds is None else seconds
        shot = round_shot(replace(settings, prompt=what), reading.res, reading.fps, length)
        check_making(shot, target, showing.quiet)
        work = partial(make, shot, target, how, times)
    with Screen(showing.quiet, showing.preview) as screen:
        seeds.told(sampling.seed, settings.seed, screen)
        work(partial(load, model, *compute.words, screen.read, settings.loras), screen)


def is_video(what: str) -> bool:
    """Whether a word names a video: it is there, it is a stream, or it ends like one."""
    return what == media.STREAM or Path(what).suffix.lower() in media.SUFFIXES or os.path.isfile(what)


# ---- from a prompt ----------------------------------------------------------------------------------------


def round_shot(settings: Shot, res: str | None, fps: float | None, seconds: float) -> Shot:
    """A loop of whole chunks, as near to the length asked as they come."""
    width, height = geometry.parse_res(res) if res else (settings.width, settings.height)
    rate = settings.fps if fps is None else fps
    chunks = max(2, round(geometry.frames_for(seconds, rate) / geometry.TIME_STRIDE))
    return replace(settings, width=width, height=height, fps=rate, frames=chunks * geometry.TIME_STRIDE, loop=True)


def check_making(shot: Shot, target: Target, quiet: bool) -> None:
    """All that can be refused, or has to be asked, before anything is shown."""
    check_prompt(shot.prompt)
    target.check()
    target.check_format(format_of(shot))
    models.check_model(shot.model, quiet)


def make(shot: Shot, target: Target, how: "expanding.How", times: int, load: "Callable[[], Engine]",
         screen: Screen) -> None:  # fmt: skip
    """A loop of its own: all latents are made on a circle."""
    shot = expanding.expanded(shot, how, screen)
    making = Making(target, screen, shot.fps, shot.frames * times)
    run = making.denoise(load().start(shot))
    changes = Changes()

    def once(number: int) -> "Iterator[np.ndarray]":
        for frame in making.watched(run.frames()):
            if number == 0:
                changes.add(frame)
            yield frame

    format = format_of(shot)
    frames = chain.from_iterable(map(once, range(times)))
    count = making.write(media.from_rgb(frames, run.source_size, format), format, {"sora": shot.to_json()})
    seam = changes.seam()
    making.scores |= {"seam": seam.position, "seam in motion": seam.velocity}
    if times == 1:
        keep_latents(target, header_of(run), making.latents)
    making.finish({"verb": "loop", "frames": count, "times": times})


# ---- from a video -----------------------------------------------------------------------------------------


def check_closing(asked: Asked, target: Target, model: str, times: int, quiet: bool) -> None:
    """All that can be refused, or has to be asked, before anything is read or shown."""
    if times > 1 and asked.name == media.STREAM:
        raise SoraError("a stream can be read once only; give a file for --times, or repeat the output")
    check_source(asked, target, model, quiet)


def close(asked: Asked, target: Target, settings: Shot, how: "expanding.How", seconds: float, times: int, anew: bool,
          load: "Callable[[], Engine]", screen: Screen) -> None:  # fmt: skip
    """A given video and a connector from its end to its beginning, which fits both."""
    with asked.open(screen) as source:
        shot = shot_like(source, settings, anew)
        shot = replace(shot, frames=connector_length(seconds, shot.fps))
        target.check_format(source.format)
        around = f"{expanding.named(asked.name)}, from whose end it leads back to the start"
        shot = expanding.expanded(shot, how, screen, [around])
        making = Making(target, screen, shot.fps)
        connector = Connector(load(), source.format, making)
        passing = Passing(source, settings.model)
        raw = repeated(passing, connector, shot, asked, times)
        count = making.write(raw, source.format, {"sora": shot.to_json()})
        given = (count // times) - shot.frames
        told = {"verb": "loop", "input": asked.name, "frames": count, "times": times, "given": [0, given]}
        making.finish(told, [range(0, given)])


def connector_length(seconds: float, fps: float) -> int:
    """Frames from one key frame to another, both given: 3, 7, 11, ..."""
    chunks = max(1, round((geometry.frames_for(seconds, fps) + 1) / geometry.TIME_STRIDE))
    return chunks * geometry.TIME_STRIDE - 1


def repeated(passing: Passing, connector: Connector, shot: Shot, asked: Asked, times: int) -> Iterator[bytes]:
    """The video and its connector, again and again; the connector is made once."""
    yield from passing.frames()
    made = []
    for raw in connector.connect(shot, list(passing.tail), passing.head):
        yield raw
        if times > 1:
            made.append(raw)
    for _ in range(times - 1):
        with asked.open() as again:
            yield from again
        yield from made


def load(*words: Any) -> "Engine":
    from sora_cli.generation.engine import Engine

    return Engine(*words)
