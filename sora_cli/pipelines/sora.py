"""The pipeline of our own architecture: CLIP text tower, Video DiT, TECO autoencoder."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli import registry
from sora_cli.errors import no_op
from sora_cli.geometry import Canvas
from sora_cli.models.sora import dit as dits
from sora_cli.models.sora import text as texts
from sora_cli.models.sora import vae as vaes
from sora_cli.models.sora.patches import grid_of, patchify, unpatchify
from sora_cli.pipelines import Velocity, WindowInputs, copies_of, prompt_notes
from sora_cli.pipelines.codec import Codec, pictures_of
from sora_cli.pipelines.stages import Notify, Stages
from sora_cli.placement.device import keep_freed, pick_device, pick_dtype
from sora_cli.registry import Entry
from sora_cli.registry.lora import merged
from sora_cli.sampling import flow
from sora_cli.sampling.conditioning import expand_mask
from sora_cli.sampling.solvers import euler
from sora_cli.shot import Lora, Shot


class Sora:
    """The networks of one checkpoint on one device, loaded at once: they are small."""

    memory = "auto"
    ahead: Sequence[str] = ()

    def __init__(self, entry: Entry, device: str = "auto", dtype: str = "auto", loras: Sequence[Lora] = ()) -> None:
        self.entry = entry
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        keep_freed()
        load = registry.load_model_files
        self.tokenizer, tower = texts.from_weights(*load(entry, "text"))
        self.tower = tower.to(self.device)
        tensors, header = load(entry, "dit")
        self.distilled = "distilled" in header
        self.dit = dits.from_weights(merged(tensors, loras), header).to(self.device, self.dtype)
        self.vae = vaes.from_weights(*load(entry, "vae")).to(self.device, self.dtype)
        self.codec = Codec(self.vae, self.device, self.dtype)

    @property
    def latent_split(self) -> tuple[int, int]:
        return self.vae.config.space, self.vae.config.time

    def condition(self, pictures: Sequence[np.ndarray | None], canvas: Canvas) -> None:
        return None

    def on_device(self, canvas: Canvas, window: int, latents: int, notify: Notify = no_op,
                  encodes: bool = True) -> Stages:  # fmt: skip
        return Stages()

    def notes(self, shot: Shot) -> Iterator[str]:
        yield from prompt_notes.by_ours(self.entry, shot, self.tokenizer)

    def read(self, prompts: Sequence[str], negative: str | None) -> Tensor:
        texts = [prompt if prompt.strip() else "" for prompt in prompts]
        if negative or (negative is not None and not self.distilled):  # distilled weights know what guidance does
            texts.append(negative)
        return torch.cat([self.features(text) for text in texts])

    def features(self, caption: str) -> Tensor:
        """A caption -> text features [1, L, D]; "" is the absence of text."""
        features = self.tower(self.tokenizer.encode([caption]).to(self.device))[0]
        return features if caption else torch.zeros_like(features)

    def velocity(self, inputs: WindowInputs, text: Tensor) -> Velocity:
        return Guided(self, inputs, text)

    def sample(self, velocity: Velocity, inputs: WindowInputs) -> Iterator[Tensor]:
        return euler(velocity, inputs.x, times_of(inputs))

    def work(self, inputs: WindowInputs, text: Tensor) -> float:
        grid = grid_of(inputs.x)
        tokens = grid.frames * (grid.height * grid.width + self.dit.config.conditions)
        return 2 * sum(p.numel() for p in self.dit.parameters()) * tokens * copies_of(inputs, text)

    def sketches(self, latents: Tensor, canvas: Canvas) -> Iterator[np.ndarray]:
        alone = rearrange(latents, "C n h w -> n C 1 h w").to(self.device, self.dtype)
        yield from (pictures_of(video, canvas)[0] for video in self.vae.decode(alone))

    def identity(self) -> Mapping[str, str]:
        return {file.path.name: file.sha256 for file in self.entry.files}


def times_of(inputs: WindowInputs) -> Tensor:
    """The noise levels that the solver passes through, from 1 to 0."""
    x = inputs.x
    return flow.schedule(inputs.shot.steps, flow.shift_for(x.shape[-1] * x.shape[-2] // 4)).to(x.device)


class Guided:
    """The guided velocity field of one window, for the sampler: zero where given."""

    def __init__(self, pipeline: Sora, inputs: WindowInputs, text: Tensor) -> None:
        self.pipeline, self.inputs, self.text = pipeline, inputs, text
        self.copies = copies_of(inputs, text)  # with and without the prompt
        uncond = torch.full_like(inputs.prompt_index, len(text) - 1)
        self.prompt_index = torch.cat([inputs.prompt_index, uncond][: self.copies])
        self.is_context = inputs.cond_mask.amin(0)  # (T) 1 where nothing is to be made
        self.channel_mask = expand_mask(inputs.cond_mask, pipeline.latent_split)
        self.baked = pipeline.distilled and self.copies == 1
        self.times = times_of(inputs)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        pipeline, copies, grid = self.pipeline, self.copies, grid_of(x)
        one = torch.ones(copies, device=x.device)
        guidance, step = (self.inputs.shot.guidance, self.step(t)) if self.baked else (1.0, 0.0)
        given = dits.Conditions(
            t=(t * (1 - self.is_context)).repeat(copies), cond_mask=self.inputs.cond_mask.T.repeat(copies, 1),
            seconds=self.inputs.seconds.repeat(copies), order=(1 - self.is_context).long().repeat(copies),
            text=self.text, guidance=guidance * one, step=step * one, prompt_index=self.prompt_index,
        )  # fmt: skip
        patches = patchify([x] * copies).to(pipeline.dtype)
        made = pipeline.dit(patches, (grid,) * copies, given).float()
        cond, *uncond = unpatchify(made, (grid,) * copies)
        clean = uncond[0] + self.inputs.shot.guidance * (cond - uncond[0]) if uncond else cond
        return flow.velocity(x, clean, t) * (1 - self.channel_mask)

    def step(self, t: Tensor) -> Tensor:
        """How far the solver goes from here."""
        now = int((self.times - t).abs().argmin())
        return self.times[now] - self.times[now + 1]
