"""The velocity of one window by Wan's transformers: what they are shown at every noise level, and their guidance.

What is known is shown in one of three ways, as a network was trained, or can bear. Networks with a timestep for every
frame see it clean, or with a little noise, and are told so. Networks with one timestep for all see it with as much
noise as the rest (Ho et al. 2022, Video Diffusion Models: the replacement method). Networks that are conditioned see
it in channels of their own, beside the noise, and make everything.
"""

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from sora_cli.geometry import TIME_STRIDE
from sora_cli.pipelines import Job, copies_of
from sora_cli.sampling.solvers import TRAINED, told_time

if TYPE_CHECKING:
    from sora_cli.pipelines.wan import Wan

STEADY = 1.0  # guidance that changes nothing


class Guided:
    """The guided velocity of one window, noise minus data. With guidance a transformer is asked twice, one after the
    other: together they would need twice the memory for hardly less time."""

    def __init__(self, pipeline: "Wan", job: Job, text: Tensor) -> None:
        self.pipeline, self.job, self.usage = pipeline, job, pipeline.entry.usage
        prompt = text[int(job.told[len(job.told) // 2])][None]  # one text holds for a window: that of its middle
        self.texts = [prompt, text[-1:]][: copies_of(job, text)]
        first, behind = job.frames[0], [frame + 1 for frame in job.stills]
        self.places = torch.tensor([place - first for place in (*job.frames, *behind)])
        stills = [rearrange(still, "C h w -> C 1 h w") for still in job.stills.values()]
        self.stills = torch.cat(stills, 1).to(pipeline.device) if stills else None
        self.clean = noised(job, self.usage.known_noise)
        if job.condition is not None:
            self.condition = job.condition.to(pipeline.device)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        pipeline, fps = self.pipeline, self.job.shot.fps
        given = self.seen(x, sigma)[None].to(pipeline.dtype)
        role, t = pipeline.expert(sigma), self.times(sigma)
        dit, strength = pipeline.use(role), guidance_of(self.job, role)
        texts = self.texts if strength != STEADY else self.texts[:1]
        told = [dit(given, t, text, fps, self.places)[0, :, : x.shape[1]].float() for text in texts]
        return told[0] if len(told) == 1 else told[1] + strength * (told[0] - told[1])

    def seen(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What a transformer is shown: [C, T + stills, h, w], or [C + 4 + C, T, h, w] if it is conditioned."""
        if self.job.condition is not None:
            return torch.cat([x, self.condition.to(x)])
        clean, stills = self.clean, self.stills
        if follows(self.usage.known_noise):
            assert self.job.noise is not None
            clean = torch.lerp(clean, self.job.noise.to(clean), float(sigma))
            stills = stills if stills is None else torch.lerp(stills, afresh(self.job, stills), float(sigma))
        given = torch.where(fixed(self.job), clean, x)
        return given if stills is None else torch.cat([given, stills.to(given)], 1)

    def times(self, sigma: Tensor) -> Tensor:
        """The timestep of every slot [1, T + stills]."""
        t = told_time(self.usage.solver, sigma).to(self.pipeline.device)
        frames, stills = len(self.job.frames), len(self.job.stills)
        if self.job.condition is not None or follows(self.usage.known_noise):
            return t.expand(1, frames + stills)
        known = torch.tensor(self.usage.known_noise, device=t.device)
        return torch.cat([torch.where(self.job.known[0] > 0, known, t), t.new_zeros(stills)])[None]


def guidance_of(job: Job, role: str) -> float:
    """That of one of the transformers."""
    return job.shot.guidances[role == "dit_low"]


def follows(known_noise: int) -> bool:
    """Whether what is known is shown with as much noise as the rest."""
    return known_noise >= TRAINED


def fixed(job: Job) -> Tensor:
    """Which latents of a window are known, bool [1, T, 1, 1]."""
    return rearrange(job.known[0] > 0, "T -> 1 T 1 1")


def noised(job: Job, timestep: int) -> Tensor:
    """The window with a little noise over what is known, as a network was trained to go on from it."""
    if not timestep or follows(timestep):
        return job.x
    return torch.lerp(job.x, afresh(job, job.x), timestep / TRAINED)


def afresh(job: Job, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=generator(job)).to(like)


def generator(job: Job) -> torch.Generator:
    """Noise of a window's own, so that windows that are taken from the disk leave that of the others alone."""
    return torch.Generator().manual_seed((job.shot.seed + 1_000_003 * (1 + job.frames[-1])) % 2**63)


def mask(given: list[bool]) -> Tensor:
    """Which of 1 + 4n frames are given -> [4, 1 + n, 1, 1], 1 = given: the first frame in all channels of the first
    latent, and in those of latent k the frames from 4k - 3 to 4k (Wan2.2, wan/image2video.py)."""
    frames = torch.tensor([given[0]] * (TIME_STRIDE - 1) + given, dtype=torch.float32)
    return rearrange(frames, "(T c) -> c T 1 1", c=TIME_STRIDE)
