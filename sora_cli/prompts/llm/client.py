"""A server that speaks OpenAI's protocol: what it is asked, for how long, and with whose key. No torch."""

import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv6Address
from threading import Thread
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeVar
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from sora_cli.errors import Failed, SoraError
from sora_cli.files import http
from sora_cli.prompts.llm.answers import sentence

KEY, OPENAI_KEY, OPENAI = "SORA_LLM_KEY", "OPENAI_API_KEY", "https://api.openai.com"
TIMEOUT, PATIENCE = "SORA_LLM_TIMEOUT", 60.0  # seconds that a question may take, with all that is asked again
LONGER = f"{TIMEOUT}=SECONDS (caption: --timeout) waits longer"
BUSY, BROKEN = (429, 503, 529), (500, 502, 504)  # asked again while there is time, and a few times
TRIES = 3
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a second try, doubled before every further one
LARGEST = 4_000_000  # bytes of an answer
PORTS = {"http": 80, "https": 443}
GOOD, MOVED, REFUSED = 200, range(300, 400), (401, 403)
THOUGHTS = ("thinking", "reasoning")  # parts of an answer beside its text

Item = TypeVar("Item")


class Reply(NamedTuple):
    status: int
    body: bytes
    later: str  # Retry-After
    where: str  # Location


@dataclass(frozen=True)
class Server:
    """Where a language model is asked, which one, and how many seconds a question may take in all."""

    url: str  # http://HOST:PORT/v1
    model: str = ""  # "": the one it has
    patience: float = PATIENCE

    @classmethod
    def at(cls, address: str, model: str | None = None, patience: float | None = None) -> "Server":
        """The server at http://HOST:PORT[/v1][#MODEL]; SoraError if invalid. Patience: SORA_LLM_TIMEOUT by default."""
        parts = parse(address)
        path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
        if not any(step[:1] == "v" and step[1:2].isdigit() for step in path.split("/")):
            path += "/v1"
        url = parts._replace(path=path, fragment="").geturl()
        return cls(url, model or unquote(parts.fragment), default_patience() if patience is None else patience)

    def __str__(self) -> str:
        return urlsplit(self.url).netloc + urlsplit(self.url).path

    def first(self) -> "Server":
        """The same with its first model, unless one is named."""
        if self.model:
            return self
        found = self.asked("GET", "/models")
        with protocol(self):
            names = [str(one["id"]) for one in found["data"]]
        if not names:
            raise SoraError(f"{self} serves no model; load one first")
        return replace(self, model=names[0])

    def answer(self, messages: list[dict[str, Any]], tokens: int) -> str:
        """The sentence in the server's answer; Failed, naming the server, if there is none."""
        asked = {"messages": messages, "max_tokens": tokens, "temperature": 0, "seed": 0, "stream": False}
        found = self.asked("POST", "/chat/completions", asked | ({"model": self.model} if self.model else {}))
        with protocol(self):
            choice = found["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            if message.get("refusal"):
                message, finish = {"content": message["refusal"]}, "refusal"
            text = text_of(message["content"])
        return sentence(text, str(finish or ""), str(self))

    # ---- on the way -----------------------------------------------------------------------------------------

    def asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of an answer. A busy server is asked again while patience lasts, a broken one a few times."""
        end, tries = monotonic() + self.patience, 0
        while True:
            reply = self.reply(method, path, body, end)
            if reply.status == GOOD:
                with protocol(self):
                    found = json.loads(reply.body)
                if isinstance(found, dict) and found.get("error"):
                    raise Failed(f"{self} answers with an error{in_brackets(reason(json.dumps(found).encode()))}")
                return found
            tries += 1
            pause = pause_of(reply.later, tries)
            again = reply.status in BUSY or reply.status in BROKEN and tries < TRIES
            if not again or monotonic() + pause > end:
                raise Failed(self.refusal(reply, pause if again else 0))
            sleep(pause)

    def reply(self, method: str, path: str, body: dict[str, Any] | None, end: float) -> Reply:
        """One answer as a whole, however slowly it drips, before `end`."""
        from huggingface_hub.errors import OfflineModeIsEnabled

        parts = urlsplit(self.url)
        url = parts._replace(path=parts.path + path).geturl()
        left = max(0.01, end - monotonic())
        try:
            return with_deadline(left, lambda: fetched(method, url, body, left))
        except OfflineModeIsEnabled as error:
            raise Failed(f"HF_HUB_OFFLINE is set, so {self} is not used; unset it") from error
        except http.failures(OSError) as error:
            if "Timeout" in type(error).__name__:
                raise Failed(f"{self} does not answer within {self.patience:g} s; {LONGER}") from error
            raise Failed(f"{self} cannot be reached{in_brackets(str(error))}; is it running?") from error

    def refusal(self, reply: Reply, pause: float) -> str:
        """The error in a server's answer, in one line."""
        if reply.status in MOVED and reply.where:
            with protocol(self):
                there = printable(urljoin(self.url, reply.where))
            return f"{self} redirects to {there}; give that address to use it"
        line = f"{self} answers {reply.status}{in_brackets(reason(reply.body))}"
        if reply.status in REFUSED:
            return f"{line}; its key comes from {OPENAI_KEY if is_openai(self.url) else KEY}"
        return f"{line}; busy for longer than {self.patience:g} s: {LONGER}" if pause else line


@contextmanager
def protocol(server: Server) -> Iterator[None]:
    """Turn a malformed answer into a Failed of one line."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Failed(f"{server} does not speak OpenAI's protocol; is that the right address?") from error


def parse(address: str) -> SplitResult:
    """The parts of a URL; SoraError if it is invalid or contains a password."""
    try:
        parts = urlsplit(address)
        known = parts.scheme in PORTS and parts.hostname and (parts.port or 1)
        IPv6Address(parts.hostname or "") if "[" in parts.netloc else (parts.hostname or "").encode("idna")
    except ValueError:
        known = False
    if not known or not address.isascii() or not address.isprintable() or " " in address:
        raise SoraError(f"{address[:100]!a} is not an address; it must look like http://localhost:11434/v1#MODEL")
    if "@" in parts.netloc:
        raise SoraError(f"the address has a password in it; put the key into the variable {KEY} instead")
    return parts


def default_patience() -> float:
    """The timeout in SORA_LLM_TIMEOUT, in seconds; SoraError if it is not a number."""
    text = os.environ.get(TIMEOUT) or str(PATIENCE)
    with suppress(ValueError):
        if math.isfinite(seconds := float(text)) and seconds > 0:
            return seconds
    raise SoraError(f"{TIMEOUT} is {text[:40]!a}; it must be a number of seconds, such as 120")


def is_openai(url: str) -> bool:
    parts = urlsplit(url)
    return (parts.scheme, parts.hostname, parts.port or PORTS["https"]) == ("https", urlsplit(OPENAI).hostname, 443)


def key_for(url: str) -> str:
    """The key that belongs to a server: OpenAI's is for OpenAI alone."""
    name = OPENAI_KEY if is_openai(url) and os.environ.get(OPENAI_KEY) else KEY
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise SoraError(f"{name} contains characters that no key can have")
    return key


def fetched(method: str, url: str, body: dict[str, Any] | None, seconds: float) -> Reply:
    """The response of an address, without following redirects; an empty one if it is too large."""
    headers = {"authorization": f"Bearer {key}"} if (key := key_for(url)) else {}
    options: dict[str, Any] = {"json": body, "headers": headers, "timeout": seconds, "follow_redirects": False}
    open_to_proxies = urlsplit(url).scheme == "http"
    using = http.without_proxies() if key and open_to_proxies else nullcontext(http.session())
    with using as session, session.stream(method, url, **options) as response:
        found = bytearray()
        for piece in response.iter_bytes():
            found += piece
            if len(found) > LARGEST:
                return Reply(GOOD, b"", "", "")
        get = response.headers.get
        return Reply(response.status_code, bytes(found), get("retry-after", ""), get("location", ""))


def with_deadline(seconds: float, work: Callable[[], Item]) -> Item:
    """The result of some work within so many seconds; TimeoutError otherwise, and the work runs on unattended."""
    done: Future[Item] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001  (raised below, where it is waited for)
            done.set_exception(error)

    Thread(target=run, daemon=True).start()  # an executor's would be waited for at the end
    return done.result(seconds)


# ---- what an answer says --------------------------------------------------------------------------------------


def text_of(content: Any) -> str:
    """The text of a message: itself, or its parts of text; TypeError for any other."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in list(content)]
    texts = [part["text"] for part in parts if part["type"] not in THOUGHTS]
    if not isinstance(content, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{type(content)} is no text")
    return "".join(texts)


def pause_of(later: str, tries: int) -> float:
    """Seconds until a server is asked again: as many as it wants, or until the date it says, or more each time."""
    with suppress(ValueError):
        if math.isfinite(seconds := float(later)):
            return max(0.0, seconds)
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, (parsedate_to_datetime(later) - datetime.now(UTC)).total_seconds())
    return min(LONGEST_PAUSE, PAUSE * 2 ** (tries - 1))


def reason(body: bytes) -> str:
    """What a refusal says: its message if it is OpenAI's kind of JSON, or its first line."""
    text = body.decode(errors="replace")
    with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        found = json.loads(text)
        found = found.get("error") or found.get("message") or found.get("detail") or ""
        return str(found.get("message", "") if isinstance(found, dict) else found)
    return (text.strip().splitlines() or [""])[0]


def in_brackets(text: str) -> str:
    line = printable(" ".join(text.split()))
    return f" ({line})" if line else ""


def printable(text: str) -> str:
    return "".join(letter for letter in text[:120] if letter.isprintable())
