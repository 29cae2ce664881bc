"""`sora-cli weights`: the models there are, and those that are on this machine."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from sora_cli import registry
from sora_cli.cli.options import DebugOption, JsonOption, QuietOption
from sora_cli.cli.screen import Transfers, print_result
from sora_cli.errors import Failed, SoraError, counted, readable
from sora_cli.registry import Entry, comfy, hub
from sora_cli.registry.schema import EVERYTHING

weights = typer.Typer(help="List, download, verify and remove models.")

NAME = "A model: a name from the list, hf:OWNER/NAME, FILE, or ./FOLDER."
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help=NAME)]
NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME...", help=NAME)]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="ComfyUI's folder, or its models folder.")]


@weights.command("list")
def list_models(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """List models with size, state, licence and what they were trained for."""
    found = [*(row(registry.entry(name)) for name in registry.names()), *other_rows()]
    files = [row(registry.entry(name)) for name in comfy.recognised()]  # single ones, in ComfyUI's folders
    if as_json:
        return print_result([*found, *files], as_json)
    columns = (Column(name, no_wrap=True) for name in ("name", "size", "here"))
    table = Table(*columns, "licence", "trained for", "native size", box=None, header_style="bold")
    for one in found:
        cells = one["name"], size(one["bytes"]), here(one), one["licence"], anchors(one), one["size"]
        table.add_row(*(escape(readable(cell)) for cell in cells))
    Console(highlight=False, soft_wrap=True).print(table)
    if files:
        typer.echo("\nsingle files in ComfyUI's folders; --model accepts these names:")
    for one in files:
        typer.echo(readable(f"  {one['name']}: {size(one['bytes'])}, here: {here(one)}; {one['about']}"))


@weights.command()
def link(folder: FolderArgument, debug: DebugOption = False) -> None:
    """Use the models in ComfyUI's folder where they are; nothing is copied."""
    comfy.link(folder)
    names = comfy.recognised()
    found = f"{folder}: {counted(len(names), 'usable model')}{': ' if names else ''}{', '.join(names)}"
    typer.echo(readable(found))


@weights.command()
def unlink(folder: FolderArgument, debug: DebugOption = False) -> None:
    """Forget a folder that was linked; its files stay."""
    comfy.unlink(folder)


@weights.command()
def show(name: NameArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Show all details of a model."""
    found = described(registry.entry(name))
    print_result(found, as_json, lines(found), 16)


@weights.command()
def pull(
    names: NamesArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    accept_licence: Annotated[
        str, typer.Option(metavar="LICENCE", help="Accept a licence that requires it, by its name.")
    ] = "",
    update: Annotated[
        bool, typer.Option("--update", help="Download the newest version in place of the pinned one.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Download models from the Hub; an interrupted download is continued."""
    entries = [registry.entry(name).whole for name in names]
    for entry in entries:
        screen = Transfers(quiet)
        hub.pull(entry, yes, accept_licence, update, screen)
        if not as_json:
            screen.note(f"{entry.name} is here ({hub.gigabytes(hub.status(entry).bytes)})")
    if as_json:
        print_result([row(entry) for entry in entries], as_json)


@weights.command()
def verify(
    names: NamesArgument, as_json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False
) -> None:
    """Check all files of downloaded models against their hashes."""
    for entry in [registry.entry(name) for name in names]:
        with Transfers(quiet) as screen:
            hub.verify(entry, partial(screen.show, "checking"))
        if not as_json:
            screen.note(f"{entry.name} is intact ({hub.gigabytes(hub.status(entry).bytes)})")
    print_result([{"name": name, "whole": True} for name in names], as_json)


@weights.command()
def rm(
    names: NamesArgument, as_json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False
) -> None:
    """Delete models; files shared with other models are kept."""
    rows = []
    for name in names:
        entry = registry.entry(name).whole
        if not entry.files and not hub.status(entry).bytes:
            raise SoraError(f"nothing of {name} is on this machine")
        freed, kept = hub.remove(entry)
        rows.append({"name": name, "freed": freed, "shared_with": kept})
        rest = f"; the rest stays for {', '.join(kept)}" if kept else ""
        if not as_json:
            Transfers(quiet).note(f"{name}: {hub.gigabytes(freed)} freed{rest}")
    print_result(rows, as_json)


@weights.command()
def path(name: NameArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Print the paths of the networks of a model."""
    found = {role: str(folder) for role, folder in hub.locate(registry.entry(name)).items()}
    print_result(found, as_json, found.items(), 9)


def row(entry: Entry) -> dict[str, Any]:
    found, usage = hub.status(entry), entry.usage
    return {"name": entry.name, "bytes": found.total, "here": found.bytes, "state": found.state,
            "licence": entry.licence, "anchors": list(usage.trained), "size": f"{usage.width}x{usage.height}",
            "fps": usage.fps, "about": entry.about, "text": not usage.conditioned}  # fmt: skip


def other_rows() -> Iterator[dict[str, Any]]:
    """Rows of downloaded repositories, which are named hf:OWNER/NAME."""
    for name, found in hub.others().items():
        try:
            yield row(registry.entry(name))
        except Failed:  # its small files are gone and there is no network
            yield {"name": name, "bytes": found.total, "here": found.bytes, "state": found.state,
                   "licence": registry.UNKNOWN, "anchors": [], "size": "", "fps": 0, "about": "",
                   "text": True}  # fmt: skip


def size(count: int) -> str:
    return hub.gigabytes(count) if count else "?"


def anchors(row: dict[str, Any]) -> str:
    """What a model was trained to start from."""
    trained = row["anchors"]
    if set(trained) == set(EVERYTHING):
        return "everything"
    return ", ".join([*(["text"] if row["text"] else []), *trained])


def here(row: dict[str, Any]) -> str:
    return {"present": "yes", "absent": "no"}.get(row["state"], f"{hub.gigabytes(row['here'])} of it")


def described(entry: Entry) -> dict[str, Any]:
    """An entry as JSON, with its download state; fields that do not apply are left out."""
    found = asdict(hub.status(entry))
    plain = {key: value for key, value in asdict(entry).items() if value not in ("", 0, (), None)}
    plain.pop("sought", None)  # `about` says what was found
    return plain | {"state": found["state"], "bytes": found["total"], "here": found["bytes"]}


def lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What `described` returns, as lines for people."""
    for key, value in found.items():
        if key == "usage":
            yield from ((f"  {name}", text(item)) for name, item in value.items() if item)
        elif key in ("parts", "tiny"):
            yield from ((f"  {part['role']}", part_line(part)) for part in (value if key == "parts" else [value]))
        elif key == "network":
            for role, sizes in value.items():
                told = (f"{name} {text(size)}" for name, size in sizes.items() if name not in ("mean", "std"))
                yield f"  {role} sizes", "; ".join(told)  # those two are read with the weights
        elif key == "parameters":
            yield key, f"{value / 1e9:.3g} billion"
        elif key in ("memory", "speed"):
            yield key, f"{hub.gigabytes(int(value)) if key == 'memory' else value} (its authors' figure)"
        elif key == "files":
            yield from (("  file", f"{file['path']}, {hub.gigabytes(file['bytes'])}") for file in value)
        else:
            yield key, hub.gigabytes(int(value)) if key in ("bytes", "here") else text(value)


def part_line(part: dict[str, Any]) -> str:
    file = f"/{part['names'][0]}" if len(part["names"]) == 1 and "*" not in part["names"][0] else ""
    inside = f"{part['folder']}{file}".removeprefix("/")
    where = part["path"] or f"{part['repo']}@{part['revision']} {inside}"
    return f"{where}, {size(part['bytes'])}"


def text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
