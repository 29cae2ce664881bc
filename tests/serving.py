"""A server on the tiny engine, in a thread or in a process that can be killed, and plain sockets to it."""

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import tiny
from forked import Forked
from PIL import Image

from sora_cli import cli
from sora_cli.cli.serve import wire
from sora_cli.cli.serve.worker import Progress

TOKEN = "correct-horse-battery"
SMALL = {"seconds": "0.375", "size": "64x64", "extra_body": {"seed": 3, "steps": 1, "guidance": 1}}
PLAIN = {"prompt": "a cat", "seconds": 0.375, "size": "64x64", "seed": 3, "steps": 1, "guidance": 1}
CHILD = """
import sys
import torch
torch.set_num_threads(1)
import tiny
from sora_cli import cli
tiny.install(setattr)
cli.main(sys.argv[1:])
"""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]


@dataclass
class Served:
    """A server that runs at `port` and keeps its jobs in `folder`."""

    port: int
    folder: Path
    token: str = ""
    connections: Collection[Any] = ()  # those that are open, where it runs in a thread

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=self.token or "none", max_retries=0,
                             timeout=60)  # fmt: skip

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; a body that is no bytes goes as JSON. `content_type` is Content-Type."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            told.setdefault("authorization", f"Bearer {self.token}")
        if body is not None and not isinstance(body, bytes):
            body, told = json.dumps(body).encode(), {"content-type": "application/json", **told}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, told)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def raw(self, *pieces: bytes, wait: float = 30.0) -> bytes:
        """What comes back, to the end, for bytes that are sent as they are."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            for piece in pieces:
                connection.sendall(piece)
            found = b""
            try:
                while more := connection.recv(1 << 16):
                    found += more
            except ConnectionResetError:
                pass
            return found

    def wait(self, id: str) -> dict[str, Any]:
        """A video when it is over."""
        while True:
            found: dict[str, Any] = json.loads(self.ask("GET", f"/v1/videos/{id}").body)
            if found["status"] in ("completed", "failed"):
                return found
            time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def served(folder: Path, *words: str, token: str = "") -> Iterator[Served]:
    """`sora-cli serve` in a thread; it ends as a signal has it end."""
    found, port, code = [], free_port(), []
    begin = wire.Listening.__init__

    def remembered(self: wire.Listening, *more: Any) -> None:
        begin(self, *more)
        found.append(self)

    def run() -> None:
        more = ["--token", token] if token else []
        code.append(cli.run(["serve", "--dir", str(folder), "--port", str(port), "--device", "cpu", *words, *more]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire.Listening, "__init__", remembered)
        thread = threading.Thread(target=run)
        thread.start()
        while not code and not (found and found[0].started):
            time.sleep(0.01)
        assert not code, "it did not start"
    try:
        yield Served(port, folder, token, found[0].server_state.connections)
    finally:
        found[0].should_exit = True
        thread.join(30)
        assert code == [0]


@contextmanager
def process(folder: Path, *words: str) -> Iterator[tuple[Served, Forked]]:
    """The same as a process of its own, which is killed at the end if it still runs."""
    port = free_port()
    with Forked(CHILD, "serve", "--dir", str(folder), "--port", str(port), "--device", "cpu", *words) as child:
        while True:
            assert child.poll() is None, "it did not start"
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield Served(port, folder), child


# ---- fixtures ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_engine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch.setattr)
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_engine: None) -> Iterator[Served]:
    """One server for all tests that need no other."""
    with served(tmp_path_factory.mktemp("serve") / "kept", "--max-body", "1") as one:
        yield one


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Jobs that wait at their first step until this is set."""
    go, show = threading.Event(), Progress.show

    def waiting(self: Progress, stage: str, done: int, total: int) -> None:
        show(self, stage, done, total)
        while stage == "denoise" and not go.wait(0.01):
            show(self, stage, done, total)

    monkeypatch.setattr(Progress, "show", waiting)
    yield go
    go.set()


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 64), **more: Any) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, kind, **more)
    return file.getvalue()
