"""Who may ask: whoever has the token or, where there is none, programs of this machine and the server's own page."""

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from sora_cli.cli.serve.refusal import Refusal
from sora_cli.errors import Failed, SoraError

OPEN = ("/", "/healthz")  # tell nothing of anybody
LASTS = 3600              # seconds that a signed link is good for, at least
SHORTEST = 16             # letters of a token


def token_of(token: str | None, file: Path | None) -> str:
    """The token, given directly or in a file; "" if there is none."""
    if token is not None and file:
        raise SoraError("--token and --token-file both give the token; keep one of them")
    if file:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise Failed(f"could not read the token from {file}: {getattr(error, 'strerror', None) or error}") from None
    if token is None:
        return ""
    if len(token) < SHORTEST or not all("!" <= letter <= "~" for letter in token):
        raise SoraError(f"the token must have at least {SHORTEST} ASCII characters and no spaces; "
                        "`openssl rand -hex 32` makes one")  # fmt: skip
    return token


def is_loopback(host: str) -> bool:
    """Whether a name or an address can only mean this machine."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def split(address: str) -> SplitResult:
    """The parts of a URL, all empty if it is not valid."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


@dataclass(frozen=True)
class Gate:
    """`token` is "" on loopback alone, where Host and Origin are checked instead: a page of a stranger's that runs in a
    browser of this machine reaches loopback, too, under its own name (DNS rebinding) or across sites."""

    token: str = ""

    def check(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> None:
        """Refusal if the request is not allowed. Header names are in lower case."""
        if not self.token:
            check_local(method, path, headers)
        elif path not in OPEN and not self.signed(method, path, query) and not self.knows(headers):
            raise Refusal(401, "the token is missing or wrong; send it as Authorization: Bearer TOKEN",
                          "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})  # fmt: skip

    def knows(self, headers: Mapping[str, str]) -> bool:
        """Whether the request has the token, compared in constant time."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and same(given.strip(), self.token)

    # -- links that browsers and players follow, which send no token --------------------------------------------

    def sign(self, path: str) -> str:
        """A signed query with which anybody can GET this one path for one to two hours; "" without a token."""
        if not self.token:
            return ""
        expires = (int(time.time()) // LASTS + 2) * LASTS  # the same link all the hour, for caches
        return f"?expires={expires}&signature={self.signature(path, expires)}"

    def signed(self, method: str, path: str, query: str) -> bool:
        query_fields = parse_qs(query, max_num_fields=16) if method in ("GET", "HEAD") and query.count("&") < 16 else {}
        expires, signature = (query_fields.get(name, [""])[0] for name in ("expires", "signature"))
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12 and int(expires) >= time.time()):
            return False
        return same(signature, self.signature(path, int(expires)))

    def signature(self, path: str, expires: int) -> str:
        return hmac.new(self.token.encode(), f"{expires} {path}".encode(), hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    return hmac.compare_digest(*(hashlib.sha256(text.encode(errors="replace")).digest() for text in (one, other)))


def check_local(method: str, path: str, headers: Mapping[str, str]) -> None:
    """Refusal for requests that a page of another site makes through a browser."""
    host = headers.get("host", "")
    if not is_loopback(split(f"//{host}").hostname or ""):
        raise Refusal(403, "without a token, Host must be localhost or 127.0.0.1", "wrong_host")
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    foreign = origin is not None and split(origin).netloc.lower() != host.lower()
    visit = path == "/" and method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    if foreign or not (visit or site in ("same-origin", "none")):
        raise Refusal(403, "pages of other origins are not answered", "wrong_origin")
