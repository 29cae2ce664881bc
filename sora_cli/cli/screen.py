"""What the user sees while it works: progress bars, notes and small pictures, all on stderr."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self, TypeVar

import numpy as np
import typer
from rich import progress
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.spinner import Spinner
from rich.text import Text

from sora_cli.cli.preview import Row
from sora_cli.errors import readable
from sora_cli.media import STREAM

Item = TypeVar("Item")


class Amount(progress.ProgressColumn):
    """A progress column: 3.5/11.4 GB for bytes, 3/50 for everything else."""

    bytes, count = progress.DownloadColumn(), progress.MofNCompleteColumn()

    def render(self, task: progress.Task) -> RenderableType:
        return (self.bytes if task.fields.get("bytes") else self.count).render(task)


class Bars(progress.Progress):
    """rich's progress bars, below a row of pictures and above a spinner with the current activity."""

    row: Row | None = None
    doing, since = "", 0.0

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.row is not None:
            yield self.row
        yield from super().get_renderables()
        if self.doing:
            minutes, seconds = divmod(int(self.get_time() - self.since), 60)
            yield Spinner("line" if self.console.options.ascii_only else "dots",
                          Text(f"{self.doing} {minutes}:{seconds:02}"))  # fmt: skip


class Screen:
    """A context manager around rich's progress; silent when quiet, and only notes when not a terminal.

    With `preview`, the frames given to `picture` are shown above the bars.
    """

    def __init__(self, quiet: bool = False, preview: bool = False) -> None:
        self.quiet, self.preview = quiet, preview
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True, emoji=False)
        self.progress = Bars(
            *self.columns(),
            console=self.console, disable=quiet or not self.console.is_terminal, transient=True,
            refresh_per_second=4 if preview else 10,
        )  # fmt: skip
        self.tasks: dict[str, progress.TaskID] = {}
        self.held = ExitStack()  # ends together with the screen, or with the job

    def columns(self) -> Sequence[progress.ProgressColumn]:
        return (progress.TextColumn("{task.description:12}"), progress.BarColumn(), Amount(),
                progress.TimeRemainingColumn())  # fmt: skip

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.held:  # also where the terminal is gone
            self.progress.stop()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Show the current activity while inside the block; starts the screen if it is not running yet."""
        before, alone = (self.progress.doing, self.progress.since), not self.progress.live.is_started
        self.progress.doing, self.progress.since = what, self.progress.get_time()
        if alone:
            self.progress.start()
        else:
            self.progress.refresh()
        try:
            yield
        finally:
            self.progress.doing, self.progress.since = before
            if alone:
                self.progress.stop()

    def note(self, text: str) -> None:
        self.console.print(escape(readable(" ".join(text.splitlines()))))

    def warn(self, text: str) -> None:
        """A note that a batch shows, too; its other notes go to the records."""
        self.note(text)

    def made(self, record: dict[str, Any], as_json: bool = False) -> None:
        """Print a finished output's name, or its record as JSON, on stdout; nothing for a pipe."""
        if record["output"] != STREAM:
            typer.echo(readable(json.dumps(record, ensure_ascii=False)) if as_json else record["output"])

    def picture(self, frames: Sequence[np.ndarray]) -> None:
        """With previews on, show frames, uint8 [h, w, 3] of one size, in place of the previous ones."""
        if self.preview and not self.progress.disable:
            self.progress.row = Row(frames)

    def show(self, stage: str, done: int, total: int) -> None:
        """Move the bar called `stage`; the first call creates it."""
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(escape(readable(stage)), total=total)
        self.progress.update(self.tasks[stage], completed=done, total=total)

    def read(self, what: str, done: int, total: int) -> None:
        """Move the bar of something that is being read (bytes or steps); removes it at the end."""
        if done < total:
            self.show(what, done, total)
            self.progress.update(self.tasks[what], bytes=total > 1_000_000)  # more are not a count
        elif what in self.tasks:
            self.progress.remove_task(self.tasks.pop(what))

    def track(self, items: Iterable[Item], stage: str, total: int | None = None) -> Iterator[Item]:
        """Yield the items and move the bar after each; `total` defaults to the items so far."""
        with self.doing(stage):
            for done, item in enumerate(items, 1):
                yield item
                self.show(stage, done, total or done)

    def leave(self) -> None:
        """End one job of many: clear its bars and exit what is `held`."""
        with self.held:
            self.clear()

    def clear(self) -> None:
        """Remove all bars and pictures, for the next video of a batch."""
        self.progress.row = None
        for task in self.tasks.values():
            self.progress.remove_task(task)
        self.tasks.clear()


def print_result(found: Any, as_json: bool, rows: Iterable[tuple[str, str]] = (), width: int = 0) -> None:
    """Print what was found on stdout: as JSON, or for people in rows of a name of so many letters and a value."""
    if as_json:
        typer.echo(readable(json.dumps(found, ensure_ascii=False, default=str)))
    for name, value in () if as_json else rows:
        typer.echo(f"{readable(name):<{width}} {readable(value)}")


class Transfers(Screen):
    """A screen whose bars count bytes."""

    def columns(self) -> Sequence[progress.ProgressColumn]:
        return (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn(),
                progress.TransferSpeedColumn(), progress.TimeRemainingColumn())  # fmt: skip
