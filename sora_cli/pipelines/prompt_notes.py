"""Notes on what a model reads of a shot's prompts: shown by a run, and by a dry run, which has no weights."""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.models.sora import text as ours
from sora_cli.prompts import grammar
from sora_cli.registry import Entry, hub
from sora_cli.shot import Shot

if TYPE_CHECKING:
    from sora_cli.models.wan.text import Umt5Tokenizer  # whose library takes a while, and models of ours do without


def notes(entry: Entry, shot: Shot) -> Iterator[str]:
    """The notes of a run, a line each, as far as the tokenizer is here. SoraError for what a run would refuse."""
    if entry.kind == "sora":
        yield from by_ours(entry, shot, ours.tokenizer_of(weights.read_header(entry.part("text")[0].path).metadata))
        return
    yield from by_wan(entry, shot)
    with suppress(Failed):  # of a model that is not here
        if folder := hub.locate(entry.only("tokenizer")).get("tokenizer"):
            from sora_cli.models.wan.text import Umt5Tokenizer

            yield from unread_by_wan(entry, shot, Umt5Tokenizer(folder / "tokenizer.json"))


def by_ours(entry: Entry, shot: Shot, tokenizer: ours.Tokenizer) -> Iterator[str]:
    """Notes of our models: on unknown words, and on prompts that are too long."""
    trained = entry.usage.grammar
    both = dict(zip(shot.prompts, grammar.captions_of(shot, trained), strict=True))
    unknown = (word for text in (*both.values(), shot.negative) for word in tokenizer.oov_words(text))
    yield from grammar.notes(entry.name, shot, trained, unknown)
    for text in (*both.values(), shot.negative):
        if (count := len(ours.words(text))) > tokenizer.most:
            yield f'{entry.name} reads the first {tokenizer.most} of {count} words of "{text[:40]}..."'


def by_wan(entry: Entry, shot: Shot) -> Iterator[str]:
    """Notes of a Wan, before its tokenizer is there; SoraError for steps that it was not distilled to."""
    if entry.sought:
        yield f"{entry.name} is {entry.about}"
    if entry.usage.solver == "dmd" and shot.steps != (due := entry.usage.steps):
        raise SoraError(f"{entry.name} is distilled to {due} steps; leave out --steps {shot.steps}")


def unread_by_wan(entry: Entry, shot: Shot, tokenizer: "Umt5Tokenizer") -> Iterator[str]:
    """Notes on prompts with more tokens than a Wan reads."""
    from sora_cli.models.wan.configs import CONTEXT

    for text in (*grammar.captions_of(shot, False), shot.negative):  # a token is a byte at least
        if len(text.encode()) >= CONTEXT - 1 and (unread := tokenizer.unread(text)):
            yield f'{entry.name} reads {CONTEXT} tokens of a prompt; not read: "{unread[:60]}..."'
