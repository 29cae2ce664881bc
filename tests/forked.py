"""`python -c` of tests, forked from a process that has imported already what takes two seconds to import."""

import gc
import marshal
import multiprocessing
import os
import signal
import socket
import socketserver
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection, reduction
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO, Any, Self

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([
    "tiny", "command_tree", "sora_cli.generation.engine", "sora_cli.pipelines.sora", "sora_cli.dataset.build",
    "toy_run", "torch._dynamo", "torch.distributed.fsdp", "torch.testing", "torch.utils.tensorboard",
    "matplotlib.pyplot", "filelock", "imageio_ffmpeg", "safetensors.torch", "numpy.ctypeslib", "typer._adapters",
])  # fmt: skip

SORA_CLI = "from sora_cli.cli import main; main()"
ASKING = """#!{python} -IS
import marshal, os, socket, sys
with socket.socket(socket.AF_UNIX) as starter:
    starter.connect({address!r})
    asked = marshal.dumps((sys.argv[1:], os.getcwd(), dict(os.environ)))
    socket.send_fds(starter, [len(asked).to_bytes(8)], [0, 1, 2])
    starter.sendall(asked)
    sys.exit(starter.recv(1)[0])
"""


class End:
    """The number of an open file, which is another in the process that it is handed to."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return taken, (reduction.DupFd(self.number),)


def taken(end: Any) -> int:
    number: int = end.detach()
    return number


def begin(script: str, words: tuple[str, ...], folder: str, env: dict[str, str], ends: list[int]) -> None:
    for number, end in enumerate(ends):
        os.dup2(end, number)
        os.close(end)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    gc.freeze()  # all that is there is shared until it is written to, as collecting garbage does
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
    sys.argv = ["-c", *words]
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})


class Forked:
    """`python -c script words` in a session of its own. What it prints is read from `stdout`, a pipe, and `stderr`, a
    file, unless it is told where else it goes. At the end of a `with` it is killed."""

    def __init__(self, script: str, *words: str, folder: Path | str = ".", env: Mapping[str, str] = os.environ,
                 stdin: int | None = None, stdout: int | None = None, stderr: int | None = None) -> None:  # fmt: skip
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.stdout: IO[bytes] | None = None
        nothing, theirs = os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)
        if stdout is None:
            os.close(theirs)
            ours, theirs = os.pipe()
            self.stdout = os.fdopen(ours, "rb")
        numbers = (nothing if stdin is None else stdin, theirs if stdout is None else stdout,
                   self.stderr.fileno() if stderr is None else stderr)  # fmt: skip
        ends = [End(number) for number in numbers]
        self.process = FORKS.Process(target=begin, args=(script, words, str(Path(folder).resolve()), dict(env), ends))
        self.process.start()
        os.close(nothing)
        os.close(theirs)

    @property
    def pid(self) -> int:
        assert self.process.pid
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float = 300) -> int:
        self.process.join(timeout)
        assert self.process.exitcode is not None, "it does not end"
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def said(self) -> str:
        """All of its stderr, when it has ended."""
        self.wait()
        self.stderr.seek(0)
        return self.stderr.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()
        self.stderr.close()
        if self.stdout:
            self.stdout.close()


def run(script: str, *words: str, **more: Any) -> CompletedProcess[str]:
    """The same to its end."""
    with Forked(script, *words, **more) as process:
        assert process.stdout
        out = process.stdout.read().decode()
        return CompletedProcess(list(words), process.wait(), out, process.said())


class Starter(socketserver.StreamRequestHandler):
    """One process that a program asks for: its words, folder and environment, and the three ends that it has. It does
    not outlive the program."""

    server: "Starters"

    def handle(self) -> None:
        size, ends, *_ = socket.recv_fds(self.request, 8, 3)
        words, folder, env = marshal.loads(self.rfile.read(int.from_bytes(size)))
        script, (stdin, stdout, stderr) = self.server.script, ends
        with Forked(script, *words, folder=folder, env=env, stdin=stdin, stdout=stdout, stderr=stderr) as process:
            for end in ends:
                os.close(end)  # a pipe ends when nobody else holds it
            if self.request not in connection.wait([process.process.sentinel, self.request]):
                self.wfile.write(bytes([process.wait() % 256]))


class Starters(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    script: str


@contextmanager
def program(script: str = SORA_CLI) -> Iterator[Path]:
    """`python -c script` as a program that others can start, `sora-cli` unless told otherwise. It is forked here."""
    with tempfile.TemporaryDirectory() as folder, Starters(f"{folder}/starter", Starter) as starters:
        made = Path(folder) / "program"
        made.write_text(ASKING.format(python=sys.executable, address=starters.server_address))
        made.chmod(0o755)
        starters.script = script
        threading.Thread(target=starters.serve_forever, daemon=True).start()
        yield made
        starters.shutdown()
