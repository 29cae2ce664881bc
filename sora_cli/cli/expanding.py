"""What a command does with `--expand`: turn the prompts of a shot into the captions that its model reads. No torch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sora_cli import geometry, media, registry
from sora_cli.cli.screen import Screen
from sora_cli.errors import Failed, SoraError
from sora_cli.shot import Anchor, Shot

if TYPE_CHECKING:
    from sora_cli.rewriting import Writer

    How = str | Writer  # off, grammar, or who writes

OFF, GRAMMAR = "off", "grammar"


def asked(expand: str, writer: str | None, model: str) -> "How":
    """How the prompts of a model are expanded, where `auto` is as it was trained; SoraError for what cannot be."""
    trained = registry.entry(model).usage.grammar
    if "://" in expand:
        from sora_cli.rewriting import Writer

        return Writer.parse(expand, writer)
    if expand not in ("auto", OFF, GRAMMAR):
        raise SoraError(f"unknown --expand {expand!r}; there are auto, off, grammar, or the http:// address of an LLM")
    if writer is not None:
        raise SoraError("--expand-model names an LLM; --expand must give its address, http://localhost:11434/v1 or so")
    if expand == GRAMMAR and not trained:
        raise SoraError(f"{model} was not trained on pocket's grammar; take --expand off, or the address of an LLM")
    return GRAMMAR if expand == GRAMMAR or (expand == "auto" and trained) else OFF


def expanded(shot: Shot, how: "How", screen: Screen, given: Sequence[str] = ()) -> Shot:
    """A shot with its captions, unless it has some from a video that is made again. `given` says which pictures and
    videos it is to fit. An LLM that fails is made do without, and that is noted."""
    from sora_cli.expand import captions_of

    if shot.captions:
        return shot
    trained = registry.entry(shot.model).usage.grammar
    if how == OFF:
        return replace(shot, captions=shot.prompts if trained else ())  # others read prompts as they are
    if isinstance(how, str):
        return replace(shot, captions=tuple(captions_of(shot, grammar=True)))
    from sora_cli.rewriting import rewritten

    try:
        return replace(shot, captions=rewritten(shot, how, given, trained))
    except Failed as error:
        screen.note(f"{error}; {'the grammar expands the prompt' if trained else 'the prompt is read as it is'}")
        return replace(shot, captions=tuple(captions_of(shot, trained)) if trained else ())


def told(anchor: Anchor, shot: Shot) -> str:
    """An anchor in words: what it is called, and when it is seen."""
    at = geometry.parse_address(anchor.at, shot.fps, shot.frames) / shot.fps
    return f"{named(anchor.path)}, seen at {at:.1f} s of {shot.seconds:.1f} s"


def named(path: str) -> str:
    """A given file in words, without its folder: that is nobody's business."""
    return "a video" if path == media.STREAM else f'the file "{Path(path).name}"'
