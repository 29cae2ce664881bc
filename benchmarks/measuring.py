"""What the benchmarks share: commands with their time and memory, scenes to ask for, and results kept so that
a benchmark continues where it was stopped."""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from sora_cli import registry

PROC = Path("/proc")
SAMPLES_A_SECOND = 20
PROGRAM = (sys.executable, "-m", "sora_cli")

Row = dict[str, Any]


# ---- commands ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A command that has run: its stdout, seconds of wall time, and peak resident bytes with its children."""

    said: str
    wall: float
    peak: int


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run (none where there is no /proc)."""
    found: list[int] = []
    for path in (PROC / str(pid) / "task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:      # the thread, or the whole process, has just ended
            continue
    return found


def resident(pid: int) -> int:
    """Bytes that a process and its descendants hold in memory now (0 where there is no /proc)."""
    try:
        status = (PROC / str(pid) / "status").read_text()
    except OSError:
        return 0
    own = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")]
    return sum(own) + sum(map(resident, children(pid)))


def measure(words: Sequence[str], source: IO[bytes] | None = None, thrown_away: bool = False) -> Measured:
    """Run `sora-cli` with these words to its end; what it says on stderr is passed on, and what it says on
    stdout may be `thrown_away`. SystemExit if it fails."""
    with tempfile.TemporaryFile() as said:       # a pipe that nobody reads meanwhile would fill up
        started, peak = time.perf_counter(), 0
        process = subprocess.Popen([*PROGRAM, *words], stdin=source, stdout=subprocess.DEVNULL if thrown_away else said)
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(1 / SAMPLES_A_SECOND)
        wall = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"sora-cli {' '.join(words)} ended with {process.returncode}")
        said.seek(0)
        return Measured(said.read().decode(), wall, peak)


# ---- results ----------------------------------------------------------------------------------------------


class Ledger:
    """Rows of results by all that determines them, a JSON line each in `path`; without one, nothing is kept."""

    def __init__(self, path: Path | None, model: str) -> None:
        self.path = path
        self.weights = [file.sha256 for file in registry.entry(model).files]
        lines = path.read_text().splitlines() if path and path.is_file() else []
        self.rows = {told["key"]: told["row"] for told in map(json.loads, lines)}

    def row(self, what: Row, make: Callable[[], Row]) -> Row:
        """The row for `what`: the one that is kept, or a new one, which is kept from now on."""
        key = hashlib.sha256(json.dumps([what, self.weights], sort_keys=True).encode()).hexdigest()
        if key not in self.rows:
            self.rows[key] = make()
            if self.path:
                with self.path.open("a") as file:
                    file.write(json.dumps({"key": key, "what": what, "row": self.rows[key]}) + "\n")
        return self.rows[key]


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have; the module's docstring is the help text."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--model", default="pocket")
    made.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return made


def with_ledger(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    made.add_argument("--keep", type=Path, metavar="FILE",
                      help="add every result to FILE as it comes, and continue from those that are there")  # fmt: skip
    return made


def show(found: Row, tables: Sequence[Table], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    for table in tables:
        Console().print(table)


def grid(title: str, *columns: str) -> Table:
    """An empty table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def note(text: str) -> None:
    """A line on the way, on stderr."""
    print(text, file=sys.stderr, flush=True)
