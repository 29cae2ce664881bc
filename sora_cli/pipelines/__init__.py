"""What the engine asks of an architecture: words to features, pictures to latents and back, the flow of a window.

Letters: C channels of a latent, T latent frames of a window, h w cells, P prompts, L text tokens, D their width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sora_cli import geometry, registry
from sora_cli.errors import no_op
from sora_cli.pipelines.codec import Codec
from sora_cli.pipelines.stages import Notify, Stages
from sora_cli.registry import Entry
from sora_cli.registry.lora import check_alone
from sora_cli.shot import Lora, Shot

Velocity = Callable[[Tensor, Tensor], Tensor]
FULL = "full"  # decoder, as against the tiny one
OnProgress = Callable[[str, int, int], None]  # called with what is read, how much of it, of how much


@dataclass(frozen=True)
class WindowInputs:
    """The inputs of one window, on the device of the network."""

    shot: Shot
    frames: tuple[int, ...]  # which latent frames; below 0 or past the end where a loop goes on
    x: Tensor  # [C, T, h, w] clean where given, noise elsewhere
    cond_mask: Tensor  # [2, T] 1 = given, the key frames and the motion that leads there
    prompt_index: Tensor  # [T] which prompt holds
    seconds: Tensor  # [T] the times of the frames
    end_frames: Mapping[int, Tensor]  # pictures [C, h, w] seen at the end of frames that are to be made
    noise: Tensor  # [C, T, h, w] of all frames, those given too
    condition: Tensor | None = None  # [D, T, h, w] what is given, for networks that see it in channels of their own
    redone: Tensor | None = None  # [T] bool: what is given, and made again with the rest all the same


def copies_of(inputs: WindowInputs, text: Tensor) -> int:
    """Calls of the transformer in a step: 2 with guidance, whose text has a row for what not to show, else 1."""
    return len(text) - len(inputs.shot.cues)


class Pipeline(Protocol):
    """The networks of one checkpoint on one device, and how they are called."""

    entry: Entry
    device: torch.device
    dtype: torch.dtype
    memory: str  # how much of it may be taken: auto, low or high
    ahead: Sequence[str]  # texts of later videos, to be read with the next one's where that costs a network its place

    @property
    def latent_split(self) -> tuple[int, int]:
        """Channels of a latent: those of its key frame, which a picture has too, and those of motion."""

    @property
    def codec(self) -> Codec: ...

    def condition(self, pictures: Sequence[np.ndarray | None], canvas: geometry.Canvas) -> Tensor | None:
        """The channels in which a network sees what is given, if it sees that in channels of its own: a window's 1 + 4n
        frames, uint8 [h, w, 3] or None -> [D, 1 + n, h, w] on the CPU."""

    def on_device(self, canvas: geometry.Canvas, window: int, latents: int, notify: Notify = no_op,
                  encodes: bool = True) -> Stages:  # fmt: skip
        """Decide where the networks go, for windows of so many latent frames (0 to encode and decode alone) in a
        video of so many, and whether pictures are encoded, too. `notify` is called when memory runs out and they go
        elsewhere."""

    def notes(self, shot: Shot) -> Iterator[str]:
        """What the user should know of how a shot is understood, a line each. SoraError if it cannot be made."""

    def read(self, prompts: Sequence[str], negative: str | None) -> Tensor:
        """Text features [P (+ 1), L, D] of captions; the last row is what not to show, if that is asked."""

    def velocity(self, inputs: WindowInputs, text: Tensor) -> Velocity:
        """The guided velocity field of a window: (x, noise level) -> dx / dt, [C, T, h, w]."""

    def sample(self, velocity: Velocity, inputs: WindowInputs) -> Iterator[Tensor]:
        """The window's latents [C, T, h, w] after every step of the solver."""

    def work(self, inputs: WindowInputs, text: Tensor) -> float:
        """FLOP of a solver step, about."""

    def sketches(self, latents: Tensor, canvas: geometry.Canvas) -> Iterator[np.ndarray]:
        """The key frames of latents [C, n, h, w] that follow one another, fast rather than fine, uint8 [h, w, 3] each.
        None where the transformer would have to go for it."""

    def identity(self) -> Mapping[str, str]:
        """Names and hashes of the weights: others make another video."""


def load(entry: Entry, device: str = "auto", dtype: str = "auto", memory: str = "auto", on_progress: OnProgress = no_op,
         loras: Sequence[Lora] = (), decoder: str = FULL, preview: bool = False) -> Pipeline:  # fmt: skip
    """The pipeline of a model's kind, with LoRAs merged into it; `decoder` is full, or tiny for drafts, and with
    `preview` it sketches fast, if it has a tiny decoder. SoraError for a device that is not there, Failed for weights
    that are missing or damaged."""
    if not entry.usage.boundary:
        check_alone(loras, entry.name)
    if entry.kind == "sora":
        from sora_cli.pipelines.sora import Sora

        return Sora(entry, device, dtype, loras)
    from sora_cli.pipelines.wan import Wan

    roles = (*registry.ROLES, *((registry.TINY,) if decoder != FULL or (preview and entry.tiny) else ()))
    return Wan(entry, device, dtype, memory, on_progress, roles, loras, decoder)


def load_codec(entry: Entry, canvas: geometry.Canvas, device: str = "auto", dtype: str = "auto", memory: str = "auto",
               on_progress: OnProgress = no_op, notify: Notify = no_op, decoder: str = FULL) -> Codec:  # fmt: skip
    """A model's autoencoder alone, or its tiny decoder, for pictures of this canvas."""
    if entry.kind == "sora":
        return Codec.of(entry, device, dtype)
    from sora_cli.pipelines.wan import Wan

    roles = ("vae",) if decoder == FULL else (registry.TINY,)
    pipeline = Wan(entry, device, dtype, memory, on_progress, roles, decoder=decoder)
    pipeline.on_device(canvas, 0, 0, notify, encodes=decoder == FULL)
    return pipeline.codec
