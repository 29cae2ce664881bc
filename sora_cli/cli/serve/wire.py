"""Around the application: who may ask, how much, and in what time. Everything is counted as it is read, and a peer that
keeps still is let go, so that what a client costs is bounded whatever it says of itself."""

import asyncio
import math
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sora_cli.cli.serve.gate import Gate
from sora_cli.cli.serve.limits import Limits
from sora_cli.cli.serve.refusal import Refusal

DRAINED, DRAINING = 4, 5.0  # times the limit, and seconds, that a refused body is still read and thrown away
SAFE = {
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'", "cache-control": "no-store",
}  # fmt: skip


def answer(refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.body, refusal.status, dict(refusal.headers))


class Guard:
    """ASGI middleware: checks access, and limits the size and time of the request body."""

    def __init__(self, app: ASGIApp, gate: Gate, limits: Limits) -> None:
        self.app, self.gate, self.limits = app, gate, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, app = Headers(scope=scope), self.app
        body = Body(receive, headers, self.limits)

        async def safely(message: Message) -> None:
            """Answer after the body, with headers that keep browsers out of trouble."""
            if message["type"] == "http.response.start":
                await body.drain()
                sent = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    sent.setdefault(name, value)
                if not self.gate.token:  # else signed links are for other pages, too
                    sent.setdefault("cross-origin-resource-policy", "same-origin")
            await send(message)

        try:
            self.gate.check(scope["method"], scope["path"], scope["query_string"].decode("latin-1"), headers)
            body.check()
        except Refusal as refusal:
            app = answer(refusal)
        await app(scope, body.receive, safely)


class Body:
    """A request's body as it arrives."""

    def __init__(self, receive: Receive, headers: Headers, limits: Limits) -> None:
        self.source, self.headers, self.limit = receive, headers, round(limits.max_body * 1e6)
        self.deadline = asyncio.get_running_loop().time() + limits.timeout
        self.count, self.whole = 0, False

    def check(self) -> None:
        """Refusal if Content-Length is too large or invalid."""
        length = self.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 18 or int(length) > self.limit:
            raise self.too_large()

    def too_large(self) -> Refusal:
        return Refusal(413, f"the request is too large; at most {self.limit / 1e6:g} MB are allowed", "too_large")

    async def take(self, end: float) -> Message:
        """The next piece of the body, counted; TimeoutError if it has not arrived at `end`."""
        async with asyncio.timeout_at(end):
            message = await self.source()
        self.count += len(message.get("body", b""))
        self.whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def receive(self) -> Message:
        if self.whole:
            return await self.source()
        try:
            message = await self.take(self.deadline)
        except TimeoutError:
            self.whole = True  # nothing more of it is read
            late = {"Connection": "close"}
            raise Refusal(408, "the request did not arrive in time", "timeout", headers=late) from None
        if self.count > self.limit:
            raise self.too_large()
        return message

    async def drain(self) -> None:
        """Read and discard the rest for a while: many clients read a response only after sending everything."""
        sent = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers
        if self.whole or not sent or "expect" in self.headers:
            return
        end = min(self.deadline, asyncio.get_running_loop().time() + DRAINING)
        with suppress(TimeoutError):
            while not self.whole and self.count <= DRAINED * self.limit:
                await self.take(end)


class Listening(uvicorn.Server):
    """uvicorn that reports the start of its shutdown, so that clients waiting for a job get an answer first."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self.ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.ending()
        await super().shutdown(sockets)


class Patient(H11Protocol):
    """Closes connections whose request head does not arrive in time, or whose client does not read."""

    patience = math.inf

    def connection_made(self, transport: Any) -> None:
        self.timers: dict[str, asyncio.TimerHandle] = {}
        super().connection_made(transport)
        self.expect("head")
        if self.limit_concurrency and len(self.connections) > 2 * self.limit_concurrency:
            self.let_go()  # those beyond the limit are answered 503, but they take a file each until they ask

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cancel("head")
        else:
            self.expect("head")

    def expect(self, what: str) -> None:
        """Start a timer; later bytes do not restart it."""
        if what not in self.timers:
            self.timers[what] = self.loop.call_later(self.patience, self.let_go)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.expect("reading")

    def resume_writing(self) -> None:
        super().resume_writing()
        self.cancel("reading")

    def connection_lost(self, exc: Exception | None) -> None:
        self.cancel("head", "reading")
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self.cancel("head")
        super().on_response_complete()

    def cancel(self, *names: str) -> None:
        for name in names:
            if timer := self.timers.pop(name, None):
                timer.cancel()

    def let_go(self) -> None:
        self.transport.abort()
