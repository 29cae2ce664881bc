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
    from sora_cli.prompts.llm import Server

    How = str | Server  # off, grammar, or who writes

OFF, GRAMMAR = "off", "grammar"


def asked(expand: str, writer: str | None, model: str) -> "How":
    """How the prompts of a model are expanded, where `auto` is as it was trained; SoraError for what cannot be."""
    trained = registry.entry(model).usage.grammar
    if "://" in expand:
        from sora_cli.prompts.llm import Server

        if "#" in expand and writer:
            raise SoraError("--expand-model and the # of --expand both name the LLM; give one of them")
        return Server.at(expand, writer)
    if expand not in ("auto", OFF, GRAMMAR):
        raise SoraError(f"unknown --expand {expand!r}; there are auto, off, grammar, or the http:// address of an LLM")
    if writer is not None:
        raise SoraError("--expand-model names an LLM; --expand must give its address, http://localhost:11434/v1 or so")
    if expand == GRAMMAR and not trained:
        raise SoraError(f"{model} was not trained on pocket's grammar; take --expand off, or the address of an LLM")
    return GRAMMAR if expand == GRAMMAR or (expand == "auto" and trained) else OFF


def spelled(how: "How") -> str:
    """How prompts are expanded, in a word."""
    return how if isinstance(how, str) else f"{how}#{how.model}"


def expanded(shot: Shot, how: "How", screen: Screen, given: Sequence[str] = ()) -> Shot:
    """A shot with its captions, unless it has some from a video that is made again. `given` says which pictures and
    videos it is to fit. An LLM that fails is made do without, and that is noted."""
    return each([shot], how, screen, given)[0]


def each(shots: Sequence[Shot], how: "How", screen: Screen, given: Sequence[str] = ()) -> list[Shot]:
    """The same for shots that differ in their seeds: each has its own captions, but an LLM is asked once."""
    from sora_cli.prompts.grammar import caption_of

    first = shots[0]
    if first.captions:
        return list(shots)
    trained = registry.entry(first.model).usage.grammar
    lines = first.prompts if isinstance(how, str) else written(first, how, screen, given)
    if trained and how != OFF:
        return [replace(shot, captions=tuple(caption_of(line, shot.seed) for line in lines)) for shot in shots]
    captions = lines if trained or lines != first.prompts else ()  # others read prompts as they are
    return [replace(shot, captions=captions) for shot in shots]


def reseeded(shot: Shot, seed: int) -> Shot:
    """A shot with another seed, and what that chooses in its captions."""
    from sora_cli.prompts.grammar import reseeded

    if shot.captions:
        return reseeded(shot, seed)
    return shot if seed == shot.seed else replace(shot, seed=seed)


def written(shot: Shot, writer: "Server", screen: Screen, given: Sequence[str]) -> tuple[str, ...]:
    """What an LLM makes of the prompts; the prompts themselves if it fails."""
    from sora_cli.prompts.rewriting import rewritten

    trained = registry.entry(shot.model).usage.grammar
    try:
        with screen.doing(f"asking {writer.model} what to show"):
            return rewritten(shot, writer, given, trained)
    except Failed as error:
        screen.warn(f"{error}; {'the grammar expands the prompt' if trained else 'the prompt is read as it is'}")
        return shot.prompts


def described(anchor: Anchor, shot: Shot) -> str:
    """An anchor in words: what it is called, and when it is seen."""
    at = geometry.parse_address(anchor.at, shot.fps, shot.frames) / shot.fps
    return f"{named(anchor.path)}, seen at {at:.1f} s of {shot.seconds:.1f} s"


def named(path: str) -> str:
    """A given file in words, without its folder: that is nobody's business."""
    return "a video" if path == media.STREAM else f'the file "{Path(path).name}"'
