"""Checkpoints on disk: safetensors with configuration in the header, verified, written whole or not at all.

A checkpoint is a folder of `PART.safetensors` files, or of `PART-00001-of-00003.safetensors` shards. torch is
imported only where tensors are touched.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sora_cli.errors import Failed, SoraError, no_op
from sora_cli.files.headers import contents
from sora_cli.files.owned import writing

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 15_000_000
PIECE = 1 << 20  # bytes that are read at a time
AGAIN = "reinstall sora-cli"


def stem_of(path: Path) -> str:
    """dit-00001-of-00002.safetensors -> dit"""
    return re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)


def check(path: Path, sha256: str | None = None, size: int | None = None) -> None:
    if not path.is_file():
        raise Failed(f"weights {path} are missing; {AGAIN}")
    if size is not None and path.stat().st_size != size:
        raise Failed(f"weights {path} are damaged: {path.stat().st_size} bytes instead of {size}; {AGAIN}")
    if sha256 is not None and hash_of(path) != sha256:
        raise Failed(f"weights {path} are damaged or changed: sha256 is not {sha256[:12]}...; {AGAIN}")


def hash_of(path: Path, moved: Callable[[int], None] = no_op) -> str:
    """The sha256 of a file; `moved` is called with the number of bytes that have been read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            moved(file.tell())
    return digest.hexdigest()


def fingerprint(files: Iterable[Path]) -> str:
    """A sha256 over names, sizes, and the first and last megabyte of files, to tell checkpoints apart."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(PIECE))
            file.seek(max(0, size - PIECE))
            digest.update(file.read(PIECE))
    return digest.hexdigest()


def load(path: Path | str, sha256: str | None = None) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Tensors and header of one safetensors file; Failed if it is damaged or holds NaN or infinity."""
    path = Path(path)
    if not path.is_file():
        raise SoraError(f"there is no checkpoint {path}")
    check(path, sha256)
    metadata, _ = contents(path)
    tensors = load_tensors(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise Failed(f"weights {path} hold NaN or infinity in {name}; use an earlier checkpoint")
    return tensors, metadata


def load_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, "Tensor"]:
    """Tensors of a safetensors file, all unless some are named, as they are stored; Failed if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    except (SafetensorError, OSError) as error:
        raise Failed(f"weights {path} are truncated or not safetensors ({error}); fetch them again") from error


@dataclass(frozen=True)
class Header:
    """What one part of a checkpoint says of itself: the shapes of its tensors, and its metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]

    def count(self, prefix: str = "") -> int:
        """Numbers in all tensors whose names begin so."""
        return sum(math.prod(shape) for name, shape in self.shapes.items() if name.startswith(prefix))


def read_header(*paths: Path) -> Header:
    """The header of a safetensors file, or of all shards of a part, without its tensors and without torch.

    Failed if a file is not there or damaged."""
    shapes: dict[str, tuple[int, ...]] = {}
    metadata: dict[str, str] = {}
    for path in paths:
        check(path)
        header, listed = contents(path)
        metadata = header | metadata
        shapes |= {stored.key: stored.shape for stored in listed}
    return Header(shapes, metadata)


def load_part(folder: Path | str, stem: str) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """One part of a checkpoint folder, whole or in shards; Failed if one of these is missing."""
    paths = [Path(folder) / f"{stem}.safetensors"]
    shards = sorted(Path(folder).glob(f"{stem}-?????-of-?????.safetensors"))
    if shards and not paths[0].exists():
        paths, expected = shards, shard_names(stem, int(shards[0].stem[-5:]))
        if [path.name for path in shards] != expected:
            raise Failed(f"{folder} holds {len(shards)} of {len(expected)} shards of {stem}; fetch the rest")
    return merge([load(path) for path in paths])


def merge(parts: list[tuple[dict[str, "Tensor"], dict[str, str]]]) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    tensors = {name: tensor for some, _ in parts for name, tensor in some.items()}
    return tensors, parts[0][1]


def save(path: Path | str, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> None:
    """One safetensors file, written under a temporary name, flushed to the disk and renamed."""
    from safetensors.torch import save as serialise

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write(path, *in_order(serialise(plain, dict(metadata or {}))))


def in_order(content: bytes) -> tuple[bytes, memoryview]:
    """A safetensors file with its header sorted, so that equal tensors make equal files, and its numbers."""
    length = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + length])
    tags = {"__metadata__": dict(sorted(found.pop("__metadata__", {}).items()))}
    tensors = dict(sorted(found.items(), key=lambda item: item[1]["data_offsets"]))
    header = json.dumps((tags if tags["__metadata__"] else {}) | tensors, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the numbers begin on a multiple of 8
    return len(header).to_bytes(8, "little") + header, memoryview(content)[8 + length :]


def write(path: Path | str, *pieces: bytes | memoryview) -> None:
    """A whole file, of these pieces."""
    with writing(Path(path)) as file:
        for piece in pieces:
            file.write(piece)


def save_part(
    folder: Path | str,
    stem: str,
    tensors: Mapping[str, "Tensor"],
    metadata: Mapping[str, str] | None = None,
    limit: int = SHARD_BYTES,
) -> list[Path]:
    """One part of a checkpoint in as few files of at most `limit` bytes as possible; older shards go."""
    folder = Path(folder)
    groups = shard(tensors, limit)
    paths = [folder / name for name in shard_names(stem, len(groups))]
    for path, group in zip(paths, groups, strict=True):
        save(path, group, metadata)
    for stale in folder.glob(f"{stem}*.safetensors"):
        if stem_of(stale) == stem and stale not in paths:
            stale.unlink()
    return paths


def shard(tensors: Mapping[str, "Tensor"], limit: int) -> list[dict[str, "Tensor"]]:
    """Tensors in their order, cut into groups of at most `limit` bytes (a larger tensor is alone)."""
    groups: list[dict[str, Tensor]] = [{}]
    room = limit
    for name, tensor in tensors.items():
        if groups[-1] and tensor.nbytes > room:
            groups.append({})
            room = limit
        groups[-1][name] = tensor
        room -= tensor.nbytes
    return groups


def shard_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
