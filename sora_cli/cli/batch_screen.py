"""What a batch shows: a bar over all jobs, a line for each that is over, and events in JSON; and what a job says of
itself, wherever it runs. No torch."""

import json
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import typer

from sora_cli.cli.asking import Item, words
from sora_cli.cli.jobs import Job, Networks
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError, counted


@dataclass
class Outcome:
    """How the work on one job ended."""

    error: str = ""  # what went wrong, "" if it is made
    record: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # notes that are not shown yet
    left: dict[str, int] = field(default_factory=dict)  # files that are to be brought from there: bytes by name

    def __str__(self) -> str:
        return f"{counted(self.record.get('frames', 0), 'frame')} in {self.record.get('wall', 0):.1f} s"


class Hearing(Screen):
    """A screen that collects the notes of one job."""

    def __init__(self, quiet: bool = True, preview: bool = False) -> None:
        super().__init__(quiet, preview)
        self.outcome = Outcome()

    def note(self, text: str) -> None:
        self.outcome.notes.append(text)

    def warn(self, text: str) -> None:
        self.outcome.warnings.append(text)

    def made(self, entry: dict[str, Any], as_json: bool = False) -> None:
        self.outcome.record = entry


def attempt(job: Job, target: Target, networks: Networks, screen: Hearing, debug: bool = False) -> Outcome:
    """Make one job; its failure becomes its outcome, so the other jobs continue."""
    screen.outcome = outcome = Outcome()
    try:
        job.check(target)  # what has come meanwhile is not overwritten
        job.make(target, networks, screen)
    except Exception as error:  # noqa: BLE001 a fault of ours, too, is one job's
        if debug:
            traceback.print_exc()
        if not isinstance(error, SoraError):
            networks.release()  # perhaps there was no memory left
        outcome.error = words(error)
    finally:
        screen.leave()
    return outcome


class BatchScreen(Hearing):
    """A bar over all jobs above those of the current one, and a line for each finished job."""

    def __init__(self, total: int, quiet: bool, as_json: bool, preview: bool) -> None:
        super().__init__(quiet, preview)
        self.as_json, self.total, self.counts = as_json, total, {"made": 0, "skipped": 0, "failed": 0}
        self.started = time.perf_counter()
        self.all = self.progress.add_task("batch", total=None)

    def warn(self, text: str) -> None:
        Screen.note(self, text)

    def count(self) -> int:
        """How many jobs are finished; also moves the bar."""
        done = sum(self.counts.values())
        self.progress.update(self.all, total=self.total, completed=done)
        return done

    def begin(self, item: Item) -> None:
        self.count()
        self.event("begin", item)

    def over(self, how: str, item: Item, why: str, outcome: Outcome | None = None) -> None:
        """A job is made, skipped or failed."""
        self.counts[how] += 1
        failed = "failed: " if how == "failed" else ""
        self.warn(f"[{self.count()}/{self.total}] {item.name}: {failed}{why}")
        self.event(how, item, why if how == "failed" else "", outcome)
        if not self.as_json and how != "failed" and not sys.stdout.isatty():
            typer.echo(item.name)

    def event(self, event: str, item: Item, error: str = "", outcome: Outcome | None = None) -> None:
        if event == "retry":
            self.warn(f"{item.name}: {error}; it is tried again at the end")
        if self.as_json:
            entry = {"event": event, "line": item.line.number, "output": item.name}
            more = {"record": outcome.record, "notes": outcome.notes} if outcome else {}
            self.say(entry | more | ({"error": error} if error else {}))

    def end(self) -> None:
        spent = time.perf_counter() - self.started
        self.warn(f"{', '.join(f'{count} {how}' for how, count in self.counts.items())} in {spent:.1f} s")
        if self.as_json:
            self.say({"event": "end", **self.counts, "seconds": round(spent, 3)})

    def say(self, entry: dict[str, Any]) -> None:
        typer.echo(json.dumps(entry))
        sys.stdout.flush()
