"""What was downloaded, in `weights.lock` beside the users' own models: commits, sizes, hashes, accepted licences.

    {"files": {"OWNER/NAME@main": {"vae/config.json": {"commit": ..., "bytes": ..., "etag": ..., "sha256": ...,
                                                       "models": ["wan2.2-5b"]}}},
     "licences": {"skyreels2-1.3b": "Skywork Community License"}}

A branch moves, a commit does not: what was fetched first is what later downloads of its other files must fit to. A
file without a hash has not arrived yet.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from sora_cli import registry
from sora_cli.errors import Failed
from sora_cli.files import weights
from sora_cli.registry import Part
from sora_cli.registry.hub_client import HASH


@dataclass
class Pin:
    """A file of a repository, and the models that asked for it."""

    commit: str
    bytes: int
    etag: str
    sha256: str | None = None
    models: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """TypeError or ValueError for what cannot be recorded: hand-made or damaged."""
        if not all(HASH.fullmatch(one) for one in (self.commit, self.etag, self.sha256 or self.etag)):
            raise ValueError("not a hash")
        if type(self.bytes) is not int or self.bytes < 0:
            raise ValueError("not a size")
        if not isinstance(self.models, list) or not all(isinstance(model, str) for model in self.models):
            raise ValueError("not a list of models")


@dataclass
class Lock:
    files: dict[str, dict[str, Pin]] = field(default_factory=dict)  # by repository and revision, by name
    licences: dict[str, str] = field(default_factory=dict)  # those that were accepted, by model

    def of(self, part: Part) -> dict[str, Pin]:
        """The files of a part, by name; none if it was never asked for."""
        found = self.files.get(source(part), {})
        return {name: record for name, record in found.items() if belongs(name, part)}


def source(part: Part) -> str:
    return f"{part.repo}@{part.revision}"


def belongs(name: str, part: Part) -> bool:
    """Is a file of a repository one of the part's, by its folder and its name?"""
    folder, _, base = name.rpartition("/")
    return folder == part.folder and any(fnmatch(base, pattern) for pattern in part.names)


def lock_path() -> Path:
    return registry.config_folder() / "weights.lock"


def read() -> Lock:
    """The lock file; empty if there is none, Failed if it is not one."""
    path = lock_path()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = {source: {name: Pin(**record) for name, record in records.items()}
                 for source, records in content["files"].items()}  # fmt: skip
        return Lock(files, dict(content["licences"]))
    except FileNotFoundError:
        return Lock()
    except OSError as error:
        raise Failed(f"could not read {path}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Failed(f"{path} is damaged ({error}); delete it and pull again: nothing is fetched twice") from error


@contextmanager
def changed() -> Iterator[Lock]:
    """The lock file to be changed, and written whole when the block is left without an error."""
    from huggingface_hub.utils import WeakFileLock

    path = lock_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror or error}") from error
    with WeakFileLock(path.with_name(f".{path.name}")):
        lock = read()
        yield lock
        weights.write(path, (json.dumps(asdict(lock), indent=1, ensure_ascii=False) + "\n").encode())
