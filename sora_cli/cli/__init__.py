"""The `sora-cli` command: its words, and the one place where errors become a line and an exit code."""

import codecs
import io
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from errno import ENAMETOOLONG
from typing import Annotated, NoReturn

import typer

from sora_cli import __version__
from sora_cli.cli.batch import WithAddress, batch
from sora_cli.cli.caption import caption
from sora_cli.cli.data import data
from sora_cli.cli.decode import decode
from sora_cli.cli.doctor import doctor
from sora_cli.cli.encode import encode
from sora_cli.cli.evaluate import evaluate
from sora_cli.cli.extend import extend
from sora_cli.cli.ffmpeg import PASSED_ON, ffmpeg
from sora_cli.cli.generate import generate
from sora_cli.cli.info import info
from sora_cli.cli.jobs import carry_out
from sora_cli.cli.loop import loop
from sora_cli.cli.reverse import reverse
from sora_cli.cli.serve import serve
from sora_cli.cli.train import train
from sora_cli.cli.weights import weights
from sora_cli.cli.world import world
from sora_cli.errors import SoraError, short
from sora_cli.placement.machine import short_of

# frames go to ffmpeg and back through one thread that waits for either pipe, which Windows cannot do
WINDOWS = "Windows is not supported; use WSL 2, which `wsl --install` sets up"
EXAMPLE = 'sora-cli generate "a cat surfing"'
FAILURE, INTERRUPTED = 1, 130
ENDS = ("SIGTERM", "SIGHUP")  # signals that end a command; the second comes of a terminal that is closed
LONGEST = 900  # characters of an error
GROUPS = {"train": train, "data": data, "weights": weights}
MAKING = ("generate", "extend", "loop", "reverse")  # go on with finished windows
WORDED = {  # what typer's parser says, and what we do
    "Value error, ": "",
    "Input should be a valid number, unable to parse.*": "it must be a number.",
    "Input should be a valid integer, unable to parse.*": "it must be a whole number.",
    r"Input should be greater than or equal to (\S+)": r"it must be at least \1.",
    r"Input should be less than or equal to (\S+)": r"it must be at most \1.",
}

# typer carries its own copy of click or uses the installed one; either way BadParameter is a UsageError, and
# that a ClickException.
ClickException: type[typer.BadParameter] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Make video from text, images and clips, on your own machine.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    result_callback=carry_out,
)
for verb in (generate, extend, loop, reverse):
    app.command()(verb)
app.command(cls=WithAddress)(batch)
for verb in (serve, encode, decode, caption, info, doctor, world, evaluate):
    app.command()(verb)
app.command(context_settings=PASSED_ON)(ffmpeg)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sora-cli {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text, nor be in the terminal's letters
        utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    if not (sys.warnoptions or "--debug" in words):
        warnings.simplefilter("ignore")  # of libraries; what a user should know is said in a line of ours
    for number in (getattr(signal, name) for name in ENDS if hasattr(signal, name)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # which `nohup` asks for
            signal.signal(number, lambda got, _: sys.exit(128 + got))
    sys.exit(run(words, debug="--debug" in words))


def run(words: list[str], debug: bool = False) -> int:
    """The error boundary. With `debug`, errors keep their traceback."""
    if not words or words in [[name] for name in GROUPS]:  # which command is not said
        words = [*words, "--help"]
    if sys.platform == "win32" and not {"-h", "--help", "--version"}.intersection(words):
        return complain(WINDOWS, FAILURE)
    try:
        code = app(words, prog_name="sora-cli", standalone_mode=False) or 0
        return complain("interrupted", code) if code == INTERRUPTED else code
    except (KeyboardInterrupt, typer.Abort):
        return complain("interrupted", INTERRUPTED)
    except ClickException as error:
        return complain(worded(error.format_message()), error.exit_code)
    except SoraError as error:
        if debug:
            raise
        return complain(str(error), error.exit_code)
    except BrokenPipeError:
        return FAILURE
    except OSError as error:
        if debug:
            raise
        code = SoraError.exit_code if error.errno == ENAMETOOLONG else FAILURE
        return complain(str(error) or type(error).__name__, code)
    except (RuntimeError, MemoryError) as error:  # torch has no error of its own for a lack of memory
        memory = short_of(error)
        if debug or not memory:
            raise
        return complain(f"ran out of {memory}{less(words)}", FAILURE)


def worded(message: str) -> str:
    """The parser's error message, reworded for users."""
    for said, ours in WORDED.items():
        message = re.sub(said, ours, message)
    if message.startswith("No such command") and "Did you mean" not in message:
        message += " `sora-cli --help` lists all commands; a prompt goes after `generate`: " + EXAMPLE
    return message


def less(words: Sequence[str]) -> str:
    """How a command could do with less memory, as the end of an error message; "" for commands that cannot."""
    if not words or words[0] not in MAKING:
        return ""
    smaller = "a smaller --res or fewer --frames"
    if {"-", "-o-", "--output=-"}.intersection(words):  # a pipe keeps nothing
        return f"; try --memory low, {smaller}"
    return f"; --resume continues after the finished windows, also with --memory low; {smaller} needs --force"


def complain(message: str, code: int) -> int:
    """Print an error as one line on stderr, shortened and without control characters."""
    print(f"sora-cli: {short(message, LONGEST)}", file=sys.stderr)
    return code
