"""Latents on disk: one safetensors file, and in its header all that is needed to turn them into a video.

These files travel, so the header is read here by hand, in bounded space: whatever a file claims is checked
against its size and its canvas before anything is allocated. No string of a header is ever used as a path.
torch is imported only where tensors are touched.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora_cli import geometry
from sora_cli.errors import Failed, SoraError, counted
from sora_cli.files import published, weights
from sora_cli.files.headers import NUMBERS, head, lengths, reading, tensors
from sora_cli.registry import Entry, hub
from sora_cli.shot import LONGEST_SECONDS, MOST_FRAMES, Shot, check_range

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "sora-latents-1"
TENSOR = "latents"
MOST_HEADER_BYTES = 1_000_000


@dataclass(frozen=True)
class Header:
    """The model and video that latents belong to. Sizes are those of the video, in pixels."""

    model: str
    vae: str             # sha256 of the autoencoder's weights, without which latents mean nothing
    width: int
    height: int
    fps: float
    frames: int
    lead: int = 0        # frames to drop at the front of the decode
    cyclic: bool = False  # a loop: the first latent follows the last, so that all are chunks of four frames
    shot: str = ""       # the shot as JSON, "" if there is none; read it with `Shot.from_json`
    video: str = ""      # sha256 of the video file that these latents belong to, "" if there is none
    cell: int = geometry.SPACE_STRIDE  # pixels along each side of a latent cell
    pixels: int = 0      # the most that the model makes of a frame; 0: as pocket chooses its canvas
    clock: float = -1.0  # seconds of its scene at latent 0; below 0 where nobody knows

    def __post_init__(self) -> None:
        if not plain(self.model):
            raise SoraError(f"model {shortened(self.model)} is not a model name")
        check_hash("vae", self.vae)
        if self.video:
            check_hash("video", self.video)
        geometry.check_size(self.width, self.height)
        check_range("fps", self.fps, 1, 120)
        check_range("frames", self.frames, 1, MOST_FRAMES)
        check_range("lead", self.lead, 0, geometry.TIME_STRIDE - 1)
        check_range("cell", self.cell, 4, 64)
        check_range("pixels", self.pixels, 0, geometry.LARGEST_SIDE**2)
        check_range("clock", self.clock, -1, LONGEST_SECONDS)

    @classmethod
    def of(cls, entry: Entry, width: int, height: int, fps: float, frames: int, **more: Any) -> "Header":
        """The header for latents of a model."""
        pixels = 0 if entry.kind == "sora" else entry.usage.width * entry.usage.height
        name = entry.name if plain(entry.name) else plainly(entry.name)
        return cls(name, vae_of(entry), width, height, fps, frames, cell=entry.cell, pixels=pixels, **more)

    @property
    def canvas(self) -> geometry.Canvas:
        if not self.pixels:
            return geometry.canvas(self.width, self.height)
        return geometry.canvas_within(self.width, self.height, self.cell, self.pixels)

    @property
    def prompt(self) -> str:
        """What they were made from, "" where they are of footage; SoraError if the shot is none."""
        return Shot.from_json(self.shot).prompt if self.shot else ""

    @property
    def latents(self) -> int:
        """The number of latents for these frames."""
        return self.latent_of(self.frames - 1) + 1

    def latent_of(self, frame: int) -> int:
        """The index of the latent that a frame of the video is decoded from."""
        return (frame + self.lead + self.offset) // geometry.TIME_STRIDE

    @property
    def offset(self) -> int:
        """How many frames fewer latent 0 has than the others: 3, since it is one frame, or 0 in a loop."""
        return 0 if self.cyclic else geometry.TIME_STRIDE - 1

    def span(self, wanted: range, group: int = 1) -> "Span":
        """What to decode for some frames of the video, in whole groups of `group` latents and no group more
        than needed. Groups count from latent 0, so that a part is computed just like the whole."""
        assert 0 <= wanted.start < wanted.stop <= self.frames and wanted.step == 1, wanted
        groups = [range(at, min(at + group, self.latents)) for at in range(0, self.latents, group)]
        first, last = (self.latent_of(frame) // group for frame in (wanted.start, wanted.stop - 1))
        before = groups[first - 1] if first or self.cyclic else range(0)
        begin = max(0, groups[first].start * geometry.TIME_STRIDE - self.offset)
        return Span(before, tuple(groups[first : last + 1]), wanted.start + self.lead - begin)


@dataclass(frozen=True)
class Span:
    """Groups of latents that hold some frames; `before` is the group whose last key frame precedes them (empty
    at the start of a video), `skip` the decoded frames to drop at the front."""

    before: range
    groups: tuple[range, ...]
    skip: int


@dataclass(frozen=True)
class Layout:
    """A file's header and its tensor's shape [C, T, h, w] and type, checked against the file's size."""

    header: Header
    shape: tuple[int, ...]
    dtype: str           # F32, F16 or BF16


def plain(name: str) -> bool:
    """Whether a model's name may stand in a header."""
    return len(name) <= 64 and re.fullmatch(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*", name) is not None


def plainly(name: str) -> str:
    """The model of a folder or a repository: `hf:owner/name` -> hf-owner-name."""
    return "-".join(re.findall(r"[A-Za-z0-9]+", name))[-64:].strip("-")


def vae_of(entry: Entry) -> str:
    """The SHA-256 that identifies a model's autoencoder in headers."""
    if not entry.files and entry.kind != "sora":
        return weights.fingerprint(published.loaded(hub.locate(entry.only("vae"))["vae"]))
    hashes = [file.sha256 for file in entry.part("vae")]
    if not hashes:
        raise Failed(f"model {entry.name} has no autoencoder in weights.toml; {weights.AGAIN}")
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def check_vae(path: Path | str, header: Header, entry: Entry) -> None:
    """Refuse latents that another autoencoder made: they would decode to noise."""
    if (own := vae_of(entry)) != header.vae:
        raise SoraError(
            f"{path} was made with the autoencoder {header.vae[:12]} of {header.model}, but that of {entry.name} "
            f"is {own[:12]}; decode it with the model that made it (--model)"
        )


def carried(text: str) -> str:
    """The shot in a file's metadata as valid JSON; "" if it is not a shot."""
    try:
        return Shot.from_json(text).to_json()
    except SoraError:
        return ""


# ---- writing and reading ----------------------------------------------------------------------------------


def save(path: Path | str, latents: "Tensor", header: Header) -> None:
    """Latents [C, T, h, w] and their header, written whole or not at all; Failed if they are not finite."""
    check_shape(tuple(latents.shape), header)
    if not latents.isfinite().all():
        raise Failed("the latents are not finite; try --dtype float32, or verify the weights")
    weights.save(path, {TENSOR: latents}, to_strings(header))


def load(path: Path | str, first: int = 0, count: int | None = None) -> "tuple[Tensor, Header]":
    """`count` latents from `first` on (all that follow by default) [C, count, h, w], in the type they were
    saved in, and the header; nothing else is read. Failed if they are damaged or not finite."""
    from safetensors import SafetensorError, safe_open

    layout = read_layout(path)
    stop = layout.shape[1] if count is None else first + count
    assert 0 <= first < stop <= layout.shape[1], (first, count, layout.shape)
    try:
        with safe_open(path, framework="pt") as file:
            found: Tensor = file.get_slice(TENSOR)[:, first:stop]
    except (SafetensorError, OSError) as error:
        raise Failed(f"could not read the latents of {path}: {error}") from error
    if not found.isfinite().all():
        raise Failed(f"the latents of {path} are not finite; make them again")
    return found, layout.header


def read_header(path: Path | str) -> Header:
    """The header alone; SoraError if there is no such file, Failed if it holds no latents. No torch."""
    return read_layout(path).header


def read_layout(path: Path | str) -> Layout:
    """`read_header`, and the tensor's shape and type."""
    path = Path(path)
    if not path.is_file():
        raise SoraError(f"there is no file {path}")
    with reading(path) as file:
        try:
            return layout_of(path, *head(file, MOST_HEADER_BYTES))
        except SoraError as error:
            raise Failed(f"{path} is not a file of latents: {error}") from error


def layout_of(path: Path, found: Any, begin: int, size: int) -> Layout:
    """What the JSON of a safetensors header says of the one tensor, every claim checked."""
    tags = found.get("__metadata__") if isinstance(found, dict) else None
    if not isinstance(tags, dict) or tags.get("format") != FORMAT:
        raise SoraError(f"its header does not say {FORMAT}")
    listed, header = tensors(path, found, begin, size), from_strings(tags)
    if [stored.key for stored in listed] != [TENSOR]:
        raise SoraError(f"it must hold one tensor called {TENSOR}")
    dtype, shape = listed[0].dtype, listed[0].shape
    if dtype not in NUMBERS:
        raise SoraError(f"its numbers are of type {shortened(dtype)}; they must be one of {', '.join(NUMBERS)}")
    check_shape(shape, header)
    return Layout(header, shape, dtype)


def check_shape(shape: tuple[int, ...], header: Header) -> None:
    """Refuse a tensor that is not [C, T, h, w] of the header's length and canvas."""
    canvas = header.canvas
    due = header.latents, *(side // header.cell for side in (canvas.height, canvas.width))
    if len(shape) != 4 or not 1 <= shape[0] <= 256 or shape[1:] != due:
        raise SoraError(
            f"its latents are {lengths(shape)}, but those of {counted(header.frames, 'frame')} of "
            f"{header.width}x{header.height} are channels x {lengths(due)}"
        )


def to_strings(header: Header) -> dict[str, str]:
    values = asdict(header).items()
    return {"format": FORMAT} | {name: v if isinstance(v, str) else json.dumps(v) for name, v in values}


def from_strings(tags: Mapping[str, Any]) -> Header:
    """The inverse of `to_strings`; SoraError naming the field that is missing or of another type."""
    tags = LATER | dict(tags)
    kinds = {field.name: field.type for field in fields(Header)}
    if missing := [name for name in kinds if not isinstance(tags.get(name), str)]:
        raise SoraError(f"its header lacks {', '.join(missing)}")
    values: dict[str, Any] = {}
    for name, kind in kinds.items():
        pattern, read = READERS[kind]
        if not re.fullmatch(pattern, tags[name], re.DOTALL):
            raise SoraError(f"{name} cannot be {shortened(tags[name])} in its header")
        values[name] = read(tags[name])
    return Header(**values)


LATER = {"cell": "16", "pixels": "0", "clock": "-1.0"}  # fields that the first files did not have
READERS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    str: (r".*", str),
    int: (r"[0-9]{1,9}", int),
    float: (r"-?[0-9]{1,9}(\.[0-9]{1,20})?", float),
    bool: (r"true|false", "true".__eq__),
}


def check_hash(what: str, text: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise SoraError(f"{what} is {shortened(text)}, which is not a SHA-256 hash")


def shortened(text: str) -> str:
    """Untrusted text, quoted, escaped and shortened for one line."""
    return ascii(text)[:60]
