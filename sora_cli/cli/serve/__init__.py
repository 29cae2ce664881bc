"""`sora-cli serve`: videos and images for other programs, over the endpoints of OpenAI's API, and a page for people."""

import importlib.util
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sora_cli.cli import models, options
from sora_cli.cli.expanding import Expansion
from sora_cli.cli.options import Compute, flattened
from sora_cli.cli.serve.gate import Gate, is_loopback, split, token_of
from sora_cli.cli.serve.limits import Limits
from sora_cli.errors import Failed, SoraError, no_op, readable
from sora_cli.files import owned

if TYPE_CHECKING:
    from sora_cli.cli.serve.app import Server

NEEDED = ("starlette", "uvicorn", "python_multipart")
Address = tuple[Any, ...]  # as getaddrinfo has it
FORMAT = {"serve": 1}  # of the folder
ENDING = 5  # seconds that answers, and as many that a step of the job at work, are given at the end
WAITING = 1024  # connections that the system holds until they are accepted


@flattened
def serve(
    host: Annotated[
        str, typer.Option(callback=options.named, help="Address to listen on; any but localhost needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]MODEL", help="Model to serve, optionally under another name; repeat for more. "
                     "The first is the default.", show_default="pocket"),
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="SORA_SERVE_TOKEN", help="Token that clients send; others can see a command "
                                 "line, so prefer the variable or a file.", show_default=False, show_envvar=True),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="A file that holds the token.")] = None,
    public_url: Annotated[
        str, typer.Option(metavar="URL", help="Address that clients use, if not this one.", show_default=False)
    ] = "",
    folder: Annotated[
        Path | None, typer.Option("--dir", parser=owned.folder, help="Where jobs and results are kept.",
                                  metavar="FOLDER", show_default="~/.local/share/sora-cli/serve"),
    ] = None,
    expand: Annotated[
        str, typer.Option(metavar="auto|off|grammar|URL", help="How prompts become captions, as in generate.")
    ] = "auto",
    expand_model: Annotated[str | None, typer.Option(metavar="NAME", help="LLM to use at the URL of --expand.")] = None,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
    *,
    limits: Limits,
    compute: Compute,
) -> None:
    """Serve videos and images to other programs: OpenAI's API, a queue that outlives the server, and a page."""
    check_extra()
    from sora_cli.cli.serve.app import Server
    from sora_cli.cli.serve.orders import Orders, served_as
    from sora_cli.cli.serve.store import Store
    from sora_cli.cli.serve.worker import Worker

    gate = Gate(token_of(token, token_file))
    address = address_of(host, port)
    check_reach(host, address, public_url, gate.token)
    served = served_as(model or ["pocket"])
    for one in served.values():
        models.check_model(one, quiet)
        Expansion.asked(expand, expand_model, one)
    log: Callable[[str], None] = no_op if quiet else lambda text: typer.echo(readable(text), err=True)
    kept = home() if folder is None else Path(os.path.expanduser(folder)).absolute()
    own = owned.Owned(kept, FORMAT, "folder of something else")
    with own, listening(address, f"{host}:{port}") as listener:
        store = Store(own.folder, limits)
        store.check()
        own.begin()
        own.folder.chmod(0o700)
        store.load(log)
        orders = Orders(served, store, compute, expand, expand_model)
        run(Server(orders, Worker(orders, log, debug), gate, public_url), listener, limits, log)


def check_extra() -> None:
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        raise SoraError("serve needs extra packages: pip install 'sora-cli[serve]'")


def address_of(host: str, port: int) -> Address:
    """The address of a host name; Failed if there is none."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise Failed(f"--host {host} is not an address here: {getattr(error, 'strerror', None) or error}") from None


def check_reach(host: str, address: Address, public_url: str, token: str) -> None:
    """SoraError if other machines could reach the server without a token."""
    url = split(public_url)
    if public_url and (url.scheme not in ("http", "https") or not url.hostname or url.query):
        raise SoraError(f"--public-url {public_url} is not an address like https://video.example.org")
    if not token and not is_loopback(str(address[4][0])):
        raise SoraError(f"--host {host} is open to others; give a token, in SORA_SERVE_TOKEN or --token-file, "
                        "or use --host 127.0.0.1")  # fmt: skip
    if not token and public_url:
        raise SoraError("--public-url opens the server to others; give a token, in SORA_SERVE_TOKEN or --token-file")


def home() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    return Path(data if data and os.path.isabs(data) else Path.home() / ".local/share") / "sora-cli" / "serve"


def listening(address: Address, name: str) -> socket.socket:
    """A socket that listens on one address."""
    family, *_, sockaddr = address
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # [::] is all addresses, as everywhere
    try:
        return socket.create_server(sockaddr, family=family, backlog=WAITING, dualstack_ipv6=both)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise Failed(f"cannot listen on {name}: {why}; --port chooses another port") from None


def run(server: "Server", listener: socket.socket, limits: Limits, log: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then shut down cleanly."""
    import uvicorn

    from sora_cli.cli.serve.app import application
    from sora_cli.cli.serve.wire import Guard, Listening, Patient

    protocol = type("Protocol", (Patient,), {"patience": limits.timeout})
    config = uvicorn.Config(
        Guard(application(server), server.gate, limits), http=protocol, ws="none", lifespan="on", log_config=None,
        log_level="error", access_log=False, proxy_headers=False, server_header=False, backlog=WAITING,
        limit_concurrency=limits.max_connections, timeout_graceful_shutdown=ENDING,
    )  # fmt: skip
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # forms that are none are the client's affair
    host, port = listener.getsockname()[:2]
    log(f"serving {', '.join(server.orders.served)} at http://{f'[{host}]' if ':' in host else host}:{port}; "
        f"jobs are kept in {server.store.folder}")  # fmt: skip
    server.worker.start()
    with suppress(KeyboardInterrupt, SystemExit):  # the signal, handed on by uvicorn when all is answered
        Listening(config, server.store.close).run(sockets=[listener])
    if not server.worker.stop(ENDING):
        os._exit(0)  # in the middle of a long step; finished windows are on the disk, and so are all jobs
    log("stopped; unfinished jobs continue at the next start")
