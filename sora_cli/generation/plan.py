"""A shot before anything is computed: what it is made of, in which windows, and what is given. Pure; no torch.

The engine follows a plan, `--dry-run` shows one, and `doctor` takes the time of one.
"""

from bisect import bisect
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from sora_cli import geometry
from sora_cli.errors import SoraError
from sora_cli.geometry import TIME_STRIDE
from sora_cli.prompts.grammar import begins, captions_of
from sora_cli.prompts.notation import unheard
from sora_cli.registry import Entry, SamplingDefaults, lora
from sora_cli.sampling import planner
from sora_cli.shot import Shot

STRETCH = 1 / 8  # by how much a loop may be longer or shorter than the world's own
FEWER = 2  # frames of context where a time says almost all of a frame

UNTRAINED = {  # what a shot may ask of a model, in the words of a note
    "start": "a given first frame",
    "end": "a given end picture or clip",
    "middle": "given pictures or clips in the middle",
    "extend": "continuing given frames",
    "loop": "a loop that is made on a circle",
    "gaps": "windows with gaps in time (--plan sliding has none)",
    "fps": "this frame rate, so that things may move too fast or too slowly",
    "cues": "a prompt that changes (it does so from one window to the next)",
}


@dataclass(frozen=True)
class Given:
    """Part of a video that is given: `count` pictures from frame `at` on, counted from the first one that is shown, or
    `count` latents, the first of them a key frame at `at`. `clock` is the second of its scene at `at`, if any."""

    at: int
    count: int
    latents: bool = False
    clock: float | None = None


@dataclass(frozen=True)
class Placed:
    """Where a given part lies on the latent frames: `count` of them from `first` on, or, where pictures reach over no
    key frame, a single picture on the nearest one."""

    first: int
    count: int
    start: int = 0  # the picture that lies on the first of them
    moved: int = 0  # by how many frames a single picture is off its place

    @property
    def frames(self) -> range:
        return range(self.first, self.first + max(self.count, 1))


@dataclass(frozen=True)
class Plan:
    """The plan of a shot for one model: its windows, and where given parts lie."""

    shot: Shot
    entry: Entry
    canvas: geometry.Canvas
    span: geometry.Span
    captions: tuple[str, ...]  # of the prompt and of every cue
    given: tuple[Given, ...]
    placed: tuple[Placed, ...]
    context: frozenset[int]  # latent frames that are given whole
    end_frames: frozenset[int]  # latent frames that are to end in a given picture
    windows: tuple[planner.Window, ...] = ()

    @property
    def latents(self) -> int:
        if not self.shot.loop:
            return self.span.latents
        return geometry.divide(self.shot.frames, TIME_STRIDE, "a loop's number of frames")

    @property
    def usage(self) -> SamplingDefaults:
        return self.entry.usage

    @cached_property
    def longest(self) -> int:
        """The most latent frames that the model sees at once: those of a window, and the end pictures in it."""
        done, most = set(self.context), 1
        for window in self.windows:
            most = max(most, len(window) + len(self.slots(chain(window.observed, window.latent), done)))
            done.update(window.latent)
        return most

    def slots(self, frames: Iterable[int], done: Container[int]) -> list[int]:
        """The latent frames among those of a window whose end pictures the model sees as slots of their own: not where
        it sees them in channels, or where the next latent shows them, because it is done."""
        if self.usage.conditioned or not self.end_frames:
            return []
        return [frame for frame in frames if frame in self.end_frames and frame + 1 not in done]

    @property
    def begins(self) -> float:
        """The time in the bar, in seconds, at which the scene begins, as the beat in the caption says."""
        return begins(self.captions[0]) if self.usage.grammar else 0.0

    @property
    def bars(self) -> int:
        """How many bars of the world a loop lasts; 0 if that is not a whole number, give or take an eighth."""
        often = self.shot.seconds / self.usage.bar if self.usage.bar else 0.0
        return round(often) if abs(often - round(often)) <= STRETCH * round(often) else 0

    @property
    def clock(self) -> float | None:
        """The time of the scene at latent 0, in seconds: that of its beginning if nothing is given; None if unknown."""
        if self.shot.loop:
            return self.begins if self.bars else None
        starts = [piece.clock - (self.span.lead + piece.at) / self.shot.fps for piece in self.given
                if piece.clock is not None]  # fmt: skip
        return starts[0] if starts else None if self.given else self.begins

    def prompt_index(self, frames: Sequence[int]) -> list[int]:
        """The index of the prompt for every latent frame."""
        passed = (bisect(self.changes, (n * TIME_STRIDE - self.span.lead, len(self.changes))) for n in frames)
        return [self.changes[n - 1][1] for n in passed]

    @cached_property
    def changes(self) -> list[tuple[int, int]]:
        """The frames from which on another prompt holds, in the order of time, with its index."""
        shot = self.shot
        starts = (geometry.parse_address(cue.at, shot.fps, shot.frames) for cue in shot.cues)
        return sorted([(-self.span.lead, 0), *((start, index) for index, start in enumerate(starts, 1))])

    def notes(self, read: Iterable[str]) -> Iterator[str]:
        """Notes before the work begins: those of the pipeline on the texts it has `read`, on LoRAs and on the shot."""
        c, shot = self.canvas, self.shot
        yield from read
        yield from map(lora.note, shot.loras)
        yield from unheard(shot, self.usage.negative)
        for caption in (new for new, typed in zip(self.captions, shot.prompts, strict=True) if new != typed):
            yield f'caption: "{"".join(letter if letter.isprintable() else " " for letter in caption)}"'
        sizes = (c.width, c.height), c.crop, (shot.width, shot.height)
        whole, cropped, scaled = (f"{width}x{height}" for width, height in sizes)
        yield "".join([f"generated at {whole}", f", cropped to {cropped}" if cropped != whole else "",
                       f", scaled to {scaled} (Lanczos)" if scaled != cropped else ""])  # fmt: skip
        if new := sorted(self.uses() - set(self.usage.trained)):
            yield f"experimental: {self.entry.name} was not trained for {', '.join(UNTRAINED[one] for one in new)}"
        for piece, placed in zip(self.given, self.placed, strict=True):
            if placed.moved:
                key = piece.at + placed.moved
                yield f"the image at frame {piece.at} guides the model at frame {key}, the nearest key frame"

    def uses(self) -> set[str]:
        """The tasks that the shot needs of the model (`trained` in the registry)."""
        shot, found = self.shot, {use_of(piece, self.shot.frames) for piece in self.given}
        if shot.loop:
            found.add("loop")
        if self.latents > self.usage.window:
            found.add("extend" if shot.plan in ("full", "sliding") and not shot.loop else "gaps")
        if shot.fps != self.usage.fps:
            found.add("fps")
        if shot.cues:
            found.add("cues")
        return found


def made(shot: Shot, entry: Entry) -> Shot:
    """A shot at a frame rate that the model was trained for; a single image keeps its own."""
    return shot.at(entry.usage.rate(shot.fps)) if shot.frames > 1 else shot


def plan(shot: Shot, entry: Entry, given: Sequence[Given] = (), span: geometry.Span | None = None) -> Plan:
    """The plan of a shot of this model around what is given. `span` says how much context lies around the frames shown;
    without it there is only what brings pictures and clips onto key frames. SoraError for what does not fit."""
    span = span or geometry.span_for(shot.frames, [(piece.at, piece.count) for piece in given if not piece.latents])
    placed = tuple(place(piece, span) for piece in given)
    whole = {n for one in placed for n in one.frames if made_whole(one, n, entry)}
    ends = {one.first for one in placed if one.first and not has_motion(entry)}
    canvas, captions = entry.canvas(shot.width, shot.height), tuple(captions_of(shot, entry.usage.grammar))
    found = Plan(shot, entry, canvas, span, captions, tuple(given), placed, frozenset(whole), frozenset(ends))
    return replace(found, windows=tuple(windows_of(found)))


def check_given(entry: Entry, given: bool) -> None:
    """Refuse a shot without given pictures if the model needs one."""
    if entry.usage.conditioned and not given:
        raise SoraError(f"{entry.name} needs a picture to start from; give --image FILE, or use another "
                        "--model for text alone")  # fmt: skip


def place(piece: Given, span: geometry.Span) -> Placed:
    """Place a given part on the latent frames whose key frames it covers."""
    at = span.lead + piece.at
    if piece.latents:
        return Placed(geometry.divide(at, TIME_STRIDE, "given frame"), piece.count)
    first, count = geometry.key_frames(at, piece.count)
    if count:
        return Placed(first, count, start=first * TIME_STRIDE - at)
    latent, key = geometry.snap(at)
    return Placed(latent, 0, moved=key - at)


def made_whole(one: Placed, frame: int, entry: Entry) -> bool:
    """Whether every part of a latent frame is given. A clip does not give the motion that leads to its first latent,
    unless the video begins there; a single picture never gives any motion."""
    return frame > one.first or (one.first == 0 and (one.count > 0 or not has_motion(entry)))


def windows_of(shot_plan: Plan) -> list[planner.Window]:
    """The windows that make the rest, backwards where nothing but the very end is there to begin with."""
    shot, usage, latents = shot_plan.shot, shot_plan.usage, shot_plan.latents
    given_latents, ends = shot_plan.context, shot_plan.end_frames
    timed = bool(usage.bar) and not given_latents and not ends  # then a time says almost all of a frame
    step = usage.window - (min(FEWER, usage.context) if timed else usage.context)
    if shot.loop:
        return planner.circle(latents, usage.window, step)
    windows = planner.plan(latents, shot.plan, given_latents, usage.window, step)
    return planner.mirrored(windows, latents) if latents - 1 in ends and not given_latents else windows


def has_motion(entry: Entry) -> bool:
    """Whether latents have separate parts for the key frame and the motion that leads to it, as ours do."""
    return entry.kind == "sora"


def use_of(piece: Given, frames: int) -> str:
    """The task (`trained` in the registry) that a given part of a video of so many frames needs."""
    count = 2 if piece.latents else piece.count
    if piece.at <= 0:
        return "start" if count == 1 else "extend"
    return "end" if piece.at + count >= frames else "middle"
