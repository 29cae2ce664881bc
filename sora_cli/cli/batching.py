"""A batch at work: what of it is done, what is in the way, and job after job with one set of networks."""

import glob
import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import typer

from sora_cli.cli import jobs
from sora_cli.cli.asking import words
from sora_cli.cli.jobs import Job, Networks
from sora_cli.cli.lines import Line, plain
from sora_cli.cli.making import Target
from sora_cli.cli.outputs import check_output
from sora_cli.cli.screen import Screen
from sora_cli.errors import SoraError
from sora_cli.plurals import counted

Wrong = list[tuple[int, str]]  # numbers of lines, and what is wrong with them


@dataclass(eq=False)
class Item:
    """A job of a batch and the line that asks for it."""

    line: Line
    job: Job

    @property
    def name(self) -> str:
        return self.job.target.name

    def shard(self, parts: int) -> int:
        """Which of so many parts it belongs to: that hangs on its output alone, whatever else is in the list."""
        digest = hashlib.sha256(self.name.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % parts

    def again(self, error: str) -> dict[str, Any]:
        """The job as a line of a list, and why it failed."""
        asked = self.job.target.asked
        told = {plain(name): value for name, value in self.line.options.items()}
        for one in ("o", "n", "count"):  # of several that a line asks for, this one
            told.pop(one, None)
        fixed = {"seed": asked["shot"]["seed"]} if "shot" in asked else {}
        fixed |= {"count": 1} if asked["verb"] == "generate" else {}
        more = {"verb": asked["verb"], "output": self.name, "line": self.line.number, "error": error}
        return told | fixed | more


class Ledger:
    """Outputs that have no record beside them, as batches of one list began and made them: a JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, tuple[Any, bool]] = {}
        stem = glob.escape(path.name.split(".done")[0])
        for file in sorted(path.parent.glob(f"{stem}.done*.jsonl")):  # of other shards, too
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    told = json.loads(line)
                    self.known[told["output"]] = told["asked"], told["made"]

    def knows(self, target: Target, made: bool) -> bool:
        """Whether this very output was made, or at least begun."""
        asked, finished = self.known.get(target.name, (None, False))
        return asked is not None and finished >= made and asked == target.identity

    def add(self, target: Target, made: bool) -> None:
        if not target.keeps:
            append(self.path, {"output": target.name, "made": made, "asked": target.identity})


def append(path: Path, told: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(json.dumps(told) + "\n")


@dataclass
class Batch:
    """A list of jobs, and those of them that are made here."""

    items: list[Item]
    mine: list[Item]
    failed: Path
    done: Path
    screen: "BatchScreen"
    debug: bool = False
    failures: int = 0

    def __post_init__(self) -> None:
        self.ledger, self.networks = Ledger(self.done), Networks()
        self.screen.total = len(self.mine)

    # -- before -----------------------------------------------------------------------------------------------

    @cached_property
    def left(self) -> list[Item]:
        """What is not done yet."""
        return [item for item in self.mine if not self.is_done(item.job.target)]

    def is_done(self, target: Target) -> bool:
        return target.done or (not target.keeps and target.there and self.ledger.knows(target, made=True))

    def wrong(self) -> Wrong:
        """What cannot be made, and why: outputs that are in the way of one another, inputs that are missing, ..."""
        found = dict(clashes(self.items))
        for item in self.left:
            target = item.job.target
            if not target.keeps and target.there and self.ledger.knows(target, made=False):
                item.job = replace(item.job, target=replace(target, force=True))  # a process that was killed left it
            try:
                if item.line.number not in found:
                    item.job.check(item.job.target)
            except SoraError as error:
                found[item.line.number] = words(error)
        return list(found.items())

    def check_whole(self, sheet: Path | None) -> None:
        """Refuse what disks have no room for, models that are not here, and a sheet that cannot be drawn."""
        if sheet:
            check_output(sheet, (".png",), force=True)
            if any(real(str(sheet)) in written(item.job.target) for item in self.items):
                raise SoraError(f"--sheet {sheet} is the output of a line; give another name")
        left = [item.job for item in self.left]
        jobs.check_rooms(left)
        jobs.check_models(left, self.screen.quiet)

    # -- the work ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Make what is left; what fails is tried once more at the end."""
        self.failed.unlink(missing_ok=True)
        left, again = set(self.left), []
        with self.screen as screen:
            for item in (item for item in self.mine if item not in left):
                if item.job.target.begun.exists():
                    item.job.target.settle()
                screen.over("skipped", item, "is made already")
            for item in in_order(self.left):
                if error := self.attempt(item):
                    again.append(item)
                    screen.event("retry", item, error)
            for item in in_order(again):
                if error := self.attempt(item):
                    self.fail(item, error)
            screen.end()

    def attempt(self, item: Item) -> str:
        """Make one; returns what went wrong. Nothing that one job does stops the others."""
        target, screen = item.job.target, self.screen
        if self.is_done(target):  # by another process, meanwhile
            screen.over("skipped", item, "is made already")
            return ""
        screen.begin(item)
        try:
            item.job.check(target)  # what has come meanwhile is not overwritten
            self.ledger.add(target, made=False)
            item.job.make(target, self.networks, screen)
            self.ledger.add(target, made=True)
        except Exception as error:  # noqa: BLE001 a fault of ours, too, is one job's
            if self.debug:
                traceback.print_exc()
            if not isinstance(error, SoraError):
                self.networks.release()  # perhaps there was no memory left
            return words(error)
        finally:
            screen.leave()
        screen.over("made", item, screen.said())
        return ""

    def fail(self, item: Item, error: str) -> None:
        self.failures += 1
        append(self.failed, item.again(error))
        self.screen.over("failed", item, error)


def in_order(items: Sequence[Item]) -> list[Item]:
    """Those that want the same networks one after another, as they come."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(item.job.networks, []).append(item)
    return [item for group in groups.values() for item in group]


# ---- what is in the way of what ---------------------------------------------------------------------------


def clashes(items: Sequence[Item]) -> Iterator[tuple[int, str]]:
    """Lines that write what another one writes or reads."""
    writers: dict[str, Item] = {}
    for item in items:
        for path in written(item.job.target):
            first = writers.setdefault(path, item)
            if first is not item:
                yield item.line.number, (f"{named(item, path)} is also written by line {first.line.number}; "
                                         "{line}, {seed} or {prompt} in the output tells them apart")  # fmt: skip
                break
    for item in items:
        for source in item.job.target.sources:
            writer = writers.get(real(source))
            if writer is not None and writer is not item:
                yield item.line.number, (f"reads {source}, which line {writer.line.number} makes; "
                                         "give it to a batch of its own, after this one")  # fmt: skip


def written(target: Target) -> list[str]:
    """All files that a target leaves."""
    beside = (target.record, target.latents) if target.keeps else ()
    return [real(str(path)) for path in (target.path, *beside, *filter(None, [target.sheet]))]


def named(item: Item, path: str) -> str:
    return item.name if path == real(item.name) else f"{Path(path).name} beside {item.name}"


def real(name: str) -> str:
    folder, last = os.path.split(name)
    return os.path.join(real_folder(os.path.join(os.getcwd(), folder)), last)


@cache
def real_folder(name: str) -> str:
    return os.path.realpath(name)


# ---- what is shown ----------------------------------------------------------------------------------------


@dataclass
class Counts:
    made: int = 0
    skipped: int = 0
    failed: int = 0

    @property
    def over(self) -> int:
        return self.made + self.skipped + self.failed


class BatchScreen(Screen):
    """A bar over all jobs above those of the one at work, and a line for each that is over. What jobs note is in their
    records."""

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        super().__init__(quiet)
        self.as_json, self.total, self.counts = as_json, 0, Counts()
        self.notes: list[str] = []
        self.found: dict[str, Any] = {}
        self.started = time.perf_counter()
        self.all = self.progress.add_task("batch", total=None)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        super().note(text)

    def made(self, told: dict[str, Any], as_json: bool = False) -> None:
        self.found = told

    def said(self) -> str:
        return f"{counted(self.found.get('frames', 0), 'frame')} in {self.found.get('wall', 0):.1f} s"

    def begin(self, item: Item) -> None:
        self.notes, self.found = [], {}
        self.progress.update(self.all, total=self.total, completed=self.counts.over)
        self.event("begin", item)

    def leave(self) -> None:
        """Let go of what a job held."""
        self.clear()
        self.held.close()

    def over(self, how: str, item: Item, why: str) -> None:
        """A job is made, skipped or failed."""
        setattr(self.counts, how, getattr(self.counts, how) + 1)
        self.progress.update(self.all, total=self.total, completed=self.counts.over)
        failed = "failed: " if how == "failed" else ""
        super().note(f"[{self.counts.over}/{self.total}] {item.name}: {failed}{why}")
        self.event(how, item, why if how == "failed" else "")
        if not self.as_json and how != "failed" and not sys.stdout.isatty():
            typer.echo(item.name)

    def event(self, event: str, item: Item, error: str = "") -> None:
        if event == "retry":
            super().note(f"{item.name}: {error}; it is tried again at the end")
        if self.as_json:
            told = {"event": event, "line": item.line.number, "output": item.name}
            more = {"record": self.found, "notes": self.notes} if event == "made" else {}
            self.say(told | more | ({"error": error} if error else {}))

    def end(self) -> None:
        spent = time.perf_counter() - self.started
        counts = vars(self.counts)
        super().note(f"{', '.join(f'{count} {how}' for how, count in counts.items())} in {spent:.1f} s")
        if self.as_json:
            self.say({"event": "end", **counts, "seconds": round(spent, 3)})

    def say(self, told: dict[str, Any]) -> None:
        typer.echo(json.dumps(told))
        sys.stdout.flush()
