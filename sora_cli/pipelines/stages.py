"""The stages of a video, entered one after the other: text, transformer, autoencoder.

    text = stages.text.do(read)
    for attempt in stages.transformer:
        with attempt:
            ...                          # where memory runs out, it starts again with networks that take less of it

Only what runs out of memory with nothing lower left to try raises.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

from sora_cli.errors import no_op
from sora_cli.placement.machine import short_of

Made = TypeVar("Made")
Notify = Callable[[str], None]


class Movable(Protocol):
    """Networks that can be placed so that they take less memory."""

    def lower(self, stage: str, memory: str) -> str:
        """Take the next placement for a stage that ran out of a memory; returns what is new, "" after the last."""

    def release(self) -> None:
        """Let go of all networks; they are loaded again when they are used."""


@dataclass(frozen=True)
class Stage:
    """One stage: attempts until one of them ends."""

    name: str  # as a placement counts its memory: text, denoising, decoding
    networks: Movable | None = None
    notify: Notify = no_op

    def __iter__(self) -> Iterator[AbstractContextManager[None]]:
        said = [""]
        while said:
            yield self.attempt(said)
            if said and self.networks:  # only now, without the error, nobody holds what had been computed
                gc.collect()
                self.networks.release()
                self.notify(said[0])

    @contextmanager
    def attempt(self, said: list[str]) -> Iterator[None]:
        """Work that is done again, as is `said` then, if it runs out of memory and `lower` finds a way."""
        said.clear()
        try:
            yield
        except BaseException as error:
            new = self.lower(memory) if (memory := short_of(error)) else ""
            if not new:
                raise
            said.append(new)

    def lower(self, memory: str) -> str:
        new = self.networks.lower(self.name, memory) if self.networks else ""
        return f"ran out of {memory} while {DOING[self.name]}; continues: {new}" if new else ""

    def do(self, work: Callable[[], Made]) -> Made:
        """The result of some work."""
        for attempt in self:
            with attempt:
                return work()
        raise AssertionError("the last attempt returns or raises")

    def follow(self, work: Callable[[], Iterator[Made]]) -> Iterator[Made]:
        """What some work yields; when it starts again, only the rest."""
        done = 0
        for attempt in self:
            with attempt:
                for made in islice(work(), done, None):
                    yield made
                    done += 1


FIXED = Stage("decoding")  # of an autoencoder that cannot be moved
DOING = {"text": "reading the prompt", "denoising": "denoising", "decoding": "decoding"}


class Stages:
    """All of a video's. Networks that cannot be moved (None) have one attempt."""

    def __init__(self, networks: Movable | None = None, notify: Notify = no_op, note: str = "") -> None:
        self.text = Stage("text", networks, notify)
        self.transformer = Stage("denoising", networks, notify)
        self.autoencoder = Stage("decoding", networks, notify)
        self.note = note  # what the user should know of the placement
