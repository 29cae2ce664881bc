"""LoRA: low-rank changes of a transformer, read from the files that people share, added to its weights as these load.

    W + strength * alpha / rank * B A

A and B are `lora_A, lora_B` where PEFT and diffusers wrote the file, `lora_down, lora_up` where others did. A module
has the name of diffusers or that of the model's authors, with dots or underscores, behind a prefix of the program that
trained it. Distilled models come as such files as well, with differences of whole tensors (`diff`, `diff_b`, `diff_m`)
among them, which are added too. What matches nothing is refused: half a LoRA is another one. Strangers wrote these
files, so that they are read as checkpoints are. torch is imported only where tensors are touched.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.files.headers import Change, Stored, label, lengths, shortened, some
from sora_cli.files.published import contents, files_of, read, read_json
from sora_cli.files.quantised import check_types
from sora_cli.shot import Lora

if TYPE_CHECKING:
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]  # of a network's parameters
Original = Callable[[str], str]  # a parameter's name -> what the model's authors call it

KEY = re.compile(r"(.+)\.(lora_A|lora_B|lora_down|lora_up|alpha|diff|diff_b|diff_m)(?:\.default)?(?:\.weight)?")
ROLES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up", "diff_b": "diff", "diff_m": "diff"}
LEAVES = {"diff_b": "bias", "diff_m": "modulation"}  # what is changed of a module; its weight where nothing is said
PREFIX = re.compile(
    r"(?:model_diffusion_model_|diffusion_model_|base_model_model_|transformer_|unet_|pipe_dit_|"
    r"lora_unet__?|lora_transformer_|lycoris_)*"
)
ADAPTER = "lora_adapter_metadata"  # in a header that diffusers wrote: the configuration of PEFT as JSON
BESIDE = "adapter_config.json"  # where PEFT keeps it
OTHER_KINDS = ("use_dora", "alpha_pattern")  # settings that make it something else


# ---- what is added ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LowRank:
    """B A, scaled; both are read when they are needed."""

    down: Stored  # [rank, in]; of a convolution [rank, in, ...]
    up: Stored  # [out, rank]
    scale: float

    def __call__(self, weight: "Tensor") -> None:
        down, up = (numbers(stored).flatten(1) for stored in (self.down, self.up))
        weight.flatten(1).addmm_(up, down, alpha=self.scale)

    def wrong(self, shape: tuple[int, ...]) -> bool:
        down, up = self.down.shape, self.up.shape
        inner = len(down) > 1 and len(up) > 1 and down[0] == up[1] and math.prod(up[2:]) == 1
        return not inner or up[0] != shape[0] or math.prod(down[1:]) != math.prod(shape[1:])


@dataclass(frozen=True)
class Difference:
    """All numbers of a tensor, scaled."""

    whole: Stored
    scale: float

    def __call__(self, weight: "Tensor") -> None:
        weight.add_(numbers(self.whole), alpha=self.scale)

    def wrong(self, shape: tuple[int, ...]) -> bool:
        return self.whole.shape != shape


def numbers(stored: Stored) -> "Tensor":
    import torch

    return read(stored, torch.float32, torch.device("cpu"))


# ---- to what ----------------------------------------------------------------------------------------------


def changes(loras: Sequence[Lora], shapes: Shapes, original: Original = str) -> dict[str, tuple[Change, ...]]:
    """What is added to which parameters of a network; nothing where the strength is 0. Only headers are read.

    SoraError, one line that names the file, how many of its tensors do not fit and the first of them; Failed if it is
    damaged."""
    found: dict[str, tuple[Change, ...]] = {}
    for lora in loras:
        for name, change in of_file(lora, shapes, original):
            if lora.strength:
                found[name] = (*found.get(name, ()), change)
    return found


def merged(tensors: Mapping[str, "Tensor"], loras: Sequence[Lora]) -> dict[str, "Tensor"]:
    """All weights of a network, those that are changed in float32; errors are those of `changes`."""
    import torch

    found = dict(tensors)
    for name, added in changes(loras, {name: tuple(value.shape) for name, value in tensors.items()}).items():
        found[name] = found[name].to("cpu", torch.float32, copy=True)
        for change in added:
            change(found[name])
    return found


def of_file(lora: Lora, shapes: Shapes, original: Original) -> Iterator[tuple[str, LowRank | Difference]]:
    """The changes of one file by the parameters that they are for, every one of them fitting."""
    path = file_of(lora)
    names = {flat(alias): name for name in shapes for alias in (name, original(name))}
    placed = [(place_of(stored.key, names), stored) for stored in contents(path)]
    if strange := [stored for place, stored in placed if place is None]:
        raise SoraError(f"{path} is no LoRA for this model: {len(strange)} of its {len(placed)} tensors match nothing "
                        f"in it, the first is {shortened(strange[0].key)}")  # fmt: skip
    parts: dict[str, dict[str, Stored]] = {}
    for place, stored in placed:
        assert place
        name, role = place
        if parts.setdefault(name, {}).setdefault(role, stored) is not stored:
            raise SoraError(f"{path} gives twice what it adds to {name}: {shortened(stored.key)}")
    if half := [name for name, part in parts.items() if ("up" in part) != ("down" in part) or part.keys() == {"alpha"}]:
        raise SoraError(f"{path} lacks a half of what it adds to {some(half)}; fetch it again")
    if not parts:
        raise SoraError(f"{path} holds no LoRA")
    check_types(stored for part in parts.values() for role, stored in part.items() if role != "alpha")
    found = list(scaled(path, parts, lora.strength))
    if wrong := [(name, change) for name, change in found if change.wrong(shapes[name])]:
        name, change = wrong[0]
        first = change.up if isinstance(change, LowRank) else change.whole
        raise SoraError(f"{path} is for a model of another size: {len(wrong)} of its {len(found)} changes do not fit, "
                        f"the first is {shortened(first.key)}, {lengths(first.shape)} beside {lengths(shapes[name])}")
    yield from found


def file_of(lora: Lora) -> Path:
    """The one safetensors file of a LoRA, which may be named by its folder; SoraError if there is none."""
    place = Path(lora.path).expanduser()
    if not place.exists():
        raise SoraError(f"there is no LoRA {lora.path}; write FILE or FILE:STRENGTH, as style.safetensors:0.8")
    files = files_of(place)
    if files[0].suffix == ".gguf":
        raise SoraError(f"{lora.path} is a GGUF; a LoRA is read from a .safetensors file")
    if len(files) > 1:
        raise SoraError(f"{lora.path} is in {len(files)} shards; a LoRA is one file")
    return files[0]


def flat(name: str) -> str:
    """A name as kohya's scripts write it: their files and others' are looked up alike."""
    return name.replace(".", "_")


def place_of(key: str, names: Mapping[str, str]) -> tuple[str, str] | None:
    """The parameter that a file's tensor is for, and as what; None if there is no such parameter."""
    if not (found := KEY.fullmatch(key)):
        return None
    module, kind = found.groups()
    name = names.get(PREFIX.sub("", flat(f"{module}.{LEAVES.get(kind, 'weight')}"), count=1))
    return (name, ROLES.get(kind, kind)) if name else None


def scaled(path: Path, parts: Mapping[str, Mapping[str, Stored]], strength: float
           ) -> Iterator[tuple[str, LowRank | Difference]]:  # fmt: skip
    alphas = numbers_of(path, {name: part["alpha"] for name, part in parts.items() if "alpha" in part})
    usual = told(path)
    for name, part in parts.items():
        if "diff" in part:
            yield name, Difference(part["diff"], strength)
        if "up" in part:
            rank = part["down"].shape[0] if part["down"].shape else 1
            share = alphas[name] / max(1, rank) if name in alphas else usual(max(1, rank))
            yield name, LowRank(part["down"], part["up"], strength * share)


def numbers_of(path: Path, places: Mapping[str, Stored]) -> dict[str, float]:
    """Tensors of one number each, of whatever type: alphas are often whole numbers."""
    from safetensors import safe_open

    for stored in places.values():
        if math.prod(stored.shape) != 1:
            raise SoraError(f"{label(stored)} is {lengths(stored.shape)}; an alpha is one number")
    with safe_open(path, framework="pt") as file:
        found = {name: float(file.get_tensor(stored.key)) for name, stored in places.items()}
    if bad := [places[name].key for name, value in found.items() if not math.isfinite(value)]:
        raise SoraError(f"{path} has an alpha that is no number: {some(bad)}")
    return found


# ---- what files say of themselves --------------------------------------------------------------------------


def told(path: Path) -> Callable[[int], float]:
    """Which share of B A is added at some rank, where a file has no alphas: PEFT keeps one in its configuration, and
    without any it is all of it. SoraError for kinds of LoRA that are not supported."""
    settings = configuration(path)
    if other := [name for name in OTHER_KINDS if settings.get(name)]:
        raise SoraError(f"{path} is a LoRA with {other[0]}, which is not supported; merge it into a plain one")
    alpha = settings.get("lora_alpha")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        return lambda rank: 1.0
    return lambda rank: alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def configuration(path: Path) -> dict[str, Any]:
    """PEFT's settings, from the header or from the file beside it; empty if there are none."""
    text = weights.read_header(path).metadata.get(ADAPTER)
    try:
        found = json.loads(text or "{}")
    except (ValueError, TypeError, RecursionError):
        found = {}
    if not found and path.name.startswith("adapter_model") and (beside := path.with_name(BESIDE)).is_file():
        found = read_json(beside)
    return {key.removeprefix("transformer."): value for key, value in found.items()} if isinstance(found, dict) else {}


def check(loras: Sequence[Lora]) -> None:
    """Refuse, before any work, files that are not there or damaged."""
    for lora in loras:
        contents(file_of(lora))


def note(lora: Lora) -> str:
    """What is used, and what it was trained for as far as it says so."""
    base = weights.read_header(file_of(lora)).metadata.get("base_model", "")
    return f"LoRA {lora.path} at {lora.strength:g}" + (f", trained on {shortened(str(base))}" if base else "")


def hashes(loras: Sequence[Lora]) -> list[str]:
    return [weights.hash_of(file_of(lora)) for lora in loras]
