"""A Hub on this machine: folders, served as huggingface.co serves repositories, and faults on demand.

Large files are answered with a redirect to another host, as the Hub does with its storage.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

CHUNK = 4096  # bytes that a client writes at a time, small as our files are
LARGE = (".safetensors", "tokenizer.json", ".bin", ".model")  # what repositories keep in LFS
API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
STORED = re.compile(r"/stored/([^/]+/[^/]+)/([0-9a-f]+)/(.+)")
REASONS = {"RepoNotFound": "Repository not found", "RevisionNotFound": "Invalid rev id",
           "EntryNotFound": "Entry not found", "GatedRepo": "Access to this model is restricted"}  # fmt: skip


@dataclass
class Fault:
    """What goes wrong with the next `times` requests for paths that contain `where`; redirects can only be refused."""

    where: str
    status: int = 0  # answered instead
    cut: int | None = None  # bytes after which the connection is closed
    flip: bool = False  # a bit of the last byte is another
    wait: float = 0.0  # seconds before the answer
    times: int = 1
    methods: tuple[str, ...] = ("GET",)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    status: int
    start: int  # first byte asked for
    authorised: bool


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str = ""  # that is needed to read it
    licence: str = "apache-2.0"


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, repo: str, folder: Path | dict[str, bytes], branch: str = "main") -> str:
        """Commit what a folder holds: the commit. Other names than a disk can have are given as a dictionary."""
        files = folder if isinstance(folder, dict) else {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }  # fmt: skip
        commit = hashlib.sha1(repr(sorted((name, git_hash(data)) for name, data in files.items())).encode()).hexdigest()
        repository = self.repositories.setdefault(repo, Repository())
        repository.commits[commit] = files
        repository.branches[branch] = commit
        return commit

    def fail(self, where: str, **how: Any) -> None:
        self.faults.append(Fault(where, **how))

    def fault(self, method: str, path: str) -> Fault | None:
        redirected = FILE.fullmatch(path) is not None and path.endswith(LARGE)
        for fault in self.faults:
            concerned = fault.where in path and method in fault.methods and (fault.status > 0 or not redirected)
            if fault.times > 0 and concerned:
                fault.times -= 1
                return fault
        return None

    def fetched(self) -> list[str]:
        """Names of files whose bytes were sent, in order, however often."""
        matches = ((STORED.fullmatch(r.path) or FILE.fullmatch(r.path), r) for r in self.requests)
        return [match[3] for match, r in matches if match and r.method == "GET" and r.status in (200, 206)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self) -> None:
        self.path = unquote(urlsplit(self.path).path)
        fault = self.server.fault(self.command, self.path)
        time.sleep(fault.wait if fault else 0)
        if fault and fault.status:
            return self.refuse(fault.status)
        for pattern, serve in ((API, self.serve_listing), (FILE, self.serve_file), (STORED, self.serve_stored)):
            if match := pattern.fullmatch(self.path):
                return serve(*match.groups(), fault)
        self.refuse(404)

    # -- what is served

    def serve_listing(self, repo: str, revision: str | None, fault: Fault | None) -> None:
        found = self.find(repo, revision or "main", gate=False)
        if found is None:
            return
        repository, commit = found
        told = {"id": repo, "modelId": repo, "sha": commit, "private": False, "gated": bool(repository.token),
                "tags": [f"license:{repository.licence}"],
                "siblings": [sibling(name, data) for name, data in repository.commits[commit].items()]}  # fmt: skip
        self.send(200, json.dumps(told).encode(), {"Content-Type": "application/json"}, fault)

    def serve_file(self, repo: str, revision: str, name: str, fault: Fault | None) -> None:
        found = self.find(repo, revision)
        if found is None:
            return
        repository, commit = found
        data = repository.commits[commit].get(name)
        if data is None:
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_hash(data)}"'}
        if not name.endswith(LARGE):
            return self.send(200, data, headers, fault)
        sha256 = hashlib.sha256(data).hexdigest()
        place = f"http://localhost:{self.server.server_port}/stored/{repo}/{sha256}/{name}"
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha256}"', "Location": place}
        self.send(302, b"", headers, None)

    def serve_stored(self, repo: str, sha256: str, name: str, fault: Fault | None) -> None:
        for files in self.server.repositories[repo].commits.values():
            if name in files and hashlib.sha256(files[name]).hexdigest() == sha256:
                return self.send(200, files[name], {"ETag": f'"{sha256}"'}, fault)
        self.refuse(404)

    def find(self, repo: str, revision: str, gate: bool = True) -> tuple[Repository, str] | None:
        """A repository and one of its commits; the refusal is sent if there is none, or none for this client."""
        repository = self.server.repositories.get(repo)
        if repository is None:
            return self.refuse(401, "RepoNotFound")
        if gate and repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
            return self.refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        return repository, commit

    # -- how it is sent

    def refuse(self, status: int, code: str = "", headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": REASONS[code]} if code else {}
        self.send(status, b"", told | (headers or {}), None)

    def send(self, status: int, data: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        start, whole = 0, len(data)
        if status == 200 and (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start = int(asked[1])
            status, headers = 206, headers | {"Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
        if fault and fault.flip:
            data = data[:-1] + bytes([data[-1] ^ 1])
        body = data[start:]
        authorised = "Authorization" in self.headers
        self.server.requests.append(Request(self.command, self.path, status, start, authorised))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if not fault or fault.cut is None else body[: fault.cut])
        self.close_connection = fault is not None and fault.cut is not None


def sibling(name: str, data: bytes) -> dict[str, Any]:
    """A file as the Hub lists it."""
    told: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_hash(data)}
    if name.endswith(LARGE):
        told["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return told


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def connect(patch: pytest.MonkeyPatch, hub_url: str, home: Path) -> None:
    """Have this process's client ask a Hub on this machine, keep all in `home`, and not wait between attempts."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    told = {
        "ENDPOINT": hub_url, "HUGGINGFACE_CO_URL_TEMPLATE": hub_url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token"), "HF_HUB_OFFLINE": False,
        "HF_HUB_ETAG_TIMEOUT": 0.3, "HF_HUB_DOWNLOAD_TIMEOUT": 0.3, "DOWNLOAD_CHUNK_SIZE": CHUNK,
    }  # fmt: skip
    for name, value in told.items():
        patch.setattr(constants, name, value)
    patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    patch.delenv("HF_TOKEN", raising=False)
    for module in (file_download, _http):
        patch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))


def environment(hub_url: str, home: Path) -> dict[str, str]:
    """The same for another process, but for the waiting."""
    told = {"HF_ENDPOINT": hub_url, "HF_HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"),
            "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}  # fmt: skip
    return {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | told


@contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
