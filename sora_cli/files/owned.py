"""Work that lasts, and whose it is.

A folder of work holds `lock`, which the process that works there has and which goes with it, and `identity.json`, which
says what the work is. Files appear whole: they are written under a name of this process, flushed and renamed, and what
processes that are gone have left under such names is removed.

    with Owned(folder, identity, "training run", "--fresh starts over") as own:  # SoraError says who works there
        own.begin()                                                             # SoraError says what differs
"""

import errno
import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from sora_cli.errors import Failed, SoraError

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK, IDENTITY = "lock", "identity.json"
LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what some network file systems say to a lock
HOLDERS = re.compile(r"(process \d+ on .*|(?P<process>\d+)\n(?P<host>.*)\n[\s\S]*)?")  # of both kinds of locks


def folder(name: str | Path) -> Path:
    """A folder of work by its name; SoraError for an empty one, which would be the current folder."""
    if name == "":
        raise SoraError("the name of the folder is empty; give a name, or . for this folder")
    return Path(name)


@dataclass
class Owned:
    """A folder of work. `kind` and `otherwise` are words of its refusals: what it holds, and what to do instead."""

    folder: Path
    identity: Any = None  # in JSON, all that determines the work
    kind: str = "work"
    otherwise: str = "give another folder"
    name: str = ""  # of the work, where it is not that of the folder, which is then ours, too

    # -- One process at a time ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        from filelock import Timeout

        try:
            ours = self.name or (self.folder / LOCK).exists()  # the lock of a process that is gone
            new = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            self.made = new or ([self.folder] if ours else [])
            try:
                self.lock = taken(self.folder / LOCK)
            except (FileNotFoundError, FileExistsError):  # the process before may have removed the folder just now
                self.lock = taken(self.folder / LOCK)
        except Timeout as error:
            gone = f", or delete {self.folder / LOCK} if it is gone" if "cannot probe" in str(error) else ""
            what = f"{self.name or self.folder} is in use by {self.holder()}"
            raise SoraError(f"{what}; wait until it ends{gone}") from None
        except OSError as error:
            raise Failed(f"could not write {self.folder}: {error.strerror or error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Let the next process in; nothing the second time."""
        if not self.lock.is_locked:
            return
        with suppress(OSError):  # where a file that is open cannot be removed
            (self.folder / LOCK).unlink(missing_ok=True)
        self.lock.release()
        with suppress(OSError):  # they hold something
            for path in self.made:
                path.rmdir()

    def check_free(self) -> None:
        """SoraError if another process works here; changes nothing."""
        if (self.folder / LOCK).exists():
            self.__enter__().lock.release()

    def holder(self) -> str:
        """The process that works here, in words."""
        with suppress(OSError, ValueError):
            if found := HOLDERS.fullmatch((self.folder / LOCK).read_text()):
                said = f"process {found['process']} on {found['host']}" if found["process"] else found[0]
                return said or "another process"
        return "another process"

    # -- One work in a folder -------------------------------------------------------------------------------

    def stored_identity(self) -> Any:
        """The identity of the work in the folder; None if there is none that can be read."""
        with suppress(OSError, ValueError, RecursionError):
            return json.loads((self.folder / IDENTITY).read_text(encoding="utf-8"))
        return None

    def check(self) -> None:
        """SoraError naming the first difference if the folder holds other work."""
        stored = self.stored_identity()
        if stored not in (None, self.identity):
            found = min(differences(stored, self.identity), key=lambda line: "..." in line)  # one that can be read
            raise SoraError(f"{self.folder} holds another {self.kind}: {found}; {self.otherwise}")

    def begin(self) -> None:
        """Say in the folder whose it is, or SoraError if it holds other work."""
        self.check()
        if self.stored_identity() is None:
            with suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
            content = json.dumps(self.identity, ensure_ascii=False, indent=1)
            with writing(self.folder / IDENTITY) as file:
                file.write(content.encode(errors="backslashreplace"))

    def remove(self, *patterns: str) -> None:
        """Remove what has such names, and then the identity and the folder itself if nothing else is in it."""
        remove(self.folder, *patterns, IDENTITY, f"{IDENTITY}.*.part")
        with suppress(OSError):
            self.folder.rmdir()

    @property
    def empty(self) -> bool:
        """Whether no work is in the folder: at most the lock of a process, or a part of one, which may be gone."""
        if not self.folder.exists():  # of a long list, most: a walk takes longer
            return True
        return all(path.name == LOCK or path.match(f"{LOCK}.*.part") or path.is_dir()
                   for path in self.folder.rglob("*"))  # fmt: skip


def remove(folder: Path, *patterns: str) -> None:
    """Remove files of such names below a folder, then folders of such names that hold nothing else, and nothing that
    links lead to."""
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        if not lies_in(folder, path):
            continue
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
        else:
            path.unlink(missing_ok=True)


def lies_in(folder: Path, path: Path) -> bool:
    """Whether a file or a link itself lies below a folder, wherever links in its path lead: it may be deleted there."""
    return Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(folder))  # links in a circle, too


def taken(path: Path) -> "BaseFileLock":
    """A lock, taken, in a folder that is made; filelock.Timeout if another process has it, SoraError for a file of
    somebody's that is none. A process that is killed loses it. On a file system without locks, the file itself is the
    lock, and says whose; then a process of this machine that is gone is noticed, one of another machine is not."""
    from filelock import FileLock, SoftFileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if not HOLDERS.fullmatch(path.read_bytes()[:200].decode(errors="replace")):
            raise SoraError(f"{path} is in the way: it is no lock of ours; give another folder")
    lock = FileLock(path) if lockable(path) else SoftFileLock(path)
    lock.acquire(timeout=0)
    if isinstance(lock, FileLock):
        path.write_text(f"process {os.getpid()} on {platform.node()}")
    return lock


def lockable(path: Path) -> bool:
    """Whether there are locks where a file lies: found out beside it, because a failed one would leave it empty."""
    from filelock import FileLock

    sweep(path)
    probe = part_of(path)
    try:
        with FileLock(probe, fallback_to_soft=False):
            return True
    except OSError as error:
        if error.errno in LOCKLESS:
            return False
        raise
    finally:
        probe.unlink(missing_ok=True)


def differences(stored: Any, asked: Any, name: str = "") -> list[str]:
    """What was asked then and is asked now, one line for each field that differs, however deep it lies."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = [*asked, *(key for key in stored if key not in asked)]  # as they are listed: the first tells most
        parts = [differences(stored.get(key), asked.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for part in parts for line in part]
    return [] if stored == asked else [f"{name or 'it'} was {short(stored)} and is now {short(asked)}"]


def short(value: Any, longest: int = 50) -> str:
    text = json.dumps(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


# ---- files that appear whole ------------------------------------------------------------------------------


def part_of(path: Path) -> Path:
    """The name under which this process writes `path` until it is complete."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that has a temporary name until it has reached the disk, whole."""
    part = part_of(path)
    try:
        sweep(path)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise Failed(f"could not write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what processes that are gone have left of `path`."""
    for name in os.listdir(path.parent):
        if name.endswith(".part") and name.startswith(path.name + "."):
            process = name.split(".")[-2]
            if re.fullmatch(r"\d{1,9}", process) and not alive(int(process)):
                path.with_name(name).unlink(missing_ok=True)


def alive(process: int) -> bool:
    """Whether there is a process of this number."""
    if sys.platform == "win32":
        return True  # to ask there is to end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is somebody else's
    return True
