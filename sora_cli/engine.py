"""The story: a shot goes in, latents come into being window by window, frames come out.

    engine = Engine("pocket")
    run = engine.start(shot)
    for progress in run.denoise(): ...
    for frame in run.frames(): ...

The engine prints nothing and calls nobody back; whoever runs the generators owns progress and cancelling.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli import flow, geometry, planner, weights
from sora_cli.device import pick_device, pick_dtype
from sora_cli.errors import Failed
from sora_cli.expand import expand
from sora_cli.models.sora import dit as dits
from sora_cli.models.sora import text as texts
from sora_cli.models.sora import vae as vaes
from sora_cli.models.sora.patches import Grid, patchify, unpatchify
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


class Engine:
    """The models of one checkpoint on one device. Weights are verified when they are loaded."""

    def __init__(self, model: str = "pocket", device: str = "auto", dtype: str = "auto") -> None:
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        load = weights.load_model_files
        self.tokenizer, tower = texts.from_weights(*load(model, "text"))
        self.tower = tower.to(self.device)
        self.dit = dits.from_weights(*load(model, "dit")).to(self.device, self.dtype)
        self.vae = vaes.from_weights(*load(model, "vae")).to(self.device, self.dtype)

    def start(self, shot: Shot) -> "Run":
        """Plan a shot; nothing expensive happens before `denoise`."""
        return Run(self, shot)

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
    notes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    latents: Tensor | None = None

    def __post_init__(self) -> None:
        shot = self.shot
        self.canvas = geometry.canvas(shot.width, shot.height)
        self.expansion = expand(shot.prompt)
        self.timeline = self.empty_timeline()
        total = self.timeline.latents.shape[1]
        self.windows = planner.plan(total, shot.plan, self.timeline.done(), WINDOW, STEP)
        self.notes += list(self.describe())

    def empty_timeline(self) -> Timeline:
        config = self.engine.vae.config
        cells = (geometry.divide(n, geometry.SPACE_STRIDE) for n in (self.canvas.height, self.canvas.width))
        return Timeline.empty((config.space, config.time), geometry.latents_for(self.shot.frames), *cells)

    def describe(self) -> Iterator[str]:
        """What the user should know before the work begins, a line each."""
        if self.expansion.unknown:
            yield (f"pocket does not know: {', '.join(self.expansion.unknown)} "
                   "(its world: `sora-cli world --help`; a larger model knows more: --model)")  # fmt: skip
        if self.expansion.left_out:
            yield f"a scene holds two subjects; left out: {', '.join(self.expansion.left_out)}"
        yield f'caption: "{self.expansion.caption}"'
        c, shot = self.canvas, self.shot
        yield (f"canvas {c.width}x{c.height}, cropped to {c.crop_width}x{c.crop_height}, "
               f"scaled to {shot.width}x{shot.height}")  # fmt: skip

    @property
    def source_size(self) -> tuple[int, int]:
        """(width, height) of the frames that `frames` yields; the writer scales them to the shot's size."""
        return self.canvas.crop_width, self.canvas.crop_height

    @torch.inference_mode()
    def denoise(self) -> Iterator[Progress]:
        """Make the latents [C, T, h, w], window by window; yields after every solver step."""
        with self.clocked("text"):
            told = self.engine.read(self.expansion.caption)
            untold = self.engine.read(self.shot.negative)
            text = torch.cat([told, untold] if self.shot.guidance != 1 else [told])
        rng = torch.Generator().manual_seed(self.shot.seed)
        x, known = torch.randn(self.timeline.latents.shape, generator=rng), self.timeline.known.clone()
        x = torch.lerp(x, self.timeline.latents, self.timeline.mask())  # noise, but for what is known
        steps, total = self.shot.steps, self.shot.steps * len(self.windows)
        for number, window in enumerate(self.windows):
            solver = self.solve(window, x, known, text)
            for step in range(steps):
                with self.clocked("dit"):
                    made = next(solver)
                yield Progress("denoise", number * steps + step + 1, total)
            index = list(window.frames)
            x[:, index] = made.float().cpu()
            known[:, index] = 1
        if not x.isfinite().all():
            raise Failed("the latents are not finite; try --dtype float32, or verify the weights")
        self.latents = x

    def solve(self, window: planner.Window, x: Tensor, known: Tensor, text: Tensor) -> Iterator[Tensor]:
        """The flow of one window from noise to latents [C, t, h, w]; what is known stays as it is."""
        index = list(window.frames)
        given = known[:, index]
        keep = spread(given, self.timeline.parts).to(self.engine.device)
        start = x[:, index].to(self.engine.device)
        seconds = torch.tensor(index) * geometry.TIME_STRIDE / self.shot.fps
        velocity = Velocity(self, text, given, seconds, keep)
        times = flow.schedule(self.shot.steps, flow.shift_for(start.shape[-1] * start.shape[-2] // 4))
        return euler(velocity, start, times.to(start.device))

    @torch.inference_mode()
    def frames(self) -> Iterator[np.ndarray]:
        """Decoded frames, uint8 [h, w, 3], cropped to the asked aspect; a few latents are in memory at a time."""
        assert self.latents is not None, "denoise first"
        c, left = self.canvas, self.shot.frames
        latents = self.latents[None].to(self.engine.device, self.engine.dtype)
        pieces = self.engine.vae.stream(latents, DECODED)
        while left > 0:
            with self.clocked("decode"):
                video = next(pieces)[0, :, :left]
                video = video[:, :, c.top : c.top + c.crop_height, c.left : c.left + c.crop_width]
                pixels = ((video.float() + 1) * 127.5).round().to(torch.uint8)
                images = rearrange(pixels, "C T H W -> T H W C").contiguous().cpu().numpy()
            left -= len(images)
            yield from images

    @contextmanager
    def clocked(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `timings`."""
        began = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began


class Velocity:
    """The guided velocity field of one window, for the sampler: (x, t) -> dx/dt, zero where known."""

    def __init__(self, run: Run, text: Tensor, known: Tensor, seconds: Tensor, keep: Tensor) -> None:
        self.run, self.text, self.keep = run, text, keep
        device = run.engine.device
        self.known = known.T.to(device)  # (T, 2)
        self.seconds = seconds.to(device)
        self.fixed = self.known.amin(1)  # (T) 1 where nothing is to be made

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        engine, copies = self.run.engine, len(self.text)
        grid = Grid(x.shape[1], x.shape[2] // 2, x.shape[3] // 2)
        one = torch.ones(copies, device=x.device)
        given = dits.Conditions(
            t=(t * (1 - self.fixed)).repeat(copies), known=self.known.repeat(copies, 1),
            seconds=self.seconds.repeat(copies), order=(1 - self.fixed).long().repeat(copies),
            text=self.text, guidance=one, step=0 * one,
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
