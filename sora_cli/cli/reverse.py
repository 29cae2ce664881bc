"""`sora-cli reverse ANCHOR`: the video that leads up to a given last picture or clip."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from sora_cli import geometry, media, registry
from sora_cli.cli import expanding, models, options, seeds
from sora_cli.cli.connect import Connector, Passing
from sora_cli.cli.jobs import Job, Networks, cost_of
from sora_cli.cli.making import Making
from sora_cli.cli.options import Compute, Decoding, Input, Keeping, Sampling, Showing, flattened
from sora_cli.cli.reading import Asked, beside, check_source, shot_like, wanted_of
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.shot import Shot

if TYPE_CHECKING:
    from sora_cli.placement.estimate import Estimate


@flattened
def reverse(
    anchor: Annotated[str, typer.Argument(help="How the video ends: an image, a video, or - for standard input.")],
    prompt: options.PromptArgument = "",
    seconds: Annotated[float, typer.Option(help="Seconds to make before ANCHOR.")] = 5.0,
    output: options.OutputOption = None,
    plan: options.PlanOption = None,
    *,
    reading: Input,
    sampling: Sampling,
    compute: Decoding,
    keeping: Keeping,
    showing: Showing,
) -> list[Job]:
    """Make the video that leads up to an image or clip."""
    asked = Asked(anchor, **vars(reading))
    settings = models.asked(sampling, prompt, plan or backwards(sampling.model))
    how = expanding.asked(sampling.expand, sampling.expand_model, settings.model)
    record = wanted_of("reverse", asked, settings, how, seconds=seconds, **compute.drafted)
    target = Target(output or beside(anchor, "reverse"), **vars(keeping), **record)
    work = partial(make, asked, settings, sampling, seconds, how, compute)
    return [Job(target, settings.model, compute, showing, partial(check_source, asked), work, settings.loras,
                cost=partial(cost, asked, settings, seconds, compute))]  # fmt: skip


def cost(asked: Asked, settings: Shot, seconds: float, compute: Compute) -> "Estimate":
    """What it takes to make what is new."""
    with asked.open_slow(model=settings.model) as source:
        shot = shot_like(source, settings)
        shot = replace(shot, frames=geometry.frames_for(seconds, shot.fps))
        return cost_of(shot, compute, given=True, retiming=asked.faster(source), around=source.frames or 0)


def make(asked: Asked, settings: Shot, sampling: Sampling, seconds: float, how: "expanding.How", compute: Compute,
         target: Target, networks: Networks, screen: Screen) -> None:  # fmt: skip
    """What leads up to the anchor, and the anchor."""
    with asked.open_slow(screen, settings.model, target.images) as source:
        seeds.announce(sampling.seed, settings.seed, screen)
        passing = Passing(source, settings.model)
        shot = shot_like(source, settings, anew=sampling.expand != "auto")
        rates = asked.faster(source)
        if len(passing.head) == 1:
            rates, frames = up_to_picture(seconds, shot, rates)
        else:
            frames = geometry.frames_for(seconds, shot.fps)
        shot = replace(shot, frames=frames)
        making = Making(target, screen, shot.fps, retiming=rates)
        making.check_format(source.format)
        shot = expanding.expanded(shot, how, screen, [f"{expanding.named(asked.name)}, with which it ends"])
        connector = Connector.of(source, networks.engine(shot, compute, screen), making)
        count = making.write_given(leading(connector, passing, shot), source.format, {"sora": shot.to_json()})
        given = making.bounds(shot.frames, shot.frames + passing.count)
        record = {"verb": "reverse", "input": asked.name, "frames": count, "given": given}
        making.finish(record, [range(shot.frames, shot.frames + passing.count)])


def up_to_picture(seconds: float, shot: Shot, rates: media.Retiming | None) -> tuple[media.Retiming | None, int]:
    """How many frames lead up to a picture that ends so many seconds, and how it stays last between others."""
    if rates is None:
        return None, max(1, geometry.frames_for(seconds, shot.fps) - 1)
    shown = replace(shot, fps=float(rates.shown), frames=geometry.frames_for(seconds, float(rates.shown)))
    made = max(2, shown.at(shot.fps).frames)
    return replace(rates, frames=shown.frames, pins=((shown.frames - 1, made - 1),)), made - 1


def leading(connector: Connector, passing: Passing, shot: Shot) -> Iterator[bytes]:
    """The output's raw frames: what leads up to the given ones, and these as they are."""
    yield from connector.connect(shot, head=passing.head)
    yield from passing.frames()
    connector.making.place_sound(passing.source.sound, shot.frames, passing.count)


def backwards(model: str) -> str:
    """The plan that goes back from the anchor step by step: key frames first would jump away from it."""
    usual = registry.entry(model).usage.plan
    return "autoregressive" if usual == "hierarchy" else usual
