"""What is on this machine of a model: where, how much, whether it is unchanged; and its removal. No network."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sora_cli import registry
from sora_cli.errors import Failed, SoraError, counted, no_op
from sora_cli.files import published, weights
from sora_cli.files.owned import lies_in
from sora_cli.registry import Entry, Part, hub_client
from sora_cli.registry.hub import pins as locks
from sora_cli.registry.hub.pins import Lock, Pin
from sora_cli.registry.layouts import INDEX

Moved = Callable[[int, int], None]  # (bytes done, of all)
PRESENT, PARTIAL, ABSENT = "present", "partial", "absent"


@dataclass(frozen=True)
class Status:
    """How much of a model is here."""

    state: str  # present, partial or absent
    bytes: int  # on this machine
    total: int  # about, until it has been asked for; 0 if not even that is known


def locate(entry: Entry) -> dict[str, Path]:
    """The folder of every network, by role (dit, vae, text, tokenizer), without asking the Hub.

    Failed if something is missing, with the command that fetches it; SoraError if it is a file of the user."""
    if entry.files:
        return {weights.stem_of(file.path): file.path.parent for file in entry.files}
    lock = locks.read()
    check_own(entry)
    if not all(is_whole(part, lock) for part in entry.parts):
        raise Failed(lack(entry))
    return {part.role: folder_of(part, lock) for part in entry.parts}


def lack(entry: Entry) -> str:
    """One line about a model that is not (all) here."""
    found = status(entry)
    size = f" ({gigabytes(found.total)})" if found.total else ""
    tiny = entry.only(registry.TINY)
    if tiny.parts and status(entry.only(*registry.ROLES)).state == PRESENT:
        return (f"the tiny decoder of {entry.name} ({gigabytes(tiny.bytes)}) is not on this machine; "
                f"`sora-cli weights pull {entry.name}` fetches it")  # fmt: skip
    here = f"only {gigabytes(found.bytes)} of {entry.name}{size} is" if found.bytes else f"{entry.name}{size} is not"
    sought = f" ({entry.sought})" if entry.sought else ""
    return f"{here} on this machine{sought}; `sora-cli weights pull {entry.name}` fetches it"


def status(entry: Entry) -> Status:
    """What of a model is here, by the sizes of its files; hashes are for `verify`."""
    if entry.files:
        here = sum(published.bytes_of(file.path) for file in entry.files)
        return Status(PRESENT if here == entry.bytes else PARTIAL if here else ABSENT, here, entry.bytes)
    lock = locks.read()
    here = sum(arrived(part, lock) for part in entry.parts)
    total = sum(expected(part, lock) for part in entry.parts)
    whole = all(is_whole(part, lock) for part in entry.parts)
    return Status(PRESENT if whole else PARTIAL if here else ABSENT, here, total)


def others() -> dict[str, Status]:
    """The models on this machine that no weights.toml names: those of repositories."""
    here, total = Counter[str](), Counter[str]()
    for source, files in locks.read().files.items():
        for name, record in files.items():
            for model in record.models:
                if model.startswith(registry.HUB):
                    here[model] += record.bytes if is_here(source.partition("@")[0], name, record) else 0
                    total[model] += record.bytes
    return {name: Status(PRESENT if here[name] == size else PARTIAL, here[name], size) for name, size in total.items()}


# ---- parts ------------------------------------------------------------------------------------------------


def hub_parts(entry: Entry) -> list[Part]:
    return [part for part in entry.parts if part.path is None]


def path_of(repo: str, name: str, record: Pin) -> Path:
    return hub_client.snapshot(repo, record.commit) / name


def is_here(repo: str, name: str, record: Pin) -> bool:
    """Has a file arrived, and is it still there at its full size?"""
    path = path_of(repo, name, record)
    return record.sha256 is not None and path.is_file() and path.stat().st_size == record.bytes


def is_whole(part: Part, lock: Lock) -> bool:
    if part.path is not None:
        return part.path.exists()
    found = lock.of(part)
    return bool(found) and all(is_here(part.repo, name, record) for name, record in found.items())


def folder_of(part: Part, lock: Lock) -> Path:
    """Where a part is: a folder, or the one file that it is."""
    if part.path is not None:
        return part.path
    path, *more = (path_of(part.repo, name, record) for name, record in lock.of(part).items())
    return path.parent if more or path.suffix not in published.SINGLE else path


def arrived(part: Part, lock: Lock) -> int:
    """Bytes of a part that are here, unfinished files too."""
    if part.path is not None:
        return part.bytes
    return sum(record.bytes if is_here(part.repo, name, record)
               else published.bytes_of(hub_client.unfinished(part.repo, record.etag))
               for name, record in lock.of(part).items())  # fmt: skip


def expected(part: Part, lock: Lock) -> int:
    return sum(record.bytes for record in lock.of(part).values()) or part.bytes


def check_own(entry: Entry) -> None:
    """Check that the parts with a path of the user exist and are as long as their headers say.

    SoraError or Failed, in one line, if not."""
    for part in entry.parts:
        if part.path is None:
            continue
        if not part.path.exists():
            raise SoraError(f"the {part.role} of {entry.name} should be at {part.path}, but nothing is there")
        if part.role == "tokenizer":
            if not (part.path / "tokenizer.json").is_file():
                raise SoraError(f"{part.path} holds no tokenizer.json; give the folder that does")
            continue
        for path in published.files_of(part.path):
            published.about(path)


# ---- verify -----------------------------------------------------------------------------------------------


def verify(entry: Entry, moved: Moved = no_op) -> None:
    """Every file of a model is here and has the hash that it arrived with; Failed naming the first that has not.

    Damaged files of repositories are removed, so that the next pull fetches them."""
    if entry.files:
        return registry.verify(entry)
    locate(entry)
    lock = locks.read()
    parts, bad, before = hub_parts(entry), [], 0
    total = sum(expected(part, lock) for part in parts)
    for part in parts:
        for name, record in lock.of(part).items():
            path = path_of(part.repo, name, record)
            sha256 = weights.hash_of(path, lambda done, before=before: moved(before + done, total))  # type: ignore[misc]
            before += record.bytes
            if sha256 != (listed_sha256(part, name) or record.sha256):
                discard(part.repo, path)
                bad.append(name)
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise Failed(f"removed {bad[0]}{more}: changed; `sora-cli weights pull {entry.name}` repairs it")


def listed_sha256(part: Part, name: str) -> str | None:
    """The hash of a file in weights.toml, if it is there."""
    return dict(part.sha256).get(name.removeprefix(f"{part.folder}/"))


# ---- remove -----------------------------------------------------------------------------------------------


def remove(entry: Entry) -> tuple[int, list[str]]:
    """Delete the files of a model, except those that other models on this machine share: the bytes that are free then,
    and the names of these models."""
    if entry.files:
        raise SoraError(f"{entry.name} is part of sora-cli and cannot be removed")
    freed, kept = 0, set[str]()
    with locks.changed() as lock:
        for part in entry.parts:
            for name, record in lock.of(part).items():
                record.models = [model for model in record.models if model != entry.name]
                if record.models:
                    kept |= set(record.models)
                else:
                    freed += release(part.repo, lock.files[locks.source(part)].pop(name), name)
        lock.files = {source: files for source, files in lock.files.items() if files}
    return freed, sorted(kept)


def release(repo: str, record: Pin, name: str) -> int:
    """Delete a file, finished or not, from the cache: the bytes that are free then."""
    part, freed = hub_client.unfinished(repo, record.etag), 0
    if deletable(repo, part):
        freed = published.bytes_of(part)
        part.unlink(missing_ok=True)
    freed += discard(repo, path_of(repo, name, record))
    index = hub_client.snapshot(repo, record.commit) / INDEX
    if index.is_file() and list(index.parent.iterdir()) == [index]:  # it told of what is gone now
        freed += discard(repo, index)
    return freed


def deletable(repo: str, path: Path) -> bool:
    """Whether a file lies in a repository, and that in the cache, wherever links lead."""
    home = hub_client.cache_of(repo)
    return lies_in(home, path) and lies_in(home.parent, path)


def discard(repo: str, path: Path) -> int:
    """Delete a file of a snapshot, with its content unless other snapshots have it too or it lies outside of the cache:
    the bytes freed. Failed if the file itself lies outside, in a folder that is a link."""
    home, size, content, freed = hub_client.cache_of(repo), published.bytes_of(path), content_of(path), 0
    if not deletable(repo, path):
        raise Failed(f"{path.parent} is behind a link out of the cache; remove it yourself")
    path.unlink(missing_ok=True)
    shared = any(content_of(link) == content for link in (home / "snapshots").rglob("*") if link.is_symlink())
    if not shared and deletable(repo, content):
        freed = 0 if content.is_symlink() else size
        content.unlink(missing_ok=True)
    prune(path.parent, home)
    return freed


def content_of(path: Path) -> Path:
    """What a file of a snapshot links to; the file itself where there are no links."""
    return Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else path


def prune(folder: Path, home: Path) -> None:
    """Delete folders that have become empty, and the repository's when nothing is left of it."""
    while folder != home and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
    blobs = home / "blobs"
    if not (home / "snapshots").exists() and not (blobs.is_dir() and any(blobs.iterdir())):
        with suppress(OSError):
            shutil.rmtree(home)


def gigabytes(count: int) -> str:
    """12_345_678_901 -> 12.3 GB; smaller counts in MB and kB."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return counted(count, "byte")
