"""What a command does with `--expand`: turn the prompts of a shot into the captions that its model reads. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from sora_cli import geometry, media
from sora_cli.cli.screen import Screen
from sora_cli.errors import Failed, SoraError
from sora_cli.prompts.grammar import caption_of
from sora_cli.prompts.llm import Server
from sora_cli.prompts.rewriting import rewrite_prompts
from sora_cli.registry import Entry
from sora_cli.shot import Anchor, Shot

OFF, GRAMMAR = "off", "grammar"


@dataclass(frozen=True)
class Expansion:
    """How prompts become the captions that a model reads."""

    mode: str | Server  # off, grammar, or who writes
    trained: bool  # whether the model was trained on the captions of the grammar

    @classmethod
    def asked(cls, expand: str, writer: str | None, entry: Entry) -> Self:
        """What `--expand` and `--expand-model` say, where `auto` is as the model was trained; SoraError for what cannot
        be."""
        trained = entry.usage.grammar
        if "://" in expand:
            if "#" in expand and writer:
                raise SoraError("--expand-model and the # of --expand both name the LLM; give one of them")
            return cls(Server.at(expand, writer), trained)
        if expand not in ("auto", OFF, GRAMMAR):
            raise SoraError(f"unknown --expand {expand!r}; use auto, off, grammar, or the http:// address of an "
                            "LLM")  # fmt: skip
        if writer is not None:
            raise SoraError("--expand-model names an LLM; --expand must give its address, for example "
                            "http://localhost:11434/v1")  # fmt: skip
        if expand == GRAMMAR and not trained:
            raise SoraError(f"{entry.name} was not trained on pocket's grammar; use --expand off, or the address of "
                            "an LLM")  # fmt: skip
        return cls(GRAMMAR if expand == GRAMMAR or (expand == "auto" and trained) else OFF, trained)

    def __str__(self) -> str:
        return self.mode if isinstance(self.mode, str) else f"{self.mode}#{self.mode.model}"

    def captioned(self, shots: Sequence[Shot], screen: Screen, given: Sequence[str] = ()) -> list[Shot]:
        """Shots that differ in their seeds, each with captions of its own, unless they have some from a video that is
        made again. `given` says what else they are to fit, beside their anchors. An LLM is asked once; one that fails
        is made do without, and that is noted."""
        first = shots[0]
        if first.captions:
            return list(shots)
        lines = first.prompts if isinstance(self.mode, str) else self.written(first, self.mode, screen, given)
        if self.trained and self.mode != OFF:
            return [replace(shot, captions=tuple(caption_of(line, shot.seed) for line in lines)) for shot in shots]
        captions = lines if self.trained or lines != first.prompts else ()  # others read prompts as they are
        return [replace(shot, captions=captions) for shot in shots]

    def written(self, shot: Shot, writer: Server, screen: Screen, given: Sequence[str]) -> tuple[str, ...]:
        """The captions that an LLM writes; the prompts themselves if it fails."""
        try:
            with screen.doing(f"asking {writer.model} what to show"):
                around = [*given, *(described(anchor, shot) for anchor in shot.anchors)]
                return rewrite_prompts(shot, writer, around, self.trained)
        except Failed as error:
            instead = "the grammar expands the prompt" if self.trained else "the prompt is read as it is"
            screen.warn(f"{error}; {instead}")
            return shot.prompts


def described(anchor: Anchor, shot: Shot) -> str:
    """An anchor in words: its name and its time."""
    at = geometry.parse_address(anchor.at, shot.fps, shot.frames) / shot.fps
    return f"{named(anchor.path)}, seen at {at:.1f} s of {shot.seconds:.1f} s"


def named(path: str) -> str:
    """A given file in words, without its folder, which is private."""
    return "a video" if path == media.STREAM else f'the file "{Path(path).name}"'
