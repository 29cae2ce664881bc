"""Published checkpoints: one part of one, as diffusers, transformers and ComfyUI lay them out, read into a network.

A part is a folder (`config.json`, and one safetensors file or shards with an index) or a single safetensors or GGUF
file. Strangers wrote these files, so every header is read by hand, in bounded space, and held against the network
before the first number is touched; pickles are refused, since they run code. Numbers are read in pieces from the
offsets of the header, never mapped, and unpacked as they come unless they are to be kept: a checkpoint of any size and
type costs the memory of the network and one piece. torch is imported only where tensors are touched.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora_cli.errors import Failed, SoraError, no_op
from sora_cli.files import gguf_header, headers, quantised
from sora_cli.files.headers import Stored, label, lengths, reading, shortened, some
from sora_cli.files.quantised import check_types
from sora_cli.files.sniff import instead

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MOST_JSON_BYTES = 20_000_000  # of an index; configurations are far smaller
PIECE = 1_000_000  # numbers that are read and cast at a time
MOST_SCALE = 1e30  # of 8-bit floats, which are below 1e5
SINGLE = (".safetensors", ".gguf")  # files that are read
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")

Rename = Callable[[str], str | None]  # a file's key -> the network's, or None for what no network needs
Progress = Callable[[int, int], None]  # called with bytes read and bytes in all


# ---- which files -------------------------------------------------------------------------------------------


def files_of(part: Path) -> list[Path]:
    """The safetensors files of a part: those its index names, or the single one. Every one is there.

    SoraError if there is no such part, or it is no safetensors; Failed if shards are missing."""
    if part.is_file():
        if part.suffix not in SINGLE:
            what = "a pickle, which runs code" if part.suffix in PICKLES else "not a .safetensors file"
            raise SoraError(f"{part} is {what}; only .safetensors and .gguf files are read")
        return [part]
    if not part.is_dir():
        raise SoraError(f"there is no checkpoint {part}")
    indexes = sorted(part.glob("*.safetensors.index.json"))
    if len(indexes) > 1:
        raise SoraError(f"{part} holds several checkpoints ({some(p.name for p in indexes)}); keep one")
    if indexes:
        return [member(part, name) for name in shards(inside(part, indexes[0].name))]
    return [inside(part, alone(part))]


def alone(part: Path) -> str:
    """The name of the one safetensors file of a folder that has no index."""
    there = sorted(path.name for path in part.glob("*.safetensors"))
    if len(there) == 1 and not SHARD.search(there[0]):
        return there[0]
    if any(SHARD.search(name) for name in there):
        raise Failed(f"{part} holds shards without their index (X.safetensors.index.json); fetch that too")
    if there:
        raise SoraError(f"{part} holds several checkpoints ({some(there)}); give one of these files")
    if bad := sorted(path.name for path in part.iterdir() if path.suffix in PICKLES):
        raise SoraError(f"{part} holds pickles ({some(bad)}), which run code; only .safetensors files are read")
    raise SoraError(f"{part} holds no .safetensors file; give the folder of one part, such as transformer/ or vae/")


def shards(index: Path) -> list[str]:
    """The files that an index names, sorted."""
    listing = read_json(index).get("weight_map")
    if not isinstance(listing, dict) or not listing or not all(isinstance(name, str) for name in listing.values()):
        raise Failed(f"{index} has no weight_map of keys to files; fetch it again")
    return sorted(set(listing.values()))


def member(part: Path, name: str) -> Path:
    """A shard that an index names, which must be a plain name of a file that is there."""
    if not re.fullmatch(r"[\w.-]+\.safetensors", name, re.ASCII) or name.startswith("."):
        raise Failed(f"the index of {part} names {shortened(name)}, which is not a plain .safetensors file name")
    if not (part / name).is_file():
        raise Failed(f"{part} lacks {name}, which its index names; fetch the rest")
    return inside(part, name)


def inside(part: Path, name: str) -> Path:
    """A file of a folder; its name and links must stay in it, or lead to the blobs of the Hugging Face cache that it
    is in."""
    path, homes = part / name, [Path(os.path.realpath(part))]  # which reads links in a circle, too
    for above in homes[0].parents:
        if above.name == "snapshots" and not (blobs := above.parent / "blobs").is_symlink():
            homes.append(blobs)
    if not any(Path(os.path.realpath(path)).is_relative_to(home) for home in homes):
        raise SoraError(f"{path} leads out of the checkpoint; put the file itself there")
    return path


def loaded(part: Path) -> list[Path]:
    """All files that a network is loaded from, and none that lie beside them; errors are those of `files_of`."""
    return [*files_of(part), *([inside(part, "config.json")] if has_config(part) else [])]


def bytes_of(part: Path, names: Iterable[str] = ()) -> int:
    """What lies in a file, or in a folder under these names; 0 if neither is there."""
    if part.is_file():
        return part.stat().st_size
    return sum(path.stat().st_size for name in names for path in part.glob(name))


def has_config(part: Path) -> bool:
    return part.is_dir() and (part / "config.json").exists()


def read_config(part: Path) -> dict[str, Any]:
    """The config.json of a part; SoraError if it has none, Failed if it is damaged."""
    if not has_config(part):
        raise SoraError(f"{part} has no config.json; give the folder of one part, such as transformer/ or vae/")
    return read_json(inside(part, "config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of bounded size; Failed if the file holds something else."""
    try:
        with reading(path) as file:
            content = file.read(MOST_JSON_BYTES + 1)
        if len(content) > MOST_JSON_BYTES:
            raise Failed(f"{path} is larger than {MOST_JSON_BYTES} bytes; fetch it again")
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Failed(f"{path} is not JSON: {instead(path) or 'fetch it again'}") from error
    if not isinstance(found, dict):
        raise Failed(f"{path} is not a JSON object; fetch it again")
    return found


# ---- what is in them ---------------------------------------------------------------------------------------


def about(path: Path) -> tuple[Mapping[str, Any], list[Stored]]:
    """What a file says of itself, and all its tensors as they are stored; Failed if it is damaged."""
    return gguf_header.contents(path) if path.suffix == ".gguf" else headers.contents(path)


def architecture(said: Mapping[str, Any]) -> str:
    """The model that a GGUF says it is for; "" if it does not, as for other programs than llama.cpp and ComfyUI."""
    return str(said.get("general.architecture", ""))


def weights_in(files: Iterable[Path]) -> list[Stored]:
    """The weights of files, with their scales where they are quantised; SoraError naming other quantisations."""
    found = {path: about(path) for path in files}
    listing = {path: said for path, (said, _) in found.items()}
    return quantised.paired([stored for _, there in found.values() for stored in there], listing)


# ---- whether they fit --------------------------------------------------------------------------------------


def survey(network: "nn.Module", files: Iterable[Path], rename: Rename | None = None) -> dict[str, Stored]:
    """Where every parameter of a network lies. No tensor is touched. `rename`: from the files' keys to the network's.

    SoraError, one line that names file and key, if a key is missing, unexpected or given twice, or if one has another
    shape, or numbers of a type that is not read."""
    assert not list(network.buffers()), "buffers would stay on the meta device"
    files = list(files)
    due = {name: tuple(value.shape) for name, value in network.named_parameters()}
    found = renamed(weights_in(files), rename)
    check_types(stored for _, stored in found)
    check_keys(found, due, files)
    for name, stored in found:
        if stored.shape != due[name]:
            raise SoraError(f"{label(stored)} is {lengths(stored.shape)}, but the network needs {lengths(due[name])}")
    return dict(found)


def renamed(listed: Iterable[Stored], rename: Rename | None) -> list[tuple[str, Stored]]:
    """Tensors by the network's names, without those that it does not need."""
    names = ((rename(stored.key) if rename else stored.key, stored) for stored in listed)
    return [(name, stored) for name, stored in names if name is not None]


def check_keys(found: list[tuple[str, Stored]], due: Mapping[str, object], files: list[Path]) -> None:
    """Every name once, and no other."""
    where = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} shards)"
    counts = Counter(name for name, _ in found)
    if unexpected := [stored for name, stored in found if name not in due]:
        others = some(stored.key for stored in unexpected)
        raise SoraError(f"{unexpected[0].path} is for a different network, which also has {others}")
    if twice := [stored for name, stored in found if counts[name] > 1]:
        raise SoraError(f"{twice[-1].path} repeats tensors: {some(s.key for s in twice)}")
    if missing := [name for name in due if name not in counts]:
        raise SoraError(f"{where} lacks {some(missing)} of the network's {len(due)} tensors")


# ---- reading -----------------------------------------------------------------------------------------------


def never(name: str) -> bool:
    return False


def put(
    network: "nn.Module",
    locations: Mapping[str, Stored],
    dtype: "torch.dtype",
    device: "torch.device",
    keep: Callable[[str], bool] = never,
    progress: Progress = no_op,
) -> None:
    """Read the parameters of a network that was built on the meta device from where they lie (see `survey`); Failed if
    a file is damaged or holds NaN or infinity. `keep`: names of parameters that are float32 whatever the dtype."""
    import torch

    done, total = 0, sum(stored.bytes for stored in locations.values())
    for name, stored in locations.items():
        assign(network, name, read(stored, torch.float32 if keep(name) else dtype, device))
        done += stored.bytes
        progress(done, total)


def assign(network: "nn.Module", name: str, value: "Tensor") -> None:
    """Put a tensor in the place of a parameter, which is not trained."""
    from torch import nn

    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


def read(stored: Stored, dtype: "torch.dtype", device: "torch.device") -> "Tensor":
    """One tensor, unpacked and cast in pieces, or as stored if it is `kept`; Failed if it is not finite."""
    import torch

    if stored.changes:
        return changed(stored).to(device, dtype)
    unpack = quantised.unpacker(stored, read)
    if stored.kept:
        return read_kept(stored, dtype, device, unpack)
    whole = torch.empty(stored.shape, dtype=dtype, device=device)
    flat = whole.view(-1)
    for begin, raw in pieces(stored):
        piece = unpack(raw, begin)
        cast = piece.to(dtype)
        check_finite(stored, piece, cast)
        flat[begin : begin + len(cast)].copy_(cast)
    return whole


def read_kept(
    stored: Stored, dtype: "torch.dtype", device: "torch.device", unpack: Callable[["Tensor", int], "Tensor"]
) -> "Tensor":
    """A tensor as stored, to be unpacked into dtype later; its numbers are checked where its bytes may hide NaN."""
    import torch

    from sora_cli.files.blocks import suspect

    kind = quantised.type_of(stored)
    few_bits = kind == torch.uint8
    scale = read(stored.scale, torch.float32, torch.device("cpu")) if stored.scale else torch.ones(1)
    narrow = dtype == torch.float16 or bool(scale.abs().max() > MOST_SCALE)  # times which numbers may leave float32
    flat, at = torch.empty(stored.bytes, dtype=torch.uint8, device=device), 0
    for begin, raw in pieces(stored):
        if not few_bits or narrow or suspect(stored.dtype, raw):
            piece = unpack(raw, begin)
            check_finite(stored, piece, piece.to(dtype) if few_bits else piece)
        flat[at : at + len(raw)].copy_(raw)
        at += len(raw)
    return flat.view(kind).view(quantised.kept_shape(stored))


def pieces(stored: Stored) -> Iterator[tuple[int, "Tensor"]]:
    """A tensor's bytes in pieces with the number each begins with, valid until the next; Failed if truncated."""
    import torch

    numbers, size = headers.block_of(stored.dtype)
    step, total = max(1, PIECE // numbers) * numbers, math.prod(stored.shape)
    buffer = memoryview(bytearray(min(step, total) // numbers * size))
    with reading(stored.path) as file:
        file.seek(stored.start)
        for begin in range(0, total, step):
            room = buffer[: min(step, total - begin) // numbers * size]
            if file.readinto(room) != len(room):
                raise Failed(f"{stored.path} is truncated in {shortened(stored.key)}; fetch it again")
            yield begin, torch.frombuffer(room, dtype=torch.uint8)


def changed(stored: Stored) -> "Tensor":
    """One tensor with its changes, in float32 on the CPU, so that it has the same bits wherever it is to go."""
    import torch

    whole = read(replace(stored, changes=()), torch.float32, torch.device("cpu"))
    for change in stored.changes:
        change(whole)
    if not finite(whole):
        raise Failed(f"{label(stored)} is no longer finite with its LoRA; lower the strength")
    return whole


def check_finite(stored: Stored, piece: "Tensor", cast: "Tensor") -> None:
    if finite(cast):
        return
    if not finite(piece):
        raise Failed(f"{label(stored)} holds NaN or infinity; fetch it again")
    raise Failed(f"{label(stored)} has numbers that are too large for {cast.dtype}; try bfloat16")


def finite(x: "Tensor") -> bool:
    """Whether all numbers are: the extremes are, and NaN would be one. Some twenty times faster than checking each."""
    return not x.numel() or all(bool(end.isfinite()) for end in x.aminmax())


