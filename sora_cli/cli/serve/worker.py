"""The one worker: job after job with one set of networks, as a batch has it, in a thread beside the server."""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from sora_cli import media
from sora_cli.cli.asking import words
from sora_cli.cli.jobs import Networks
from sora_cli.cli.screen import Screen
from sora_cli.cli.serve.orders import Orders
from sora_cli.cli.serve.store import VIDEO, Store, Work
from sora_cli.errors import SoraError
from sora_cli.placement.machine import short_of

PARTS = {"denoise": (0, 75), "write": (75, 99)}  # per cent of a job
THUMBNAIL, LONGEST_SIDE = "thumbnail.webp", 480
PATIENCE = 1.0  # seconds that a fault of the disk is given before the next job


class Stopped(Exception):
    """The job was deleted, or the server stops."""


class Progress(Screen):
    """Writes a job's progress to its record, and stops a deleted job by raising Stopped."""

    def __init__(self, store: Store, log: Callable[[str], None]) -> None:
        super().__init__(quiet=True)
        self.store, self.log = store, log
        self.work: Work | None = None

    def show(self, stage: str, done: int, total: int) -> None:
        if self.store.closed or (self.work and self.work.gone):
            raise Stopped
        if self.work and stage in PARTS:
            first, last = PARTS[stage]
            self.work.progress = max(self.work.progress, first + (last - first) * done // max(total, 1))

    def read(self, what: str, done: int, total: int) -> None:
        """Reading weights can be stopped, but does not count as progress."""
        self.show(what, done, total)

    def warn(self, text: str) -> None:
        self.log(text)

    def made(self, record: dict[str, Any], as_json: bool = False) -> None:
        pass


class Worker(threading.Thread):
    """Makes the jobs of the store, one by one, until it is stopped."""

    def __init__(self, orders: Orders, log: Callable[[str], None], debug: bool = False) -> None:
        super().__init__(name="worker", daemon=True)
        self.store, self.orders, self.log, self.debug = orders.store, orders, log, debug
        self.networks, self.screen, self.loaded = Networks(), Progress(self.store, log), ""

    def run(self) -> None:
        while True:
            try:
                work = self.store.take(self.loaded)
                if work is None:
                    return
                self.attempt(work)
            except Exception as error:  # noqa: BLE001 a full disk must not end the worker: its jobs are deleted to make room
                self.log(f"worker: {words(error)}")
                time.sleep(PATIENCE)

    def stop(self, seconds: float) -> bool:
        """Stop within so many seconds; False if that fails."""
        self.store.close()
        self.join(seconds)
        return not self.is_alive()

    def attempt(self, work: Work) -> None:
        """Make one job; its failure does not stop the worker."""
        began = time.perf_counter()
        self.screen.work, self.loaded = work, work.model
        try:
            self.make(work)
        except Stopped:
            if work.gone:
                self.store.erase(work)
            return
        except Exception as error:  # noqa: BLE001 a fault of ours, too, is one job's
            if self.store.closed:
                return
            if self.debug or not isinstance(error, SoraError):
                traceback.print_exc(file=sys.stderr)
            if not isinstance(error, SoraError):
                self.networks.release()
            self.store.fail(work, self.reason(error, work))
            self.log(f"{work.id}: failed: {words(error)}")
            return
        finally:
            self.screen.work = None
            self.screen.leave()
        spent = time.perf_counter() - began
        self.store.finish(work, spent)
        self.log(f"{work.id}: made in {spent:.1f} s")

    def make(self, work: Work) -> None:
        job = self.orders.job(work)
        if not job.target.path.exists():  # it appears whole, so what an earlier server left is all of it
            job.check(job.target)
            job.make(job.target, self.networks, self.screen)
        job.target.settle()
        if work.kind == VIDEO:
            draw(job.target.path, self.store.file(work, THUMBNAIL))

    def reason(self, error: Exception, work: Work) -> str:
        """The error message for clients."""
        if isinstance(error, SoraError):
            return self.orders.public(error, work)
        if isinstance(error, RuntimeError | MemoryError) and (memory := short_of(error)):
            return f"ran out of {memory}; ask for a smaller size or fewer seconds"
        return "the server could not make it; its log says why"


def draw(video: Path, thumbnail: Path) -> None:
    """Save the first frame as a small thumbnail; errors are ignored."""
    with suppress(SoraError, StopIteration), media.open_source(str(video)) as source:
        width, height = source.format.seen
        scale = min(1.0, LONGEST_SIDE / max(width, height))
        size = max(2, round(width * scale)), max(2, round(height * scale))
        frame = next(iter(media.to_rgb(source, source.format, size)))
        Image.fromarray(frame).save(thumbnail, quality=80)
