"""A shot before anything is computed: what it is made of, in which windows, and what is given. Pure; no torch.

The engine follows a plan, `--dry-run` shows one, and `doctor` takes the time of one.
"""

from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

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
    "start": "a picture that is given as the first frame",
    "end": "a picture or clip that is given as the end",
    "middle": "pictures or clips that are given in the middle",
    "extend": "going on from given frames",
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
    """What a shot comes to, for one model."""

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
        """Latent frames in all."""
        return latents_of(self.shot, self.span)

    @property
    def usage(self) -> SamplingDefaults:
        return self.entry.usage

    @property
    def longest(self) -> int:
        """The most latent frames of a window, with the slots of pictures that frames are to end in."""
        slots = 0 if has_motion(self.entry) or self.usage.conditioned else sum(piece.at > 0 for piece in self.given)
        return slots + (self.latents if self.shot.plan == "full" else min(self.latents, self.usage.window))

    @property
    def begins(self) -> float:
        """The second of its bar at which the world begins: a beat of the caption is a time, not a thing to see."""
        return begins(self.captions[0]) if self.usage.grammar else 0.0

    @property
    def bars(self) -> int:
        """How often the model's world repeats in a loop; 0 if that is no whole number, give or take an eighth."""
        often = self.shot.seconds / self.usage.bar if self.usage.bar else 0.0
        return round(often) if abs(often - round(often)) <= STRETCH * round(often) else 0

    @property
    def clock(self) -> float | None:
        """The seconds of the scene at latent 0: it begins there, unless something is given. None where nobody knows."""
        if self.shot.loop:
            return self.begins if self.bars else None
        starts = [piece.clock - (self.span.lead + piece.at) / self.shot.fps for piece in self.given
                if piece.clock is not None]  # fmt: skip
        return starts[0] if starts else None if self.given else self.begins

    def prompt_index(self, frames: Sequence[int]) -> list[int]:
        """For every latent frame the number of the prompt that holds then."""
        shot = self.shot
        starts = [geometry.parse_address(cue.at, shot.fps, shot.frames) for cue in shot.cues]
        order = sorted(range(len(starts)), key=starts.__getitem__)
        passed = [bisect([starts[n] for n in order], n * TIME_STRIDE - self.span.lead) for n in frames]
        return [order[n - 1] + 1 if n else 0 for n in passed]

    def notes(self, read: Iterable[str]) -> Iterator[str]:
        """What the user should know before the work begins, a line each: what the model says of the texts that it has
        `read`, what is merged into it, and what is made."""
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
        if new := sorted(self.asks() - set(self.usage.trained)):
            yield f"experimental: {self.entry.name} was not trained for {', '.join(UNTRAINED[one] for one in new)}"

    def moves(self) -> Iterator[str]:
        """Which pictures lie on another frame than was asked: the model knows them as key frames."""
        for piece, placed in zip(self.given, self.placed, strict=True):
            if placed.moved:
                key = piece.at + placed.moved
                yield f"the image at frame {piece.at} guides the model at frame {key}, the nearest key frame"

    def asks(self) -> set[str]:
        """What of the model's training the shot calls upon, in the words of the registry."""
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
    """A shot as a model makes it: at a rate that it was trained for. One image has none."""
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
    """Refuse a shot in which nothing is given, of a model that makes nothing without."""
    if entry.usage.conditioned and not given:
        raise SoraError(f"{entry.name} goes on from pictures, and none is given; give --image FILE, or take another "
                        "--model for text alone")  # fmt: skip


def place(piece: Given, span: geometry.Span) -> Placed:
    """Where a given part lies, as far as it reaches over key frames."""
    at = span.lead + piece.at
    if piece.latents:
        return Placed(geometry.divide(at, TIME_STRIDE, "given frame"), piece.count)
    first, count = geometry.key_frames(at, piece.count)
    if count:
        return Placed(first, count, start=first * TIME_STRIDE - at)
    latent, key = geometry.snap(at)
    return Placed(latent, 0, moved=key - at)


def made_whole(one: Placed, frame: int, entry: Entry) -> bool:
    """Whether nothing of a latent frame is left to be made. The motion that leads to the first one of a clip is not
    given, unless the video begins there; and a picture alone says nothing of it."""
    return frame > one.first or (one.first == 0 and (one.count > 0 or not has_motion(entry)))


def windows_of(shot_plan: Plan) -> list[planner.Window]:
    """The windows that make the rest, backwards where nothing but the very end is there to begin with."""
    shot, usage, latents = shot_plan.shot, shot_plan.usage, shot_plan.latents
    given_latents, ends = shot_plan.context, shot_plan.end_frames
    clocked = bool(usage.bar) and not given_latents and not ends  # then a time says almost all of a frame
    step = usage.window - (min(FEWER, usage.context) if clocked else usage.context)
    if shot.loop:
        return planner.circle(latents, usage.window, step)
    windows = planner.plan(latents, shot.plan, given_latents, usage.window, step)
    return planner.mirrored(windows, latents) if latents - 1 in ends and not given_latents else windows


def latents_of(shot: Shot, span: geometry.Span) -> int:
    return geometry.divide(shot.frames, TIME_STRIDE, "a loop's number of frames") if shot.loop else span.latents


def has_motion(entry: Entry) -> bool:
    """Whether latents tell a key frame and the motion that leads there apart, as ours do."""
    return entry.kind == "sora"


def use_of(piece: Given, frames: int) -> str:
    """What a given part of a video of so many frames asks of a model, in the words of the registry."""
    count = 2 if piece.latents else piece.count
    if piece.at <= 0:
        return "start" if count == 1 else "extend"
    return "end" if piece.at + count >= frames else "middle"
