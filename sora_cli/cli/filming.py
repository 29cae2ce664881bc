"""Videos that are made of words, and of pictures among them: what `generate` and `loop PROMPT` have in common. No torch
until they are made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from sora_cli import geometry, media
from sora_cli.cli import seeds
from sora_cli.cli.expanding import Expansion
from sora_cli.cli.jobs import Job, Loader, cost_of
from sora_cli.cli.making import Making, format_of
from sora_cli.cli.options import Compute, Showing
from sora_cli.cli.outputs import room_of
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError
from sora_cli.generation import anchors
from sora_cli.generation.anchors import Placed
from sora_cli.generation.plan import Given, Plan, check_given, made, plan
from sora_cli.media import blend
from sora_cli.registry import Entry
from sora_cli.shot import Shot

if TYPE_CHECKING:
    import numpy as np

    from sora_cli.generation.engine import Generation, GivenClip
    from sora_cli.placement.estimate import Estimate


@dataclass(frozen=True)
class Take:
    """One shot before it is made: at which rate, with its anchors in their places, and how often it is shown."""

    shot: Shot
    entry: Entry
    placed: Sequence[Placed] = ()
    times: int = 1

    @cached_property
    def made(self) -> Shot:
        """As its model makes it, perhaps at another rate than it is shown at."""
        return made(self.shot, self.entry)

    @cached_property
    def plan(self) -> Plan:
        return plan(self.made, self.entry, [Given(one.start, one.count) for one in self.placed])

    @cached_property
    def retiming(self) -> media.Retiming | None:
        """How the frames get to the rate that is asked, if they are made at another one."""
        shot, made = self.shot, self.made
        if made.fps == shot.fps:
            return None
        starts = {one.path: one.start for one in self.placed if one.count == 1}
        pins = [(geometry.parse_address(one.at, shot.fps, shot.frames), starts[one.path])
                for one in shot.anchors if one.path in starts]  # fmt: skip
        return media.Retiming.between(made.fps, shot.fps, shot.frames * self.times, cyclic=shot.loop,
                                      turn=self.turn * self.times, pins=tuple(sorted(pins)))

    @property
    def turn(self) -> int:
        """Frames that are made of a loop; 0 of what is none."""
        return self.made.frames if self.shot.loop else 0

    def cost(self, compute: Compute) -> "Estimate":
        return cost_of(self.made, self.entry, compute, self.placed, retiming=self.retiming)

    # -- while it is made ---------------------------------------------------------------------------------------

    @property
    def given(self) -> "list[GivenClip]":
        """What the engine is given: the anchors, read when it comes to them."""
        from sora_cli.generation.engine import GivenClip

        return [GivenClip(one.start, one.opened(self.plan.canvas.crop)) for one in self.placed]

    def deliver(self, run: "Generation", making: Making) -> None:
        """Write what a run has made, and what is kept beside it."""
        shot, format = self.shot, format_of(self.shot, making.target.name)
        size = format.size if self.placed else run.source_size
        for one in self.placed:
            making.expect_sound(one.path, one.sound, one.left_out)
            making.place_sound(one.sound, one.start, one.count)
        frames = chain.from_iterable(self.frames(run, size) for _ in range(self.times))
        raw = media.from_rgb(making.watched(frames), size, format, making.retiming)
        count = making.write(raw, format, {"sora": shot.to_json()})
        if self.times == 1 and count > 1:
            making.keep_latents()
        turns = {"times": self.times} if self.turn else {}
        record = {"verb": "loop" if self.turn else "generate", "frames": count, **turns, "shot": shot.to_dict()}
        making.finish(record, [range(one.start, one.stop) for one in self.placed])

    def frames(self, run: "Generation", size: media.Size) -> "Iterator[np.ndarray]":
        """The frames of a turn: decoded ones, with those of the anchors in their places, as the source has them."""
        shown = islice(run.frames(), run.span.lead, None)
        if not self.placed:
            return shown
        pieces = [blend.Piece(one.start, one.count, partial(one.frames, size), still, key)
                  for one, (key, still) in zip(self.placed, run.stills(), strict=True)]  # fmt: skip
        return blend.joined(shown, self.made.frames, pieces, size)


@dataclass
class Order:
    """Videos that differ in their seeds, and what is found out once for all of them."""

    shots: list[Shot]
    entry: Entry
    expansion: Expansion
    seed: str
    remarks: tuple[str, ...] = ()  # what there is to say of how they are asked for
    times: int = 1  # that each is shown, of a loop
    captioned_shots: list[Shot] = field(default_factory=list)

    @cached_property
    def first(self) -> Take:
        """The first of them, without its captions; the files of the anchors, which are those of all, are opened."""
        shot = self.shots[0]
        return Take(shot, self.entry, anchors.place(made(shot, self.entry)), self.times)

    def captioned(self, screen: Screen) -> list[Shot]:
        """The shots with their captions, for which an LLM is asked once."""
        if not self.captioned_shots:
            seeds.announce(self.seed, self.shots[0].seed, screen)
            for note in self.notes():
                screen.note(note)
            self.captioned_shots = self.expansion.captioned(self.shots, screen)
        return self.captioned_shots

    def cost(self, compute: Compute) -> "Estimate":
        """What each of them takes."""
        return self.first.cost(compute)

    def notes(self) -> Iterator[str]:
        """What there is to say of what is asked, and of the files that it is made from."""
        yield from self.remarks
        yield from (f"{anchor.path}: {note}" for anchor in self.first.placed for note in anchor.notes)

    def job(self, number: int, target: Target, compute: Compute, showing: Showing) -> Job:
        """One of them, which goes to the target."""
        shot = self.shots[number]
        return Job(target, self.entry, compute, showing, partial(self.check, shot), partial(make, self, number),
                   shot.loras, room=room_of(shot) * self.times, cost=partial(self.cost, compute))  # fmt: skip

    def check(self, shot: Shot, target: Target) -> None:
        """All that can be refused without torch: anchors, names, folders."""
        check_given(self.entry, bool(self.first.placed))
        one_image = target.path.suffix.lower() == ".png" and not target.numbered
        if one_image and shot.frames > 1:
            others = ".mp4 or %05d.png" if shot.loop else ".mp4, %05d.png, or --frames 1"
            raise SoraError(f"{target.name} is an image but {shot.frames} frames are asked; use {others}")
        for anchor in shot.anchors:
            if media.same_file(anchor.path, target.name):
                raise SoraError(f"{target.name} is an anchor of itself; give another -o")
        target.check()
        target.check_format(format_of(shot, target.name))


# ---- the work ---------------------------------------------------------------------------------------------


def make(order: Order, number: int, target: Target, loader: Loader, screen: Screen) -> None:
    """One video of an order, and what is kept beside it."""
    take = replace(order.first, shot=order.captioned(screen)[number])
    engine = loader.engine()
    making = Making(target, screen, take.made.fps, take.shot.frames * take.times, take.retiming, take.turn)
    run = engine.generation(take.plan, take.given)
    making.denoise(run)
    take.deliver(run, making)
