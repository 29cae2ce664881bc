"""Videos and pictures in words: by pocket's own captioner, by a pretrained CoCa, or by a server that can see.

    locate     where captioners of our own are
    frames     the frames that a captioner looks at
    pocket     the network that `sora-cli train captioner` makes
    constrained_decoding   the sentences that there are, and the likeliest of them
    coca       open_clip's CoCa, from the Hub
    server     any server that speaks OpenAI's protocol
    mixing     captions by people and by machines
    table      the file that captions are written to

A captioner watches a file and then tells what it saw, so that a file that is broken stops no other.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from sora_cli.captioning.locate import check_own
from sora_cli.captioning.mixing import is_human, mixed
from sora_cli.media import Frame

__all__ = ["COCA", "POCKET", "Caption", "Captioner", "check_model", "is_human", "is_server", "mixed", "open_captioner"]

POCKET, COCA = "pocket", "coca"


class Caption(NamedTuple):
    text: str  # one line of what is to be seen
    doubt: str = ""  # why it may be wrong


class Captioner(Protocol):
    def watch(self, name: str, say: Callable[[str], None] | None = None) -> list[Frame]:
        """The frames of a file that it looks at; SoraError for one that cannot be read."""

    def tell(self, frames: list[Frame]) -> Caption:
        """What is to be seen in them."""


def is_server(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def check_model(model: str) -> None:
    """Refuse a captioner that is not there, before torch is imported. Servers and the Hub are asked later."""
    if model != COCA and not is_server(model):
        check_own(model)


def open_captioner(model: str, device: str = "auto", served: str | None = None, timeout: float = 120) -> Captioner:
    """The captioner called `model`: pocket, coca, a file or a folder of weights, or a server by its address.

    `served` and `timeout` in seconds are of a server: which of its models to ask, and how long to wait for an answer.
    """
    if is_server(model):
        from sora_cli.captioning.server import Server

        return Server.at(model, served, timeout)
    if model == COCA:
        from sora_cli.captioning.coca import Coca

        return Coca.load(device)
    from sora_cli.captioning.pocket import Own

    return Own.load(model, device)
