"""The jobs of a server, on the disk: what is asked, how far it is, and what came of it.

    FOLDER/lock, identity.json        one server at a time (files/owned.py)
    FOLDER/video_ID/job.json          written last when a job comes and removed first when it goes
                    reference.png     what a client uploaded
                    result.mp4        and its windows in result.mp4.resume while it is made
                    thumbnail.webp

A folder without job.json is no job, whatever else it holds, and is removed at the next start.
"""

import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sora_cli.cli.serve.limits import Limits
from sora_cli.cli.serve.refusal import Refusal
from sora_cli.errors import SoraError
from sora_cli.files.owned import IDENTITY, LOCK, writing

VIDEO, IMAGE = "video", "image"
QUEUED, RUNNING, COMPLETED, FAILED = "queued", "in_progress", "completed", "failed"
ID = re.compile(rf"({VIDEO}|{IMAGE})_[0-9a-f]{{32}}")
RECORD = "job.json"
MOST_BEGUN = 3  # a job that took the server down so often is not begun again
PASSED_OVER = 8  # times that jobs of the loaded model go before an older one of another


@dataclass
class Work:
    """One video or image: `settings` are fields of its Shot, times are seconds since 1970."""

    id: str
    kind: str
    model: str  # as clients call it
    prompt: str
    settings: dict[str, Any]
    reference: str = ""  # the name of the uploaded picture in the job's folder
    remixed_from: str = ""
    created: float = 0.0
    completed: float = 0.0
    status: str = QUEUED
    begun: int = 0
    error: str = ""
    size: int = 0  # bytes of what is kept
    progress: int = field(default=0, compare=False)
    gone: bool = field(default=False, compare=False)  # deleted, perhaps while it is made

    @property
    def over(self) -> bool:
        return self.status in (COMPLETED, FAILED)

    @property
    def result(self) -> str:
        return "result.mp4" if self.kind == VIDEO else "result.png"


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(16)}"


class Store:
    """All jobs by their ids, oldest first; methods may be called from any thread."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self.works: dict[str, Work] = {}
        self.changed = threading.Condition(threading.RLock())
        self.writing = threading.Lock()  # of records, which may take as long as a disk does
        self.reserved, self.closed, self.passed = 0, False, 0
        self.lasted = 30.0  # seconds of a job, a moving average

    def check(self) -> None:
        """SoraError if the folder holds other files."""
        if not (self.folder / IDENTITY).exists() and any(path.name != LOCK for path in self.folder.iterdir()):
            raise SoraError(f"--dir {self.folder} holds other files; give an empty folder, or a new one")

    def folder_of(self, work: Work) -> Path:
        return self.folder / work.id

    def file(self, work: Work, name: str) -> Path:
        return self.folder / work.id / name

    def load(self, warn: Callable[[str], None]) -> None:
        """Load the jobs of an earlier server. Started ones are queued again; unfinished images are dropped."""
        found: list[Work] = []
        for folder in self.folder.iterdir():
            if not ID.fullmatch(folder.name) or not folder.is_dir() or folder.is_symlink():
                continue
            if not (folder / RECORD).exists():
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                found.append(read(folder))
            except (OSError, ValueError, TypeError, RecursionError):
                warn(f"{folder / RECORD} cannot be read; its job is skipped")
        for work in sorted(found, key=lambda one: one.created):
            if work.kind == IMAGE and not work.over:
                self.erase(work)
                continue
            if work.status == RUNNING:
                work.status = QUEUED
            if not work.over and work.begun >= MOST_BEGUN:
                self.fail(work, f"was started {work.begun} times, and the server stopped each time")
            self.works[work.id] = work
        self.prune()

    @contextmanager
    def room(self, count: int = 1) -> Iterator[None]:
        """Reserve places in the queue while jobs are being prepared; Refusal (429) if it is full."""
        with self.changed:
            if self.closed:
                raise Refusal(503, "the server is shutting down; try again soon", "shutting_down")
            waiting = len(self.queued)
            if waiting + self.reserved + count > self.limits.max_queue:
                wait = str(round(min(60, max(1, self.lasted))))
                raise Refusal(429, f"{waiting} jobs are already waiting; try again in {wait} s", "queue_full",
                              headers={"Retry-After": wait})  # fmt: skip
            self.reserved += count
        try:
            yield
        finally:
            with self.changed:
                self.reserved -= count

    @property
    def queued(self) -> list[Work]:
        return [work for work in self.works.values() if work.status == QUEUED]

    def add(self, work: Work) -> None:
        """Queue a job whose folder is complete."""
        with self.changed:
            newest = max((other.created for other in self.works.values()), default=0.0)
            work.created = max(time.time(), newest + 1e-3)  # an order that outlives a restart
        self.save(work)
        with self.changed:
            self.works[work.id] = work
            self.changed.notify_all()

    def get(self, id: str, kind: str) -> Work | None:
        with self.changed:
            work = self.works.get(id)
        return work if work and work.kind == kind else None

    def listed(self, kind: str) -> list[Work]:
        with self.changed:
            return [work for work in self.works.values() if work.kind == kind]

    def position(self, work: Work) -> int:
        """How many are queued before it."""
        with self.changed:
            return sum(other.created < work.created for other in self.queued)

    def remove(self, work: Work) -> None:
        """Remove a job. A running one stops at its next step, and its folder goes then."""
        with self.changed:
            work.gone = True
            running = work.status == RUNNING
            self.works.pop(work.id, None)
        with self.writing:
            self.file(work, RECORD).unlink(missing_ok=True)
        if not running:
            self.erase(work)

    def erase(self, work: Work) -> None:
        self.file(work, RECORD).unlink(missing_ok=True)  # first: what is left without it is nobody's
        shutil.rmtree(self.folder_of(work), ignore_errors=True)

    def take(self, loaded: str) -> Work | None:
        """Wait for the oldest job, or the oldest of the `loaded` model, and start it; None when the server stops."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.queued)
            if self.closed:
                return None
            work = self.chosen(self.queued, loaded)
            work.status, work.begun, work.progress = RUNNING, work.begun + 1, 0
        try:
            self.save(work)
        except SoraError:
            with self.changed:
                work.status, work.begun = QUEUED, work.begun - 1
            raise
        return work

    def chosen(self, queued: list[Work], loaded: str) -> Work:
        alike = next((work for work in queued if work.model == loaded), queued[0])
        self.passed = 0 if alike is queued[0] or self.passed >= PASSED_OVER else self.passed + 1
        return alike if self.passed else queued[0]

    def finish(self, work: Work, seconds: float) -> None:
        work.size = sum(path.stat().st_size for path in self.folder_of(work).rglob("*") if path.is_file())
        self.lasted += (seconds - self.lasted) / 4
        self.settle(work, COMPLETED)
        self.prune()

    def fail(self, work: Work, error: str) -> None:
        work.error = error
        self.settle(work, FAILED)

    def settle(self, work: Work, status: str) -> None:
        """End a job, on disk first. If that fails, it counts as failed until the server restarts."""
        work.completed = time.time()
        try:
            self.save(work, status)
        except SoraError:
            status, work.error = FAILED, work.error or "the server could not write it; its disk may be full"
        with self.changed:
            work.status, work.progress = status, 100 if status == COMPLETED else work.progress
            gone = work.gone
        if gone:
            self.erase(work)

    def prune(self) -> None:
        """Remove the oldest results beyond what is kept, never the newest one."""
        with self.changed:
            done = sorted((work for work in self.works.values() if work.over), key=lambda one: one.completed)
        keep, room = self.limits.keep, round(self.limits.keep_disk * 1e6)
        while len(done) > 1 and (len(done) > keep or sum(one.size for one in done) > room):
            self.remove(done.pop(0))

    def save(self, work: Work, status: str = "") -> None:
        state = asdict(work) | {"status": status or work.status}
        for name in ("progress", "gone"):
            del state[name]
        content = json.dumps(state, ensure_ascii=False, indent=1).encode(errors="backslashreplace")
        with self.writing:
            if work.gone:  # its record stays removed
                return
            with writing(self.file(work, RECORD)) as file:
                file.write(content)

    def close(self) -> None:
        """Accept and start no more jobs; the running one stops at its next step and continues at the next start."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def read(folder: Path) -> Work:
    """The job in a folder; ValueError or TypeError if there is none."""
    work = Work(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    strings = (work.id, work.kind, work.model, work.prompt, work.reference, work.status)
    if work.id != folder.name or not all(isinstance(one, str) for one in strings) or "/" in work.reference:
        raise ValueError("not the job of this folder")
    if work.status == COMPLETED and not (folder / work.result).is_file():
        raise ValueError("its result is gone")
    work.progress = 100 if work.status == COMPLETED else 0
    return work
