"""HTTP as the client of the Hub speaks it, for repositories and for language models. It is imported where it is used,
since that takes a while. No torch."""

from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from sora_cli.errors import SoraError


def session() -> Any:
    """The client's session; SoraError if the proxies or certificates that the environment names cannot be used."""
    from huggingface_hub.utils import get_session

    try:
        return get_session()
    except Exception as error:  # of many kinds, whatever is wrong with them
        said = str(error).split(". ")[0]
        raise SoraError(f"a proxy or the certificates cannot be used ({said}); check HTTP_PROXY, HTTPS_PROXY, "
                        "ALL_PROXY, NO_PROXY and SSL_CERT_FILE") from error  # fmt: skip


def without_proxies() -> AbstractContextManager[Any]:
    """A session of its own that asks servers themselves, whatever the environment says."""
    common = session()
    return type(common)(trust_env=False, event_hooks=common.event_hooks)


def failures(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What the client's library raises for connections and addresses, whichever library that is, and more."""
    from huggingface_hub.errors import HfHubHTTPError

    base = HfHubHTTPError.__mro__[1]
    return *more, base, import_module(base.__module__.partition(".")[0]).InvalidURL
