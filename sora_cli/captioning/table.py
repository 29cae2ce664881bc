"""A table of captions as it grows: a JSON line a file, appended as it comes, so that a stop costs one caption.

Beside an unfinished table lies NAME.resume, which says how it is made. The same command goes on with it.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from sora_cli.errors import SoraError
from sora_cli.files.owned import Owned


class Table:
    """The table at `path`, made as `identity` says; `force` starts over. A context manager that locks the table."""

    def __init__(self, path: Path, identity: dict[str, Any], force: bool = False) -> None:
        self.path, self.force = path, force
        self.own = Owned(path.with_name(path.name + ".resume"), identity, "table", "--force starts over", str(path))
        self.rows: dict[str, dict[str, Any]] = {}
        self.file: BinaryIO | None = None
        self.whole = 0  # bytes of whole lines

    def check(self) -> None:
        """Refuse, before any work, a table that is finished, has other settings, or is in use."""
        self.own.check_free()
        if self.force:
            return
        if self.path.exists() and self.own.stored_identity() is None:
            raise SoraError(f"{self.path} already exists; --force overwrites it, -o names another file")
        self.own.check()

    def __enter__(self) -> Self:
        self.own.__enter__()
        if not self.force:
            self.read()
        return self

    def read(self) -> None:
        """Read the existing lines, without an incomplete last one; SoraError for one that is not a row."""
        with suppress(FileNotFoundError), self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    row = self.row(number, line)
                    self.rows[row["file"]] = row
                    self.whole += len(line)

    def row(self, number: int, line: bytes) -> dict[str, Any]:
        with suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError):
            found: dict[str, Any] = json.loads(line)
            if isinstance(found["file"], str) and found["caption"].strip():
                return found
        raise SoraError(f"{self.path} has no row of a table in line {number}; mend it, or --force starts over")

    def begin(self) -> BinaryIO:
        """The file, to be appended to; an older table goes when the first caption of a new one is there."""
        if self.force:
            self.own.remove()
        self.own.begin()
        file = self.path.open("ab")
        file.truncate(self.whole)
        return file

    def add(self, row: dict[str, Any]) -> None:
        """Append one file's caption; when this returns, it is on disk."""
        self.file = self.file or self.begin()
        self.rows[row["file"]] = row
        self.file.write(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def finish(self) -> None:
        self.own.remove()

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.file.close()
        self.own.leave()
