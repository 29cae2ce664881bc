"""The story: a shot goes in, latents come into being window by window, frames come out.

    engine = Engine("pocket")
    run = engine.start(shot)
    for progress in run.denoise(): ...
    for frame in run.frames(): ...

The engine prints nothing and calls nobody back; whoever runs the generators owns progress and cancelling.
"""

import hashlib
import json
import time
from bisect import bisect
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli import flow, geometry, planner, registry
from sora_cli.codec import Codec, pictures_of
from sora_cli.device import pick_device, pick_dtype
from sora_cli.errors import Failed
from sora_cli.expand import expand
from sora_cli.models.sora import dit as dits
from sora_cli.models.sora import text as texts
from sora_cli.models.sora import vae as vaes
from sora_cli.models.sora.patches import Grid, patchify, unpatchify
from sora_cli.sampler import Velocity as SolverField
from sora_cli.sampler import euler
from sora_cli.shot import Shot
from sora_cli.timeline import Timeline, spread

WINDOW, STEP = 8, 4  # latent frames in a window, as many as the longest training clips, and made by it
DECODED = 4  # latents decoded at a time


@dataclass(frozen=True)
class Progress:
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Known:
    """What is given of a video: pictures, or latents that need no encoding. `at` counts frames from the
    first one that is shown; it may lie before it, or behind the last."""

    at: int
    images: np.ndarray | None = None  # uint8 [n, h, w, 3] of the run's `source_size`
    latents: Tensor | None = None  # [C, n, h, w], the first of them a key frame at `at`


class Store(Protocol):
    """Where finished windows are kept, so that a run that was killed goes on from there."""

    def finished(self) -> Iterator[Tensor]: ...

    def put(self, number: int, latents: Tensor) -> None: ...


class Engine:
    """The models of one checkpoint on one device. Weights are verified when they are loaded."""

    def __init__(self, model: str = "pocket", device: str = "auto", dtype: str = "auto") -> None:
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        load = registry.load_model_files
        self.tokenizer, tower = texts.from_weights(*load(model, "text"))
        self.tower = tower.to(self.device)
        self.dit = dits.from_weights(*load(model, "dit")).to(self.device, self.dtype)
        self.vae = vaes.from_weights(*load(model, "vae")).to(self.device, self.dtype)
        self.codec = Codec(self.vae, self.device, self.dtype)

    def start(self, shot: Shot, known: Sequence[Known] = (), span: geometry.Span | None = None) -> "Run":
        """Plan a shot around what is known; nothing expensive but encoding that happens before `denoise`.

        `span` says how much context lies around the frames shown; without it there is only what brings
        pictures and clips onto key frames."""
        if span is None:
            span = geometry.span_for(shot.frames, [(k.at, len(k.images)) for k in known if k.images is not None])
        return Run(self, shot, tuple(known), span)

    @torch.inference_mode()
    def read(self, caption: str) -> Tensor:
        """A caption -> text features [1, L, D]; "" is the absence of text."""
        features = self.tower(self.tokenizer.encode([caption]).to(self.device))[0]
        return features if caption else torch.zeros_like(features)


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
        shot = self.shot
        self.canvas = geometry.canvas(shot.width, shot.height)
        texts = (shot.prompt, *(cue.prompt for cue in shot.cues))
        self.prompts = [expand(text) if text.strip() else None for text in texts]
        self.notes += list(self.describe())
        self.timeline = self.empty_timeline()
        for piece in self.known:
            with self.clocked("known"):
                self.timeline = self.place(piece)
        self.windows = plan_of(shot, self.latents_in_all, self.timeline.done())

    def empty_timeline(self) -> Timeline:
        config = self.engine.vae.config
        cells = (geometry.divide(n, geometry.SPACE_STRIDE) for n in (self.canvas.height, self.canvas.width))
        return Timeline.empty((config.space, config.time), self.latents_in_all, *cells)

    @property
    def latents_in_all(self) -> int:
        if self.shot.loop:
            return geometry.divide(self.shot.frames, geometry.TIME_STRIDE, "a loop's number of frames")
        return self.span.latents

    def describe(self) -> Iterator[str]:
        """What the user should know before the work begins, a line each."""
        prompts = [prompt for prompt in self.prompts if prompt]
        if unknown := sorted({word for prompt in prompts for word in prompt.unknown}):
            yield (f"pocket does not know: {', '.join(unknown)} "
                   "(its world: `sora-cli world --help`; a larger model knows more: --model)")  # fmt: skip
        if left_out := sorted({word for prompt in prompts for word in prompt.left_out}):
            yield f"a scene holds two subjects; left out: {', '.join(left_out)}"
        for prompt in prompts:
            yield f'caption: "{prompt.caption}"'
        c, shot = self.canvas, self.shot
        yield (f"canvas {c.width}x{c.height}, cropped to {c.crop_width}x{c.crop_height}, "
               f"scaled to {shot.width}x{shot.height}")  # fmt: skip

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

    def encode(self, images: np.ndarray) -> Tensor:
        """1 + 4n pictures, uint8 [1 + 4n, h, w, 3] -> latents [C, 1 + n, h, w]."""
        return torch.cat(list(self.engine.codec.encode(images, self.canvas)), 1)

    @property
    def source_size(self) -> tuple[int, int]:
        """(width, height) of the frames that `frames` yields; the writer scales them to the shot's size."""
        return self.canvas.crop_width, self.canvas.crop_height

    @torch.inference_mode()
    def denoise(self, store: Store | None = None) -> Iterator[Progress]:
        """Make the latents [C, T, h, w], window by window; yields after every solver step. Windows that the
        store holds are taken from it, new ones are put there."""
        with self.clocked("text"):
            text = self.read()
        rng = torch.Generator().manual_seed(self.shot.seed)
        x, known = torch.randn(self.timeline.latents.shape, generator=rng), self.timeline.known.clone()
        x = torch.lerp(x, self.timeline.latents, self.timeline.mask())  # noise, but for what is known
        self.latents = x
        finished = store.finished() if store else iter(())
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
        solver = self.solve(self.windows[number], x, known, text)
        for step in range(1, steps + 1):
            with self.clocked("dit"):
                made = next(solver)
            if step < steps:
                yield Progress("denoise", number * steps + step, total)
        made = made.float().cpu()
        if not made.isfinite().all():
            raise Failed("the latents are not finite; try --dtype float32, or verify the weights")
        return made

    def read(self) -> Tensor:
        """Text features [prompts (+ 1), L, D]; the last row is what not to show, if there is guidance."""
        told = [self.engine.read(prompt.caption if prompt else "") for prompt in self.prompts]
        guided = self.shot.guidance != 1 and (any(self.prompts) or self.shot.negative)
        return torch.cat([*told, self.engine.read(self.shot.negative)] if guided else told)

    def solve(self, window: planner.Window, x: Tensor, known: Tensor, text: Tensor) -> Iterator[Tensor]:
        """The flow of one window from noise to latents [C, t, h, w]; what is known stays as it is."""
        total, device = x.shape[1], self.engine.device
        index = [frame % total for frame in window.frames]
        keep = spread(known[:, index], self.timeline.parts).to(device)
        start = x[:, index].to(device)
        velocity = Velocity(self, text, known[:, index], self.seconds(window), self.told(index), keep)
        times = flow.schedule(self.shot.steps, flow.shift_for(start.shape[-1] * start.shape[-2] // 4))
        around = self.shot.loop and not window.observed
        return euler(rolling(velocity) if around else velocity, start, times.to(device))

    def seconds(self, window: planner.Window) -> Tensor:
        """The times of a window's frames. A loop has no first frame: its times start a chunk (or a turn) late."""
        frames = torch.tensor(window.frames)
        if self.shot.loop:
            frames = frames + 1 + (self.latents_in_all if window.frames[0] < 0 else 0)
        return frames * geometry.TIME_STRIDE / self.shot.fps

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
        videos = self.engine.vae.stream(self.latents[None], DECODED, cyclic=self.shot.loop)
        left = self.span.lead + self.shot.frames
        while left > 0:
            with self.clocked("decode"):
                images = pictures_of(next(videos)[0, :, :left], self.canvas)
            left -= len(images)
            yield from images

    def still(self, frame: int) -> np.ndarray:
        """What the decoder makes of a known key frame, [h, w, 3]; it needs no other latents."""
        latent, _ = geometry.snap(self.span.lead + frame)
        return self.key_frames(self.timeline.latents, [latent])[0]

    def glance(self, most: int = 8) -> list[np.ndarray]:
        """Some of the key frames that exist already, spread over the video: how it takes shape."""
        assert self.latents is not None
        return self.key_frames(self.latents, planner.spread(self.done, most))

    @torch.inference_mode()
    def key_frames(self, latents: Tensor, index: list[int]) -> list[np.ndarray]:
        """Single key frames of latents [C, T, h, w], uint8 [h, w, 3] each; they need no others."""
        chosen = rearrange(latents[:, index], "C n h w -> n C 1 h w").to(self.engine.device, self.engine.dtype)
        return [pictures_of(self.engine.vae.decode(one[None])[0], self.canvas)[0] for one in chosen]

    def identity(self) -> str:
        """All that determines the latents, as JSON: going on with anything else would mix two videos."""
        known = hashlib.sha256(self.timeline.latents.contiguous().numpy().data)
        known.update(self.timeline.known.contiguous().numpy().data)
        files = {file.path.name: file.sha256 for file in registry.entry(self.shot.model).files}
        return json.dumps({
            "shot": self.shot.to_dict(), "span": asdict(self.span), "known": known.hexdigest(), "weights": files,
            "dtype": str(self.engine.dtype), "device": self.engine.device.type,
        })  # fmt: skip

    @contextmanager
    def clocked(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `timings`."""
        began = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began


def plan_of(shot: Shot, latents: int, known: frozenset[int] = frozenset()) -> list[planner.Window]:
    """The windows that a shot is made in, of which some latent frames are known."""
    if shot.loop:
        return planner.circle(latents, WINDOW, STEP)
    return planner.plan(latents, shot.plan, known, WINDOW, STEP)


def rolling(velocity: "Velocity") -> "SolverField":
    """A velocity field for a loop: at every call another frame is the first (Mobius, Bi et al. 2025)."""
    shift = count()

    def rolled(x: Tensor, t: Tensor) -> Tensor:
        by = next(shift)
        return velocity(x.roll(-by, 1), t).roll(by, 1)

    return rolled


class Velocity:
    """The guided velocity field of one window, for the sampler: (x, t) -> dx/dt, zero where known."""

    def __init__(self, run: Run, text: Tensor, known: Tensor, seconds: Tensor, told: Tensor, keep: Tensor) -> None:
        self.run, self.text, self.keep = run, text, keep
        device = run.engine.device
        self.copies = 1 + len(text) - len(run.prompts)  # with and without the prompt
        self.known = known.T.to(device)  # (T, 2)
        self.seconds = seconds.to(device)
        self.told = torch.cat([told, torch.full_like(told, len(text) - 1)][: self.copies]).to(device)
        self.fixed = self.known.amin(1)  # (T) 1 where nothing is to be made

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        engine, copies = self.run.engine, self.copies
        grid = Grid(x.shape[1], x.shape[2] // 2, x.shape[3] // 2)
        one = torch.ones(copies, device=x.device)
        given = dits.Conditions(
            t=(t * (1 - self.fixed)).repeat(copies), known=self.known.repeat(copies, 1),
            seconds=self.seconds.repeat(copies), order=(1 - self.fixed).long().repeat(copies),
            text=self.text, guidance=one, step=0 * one, told=self.told,
        )  # fmt: skip
        patches = patchify([x] * copies).to(engine.dtype)
        made = engine.dit(patches, (grid,) * copies, given).float()
        told, *untold = unpatchify(made, (grid,) * copies)
        clean = untold[0] + self.run.shot.guidance * (told - untold[0]) if untold else told
        self.run.flops += 2 * weights_of(engine.dit) * tokens_of(grid, engine.dit.config.conditions) * copies
        return flow.velocity(x, clean, t) * (1 - self.keep)


def weights_of(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def tokens_of(grid: Grid, conditions: int) -> int:
    return grid.frames * (grid.height * grid.width + conditions)
