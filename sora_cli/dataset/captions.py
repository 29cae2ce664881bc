"""What is said of the files of a folder: in a table, or beside them. No torch."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from pathlib import Path

from sora_cli.dataset import beside
from sora_cli.dataset.beside import Said
from sora_cli.errors import SoraError, counted
from sora_cli.media import is_footage

TABLES = {".csv": ",;\t|", ".tsv": "\t", ".jsonl": ""}   # and what may stand between their cells
FILE, CAPTION = ("file", "file_name"), ("caption", "text")


@dataclass(frozen=True)
class Caption:
    text: str = ""
    source: str = ""             # the file that it is from


class Captions:
    """The captions of a folder's files. Those of a table come before those that lie beside."""

    def __init__(self, folder: Path, files: Iterable[str], table: Path | None = None) -> None:
        self.folder, self.files = folder, set(files)
        self.name = table.name if table else ""
        self.guess = ""          # the encoding of the table, where that is one
        self.unmatched: list[str] = []  # what the table names and is not there
        self.table = self.read(table) if table else {}
        self.pairs = beside.pairs(self.files, filter(is_footage, self.files))
        # the clips and pictures whose captions such files may be
        self.owners = {side: file for file, sides in sorted(self.pairs.items()) for side in sides}

    def read(self, table: Path) -> dict[str, str]:
        """The captions of a table by the names of the files; SoraError if it is of none of them."""
        rows, self.guess = read_table(table)
        found: dict[str, str] = {}
        asked = Names(self.folder, self.files, table.parent)
        for where, name, caption in rows:
            file = asked.find(name)
            if file is None:
                self.unmatched.append(name)
            elif found.setdefault(file, caption) != caption:
                raise SoraError(f"{where} of {table} gives {name} a different caption than an earlier row")
        if not found:
            first = f"; the first file in it is {self.unmatched[0]}" if self.unmatched else ""
            raise SoraError(f"--captions {table} has no caption for any file of {self.folder}{first}")
        return {file: caption for file, caption in found.items() if caption}

    @cached_property
    def said(self) -> dict[str, Said]:
        """What every file says that lies beside a clip."""
        return {side: beside.read(self.folder / side) for side in self.owners}

    @property
    def wrong(self) -> dict[str, str]:
        """The files beside clips that are no captions, with the reasons."""
        return {side: said.wrong for side, said in sorted(self.said.items()) if said.wrong}

    @property
    def guesses(self) -> dict[str, str]:
        """The captions whose encoding is a guess, with that."""
        found = {side: said.guess for side, said in sorted(self.said.items()) if said.guess}
        return ({self.name: self.guess} if self.guess else {}) | found

    def of(self, file: str) -> Caption:
        if file in self.table:
            return Caption(self.table[file], self.name)
        for side in self.pairs.get(file, ()):
            if text := self.said[side].text:
                return Caption(text, side)
        return Caption()

    def others(self, file: str) -> list[str]:
        """The files beside a clip that say something else than its caption."""
        used = self.of(file)
        return [side for side in self.pairs.get(file, ()) if self.said[side].text not in ("", used.text)
                and used.source != self.name]  # fmt: skip


# ---- tables -----------------------------------------------------------------------------------------------


class Names:
    """Files by what a table calls them: below the folder, the working folder or the table's, or by full path."""

    def __init__(self, folder: Path, files: Iterable[str], home: Path) -> None:
        self.folder, self.homes = folder, (Path(), home)
        self.files = {beside.same(file): file for file in sorted(files)}

    def find(self, name: str) -> str | None:
        return next((self.files[form] for form in map(beside.same, self.forms(name)) if form in self.files), None)

    def forms(self, name: str) -> Iterator[str]:
        for given in dict.fromkeys((name, name.replace("\\", "/"))):
            yield os.path.normpath(given)
            for whole, home in product((os.path.abspath, os.path.realpath), self.homes):
                path, folder = Path(whole(home / given)), whole(self.folder)  # type: ignore[operator]
                if path.is_relative_to(folder):
                    yield path.relative_to(folder).as_posix()


Row = tuple[str, str, str]       # where it stands, a file, its caption


def read_table(path: Path) -> tuple[list[Row], str]:
    """The rows of a CSV or JSONL file with file and caption, and its encoding if guessed; SoraError by row."""
    if path.suffix.lower() not in TABLES:
        raise SoraError(f"--captions {path} must be a {', '.join(TABLES)} file with file and caption")
    try:
        text, guess = beside.decoded(path.read_bytes())
        rows = of_jsonl(text) if path.suffix.lower() == ".jsonl" else of_csv(text, TABLES[path.suffix.lower()])
        return list(rows), guess
    except (OSError, csv.Error, SoraError) as error:
        raise SoraError(f"--captions {path} cannot be read: {error}") from error


def of_csv(text: str, marks: str) -> Iterator[Row]:
    text, first = text.lstrip(), text.lstrip().partition("\n")[0]
    if said := re.fullmatch(r"sep=(.)\s*", first, re.IGNORECASE):  # as Excel says it
        text, marks = text[len(first) + 1 :], said[1]
    mark = max(marks, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True, skipinitialspace=True)
    columns = [cell.strip().lower() for cell in next(reader, [])]
    wanted = [columns.index(column(names, columns)) for names in (FILE, CAPTION)]
    for number, cells in enumerate(reader, 1):
        where = f"row {number}"
        while len(cells) > len(columns) and not cells[-1].strip():
            cells.pop()
        if not any(map(str.strip, cells)):
            continue
        if len(cells) != len(columns):
            hint = f"; quote captions with {mark!r}" if len(cells) > len(columns) else ""
            raise SoraError(f"{where} has {counted(len(cells), 'cell')} for {counted(len(columns), 'column')}{hint}")
        yield named(where, *(cells[index].strip() for index in wanted))


def column(names: tuple[str, ...], columns: list[str]) -> str:
    """Which of the names a table uses; SoraError if it has none, or one twice, or several."""
    found = only(names, columns)
    if found is None:
        raise SoraError(f"it has no column {names[0]}; its columns are {few(filter(None, columns)) or 'none'}")
    if columns.count(found) > 1:
        raise SoraError(f"it has {columns.count(found)} columns named {found}")
    return found


def only(names: tuple[str, ...], there: Iterable[str]) -> str | None:
    """The one of several names that is there; SoraError if more are, since nobody says which is meant."""
    found = [name for name in names if name in there]
    if len(found) > 1:
        raise SoraError(f"it has {' and '.join(found)}, which mean the same; leave one out")
    return found[0] if found else None


def few(names: Iterable[str]) -> str:
    """The first of what strangers call things, fit for a line."""
    return ", ".join(beside.one_line(name)[:40] for name in islice(names, 8))


def of_jsonl(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            found = json.loads(line, object_pairs_hook=beside.once)
            values = [found.get(only(names, found)) for names in (FILE, CAPTION)] if isinstance(found, dict) else []
        except SoraError as error:
            raise SoraError(f"{where}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise SoraError(f"{where} is not JSON ({str(error).partition(':')[0]})") from error
        if not values:
            raise SoraError(f"{where} is not an object with file and caption")
        for names, value in zip((FILE, CAPTION), values, strict=True):
            if not isinstance(value, str):
                raise SoraError(f"{where} has no text for {names[0]}; its keys are {few(found)}")
        yield named(where, *map(str, values))


def named(where: str, file: str, caption: str) -> Row:
    if not file:
        raise SoraError(f"{where} names no file")
    return where, file, beside.one_line(caption)
