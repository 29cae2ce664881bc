"""The story: a shot goes in, latents come into being window by window, frames come out.

    engine = Engine("pocket")
    run = engine.start(shot)
    for progress in run.denoise(): ...
    for frame in run.frames(): ...

The engine prints nothing; whoever runs the generators owns progress and cancelling.
"""

import hashlib
import json
import time
from bisect import bisect
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli import __version__, geometry, pipelines, registry
from sora_cli.errors import Failed, SoraError
from sora_cli.pipelines import Job, Velocity, Watch, unseen
from sora_cli.pipelines.codec import DECODED, pictures_of
from sora_cli.placement import estimate
from sora_cli.prompts.grammar import begins, captions_of
from sora_cli.prompts.notation import unheard
from sora_cli.registry import lora
from sora_cli.sampling import planner
from sora_cli.sampling.conditioning import ADRIFT, Timeline
from sora_cli.shot import Lora, Shot

# What of a model's usage determines a video, beside its shot
DECISIVE = ("solver", "shift", "window", "context", "known_noise", "grammar", "bar")
STRETCH = 1 / 8  # by how much a loop may be longer or shorter than the world's own
FEWER = 2  # frames of context where each is known by its time


@dataclass(frozen=True)
class Progress:
    stage: str
    done: int
    total: int


class Pictures(Protocol):
    """Frames that need not all be in memory, uint8 [h, w, 3] each."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> Iterable[np.ndarray]: ...


@dataclass(frozen=True)
class Known:
    """What is given of a video: pictures, or latents that need no encoding. `at` counts frames from the
    first one that is shown; it may lie before it, or behind the last. `clock` is the seconds of its scene at `at`,
    where they are known: a model of ours knows what it made itself."""

    at: int
    images: np.ndarray | Pictures | None = None  # uint8 [n, h, w, 3] of the cropped canvas
    latents: Tensor | None = None  # [C, n, h, w], the first of them a key frame at `at`
    clock: float | None = None


class Store(Protocol):
    """Where finished windows are kept, so that a run that was killed goes on from there."""

    def finished(self) -> Iterator[Tensor]: ...

    def put(self, number: int, latents: Tensor) -> None: ...


class Engine:
    """The models of one checkpoint on one device. Weights are verified when they are loaded; `watch` is told how far
    that is, since large ones take a while."""

    def __init__(self, model: str = "pocket", device: str = "auto", dtype: str = "auto", memory: str = "auto",
                 watch: Watch = unseen, loras: Sequence[Lora] = ()) -> None:  # fmt: skip
        self.loras = tuple(loras)
        self.pipeline = pipelines.load(model, device, dtype, memory, watch, self.loras)

    def start(self, shot: Shot, known: Sequence[Known] = (), span: geometry.Span | None = None) -> "Run":
        """Plan a shot around what is known; nothing expensive but encoding that happens before `denoise`.

        `span` says how much context lies around the frames shown; without it there is only what brings
        pictures and clips onto key frames."""
        assert shot.loras == self.loras, f"{shot.loras} are asked for, {self.loras} are merged"
        if span is None:
            span = geometry.span_for(shot.frames, [(k.at, len(k.images)) for k in known if k.images is not None])
        return Run(self, shot, tuple(known), span)


@dataclass
class Run:
    """One shot on its way: `denoise` makes the latents, `frames` decodes them."""

    engine: Engine
    shot: Shot
    known: tuple[Known, ...]
    span: geometry.Span
    notes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    latents: Tensor | None = None
    done: list[int] = field(default_factory=list)  # latents that exist already

    def __post_init__(self) -> None:
        shot, self.pipeline = self.shot, self.engine.pipeline
        self.entry = self.pipeline.entry
        self.canvas = self.entry.canvas(shot.width, shot.height)
        self.prompts = captions_of(shot, self.entry.usage.grammar)
        self.notes += self.describe()
        self.timeline = self.empty_timeline()
        longest = longest_window(shot, self.latents_in_all) + self.slots
        self.notes += self.pipeline.prepare(self.canvas, longest, self.latents_in_all)
        for piece in self.known:
            with self.clocked("known"):
                self.timeline = self.place(piece)
        self.windows = plan_of(shot, self.latents_in_all, self.timeline.done(), frozenset(self.timeline.stills))

    def empty_timeline(self) -> Timeline:
        cells = (geometry.divide(n, self.entry.cell) for n in (self.canvas.height, self.canvas.width))
        return Timeline.empty(self.pipeline.parts, self.latents_in_all, *cells)

    @property
    def latents_in_all(self) -> int:
        if self.shot.loop:
            return geometry.divide(self.shot.frames, geometry.TIME_STRIDE, "a loop's number of frames")
        return self.span.latents

    @property
    def slots(self) -> int:
        """Latents that a window may have beside its frames: pictures that frames of several are to end in."""
        return 0 if self.pipeline.parts[1] else sum(piece.at > 0 for piece in self.known)

    def describe(self) -> Iterator[str]:
        """What the user should know before the work begins, a line each."""
        yield from self.pipeline.notes(self.shot)
        yield from unheard(self.shot, self.entry.usage.negative)
        yield from (lora.note(one) for one in self.shot.loras)
        c, shot = self.canvas, self.shot
        for caption in (new for new, typed in zip(self.prompts, shot.prompts, strict=True) if new != typed):
            yield f'caption: "{"".join(letter if letter.isprintable() else " " for letter in caption)}"'
        yield (f"canvas {c.width}x{c.height}, cropped to {c.crop_width}x{c.crop_height}, "
               f"scaled to {shot.width}x{shot.height}")  # fmt: skip
        if new := sorted(self.asks() - set(self.entry.usage.trained)):
            yield f"experimental: {self.entry.name} was not trained for {', '.join(ANCHORS[one] for one in new)}"

    def asks(self) -> set[str]:
        """What of the model's training a shot calls upon, in the words of the registry."""
        found = {anchor_of(piece, self.shot.frames) for piece in self.known}
        usage, frames = self.entry.usage, self.latents_in_all
        if self.shot.loop:
            found.add("loop")
        if frames > usage.window:
            found.add("extend" if self.shot.plan in ("full", "sliding") and not self.shot.loop else "gaps")
        if self.shot.fps != usage.fps:
            found.add("fps")
        if self.shot.cues:
            found.add("cues")
        return found

    def warnings(self) -> Iterator[str]:
        """A line where the work will try one's patience: a large model on a CPU."""
        pipeline = self.pipeline
        if self.entry.parts and pipeline.device.type == "cpu":
            with suppress(SoraError):  # of a batch, all but the first find the memory taken
                where = pipeline.device, pipeline.dtype, pipeline.memory
                cost = estimate.of_hub_model(self.entry, self.shot, self.windows, *where)
                yield from filter(None, [estimate.slowness(cost)])

    def place(self, piece: Known) -> Timeline:
        """The timeline with one more piece on it, as far as it reaches over key frames."""
        at = self.span.lead + piece.at
        if piece.latents is not None:
            return self.timeline.with_chunks(geometry.divide(at, geometry.TIME_STRIDE, "known frame"), piece.latents)
        assert piece.images is not None
        first, count = geometry.key_frames(at, len(piece.images))
        if not count:
            latent, key = geometry.snap(at)
            if key != at:
                self.notes.append(f"the image at frame {piece.at} lies on key frame {key - self.span.lead}")
            return self.timeline.with_image(latent, self.encode(piece.images[:1])[: self.timeline.parts[0], 0])
        start = first * geometry.TIME_STRIDE - at
        return self.timeline.with_chunks(first, self.encode(piece.images[start : start + geometry.frames_in(count)]))

    def encode(self, images: Iterable[np.ndarray]) -> Tensor:
        """1 + 4n pictures, uint8 [h, w, 3] each -> latents [C, 1 + n, h, w]."""
        return torch.cat(list(self.pipeline.codec.encode(images, self.canvas)), 1)

    @property
    def source_size(self) -> tuple[int, int]:
        """(width, height) of the frames that `frames` yields; the writer scales them to the shot's size."""
        return self.pipeline.codec.shown(self.canvas)

    @torch.inference_mode()
    def denoise(self, store: Store | None = None) -> Iterator[Progress]:
        """Make the latents [C, T, h, w], window by window; yields before the first solver step and after each. Windows
        that the store holds are taken from it, new ones are put there."""
        with self.clocked("text"):
            text = self.read()
        rng = torch.Generator().manual_seed(self.shot.seed)
        x, known = torch.randn(self.timeline.latents.shape, generator=rng), self.timeline.known.clone()
        x = torch.lerp(x, self.timeline.latents, self.timeline.mask())  # noise, but for what is known
        self.latents = x
        finished = store.finished() if store else iter(())
        yield Progress("denoise", 0, len(self.windows) * self.shot.steps)
        for number, window in enumerate(self.windows):
            done = next(finished, None)
            if done is None:
                done = yield from self.make(number, x, known, text)
                if store:
                    store.put(number, done)
            index = [frame % x.shape[1] for frame in window.frames]
            x[:, index] = done
            known[:, index] = 1
            self.done = known[0].nonzero().flatten().tolist()
            yield Progress("denoise", (number + 1) * self.shot.steps, len(self.windows) * self.shot.steps)

    def make(self, number: int, x: Tensor, known: Tensor, text: Tensor) -> Generator[Progress, None, Tensor]:
        """One window's latents [C, t, h, w] on the CPU; yields between solver steps."""
        steps, total = self.shot.steps, self.shot.steps * len(self.windows)
        job = self.job(self.windows[number], x, known)
        solver = self.solve(job, self.windows[number], text)
        for step in range(1, steps + 1):
            with self.clocked("dit"):
                made = next(solver)
            self.flops += self.pipeline.work(job, text)
            if step < steps:
                yield Progress("denoise", number * steps + step, total)
        made = made.float().cpu()
        if not made.isfinite().all():
            raise Failed("the latents are not finite; try --dtype float32, or verify the weights")
        return made

    def read(self) -> Tensor:
        """Text features [prompts (+ 1), L, D]; the last row is what not to show, if there is guidance."""
        told, shot = any(prompt.strip() for prompt in self.prompts), self.shot
        guided = shot.guidance != 1 and (told or shot.negative)
        return self.pipeline.read(self.prompts, shot.negative if guided else None)

    def job(self, window: planner.Window, x: Tensor, known: Tensor) -> Job:
        total, device = x.shape[1], self.pipeline.device
        index = [frame % total for frame in window.frames]
        stills = {frame: self.timeline.stills[frame] for frame in window.frames if self.ends(frame, known)}
        return Job(
            self.shot, window.frames, x[:, index].to(device), known[:, index].to(device),
            self.told(index).to(device), self.seconds(window).to(device), stills,
        )  # fmt: skip

    def ends(self, frame: int, known: Tensor) -> bool:
        """Whether a latent frame has to be told the picture that it ends in: not if what follows shows it."""
        return frame in self.timeline.stills and not known[:, frame + 1 : frame + 2].all(0).any()

    def solve(self, job: Job, window: planner.Window, text: Tensor) -> Iterator[Tensor]:
        """The flow of one window from noise to latents [C, t, h, w]; what is known stays as it is."""
        velocity = self.pipeline.velocity(job, text)
        around = self.shot.loop and not window.observed and not self.bars
        return self.pipeline.sample(rolling(velocity) if around else velocity, job)

    @property
    def clock(self) -> float | None:
        """The seconds of the scene at latent 0: it begins there, unless something is given. None where nobody knows."""
        if self.shot.loop:
            return self.begins if self.bars else None
        told = [piece.clock - (self.span.lead + piece.at) / self.shot.fps for piece in self.known
                if piece.clock is not None]  # fmt: skip
        return told[0] if told else None if self.known else self.begins

    @property
    def begins(self) -> float:
        """The second of its bar at which the world begins: a beat of the caption is a time, not a thing to see."""
        return begins(self.prompts[0]) if self.entry.usage.grammar else 0.0

    @property
    def bars(self) -> int:
        """How often the world that the model knows repeats itself in a loop; 0 where that is no whole number, give or
        take an eighth, by which it then goes faster or slower."""
        bar = self.entry.usage.bar
        often = self.shot.seconds / bar if bar else 0.0
        return round(often) if abs(often - round(often)) <= STRETCH * round(often) else 0

    def seconds(self, window: planner.Window) -> Tensor:
        """The times of a window's frames, since the scene began. Where nobody knows when that was, they tell how far
        frames are apart, and those of a loop start a turn late if they would be negative."""
        frames = torch.tensor(window.frames)
        apart = geometry.TIME_STRIDE / self.shot.fps
        if self.shot.loop and self.bars:
            return self.begins + (frames % self.latents_in_all) * self.bars * self.entry.usage.bar / self.latents_in_all
        if self.shot.loop and window.frames[0] < 0:
            frames = frames + self.latents_in_all
        if self.clock is None:
            return ADRIFT + frames * apart
        return folded(self.clock + frames * apart, self.entry.usage.bar)

    def told(self, index: Sequence[int]) -> Tensor:
        """For every latent frame the number of the prompt that holds then."""
        shot = self.shot
        starts = [geometry.parse_address(cue.at, shot.fps, shot.frames) for cue in shot.cues]
        order = sorted(range(len(starts)), key=starts.__getitem__)
        frames = [latent * geometry.TIME_STRIDE - self.span.lead for latent in index]
        passed = [bisect([starts[n] for n in order], frame) for frame in frames]
        return torch.tensor([order[n - 1] + 1 if n else 0 for n in passed])

    @torch.inference_mode()
    def frames(self) -> Iterator[np.ndarray]:
        """Decoded frames, uint8 [h, w, 3] of `source_size`: those shown, after the `lead` and without the
        trail. A few latents are in memory at a time."""
        assert self.latents is not None, "denoise first"
        videos = self.pipeline.codec.vae.stream(self.latents[None], DECODED, cyclic=self.shot.loop)
        left = self.span.lead + self.shot.frames
        while left > 0:
            with self.clocked("decode"):
                images = pictures_of(next(videos)[0, :, :left], self.canvas)
            left -= len(images)
            yield from images

    def still(self, frame: int) -> np.ndarray:
        """What the decoder makes of a known key frame, [h, w, 3]; it needs no other latents."""
        latent, _ = geometry.snap(self.span.lead + frame)
        alone = self.timeline.stills.get(latent)
        if alone is not None:
            return self.key_frames(alone[:, None], [0])[0]
        return self.key_frames(self.timeline.latents, [latent])[0]

    def glance(self, most: int = 8) -> list[np.ndarray]:
        """Some of the key frames that exist already, spread over the video: how it takes shape."""
        assert self.latents is not None
        if not self.pipeline.sees_while_it_works:
            return []
        return self.key_frames(self.latents, planner.spread(self.done, most))

    @torch.inference_mode()
    def key_frames(self, latents: Tensor, index: list[int]) -> list[np.ndarray]:
        """Single key frames of latents [C, T, h, w], uint8 [h, w, 3] each; they need no others."""
        codec = self.pipeline.codec
        chosen = rearrange(latents[:, index], "C n h w -> n C 1 h w").to(codec.device, codec.dtype)
        return [pictures_of(codec.vae.decode(one[None])[0], self.canvas)[0] for one in chosen]

    def identity(self) -> str:
        """All that determines the latents, as JSON: going on with anything else would mix two videos."""
        known = hashlib.sha256(json.dumps(sorted(self.timeline.stills)).encode())
        for given in (self.timeline.latents, self.timeline.known, *self.timeline.stills.values()):
            known.update(given.contiguous().numpy().data)
        return json.dumps({
            "shot": self.shot.to_dict(), "span": asdict(self.span), "known": known.hexdigest(),
            "weights": dict(self.pipeline.identity()), "dtype": str(self.pipeline.dtype),
            "device": self.pipeline.device.type, "loras": lora.hashes(self.shot.loras), "version": __version__,
            "usage": {name: getattr(self.entry.usage, name) for name in DECISIVE},
        })  # fmt: skip

    @contextmanager
    def clocked(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `timings`."""
        began = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began


ANCHORS = {  # what a model may be asked to start from, in the words of a note
    "start": "a picture that is given as the first frame",
    "end": "a picture or clip that is given as the end",
    "middle": "pictures or clips that are given in the middle",
    "extend": "going on from known frames",
    "loop": "a loop that is made on a circle",
    "gaps": "windows with gaps in time (--plan sliding has none)",
    "fps": "this frame rate, so that things may move too fast or too slowly",
    "cues": "a prompt that changes (it does so from one window to the next)",
}


def anchor_of(piece: Known, frames: int) -> str:
    """Where in a video of so many frames a piece is known, in the words of the registry."""
    count = len(piece.images) if piece.images is not None else 2
    if piece.at <= 0:
        return "start" if count == 1 else "extend"
    return "end" if piece.at + count >= frames else "middle"


def plan_of(shot: Shot, latents: int, known: frozenset[int] = frozenset(),
            stills: frozenset[int] = frozenset()) -> list[planner.Window]:  # fmt: skip
    """The windows that a shot is made in, of which some latent frames are known, and some end in known pictures.
    Where there is nothing but the very end to begin with, the way is from there back to the start."""
    usage = registry.entry(shot.model).usage
    clocked = bool(usage.bar) and not known and not stills  # then a time says almost all of a frame
    step = usage.window - (min(FEWER, usage.context) if clocked else usage.context)
    if shot.loop:
        return planner.circle(latents, usage.window, step)
    windows = planner.plan(latents, shot.plan, known, usage.window, step)
    return planner.mirrored(windows, latents) if latents - 1 in stills and not known else windows


def longest_window(shot: Shot, latents: int) -> int:
    return latents if shot.plan == "full" else min(latents, registry.entry(shot.model).usage.window)


def folded(seconds: Tensor, bar: float) -> Tensor:
    """Times of frames in a world that repeats itself: as many bars earlier as it takes for them to be times that a
    clock tells, together if they can be, so that they stay as far apart."""
    if not bar or seconds.max() < ADRIFT:
        return seconds
    earlier = seconds - bar * torch.ceil((seconds.max() - ADRIFT) / bar + 1e-6)
    return earlier if earlier.min() >= 0 else seconds % bar


def rolling(velocity: Velocity) -> Velocity:
    """A velocity field for a loop: at every call another frame is the first (Mobius, Bi et al. 2025)."""
    shift = count()

    def rolled(x: Tensor, t: Tensor) -> Tensor:
        by = next(shift)
        return velocity(x.roll(-by, 1), t).roll(by, 1)

    return rolled
