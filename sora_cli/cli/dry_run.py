"""`--dry-run`: what a run would refuse, note and take is printed, and nothing is made. No torch."""

import json
from collections.abc import Sequence
from dataclasses import replace

import typer
from rich.console import Console

from sora_cli import geometry, media
from sora_cli.cli.filming import Order
from sora_cli.cli.jobs import Job
from sora_cli.cli.screen import Screen
from sora_cli.placement.estimate import Estimate
from sora_cli.sampling.planner import Window


def show_plan(order: Order, jobs: Sequence[Job]) -> list[Job]:
    """The notes, windows and cost of the first video of an order; there is nothing left to make."""
    from sora_cli.pipelines import prompt_notes

    check(jobs)
    first = jobs[0]
    with Screen(first.showing.quiet) as screen:
        plain = isinstance(order.expansion.mode, str)
        shots = order.expansion.captioned(order.shots, screen) if plain else order.shots
        take = replace(order.first, shot=shots[0])
        for note in (*order.notes(), *take.plan.notes(prompt_notes.notes(take.entry, take.shot))):
            screen.note(note)
    show_cost(take.cost(first.compute), take.plan.windows, take.retiming, first.target.as_json)
    return []


def show_job(job: Job) -> list[Job]:
    """The cost of a job; there is nothing left to make."""
    check([job])
    assert job.cost
    show_cost(job.cost(), as_json=job.target.as_json)
    return []


def check(jobs: Sequence[Job]) -> None:
    """Refuse what a run would refuse, but for files that are there: nothing is written."""
    for job in jobs:
        job.check(replace(job.target, force=True))
        assert job.needs  # or a line says what there is not


def show_cost(cost: Estimate, windows: Sequence[Window] = (), rates: media.Retiming | None = None,
              as_json: bool = False) -> None:  # fmt: skip
    """Print the windows of a shot, as far as they are known, and what they cost on this machine."""
    if as_json:
        more: dict[str, object] = {"plan": [vars(window) for window in windows]} if windows else {}
        more |= {"rate": rates.record()} if rates else {}
        typer.echo(json.dumps(cost.to_dict() | more))
        return
    if rates:
        typer.echo(rates.note())
    for number, window in enumerate(windows, 1):
        typer.echo(f"window {number:3}: makes {spelled(window.latent)}, sees {spelled(window.observed) or 'nothing'}")
    Console(highlight=False).print(cost.table())


def spelled(frames: Sequence[int]) -> str:
    """(0, 1, 2, 5) -> "0-2 5": latent frames, for a line of text."""
    return " ".join("-".join(dict.fromkeys(f"{end}" for end in (run[0], run[-1]))) for run in geometry.runs(frames))
