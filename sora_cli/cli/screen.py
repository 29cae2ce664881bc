"""What the user sees while it works: progress bars and notes, all on stderr."""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


class Screen:
    """A context manager around rich's progress; silent when quiet, and only notes when not a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.progress = Progress(
            TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=self.console, disable=quiet or not self.console.is_terminal, transient=True,
        )  # fmt: skip
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def note(self, text: str) -> None:
        self.console.print(escape(text))

    def show(self, stage: str, done: int, total: int) -> None:
        """Move the bar called `stage`, making it on first use."""
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total)
        self.progress.update(self.tasks[stage], completed=done, total=total)

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
        """The items, with the bar moved after each."""
        for done, item in enumerate(items, 1):
            yield item
            self.show(stage, done, total)

    def clear(self) -> None:
        """Take the bars away, for the next video of a batch."""
        for task in self.tasks.values():
            self.progress.remove_task(task)
        self.tasks.clear()
