"""LoRA: low-rank changes of a transformer, read from the files that people share, added to its weights as these load.

    W + strength * alpha / rank * B A

A and B are `lora_A, lora_B` where PEFT and diffusers wrote the file, `lora_down, lora_up` where others did. A module
has the name of diffusers or that of the model's authors, with dots or underscores, behind a prefix of the program that
trained it. Distilled models come as such files as well, with differences of whole tensors (`diff`, `diff_b`, `diff_m`)
among them, which are added too. What matches nothing is refused: half a LoRA is another one. Strangers wrote these
files, so that they are read as checkpoints are. torch is imported only where tensors are touched.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sora_cli.errors import SoraError, counted
from sora_cli.files import weights
from sora_cli.files.headers import Stored, WeightDelta, contents, label, lengths, shortened, some
from sora_cli.files.published import PIECE, files_of, read
from sora_cli.files.quantised import check_types
from sora_cli.registry.families import Shapes
from sora_cli.registry.lora_settings import scale_rule
from sora_cli.shot import Lora

if TYPE_CHECKING:
    from torch import Tensor

Original = Callable[[str], str]  # a parameter's name -> what the model's authors call it

KEY = re.compile(
    r"(.+?)\.(?:(lora_A|lora_B|lora_down|lora_up)(?:\.(?!bias$)[^.]+?)??|lora(?:_linear_layer)?\.(down|up)|(alpha|diff|diff_b|diff_m))"
    r"(?:\.weight)?"
)  # fmt: skip
ROLES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up", "diff_b": "diff", "diff_m": "diff"}
LEAVES = {"diff_b": "bias", "diff_m": "modulation"}  # what is changed of a module; its weight where nothing is said
WRAPPED = re.compile(r"_*(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module|forward_module|base_layer)_")
PREFIX = re.compile(  # of programs and their wrappers, any of them behind one another
    r"_*(?:backbone|base_model|denoiser|diffusion_model|dit|ema|ema_model|generator|lora|lora_unet|lycoris|model|module|"
    r"net|network|pipe|pipeline|student|transformer(?:_2)?|unet|wan)_+"
)
# of the branch of Wan 2.1 I2V for the features of an image encoder, which 2.2 does without
IMAGE = re.compile(r".*(?:[kv]_img|img_emb|image_embedder|add_[kv]_proj|norm_added_k)[._]")
SECOND = re.compile(r"(?:.*[._])?transformer_2[._]")  # what names of the transformer for low noise begin with
NAMELESS = "; its shapes would fit, but its names follow no known convention"
BASES = ("base_model", "ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")
# names of tensors that make it something else
UNSUPPORTED = (("lokr_", "a LoKr"), ("hada_", "a LoHa"), ("oft_", "an OFT"), ("boft_", "a BOFT"),
               ("vera_lambda", "a VeRA"), ("dora_scale", "a DoRA"), ("lora_magnitude_vector", "a DoRA"),
               ("on_input", "an IA3"), ("lora_mid", "a LoCon with a middle factor"))  # fmt: skip


@dataclass(frozen=True)
class File:
    """A LoRA's file: what its header says, and its tensors."""

    path: Path
    header: Mapping[str, str]
    listed: Sequence[Stored]

    @classmethod
    def of(cls, path: Path) -> "File":
        """Failed if it is damaged."""
        return cls(path, *contents(path))

    @property
    def modules(self) -> dict[str, dict[str, Stored]]:
        """The tensors by the modules that they name, and by what they are."""
        parts: dict[str, dict[str, Stored]] = {}
        for stored in self.listed:
            if found := parsed(stored.key):
                parts.setdefault(found[0], {})[found[2]] = stored
        return parts


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
class FullDelta:
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


def changes(
    loras: Sequence[Lora], shapes: Shapes, original: Original = str, expert: str = ""
) -> dict[str, tuple[WeightDelta, ...]]:
    """What LoRAs add to the parameters of a network, by name; nothing at strength 0. Only headers are read. `expert`:
    which of two transformers the network is ("high" or "low"), "" if there is one.

    SoraError, one line that names the file, how many of its tensors do not fit and the first of them; Failed if it is
    damaged."""
    found: dict[str, tuple[WeightDelta, ...]] = {}
    for lora in loras:
        for name, change in of_file(lora, shapes, original, expert) if lora.expert in ("", expert) else ():
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


def of_file(lora: Lora, shapes: Shapes, original: Original, expert: str = ""
            ) -> Iterator[tuple[str, LowRank | FullDelta]]:  # fmt: skip
    """The changes of one file by the parameters that they are for, every one of them fitting."""
    file = File.of(path := file_of(lora))
    names = {flat(alias): name for name in shapes for alias in (name, original(name))}
    listed = of_expert(file, expert)
    if not listed and file.listed:  # it is all for the other one
        if lora.expert:
            raise SoraError(f"{path} has nothing for the transformer for {lora.expert} noise")
        return
    if sees_pictures(shapes):
        listed = [stored for stored in listed if not IMAGE.match(stored.key)]
    matched = [(parameter_of(stored.key, names), stored) for stored in listed]
    if unmatched := [stored for target, stored in matched if target is None]:
        if kind := next((kind for mark, kind in UNSUPPORTED for stored in unmatched if f".{mark}" in stored.key), ""):
            raise SoraError(f"{path} is {kind}, which is not supported; convert it to a plain LoRA")
        match = "matches" if len(unmatched) == 1 else "match"
        nameless = len(unmatched) == len(matched) and fitting(unmatched, shapes)
        raise SoraError(f"{path} is not a LoRA for this model: {len(unmatched)} of its "
                        f"{counted(len(matched), 'tensor')} {match} nothing in it, the first is "
                        f"{shortened(unmatched[0].key)}{NAMELESS if nameless else ''}")  # fmt: skip
    parts: dict[str, dict[str, Stored]] = {}
    for target, stored in matched:
        assert target
        name, role = target
        if parts.setdefault(name, {}).setdefault(role, stored) is not stored:
            raise SoraError(f"{path} changes {name} twice: {shortened(stored.key)}")
    if half := [name for name, part in parts.items() if ("up" in part) != ("down" in part) or part.keys() == {"alpha"}]:
        raise SoraError(f"{path} lacks a factor for {some(half)}; fetch it again")
    if not parts:
        raise SoraError(f"{path} holds no LoRA")
    check_types((stored for part in parts.values() for role, stored in part.items() if role != "alpha"), "F64")
    if flat_ones := [name for name, part in parts.items() if "up" in part and len(shapes[name]) < 2]:
        raise SoraError(f"{path} has factors for {some(flat_ones)}, which is not a matrix; only matrices have factors")
    found = list(scaled(file, parts, lora.strength, expert))
    if wrong := [(name, change) for name, change in found if change.wrong(shapes[name])]:
        name, change = wrong[0]
        first = change.up if isinstance(change, LowRank) else change.whole
        do = "does" if len(wrong) == 1 else "do"
        raise SoraError(f"{path} is for a model of another size: {len(wrong)} of its {counted(len(found), 'change')} "
                        f"{do} not fit, the first is {shortened(first.key)}, {lengths(first.shape)} for "
                        f"{lengths(shapes[name])}")  # fmt: skip
    yield from found


def of_expert(file: File, expert: str) -> Sequence[Stored]:
    """The tensors of a file that are for one of two transformers, or for the only one. Files of diffusers that have
    both say so by `transformer.` and `transformer_2.`; all others are for either."""
    listed, second = file.listed, [bool(SECOND.match(stored.key)) for stored in file.listed]
    if any(second) and not expert:
        raise SoraError(f"{file.path} is for a model with two transformers, transformer and transformer_2")
    if not any(second):
        return listed
    return [stored for stored, is_second in zip(listed, second, strict=True) if is_second == (expert == "low")]


def sees_pictures(shapes: Shapes) -> bool:
    """Whether a transformer takes more channels than it makes: those of what is given."""
    first, last = (shapes.get(name, ()) for name in ("patch_embedding.weight", "proj_out.weight"))
    return len(first) == 5 and len(last) == 2 and math.prod(first[1:]) > last[0]


def left_out(lora: Lora) -> int:
    """Tensors of a file that are for an image encoder's features."""
    return sum(bool(IMAGE.match(stored.key)) for stored in File.of(file_of(lora)).listed)


def check_alone(loras: Sequence[Lora], model: str) -> None:
    """Refuse LoRAs that are for one of two transformers, of a model that has one."""
    if one := next((lora for lora in loras if lora.expert), None):
        raise SoraError(f"{model} has one transformer; write --lora {one.path} without {one.expert}:")


def fitting(unmatched: Sequence[Stored], shapes: Shapes) -> bool:
    """Whether tensors of unknown names have the sizes of a network's matrices."""
    sizes = {size for shape in shapes.values() if len(shape) == 2 for size in shape}
    pairs = [stored.shape for stored in unmatched if len(stored.shape) == 2]
    return bool(pairs) and all(max(shape) in sizes for shape in pairs)


def file_of(lora: Lora) -> Path:
    """The one safetensors file of a LoRA, which may be named by its folder; SoraError if there is none."""
    path = Path(os.path.expanduser(lora.path))
    if not path.exists():
        raise SoraError(f"there is no LoRA {lora.path}; write FILE or FILE:STRENGTH, such as style.safetensors:0.8")
    files = files_of(path)
    if files[0].suffix == ".gguf":
        raise SoraError(f"{lora.path} is a GGUF; a LoRA must be a .safetensors file")
    if len(files) > 1:
        raise SoraError(f"{lora.path} is in {len(files)} shards; a LoRA must be one file")
    return files[0]


def flat(name: str) -> str:
    """A name as kohya's scripts write it: their files and others' are looked up alike."""
    return name.replace(".", "_")


def parsed(key: str) -> tuple[str, str, str] | None:
    """The module that a file's tensor is for, what is changed of it, and as what; None for a name that is no LoRA's."""
    if not (found := KEY.fullmatch(key)):
        return None
    kind = next(filter(None, found.groups()[1:]))
    return found[1], LEAVES.get(kind, "weight"), ROLES.get(kind, kind)


def parameter_of(key: str, names: Mapping[str, str]) -> tuple[str, str] | None:
    """The parameter that a file's tensor is for, and as what; None if there is no such parameter."""
    if not (found := parsed(key)):
        return None
    module, leaf, role = found
    rest = WRAPPED.sub("_", flat(f"{module}.{leaf}")).lstrip("_")
    while rest not in names:
        if not (prefix := PREFIX.match(rest)):
            return None
        rest = rest[prefix.end() :]
    return names[rest], role


def scaled(file: File, parts: Mapping[str, Mapping[str, Stored]], strength: float, expert: str
           ) -> Iterator[tuple[str, LowRank | FullDelta]]:  # fmt: skip
    found = scales(file, parts, expert)
    for name, part in parts.items():
        if "diff" in part:
            yield name, FullDelta(part["diff"], strength)
        if "up" in part:
            yield name, LowRank(part["down"], part["up"], strength * found[name])


def scales(file: File, parts: Mapping[str, Mapping[str, Stored]], expert: str = "") -> dict[str, float]:
    """alpha / rank of everything that is low-rank: by its own alpha, or else by what the file says of itself, perhaps
    for one of two transformers."""
    alphas = numbers_of(file.path, {name: part["alpha"] for name, part in parts.items() if "alpha" in part})
    ranks = {name: max(1, part["down"].shape[0] if part["down"].shape else 1) for name, part in parts.items()
             if "down" in part}  # fmt: skip
    without_alpha = {rank for name, rank in ranks.items() if name not in alphas}
    scale_of = scale_rule(file.path, file.header, without_alpha, expert)
    return {name: alphas[name] / rank if name in alphas else scale_of(rank) for name, rank in ranks.items()}


def numbers_of(path: Path, tensors: Mapping[str, Stored]) -> dict[str, float]:
    """Tensors of one number each, of whatever type: alphas are often whole numbers."""
    for stored in tensors.values():
        if math.prod(stored.shape) != 1:
            raise SoraError(f"{label(stored)} is {lengths(stored.shape)}; an alpha must be one number")
    loaded = weights.load_tensors(path, [stored.key for stored in tensors.values()])
    found = {name: float(loaded[stored.key]) for name, stored in tensors.items()}
    if bad := [tensors[name].key for name, value in found.items() if not math.isfinite(value)]:
        raise SoraError(f"{path} has an alpha that is not a finite number: {some(bad)}")
    return found


# ---- before any work, and what is said of them ----------------------------------------------------------------


def check(loras: Sequence[Lora]) -> None:
    """Refuse, before any work, files that are not there or damaged."""
    for lora in loras:
        file = File.of(file_of(lora))
        scales(file, file.modules)


def note(lora: Lora) -> str:
    """What is used and how much of it, and what it was trained for as far as it says so."""
    file = File.of(file_of(lora))
    base = next((file.header[key] for key in BASES if file.header.get(key)), "")
    parts = file.modules
    found = scales(file, parts)
    used = sorted(set(found.values()))
    share = f", alpha / rank {' to '.join(f'{one:g}' for one in (used[0], used[-1])[: len(used)])}" if used else ""
    idle = not any(changes_something(part, found.get(name, 1.0)) for name, part in parts.items())
    return (f"LoRA {lora} at {lora.strength:g}{share}" + (f", trained on {shortened(str(base))}" if base else "")
            + (", which changes nothing: all its changes are 0" if idle else ""))  # fmt: skip


def changes_something(part: Mapping[str, Stored], share: float) -> bool:
    """Whether what is added to a module is anything but zeros; only as much is read as it takes to know."""
    factors = [part[role] for role in ("up", "down") if role in part]
    return ("diff" in part and any_number(part["diff"])) or (bool(factors and share) and all(map(any_number, factors)))


def any_number(stored: Stored) -> bool:
    """Whether a tensor has a number that is not 0."""
    with stored.path.open("rb") as file:
        file.seek(stored.start)
        pieces = (file.read(min(PIECE, stored.bytes - at)) for at in range(0, stored.bytes, PIECE))
        return any(piece.strip(b"\x00\x80") for piece in pieces)  # nor -0


def hashes(loras: Sequence[Lora]) -> list[str]:
    return [weights.hash_of(file_of(lora)) for lora in loras]
