"""The velocity of one window by Wan's transformers: what they are shown at every noise level, and their guidance.

What is given is shown in one of three ways, as a network was trained, or can bear. Networks with a timestep for every
frame see it clean, or with a little noise, at that timestep. Networks with one timestep for all see it with as much
noise as the rest (Ho et al. 2022, Video Diffusion Models: the replacement method). Networks that are conditioned see
it in channels of their own, beside the noise, and make everything.
"""

from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor

from sora_cli.geometry import TIME_STRIDE
from sora_cli.pipelines import WindowInputs, copies_of
from sora_cli.registry import Entry
from sora_cli.sampling.solvers import TRAINED, timestep_of

STEADY = 1.0  # guidance that changes nothing


class Experts(Protocol):
    """The transformers of a pipeline: which of them a noise level belongs to, and it, loaded."""

    entry: Entry
    device: torch.device
    dtype: torch.dtype

    def expert(self, sigma: Tensor) -> str: ...

    def use(self, role: str) -> Any: ...


class Guided:
    """The guided velocity of one window, noise minus data. With guidance a transformer is asked twice, one after the
    other: together they would need twice the memory for hardly less time."""

    def __init__(self, pipeline: Experts, inputs: WindowInputs, text: Tensor) -> None:
        self.pipeline, self.inputs, self.usage = pipeline, inputs, pipeline.entry.usage
        middle = len(inputs.frames) // 2  # one text holds for a window: that of its middle
        prompt = text[int(inputs.prompt_index[middle])][None]
        self.texts = [prompt, text[-1:]][: copies_of(inputs, text)]
        first, behind = inputs.frames[0], [frame + 1 for frame in inputs.end_frames]
        self.positions = torch.tensor([frame - first for frame in (*inputs.frames, *behind)])
        end_frames = [rearrange(image, "C h w -> C 1 h w") for image in inputs.end_frames.values()]
        self.end_frames = torch.cat(end_frames, 1).to(pipeline.device) if end_frames else None
        self.clean = noised(inputs, self.usage.known_noise)
        if inputs.condition is not None:
            self.condition = inputs.condition.to(pipeline.device)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        pipeline, fps = self.pipeline, self.inputs.shot.fps
        given = self.seen(x, sigma)[None].to(pipeline.dtype)
        role, t = pipeline.expert(sigma), self.times(sigma)
        dit, strength = pipeline.use(role), self.inputs.shot.guidances[role == "dit_low"]
        texts = self.texts if strength != STEADY else self.texts[:1]
        cond, *uncond = (dit(given, t, text, fps, self.positions)[0, :, : x.shape[1]].float() for text in texts)
        return uncond[0] + strength * (cond - uncond[0]) if uncond else cond

    def seen(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What a transformer is shown: [C, T + end_frames, h, w], or [C + 4 + C, T, h, w] if it is conditioned."""
        if self.inputs.condition is not None:
            return torch.cat([x, self.condition.to(x)])
        clean, end_frames = self.clean, self.end_frames
        if follows(self.usage.known_noise):
            clean = torch.lerp(clean, self.inputs.noise.to(clean), float(sigma))
            if end_frames is not None:
                end_frames = torch.lerp(end_frames, afresh(self.inputs, end_frames), float(sigma))
        given = torch.where(is_context(self.inputs), clean, x)
        return given if end_frames is None else torch.cat([given, end_frames.to(given)], 1)

    def times(self, sigma: Tensor) -> Tensor:
        """The timestep of every slot [1, T + end_frames]."""
        t = timestep_of(self.usage.solver, sigma).to(self.pipeline.device)
        frames, end_frames = len(self.inputs.frames), len(self.inputs.end_frames)
        if self.inputs.condition is not None or follows(self.usage.known_noise):
            return t.expand(1, frames + end_frames)
        context = torch.tensor(self.usage.known_noise, device=t.device)
        return torch.cat([torch.where(self.inputs.cond_mask[0] > 0, context, t), t.new_zeros(end_frames)])[None]


def follows(known_noise: int) -> bool:
    """Whether what is given is shown with as much noise as the rest."""
    return known_noise >= TRAINED


def is_context(inputs: WindowInputs) -> Tensor:
    """Which latents of a window are given, bool [1, T, 1, 1]."""
    return rearrange(inputs.cond_mask[0] > 0, "T -> 1 T 1 1")


def noised(inputs: WindowInputs, timestep: int) -> Tensor:
    """The window with a little noise over what is given, as a network was trained to go on from it."""
    if not timestep or follows(timestep):
        return inputs.x
    return torch.lerp(inputs.x, afresh(inputs, inputs.x), timestep / TRAINED)


def afresh(inputs: WindowInputs, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=generator(inputs)).to(like)


def generator(inputs: WindowInputs) -> torch.Generator:
    """Noise of a window's own, so that windows that are taken from the disk leave that of the others alone."""
    return torch.Generator().manual_seed((inputs.shot.seed + 1_000_003 * (1 + inputs.frames[-1])) % 2**63)


def mask(given: list[bool]) -> Tensor:
    """Which of 1 + 4n frames are given -> [4, 1 + n, 1, 1], 1 = given: the first frame in all channels of the first
    latent, and in those of latent k the frames from 4k - 3 to 4k (Wan2.2, wan/image2video.py)."""
    frames = torch.tensor([given[0]] * (TIME_STRIDE - 1) + given, dtype=torch.float32)
    return rearrange(frames, "(T c) -> c T 1 1", c=TIME_STRIDE)
