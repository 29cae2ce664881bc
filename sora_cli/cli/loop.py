"""`sora-cli loop VIDEO | PROMPT`: a clip that plays for ever without a visible seam."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sora_cli import geometry, media, registry
from sora_cli.cli import expanding, models, options, seeds
from sora_cli.cli.connect import Connector, Passing
from sora_cli.cli.jobs import Job, Networks, cost_of
from sora_cli.cli.making import Making, format_of, header_of, keep_latents
from sora_cli.cli.options import Compute, Decoding, Input, Keeping, Sampling, Showing, flattened
from sora_cli.cli.outputs import room_of, slug
from sora_cli.cli.reading import Asked, beside, check_source, shot_like, wanted_of
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError
from sora_cli.generation.plan import check_given, made
from sora_cli.media.seams import Changes
from sora_cli.shot import Shot, check_prompt

if TYPE_CHECKING:
    import numpy as np

    from sora_cli.placement.estimate import Estimate

CONNECTOR_SECONDS, LOOP_SECONDS = 1.0, 4.0
PROMPTED = "; for a prompt, what suits the model."


@dataclass(frozen=True)
class Turning(Input):
    """The same, where there may be no video."""

    res: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size in pixels; by default that of VIDEO" + PROMPTED)
    ] = None
    fps: Annotated[float | None, typer.Option(help="Frames per second; by default those of VIDEO" + PROMPTED)] = None


@flattened
def loop(
    what: Annotated[str, typer.Argument(metavar="VIDEO|PROMPT", help="A video to close into a loop, or a prompt.")],
    prompt: options.PromptArgument = "",
    seconds: Annotated[
        float | None, typer.Option(help="Length of the loop (default: about 4), or of the part that closes VIDEO (1).")
    ] = None,
    times: Annotated[int, typer.Option(min=1, max=10_000, help="How often the file repeats the loop.")] = 1,
    output: options.OutputOption = None,
    *,
    reading: Turning,
    sampling: Sampling,
    compute: Decoding,
    keeping: Keeping,
    showing: Showing,
) -> list[Job]:
    """Make a seamless loop from a prompt, or close a video into one."""
    how = expanding.asked(sampling.expand, sampling.expand_model, sampling.model)
    settings = models.asked(sampling, prompt)
    asked = Asked(what, **vars(reading))
    name = output or (beside(what, "loop") if is_video(what) else f"{slug(what)}-loop.mp4")
    if is_video(what):
        length = CONNECTOR_SECONDS if seconds is None else seconds
        closed = Closed(asked, settings, length, times, sampling)
        record = wanted_of("loop", asked, settings, how, seconds=length, times=times, **compute.drafted)
        target = Target(name, **vars(keeping), **record)
        return [Job(target, settings.model, compute, showing, closed.check, partial(close, closed, how, compute),
                    settings.loras, cost=partial(closed.cost, compute))]  # fmt: skip
    if prompt:
        raise SoraError(f"there is no video {what}; for a loop from a prompt, give the prompt alone")
    entry = registry.entry(settings.model)
    length = entry.usage.bar or LOOP_SECONDS if seconds is None else seconds
    shot = round_shot(replace(settings, prompt=what), reading.res, reading.fps, length)
    record = wanted_of("loop", replace(asked, name=media.STREAM), shot, how, times=times, **compute.drafted)
    target = Target(name, **vars(keeping), **record)
    return [Job(target, shot.model, compute, showing, partial(check_making, shot),
                partial(make, shot, how, times, sampling.seed, compute), shot.loras,
                room=room_of(shot) * times, cost=partial(cost, shot, times, compute))]  # fmt: skip


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


def cost(shot: Shot, times: int, compute: Compute) -> "Estimate":
    """What it takes on this machine."""
    turn = made(shot, registry.entry(shot.model))
    return cost_of(turn, compute, retiming=rates_of(shot, turn, times))


def check_making(shot: Shot, target: Target) -> None:
    """All that can be refused before anything is shown."""
    check_prompt(shot.prompt)
    check_given(registry.entry(shot.model), False)
    target.check()
    target.check_format(format_of(shot, target.name))


def make(shot: Shot, how: "expanding.How", times: int, seed: str, compute: Compute, target: Target,
         networks: Networks, screen: Screen) -> None:  # fmt: skip
    """A loop of its own: all latents are made on a circle."""
    seeds.announce(seed, shot.seed, screen)
    shot = expanding.expanded(shot, how, screen)
    turn = made(shot, registry.entry(shot.model))
    making = Making(target, screen, turn.fps, shot.frames * times, rates_of(shot, turn, times))
    run = making.denoise(networks.engine(shot, compute, screen).start(turn))
    changes = Changes()

    def once(number: int) -> "Iterator[np.ndarray]":
        for frame in making.watched(run.frames()):
            if number == 0:
                changes.add(frame)
            yield frame

    format = format_of(shot, target.name)
    frames = chain.from_iterable(map(once, range(times)))
    raw = media.from_rgb(frames, run.source_size, format, making.retiming)
    count = making.write(raw, format, {"sora": shot.to_json()})
    seam = changes.seam()
    making.scores |= {"seam": seam.position, "seam in motion": seam.velocity}
    if times == 1:
        keep_latents(target, header_of(run), making.latents)
    making.finish({"verb": "loop", "frames": count, "times": times, "shot": shot.to_dict()})


def rates_of(shot: Shot, turn: Shot, times: int) -> media.Retiming | None:
    """How a loop that is made as `turn` gets to the rate of the shot, if that is another."""
    if turn.fps == shot.fps:
        return None
    return media.Retiming.between(turn.fps, shot.fps, shot.frames * times, turn=turn.frames * times, cyclic=True)


# ---- from a video -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Closed:
    """A video that is to be closed, with a connector of so many seconds."""

    asked: Asked
    settings: Shot
    seconds: float
    times: int
    sampling: Sampling

    def check(self, target: Target) -> None:
        """All that can be refused before anything is read or shown."""
        if self.times > 1 and self.asked.name == media.STREAM:
            raise SoraError("a stream can be read once only; give a file for --times, or repeat the output")
        check_source(self.asked, target)

    def connector(self, source: media.Source) -> Shot:
        shot = shot_like(source, self.settings, self.sampling.expand != "auto")
        return replace(shot, frames=connector_length(self.seconds, shot.fps))

    def cost(self, compute: Compute) -> "Estimate":
        """What it takes to make what is new."""
        with self.asked.open_slow(model=self.settings.model) as source:
            new, given = self.connector(source), source.frames or 0
            around = self.times * given + (self.times - 1) * new.frames
            return cost_of(new, compute, given=True, retiming=self.asked.faster(source), around=around)


def close(closed: Closed, how: "expanding.How", compute: Compute, target: Target, networks: Networks,
          screen: Screen) -> None:  # fmt: skip
    """A given video and a connector from its end to its beginning, which fits both."""
    asked, times = closed.asked, closed.times
    with asked.open_slow(screen, closed.settings.model, target.images) as source:
        seeds.announce(closed.sampling.seed, closed.settings.seed, screen)
        shot = closed.connector(source)
        faster = asked.faster(source)
        making = Making(target, screen, shot.fps, retiming=replace(faster, cyclic=True) if faster else None)
        making.check_format(source.format)
        around = f"{expanding.named(asked.name)}, from whose end it leads back to the start"
        shot = expanding.expanded(shot, how, screen, [around])
        connector = Connector.of(source, networks.engine(shot, compute, screen), making)
        passing = Passing(source, shot.model)
        raw = repeated(passing, connector, shot, partial(asked.open_slow, rgb=target.images), times)
        count = making.write_given(raw, source.format, {"sora": shot.to_json()})
        given = making.bounds(0, passing.count)
        record = {"verb": "loop", "input": asked.name, "frames": count, "times": times, "given": given}
        making.finish(record, [range(0, passing.count)])


def connector_length(seconds: float, fps: float) -> int:
    """Frames from one key frame to another, both given: 3, 7, 11, ..."""
    chunks = max(1, round((geometry.frames_for(seconds, fps) + 1) / geometry.TIME_STRIDE))
    return chunks * geometry.TIME_STRIDE - 1


def repeated(passing: Passing, connector: Connector, shot: Shot, reopened: Callable[[], media.Source],
             times: int) -> Iterator[bytes]:  # fmt: skip
    """The video and its connector, again and again; the connector is made once."""
    yield from passing.frames()
    connector.making.place_sound(passing.source.sound, 0, passing.count, times)
    between = []
    for raw in connector.connect(shot, list(passing.tail), passing.head):
        yield raw
        if times > 1:
            between.append(raw)
    for _ in range(times - 1):
        with reopened() as again:
            yield from again
        yield from between
