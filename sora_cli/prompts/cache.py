"""Prompts as numbers, kept on disk: a large text encoder reads a prompt once.

A folder holds one safetensors file for every prompt and encoder; what has not been used for longest goes first. A
cache never fails its user: what cannot be read is not there, and what cannot be written is computed again. torch is
imported only where tensors are touched.
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sora_cli.errors import SoraError
from sora_cli.files import weights

if TYPE_CHECKING:
    from torch import Tensor

TENSOR = "features"
MOST_BYTES = 1_000_000_000
OURS = re.compile(r"[0-9a-f]{64}\.")  # names of entries, whole or being written


def key_of(encoder: str, prompt: str, dtype: str) -> str:
    """The name of an entry: a sha256 of what determines it.

    encoder: anything that tells the encoder's weights apart; prompt: as the encoder sees it, cleaned."""
    return hashlib.sha256(json.dumps([encoder, prompt, dtype]).encode()).hexdigest()


def entry_metadata(key: str, features: "Tensor") -> dict[str, str]:
    """A hash over an entry's key, shape, type and numbers, which detects damage."""
    import torch

    numbers = features.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    kind = f"{features.dtype} {tuple(features.shape)} ".encode()
    return {"key": key, "sha256": hashlib.sha256(kind + numbers.tobytes()).hexdigest()}


def default_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "sora-cli" / "embeddings"


class Embeddings:
    """Features of prompts by their keys (see `key_of`), at most `most` bytes of them in `folder`."""

    def __init__(self, folder: Path | None = None, most: int = MOST_BYTES) -> None:
        self.folder, self.most = folder or default_folder(), most

    def get(self, key: str) -> "Tensor | None":
        """Features [L, D] on the CPU, or None if they are not there or damaged."""
        path = self.path(key)
        try:
            tensors, tags = weights.load(path)
        except SoraError:
            return None
        if set(tensors) != {TENSOR} or tags != entry_metadata(key, tensors[TENSOR]):
            return None
        with suppress(OSError):
            os.utime(path)  # just used
        return tensors[TENSOR]

    def put(self, key: str, features: "Tensor") -> None:
        """Save features atomically; several processes may do so at the same time."""
        with suppress(OSError, SoraError):
            self.folder.mkdir(parents=True, exist_ok=True)
            weights.save(self.path(key), {TENSOR: features}, entry_metadata(key, features))
            self.prune()

    def prune(self) -> None:
        """Remove the least recently used entries until the rest fits."""
        there = [(path.stat(), path) for path in self.folder.iterdir() if OURS.match(path.name)]
        there.sort(key=lambda entry: entry[0].st_mtime_ns, reverse=True)
        total = 0
        for stat, path in there:
            total += stat.st_size
            if total > self.most:
                path.unlink(missing_ok=True)

    def path(self, key: str) -> Path:
        assert re.fullmatch(r"[0-9a-f]{64}", key), key
        return self.folder / f"{key}.safetensors"
