"""What is said of a file: in a table, or beside it in NAME.txt or NAME.json. No torch."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sora_cli.dataset import footage
from sora_cli.errors import SoraError

TABLES = (".csv", ".jsonl")
BESIDE = (".txt", ".json")


@dataclass(frozen=True)
class Caption:
    text: str = ""
    source: str = ""             # the file that it is from


class Captions:
    """The captions of a folder's files. Those of a table come before those that lie beside."""

    def __init__(self, folder: Path, files: Iterable[str], table: Path | None = None) -> None:
        self.folder, self.files = folder, set(files)
        self.table = read_table(table, folder) if table else {}
        self.name = table.name if table else ""
        # by the name without its ending: what may be said beside a file, and of whom
        shown = [file for file in self.files if ending(file) in footage.VIDEOS + footage.IMAGES]
        self.owners = {str(PurePosixPath(file).with_suffix("")): file for file in sorted(shown)}

    @property
    def strangers(self) -> list[str]:
        """The files that the table names and that are not there."""
        return sorted(set(self.table) - self.files)

    def of(self, file: str) -> Caption:
        if file in self.table:
            return Caption(self.table[file], self.name)
        for suffix in BESIDE:
            beside = str(PurePosixPath(file).with_suffix(suffix))
            if beside in self.files and (text := read_beside(self.folder / beside)):
                return Caption(text, beside)
        return Caption()

    def owner(self, file: str) -> str:
        """The clip or picture whose caption this file may be; "" if it is nobody's."""
        return self.owners.get(str(PurePosixPath(file).with_suffix("")), "") if file.endswith(BESIDE) else ""


def ending(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def read_beside(path: Path) -> str:
    """The text of NAME.txt, or `caption` of NAME.json; "" for what is no caption."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text).get("caption", "") if path.suffix == ".json" else text
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return one_line(found) if isinstance(found, str) else ""


def one_line(text: str) -> str:
    return " ".join(text.split())


def read_table(path: Path, folder: Path) -> dict[str, str]:
    """`file` -> `caption` of a CSV file with these columns, or of a JSONL file with these keys; SoraError, naming the
    line, for anything else. Files are named as they lie below the folder."""
    if path.suffix.lower() not in TABLES:
        raise SoraError(f"--captions {path} must be a .csv or a .jsonl file with file and caption")
    found: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines) if path.suffix.lower() == ".csv" else map(json.loads, filter(str.strip, lines))
            for number, row in enumerate(rows, 1):
                told = [row.get(key) for key in ("file", "caption")] if isinstance(row, dict) else []
                if not told or not all(isinstance(value, str) for value in told):
                    raise SoraError(f"row {number} of {path} has no file and caption")
                found[below(str(told[0]), folder)] = one_line(str(told[1]))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise SoraError(f"--captions {path} cannot be read: {error}") from error
    return found


def below(name: str, folder: Path) -> str:
    """The name of a file as the scan has it: `./a/b.mp4` and the whole path are a/b.mp4."""
    path = Path(name)
    whole = folder.resolve()
    return path.relative_to(whole).as_posix() if path.is_relative_to(whole) else path.as_posix()
