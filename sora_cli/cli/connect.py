"""Frames that lead from one given clip to another: what `extend`, `loop` and `reverse` have in common.

All of them are one request: some frames are given before, or behind, or on both sides, and those between are
to be made. Given frames stay the raw planes that they came as; only copies of a few are looked at.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sora_cli import geometry, media, registry
from sora_cli.cli import expanding, models, seeds
from sora_cli.cli.dry_run import show_job
from sora_cli.cli.expanding import Expansion
from sora_cli.cli.inputs import InputSpec, shot_like
from sora_cli.cli.jobs import Job, Loader, cost_of
from sora_cli.cli.options import Continuing
from sora_cli.cli.output_job import OutputJob
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError, counted
from sora_cli.generation.plan import plan
from sora_cli.media.bars import Bars
from sora_cli.media.blend import Difference, fill
from sora_cli.media.seams import AROUND, Changes
from sora_cli.placement.estimate import Estimate
from sora_cli.registry import Entry, lora
from sora_cli.shot import Shot

if TYPE_CHECKING:
    from sora_cli.generation.engine import Engine, Generation, GivenClip

WHOLE = Bars()  # pictures without bars


@dataclass(frozen=True)
class Request:
    """The options of a verb that adds new frames to those of a video."""

    verb: str
    video: InputSpec
    entry: Entry
    settings: Shot
    options: Continuing
    expansion: Expansion

    @classmethod
    def of(cls, verb: str, name: str, options: Continuing, prompt: str, plan: str | None = None) -> Self:
        sampling = options.sampling
        entry = registry.entry(sampling.model)
        settings = models.shot_of(entry, sampling, prompt, plan)
        expansion = Expansion.asked(sampling.expand, sampling.expand_model, entry)
        return cls(verb, InputSpec(name=name, **vars(options.reading)), entry, settings, options, expansion)

    # -- before anything is made --------------------------------------------------------------------------------

    def jobs(self, name: str, length: Callable[[Shot], int], make: Callable[[Target, Loader, Screen], None],
             record: Mapping[str, Any], times: int = 1) -> list[Job]:  # fmt: skip
        """The video of this name, which `make` makes; with --dry-run, what it takes is shown instead. `length` says how
        many frames of a shot like the given video are new, `record` what else determines them."""
        loras, options = self.settings.loras, self.options
        job = Job(self.target(name, **record), self.entry, options.compute, options.showing,
                  partial(self.check, times), make, loras, cost=partial(self.cost, length, times))  # fmt: skip
        return show_job(job) if options.dry_run else [job]

    def target(self, name: str, **more: Any) -> Target:
        """The output, with everything that determines the video."""
        reading = {name: value for name, value in vars(self.video).items() if name != "name"}
        record = {"verb": self.verb, "shot": self.settings.to_dict(), "expand": str(self.expansion), "reading": reading,
                  **more, **self.options.compute.asked, **models.weights_of(self.entry)}  # fmt: skip
        given = [self.video.name] if self.video.name != media.STREAM else []
        sources = (*given, *(str(lora.file_of(one)) for one in self.settings.loras))
        return Target(name=name, **vars(self.options.keeping), asked=record, sources=sources,
                      sized=self.video.res is not None, timed=self.video.fps is not None)  # fmt: skip

    def check(self, times: int, target: Target) -> None:
        """Refuse a bad input or output before anything is read."""
        if times > 1 and self.video.name == media.STREAM:
            raise SoraError("--times reads the input again, but a stream can be read only once; give a file")
        self.video.check()
        if media.same_file(self.video.name, target.name):
            raise SoraError(f"{target.name} is also the input and would be overwritten; give another -o")
        target.check()

    def cost(self, length: Callable[[Shot], int], times: int = 1) -> Estimate:
        """The cost of the new frames, in an output that repeats the input `times` times."""
        with self.video.open_slow(usage=self.entry.usage) as source:
            shot = shot_like(source, self.settings)
            new, given = replace(shot, frames=length(shot)), source.frames or 0
            around = times * given + (times - 1) * new.frames
            rates = self.video.faster(source)
            return cost_of(plan(new, self.entry), self.options.compute, given=True, retiming=rates, around=around)

    # -- while it is made ---------------------------------------------------------------------------------------

    @contextmanager
    def opened(self, target: Target, screen: Screen) -> Iterator[tuple[media.Source, Shot]]:
        """The video, and the settings as a shot of its size and rate."""
        with self.video.open_slow(screen, self.entry.usage, target.images) as source:
            seeds.announce(self.options.sampling.seed, self.settings.seed, screen)
            yield source, shot_like(source, self.settings, anew=self.options.sampling.expand != "auto")

    def connector(self, shot: Shot, source: media.Source, output: OutputJob, where: str,
                  loader: Loader) -> "tuple[Shot, Connector]":  # fmt: skip
        """The shot with its captions, to which the given frames have the relation `where`, and what makes it."""
        output.check_format(source.format)
        given = f"{expanding.named(self.video.name)}, {where}"
        (shot,) = self.expansion.captioned([shot], output.screen, [given])
        output.expect_sound(source.name, source.sound, source.left_out)
        return shot, Connector(loader.engine(), source.format, output)

    def finish(self, output: OutputJob, frames: int, given: range, **more: Any) -> None:
        """Write the record for so many `frames`, of which the range `given` is the input's."""
        shown = output.given(given)
        record = {"verb": self.verb, "input": self.video.name, "frames": frames, **more,
                  "given": [shown.start, shown.stop]}  # fmt: skip
        output.finish(record, [given])


@dataclass
class Connector:
    """Makes new frames in one format, by one engine, for one output."""

    engine: "Engine"
    format: media.Format
    output: OutputJob

    def connect(self, shot: Shot, tail: Sequence[bytes] = (), head: Sequence[bytes] = (), name: str = "",
                context: "GivenClip | None" = None) -> Iterator[bytes]:  # fmt: skip
        """Raw frames, `shot.frames` of them, that lead from `tail` to `head`; either may be missing. With `context`,
        what is given before is not encoded again. `name` tells the runs of one output apart. Black bars around given
        frames are left out on the way in, and painted around new ones."""
        bars = WHOLE if context else Bars.around(self.full([*tail, *head]))
        if bars:
            self.output.screen.note(f"black bars are left as they are: {spelled(bars)}")
        run = self.run(shot, tail, head, context, bars)
        self.output.denoise(run, name)
        first = bars.inside(self.picture(head[0])) if head else None
        after = Difference.between(first, run.decode_keyframe(run.plan.placed[-1].first)) if first is not None else None
        decoded = run.frames()
        below = deque(islice(decoded, run.span.lead), maxlen=1)
        before = Difference.between(bars.inside(self.picture(tail[-1])), below[-1]) if tail else None
        inner = fill(decoded, shot.frames, bars.within(self.format.size), before, after)
        made = self.scored(map(bars.put_back, inner), tail, head, name)
        return media.from_rgb(self.output.watched(made), self.format.size, self.format)

    def run(self, shot: Shot, tail: Sequence[bytes], head: Sequence[bytes], context: "GivenClip | None",
            bars: Bars = WHOLE) -> "Generation":  # fmt: skip
        from sora_cli.generation.engine import GivenClip

        most, shot = context_of(self.engine.entry), without(bars, shot, self.format.size)
        tail, head = tail[len(tail) - whole(len(tail), most) :], head[: whole(len(head), most)]
        given, lead, trail = [], len(tail), len(head)
        if context:
            lead = -context.at
            given.append(context)
        elif tail:
            given.append(GivenClip(-lead, self.pictures(tail, shot, bars)))
        else:
            lead = -shot.frames % geometry.TIME_STRIDE  # so that the head begins on a key frame
        if head:
            given.append(GivenClip(shot.frames, self.pictures(head, shot, bars)))
        return self.engine.start(shot, given, geometry.Span(lead, shot.frames, trail))

    def pictures(self, raw: Sequence[bytes], shot: Shot, bars: Bars) -> np.ndarray:
        """Raw frames as the encoder wants them, uint8 [n, h, w, 3]."""
        if bars:
            return np.stack([bars.inside(frame) for frame in self.full(raw)])
        size = self.engine.entry.canvas(shot.width, shot.height).crop
        return np.stack(list(media.to_rgb(raw, self.format, size)))

    def full(self, raw: Sequence[bytes]) -> Iterator[np.ndarray]:
        """Raw frames at full size, uint8 [h, w, 3]; one process converts all of them."""
        return iter(media.to_rgb(raw, self.format, self.format.size) if raw else ())

    def picture(self, raw: bytes) -> np.ndarray:
        """One raw frame at full size, uint8 [h, w, 3]."""
        (frame,) = self.full([raw])
        return frame

    def scored(self, made: Iterable[np.ndarray], tail: Sequence[bytes], head: Sequence[bytes],
               name: str) -> Iterator[np.ndarray]:  # fmt: skip
        """Yield new frames, and store the boundary score of each join in the output."""
        changes, count = Changes(self.full(tail)), 0
        for count, frame in enumerate(made, 1):  # noqa: B007
            changes.add(frame)
            yield frame
        for frame in self.full(head[: AROUND + 1]):
            changes.add(frame)
        joins = {"start": len(tail) if tail else None, "end": len(tail) + count if head else None}
        for side, join in joins.items():
            if join is not None and join < len(changes.steps) + 1:
                label = " ".join(filter(None, ("boundary", name, side if tail and head else "")))
                self.output.scores[label] = changes.boundary(join)


def without(bars: Bars, shot: Shot, size: media.Size) -> Shot:
    """The shot for the picture inside the bars, in its displayed shape."""
    if not bars:
        return shot
    width, height = (round(seen * inner / full / 2) * 2 for seen, inner, full in
                     zip((shot.width, shot.height), bars.within(size), size, strict=True))  # fmt: skip
    return replace(shot, width=width, height=height)


def spelled(bars: Bars) -> str:
    """`16 rows above, 1 row below`."""
    counts = {"above": (bars.top, "row"), "below": (bars.bottom, "row"), "on the left": (bars.left, "column"),
            "on the right": (bars.right, "column")}  # fmt: skip
    return ", ".join(f"{counted(count, what)} {where}" for where, (count, what) in counts.items() if count)


def context_of(entry: Entry) -> int:
    """How many given frames on each side a model uses as context."""
    return geometry.frames_in(entry.usage.context)


def whole(frames: int, most: int) -> int:
    """The largest 1 + 4n up to `frames` and `most`; 0 for no frames."""
    frames = min(frames, most)
    return 1 + (frames - 1) // geometry.TIME_STRIDE * geometry.TIME_STRIDE if frames else 0


@dataclass
class PassThrough:
    """Yields a source's raw frames, counts them, and keeps the first and last few."""

    source: media.Source
    entry: Entry  # the model for which they are kept

    def __post_init__(self) -> None:
        self.count, most = 0, context_of(self.entry)
        self.head: list[bytes] = list(islice(self.source, most))
        self.tail: deque[bytes] = deque(maxlen=most)

    def frames(self) -> Iterator[bytes]:
        for raw in chain(self.head, self.source):
            self.count += 1
            self.tail.append(raw)
            yield raw
