"""Videos from prompts and anchors: what `generate` and `loop PROMPT` have in common. No torch until they are made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from sora_cli import media
from sora_cli.cli import seeds
from sora_cli.cli.expanding import Expansion
from sora_cli.cli.jobs import Job, Loader, cost_of
from sora_cli.cli.options import Compute, Showing
from sora_cli.cli.output_job import OutputJob, format_of
from sora_cli.cli.outputs import room_of
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError
from sora_cli.generation import anchors
from sora_cli.generation.anchors import Placed
from sora_cli.generation.plan import Given, Plan, check_given, made, plan
from sora_cli.media import blend
from sora_cli.placement.estimate import Estimate
from sora_cli.registry import Entry
from sora_cli.shot import Shot

if TYPE_CHECKING:
    from sora_cli.generation.engine import Generation, GivenClip


@dataclass(frozen=True)
class Take:
    """One shot before it is made, its anchors, and how often it is shown."""

    shot: Shot
    entry: Entry
    placed: Sequence[Placed] = ()  # the anchors among the frames that the model makes
    shown: Sequence[Placed] = ()  # at the output's rate, if it is another: those that come out as they are
    times: int = 1

    @cached_property
    def made(self) -> Shot:
        """The shot at the frame rate that its model makes, which may differ from the output's."""
        return made(self.shot, self.entry)

    @cached_property
    def plan(self) -> Plan:
        return plan(self.made, self.entry, [Given(one.start, one.count) for one in self.placed])

    @cached_property
    def retiming(self) -> media.Retiming | None:
        """The conversion to the output's frame rate; None if the model makes that rate."""
        shot, made = self.shot, self.made
        if made.fps == shot.fps:
            return None
        return media.Retiming.between(made.fps, shot.fps, shot.frames * self.times, cyclic=shot.loop,
                                      turn=self.turn * self.times)  # fmt: skip

    @property
    def turn(self) -> int:
        """The frames of one repetition of a loop; 0 for other shots."""
        return self.made.frames if self.shot.loop else 0

    def cost(self, compute: Compute) -> Estimate:
        return cost_of(self.plan, compute, retiming=self.retiming)

    # -- while it is made ---------------------------------------------------------------------------------------

    @property
    def given(self) -> "list[GivenClip]":
        """The anchors as the engine takes them; their files are read when it needs them."""
        from sora_cli.generation.engine import GivenClip

        return [GivenClip(one.start, anchors.Opened(one, self.plan.canvas.crop)) for one in self.placed]

    def deliver(self, run: "Generation", output: OutputJob) -> None:
        """Write the video of a run and the files beside it."""
        shot, format = self.shot, format_of(self.shot, output.target.name)
        size = format.size if self.placed else run.source_size
        for one in self.placed:
            output.expect_sound(one.path, one.sound, one.left_out)
            output.place_sound(one.sound, one.start, one.count)
        frames = chain.from_iterable(self.frames(run, size) for _ in range(self.times))
        raw = media.from_rgb(output.watched(frames), size, format, output.retiming)
        count = output.write(anchors.exactly(raw, self.shown, format), format, {"sora": shot.to_json()})
        if self.times == 1 and count > 1:
            output.keep_latents()
        turns = {"times": self.times} if self.turn else {}
        record = {"verb": "loop" if self.turn else "generate", "frames": count, **turns, "shot": shot.to_dict()}
        output.finish(record, [range(one.start, one.stop) for one in self.placed])

    def frames(self, run: "Generation", size: media.Size) -> Iterator[np.ndarray]:
        """The frames to show, once: decoded ones, with the anchors' own frames in their places, unchanged."""
        shown = islice(run.frames(), run.span.lead, None)
        if not self.placed:
            return shown
        pieces = [blend.Piece(one.start, one.count, partial(one.frames, size), decoded, key)
                  for one, (key, decoded) in zip(self.placed, run.keyframes(), strict=True)]  # fmt: skip
        return blend.joined(shown, self.made.frames, pieces, size)


@dataclass
class Order:
    """Videos that differ only in their seeds, with everything that is computed once for all of them."""

    shots: list[Shot]
    entry: Entry
    expansion: Expansion
    seed: str
    option_notes: tuple[str, ...] = ()  # on the command line
    times: int = 1  # how often each is shown, if it is a loop
    captioned_shots: list[Shot] = field(default_factory=list)

    @cached_property
    def first(self) -> Take:
        """The first of them, without its captions. Its anchors, whose files are opened here, are those of all. Where
        frames are made at another rate, pictures, and clips that are no slower, come out as they are; slower clips are
        interpolated with what is made."""
        shot, as_made = self.shots[0], made(self.shots[0], self.entry)
        shown = [one for one in anchors.place(shot) if one.whole] if as_made.fps != shot.fps else []
        return Take(shot, self.entry, anchors.place(as_made), shown, self.times)

    def captioned(self, screen: Screen) -> list[Shot]:
        """The shots with their captions, for which an LLM is asked once."""
        if not self.captioned_shots:
            seeds.announce(self.seed, self.shots[0].seed, screen)
            for note in self.notes():
                screen.note(note)
            self.captioned_shots = self.expansion.captioned(self.shots, screen)
        return self.captioned_shots

    def cost(self, compute: Compute) -> Estimate:
        """The cost of one of the videos."""
        return self.first.cost(compute)

    def notes(self) -> Iterator[str]:
        """Notes on the command line and on the given files."""
        yield from self.option_notes
        yield from (f"{anchor.path}: {note}" for anchor in self.first.placed for note in anchor.notes)

    def job(self, number: int, target: Target, compute: Compute, showing: Showing) -> Job:
        """The job that makes one of them."""
        shot = self.shots[number]
        return Job(target, self.entry, compute, showing, partial(self.check, shot), partial(make, self, number),
                   shot.loras, room=room_of(shot) * self.times, cost=partial(self.cost, compute))  # fmt: skip

    def check(self, shot: Shot, target: Target) -> None:
        """Refuse bad anchors, names and folders before torch is loaded."""
        check_given(self.entry, bool(self.first.placed))
        if target.one_image and shot.frames > 1:
            others = ".mp4 or %05d.png" if shot.loop else ".mp4, %05d.png, or --frames 1"
            raise SoraError(f"{target.name} is an image but {shot.frames} frames are requested; use {others}")
        for anchor in shot.anchors:
            if media.same_file(anchor.path, target.name):
                raise SoraError(f"{target.name} is also an anchor and would be overwritten; give another -o")
        target.check()
        target.check_format(format_of(shot, target.name))


def make(order: Order, number: int, target: Target, loader: Loader, screen: Screen) -> None:
    """Make one video of an order and the files beside it."""
    take = replace(order.first, shot=order.captioned(screen)[number])
    engine = loader.engine()
    output = OutputJob(target, screen, take.made.fps, take.shot.frames * take.times, take.retiming, take.turn)
    run = engine.generation(take.plan, take.given)
    output.denoise(run)
    take.deliver(run, output)
