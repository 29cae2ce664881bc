"""`sora-cli caption FILES|DIR`: what is to be seen in videos and pictures, in words."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sora_cli import __version__, media
from sora_cli.captioning import POCKET, check_model, is_human, is_server, open_captioner
from sora_cli.captioning.table import Table
from sora_cli.cli.options import DebugOption, DeviceOption, ForceOption, JsonOption, QuietOption, flattened
from sora_cli.cli.outputs import check_output
from sora_cli.cli.screen import Screen
from sora_cli.dataset.beside import around, read
from sora_cli.errors import Failed, SoraError, among, have, listed, readable
from sora_cli.files.owned import folder
from sora_cli.files.weights import write
from sora_cli.media import kinds
from sora_cli.prompts.llm import TIMEOUT


@dataclass(frozen=True)
class CaptionConfig:
    """The captioner to use, and the share of human captions to keep."""

    model: Annotated[
        str, typer.Option(metavar="NAME", help="pocket, coca (a 2.6 GB download), your own weights, or http://SERVER.")
    ] = POCKET
    served: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model to use on the server; by default its first.")
    ] = None
    timeout: Annotated[
        float, typer.Option(min=1, max=86_400, envvar=TIMEOUT, help="Seconds to wait for an answer from the server.")
    ] = 120
    keep_human: Annotated[
        float | None,
        typer.Option(metavar="SHARE", min=0, max=1, help="Share of existing NAME.txt files to keep as captions."),
    ] = None
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed of the choice of --keep-human.")] = 0
    device: DeviceOption = "auto"

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines a caption."""
        return {"model": self.model, "served": self.served, "keep_human": self.keep_human, "seed": self.seed,
                "version": __version__}  # fmt: skip


@flattened
def caption(
    paths: Annotated[list[str], typer.Argument(metavar="FILES|DIR...", help="Videos, images, or folders of them.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="JSONL", help="Write files and captions to this file, as JSON lines."),
    ] = None,
    sidecars: Annotated[
        bool, typer.Option("--sidecars", help="Write NAME.txt beside each file; existing ones are kept.")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
    *,
    config: CaptionConfig,
) -> None:
    """Describe videos and images: one line per file, with its name, a tab and the caption.

    pocket knows only its rendered world. For real footage, use --model coca or a vision model behind an
    OpenAI-compatible server (for example Ollama: --model http://localhost:11434)."""
    check(output, sidecars, config)
    keep_human = config.keep_human
    table = Table(output, config.identity, force) if output else None
    if table:
        table.check()
    files, warnings = files_of(paths)
    check_model(config.model)
    if sidecars:
        check_sidecars(files)
    beside_them, wrong = captions_beside(files) if sidecars or keep_human is not None else ({}, {})
    if wrong and keep_human is not None:
        raise SoraError(next(iter(wrong.values())))
    human = {} if keep_human is None else beside_them
    kept = {name for name in human if is_human(name, keep_human or 0.0, config.seed)}
    with Screen(quiet) as screen, table or nullcontext():
        for line in [*warnings, *wrong.values()]:
            screen.note(line)
        there = table.rows if table else beside_them | wrong if sidecars and not force else {}
        done = set(map(os.path.abspath, there))
        todo = [name for name in files if os.path.abspath(name) not in done]
        if count := len(files) - len(todo):
            screen.note(f"{among(count, len(files), 'file')} already {have(count)} captions; --force writes new ones")
        left = dict.fromkeys(todo)
        for name, text in caption_files(todo, {name: human[name] for name in kept}, config, screen):
            del left[name]
            row = {"file": name, "caption": text} | ({"human": name in kept} if human else {})
            if sidecars:
                write(beside(name), f"{text}\n".encode())
            if table:
                table.add(row)
            else:
                cells = [json.dumps(row, ensure_ascii=False)] if as_json else [name, text]
                typer.echo("\t".join(map(readable, cells)))
        if table and not left:
            table.finish()
    if table and table.rows:
        typer.echo(str(output))
    if left:
        again = "; the same command tries them again" if output or sidecars else ""
        raise Failed(f"{among(len(left), len(todo), 'file')} could not be captioned: {listed([*left])}{again}")


def check(output: Path | None, sidecars: bool, config: CaptionConfig) -> None:
    """Refuse options that contradict each other."""
    if output and sidecars:
        raise SoraError("-o writes one file, --sidecars one beside each input; use only one of them")
    if config.keep_human is not None and sidecars:
        raise SoraError("--sidecars keeps every existing caption; leave it out to use --keep-human")
    if config.served and not is_server(config.model):
        raise SoraError(f"--served names a server's model, and {config.model} is not a server; "
                        "give --model http://SERVER")  # fmt: skip
    if output:
        check_output(output, (".jsonl",), force=True)  # the table itself knows what may be written over


def files_of(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files themselves, and the videos and pictures anywhere in the folders, each once; and what was left out."""
    found: list[str] = []
    reasons: list[str] = []
    for name in paths:
        if folder(name).is_dir():
            there = list(kinds.walk(Path(name)))
            inside = [str(Path(name, file)) for file, reason in there
                      if not reason and media.is_footage(file) and Path(name, file).is_file()]  # fmt: skip
            reasons += [reason for reason in (reason or kinds.unread(file) for file, reason in there) if reason]
            if not inside:
                raise SoraError("; ".join([f"there is no video or picture in {name}", *kinds.left_out(reasons)]))
            found += inside
        else:
            media.check_input(name)
            found.append(name)
    once: dict[str, str] = {}
    for name in found:
        once.setdefault(os.path.abspath(name), name)
    return list(once.values()), list(kinds.left_out(reasons))


def beside(name: str) -> Path:
    return Path(name).with_suffix(".txt")


def check_sidecars(files: Sequence[str]) -> None:
    """Refuse files that have no place for a sidecar, or would share one."""
    owners: dict[Path, str] = {}
    for name in files:
        if not Path(name).is_file():
            raise SoraError(f"{name} is not a file, so no caption can lie beside it; leave out --sidecars")
        if beside(name).exists() and not beside(name).is_file():
            raise SoraError(f"{beside(name)} is in the way: it is no file; leave out --sidecars")
        other = owners.setdefault(beside(name), name)
        if other != name:
            raise SoraError(f"{other} and {name} would share {beside(name)}; rename one, or write to -o FILE.jsonl")


def captions_beside(files: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The captions that lie beside files, on one line; and of files that have none but one that cannot be read, why."""
    names = {str(Path(name)): name for name in files}
    texts: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for clip, sides in around(Path(name) for name in files if Path(name).is_file()):
        name, answer = names[str(clip)], [(side, read(side)) for side in sides]
        bad = [f"{one} is not a caption: {said.wrong}" for one, said in answer if said.wrong and one.suffix != ".json"]
        if said := [said.text for _, said in answer if said.text]:
            texts[name] = said[0]
        elif bad:
            wrong[name] = bad[0]
    return texts, wrong


def caption_files(
    files: Sequence[str], existing: dict[str, str], config: CaptionConfig, screen: Screen
) -> Iterator[tuple[str, str]]:
    """Files with their captions, `existing` ones or the model's; a file that fails is noted and left out unless it is
    the only one."""
    by = (config.model, config.device, config.served, config.timeout)
    captioner = open_captioner(*by) if set(files) - set(existing) else None
    for name in screen.track(files, "caption", len(files)):
        if captioner is None or name in existing:
            yield name, existing[name]
            continue
        try:
            answer = captioner.caption(captioner.sample_frames(name, screen.note))
        except SoraError as error:
            if len(files) == 1:
                raise
            screen.note(f"{name} is left out: {error}")
            continue
        if answer.warning:
            screen.note(f"{name}: {answer.warning}")
        yield name, answer.text
