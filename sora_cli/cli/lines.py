"""A list of jobs as people write it: JSON objects, a table, or prompts, a line each. No torch."""

import csv
import io
import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sora_cli.errors import Failed, SoraError, counted
from sora_cli.media import STREAM

JSONL, TABLES = (".jsonl", ".ndjson"), (".csv", ".tsv")
BRACES = re.compile(r"\{([^{}]*\|[^{}]*|-?\d+\.\.-?\d+(?:\.\.[1-9]\d*)?)\}")  # {cat|dog}, {0..9}, {0..90..30}
MOST = 100_000  # combinations of one line


@dataclass(frozen=True)
class Line:
    """A job as it is written: the number of its line and its options by name, or what is wrong with it."""

    number: int
    options: dict[str, Any]
    wrong: str = ""


def read(name: str) -> str:
    """The text of a list, from a file or from standard input (`-`); SoraError if there is none."""
    if name != STREAM and Path(name).is_dir():
        raise SoraError(f"{name} is a folder; give a list of jobs")
    if name != STREAM and not Path(name).exists():
        raise SoraError(f"there is no file {name}")
    try:
        raw = sys.stdin.buffer.read() if name == STREAM else Path(name).read_bytes()
    except OSError as error:
        raise Failed(f"could not read {name}: {error.strerror or error}") from error
    coding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return raw.decode(coding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SoraError(f"{name}:{line}: not valid {error.encoding.upper()}; save the list as UTF-8") from error


def lines(name: str, text: str, columns: Sequence[str]) -> list[Line]:
    """The jobs of a list, whose format its name or first line shows; `columns` are the ones a table may have."""
    suffix, first = Path(name).suffix.lower(), next((line for line in text.split("\n") if line.strip()), "")
    if suffix in JSONL or first.lstrip()[:1] in ("{", "["):
        found = objects(text)
    elif suffix in TABLES or delimiter(first, columns):
        found = rows(text, delimiter(first, columns) or ("\t" if suffix == ".tsv" else ","))
    else:
        found = prompts(text)
    if not (listed := list(found)):
        raise SoraError(f"{name} is empty; write a prompt, or a JSON object, on every line")
    return listed


def objects(text: str) -> Iterator[Line]:
    """One JSON object per line; a plain string is a prompt."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, object_pairs_hook=once)
        except SoraError as error:
            yield Line(number, {}, str(error))
            continue
        except (ValueError, RecursionError) as error:
            yield Line(number, {}, f'not JSON: {error}; write {{"prompt": "a cat surfing"}}')
            continue
        options = {"prompt": found} if isinstance(found, str) else found
        if isinstance(options, dict):
            yield Line(number, options)
        else:
            yield Line(number, {}, 'not a JSON object; write one a line, as {"prompt": "a cat surfing"}')


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different; SoraError otherwise."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key in found if [name for name, _ in pairs].count(key) > 1)
        raise SoraError(f"{twice!a} is given twice")
    return found


def delimiter(header: str, columns: Sequence[str]) -> str:
    """The separator of a header whose columns are all known; "" if the line is no such header."""
    for mark in ",;\t":
        names = [name.strip().strip('"') for name in header.split(mark)]
        if (len(names) > 1 or names == ["prompt"]) and all(plain(name) in columns for name in names):
            return mark
    return ""


def rows(text: str, mark: str) -> Iterator[Line]:
    """A table whose header names options. Empty cells mean the default; repeated columns form a list."""
    table = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    header: list[str] = []
    number = 1
    try:
        for row in table:
            if not header:
                header = [name.strip() for name in row]
            elif any(row):
                yield row_of(number, header, row)
            number = table.line_num + 1
    except csv.Error as error:
        yield Line(number, {}, f"not a table: {error}")


def row_of(number: int, header: Sequence[str], row: Sequence[str]) -> Line:
    if len(row) > len(header):
        wrong = f"{len(row)} cells for {counted(len(header), 'column')}"
        return Line(number, {}, f"{wrong}; put quotes around a text that contains a comma")
    cells: dict[str, Any] = {}
    for name, cell in zip(header, row, strict=False):
        if cell.strip():
            cells[name] = cell if header.count(name) == 1 else [*cells.get(name, []), cell]
    return Line(number, cells)


def prompts(text: str) -> Iterator[Line]:
    """One prompt per line; empty lines are skipped."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Line(number, {"prompt": line.strip()})


def plain(name: str) -> str:
    """The canonical name of an option: `--prompt-at`, `prompt-at` and `prompt_at` are the same."""
    return name.strip().lstrip("-").replace("-", "_")


def grid(line: Line, many: Sequence[str]) -> list[Line]:
    """All combinations of `{cat|dog}`, `{0..9}` and lists in a line; options in `many` take lists whole."""
    choices = {name: list(itertools.islice(alternatives(value, plain(name) in many), MOST + 1))
               for name, value in line.options.items()}  # fmt: skip
    if math.prod(map(len, choices.values())) > MOST:
        return [Line(line.number, {}, f"has more than {MOST} combinations; split it into several lines")]
    every = itertools.product(*choices.values())
    return [Line(line.number, dict(zip(choices, chosen, strict=True))) for chosen in every]


def alternatives(value: Any, many: bool) -> Iterator[Any]:
    """All the values that a pattern stands for, in written order."""
    if isinstance(value, list) and many:
        yield from map(list, itertools.product(*(alternatives(item, False) for item in value)))
    elif isinstance(value, list):
        for item in value:
            yield from alternatives(item, False)
    elif isinstance(value, str):
        parts = BRACES.split(value)  # text, choice, text, ...
        every = itertools.product(*(choices(part) if n % 2 else [part] for n, part in enumerate(parts)))
        yield from map("".join, every)
    else:
        yield value


def choices(inside: str) -> Sequence[str]:
    """`cat|dog` -> cat, dog; `0..90..30` -> 0, 30, 60, 90; downwards, too."""
    if "|" in inside:
        return inside.split("|")
    first, last, step = (int(number) for number in [*inside.split(".."), "1"][:3])
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [str(number) for number in numbers[: MOST + 1]]
