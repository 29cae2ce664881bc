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
from sora_cli.media.damage import crc32_of

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "sora-dataset-1"
INDEX, MANIFEST, SCAN = "index.jsonl", "manifest.jsonl", "scan.jsonl"
AGAIN = "`sora-cli data build` on its folder of clips repairs it"
Row = dict[str, Any]
Kinds = Mapping[str, type | tuple[type, ...]]

NUMBER = (int, float)
HEADER: Kinds = {"format": str, "source": str, "samples": int, "vae": str, "text": str, "channels": int}
SAMPLE: Kinds = {
    "name": str, "shard": str, "file": str, "kind": str, "caption": str, "offset": int, "bytes": int, "first": int,
    "frames": int, "begin": NUMBER, "end": NUMBER, "seconds": NUMBER, "fps": NUMBER,
}  # fmt: skip
SIZES = {"shape": 4, "canvas": 2, "size": 2}  # lists of so many sizes


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
                    row = {"name": stem, **json.load(content), "shard": path.name, **position}
                    if not is_sample(row):
                        raise ValueError(f"{entry.name} does not describe a sample")
                    yield row
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
        return {"bytes": size, "crc32": crc32_of(file, size)}


def damage(folder: Path, header: Row) -> dict[str, str]:
    """What is wrong with which shards of a dataset, by their sizes."""
    found = {}
    for name, due in header.get("shards", {}).items():
        path = folder / name
        if not path.is_file():
            found[name] = "is missing"
        elif not holds(due, {"bytes": int, "crc32": int}):
            found[name] = "has no checksum"
        elif path.stat().st_size != due["bytes"]:
            found[name] = f"has {path.stat().st_size} bytes instead of {due['bytes']}"
    return found


def damage_inside(folder: Path, header: Row) -> dict[str, str]:
    """The same by all of their bytes."""
    found = damage(folder, header)
    whole = {name: due for name, due in header.get("shards", {}).items() if name not in found}
    return found | {name: "is damaged" for name, due in whole.items() if checksum(folder / name) != due}


def read_lines(path: Path) -> list[Row]:
    """The JSON objects of a file, one a line, without lines that are torn; none if there is no file."""
    found = []
    with suppress(FileNotFoundError), path.open("rb") as lines:
        for line in lines:
            with suppress(ValueError, RecursionError):
                found.append(json.loads(line))
    return [value for value in found if isinstance(value, dict)]


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


def holds(line: object, kinds: Kinds) -> bool:
    """Whether a line, which may be a stranger's, has values of these kinds."""
    return isinstance(line, dict) and all(isinstance(line.get(key), kind) for key, kind in kinds.items())


def is_sample(row: Row) -> bool:
    """Whether a row tells of a sample that lies in its dataset, and of a source in the folder of the clips."""
    if not holds(row, SAMPLE) or ".." in (row["shard"], *PurePath(row["file"]).parts):
        return False
    sizes = all(are_sizes(row.get(key), count) for key, count in SIZES.items()) and are_bars(row)
    return sizes and PurePath(row["shard"]).name == row["shard"] != "" and not PurePath(row["file"]).is_absolute()


def are_sizes(value: object, count: int, least: int = 1) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(n) is int and n >= least for n in value)


def are_bars(row: Row) -> bool:
    """Whether a row's bars are four sizes; older rows have none."""
    return "bars" not in row or are_sizes(row["bars"], 4, least=0)


def lines_checksum(header: Row, rows: Iterable[Row]) -> int:
    """A checksum of what an index says."""
    found = 0
    for line in ({key: value for key, value in header.items() if key != "crc32"}, *rows):
        found = zlib.crc32(json.dumps(line).encode(), found)
    return found


def read_index(folder: Path) -> tuple[Row, list[Row]]:
    """What a dataset was made with, and its samples; SoraError for a folder that is not a dataset, or not yet."""
    if not is_dataset(folder):
        half = (folder / SCAN).is_file()
        raise SoraError(f"{folder} is not finished; `sora-cli data build` finishes it" if half else
                        f"{folder} is not a dataset; `sora-cli data build CLIPS -o {folder}` makes one")  # fmt: skip
    header, *rows = read_lines(folder / INDEX) or [{}]
    ours = holds(header, HEADER) and header["format"] == FORMAT and isinstance(header.get("shards", {}), dict)
    with suppress(RecursionError):
        whole = len(rows) == header.get("samples") and header.get("crc32") in (None, lines_checksum(header, rows))
        if ours and whole and all(map(is_sample, rows)):
            return header, rows
    raise Failed(f"{folder / INDEX} is damaged; {AGAIN}")
