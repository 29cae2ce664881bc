"""The models that sora-cli knows: where their files are, under which licence, and how they are best used.

`weights.toml` has an entry for each. The files of a shipped model lie in the package; those of the others are
parts of repositories on the Hugging Face Hub, which `hub` fetches. Users add their own in a file of the same form, and
may name a folder or a repository instead. No torch.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora_cli.errors import Failed, SoraError, meant
from sora_cli.files import published, weights
from sora_cli.files.weights import AGAIN
from sora_cli.registry import networks, schema
from sora_cli.registry.schema import NETWORK, ROLES, TEXT, TINY, Entry, Part, SamplingDefaults, WeightFile

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = Path(__file__).parent.parent
PAGE = re.compile(  # of a repository of models, perhaps at a revision; none of a file, a space or a data set
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?!(?:spaces|datasets|collections|papers|docs|api)/)"
    r"([\w.-]+/[\w.-]+)(?:/tree/([^/?#]+)(?:/[\w./-]*)?)?/?(?:[?#]\S*)?"
)
HUB = "hf:"  # what the name of a model on the Hub, but not of the registry, begins with
EXPORTED = "weights.toml"  # of a folder that `train export` made: one entry of the registry's form
MAIN, UNKNOWN = "main", "unknown"

# of the networks of a model: the folders of the diffusers layout, and what has to be in those of the text encoder
FOLDERS = {"dit": "transformer", "vae": "vae", "text": "text_encoder", "tokenizer": "tokenizer"}
TEXT_FILES = {"text": "config.json", "tokenizer": "tokenizer.json"}
NAMES = dict.fromkeys(ROLES, NETWORK) | {"tokenizer": ("tokenizer.json",)}


@cache
def shipped() -> dict[str, Any]:
    """weights.toml: inside the package (wheel), or beside it (checkout, editable install)."""
    for path in (PACKAGE / "weights.toml", PACKAGE.parent / "weights.toml"):
        if path.is_file():
            return tomllib.loads(path.read_text(encoding="utf-8"))
    raise Failed(f"weights.toml is missing from {PACKAGE}; {AGAIN}")


@cache
def registry() -> dict[str, Entry]:
    return read_registry(shipped(), {}, PACKAGE)


def names() -> list[str]:
    """The models that can be asked for by name; the users' own last."""
    return [name for name, model in (registry() | own()).items() if model.kind not in (TEXT, TINY)]


def entry(name: str) -> Entry:
    """The model called `name`, or that of a file, a folder (`./name`) or a repository (`hf:owner/name@revision`).

    SoraError for any other. The users' own file is read only where no shipped model has the name, so that a mistake
    in it stands in the way of no other model."""
    if name in registry():
        return registry()[name]
    from sora_cli.registry import comfy, layouts  # which know of entries

    if page := PAGE.fullmatch(name):
        return layouts.of_repository(HUB + "@".join(filter(None, page.groups())))
    if name.startswith(HUB):
        return layouts.of_repository(name)
    if name.endswith(published.SINGLE) and "://" not in name and not Path(os.path.expanduser(name)).is_dir():
        return comfy.of_file(name)
    if "/" in name or os.sep in name or name.startswith((".", "~")):
        return layouts.of_folder(name)
    if name not in own():
        others = f"known models: {', '.join(names())}; or give FILE, ./FOLDER or {HUB}OWNER/NAME"
        raise SoraError(f"unknown model {name!r}{meant(name, names())}; {others}")
    return own()[name]


# ---- tables -----------------------------------------------------------------------------------------------


def config_folder() -> Path:
    """The folder of the users' own models, and of the record of downloads."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sora-cli"


def own() -> dict[str, Entry]:
    """The users' own models; errors are those of `read_file`."""
    path = config_folder() / "weights.toml"
    return read_file(path, shipped()) if path.is_file() else {}


def read_file(path: Path, others: Mapping[str, Any]) -> dict[str, Entry]:
    """The models of a weights.toml beside `others`; SoraError naming the file and what is wrong in it."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        if taken := [name for name in tables if name in others]:
            raise SoraError(f"{taken[0]} is the name of a shipped model; give yours another name")
        return read_registry(tables, others, path.parent)
    except (OSError, ValueError, RecursionError, SoraError) as error:
        raise SoraError(f"{path}: {error}") from error


def read_registry(tables: Mapping[str, Any], others: Mapping[str, Any], home: Path) -> dict[str, Entry]:
    """Entries from the content of a weights.toml that lies at `home`; SoraError for what does not belong there.

    A model names its text encoder's entry as `text`, which may be one of `others`, and as `like` the shipped model
    that it is used like."""
    for name, model in tables.items():
        schema.check_model(name, model)
    return {name: read_entry(name, model, {**others, **tables}, home) for name, model in tables.items()}


def read_entry(name: str, model: Mapping[str, Any], others: Mapping[str, Any], home: Path) -> Entry:
    model = completed(name, model)
    parts = [read_part(part, home) for part in (*model.get("parts", ()), *schema.shared_parts(name, model, others))]
    apart = [part for part in parts if part.role == TINY and model["kind"] != TINY]
    shared = others.get(model.get("text", ""), {}).get("network", {})
    usage: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in model.get("usage", {}).items()}
    read = Entry(
        name,
        files=read_files(model, home),
        parts=tuple(part for part in parts if part not in apart),
        tiny=apart[0] if apart else None,
        usage=SamplingDefaults(**usage),
        network=networks.read(name, model.get("network", {}) | shared),
        **{key: value for key, value in model.items() if key in schema.PLAIN},
    )
    schema.check_whole(read)
    return read


def completed(name: str, model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table of a model, with the values of the shipped one that it is `like` where it has none of its own."""
    if "like" not in model:
        return model
    alike = [other for other, table in shipped().items() if table["kind"] == model["kind"]]
    if model["like"] not in alike:
        raise SoraError(f"[{name}] has like = {model['like']!r}; of its kind: {', '.join(alike) or 'none'}")
    like = completed(model["like"], shipped()[model["like"]])
    taken = {key: like[key] for key in ("cell", *schema.SHARED) if key in like}
    merged = {key: like.get(key, {}) | model.get(key, {}) for key in ("usage", "network")}
    return taken | dict(model) | merged


def read_files(model: Mapping[str, Any], home: Path) -> tuple[WeightFile, ...]:
    folder = home / os.path.expanduser(model.get("folder", ""))
    files = (WeightFile(folder / file["name"], file["bytes"], file["sha256"]) for file in model.get("files", ()))
    return tuple(sorted(files, key=lambda file: file.path))


def read_part(part: Mapping[str, Any], home: Path) -> Part:
    tables: dict[str, Any] = {"repo": "", "revision": MAIN, "folder": "", "bytes": 0} | dict(part)
    if "path" in tables:
        tables["path"] = home / os.path.expanduser(tables["path"])
    tables["sha256"] = tuple(sorted(tables.get("sha256", {}).items()))
    if "names" in tables:
        tables["names"] = tuple(tables["names"])
    made = Part(**tables)
    return replace(made, bytes=published.bytes_of(made.path, made.names)) if made.path and not made.bytes else made


# ---- shipped models ---------------------------------------------------------------------------------------


def verify(model: Entry) -> None:
    """Every file of a shipped model is there and unchanged; Failed naming the first that is not."""
    if not model.files:
        raise Failed(f"no weights are registered for {model.name}; {AGAIN}")
    for file in model.files:
        weights.check(file.path, file.sha256, file.bytes)


def load_model_files(model: Entry, stem: str) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """One part of a shipped model, verified against the registry: all its tensors and its header."""
    files = model.part(stem)
    if not files:
        raise Failed(f"model {model.name} has no part {stem!r} in weights.toml; {AGAIN}")
    return weights.merge([weights.load(file.path, file.sha256) for file in files])


def load_network(stem: str, path: Path | None) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """A network of ours from a file, from the folder of a run or an export, or the shipped one by default."""
    if path is None:
        return load_model_files(entry("pocket"), stem)
    return weights.load_part(path, stem) if path.is_dir() else weights.load(path)
