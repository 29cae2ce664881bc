"""Models in the diffusers layout that no weights.toml names: of a folder, or of a repository of the Hub. No torch.

`transformer/` and `vae/` are there, and if the model has them `transformer_2/`, `text_encoder/` and `tokenizer/`. They
are used like the registered model of the same architecture; from which noise level on the first of two transformers is
used, `model_index.json` tells.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sora_cli import registry
from sora_cli.errors import Failed, SoraError
from sora_cli.files import published
from sora_cli.files.published import read_json
from sora_cli.registry import EXPORTED, FOLDERS, HUB, MAIN, NAMES, TEXT_FILES, UNKNOWN, Entry, Part, families, networks
from sora_cli.registry.schema import REPOSITORY

SECOND = "transformer_2"  # the folder of the transformer for low noise
INDEX = "model_index.json"
CLASSES = ("WanTransformer3DModel", "SkyReelsV2Transformer3DModel")
SUPPORTED = ("supported: the text-to-video models Wan 2.1, Wan 2.2 TI2V and SkyReels-V2 DF, and Wan 2.2 A14B, "
             "in the diffusers layout")  # fmt: skip
LARGE = 40  # heads of the transformers of 14B parameters
TYPES = ("in_channels", "out_channels", "num_attention_heads", "attention_head_dim", "num_layers", "ffn_dim")


def of_folder(name: str) -> Entry:
    """The model of an exported or a diffusers folder; the latter may use the shared text encoder."""
    folder = Path(os.path.expanduser(name))
    if "://" in name:
        raise SoraError(f"--model {name} is an address; download the model, or give its repository as {HUB}OWNER/NAME")
    if not folder.is_dir() and (folder.suffix.lower() in (*published.PICKLES, ".zip") or folder.is_file()):
        raise SoraError(f"--model {name} cannot be read; it must be a .safetensors or .gguf file")
    if (folder / EXPORTED).is_file():
        return of_export(name, folder)
    if lora := lora_in(folder):
        raise SoraError(f"{folder} holds a LoRA; use it with --lora {lora}")
    if list(folder.glob("dit*.safetensors")) or list(folder.glob("checkpoint-*")):
        raise SoraError(f"{folder} is a training run; `sora-cli train export --init {folder} --out mine` makes a model")
    if (folder / "config.json").is_file() and folder.name in (*FOLDERS.values(), SECOND):
        raise SoraError(f"{folder} is one part of a model; give the folder that contains it, {folder.parent}")
    configs = [folder / FOLDERS[role] / "config.json" for role in ("dit", "vae")]
    if missing := next((config for config in configs if not config.is_file()), None):
        raise SoraError(f"there is no model in {folder}: {missing} is missing ({HUB}OWNER/NAME names a repository)")
    index = read_json(folder / INDEX) if (folder / INDEX).is_file() else {}
    second = read_json(path) if (path := folder / SECOND / "config.json").is_file() else None
    if second is None and has_second(index):
        raise SoraError(f"{folder} lacks {SECOND}/, which its {INDEX} names; fetch the rest of the model")
    like = like_of(read_json(configs[0]), name, second)
    texts = [(folder / FOLDERS[role] / file).is_file() for role, file in TEXT_FILES.items()]
    folders = folders_of(second is not None, all(texts))
    parts = tuple(Part(role, "", "", there, 0, NAMES[role], path=folder / there) for role, there in folders.items())
    parts = tuple(replace(part, bytes=published.bytes_of(folder / part.folder, part.names)) for part in parts)
    entry = entry_like(registry.registry()[like], name, f"the model of {folder}", parts)
    said = {role: read_json(folder / folders[role] / "config.json") for role in networks.KINDS if role in folders}
    return replace(bounded(entry, index), network=networks.configured(entry.network, said))


def of_export(name: str, folder: Path) -> Entry:
    """The one model that the weights.toml of a folder names; SoraError saying what is wrong in it, such as a file
    that is not in the folder."""
    found = registry.read_file(folder / EXPORTED, {})
    if len(found) != 1:
        raise SoraError(f"{folder / EXPORTED} names {len(found)} models; it must name one")
    entry = replace(*found.values(), name=name)
    for path in (*(file.path for file in entry.files), *(part.path for part in entry.parts if part.path)):
        published.inside(folder, os.path.relpath(path, folder))  # the folder may be a stranger's
    return entry


def of_repository(name: str) -> Entry:
    """The diffusers model of hf:OWNER/NAME[@REVISION], by its small files; its size is known when pulled."""
    from sora_cli.registry import hub_client

    repo, _, revision = name.removeprefix(HUB).partition("@")
    if not REPOSITORY.fullmatch(repo):
        raise SoraError(f"{name} is not a repository; it must look like {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    revision = revision or MAIN
    config = hub_client.small_file(repo, f"{FOLDERS['dit']}/config.json", revision)
    if config is None:
        raise SoraError(f"{repo} has no {FOLDERS['dit']}/config.json; {SUPPORTED}")
    second = hub_client.small_file(repo, f"{SECOND}/config.json", revision)
    try:
        path = hub_client.small_file(repo, INDEX, revision)
    except Failed:  # without a connection; repositories with one transformer were fetched without it
        if second:
            raise
        path = None
    index = read_json(path) if path else {}
    if second is None and has_second(index):
        raise SoraError(f"{repo} lacks {SECOND}/, which its {INDEX} names; give a repository with the whole model")
    like = registry.registry()[like_of(read_json(config), name, read_json(second) if second else None)]
    texts = [hub_client.small_file(repo, f"{FOLDERS[role]}/{file}", revision) for role, file in TEXT_FILES.items()]
    folders = folders_of(second is not None, all(texts))
    parts = tuple(Part(role, repo, revision, there, 0, NAMES[role]) for role, there in folders.items())
    entry = entry_like(like, name, f"the model of the repository {repo}", parts)
    network = networks.configured(entry.network, {"dit": read_json(config)})
    return replace(bounded(entry, index), network=network)


def lora_in(folder: Path) -> Path | None:
    """The first file of a folder, if it is a LoRA."""
    first = min(folder.glob("*.safetensors"), default=None)
    with suppress(SoraError):
        if first and families.seems(stored.key for stored in published.about(first)[1]) == families.LORA:
            return first
    return None


def has_second(index: Mapping[str, Any]) -> bool:
    """Whether an index names a second transformer; of models without, its library and class are null."""
    named = index.get(SECOND)
    return isinstance(named, list) and None not in named


def folders_of(two: bool, reads: bool) -> dict[str, str]:
    """The folders of a model by role: of one transformer or two, with a text encoder of its own or without."""
    found = {"dit": FOLDERS["dit"]} | ({"dit_low": SECOND} if two else {}) | {"vae": FOLDERS["vae"]}
    return found | ({role: FOLDERS[role] for role in TEXT_FILES} if reads else {})


def bounded(entry: Entry, index: Mapping[str, Any]) -> Entry:
    """A model with the boundary between its two transformers from its index, if that has one; SoraError if it is not
    between 0 and 1."""
    boundary = index.get("boundary_ratio")
    if not entry.usage.boundary or boundary is None:
        return entry
    if not isinstance(boundary, float) or not 0 < boundary < 1:
        raise SoraError(f"{INDEX} of {entry.name} has boundary_ratio {str(boundary)[:40]!a}; it must be between 0 "
                        "and 1")  # fmt: skip
    return replace(entry, usage=replace(entry.usage, boundary=boundary))


def entry_like(like: Entry, name: str, about: str, parts: tuple[Part, ...]) -> Entry:
    """An entry of these parts, used like `like`; the text encoder of `like`, if they have none."""
    roles = {part.role for part in parts}
    parts += tuple(part for part in like.parts if part.role in TEXT_FILES and part.role not in roles)
    page = next((part.repo for part in parts if part.role == "dit" and part.repo), "")
    url = f"https://huggingface.co/{page}" if page else ""
    return Entry(name, like.kind, about, (), parts, UNKNOWN, url, cell=like.cell, usage=like.usage,
                 network=like.network, tiny=like.tiny)  # fmt: skip


def like_of(config: Mapping[str, Any], name: str, second: Mapping[str, Any] | None = None) -> str:
    """The registered model with the architecture of a transformer's config.json, or of two; SoraError for others."""
    for key in ("image_dim", "added_kv_proj_dim"):
        if config.get(key) is not None:
            raise SoraError(f"{name} takes image embeddings ({key} is {config[key]}); {SUPPORTED}")
    channels, large = config.get("in_channels"), config.get("num_attention_heads") == LARGE
    if second is not None:
        if unlike := [key for key in TYPES if config.get(key) != second.get(key)]:
            raise SoraError(f"{name} has two transformers that differ in {unlike[0]}; {SUPPORTED}")
        like = {"16": "wan2.2-a14b", "36": "wan2.2-a14b-i2v"}.get(str(channels))
    elif config.get("inject_sample_info") is True:
        return "skyreels2-1.3b"
    elif config.get("_class_name") == CLASSES[1]:
        like = {"16": "skyreels2-14b"}.get(str(channels))
    else:
        like = {"48": "wan2.2-5b", "16": "wan2.1-14b" if large else "wan2.1-1.3b"}.get(str(channels))
    if like is None or config.get("_class_name", CLASSES[0]) not in CLASSES:
        configs = ", ".join(f"{key} {config[key]}" for key in ("_class_name", "in_channels") if key in config)
        raise SoraError(f"{name} is another kind of model ({configs or 'no transformer'}); {SUPPORTED}")
    return like
