"""Footage to latents and latents to pictures, both streamed: memory does not grow with the frames.

Pictures are uint8 arrays [h, w, 3] in RGB. On the way in they are scaled to the cropped part of the canvas, whose
borders repeat the picture's edges; on the way out they are cut to it again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from sora_cli import geometry, registry
from sora_cli.errors import Failed, counted
from sora_cli.models.sora import vae as vaes
from sora_cli.pipelines.stages import FIXED, Stage
from sora_cli.placement.device import pick_device, pick_dtype
from sora_cli.registry import Entry
from sora_cli.storage import latent_file

Picture = TypeVar("Picture")
ENCODED, DECODED, REMEMBERED = 2, 2, 4  # latents at a time; those decoded, where frames depend on all before them


class Autoencoder(Protocol):
    """What a network must do to turn pictures [B, 3, H, W] in [-1, 1] into latents [B, C, k, h, w], and back."""

    @property
    def channels(self) -> int: ...

    @property
    def zoom(self) -> int:
        """Pixels painted, a side, for each that is read."""

    @property
    def independent(self) -> bool:
        """Whether frames decode to the same bits wherever decoding begins, given the group of latents before."""

    def encode_stream(self, frames: Iterable[Tensor], group: int) -> Iterator[Tensor]: ...

    def decode_stream(self, pieces: Iterable[Tensor], previous: Tensor | None) -> Iterator[Tensor]: ...

    def key_features(self, latents: Tensor) -> Tensor:
        """What `decode_stream` goes on from, as `previous`, after these latents."""

    def stream(self, latents: Tensor, group: int, *, cyclic: bool = False) -> Iterator[Tensor]: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Codec:
    """The autoencoder of one model, on one device and in one number format."""

    vae: Autoencoder
    device: torch.device
    dtype: torch.dtype
    stage: Stage = FIXED

    @classmethod
    def of(cls, entry: Entry, device: str = "auto", dtype: str = "auto") -> "Codec":
        where = pick_device(device)
        how = pick_dtype(dtype, where)
        vae = vaes.from_weights(*registry.load_model_files(entry, "vae"))
        return cls(vae.to(where, how), where, how)

    @torch.inference_mode()
    def encode(self, pictures: Iterable[np.ndarray | None], canvas: geometry.Canvas) -> Iterator[Tensor]:
        """Any number of pictures of any size -> latents [C, k, h, w] in float32 on the CPU, the first alone. The last
        picture is repeated until the last chunk is whole; None is grey. All memory is taken by the second piece."""
        frames = (self.frame(picture, canvas)[None] for picture in whole_chunks(pictures))
        first = 2 if self.stage.networks else 0
        head = list(islice(frames, geometry.frames_in(first) if first else 0))  # a stream cannot begin anew
        for attempt in self.stage:
            with attempt:
                pieces = self.vae.encode_stream(chain(head, frames), ENCODED)
                first_pieces = list(islice(pieces, first))
        head.clear()
        for piece in chain(first_pieces, pieces):
            latents = piece[0].float().cpu()
            check_finite("encoded latents", latents)
            yield latents

    def frame(self, picture: np.ndarray | None, canvas: geometry.Canvas) -> Tensor:
        """One picture on the canvas, [3, H, W] in [-1, 1]."""
        if picture is None:
            return torch.zeros(3, canvas.height, canvas.width, device=self.device, dtype=self.dtype)
        x = rearrange(torch.from_numpy(picture.copy()), "h w C -> 1 C h w").float() / 127.5 - 1
        size = canvas.crop_height, canvas.crop_width
        x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        right = canvas.width - canvas.crop_width - canvas.left
        bottom = canvas.height - canvas.crop_height - canvas.top
        return F.pad(x, (canvas.left, right, canvas.top, bottom), mode="replicate")[0].to(self.device, self.dtype)

    @torch.inference_mode()
    def decode(self, path: Path | str, wanted: range | None = None) -> Iterator[np.ndarray]:
        """The wanted frames of a file of latents (all by default), one by one, as large as `shown`: the same bits
        whatever else is wanted, of as few latents as that allows (all before them, where frames depend on those)."""
        yield from self.stage.follow(lambda: self.decoded(path, wanted))

    def decoded(self, path: Path | str, wanted: range | None) -> Iterator[np.ndarray]:
        header = latent_file.read_header(path)
        wanted = range(header.frames) if wanted is None else wanted
        start = wanted.start if self.vae.independent else 0
        span, canvas, total = header.span(range(start, wanted.stop), self.group), header.canvas, header.latents
        last = range(max(0, total - self.group), total) if header.cyclic and 0 in span.groups[0] else span.before
        before = self.vae.key_features(self.read(path, last)) if last else None
        videos = self.vae.decode_stream((self.read(path, group) for group in span.groups), before)
        frames = (picture for video in videos for picture in pictures_of(video[0], canvas))
        first = span.skip + wanted.start - start
        yield from islice(frames, first, first + len(wanted))

    @property
    def group(self) -> int:
        """Latents that are decoded at a time."""
        return DECODED if self.vae.independent else REMEMBERED

    def shown(self, canvas: geometry.Canvas) -> tuple[int, int]:
        """(width, height) of decoded pictures."""
        return self.vae.zoom * canvas.crop_width, self.vae.zoom * canvas.crop_height

    def read(self, path: Path | str, group: range) -> Tensor:
        """Some latents of a file, [1, C, k, h, w]."""
        found, _ = latent_file.load(path, group.start, len(group))
        if (channels := self.vae.channels) != len(found):
            there = counted(len(found), "channel")
            raise Failed(f"the latents of {path} have {there}, but the autoencoder has {channels}")
        return found[None]


def whole_chunks(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """The pictures, and the last one again until they are 1 + 4n."""
    count = 0
    for count, picture in enumerate(pictures, 1):  # noqa: B007
        yield picture
    missing = geometry.frames_in(geometry.latents_for(count)) - count if count else 0
    for _ in range(missing):
        yield picture


def check_finite(what: str, numbers: Tensor) -> None:
    """Failed if numbers are not finite. Finished windows of a video belong to their number format."""
    if not numbers.isfinite().all():
        raise Failed(f"the {what} are not finite; try --dtype float32 --force, or verify the weights")


def pictures_of(video: Tensor, canvas: geometry.Canvas) -> np.ndarray:
    """Frames [3, T, H, W] in [-1, 1] -> uint8 [T, h, w, 3] without borders. Failed if they are not finite."""
    zoom = video.shape[-1] // canvas.width
    left, top, width, height = (zoom * n for n in (canvas.left, canvas.top, canvas.crop_width, canvas.crop_height))
    shown = rearrange(video[:, :, top : top + height, left : left + width], "C T h w -> T h w C")
    pixels = torch.empty(shown.shape, dtype=torch.uint8, device=video.device)
    for frame, levels in zip(shown, pixels, strict=True):  # one by one, which stay in a processor's cache
        numbers = frame.to(torch.float32, copy=True).add_(1).mul_(127.5)
        check_finite("decoded frames", numbers.sum())
        levels.copy_(numbers.round_())
    return pixels.cpu().numpy()
