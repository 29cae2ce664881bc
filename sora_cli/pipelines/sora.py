"""The pipeline of our own architecture: CLIP text tower, Video DiT, TECO autoencoder."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sora_cli import registry
from sora_cli.geometry import Canvas
from sora_cli.models.sora import dit as dits
from sora_cli.models.sora import text as texts
from sora_cli.models.sora import vae as vaes
from sora_cli.models.sora.patches import Grid, patchify, unpatchify
from sora_cli.pipelines import Job, Velocity, copies_of
from sora_cli.pipelines.codec import Codec
from sora_cli.pipelines.stages import Stages, Tell, silent
from sora_cli.placement.device import pick_device, pick_dtype
from sora_cli.prompts.grammar import captions_of
from sora_cli.prompts.grammar import notes as misread
from sora_cli.registry.lora import merged
from sora_cli.sampling import flow
from sora_cli.sampling.conditioning import spread
from sora_cli.sampling.solvers import euler
from sora_cli.shot import Lora, Shot


class Sora:
    """The networks of one checkpoint on one device, loaded at once: they are small."""

    sees_while_it_works = True
    memory = "auto"

    def __init__(self, model: str = "pocket", device: str = "auto", dtype: str = "auto",
                 loras: Sequence[Lora] = ()) -> None:  # fmt: skip
        self.entry = registry.entry(model)
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        load = registry.load_model_files
        self.tokenizer, tower = texts.from_weights(*load(model, "text"))
        self.tower = tower.to(self.device)
        tensors, header = load(model, "dit")
        self.distilled = "distilled" in header
        self.dit = dits.from_weights(merged(tensors, loras), header).to(self.device, self.dtype)
        self.vae = vaes.from_weights(*load(model, "vae")).to(self.device, self.dtype)
        self.codec = Codec(self.vae, self.device, self.dtype)

    @property
    def parts(self) -> tuple[int, int]:
        return self.vae.config.space, self.vae.config.time

    def on_device(self, canvas: Canvas, window: int, latents: int, tell: Tell = silent) -> Stages:
        return Stages()

    def notes(self, shot: Shot) -> Iterator[str]:
        grammar = self.entry.usage.grammar
        both = dict(zip(shot.prompts, captions_of(shot, grammar), strict=True))
        as_typed = [prompt for prompt, caption in both.items() if prompt == caption]
        raw = (word for text in (*as_typed, shot.negative) for word in self.tokenizer.unknown(text))
        yield from misread(self.entry.name, shot, grammar, raw)
        for text in (*both.values(), shot.negative):
            if (count := len(texts.words(text))) > self.tokenizer.most:
                yield f'{self.entry.name} reads the first {self.tokenizer.most} of {count} words of "{text[:40]}..."'

    def read(self, prompts: Sequence[str], negative: str | None) -> Tensor:
        texts = [prompt if prompt.strip() else "" for prompt in prompts]
        if negative or (negative is not None and not self.distilled):  # distilled weights know what guidance does
            texts.append(negative)
        return torch.cat([self.features(text) for text in texts])

    def features(self, caption: str) -> Tensor:
        """A caption -> text features [1, L, D]; "" is the absence of text."""
        features = self.tower(self.tokenizer.encode([caption]).to(self.device))[0]
        return features if caption else torch.zeros_like(features)

    def velocity(self, job: Job, text: Tensor) -> Velocity:
        return Guided(self, job, text)

    def sample(self, velocity: Velocity, job: Job) -> Iterator[Tensor]:
        return euler(velocity, job.x, times_of(job))

    def work(self, job: Job, text: Tensor) -> float:
        tokens = grid_of(job.x).frames * (grid_of(job.x).height * grid_of(job.x).width + self.dit.config.conditions)
        return 2 * sum(p.numel() for p in self.dit.parameters()) * tokens * copies_of(job, text)

    def identity(self) -> Mapping[str, str]:
        return {file.path.name: file.sha256 for file in self.entry.files}


def times_of(job: Job) -> Tensor:
    """The noise levels that the solver passes through, from 1 to 0."""
    return flow.schedule(job.shot.steps, flow.shift_for(job.x.shape[-1] * job.x.shape[-2] // 4)).to(job.x.device)


class Guided:
    """The guided velocity field of one window, for the sampler: zero where known."""

    def __init__(self, pipeline: Sora, job: Job, text: Tensor) -> None:
        self.pipeline, self.job, self.text = pipeline, job, text
        self.copies = copies_of(job, text)  # with and without the prompt
        untold = torch.full_like(job.told, len(text) - 1)
        self.told = torch.cat([job.told, untold][: self.copies])
        self.fixed = job.known.amin(0)  # (T) 1 where nothing is to be made
        self.keep = spread(job.known, pipeline.parts)
        self.baked = pipeline.distilled and self.copies == 1
        self.times = times_of(job)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        pipeline, copies, grid = self.pipeline, self.copies, grid_of(x)
        one = torch.ones(copies, device=x.device)
        guidance, step = (self.job.shot.guidance, self.step(t)) if self.baked else (1.0, 0.0)
        given = dits.Conditions(
            t=(t * (1 - self.fixed)).repeat(copies), known=self.job.known.T.repeat(copies, 1),
            seconds=self.job.seconds.repeat(copies), order=(1 - self.fixed).long().repeat(copies),
            text=self.text, guidance=guidance * one, step=step * one, told=self.told,
        )  # fmt: skip
        patches = patchify([x] * copies).to(pipeline.dtype)
        made = pipeline.dit(patches, (grid,) * copies, given).float()
        told, *untold = unpatchify(made, (grid,) * copies)
        clean = untold[0] + self.job.shot.guidance * (told - untold[0]) if untold else told
        return flow.velocity(x, clean, t) * (1 - self.keep)

    def step(self, t: Tensor) -> Tensor:
        """How far the solver goes from here."""
        now = int((self.times - t).abs().argmin())
        return self.times[now] - self.times[now + 1]


def grid_of(x: Tensor) -> Grid:
    return Grid(x.shape[1], x.shape[2] // 2, x.shape[3] // 2)
