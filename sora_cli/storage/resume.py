"""Finished windows of a video that is being made, kept so that a crash costs one window and no more.

A folder holds `identity.json`, which says whose windows these are, `window-00000.safetensors`, ..., and what is given
as it was encoded, `given-00000.safetensors`, .... Each is written under another name, flushed and renamed, and sealed
with a hash of everything in it, so that a file is trusted only if it is whole, unchanged, and part of the same video.
torch is imported only where tensors are touched.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.files.owned import Owned

if TYPE_CHECKING:
    from torch import Tensor

TENSOR = "latents"
NUMBER = 5 * "[0-9]" + "*"  # of a window, in the names of files


class Windows:
    """The windows of one video in `folder`. `identity` is the JSON of all that determines them (the shot, hashes
    of the weights, the number format, ...); SoraError naming what differs if the folder has those of another."""

    def __init__(self, folder: Path | str, identity: str) -> None:
        self.folder = Path(folder)
        self.own = Owned(self.folder, json.loads(identity), "video", "repeat its command, or start over with --force")
        self.own.check()

    def finished(self) -> "Iterator[Tensor]":
        """Windows 0, 1, 2, ... up to the first that is missing, damaged or foreign."""
        return takewhile(lambda latents: latents is not None, map(self.read, count()))  # type: ignore[arg-type]

    def read(self, number: int, kind: str = "window") -> "Tensor | None":
        """One window (or `kind`), exactly as it was saved; None if it is missing or damaged."""
        path = self.path(number, kind)
        try:
            tensors, tags = weights.load(path)
        except SoraError:
            return None
        latents = tensors.get(TENSOR)
        if latents is None or tags.get("seal") != self.window_hash(number, latents, kind):
            return None
        return latents

    def put(self, number: int, latents: "Tensor", kind: str = "window") -> None:
        """Save a finished window (or `kind`); when this returns, it is on disk."""
        self.own.begin()
        weights.save(self.path(number, kind), {TENSOR: latents}, {"seal": self.window_hash(number, latents, kind)})

    def path(self, number: int, kind: str = "window") -> Path:
        return self.folder / f"{kind}-{number:05}.safetensors"

    def window_hash(self, number: int, latents: "Tensor", kind: str = "window") -> str:
        """A hash over the video's identity, the window's kind and number, and every bit of its tensor."""
        import torch

        plain = latents.detach().cpu().contiguous()
        claim = json.dumps([self.own.identity, kind, number, str(plain.dtype), list(plain.shape)], sort_keys=True)
        digest = hashlib.sha256(claim.encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def clear(folder: Path) -> None:
    """Remove all windows in a folder, and the folder if it is then empty."""
    Owned(folder).remove(*(f"{kind}-{NUMBER}.safetensors*" for kind in ("window", "given")))
