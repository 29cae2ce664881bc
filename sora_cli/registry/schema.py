"""What a model of the registry is, and what may stand in a weights.toml: its keys, the types of their values, and what
must go together. No torch."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from sora_cli import geometry
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.registry import networks
from sora_cli.registry.networks import Network
from sora_cli.shot import PLANS

TEXT = "umt5"  # the kind of an entry that is a text encoder for others, and no model
TINY = "tiny"  # the kind, and the role, of a tiny decoder that models share: for previews and drafts
SHARED = ("text", TINY)  # keys of a model that name the entries of what it shares with others
KINDS = ("sora", "wan", TEXT, TINY)
NEEDED = ("dit", "vae", "text", "tokenizer")  # parts of a Hub model that it cannot do without
ROLES = (*NEEDED, "dit_low", "lora", "lora_low")
EXPERTS = {"dit": "high", "dit_low": "low"}  # the noise that each of two transformers is for, where there are two
LORAS = {"lora": "high", "lora_low": "low"}  # the transformer that a LoRA of the model's own is merged into
REPOSITORY = re.compile(r"(?!.*(?:--|\.\.|\.git\Z))\w[\w.-]*/\w[\w.-]*(?<![.-])", re.ASCII)  # as the Hub names them
DISTILLED = ("dmd", "lightx2v")  # solvers of networks that were distilled to a few steps
SOLVERS = ("euler", "unipc", *DISTILLED)  # that sampling.solvers.solve knows
CHOICES = {"role": (*ROLES, TINY), "solver": SOLVERS, "plan": PLANS}

EVERYTHING = ("start", "end", "middle", "extend", "loop", "gaps", "fps", "cues")
NETWORK = ("*.safetensors", "*.safetensors.index.json", "config.json")


# ---- what a model is --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightFile:
    """A file of a shipped model."""

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """What one network of a model is made of: files in one folder of a repository, or in one of this machine."""

    role: str  # one of schema.ROLES
    repo: str
    revision: str
    folder: str  # "" for the root
    bytes: int  # about
    names: tuple[str, ...] = NETWORK
    sha256: tuple[tuple[str, str], ...] = ()  # (name in the folder, hash) of files whose hashes are known
    path: Path | None = None  # the folder, or the file, of a model that is no repository's


@dataclass(frozen=True)
class SamplingDefaults:
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
    window: int = 8  # latent frames made together, as many as the longest training clips had
    context: int = 4  # of which so many are given where a window goes on from others
    known_noise: int = 0  # timestep, of 1000, of given frames; 1000: that of the others
    boundary: float = 0.0  # noise level, from which on the transformer for high noise is used; 0: there is one alone
    guidance_low: float = 0.0  # below that level; 0: the same as above it
    conditioned: bool = False  # whether given frames come in channels of their own, without which it makes nothing
    trained: tuple[str, ...] = EVERYTHING  # what it may be asked for beyond a prompt
    grammar: bool = False  # whether its captions were those of the rendered world
    bar: float = 0.0  # seconds after which the world that it knows repeats itself; 0: it does not
    fastest: float = 30.0  # frames a second that it was trained for, where it was trained for several rates

    @property
    def distilled(self) -> bool:
        """Whether the transformer was distilled to a few steps."""
        return self.solver in DISTILLED

    def rate(self, fps: float) -> float:
        """What a video for `fps` is made at: the model's own, or an even part of it if it was trained for others."""
        return fps / math.ceil(fps / self.fastest) if "fps" in self.trained else self.fps


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
    usage: SamplingDefaults = SamplingDefaults()
    network: Network | None = None  # of a Hub model
    sought: str = ""  # of a model of single files: what was looked for, and where
    tiny: Part | None = None  # a tiny decoder of its latents, which it can do without

    def __reduce__(self) -> tuple[Callable[[str], "Entry"], tuple[str]]:
        """It travels to other machines by its name, and is looked up there: that is where its files lie then."""
        from sora_cli.registry import entry

        return entry, (self.name,)

    def canvas(self, width: int, height: int) -> geometry.Canvas:
        """The size that this model makes for a video of width x height pixels."""
        if self.kind == "sora":
            return geometry.canvas(width, height)
        return geometry.canvas_within(width, height, self.cell, self.usage.width * self.usage.height)

    def part(self, stem: str) -> tuple[WeightFile, ...]:
        """The file or the shards of one part of a shipped model: `text`, `vae`, `dit`, `evaluator`."""
        return tuple(file for file in self.files if weights.stem_of(file.path) == stem)

    def only(self, *roles: str) -> "Entry":
        """The model with these networks alone, so that no others are fetched."""
        return replace(self, parts=tuple(part for part in self.whole.parts if part.role in roles), tiny=None)

    @property
    def whole(self) -> "Entry":
        """The model with all that there is for it."""
        return replace(self, parts=(*self.parts, self.tiny), tiny=None) if self.tiny else self

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files) + sum(part.bytes for part in self.parts)


# ---- what its table may say -------------------------------------------------------------------------------


def keys_of(kind: type) -> dict[str, type]:
    """The fields of a dataclass as a table has them: tuples are lists, paths are texts, dataclasses tables."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        one = get_args(hint)[0] if NoneType in get_args(hint) else hint
        plain = get_origin(one) or one
        found[name] = dict if is_dataclass(plain) else {tuple: list, Path: str}.get(plain, plain)
    return found


FILE_KEYS = {"name": str, "bytes": int, "sha256": str}
PART_KEYS = keys_of(Part) | {"sha256": dict}
USAGE_KEYS = keys_of(SamplingDefaults)
APART = ("name", "files", "parts", "tiny", "usage", "network", "sought")  # fields of an entry that are no plain keys
PLAIN = {key: kind for key, kind in keys_of(Entry).items() if key not in APART}
MODEL_KEYS = PLAIN | {"folder": str, "files": list, "parts": list, "text": str, TINY: str, "like": str, "usage": dict,
                      "network": dict}  # fmt: skip
TEXT_LISTS = ("names", "trained")
TYPES = {
    str: "a string", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a table",
}  # fmt: skip


def check_model(name: str, model: object) -> None:
    """The table of one model has the keys that it must have, no others, and values of their types."""
    check_table(f"[{name}]", model, MODEL_KEYS, ("kind", "about"))
    assert isinstance(model, dict)
    if model["kind"] not in KINDS:
        raise SoraError(f"[{name}] has kind = {model['kind']!r}; known kinds: {', '.join(KINDS)}")
    if bool(model.get("files")) == bool(model.get("parts")):
        raise SoraError(f"[{name}] needs either files (on this machine) or parts (of a repository)")
    check_table(f"[{name}] usage", model.get("usage", {}), USAGE_KEYS)
    if model["kind"] == "wan" and not model.get("usage") and "like" not in model:
        raise SoraError(f"[{name}] needs usage, or `like` naming a shipped model")
    check_table(f"[{name}] network", model.get("network", {}), dict.fromkeys(networks.KINDS, dict))
    for role, table in model.get("network", {}).items():
        check_table(f"[{name}] network {role}", table, *networks.keys_of(role))
    for file in model.get("files", ()):
        check_table(f"[{name}] files", file, FILE_KEYS, tuple(FILE_KEYS))
    for part in model.get("parts", ()):
        check_table(f"[{name}] parts", part, PART_KEYS, ("role",) if "path" in part else ("role", "repo", "bytes"))
        if "path" not in part and not REPOSITORY.fullmatch(part["repo"]):
            raise SoraError(f"[{name}] parts has repo = {part['repo']!r}; it must look like OWNER/NAME")


def check_whole(model: Entry) -> None:
    """A model has all its networks, once, and something to make in every window."""
    name, usage, roles = model.name, model.usage, [part.role for part in model.parts]
    if not usage.context < usage.window:
        raise SoraError(f"[{name}] usage has context = {usage.context}; it must be less than window, which is "
                        f"{usage.window}")  # fmt: skip
    for role in ROLES if model.kind == "wan" else ():
        if role in NEEDED and role not in roles:
            hint = "; text = \"umt5-xxl\" names the shared one" if role in ("text", "tokenizer") else ""
            raise SoraError(f"[{name}] has no part with role = {role!r}{hint}")
        if roles.count(role) > 1:
            raise SoraError(f"[{name}] has several parts with role = {role!r}; keep one")
    if ("dit_low" in roles) != (0 < usage.boundary < 1):
        raise SoraError(f"[{name}] usage has boundary = {usage.boundary:g}; with a part of role 'dit_low' it must be "
                        "between 0 and 1, without one it must be left out")  # fmt: skip
    if "lora_low" in roles and "dit_low" not in roles:
        raise SoraError(f"[{name}] has a part with role = 'lora_low', but no 'dit_low' to merge it into")


def shared_parts(name: str, model: Mapping[str, Any], others: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of entries that several models share, of which the model has no own."""
    own = {part["role"] for part in model.get("parts", ())}
    for key in SHARED:
        if key in model and model[key] not in others:
            raise SoraError(f"[{name}] has {key} = {model[key]!r}, but there is no such entry")
        found = others[model[key]].get("parts", ()) if key in model else ()
        yield from (part for part in found if part["role"] not in own)


def check_table(where: str, table: object, keys: Mapping[str, type], needed: Sequence[str] = ()) -> None:
    if not isinstance(table, dict):
        raise SoraError(f"{where} must be a table of {', '.join(keys)}")
    for key in needed:
        if key not in table:
            raise SoraError(f"{where} lacks {key}")
    for key, value in table.items():
        if key not in keys:
            raise SoraError(f"{where} has an unknown key {key}; known keys: {', '.join(keys)}")
        right = (int, float) if keys[key] is float else keys[key]
        if not isinstance(value, right) or isinstance(value, bool) and keys[key] is not bool:
            raise SoraError(f"{where} has {key} = {value!r}; it must be {TYPES[keys[key]]}")
        if key in CHOICES and value not in CHOICES[key]:
            raise SoraError(f"{where} has {key} = {value!r}; known {key}s: {', '.join(CHOICES[key])}")
        if key in TEXT_LISTS and not all(isinstance(item, str) for item in table[key]):
            raise SoraError(f"{where} has {key} = {value!r}; it must be a list of strings")
