"""Finished windows of a video that is being made, kept so that a crash costs one window and no more.

A folder holds `identity.json`, which says whose windows these are, and `window-00000.safetensors`, ... Each is
written under another name, flushed and renamed, and sealed with a hash of everything in it, so that a file is
trusted only if it is whole, unchanged, and part of the same video. torch is imported only where tensors are
touched.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora_cli import weights
from sora_cli.errors import Failed, SoraError

if TYPE_CHECKING:
    from torch import Tensor

TENSOR = "latents"


class Windows:
    """The windows of one video in `folder`. `identity` is the JSON of all that determines them (the shot, hashes
    of the weights, the number format, ...); SoraError naming what differs if the folder has those of another."""

    def __init__(self, folder: Path | str, identity: str) -> None:
        self.folder = Path(folder)
        self.identity = json.loads(identity)
        self.note = self.folder / "identity.json"
        if (begun := self.begun()) is not None and begun != self.identity:
            told = "; ".join(differences(begun, self.identity)[:3])
            raise SoraError(f"{self.folder} holds another video: {told}; ask for the same again, or remove it")

    def begun(self) -> Any:
        """The identity that the folder was begun with; None if there is none that can be read."""
        with suppress(OSError, ValueError, RecursionError):
            return json.loads(self.note.read_text(encoding="utf-8"))
        return None

    def finished(self) -> "Iterator[Tensor]":
        """Windows 0, 1, 2, ... up to the first that is missing, damaged or foreign."""
        for number in count():
            latents = self.read(number)
            if latents is None:
                return
            yield latents

    __iter__ = finished

    def read(self, number: int) -> "Tensor | None":
        """One window exactly as it was put; None if it cannot be trusted."""
        path = self.path(number)
        try:
            tensors, tags = weights.load(path)
        except SoraError:
            return None
        latents = tensors.get(TENSOR)
        if latents is None or tags.get("seal") != self.seal(number, latents):
            return None
        return latents

    def put(self, number: int, latents: "Tensor") -> None:
        """Keep a finished window. When this returns it has reached the disk."""
        self.begin()
        weights.save(self.path(number), {TENSOR: latents}, {"seal": self.seal(number, latents)})

    def begin(self) -> None:
        """Make the folder, and say in it whose windows these are."""
        if self.begun() is not None:
            return
        part = self.note.with_name(self.note.name + ".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as file:
                json.dump(self.identity, file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.note)
        except OSError as error:
            raise Failed(f"could not write {self.note}: {error.strerror or error}") from error

    def remove(self) -> None:
        """Take away all that was put here, and the folder if nothing else is in it."""
        clear(self.folder)

    def path(self, number: int) -> Path:
        return self.folder / f"window-{number:05}.safetensors"

    def seal(self, number: int, latents: "Tensor") -> str:
        """A hash over the video's identity, the window's number, and every bit of its tensor."""
        import torch

        plain = latents.detach().cpu().contiguous()
        claim = json.dumps([self.identity, number, str(plain.dtype), list(plain.shape)], sort_keys=True)
        digest = hashlib.sha256(claim.encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def clear(folder: Path) -> None:
    """Take away whatever windows a folder has, and the folder if nothing else is in it."""
    for path in (*folder.glob("window-*.safetensors*"), *folder.glob("identity.json*")):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # a file of the user's keeps its folder
        folder.rmdir()


def differences(begun: Any, asked: Any, name: str = "") -> list[str]:
    """What was asked then and is asked now, one line for each field that differs, however deep it lies."""
    if isinstance(begun, dict) and isinstance(asked, dict):
        keys = sorted(begun.keys() | asked.keys())
        parts = [differences(begun.get(key), asked.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for part in parts for line in part]
    return [] if begun == asked else [f"{name or 'it'} was {short(begun)} and is now {short(asked)}"]


def short(value: Any, longest: int = 50) -> str:
    text = json.dumps(value)
    return text if len(text) <= longest else f"{text[:longest]}..."
