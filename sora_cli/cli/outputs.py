"""Where a command writes: names from a template, and every refusal before any work. No torch."""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from sora_cli.errors import Failed, SoraError
from sora_cli.media import STREAM
from sora_cli.shot import Shot

FIELDS = ("prompt", "seed", "n")
LONGEST_NAME = 220  # bytes, so that `STEM.safetensors` and temporary names stay below 255


def slug(prompt: str, longest: int = 60) -> str:
    """A file name from a prompt: "A cat, surfing!" -> "a-cat-surfing"."""
    words = re.sub(r"\W+", "-", prompt.lower()).strip("-_")
    return words[:longest].rstrip("-_") or "video"


def output_names(template: str | None, shots: Sequence[Shot]) -> list[str]:
    """One name per shot from -o, in which {prompt}, {seed} and {n} (1, 2, ...) are replaced; `-` is a pipe."""
    if template is None:
        suffix = ".png" if shots[0].frames == 1 else ".mp4"
        template = ("{prompt}" if len(shots) == 1 else "{prompt}-{seed}") + suffix
    names = [fill(template, shot, n) for n, shot in enumerate(shots, 1)]
    names = [name if name == STREAM else str(Path(os.path.expanduser(name))) for name in names]
    if len(set(names)) < len(names):
        raise SoraError(f"{len(shots)} videos would all be called {names[0]}; put {{seed}} or {{n}} in -o")
    return names


def fill(template: str, shot: Shot, n: int) -> str:
    unknown = [field for field in re.findall(r"\{(.*?)\}", template) if field not in FIELDS]
    if unknown:
        raise SoraError(f"unknown {{{unknown[0]}}} in -o; use {{prompt}}, {{seed}} or {{n}}")
    values = {"prompt": slug(shot.prompt), "seed": str(shot.seed), "n": str(n)}
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def check_output(path: Path, suffixes: Sequence[str], force: bool, by: Callable[[], str] = str) -> None:
    """Refuse a path that cannot be written, or that exists."""
    check_place(path, suffixes)
    if os.path.lexists(path) and not force:
        raise SoraError(f"{path} already exists{by()}; --force overwrites it, -o names another file")


def check_place(path: Path, suffixes: Sequence[str]) -> None:
    """Refuse a path that cannot be written: wrong suffix, too long a name, no folder, no permission."""
    if path.suffix.lower() not in suffixes:
        endings = " or ".join(filter(None, (", ".join(suffixes[:-1]), suffixes[-1])))
        raise SoraError(f"cannot write {path}: the name must end in {endings}")
    if (length := len(os.fsencode(path.name))) > LONGEST_NAME:
        raise SoraError(f"cannot write {path.name[:40]}...: the name has {length} bytes; at most {LONGEST_NAME} leave "
                        "room for what is kept beside it")  # fmt: skip
    folder = path.parent
    if not folder.is_dir():
        raise SoraError(f"cannot write {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SoraError(f"cannot write {path}: the folder {folder} is not writable")
    if path.exists() and not path.is_file():
        raise SoraError(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'a device or a pipe'}")


def room_of(shot: Shot) -> int:
    """Bytes that a video may need on the disk: generously, a quarter of a bit for each pixel in H.264."""
    return round(shot.width * shot.height * shot.frames / 4 / 8)


def check_room(folder: Path, needed: int) -> None:
    """Failed if the disk has no room for so many bytes and a reserve of 16 MB."""
    needed += 16_000_000
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Failed(f"the disk of {folder} has {free / 1e6:.0f} MB free, but {needed / 1e6:.0f} MB are needed")
