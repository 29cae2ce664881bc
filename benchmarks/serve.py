"""What load `sora-cli serve` withstands: a crowd of clients, of whom half are slow, leave, send too much,
or mean no good, and a kill in mid-job.

    python benchmarks/serve.py --clients 100 --requests 20

Told are requests by what was answered, how long the answers took, and the peak of memory. SystemExit if anything is
lost, served to whom it does not belong, or listens to others than this machine."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring import PROC, PROGRAM, Row, grid, note, parser, show

TOKEN = "a-token-for-the-benchmark"
LIMITS = ["--max-queue", "40", "--max-body", "2", "--timeout", "3", "--keep", "100"]
SHOT = {"prompt": "a cat surfing", "seconds": 0.5, "size": "192x128"}
TRICKS = ["..", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..", "%00", "x" * 9000, "lock", "video_" + "0" * 32, "../token"]
SECONDS = 240


# ---- the server -------------------------------------------------------------------------------------------


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int

    def end(self, with_signal: int) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(60)

    def memory(self, what: str) -> int:
        """Bytes of the process itself, by their name in /proc: VmRSS now, VmHWM at most."""
        lines = (PROC / str(self.process.pid) / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

    def listens_at(self) -> list[str]:
        """The addresses of its sockets that listen, as the system has them: 0100007F is 127.0.0.1."""
        inodes = {os.readlink(path).strip("socket:[]") for path in Path(f"/proc/{self.process.pid}/fd").glob("*")
                  if path.is_symlink() and os.readlink(path).startswith("socket:")}  # fmt: skip
        rows = [line.split() for name in ("tcp", "tcp6") if (path := Path(f"/proc/net/{name}")).exists()
                for line in path.read_text().splitlines()[1:]]  # fmt: skip
        return [row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]


@contextmanager
def started(folder: Path, model: str) -> Iterator[Server]:
    """A server that is killed at the end if it runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", "--port", str(port), "--dir", str(folder / "kept"), "--model", model, "-q", *LIMITS]
    process = subprocess.Popen([*PROGRAM, *words], env={**os.environ, "SORA_SERVE_TOKEN": TOKEN})
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.1)
        yield Server(process, port)
    finally:
        process.kill()
        process.wait()


# ---- clients ----------------------------------------------------------------------------------------------


@dataclass
class Crowd:
    """What all clients saw together."""

    server: Server
    answers: Counter[str] = field(default_factory=Counter)
    times: dict[str, list[float]] = field(default_factory=dict)
    mine: dict[str, int] = field(default_factory=dict)  # ids of videos that were accepted, and whose they are
    wrong: list[str] = field(default_factory=list)

    async def ask(self, what: str, head: str, *pieces: bytes, token: str = TOKEN, pause: float = 0.0,
                  leave: int = -1) -> tuple[int, bytes]:  # fmt: skip
        """One request on a connection of its own, piece by piece; a client may leave after so many bytes of the answer.
        The status is 0 where there is no answer."""
        began, found = time.perf_counter(), b""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
            try:
                auth = f"Authorization: Bearer {token}\r\n" if token else ""
                writer.write(f"{head}\r\nHost: localhost\r\nConnection: close\r\n{auth}".encode())
                for piece in pieces or [b"\r\n"]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause)
                found = await reader.read(leave) if leave >= 0 else await reader.read()
            finally:
                writer.close()
        except OSError:
            pass
        status = int(found[9:12]) if found[:5] == b"HTTP/" else 0
        self.answers[f"{what}: {status or 'none'}"] += 1
        self.times.setdefault(what, []).append(time.perf_counter() - began)
        return status, found.partition(b"\r\n\r\n")[2]

    async def create(self, seed: int) -> str:
        body = json.dumps({**SHOT, "seed": seed}).encode()
        status, told = await self.ask("create", "POST /v1/videos HTTP/1.1", posted(len(body)), body)
        if status == 200:
            self.mine[json.loads(told)["id"]] = seed
            return str(json.loads(told)["id"])
        self.expect(status == 429, f"create was answered {status}")
        return ""

    def expect(self, fine: bool, otherwise: str) -> None:
        if not fine:
            self.wrong.append(otherwise)


def posted(length: int) -> bytes:
    return b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length


async def honest(crowd: Crowd, number: int, requests: int, draw: random.Random) -> None:
    """Asks for videos, looks at them, reads them."""
    for turn in range(requests):
        id = await crowd.create(number * 1000 + turn) if turn % 5 == 0 else draw.choice(list(crowd.mine) or [""])
        status, told = await crowd.ask("list", "GET /v1/videos?limit=20 HTTP/1.1")
        crowd.expect(status == 200 and len(json.loads(told)["data"]) <= 20, f"list was answered {status}")
        if not id:
            continue
        status, told = await crowd.ask("retrieve", f"GET /v1/videos/{id} HTTP/1.1")
        crowd.expect(status == 200 and json.loads(told)["seed"] == crowd.mine[id], f"{id} is not what was asked")
        status, told = await crowd.ask("content", f"GET /v1/videos/{id}/content HTTP/1.1")
        crowd.expect(status == 404 or (status == 200 and told[4:8] == b"ftyp"), f"content was answered {status}")


async def hostile(crowd: Crowd, number: int, requests: int, draw: random.Random) -> None:
    """Sends too much, too slowly, from outside, or leaves."""
    for turn in range(requests):
        kind = (number + turn) % 6
        if kind == 0:
            token = TOKEN[: draw.randrange(len(TOKEN))]
            status, told = await crowd.ask("bad token", "GET /v1/videos HTTP/1.1", token=token)
            crowd.expect(status == 401 and b"video_" not in told, f"a bad token was answered {status}")
        elif kind == 1:
            path = draw.choice(TRICKS) + draw.choice(["", "/content"])
            status, told = await crowd.ask("path trick", f"GET /v1/videos/{path} HTTP/1.1")
            crowd.expect(status == 404 and b"root:" not in told, f"{path[:30]} was answered {status}")
        elif kind == 2:
            pieces = [b" " * 100_000] * 30
            status, _ = await crowd.ask("oversized", "POST /v1/videos HTTP/1.1", posted(3_000_000), *pieces)
            crowd.expect(status == 413, f"an oversized body was answered {status}")
        elif kind == 3:
            chunk = b"186A0\r\n" + b" " * 100_000 + b"\r\n"
            head = (b"Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"6A\r\n--x\r\nContent-Disposition: form-data; name=\"input_reference\"; filename=\"a.png\"\r\n"
                    b"Content-Type: image/png\r\n\r\n\r\n")
            status, _ = await crowd.ask("endless", "POST /v1/videos HTTP/1.1", head, *[chunk] * 40, b"0\r\n\r\n")
            crowd.expect(status in (400, 413, 429), f"an endless body was answered {status}")
        elif kind == 4:
            drips = [b"X: ", *[b"a"] * 40]
            status, _ = await crowd.ask("slow head", "GET /v1/models HTTP/1.1", *drips, pause=0.1)
            crowd.expect(status == 0, f"a slow head was answered {status}")
        else:
            await crowd.ask("dropped", "POST /v1/videos HTTP/1.1", posted(5000), b"{", leave=0)


async def over(crowd: Crowd) -> dict[str, str]:
    """The states of all accepted videos when none is left to make."""
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        states = {}
        for id in crowd.mine:
            status, told = await crowd.ask("retrieve", f"GET /v1/videos/{id} HTTP/1.1")
            states[id] = json.loads(told)["status"] if status == 200 else f"answered {status}"
        if not set(states.values()) & {"queued", "in_progress"}:
            return states
        await asyncio.sleep(0.5)
    return states


async def storm(crowd: Crowd, clients: int, requests: int) -> None:
    draw = random.Random(0)
    kinds = honest, hostile
    await asyncio.gather(*(kinds[number % 2](crowd, number, requests, draw) for number in range(clients)))


async def settled(crowd: Crowd) -> dict[str, str]:
    """The same, and every video that was made is read to its end."""
    states = await over(crowd)
    for id, state in states.items():
        crowd.expect(state == "completed", f"{id} is lost: {state}")
        status, told = await crowd.ask("content", f"GET /v1/videos/{id}/content HTTP/1.1")
        crowd.expect(status == 200 and told[4:8] == b"ftyp", f"{id} was answered {status}")
    return states


# ---- what comes of it -------------------------------------------------------------------------------------


def measured(folder: Path, model: str, clients: int, requests: int) -> Row:
    with started(folder, model) as server:
        crowd = Crowd(server)
        places = server.listens_at()
        crowd.expect(places == ["0100007F"], f"it listens at {places}")
        idle = server.memory("VmRSS")
        note(f"{clients} clients")
        asyncio.run(storm(crowd, clients, requests))
        busy = [id for id in crowd.mine if '"in_progress"' in (folder / "kept" / id / "job.json").read_text()]
        note(f"killed with {len(crowd.mine)} videos accepted, {len(busy)} of them begun")
        peak = server.memory("VmHWM")
        server.end(signal.SIGKILL)
    with started(folder, model) as second:
        crowd.server = second
        states = asyncio.run(settled(crowd))
        rest = second.memory("VmHWM")
        code = second.end(signal.SIGTERM)
        crowd.expect(code == 0, f"SIGTERM ended it with {code}")
    kept = {path.name for path in (folder / "kept").iterdir() if path.is_dir()}
    crowd.expect(kept == set(crowd.mine), f"{len(kept ^ set(crowd.mine))} folders are nobody's, or gone")
    return {
        "requests": sum(crowd.answers.values()), "answers": dict(sorted(crowd.answers.items())),
        "milliseconds": {what: percentiles(crowd.times[what]) for what in ("create", "list", "retrieve", "content")},
        "videos": dict(Counter(states.values())), "begun when killed": len(busy),
        "memory": {"idle": idle, "peak of the crowd": peak, "peak after the kill": rest},
        "wrong": crowd.wrong,
    }  # fmt: skip


def percentiles(times: list[float]) -> dict[str, float]:
    ranked = sorted(times)
    places = {f"p{part}": min(len(ranked) - 1, len(ranked) * part // 100) for part in (50, 95, 99)}
    return {name: round(1000 * ranked[place], 1) for name, place in places.items()}


def tables(found: dict[str, Any]) -> list[Any]:
    answers = grid(f"{found['requests']} requests", "request: answer", "times")
    for what, count in found["answers"].items():
        answers.add_row(what, str(count))
    waits = grid("milliseconds to the end of the answer", "", "p50", "p95", "p99")
    for what, told in found["milliseconds"].items():
        waits.add_row(what, *(f"{value:.0f}" for value in told.values()))
    rest = grid("", "", "")
    for what, value in found["memory"].items():
        rest.add_row(f"memory, {what}, MB", f"{value / 1e6:.0f}")
    for state, count in found["videos"].items():
        rest.add_row(f"videos {state} after a kill", str(count))
    return [answers, waits, rest]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--clients", type=int, default=100, help="clients at once, half of them hostile")
    made.add_argument("--requests", type=int, default=20, help="requests of each")
    asked = made.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measured(Path(name), asked.model, asked.clients, asked.requests)
    show(found, tables(found), asked.json)
    if found["wrong"]:
        raise SystemExit("\n".join(dict.fromkeys(found["wrong"])))


if __name__ == "__main__":
    main()
