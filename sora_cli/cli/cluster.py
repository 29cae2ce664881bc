"""A batch on a Ray cluster: a worker for each GPU, or for so many cores where there is none. Workers load the networks
once and make one job after another; jobs are handed out as workers become free. Those that die, with their node or
alone, are replaced, and their jobs handed out again. No torch, and Ray only where it is asked for.

A worker finds in the output's folder the mark that the batch has put there, and then writes where the batch would; or
it does not, works in a folder of its own, and its files are brought from there."""

import io
import logging
import os
import pickle
import platform
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TextIO, cast
from uuid import uuid4

from sora_cli import __version__
from sora_cli.cli import jobs
from sora_cli.cli.asking import Item, words
from sora_cli.cli.batch_screen import BatchScreen, Hearing, Outcome, attempt
from sora_cli.cli.batching import Begin
from sora_cli.cli.jobs import Job, Networks
from sora_cli.cli.target import Target
from sora_cli.errors import Failed, SoraError
from sora_cli.files import owned

LOCAL = "local"  # the address of a cluster that is started on this machine, and goes with the command
QUIET = {  # what Ray reads from the environment when it starts
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns where no GPU is asked for
}
STORE = 256 << 20  # bytes of shared memory of a local cluster: no more than a few pieces of files pass through it
PIECE = 16 << 20  # bytes of a file at a time
DEATHS = 3  # workers that a job may cost
REFUSALS = 3  # workers that may fail to start, one after another
PATIENCE = 20.0  # seconds without any worker
SHEET = "sheet"  # the folder of a contact sheet beside a worker's own


# ---- on the workers ---------------------------------------------------------------------------------------


class Worker:
    """A Ray actor that makes jobs on one GPU, or on some cores of one node."""

    def __init__(self, folder: str, cores: int) -> None:
        self.folder, self.cores = Path(folder), cores
        self.node, self.networks = platform.node(), Networks()
        self.checked: set[Any] = set()
        self.scratch = ExitStack()  # a folder of its own, if need be
        if self.folder.is_dir():
            os.chdir(self.folder)

    def hello(self) -> tuple[str, str]:
        """The worker's node, and its version of sora-cli."""
        return self.node, __version__

    def make(self, sent: bytes, files: dict[str, str], mark: tuple[str, str]) -> Outcome:
        """Make one job from input files with these hashes: in the output's folder if it is shared, or in its own. What
        is wrong with it is wrong on this node: a job names its model, which is looked up here."""
        try:
            outcome = self.made(self.prepared(sent, files), mark)
        except SoraError as error:
            outcome = Outcome(words(error))
        if outcome.error:
            outcome.error += f" (on {self.node})"
        return outcome

    def made(self, job: Job, mark: tuple[str, str]) -> Outcome:
        seen = all(self.sees(folder, mark) for folder in folders(job.target))
        target = job.target if seen else self.aside(job.target)
        outcome = attempt(job, target, self.networks, Hearing(preview=job.showing.preview and seen))
        if not seen:
            outcome.left = {str(path.relative_to(self.own)): path.stat().st_size for path in produced(target, self.own)}
        return outcome

    def prepared(self, sent: bytes, files: dict[str, str]) -> Job:
        """A job whose models and inputs are here, identical to the batch's; SoraError if they are not."""
        job: Job = pickle.loads(sent)
        if self.cores and not self.checked:
            import torch

            torch.set_num_threads(self.cores)
        if (models := (job.entry, tuple(job.roles))) not in self.checked:
            jobs.check_models([job], quiet=True)
            self.checked.add(models)
        found = job.target.identity["files"]
        if other := [name for name, content in files.items() if found.get(name) != content]:
            raise SoraError(f"{other[0]} is missing here, or differs; put inputs where every node can read them")
        return job

    def sees(self, folder: Path, mark: tuple[str, str]) -> bool:
        """Whether a folder is the batch's own, not just one with the same name."""
        name, content = mark
        with suppress(OSError):
            return (self.folder / folder / name).read_text() == content
        return False

    def aside(self, target: Target) -> Target:
        """The same output in a folder of its own."""
        self.clear_scratch()
        self.own = Path(self.scratch.enter_context(tempfile.TemporaryDirectory(prefix="sora-cli-")))
        sheet = self.own / SHEET / target.sheet.name if target.sheet else None
        if sheet:
            sheet.parent.mkdir()
        return replace(target, name=str(self.own / target.path.name), called=target.name, sheet=sheet, force=True)

    def read(self, name: str, at: int) -> bytes:
        """A piece of a file that was left here."""
        with (self.own / name).open("rb") as file:
            file.seek(at)
            return file.read(PIECE)

    def clear_scratch(self) -> None:
        """Remove what was left here."""
        self.scratch.close()


def folders(target: Target) -> list[Path]:
    """Where a target writes."""
    return [path.parent for path in (target.path, target.sheet) if path]


def produced(target: Target, folder: Path) -> list[Path]:
    """The files of a target, the record last, so that its presence means that all are complete."""
    files = [path for path in folder.rglob("*") if path.is_file() and target.resume_folder not in path.parents]
    return sorted(files, key=lambda path: (path == target.record, path))


# ---- where the batch is -----------------------------------------------------------------------------------


class Waiting:
    """Jobs that no worker has yet, by the networks that they need."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.groups: defaultdict[Any, deque[Item]] = defaultdict(deque)
        for item in items:
            self.groups[item.job.networks].append(item)

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def again(self, item: Item) -> None:
        self.groups[item.job.networks].appendleft(item)

    def next(self, networks: Any) -> Item:
        """A job for the networks that a worker has loaded, or else for those with the most jobs."""
        return (self.groups.get(networks) or max(self.groups.values(), key=len)).popleft()


class Cluster:
    """The workers of a Ray cluster, either joined or started here and stopped at the end."""

    def __init__(self, address: str, cores: int, gpus: bool, screen: BatchScreen, mark: str) -> None:
        self.address, self.cores, self.gpus, self.screen = address, cores, gpus, screen
        self.mark = mark, uuid4().hex  # the name of a file, and what is in it
        self.idle: list[tuple[Any, Any]] = []  # workers, and the networks of their newest jobs
        self.busy: dict[Any, tuple[Any, Item]] = {}
        self.starting: dict[Any, Any] = {}
        self.deaths: Counter[Item] = Counter()
        self.refusals, self.patient = 0, True

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(cast(TextIO, OneThread(sys.stdout))))
            self.ray = joined(self.address)
            self.held = stack.pop_all()
        self.gpus = self.gpus and self.ray.cluster_resources().get("GPU", 0) >= 1
        takes = {"num_gpus": 1, "num_cpus": 0} if self.gpus else {"num_cpus": self.cores}
        self.worker = self.ray.remote(**takes, scheduling_strategy="SPREAD")(Worker)
        return self

    def __exit__(self, *_: object) -> None:
        hit = {*self.deaths, *(item for _, item in self.busy.values())}
        for worker in (*self.starting.values(), *(worker for worker, _ in (*self.idle, *self.busy.values()))):
            self.dismiss(worker)
        with redirect_stdout(io.StringIO()):  # it prints now what it has held back
            self.ray.shutdown()
        self.held.close()
        for item in hit:  # nobody is left who could remove what killed workers were writing
            owned.sweep(item.job.target.path)
            with suppress(SoraError), item.job.target.own:
                pass  # leaves no lock

    def work(self, items: Sequence[Item], begin: Begin) -> Iterator[tuple[Item, Outcome]]:
        """Yield items as they finish, with their outcomes."""
        waiting = Waiting(items)
        self.mark_folders(items)
        while waiting or self.busy:
            self.hand_out(waiting, begin)
            if not waiting and not self.busy:
                break
            self.hire(len(waiting) + len(self.busy))
            for ref in self.ended():
                if ref in self.starting:
                    self.welcome(ref)
                elif outcome := self.result(ref, waiting):
                    yield outcome

    def mark_folders(self, items: Sequence[Item]) -> None:
        """Put the mark into every folder that is written to."""
        name, content = self.mark
        for folder in {folder for item in items for folder in folders(item.job.target)}:
            self.held.callback((folder / name).unlink, missing_ok=True)
            (folder / name).write_text(content)

    def hand_out(self, waiting: Waiting, begin: Begin) -> None:
        """Give a job to every idle worker."""
        while self.idle and waiting:
            worker, networks = self.idle[-1]
            item = waiting.next(networks)
            if begin(item):
                self.idle.pop()
                ref = worker.make.remote(pickle.dumps(item.job), item.job.target.identity["files"], self.mark)
                self.busy[ref] = worker, item

    def hire(self, wanted: int) -> None:
        """Request workers while there is work; Ray starts those without room when a node joins or a worker dies."""
        there = len(self.idle) + len(self.busy)
        while len(self.starting) < min(max(1, there), wanted - there):
            worker = self.worker.remote(os.getcwd(), 0 if self.gpus else self.cores)
            self.starting[worker.hello.remote()] = worker

    def ended(self) -> list[Any]:
        """References of jobs or workers that are ready; empty if that takes long."""
        refs = [*self.busy, *self.starting]
        found, _ = self.ray.wait(refs, timeout=None if self.busy else PATIENCE)
        if not found and self.patient:
            self.patient = False
            each = "a GPU" if self.gpus else f"{self.cores} cores" if self.cores > 1 else "a core"
            self.screen.warn(f"waiting for {each} in the cluster")
        return list(found)

    def welcome(self, ref: Any) -> None:
        """Take in a worker that has started, or failed to. Failed if none can start."""
        worker = self.starting.pop(ref)
        try:
            node, version = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self.refusals += 1
            if self.refusals == REFUSALS and not (self.idle or self.busy):
                raise Failed(f"workers do not start: {last_line(error)}") from error
            return
        if version != __version__:
            raise SoraError(f"{node} has sora-cli {version}, this machine {__version__}; install the same everywhere")
        self.refusals = 0
        self.idle.append((worker, None))

    def result(self, ref: Any, waiting: Waiting) -> tuple[Item, Outcome] | None:
        """How a job ended; None if its worker died and another one gets it."""
        worker, item = self.busy[ref]
        try:
            outcome: Outcome = self.ray.get(ref)
            if not outcome.error and outcome.left:
                self.bring(worker, item, outcome.left)
                outcome.record["output"] = item.name
        except SoraError as error:
            outcome = Outcome(words(error))
        except self.ray.exceptions.RayTaskError as error:  # a fault of ours, outside the job
            outcome = Outcome(last_line(error))
        except self.ray.exceptions.RayError as error:
            del self.busy[ref]
            self.dismiss(worker)
            self.deaths[item] += 1
            if self.deaths[item] < DEATHS:
                waiting.again(item)
                return None
            return item, Outcome(f"{DEATHS} workers crashed on it; the last one: {last_line(error)}")
        del self.busy[ref]
        self.idle.append((worker, item.job.networks))
        return item, outcome

    def bring(self, worker: Any, item: Item, left: dict[str, int]) -> None:
        """Copy the files of a worker that does not share the output's folder."""
        target = item.job.target
        item.job.check(target)  # what has come meanwhile is not overwritten
        with target.own:
            for name, size in left.items():
                sheet = target.sheet if Path(name).parts[0] == SHEET else None
                with owned.writing(sheet or target.path.parent / name) as file:
                    for at in range(0, size, PIECE):
                        file.write(self.ray.get(worker.read.remote(name, at)))
        worker.clear_scratch.remote()

    def dismiss(self, worker: Any) -> None:
        with suppress(self.ray.exceptions.RayError, ValueError):
            self.ray.kill(worker)


class OneThread:
    """A stream on which this thread alone writes: threads of Ray's print there what befalls its nodes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.thread = stream, threading.current_thread()

    def write(self, text: str) -> int:
        return self.stream.write(text) if threading.current_thread() is self.thread else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def joined(address: str) -> Any:
    """Ray, connected to the cluster at an address or to a new local one; Failed if that is impossible."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise SoraError("--ray needs Ray: pip install 'sora-cli[ray]'") from error
    if address.startswith("ray://"):
        raise SoraError("--ray does not take ray:// addresses; run on a machine of the cluster, or use ray job submit")
    if address not in (LOCAL, "auto"):
        reach(address)
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE} if address == LOCAL else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise Failed(f"could not {'start' if own else 'join'} a Ray cluster: {words(error)}") from error
    if before is not None:
        signal.signal(signal.SIGTERM, before)
    return ray


def reach(address: str) -> None:
    """Failed if nobody listens at HOST:PORT; Ray would ask for a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise Failed(f"no answer from {address} ({error}); is `ray start --head` running there?") from error


def last_line(error: BaseException) -> str:
    """The line of a Ray error that names the cause, without tracebacks and addresses."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return said[-1] if said else type(error).__name__
