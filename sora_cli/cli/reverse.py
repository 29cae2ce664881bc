"""`sora-cli reverse ANCHOR`: the video that leads up to a given last picture or clip."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from sora_cli import geometry, registry
from sora_cli.cli import expanding, models, options, seeds
from sora_cli.cli.connect import Connector, Passing
from sora_cli.cli.jobs import Job, Networks, cost_of
from sora_cli.cli.making import Target
from sora_cli.cli.options import Compute, Input, Keeping, Sampling, Showing, flattened
from sora_cli.cli.reading import Asked, beside, check_source, shot_like, wanted_of
from sora_cli.cli.screen import Screen
from sora_cli.shot import Shot


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
    compute: Compute,
    keeping: Keeping,
    showing: Showing,
) -> list[Job]:
    """Make the video that leads up to an image or clip."""
    asked = Asked(anchor, **vars(reading))
    settings = models.asked(sampling, prompt, plan or backwards(sampling.model))
    how = expanding.asked(sampling.expand, sampling.expand_model, settings.model)
    told = wanted_of("reverse", asked, settings, how, seconds=seconds)
    target = Target(output or beside(anchor, "reverse"), **vars(keeping), **told)
    work = partial(make, asked, settings, sampling, seconds, how, compute)
    return [Job(target, settings.model, compute, showing, partial(check_source, asked), work, settings.loras,
                cost=lambda: cost_of(priced(asked, settings, seconds), compute.words))]  # fmt: skip


def priced(asked: Asked, settings: Shot, seconds: float) -> Shot:
    """What is new, as a shot."""
    with asked.open() as source:
        shot = shot_like(source, settings)
    return replace(shot, frames=geometry.frames_for(seconds, shot.fps))


def make(asked: Asked, settings: Shot, sampling: Sampling, seconds: float, how: "expanding.How", compute: Compute,
         target: Target, networks: Networks, screen: Screen) -> None:  # fmt: skip
    """What leads up to the anchor, and the anchor."""
    with asked.open(screen, target.images) as source:
        seeds.told(sampling.seed, settings.seed, screen)
        passing = Passing(source, settings.model)
        shot = shot_like(source, settings, anew=sampling.expand != "auto")
        still = len(passing.head) == 1
        shot = replace(shot, frames=max(1, geometry.frames_for(seconds, shot.fps) - still))
        target.check_format(source.format)
        shot = expanding.expanded(shot, how, screen, [f"{expanding.named(asked.name)}, with which it ends"])
        connector = Connector.of(source, shot, networks.engine(shot, compute, screen), target, screen)
        making = connector.making
        count = making.write(frames(connector, passing, shot), source.format, {"sora": shot.to_json()})
        told = {"verb": "reverse", "input": asked.name, "frames": count, "given": [shot.frames, count]}
        making.finish(told, [range(shot.frames, count)])


def frames(connector: Connector, passing: Passing, shot: Shot) -> Iterator[bytes]:
    """The output's raw frames: what leads up to the given ones, and these as they are."""
    yield from connector.connect(shot, head=passing.head)
    yield from passing.frames()
    connector.making.heard(passing.source.sound, shot.frames, passing.count)


def backwards(model: str) -> str:
    """The plan that goes back from the anchor step by step: key frames first would jump away from it."""
    usual = registry.entry(model).usage.plan
    return "autoregressive" if usual == "hierarchy" else usual
