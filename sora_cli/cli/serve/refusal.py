"""What a client is answered instead of what it asks for, in the shape of OpenAI's API. No folders of this machine are
named in it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sora_cli.errors import SoraError, readable

FOLDERS = re.compile(r"(?<![\w/\\.])(?:[A-Za-z]:|~|\.{1,2})?[/\\](?:[^\s'\"/\\]+[/\\])*(?=[^\s'\"/\\])")
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass
class Refusal(Exception):
    """An HTTP status and why: what is wrong and what would be right, in one line."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = TYPES.get(self.status, default)
        message, param = readable(self.message), self.param and readable(self.param)
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}


def missing(what: str) -> Refusal:
    return Refusal(404, f"there is no {what} with this id", "not_found")


@contextmanager
def refusing(param: str | None = None) -> Iterator[None]:
    """Turn a SoraError about what a client asks into a Refusal."""
    try:
        yield
    except SoraError as error:
        raise Refusal(400, public(str(error)), "invalid_value", param) from None


def public(message: str) -> str:
    """A message without the folders of this machine: `/home/me/a.png` -> `a.png`."""
    return FOLDERS.sub("", " ".join(message.split()))
