"""The story: a shot goes in, latents come into being window by window, frames come out.

    engine = Engine(registry.entry("pocket"))
    run = engine.start(shot)
    for progress in run.denoise(): ...
    for frame in run.frames(): ...

The engine prints nothing; whoever runs the generators owns progress and cancelling.
"""

import hashlib
import json
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, count

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli import __version__, geometry, pipelines
from sora_cli.errors import SoraError, no_op
from sora_cli.generation.given import GivenClip, runs, seen, used
from sora_cli.generation.plan import Placed, Plan, check_given, plan
from sora_cli.generation.preview import Guess, Preview
from sora_cli.geometry import TIME_STRIDE
from sora_cli.pipelines import OnProgress, Velocity, WindowInputs
from sora_cli.pipelines.codec import check_finite, pictures_of
from sora_cli.pipelines.stages import Notify
from sora_cli.placement import estimate
from sora_cli.registry import Entry, lora
from sora_cli.sampling import planner
from sora_cli.sampling.conditioning import NULL_TIME, Timeline
from sora_cli.shot import Lora, Shot
from sora_cli.storage.resume import Windows

# What of a model's usage determines a video, beside its shot
DECISIVE = ("solver", "shift", "window", "context", "known_noise", "grammar", "bar", "boundary", "conditioned")


@dataclass(frozen=True)
class Progress:
    stage: str
    done: int
    total: int


class Engine:
    """The networks of one model on one device, verified when loaded; `on_progress` is called with the progress."""

    def __init__(self, entry: Entry, device: str = "auto", dtype: str = "auto", memory: str = "auto",
                 on_progress: OnProgress = no_op, loras: Sequence[Lora] = (), decoder: str = pipelines.FULL,
                 preview: bool = False) -> None:  # fmt: skip
        self.loras, self.draft = tuple(loras), decoder != pipelines.FULL
        self.pipeline = pipelines.load(entry, device, dtype, memory, on_progress, self.loras, decoder, preview)

    @property
    def entry(self) -> Entry:
        return self.pipeline.entry

    def start(self, shot: Shot, given: Sequence[GivenClip] = (), span: geometry.Span | None = None) -> "Generation":
        """Plan a shot around what is given, as `plan` does; nothing is computed before `denoise`."""
        return self.generation(plan(shot, self.entry, [piece.given for piece in given], span), given)

    def generation(self, made: Plan, given: Sequence[GivenClip] = ()) -> "Generation":
        """The same of a shot that is planned already, around what is given."""
        shot = made.shot
        assert shot.loras == self.loras, f"{shot.loras} are asked for, {self.loras} are merged"
        if shot.model != self.entry.name:
            raise SoraError(f"the shot needs model {shot.model}, but {self.entry.name} is loaded")
        return Generation(self, made, tuple(given))


@dataclass
class Generation:
    """One shot on its way: `denoise` makes the latents, `frames` decodes them."""

    engine: Engine
    plan: Plan
    given: tuple[GivenClip, ...]
    notes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    latents: Tensor | None = None
    done: list[int] = field(default_factory=list)  # latents that exist already
    guess: Guess | None = None  # of the window at work
    store: Windows | None = None
    say: Notify = no_op  # called with notes that come up on the way

    def __post_init__(self) -> None:
        self.pipeline, self.shot, self.span = self.engine.pipeline, self.plan.shot, self.plan.span
        check_given(self.plan.entry, bool(self.given))
        self.notes += self.plan.notes(self.pipeline.notes(self.shot))
        sizes = self.plan.canvas, self.plan.longest, self.plan.latents
        self.stages = self.pipeline.on_device(*sizes, self.add_note, encodes=bool(self.given))
        self.notes += filter(None, [self.stages.note])
        self.warnings = list(self.slowness())

    def add_note(self, line: str) -> None:
        """Add a note while the video is being made."""
        self.notes.append(line)
        self.say(line)

    @cached_property
    def timeline(self) -> Timeline:
        """The given frames as latents; pictures are encoded on first access."""
        canvas, cell = self.plan.canvas, self.plan.entry.cell
        height, width = (geometry.divide(n, cell) for n in (canvas.height, canvas.width))
        timeline = Timeline.empty(self.pipeline.latent_split, self.plan.latents, height, width)
        for number, (piece, placed) in enumerate(zip(self.given, self.plan.placed, strict=True)):
            with self.timed("given"):
                latents = self.latents_of(number, piece, placed)
            if placed.count:
                timeline = timeline.with_chunks(placed.first, latents)
            else:
                timeline = timeline.with_image(placed.first, latents[: timeline.parts[0], 0])
        return timeline

    def latents_of(self, number: int, piece: GivenClip, placed: Placed) -> Tensor:
        """The latents of one given piece, encoded once even if the run is resumed."""
        if piece.latents is not None:
            return piece.latents
        latents = self.store.read(number, "given") if self.store else None
        if latents is None:
            latents = self.stages.autoencoder.do(lambda: self.encode(used(piece, placed)))
            if self.store:
                self.store.put(number, latents, "given")
        return latents

    def slowness(self) -> Iterator[str]:
        """A warning if the work will be very slow: a large model on a CPU."""
        pipeline, entry = self.pipeline, self.plan.entry
        if entry.parts and pipeline.device.type == "cpu":
            with suppress(SoraError):  # of a batch, all but the first find the memory taken
                where = "cpu", str(pipeline.dtype).removeprefix("torch."), pipeline.memory
                pictures = estimate.Pictures(bool(self.given), self.engine.draft)
                cost = estimate.dry_run(self.plan, *where, pictures)
                yield from filter(None, [estimate.slowness(cost)])

    def encode(self, images: Iterable[np.ndarray]) -> Tensor:
        """1 + 4n pictures, uint8 [h, w, 3] each -> latents [C, 1 + n, h, w]."""
        return torch.cat(list(self.pipeline.codec.encode(images, self.plan.canvas)), 1)

    @property
    def source_size(self) -> tuple[int, int]:
        """(width, height) of the frames that `frames` yields; the writer scales them to the shot's size."""
        return self.pipeline.codec.shown(self.plan.canvas)

    @torch.inference_mode()
    def denoise(self, store: Windows | None = None) -> Iterator[Progress]:
        """Make the latents [C, T, h, w], window by window; yields before the first solver step and after each. Windows
        that the store holds are taken from it, new ones are put there."""
        self.store = store
        timeline = self.timeline  # before text: one network at a time, and this one may be there already
        with self.timed("text"):
            text = self.stages.text.do(self.read)
        rng = torch.Generator().manual_seed(self.shot.seed)
        noise, cond_mask = torch.randn(timeline.latents.shape, generator=rng), timeline.cond_mask.clone()
        x = torch.lerp(noise, timeline.latents, timeline.mask())  # noise, but for what is given
        self.latents, self.noise = x, noise
        finished = store.finished() if store else iter(())
        yield Progress("denoise", 0, len(self.plan.windows) * self.shot.steps)
        for number, window in enumerate(self.plan.windows):
            done = next(finished, None)
            if done is None:
                condition = self.stages.autoencoder.do(partial(self.condition, window, x, cond_mask))
                for attempt in self.stages.transformer:
                    with attempt:
                        done = yield from self.make(number, x, cond_mask, text, condition)
                assert done is not None, "the last attempt makes it, or raises"
                if store:
                    store.put(number, done)
            index = [frame % x.shape[1] for frame in window.frames]
            x[:, index] = done
            cond_mask[:, index] = 1
            self.done, self.guess = cond_mask[0].nonzero().flatten().tolist(), None
            yield Progress("denoise", (number + 1) * self.shot.steps, len(self.plan.windows) * self.shot.steps)

    def make(self, number: int, x: Tensor, cond_mask: Tensor, text: Tensor, condition: Tensor | None
             ) -> Generator[Progress, None, Tensor]:  # fmt: skip
        """One window's latents [C, t, h, w] on the CPU; yields between solver steps."""
        steps, total = self.shot.steps, self.shot.steps * len(self.plan.windows)
        inputs = replace(self.inputs(self.plan.windows[number], x, cond_mask), condition=condition)
        solver = self.solve(inputs, self.plan.windows[number], text)
        for step in range(1, steps + 1):
            with self.timed("dit"):
                made = next(solver)
            self.flops += self.pipeline.work(inputs, text)
            if step < steps:
                yield Progress("denoise", number * steps + step, total)
        made = made.float().cpu()
        check_finite("latents", made)
        return made

    def read(self) -> Tensor:
        """Text features [prompts (+ 1), L, D]; with guidance, the last row is the negative prompt."""
        prompted, shot = any(prompt.strip() for prompt in self.plan.captions), self.shot
        guided = set(shot.guidances) != {1} and (prompted or shot.negative)
        return self.pipeline.read(self.plan.captions, shot.negative if guided else None)

    def inputs(self, window: planner.Window, x: Tensor, cond_mask: Tensor) -> WindowInputs:
        total, device = x.shape[1], self.pipeline.device
        index = [frame % total for frame in window.frames]
        slots = self.plan.slots(window.frames, set(cond_mask.all(0).nonzero().flatten().tolist()))
        return WindowInputs(
            self.shot, window.frames, x[:, index].to(device), cond_mask[:, index].to(device),
            torch.tensor(self.plan.prompt_index(index)).to(device), self.seconds(window).to(device),
            {frame: self.timeline.end_frames[frame] for frame in slots}, self.noise[:, index].to(device),
            redone=self.redone(window),
        )  # fmt: skip

    def condition(self, window: planner.Window, x: Tensor, cond_mask: Tensor) -> Tensor | None:
        """The conditioning channels of a window, if the model sees given and earlier frames in them, otherwise None."""
        if not self.plan.usage.conditioned:
            return None
        others = [frame for frame in window.frames if frame not in self.pictured]
        decoded = ((TIME_STRIDE * run.start, self.decode(x[:, run.start : run.stop]))
                   for run in runs(others, cond_mask[0].bool().tolist()))  # fmt: skip
        return self.pipeline.condition(seen(window.frames, chain(decoded, self.pictures())), self.plan.canvas)

    def pictures(self) -> Iterator[tuple[int, Iterable[np.ndarray]]]:
        """The given pictures as (first frame, pictures), counted from the first latent's frame."""
        for piece, placed in zip(self.given, self.plan.placed, strict=True):
            if piece.images is not None:
                yield TIME_STRIDE * placed.first, used(piece, placed)

    @cached_property
    def pictured(self) -> set[int]:
        """The indices of latents that are given as pictures."""
        every = zip(self.given, self.plan.placed, strict=True)
        return {frame for piece, placed in every if piece.images is not None for frame in placed.frames}

    def decode(self, latents: Tensor, cyclic: bool = False) -> Iterator[np.ndarray]:
        """Decode latents [C, k, h, w] to frames. The first latent counts as the first of a video, or in a loop as the
        one after the last."""
        for video in self.pipeline.codec.vae.stream(latents[None], self.pipeline.codec.group, cyclic=cyclic):
            yield from pictures_of(video[0], self.plan.canvas)

    def redone(self, window: planner.Window) -> Tensor | None:
        """Which given latents of a window the model makes again: the first ones of the video, where it sees them as
        pictures. What it makes of them fits the rest; further on a window's first latent stands for one frame, and
        that of the video for four."""
        if not self.plan.usage.conditioned or window.frames[0]:
            return None
        return torch.tensor([frame in self.pictured for frame in window.frames])

    def solve(self, inputs: WindowInputs, window: planner.Window, text: Tensor) -> Iterator[Tensor]:
        """Sample one window from noise to latents [C, t, h, w]; given latents do not change."""
        velocity = self.pipeline.velocity(inputs, text)
        around = self.shot.loop and not window.observed and not self.plan.bars
        self.guess = Guess(rolling(velocity) if around else velocity, inputs)
        return self.pipeline.sample(self.guess, inputs)

    def seconds(self, window: planner.Window) -> Tensor:
        """The times of a window's frames, since the scene began. Where nobody knows when that was, they tell how far
        frames are apart, and those of a loop start a turn late if they would be negative."""
        frames = torch.tensor(window.frames)
        apart, latents = geometry.TIME_STRIDE / self.shot.fps, self.plan.latents
        if self.shot.loop and self.plan.bars:
            return self.plan.begins + (frames % latents) * self.plan.bars * self.plan.usage.bar / latents
        if self.shot.loop and window.frames[0] < 0:
            frames = frames + latents
        if self.plan.clock is None:
            return NULL_TIME + frames * apart
        return folded(self.plan.clock + frames * apart, self.plan.usage.bar)

    @torch.inference_mode()
    def frames(self) -> Iterator[np.ndarray]:
        """The decoded frames to show, uint8 [h, w, 3] of `source_size`, without lead and trail, a few at a time."""
        yield from self.stages.autoencoder.follow(self.decoded)

    def decoded(self) -> Iterator[np.ndarray]:
        """The frames, as the autoencoder is placed now."""
        assert self.latents is not None, "denoise first"
        decoding = self.decode(self.latents, self.shot.loop)
        for _ in range(self.span.lead + self.shot.frames):
            with self.timed("decode"):
                frame = next(decoding)
            yield frame

    def keyframes(self) -> list[tuple[int, np.ndarray]]:
        """For each given piece, the number of its first frame that lies on a key frame, and that key frame, decoded."""
        return [(placed.start, self.decode_keyframe(placed.first)) for placed in self.plan.placed]

    def decode_keyframe(self, latent: int) -> np.ndarray:
        """A given key frame as the decoder reconstructs it, uint8 [h, w, 3]; needs no other latents."""
        alone = self.timeline.end_frames.get(latent)
        return self.key_frame(self.timeline.latents[:, latent] if alone is None else alone)

    @cached_property
    def preview(self) -> Preview:
        return Preview(self.pipeline, self.plan)

    @torch.inference_mode()
    def preview_frames(self, most: int = 8) -> list[np.ndarray]:
        """Up to `most` key frames spread over the unfinished video, uint8 [h, w, 3] each."""
        assert self.latents is not None
        with self.timed("preview"):
            return self.preview.render(self.latents, self.done, self.guess, most)

    @torch.inference_mode()
    def key_frame(self, latent: Tensor) -> np.ndarray:
        """The key frame of one latent [C, h, w], uint8 [h, w, 3]; it needs no others."""
        codec, alone = self.pipeline.codec, rearrange(latent, "C h w -> 1 C 1 h w")

        def decoded() -> np.ndarray:
            return pictures_of(codec.vae.decode(alone.to(codec.device, codec.dtype))[0], self.plan.canvas)[0]

        return self.stages.autoencoder.do(decoded)

    def identity(self) -> str:
        """Everything that determines the video, as JSON; the placement of the networks does not."""
        given = hashlib.sha256()
        for piece, placed in zip(self.given, self.plan.placed, strict=True):
            given.update(json.dumps(astuple(placed)).encode())
            for part in used(piece, placed):
                given.update(np.ascontiguousarray(part).data)
        return json.dumps({
            "shot": self.shot.to_dict(), "span": asdict(self.span), "given": given.hexdigest(),
            "weights": dict(self.pipeline.identity()), "dtype": str(self.pipeline.dtype),
            "device": self.pipeline.device.type, "loras": lora.hashes(self.shot.loras), "version": __version__,
            "usage": {name: getattr(self.plan.usage, name) for name in DECISIVE},
        })  # fmt: skip

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `timings`."""
        began = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began


def folded(seconds: Tensor, bar: float) -> Tensor:
    """Times of frames in a world that repeats itself: as many bars earlier as it takes for them to be times that a
    clock tells, together if they can be, so that they stay as far apart."""
    if not bar or seconds.max() < NULL_TIME:
        return seconds
    earlier = seconds - bar * torch.ceil((seconds.max() - NULL_TIME) / bar + 1e-6)
    return earlier if earlier.min() >= 0 else seconds % bar


def rolling(velocity: Velocity) -> Velocity:
    """A velocity field for a loop: at every call another frame is the first (Mobius, Bi et al. 2025)."""
    shift = count()

    def rolled(x: Tensor, t: Tensor) -> Tensor:
        by = next(shift)
        return velocity(x.roll(-by, 1), t).roll(by, 1)

    return rolled
