"""Samples in tar files, as webdataset reads them, and where each of them lies. torch only where tensors are touched.

A sample is NAME.safetensors (`latents` [C, T, h, w], `features` of its caption [L, D], in half precision) and
NAME.json. A shard is written under another name and renamed, and its own name tells what is in it: it is never written
twice. `index.jsonl` says of the whole dataset what it was made with, then of every sample what is in its NAME.json and
where it lies, and of every shard its size and checksum. It is what makes a folder a dataset, so it is written last.
"""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from sora_cli.errors import Failed, SoraError
from sora_cli.files import owned, weights
from sora_cli.media.damage import crc32

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "sora-dataset-1"
INDEX, MANIFEST, SCAN = "index.jsonl", "manifest.jsonl", "scan.jsonl"
AGAIN = "`sora-cli data build` on its folder of clips repairs it"
Row = dict[str, Any]


def hash_of(value: object) -> str:
    """A sha256 of what can be said in JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def identity(tensors: Mapping[str, "Tensor"], header: Mapping[str, str]) -> str:
    """A sha256 that identifies a network, whatever files it is in: over all weights and words of a text tower, and over
    the encoder of an autoencoder, so that another decoder does not change it."""
    import torch

    encoder = ("encoder.", "mean", "std")
    names = sorted(name for name in tensors if name.startswith(encoder)) or sorted(tensors)
    digest = hashlib.sha256(header.get("vocabulary", "").encode())
    for name in names:
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[Callable[[str, Mapping[str, "Tensor"], Row], None]]:
    """Write a shard: yields a function that adds a sample. The file appears when the block ends without an error."""
    from safetensors.torch import save

    with owned.writing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def put(name: str, tensors: Mapping[str, "Tensor"], row: Row) -> None:
            latents = b"".join(weights.in_order(save(dict(tensors))))
            for kind, content in (("safetensors", latents), ("json", json.dumps(row).encode())):
                entry = tarfile.TarInfo(f"{name}.{kind}")
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))

        yield put


def rows_of(path: Path) -> Iterator[Row]:
    """What the samples of a shard say of themselves, and where they lie."""
    position: Row = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                stem, _, kind = entry.name.partition(".")
                content = tar.extractfile(entry)
                if kind == "safetensors" and content:
                    position = {"offset": entry.offset_data, "bytes": entry.size, "crc32": zlib.crc32(content.read())}
                elif kind == "json" and content:
                    yield {"name": stem, **json.load(content), "shard": path.name, **position}
    except (OSError, ValueError, TypeError, tarfile.TarError) as error:
        raise Failed(f"{path} is damaged ({error}); {AGAIN}") from error


def load(folder: Path, row: Row) -> dict[str, "Tensor"]:
    """The tensors of a sample."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / row["shard"]
    try:
        with path.open("rb") as file:
            file.seek(row["offset"])
            content = file.read(row["bytes"])
        if zlib.crc32(content) != row.get("crc32", zlib.crc32(content)):
            raise Failed(f"{path} is damaged (sample {row['name']}); {AGAIN}")
        return load(content)
    except (OSError, SafetensorError) as error:
        raise Failed(f"{path} is damaged ({error}); {AGAIN}") from error


def checksum(path: Path) -> Row:
    """The size of a file and the checksum of its bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        return {"bytes": size, "crc32": crc32(file, size)}


def damage(folder: Path, header: Row, whole: bool = False) -> dict[str, str]:
    """What is wrong with which shards of a dataset, by their sizes, and if `whole`, by all of their bytes."""
    found = {}
    for name, due in header.get("shards", {}).items():
        path = folder / name
        if not path.is_file():
            found[name] = "is missing"
        elif path.stat().st_size != due["bytes"]:
            found[name] = f"has {path.stat().st_size} bytes instead of {due['bytes']}"
        elif whole and checksum(path) != due:
            found[name] = "is damaged"
    return found


def read_lines(path: Path) -> list[Row]:
    """The JSON objects of a file, one a line, up to the first that is torn; none if there is no file."""
    found = []
    with suppress(FileNotFoundError, ValueError, RecursionError), path.open(encoding="utf-8") as lines:
        for line in lines:
            value = json.loads(line)
            if not isinstance(value, dict):
                break
            found.append(value)
    return found


def write_lines(path: Path, lines: Iterable[Row]) -> bool:
    """A file of JSON lines, written whole; returns whether it changed."""
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with suppress(OSError):
        if path.read_bytes() == content:
            return False
    weights.write(path, content)
    return True


def is_dataset(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def is_contained(row: Row) -> bool:
    """Whether a sample, which may be a stranger's, lies in its dataset, and its source in the folder of the clips."""
    shard, file = row.get("shard", ""), row.get("file", "")
    if not (isinstance(shard, str) and isinstance(file, str)) or ".." in (shard, *PurePath(file).parts):
        return False
    return PurePath(shard).name == shard and not PurePath(file).is_absolute()


def read_index(folder: Path) -> tuple[Row, list[Row]]:
    """What a dataset was made with, and its samples; SoraError for a folder that is not a dataset, or not yet."""
    if not is_dataset(folder):
        half = (folder / SCAN).is_file()
        raise SoraError(f"{folder} is not finished; `sora-cli data build` finishes it" if half else
                        f"{folder} is not a dataset; `sora-cli data build CLIPS -o {folder}` makes one")  # fmt: skip
    header, *rows = read_lines(folder / INDEX) or [{}]
    if header.get("format") != FORMAT or len(rows) != header.get("samples") or not all(map(is_contained, rows)):
        raise Failed(f"{folder / INDEX} is damaged; {AGAIN}")
    return header, rows
