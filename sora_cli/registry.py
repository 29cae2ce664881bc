"""The models that sora-cli knows: where their files are, under which licence, and how they are best used.

`weights.toml` has an entry for each. The files of a shipped model lie in the package; those of the others are
parts of repositories on the Hugging Face Hub, which `hub.py` fetches. No torch.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora_cli import geometry, networks, weights
from sora_cli.errors import Failed, SoraError
from sora_cli.networks import Network
from sora_cli.weights import AGAIN

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = Path(__file__).parent
TEXT = "umt5"  # the kind of an entry that is a text encoder for others, and no model


@dataclass(frozen=True)
class WeightFile:
    """A file of a shipped model."""

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """What one network of a Hub model is made of: files in one folder of a repository."""

    role: str  # dit, vae, text or tokenizer
    repo: str
    revision: str
    folder: str  # "" for the root
    bytes: int  # about
    names: tuple[str, ...] = ("*.safetensors", "*.safetensors.index.json", "config.json")
    sha256: tuple[tuple[str, str], ...] = ()  # (name, hash) of files whose hashes are known


@dataclass(frozen=True)
class Usage:
    """How a model is best used, where the user does not say. Sizes in pixels."""

    width: int = 1280
    height: int = 720
    fps: float = 24.0
    frames: int = 120
    steps: int = 8
    guidance: float = 3.0
    negative: str = ""
    plan: str = "hierarchy"
    solver: str = "euler"
    shift: float | None = None  # of the noise levels; None: by the number of tokens
    context: int = 4  # known latent frames that a window of a long video goes on from
    known_noise: int = 0  # timestep, of 1000, that known frames are noised to and told as
    trained: tuple[str, ...] = ("start", "end", "extend", "middle", "loop", "reverse")  # the anchors it knows


@dataclass(frozen=True)
class Entry:
    """A model of the registry, or one that a folder or a repository holds."""

    name: str
    kind: str  # the architecture: sora, wan; or umt5, the text encoder of the latter
    about: str
    files: tuple[WeightFile, ...] = ()  # of a shipped model, sorted by name
    parts: tuple[Part, ...] = ()  # of a Hub model, with those of its text encoder
    licence: str = "Apache-2.0"
    licence_url: str = ""
    accept: bool = False  # whether the licence has to be accepted before the first use
    parameters: float = 0  # of the transformer
    memory: float = 0  # bytes on a GPU, as its authors measured
    speed: str = ""  # and how fast
    cell: int = geometry.SPACE_STRIDE  # pixels along each side of a latent cell
    usage: Usage = Usage()
    network: Network | None = None  # of a Hub model

    def canvas(self, width: int, height: int) -> geometry.Canvas:
        """The size that this model makes for a video of width x height pixels."""
        if self.kind == "sora":
            return geometry.canvas(width, height)
        return geometry.canvas_within(width, height, self.cell, self.usage.width * self.usage.height)

    def part(self, stem: str) -> tuple[WeightFile, ...]:
        """The file or the shards of one part of a shipped model: `text`, `vae`, `dit`, `evaluator`."""
        return tuple(file for file in self.files if weights.stem_of(file.path) == stem)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files) + sum(part.bytes for part in self.parts)


def registry_path() -> Path:
    """weights.toml: inside the package (wheel), or beside it (checkout, editable install)."""
    for path in (PACKAGE / "weights.toml", PACKAGE.parent / "weights.toml"):
        if path.is_file():
            return path
    raise Failed(f"weights.toml is missing from {PACKAGE}; {AGAIN}")


@cache
def registry() -> dict[str, Entry]:
    return read_registry(tomllib.loads(registry_path().read_text(encoding="utf-8")))


def read_registry(told: Mapping[str, Any]) -> dict[str, Entry]:
    """Entries from the content of a weights.toml; a model names its text encoder's entry as `text`."""
    return {name: read_entry(name, model, told) for name, model in told.items()}


def read_entry(name: str, model: Mapping[str, Any], others: Mapping[str, Any]) -> Entry:
    plain = {field.name for field in fields(Entry)} - {"name", "files", "parts", "usage", "network"}
    text = others[model["text"]] if "text" in model else {}
    parts = [*model.get("parts", ()), *text.get("parts", ())]
    usage: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in model.get("usage", {}).items()}
    return Entry(
        name,
        files=read_files(model),
        parts=tuple(read_part(part) for part in parts),
        usage=Usage(**usage),
        network=read_network(model.get("network", {}) | text.get("network", {})),
        **{key: value for key, value in model.items() if key in plain},
    )


def read_files(model: Mapping[str, Any]) -> tuple[WeightFile, ...]:
    folder = PACKAGE / model.get("folder", "")
    files = (WeightFile(folder / file["name"], file["bytes"], file["sha256"]) for file in model.get("files", ()))
    return tuple(sorted(files, key=lambda file: file.path))


def read_part(part: Mapping[str, Any]) -> Part:
    told = {"revision": "main", "folder": ""} | dict(part)
    told["sha256"] = tuple(sorted(told.get("sha256", {}).items()))
    if "names" in told:
        told["names"] = tuple(told["names"])
    return Part(**told)


def read_network(told: Mapping[str, Any]) -> Network | None:
    """The sizes of a model and its text encoder; None where one of them is not told, as for the encoder itself."""
    kinds = {"dit": networks.Dit, "vae": networks.Vae, "text": networks.Text}
    if not told.keys() >= kinds.keys():
        return None
    return Network(**{role: kind(**told[role]) for role, kind in kinds.items()})


def names() -> list[str]:
    """The models that can be asked for by name."""
    return [name for name, model in registry().items() if model.kind != TEXT]


def entry(name: str) -> Entry:
    """The model called `name`; SoraError naming the known ones."""
    if name not in registry():
        raise SoraError(f"unknown model {name!r}; known are: {', '.join(names())}")
    return registry()[name]


# ---- shipped models ---------------------------------------------------------------------------------------


def verify(model: Entry) -> None:
    """Every file of a shipped model is there and unchanged; Failed naming the first that is not."""
    if not model.files:
        raise Failed(f"no weights are registered for {model.name}; {AGAIN}")
    for file in model.files:
        weights.check(file.path, file.sha256, file.bytes)


def load_model_files(model: str, stem: str) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """One part of a shipped model, verified against the registry: all its tensors and its header."""
    files = entry(model).part(stem)
    if not files:
        raise Failed(f"model {model} has no part {stem!r} in weights.toml; {AGAIN}")
    return weights.merge([weights.load(file.path, file.sha256) for file in files])
