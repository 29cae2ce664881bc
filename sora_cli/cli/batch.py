"""`sora-cli batch JOBS`: a list of shots, all checked before the first is made, each made once."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from sora_cli import media
from sora_cli.cli import asking, generate, options
from sora_cli.cli.asking import Asking, Item, Verb
from sora_cli.cli.batch_screen import BatchScreen
from sora_cli.cli.batching import Batch, Ledger, Wrong
from sora_cli.cli.cluster import LOCAL, Cluster
from sora_cli.cli.decode import decode
from sora_cli.cli.encode import encode
from sora_cli.cli.extend import extend
from sora_cli.cli.lines import grid, lines, read
from sora_cli.cli.loop import loop
from sora_cli.cli.overview import draw, show_cost
from sora_cli.cli.reverse import reverse
from sora_cli.errors import SoraError, counted, readable

VERBS: dict[str, Callable[..., Any]] = {
    "generate": generate.generate, "extend": extend, "loop": loop, "reverse": reverse,
    "encode": encode, "decode": decode,
}  # fmt: skip
OWN = ("sheet", "as_json", "quiet", "debug", "preview", "dry_run", "resume")  # mean all jobs together
OUTPUT = "Output file; {line}, {input}, {prompt}, {seed} and every option that is given are filled in."
NAMED = 20  # bad lines at most
ADDRESS = re.compile(r"auto|local|ray://.*|[^/\s]+:\d+")  # of a Ray cluster


def with_defaults(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that also has every option of the verbs, as defaults for all lines."""
    hints = inspect.get_annotations(command, eval_str=True)
    own = [parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
           for name, parameter in inspect.signature(command).parameters.items() if name != "defaults"]  # fmt: skip
    more: dict[str, inspect.Parameter] = {}
    for verb in VERBS.values():
        for name, parameter in inspect.signature(verb).parameters.items():
            kinds = get_args(parameter.annotation)
            option = next((one for one in kinds if isinstance(one, type(typer.Option()))), None)
            if option is not None and name not in (*OWN, *hints):
                hint = options.under(parameter.annotation, "Defaults of the lines")
                if name == "output":
                    hint.__metadata__[0].help = OUTPUT
                more.setdefault(name, parameter.replace(annotation=hint))
    signature = inspect.Signature([*own, *more.values()])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return command


@with_defaults
def batch(
    context: typer.Context,
    jobs: Annotated[
        str,
        typer.Argument(
            metavar="JOBS", help="List of jobs: JSON lines, CSV, or one prompt per line; - is standard input."
        ),
    ],
    verb: Annotated[str, typer.Option(help=f"Command for lines that name none: {', '.join(VERBS)}.")] = "generate",
    expand_grid: Annotated[
        bool, typer.Option("--expand-grid", help="Expand {cat|dog}, {0..9} and lists of values into all combinations.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Make only part I of N of the list; other machines make the rest.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Run on a Ray cluster: the one at HOST:PORT, the one of this machine (auto), or a new one here.",
        ),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores of each --ray worker on machines without a GPU.", show_default="1")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Also write a sheet with one frame of every video.")
    ] = None,
    dry_run: options.DryRunOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Accepted for convenience; a batch always resumes.")] = False,
    preview: options.PreviewOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON event per line.")] = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
    **defaults: Any,
) -> None:
    """Make a list of videos; finished ones are skipped, interrupted ones continued."""
    part = part_of(shard)
    items, wrong = items_of(context, jobs, verb, expand_grid, defaults, preview)
    mine = [item for item in items if part is None or item.shard(part[1]) == part[0]]
    screen = BatchScreen(len(mine), quiet, as_json, preview)
    work = Batch(items, mine, beside(jobs, "failed", part), Ledger(beside(jobs, "done", part)), screen, debug)
    refuse(jobs, [*wrong, *work.wrong()])
    work.check_whole(sheet, here=ray in (None, LOCAL))
    if cores and not ray:
        raise SoraError("--cores needs --ray; without it, OMP_NUM_THREADS sets the number of cores")
    if dry_run:
        return show_cost(work.left, len(mine), as_json)
    if ray and work.left:
        gpus = any(item.job.compute.device != "cpu" for item in work.left)
        with Cluster(ray, cores or 1, gpus, screen, f".{beside(jobs, 'ray', part).stem}") as cluster:
            work.run(cluster.work)
    else:
        work.run()
    if sheet:
        draw(items, sheet)
    if screen.counts["failed"]:
        raise typer.Exit(1)


class WithAddress(TyperCommand):
    """A command whose --ray takes an optional address; without one it means a local cluster."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        return super().parse_args(context, self.addressed(words))

    @staticmethod
    def addressed(words: list[str]) -> list[str]:
        """The command line's arguments, with an address added after a bare --ray."""
        pairs = zip(words, [*words[1:], ""], strict=True)
        return [f"--ray={LOCAL}" if word == "--ray" and not ADDRESS.fullmatch(after) else word for word, after in pairs]


def part_of(shard: str | None) -> tuple[int, int] | None:
    """`2/8` -> (1, 8): which part, counted from 0, of how many; SoraError for anything else."""
    if shard is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise SoraError(f"--shard {shard} is not I/N, with I from 1 to N: 1/3, 2/3 and 3/3 are the parts of three")
    return int(match[1]) - 1, int(match[2])


def beside(jobs: str, what: str, part: tuple[int, int] | None) -> Path:
    """The file for a batch's failed or done jobs: `jobs.jsonl` -> jobs.failed.jsonl, jobs.failed.2-of-8.jsonl."""
    path = Path("batch.jsonl" if jobs == media.STREAM else jobs)
    which = f".{part[0] + 1}-of-{part[1]}" if part else ""
    return path.with_name(f"{path.stem}.{what}{which}.jsonl")


def items_of(
    context: typer.Context, name: str, verb: str, expand: bool, defaults: dict[str, Any], preview: bool = False
) -> tuple[list[Item], Wrong]:
    """Every job of a list, and the invalid lines; SoraError for a default that no job uses."""
    root = context.parent
    assert root is not None
    commands: dict[str, Any] = root.command.commands  # type: ignore[attr-defined]
    verbs = {one: Verb(one, commands[one], context) for one in VERBS}
    if verb not in verbs:
        raise SoraError(f"unknown --verb {verb}; choose one of {', '.join(verbs)}")
    found = {key: defaults[key] for key in sorted(generate.given(context) & defaults.keys())}
    given = {key: value if isinstance(value, bool | list) else str(value) for key, value in found.items()}
    reader = Asking(verbs, verb, given, preview)
    columns = {option for one in verbs.values() for option in one.names} | {"verb", "line", "error"}
    listed = lines(name, read(name), sorted(columns))
    if expand:
        many = sorted({option for one in verbs.values() for option in one.many})
        listed = [combination for line in listed for combination in grid(line, many)]
    items: list[Item] = []
    wrong: Wrong = []
    for line in listed:
        try:
            items += [Item(line, job) for job in reader.jobs(line)]
        except Exception as error:
            if not isinstance(error, SoraError) and not hasattr(error, "format_message"):
                raise
            wrong.append((line.number, asking.words(error)))
    if not wrong and (unused := [key for key in given if key not in reader.used]):
        raise SoraError(f"--{unused[0].replace('_', '-')} applies to no job of {name}")
    return items, wrong


def refuse(name: str, wrong: Wrong) -> None:
    """SoraError if any line is wrong; each is printed on stderr."""
    if not wrong:
        return
    shown = sorted(wrong)
    for number, why in shown[:NAMED]:
        typer.echo(readable(f"{name}:{number}: {why}"), err=True)
    if len(shown) > NAMED:
        typer.echo(f"... and {len(shown) - NAMED} more", err=True)
    raise SoraError(f"{name} has {counted(len(shown), 'wrong line')}; nothing was started")
