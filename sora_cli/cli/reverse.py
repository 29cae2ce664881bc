"""`sora-cli reverse ANCHOR`: the video that leads up to a given last picture or clip."""

from dataclasses import replace
from itertools import chain
from typing import Annotated

import typer

from sora_cli import geometry, registry
from sora_cli.cli import expanding, models, options, seeds
from sora_cli.cli.connect import Connector, Passing
from sora_cli.cli.making import Making, Target
from sora_cli.cli.options import Compute, Input, Keeping, Sampling, Showing, flattened
from sora_cli.cli.reading import Asked, beside, check_source, shot_like
from sora_cli.cli.screen import Screen


@flattened
def reverse(
    anchor: Annotated[str, typer.Argument(help="How it ends: a picture, a video, or - for a stream.")],
    prompt: options.PromptArgument = "",
    seconds: Annotated[float, typer.Option(help="Seconds that lead up to it.")] = 5.0,
    output: options.OutputOption = None,
    plan: options.PlanOption = None,
    *,
    reading: Input,
    sampling: Sampling,
    compute: Compute,
    keeping: Keeping,
    showing: Showing,
) -> None:
    """Make the video that ends with ANCHOR: generated from there backwards, and played forwards."""
    asked = Asked(anchor, **vars(reading))
    target = Target(output or beside(anchor, "reverse"), **vars(keeping))
    model, how = sampling.model, expanding.asked(sampling.expand, sampling.expand_model, sampling.model)
    settings = models.asked(sampling, prompt, plan or backwards(model))
    check_source(asked, target, model, showing.quiet)
    with Screen(showing.quiet, showing.preview) as screen, asked.open(screen) as source:
        seeds.told(sampling.seed, settings.seed, screen)
        passing = Passing(source, model)
        shot = shot_like(source, settings, anew=sampling.expand != "auto")
        still = len(passing.head) == 1
        shot = replace(shot, frames=max(1, geometry.frames_for(seconds, shot.fps) - still))
        target.check_format(source.format)
        shot = expanding.expanded(shot, how, screen, [f"{expanding.named(anchor)}, with which it ends"])

        from sora_cli.generation.engine import Engine

        making = Making(target, screen, shot.fps)
        engine = Engine(model, *compute.words, screen.read, shot.loras)
        connector = Connector(engine, source.format, making)
        raw = chain(connector.connect(shot, head=passing.head), passing.frames())
        count = making.write(raw, source.format, {"sora": shot.to_json()})
        told = {"verb": "reverse", "input": anchor, "frames": count, "given": [shot.frames, count]}
        making.finish(told, [range(shot.frames, count)])


def backwards(model: str) -> str:
    """The plan that goes back from the anchor step by step: key frames first would jump away from it."""
    usual = registry.entry(model).usage.plan
    return "autoregressive" if usual == "hierarchy" else usual
