"""Models of single files, with the autoencoder and the text encoder that lie beside them, as in ComfyUI's folders.

A transformer is used like the registered model of its shapes. What it needs besides is looked for in the `models`
folder that it lies in, in that of SORA_COMFY, in those that `weights link` remembers, and in its own folder; what is
nowhere is that of the registered model, from the Hub. Of Wan2.2-A14B the files of the two transformers have names that
differ in `high` and `low`; either of them names both. No torch.
"""

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from sora_cli import registry
from sora_cli.errors import SoraError
from sora_cli.files import published
from sora_cli.files.weights import write
from sora_cli.models.wan.configs import WanConfig
from sora_cli.models.wan.names import bare
from sora_cli.registry import Entry, Part, families, layouts
from sora_cli.registry.families import Shapes
from sora_cli.registry.networks import Network

HOME, LINKED = "SORA_COMFY", "folders.txt"
FOLDERS = {"dit": ("diffusion_models", "unet"), "vae": ("vae",), "text": ("text_encoders", "clip")}
WHAT = {"vae": "autoencoder", "text": "text encoder"}
TOKENIZER = "tokenizer.json"
HALF = re.compile(r"(?<![a-z])(high|low)(?=[^a-z]|noise)", re.IGNORECASE)  # high_noise, HighNoise, -HIGH-
DISTILLED = re.compile(r"lightx2v|lightning|4.?steps?", re.IGNORECASE)  # of what is merged into a file
TABLES = ("shared.weight", "encoder.embed_tokens.weight", "token_embd.weight", "token_embedding.weight")


# ---- one file ----------------------------------------------------------------------------------------------


def of_file(name: str) -> Entry:
    """The model of a transformer's file, which may be named as ComfyUI lists it.

    SoraError if there is no such file, or saying what it seems to be; Failed if it is damaged."""
    path = file_called(name)
    like, halves = like_of(path)
    assert like.network
    parts, sought = [part_at(*both) for both in zip(("dit", "dit_low"), halves, strict=False)], []
    with_ = [half.name for half in halves if half.name != path.name]
    for role, what in WHAT.items():
        folders = folders_of(role, path)
        if beside := best(candidates(folders, partial(fits, role, like.network), path)):
            parts.append(part_at(role, beside))
            with_.append(beside.name)
        else:
            sought.append(f"no {what} that fits in {', '.join(map(str, folders))}")
            parts += [part for part in like.parts if part.role == role]
            with_.append(f"the {what} of {like.name}")
    tokenizers = [folder / below for folder in folders_of("text", path) for below in ("", "tokenizer")]
    if folder := next((folder for folder in tokenizers if (folder / TOKENIZER).is_file()), None):
        parts.append(Part("tokenizer", "", "", "", 0, registry.NAMES["tokenizer"], path=folder))
    else:
        sought.append(f"no {TOKENIZER} beside the text encoder")
    about = f"used like {like.name}, with {', '.join(with_[:-1])} and {with_[-1]}"
    return replace(layouts.entry_like(like, name, about, tuple(parts)), sought="; ".join(sought) or about)


def part_at(role: str, path: Path) -> Part:
    return Part(role, "", "", "", path.stat().st_size, path=path)


def file_called(name: str) -> Path:
    """The file itself, or the one of this name in ComfyUI's folders."""
    path = Path(os.path.expanduser(name))
    if path.is_file():
        return path
    folders = search_folders("dit")
    there = [folder / name for folder in folders if (folder / name).is_file()]
    if there := there or sorted(file for folder in folders for file in files_in(folder) if file.name == name):
        return there[0]
    searched = f", nor in {', '.join(map(str, folders))}" if folders else f" (set {HOME} to ComfyUI's folder)"
    raise SoraError(f"there is no file {name} here{searched}")


def like_of(path: Path) -> tuple[Entry, list[Path]]:
    """The registered model that a transformer's file is used like, and the files of its one or two transformers;
    SoraError saying what the file is instead."""
    shapes, architecture = shapes_of(path)
    what = families.seems(shapes, architecture)
    supported = [entry for entry in registry.registry().values() if entry.kind == "wan" and entry.network]
    if what == "a Wan transformer":
        fitting = [entry for entry in supported if entry.network and is_dit(shapes, entry.network.dit)]
        halved = [entry for entry in fitting if bool(entry.usage.boundary) == bool(HALF.search(path.name))]
        steps = [entry for entry in halved if (entry.usage.solver == "lightx2v") == bool(DISTILLED.search(path.name))]
        if found := [*steps, *halved]:
            return found[0], halves_of(path)
        if fitting:
            raise SoraError(f"{path} is one of the two transformers of {fitting[0].name}, but its name does not say "
                            "which; put high_noise or low_noise into the name")  # fmt: skip
        width, inputs = (*shapes["patch_embedding.weight"], 0, 0)[:2]
        what = f"{what}, {width} wide, {inputs} input channels"
    names = ", ".join(entry.name for entry in supported)
    raise SoraError(f"{path} seems to be {what}; supported transformers: those of {names}")


# ---- two transformers --------------------------------------------------------------------------------------


def halves_of(path: Path) -> list[Path]:
    """The files of both transformers if a name says high or low, else this one. SoraError if one is missing."""
    if not (found := HALF.search(path.name)):
        return [path]
    begin = path.name[: found.start()] + other(found[1])
    name = begin + path.name[found.end() :]
    beside = path.parent.with_name(HALF.sub(lambda half: other(half[1]), path.parent.name))
    folders = [path.parent, beside, *search_folders("dit", path)]
    there = [file for folder in dict.fromkeys(folders) if folder.is_dir() for file in files_in(folder)]
    same = [file for file in there if file.name == name] or [file for file in there if file.name.startswith(begin)]
    if not same:
        raise SoraError(f"{path} is one of two transformers; put the other one, {name}, beside it")
    return [path, same[0]] if found[1].lower() == "high" else [same[0], path]


def other(half: str) -> str:
    """high -> low, Low -> High, HIGH -> LOW"""
    word = "low" if half.lower() == "high" else "high"
    return word.upper() if half.isupper() else word.title() if half.istitle() else word


# ---- what lies beside it -----------------------------------------------------------------------------------


def homes(path: Path | None) -> list[Path]:
    """The `models` folders: around a file, of the environment, and linked; the last two may name ComfyUI's own."""
    parents = path.absolute().parents if path else ()
    found = [above.parent for above in parents if above.name in (*FOLDERS["dit"], "checkpoints")]
    if named := os.environ.get(HOME):
        home = Path(os.path.expanduser(named))
        if not home.is_dir():
            raise SoraError(f"there is no folder {named}; set {HOME} to ComfyUI's folder or its models folder")
        found.append(models_of(home))
    return list(dict.fromkeys([*found, *(models_of(folder) for folder in linked() if folder.is_dir())]))


def models_of(home: Path) -> Path:
    """The models folder of ComfyUI's, or the folder itself."""
    return home / "models" if (home / "models").is_dir() else home


def linked() -> list[Path]:
    """The folders that `weights link` remembers; one whose disk is away is passed over."""
    path = registry.config_folder() / LINKED
    lines = os.fsdecode(path.read_bytes()).split("\n") if path.is_file() else []  # names of folders need not be text
    return [Path(line) for line in lines if line]


def link(folder: Path) -> None:
    """Remember a folder. SoraError if it has none of the folders in which ComfyUI keeps models."""
    if not folder.is_dir():
        raise SoraError(f"there is no folder {folder}")
    if not any((models_of(folder) / name).is_dir() for names in FOLDERS.values() for name in names):
        raise SoraError(f"{folder} has no {' or '.join(FOLDERS['dit'])}; give ComfyUI's folder or its models folder")
    remember([*linked(), folder.resolve()])


def unlink(folder: Path) -> None:
    """Forget a folder; nothing in it is touched. SoraError if it is not linked."""
    if folder.resolve() not in (there := linked()):
        names = ", ".join(map(str, there)) or "none"
        raise SoraError(f"{folder} is not linked; linked folders: {names}")
    remember([one for one in there if one != folder.resolve()])


def remember(folders: Iterable[Path]) -> None:
    registry.config_folder().mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{folder}\n" for folder in dict.fromkeys(folders))
    write(registry.config_folder() / LINKED, os.fsencode(lines))


def search_folders(role: str, path: Path | None = None) -> list[Path]:
    """Where the `models` folders have networks of a role."""
    return [home / name for home in homes(path) for name in FOLDERS[role]]


def folders_of(role: str, path: Path) -> list[Path]:
    return [*search_folders(role, path), path.absolute().parent]


def files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in published.SINGLE and file.is_file())


def candidates(folders: Iterable[Path], wanted: Callable[[Shapes], bool], path: Path) -> list[Path]:
    """The whole files that fit of the first place that has any; beside the file itself, folders are not searched."""
    for folder in folders:
        own = folder == path.absolute().parent
        there = [file for file in files_in(folder) if not own or file.parent == folder]
        if found := [file for file in there if wanted(safe_shapes(file))]:
            return found
    return []


def best(found: list[Path]) -> Path | None:
    """Of several copies that with the most bits. Other models share Wan's autoencoder, changed: its name tells."""
    named = [file for file in found if "wan" in file.name.lower() or "umt5" in file.name.lower()] or found
    return max(named, key=lambda file: (file.suffix != ".gguf", file.stat().st_size, file.name), default=None)


# ---- shapes ------------------------------------------------------------------------------------------------


def shapes_of(path: Path) -> tuple[Shapes, str]:
    """The shapes in a file's header, by their names without a prefix, and the architecture that it says it is of;
    Failed if it is damaged."""
    stat = path.stat()
    return read_shapes(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def read_shapes(path: Path, changed: int, size: int) -> tuple[Shapes, str]:
    said, listed = published.about(path)
    return {bare(stored.key): stored.shape for stored in listed}, published.architecture(said)


def safe_shapes(path: Path) -> Shapes:
    with suppress(SoraError, OSError):
        return shapes_of(path)[0]
    return {}


def fits(role: str, network: Network, shapes: Shapes) -> bool:
    """Whether these are the shapes of a model's autoencoder (`vae`) or text encoder (`text`)."""
    vae, text = network.vae, network.text
    if role == "text":
        return any(shapes.get(name) == (text.vocabulary, text.width) for name in TABLES)
    first = shapes.get("decoder.conv1.weight", shapes.get("decoder.conv_in.weight", ()))
    return first[:2] == (vae.decoder_width * vae.multiples[-1], vae.channels) and len(first) == 5


def is_dit(shapes: Shapes, dit: WanConfig) -> bool:
    """Names are the authors' or those of diffusers."""
    inner = shapes.get("blocks.0.ffn.0.weight", shapes.get("blocks.0.ffn.net.0.proj.weight", (0,)))
    layers = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    found = shapes["patch_embedding.weight"][:2], inner[0], layers, "fps_embedding.weight" in shapes
    return found == ((dit.width, dit.inputs), dit.hidden, dit.layers, dit.paced)


# ---- all of them -------------------------------------------------------------------------------------------


def recognised() -> list[str]:
    """The transformers in ComfyUI's folders that can be used, by the names that `of_file` takes."""
    there = (file for folder in search_folders("dit") for file in files_in(folder))
    return list(dict.fromkeys(file.name for file in there if names_a_model(file)))


def names_a_model(path: Path) -> bool:
    """Whether it can be used, together with the other one where there are two, of which the first gives the name."""
    with suppress(SoraError, OSError):
        return like_of(path)[1][0] == path
    return False
