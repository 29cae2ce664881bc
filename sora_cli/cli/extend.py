"""`sora-cli extend VIDEO`: what comes after, or what came before."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from sora_cli import geometry
from sora_cli.cli import expanding, models, options, seeds
from sora_cli.cli.connect import Connector, Passing
from sora_cli.cli.jobs import Job, Networks, cost_of
from sora_cli.cli.making import Making, keep_latents
from sora_cli.cli.options import Compute, Decoding, Input, Keeping, Sampling, Showing, flattened
from sora_cli.cli.reading import Asked, Whole, beside, check_source, shot_like, wanted_of
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.shot import Shot

if TYPE_CHECKING:
    from sora_cli.placement.estimate import Estimate

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
    reading: Input,
    sampling: Sampling,
    compute: Decoding,
    keeping: Keeping,
    showing: Showing,
) -> list[Job]:
    """Extend a video at its end or its start; its own frames stay unchanged."""
    asked = Asked(video, **vars(reading))
    settings = models.asked(sampling, prompt, plan)
    seconds = {"before": before, "after": DEFAULT_SECONDS if before is None and after is None else after}
    wanted = Wanted(asked, settings, sampling, {side: record for side, record in seconds.items() if record is not None})
    how = expanding.asked(sampling.expand, sampling.expand_model, settings.model)
    record = wanted_of("extend", asked, settings, how, seconds=wanted.seconds, **compute.drafted)
    target = Target(output or beside(video, "extended"), **vars(keeping), **record)
    return [Job(target, settings.model, compute, showing, partial(check_source, asked),
                partial(make, wanted, how, compute), settings.loras,
                cost=partial(cost, wanted, compute))]  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What is to be added, on each side, to a video."""

    asked: Asked
    settings: Shot
    sampling: Sampling
    seconds: dict[str, float]

    def shots(self, shot: Shot) -> dict[str, Shot]:
        return {side: replace(shot, frames=geometry.frames_for(length, shot.fps))
                for side, length in self.seconds.items()}  # fmt: skip


def cost(wanted: Wanted, compute: Compute) -> "Estimate":
    """What it takes to make what is new, as one shot."""
    with wanted.asked.open_slow(model=wanted.settings.model) as source:
        shots = wanted.shots(shot_like(source, wanted.settings)).values()
        new = replace(next(iter(shots)), frames=sum(shot.frames for shot in shots))
        return cost_of(new, compute, given=True, retiming=wanted.asked.faster(source), around=source.frames or 0)


def make(wanted: Wanted, how: "expanding.How", compute: Compute, target: Target, networks: Networks,
         screen: Screen) -> None:  # fmt: skip
    """The video and what is added to it, and what is kept beside them."""
    asked, settings, sampling = wanted.asked, wanted.settings, wanted.sampling
    video, model = asked.name, settings.model
    with asked.open_slow(screen, model, target.images) as source:
        seeds.announce(sampling.seed, settings.seed, screen)
        shot = shot_like(source, settings, anew=sampling.expand != "auto")
        sides = " and ".join(wanted.seconds)
        shot = expanding.expanded(shot, how, screen, [f"{expanding.named(video)}, {sides} which the new part is"])
        shots = wanted.shots(shot)
        making = Making(target, screen, shot.fps, retiming=asked.faster(source))
        making.check_format(source.format)
        connector = Connector.of(source, networks.engine(shot, compute, screen), making)
        passing = Passing(source, model)
        own = None if asked.changed else Whole.beside(video, shot)
        raw = frames(connector, passing, shots, own)
        count = making.write_given(raw, source.format, {"sora": list(shots.values())[-1].to_json()})
        if own and own.header.frames == passing.count and set(shots) == {"after"}:
            header = replace(own.header, frames=count, shot="", video="")
            keep_latents(target, header, own.followed_by(making.latents))
        start = shots["before"].frames if "before" in shots else 0
        end = start + passing.count
        record = {"verb": "extend", "input": video, "frames": count, "given": making.bounds(start, end)}
        making.finish(record, [range(start, end)])


def frames(connector: Connector, passing: Passing, shots: dict[str, Shot], own: Whole | None) -> Iterator[bytes]:
    """The output's raw frames: what came before, the given ones as they are, what comes after."""
    if "before" in shots:
        yield from connector.connect(shots["before"], head=passing.head, name="before")
    yield from passing.frames()
    start = shots["before"].frames if "before" in shots else 0
    connector.making.place_sound(passing.source.sound, start, passing.count)
    if "after" in shots:
        kept = own.end() if own and own.header.frames == passing.count else None
        yield from connector.connect(shots["after"], list(passing.tail), name="after", kept=kept)
