"""Fetching a model: what is missing, whether it may and can be fetched, and then file by file.

Nothing is fetched before the user has seen size, room and licence, and agreed. Whatever stops a download, the files
that have arrived stay, and the next one goes on in the middle of the one that was not finished.
"""

import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from sora_cli import registry
from sora_cli.errors import Failed, SoraError, readable
from sora_cli.files import published
from sora_cli.registry import Entry, Part, hub_client
from sora_cli.registry.hub import cache
from sora_cli.registry.hub import pins as locks
from sora_cli.registry.hub.cache import gigabytes, hub_parts
from sora_cli.registry.hub.pins import Lock, Pin
from sora_cli.registry.hub_client import Listing, RemoteFile

PICKLES = (*published.PICKLES, ".msgpack", ".h5")
READABLE = (*published.SINGLE, ".json")


class Screen(AbstractContextManager[object, None], Protocol):
    """Where progress is shown. It is entered while something moves, and must not be entered before."""

    def note(self, text: str) -> None: ...
    def show(self, stage: str, done: int, total: int) -> None: ...
    def clear(self) -> None: ...
    def doing(self, what: str) -> AbstractContextManager[None]: ...


class Silent(nullcontext[None]):
    """A screen that shows nothing."""

    def note(self, text: str) -> None: ...
    def show(self, stage: str, done: int, total: int) -> None: ...
    def clear(self) -> None: ...
    def doing(self, what: str) -> AbstractContextManager[None]:
        return self


SILENT = Silent()


@dataclass(frozen=True)
class Wanted:
    """A file that a model is made of."""

    part: Part
    file: RemoteFile
    commit: str
    sha256: str | None  # that it must have, if this is known

    @property
    def left(self) -> int:
        """Bytes that have yet to arrive."""
        repo, etag = self.part.repo, self.file.etag
        paths = hub_client.blob(repo, etag), hub_client.unfinished(repo, etag)
        return max(0, self.file.bytes - max(map(published.bytes_of, paths)))


def ensure(entry: Entry, yes: bool = False, screen: Screen = SILENT) -> dict[str, Path]:
    """The folders of a model, as `hub.locate` has them, after fetching it if the user wants that.

    On a terminal the user is asked; elsewhere only `yes` fetches. Failed or SoraError, in one line, if not."""
    cache.check_own(entry)
    there = cache.status(entry).state == cache.PRESENT
    if not there and not (yes or on_terminal()):
        raise Failed(cache.lack(entry))
    if not there or not accepted(entry, locks.read()):
        pull(entry, yes=yes, screen=screen)
    return cache.locate(entry)


def pull(entry: Entry, yes: bool = False, accept: str = "", update: bool = False, screen: Screen = SILENT) -> None:
    """Download the files of a model that are missing.

    `yes` downloads without asking; `accept` names a licence that must be accepted; on a terminal the user is asked
    for both. `update` takes the newest commits instead of the recorded ones."""
    if entry.files:
        return registry.verify(entry)
    cache.check_own(entry)
    check_licence(entry, accept)
    if cache.status(entry).state == cache.PRESENT and not update:
        join(entry)
        return
    with screen.doing("asking the Hub"):
        listings = list_files(entry, locks.read(), update)
    wanted = [one for part in hub_parts(entry) for one in choose(part, listings[part], locks.read(), update)]
    licence = entry.licence if entry.licence != registry.UNKNOWN else next(iter(listings.values())).licence
    agree(entry, wanted, licence or registry.UNKNOWN, yes, screen)
    if not update:
        with locks.changed() as lock:
            note(lock, entry.name, {one: None for one in wanted})
    try:
        arrived = obtain_all(entry, wanted, update, screen)
    except KeyboardInterrupt:
        screen.note("what has arrived is kept; the next pull continues from there")
        raise
    if update:
        switch(entry, arrived)


def on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> str:
    """The user's answer; "" if there is none."""
    print(readable(question), end=" ", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


# ---- what is wanted ---------------------------------------------------------------------------------------


def list_files(entry: Entry, lock: Lock, update: bool) -> dict[Part, Listing]:
    """What the repositories of a model hold, at the commits that were fetched first unless these are given up."""
    found: dict[tuple[str, str], Listing] = {}
    listings = {}
    for part in hub_parts(entry):
        records = lock.of(part) or lock.files.get(locks.source(part), {})
        at = next((record.commit for record in records.values()), part.revision)
        key = (part.repo, part.revision if update else at)
        if key not in found:
            found[key] = hub_client.listing(*key)
            check_names(part.repo, found[key])
        listings[part] = found[key]
    return listings


def check_names(repo: str, listing: Listing) -> None:
    """Refuse a repository with file names that would lead out of the cache."""
    for file in listing.files:
        steps = PurePosixPath(file.name).parts
        if ".." in steps or file.name.startswith("/") or "\\" in file.name or ":" in file.name or "\0" in file.name:
            raise Failed(f"{repo} has a file {file.name!r}, which points outside its folder; nothing is fetched")


def choose(part: Part, listing: Listing, lock: Lock, update: bool) -> list[Wanted]:
    """The files of a part. Failed if the repository does not have them, or only as pickles."""
    there = [file for file in listing.files if file.name.rpartition("/")[0] == part.folder]
    fitting = [file for file in there if locks.belongs(file.name, part) and file.name.endswith(READABLE)]
    fitting = [file for file in fitting if not is_variant(file, fitting)]
    where = f"{part.folder or 'the root'} of {part.repo} has"
    for suffix in (".json",) if part.role == "tokenizer" else (".safetensors", "config.json"):
        asked = any(name.endswith(suffix) for name in part.names)  # a part of one file may do without a config.json
        if asked and not any(file.name.endswith(suffix) for file in fitting):
            if pickles := [file.name for file in there if file.name.endswith(PICKLES)]:
                raise Failed(f"{where} only {pickles[0]}: a pickle, which may run code; only safetensors are fetched")
            raise Failed(f"{where} no {suffix}; this model cannot be used")
    records = lock.of(part)
    small_first = sorted(fitting, key=lambda file: (file.bytes, file.name))
    return [Wanted(part, file, listing.commit, required(part, file, records, update)) for file in small_first]


def is_variant(file: RemoteFile, all: Sequence[RemoteFile]) -> bool:
    """Is this model.fp16.safetensors, beside a model.safetensors or its shards?"""
    base = file.name.rpartition("/")[2]
    stem, *middle, _ = base.split(".")
    plain = (other.name.rpartition("/")[2] for other in all)
    return bool({*middle} - {"safetensors", "index"}) and any(
        name.startswith(stem) and name.count(".") == 1 for name in plain
    )


def required(part: Part, file: RemoteFile, records: dict[str, Pin], update: bool) -> str | None:
    """The hash that a file must have: by weights.toml, or as it was at the first download.

    Failed if the Hub says beforehand that it has another one."""
    before = records.get(file.name)
    right = cache.listed_sha256(part, file.name) or (before.sha256 if before and not update else None)
    if right and file.sha256 and right != file.sha256:
        raise Failed(unlike(part, file))
    return right


def unlike(part: Part, file: RemoteFile) -> str:
    if cache.listed_sha256(part, file.name):
        return f"{file.name} of {part.repo} does not have the hash that weights.toml gives; it is not used"
    return f"{file.name} of {part.repo} changed since it was first fetched; `sora-cli weights pull --update` accepts it"


# ---- whether it may be fetched ----------------------------------------------------------------------------


def accepted(entry: Entry, lock: Lock) -> bool:
    return not entry.accept or lock.licences.get(entry.name) == entry.licence


def check_licence(entry: Entry, accept: str) -> None:
    """Licences that demand it are accepted by their names, once."""
    if accept and accept != entry.licence:
        raise SoraError(f"{entry.name} is under the {entry.licence}, not under {accept!r}")
    if accepted(entry, locks.read()):
        return
    line = f"{entry.name} is under the {entry.licence}{link_of(entry)}, which you must accept"
    if not accept and on_terminal():
        accept = ask(f"{line}.\nType its name to accept it, anything else to cancel:")
    if accept != entry.licence:
        raise SoraError(f'{line}: sora-cli weights pull {entry.name} --accept-licence "{entry.licence}"')
    with locks.changed() as lock:
        lock.licences[entry.name] = entry.licence


def link_of(entry: Entry) -> str:
    return f" ({entry.licence_url})" if entry.licence_url else ""


def agree(entry: Entry, wanted: Sequence[Wanted], licence: str, yes: bool, screen: Screen) -> None:
    """Show the size, the free space and the licence, and ask whether to download. Failed if the disk is too small."""
    size = sum({(one.part.repo, one.file.etag): one.left for one in wanted}.values())
    folder = hub_client.cache_of("").parent
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < size:
        raise Failed(f"{entry.name} needs {gigabytes(size)}, but the disk of {folder} has {gigabytes(free)} free; "
                     "make room, or set HF_HOME to a folder on another disk")  # fmt: skip
    line = f"{entry.name}: {gigabytes(size)} to fetch, {gigabytes(free)} free in {folder}; licence: {licence}"
    line += link_of(entry)
    if yes:
        screen.note(line)
    elif not size:
        return
    elif not on_terminal():
        raise SoraError(f"{line}; give --yes to fetch it")
    elif ask(f"{line}\nFetch it? [y/N]").lower() not in ("y", "yes"):
        raise SoraError(f"{entry.name} was not fetched")


# ---- fetching ---------------------------------------------------------------------------------------------


def obtain_all(entry: Entry, wanted: Sequence[Wanted], update: bool, screen: Screen) -> dict[Wanted, str | None]:
    """Download all files; each is recorded in the lock when it arrives, those of an update by `switch`."""
    arrived: dict[Wanted, str | None] = {}
    total, before = sum(one.file.bytes for one in wanted), 0
    with screen:
        for number, one in enumerate(wanted, 1):
            arrived[one] = obtain(one, f"{one.part.role} {number}/{len(wanted)}", before, total, screen)
            before += one.file.bytes
            if not update:
                with locks.changed() as lock:
                    note(lock, entry.name, {one: arrived[one]})
    return arrived


def obtain(one: Wanted, stage: str, before: int, total: int, screen: Screen) -> str:
    """Download one file; returns its sha256. Failed if it is not the wanted file. Shows a bar for it, called `stage`,
    and one for all files, of whose `total` bytes `before` came before it."""
    repo, size = one.part.repo, one.file.bytes
    path = hub_client.snapshot(repo, one.commit) / one.file.name
    if one.sha256 and path.is_file() and path.stat().st_size == size:
        return one.sha256

    def moved(done: int) -> None:
        screen.show(stage, done, size)
        screen.show("all", before + done, total)

    screen.note(f"{repo}: {one.file.name}, {gigabytes(size)}")
    sha256 = hub_client.fetch(repo, one.file, one.commit, moved, partial(screen.show, "checking", total=size))
    if one.sha256 and sha256 != one.sha256:
        cache.discard(repo, path)
        raise Failed(unlike(one.part, one.file))
    screen.clear()
    return sha256


def note(lock: Lock, model: str, arrived: dict[Wanted, str | None]) -> None:
    """Put files into the lock, and that the model wants them; None where a file has yet to arrive."""
    for one, sha256 in arrived.items():
        files = lock.files.setdefault(locks.source(one.part), {})
        before = files.get(one.file.name)
        models = sorted({model, *(before.models if before else ())})
        same = before is not None and before.etag == one.file.etag and before.commit == one.commit
        digest = sha256 or (before.sha256 if before and same else None)
        files[one.file.name] = Pin(one.commit, one.file.bytes, one.file.etag, digest, models)


def join(entry: Entry) -> None:
    """A model whose files are all here, perhaps fetched for others, wants them, too."""
    lock = locks.read()
    if all(entry.name in record.models for part in hub_parts(entry) for record in lock.of(part).values()):
        return
    with locks.changed() as lock:
        for part in hub_parts(entry):
            for record in lock.of(part).values():
                record.models = sorted({*record.models, entry.name})


def switch(entry: Entry, arrived: dict[Wanted, str | None]) -> None:
    """Take the files that have arrived in place of those that were here, and delete these."""
    kept = {(one.part, one.file.name) for one in arrived}
    with locks.changed() as lock:
        before = [(part, name, record) for part in hub_parts(entry) for name, record in lock.of(part).items()]
        note(lock, entry.name, arrived)
        for part, name, record in before:
            files = lock.files[locks.source(part)]
            if (part, name) not in kept:
                del files[name]
            if name not in files or files[name].commit != record.commit:
                cache.release(part.repo, record, name)
