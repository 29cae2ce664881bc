"""A batch at work: what of it is done, what is in the way, and job after job with one set of networks."""

import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from sora_cli.cli import jobs
from sora_cli.cli.asking import Item, words
from sora_cli.cli.batch_screen import BatchScreen, Outcome, attempt
from sora_cli.cli.jobs import Job, Networks
from sora_cli.cli.outputs import check_output
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError

Wrong = list[tuple[int, str]]  # numbers of lines, and what is wrong with them


class Ledger:
    """A file of JSON lines: outputs without a record that batches of this list began or finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, tuple[Any, bool]] = {}
        self.read()

    def read(self) -> None:
        """What is in the file, and in those of other shards and processes."""
        stem = glob.escape(self.path.name.split(".done")[0])
        for file in sorted(self.path.parent.glob(f"{stem}.done*.jsonl")):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    self.entries[entry["output"]] = entry["asked"], entry["made"]

    def knows(self, target: Target, made: bool) -> bool:
        """Whether this very output was made, or at least begun."""
        asked, finished = self.entries.get(target.name, (None, False))
        return asked is not None and finished >= made and asked == target.identity

    def add(self, target: Target, made: bool) -> None:
        if not target.keeps:
            append(self.path, {"output": target.name, "made": made, "asked": target.identity})


def append(path: Path, entry: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(json.dumps(entry) + "\n")


@dataclass
class Batch:
    """All jobs of a list, and those that this process makes."""

    items: list[Item]
    mine: list[Item]
    failed: Path
    ledger: Ledger
    screen: BatchScreen
    debug: bool
    networks: Networks = field(default_factory=Networks)

    @cached_property
    def left(self) -> list[Item]:
        """The jobs that are not done yet."""
        return [item for item in self.mine if not self.is_done(item.job.target)]

    def is_done(self, target: Target) -> bool:
        return target.done or (not target.keeps and target.there and self.ledger.knows(target, made=True))

    def wrong(self) -> Wrong:
        """The jobs that cannot be made, and why: outputs that overwrite each other, missing inputs, ..."""
        found = dict(clashes(self.items))
        for item in self.left:
            target = item.job.target
            left = target.there and target.resume_folder.exists()  # by a process that was killed
            if not target.keeps and left and self.ledger.knows(target, made=False):
                item.job = replace(item.job, target=replace(target, force=True))
            try:
                if item.line.number not in found:
                    item.job.check_output()
            except SoraError as error:
                found[item.line.number] = words(error)
        return list(found.items())

    def check_whole(self, sheet: Path | None, here: bool = True) -> None:
        """Refuse a batch that the disks have no room for, a bad --sheet and, if made `here`, missing models."""
        if sheet:
            check_output(sheet, (".png",), force=True)
            if any(real(str(sheet)) in written(item.job) for item in self.items):
                raise SoraError(f"--sheet {sheet} is the output of a line; give another name")
        left = [item.job for item in self.left]
        jobs.check_rooms(left)
        if here:
            jobs.check_models(left, self.screen.quiet)

    def run(self, work: "Work | None" = None) -> None:
        """Make the remaining jobs, here or with `work`; failed ones are retried once at the end."""
        self.failed.unlink(missing_ok=True)
        left, again = set(self.left), []
        with self.screen as screen:
            for item in (item for item in self.mine if item not in left):
                self.skip(item)
            for item, error in self.failures(self.left, work or self.alone):
                again.append(item)
                screen.event("retry", item, error)
            self.ledger.read()  # another process may have made them meanwhile
            for item, error in self.failures(again, work or self.alone):
                append(self.failed, item.again(error))
                screen.over("failed", item, error)
            screen.end()

    def failures(self, items: Sequence[Item], work: "Work") -> Iterator[tuple[Item, str]]:
        """Make the items; those that fail, and why."""
        for item, outcome in work(in_order(items), self.begin):
            for note in outcome.warnings:
                self.screen.warn(note)
            if outcome.error:
                yield item, outcome.error
            else:
                self.ledger.add(item.job.target, made=True)
                self.screen.over("made", item, str(outcome), outcome)

    def alone(self, items: Sequence[Item], begin: "Begin") -> Iterator[tuple[Item, Outcome]]:
        """The same, one by one in this process; a model reads the prompts of all its jobs before the first."""
        self.networks.texts = texts_of(items)
        for item in items:
            if begin(item):
                yield item, attempt(item.job, item.job.target, self.networks, self.screen, self.debug)

    def skip(self, item: Item) -> None:
        """Say that an item is made already, and remove what a killed process may have left beside it."""
        if item.job.target.resume_folder.exists():
            item.job.target.settle()
        self.screen.over("skipped", item, "is already done")

    def begin(self, item: Item) -> bool:
        """Say that work on an item begins, unless another process has made it meanwhile."""
        if self.is_done(item.job.target):
            self.skip(item)
            return False
        self.screen.begin(item)
        if not item.job.target.there:  # else it may be somebody's, and is not ours to overwrite the next time
            self.ledger.add(item.job.target, made=False)
        return True


Begin = Callable[[Item], bool]  # asked before each, and False for one that need not be made
Work = Callable[[Sequence[Item], Begin], Iterator[tuple[Item, Outcome]]]  # items as they end


def in_order(items: Sequence[Item]) -> list[Item]:
    """The items, grouped so that jobs with the same networks follow each other."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(item.job.networks, []).append(item)
    return [item for group in groups.values() for item in group]


def texts_of(items: Sequence[Item]) -> dict[str, list[str]]:
    """For each model, the prompts of its jobs, as far as they are known in advance."""
    found: dict[str, list[str]] = {}
    for item in items:
        if shot := item.job.target.asked.get("shot"):
            prompts = shot["captions"] or [shot["prompt"], *(cue["prompt"] for cue in shot["cues"])]
            found.setdefault(shot["model"], []).extend([*prompts, shot["negative"]])
    return {model: list(dict.fromkeys(texts)) for model, texts in found.items()}


def clashes(items: Sequence[Item]) -> Iterator[tuple[int, str]]:
    """Lines that write what another one writes or reads."""
    writers: dict[str, Item] = {}
    for item in items:
        for path in written(item.job):
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
                                         "put it in a separate batch that runs after this one")  # fmt: skip


def written(job: Job) -> list[str]:
    """All files that a job leaves, and its preview."""
    target = job.target
    beside = (target.record, target.latents) if target.keeps else ()
    preview = target.preview if job.showing.preview else None
    return [real(str(path)) for path in (target.path, *beside, *filter(None, [target.sheet, preview]))]


def named(item: Item, path: str) -> str:
    return item.name if path == real(item.name) else f"{Path(path).name} beside {item.name}"


def real(name: str) -> str:
    folder, last = os.path.split(name)
    return os.path.join(real_folder(os.path.join(os.getcwd(), folder)), last)


@cache
def real_folder(name: str) -> str:
    return os.path.realpath(name)
