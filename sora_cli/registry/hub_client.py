"""The Hugging Face Hub through its own client: what a repository holds, single files, and every error in one line.

The client decides where files lie (HF_HOME, HF_HUB_CACHE), who asks (HF_TOKEN), whom (HF_ENDPOINT) and whether at all
(HF_HUB_OFFLINE). It is imported where it is used, since that takes a while. No torch.
"""

import errno
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sora_cli.errors import Failed, no_op
from sora_cli.files import http, weights

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # sha1 of git, sha256


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository as the Hub lists it."""

    name: str  # with its folder
    bytes: int
    etag: str  # what the client's cache calls its content by: `sha256` if there is one, else the hash that git uses
    sha256: str | None


@dataclass(frozen=True)
class Listing:
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str  # "" where the repository does not say


def listing(repo: str, revision: str) -> Listing:
    """All files of a repository at a branch, tag or commit; Failed in one line if the Hub does not tell."""
    with hub_errors(repo, revision):
        from huggingface_hub import HfApi, constants

        http.session()
        try:
            found = HfApi().model_info(
                repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
            return as_listing(found, repo, revision)
        except UnicodeEncodeError:  # of what is asked
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:  # no JSON, or other fields
            raise Failed(f"the Hub's listing of {repo} is not valid; try again later") from error


def as_listing(found: Any, repo: str, revision: str) -> Listing:
    """The client's answer as a listing; Failed if a size or a commit is not valid."""
    files = []
    for file in found.siblings or ():
        sha256 = file.lfs.sha256 if file.lfs else None
        etag = sha256 or file.blob_id
        if not isinstance(file.rfilename, str):
            raise TypeError(file)
        if type(file.size) is not int or file.size < 0 or etag is None or not HASH.fullmatch(etag):
            raise Failed(f"the Hub does not say how large {file.rfilename} of {repo} is; try again later")
        files.append(RemoteFile(file.rfilename, file.size, etag, sha256))
    if not (found.sha and HASH.fullmatch(found.sha)):
        raise Failed(f"the Hub does not say which commit {revision} of {repo} is; try again later")
    licences = [tag.removeprefix("license:") for tag in found.tags or () if tag.startswith("license:")]
    return Listing(found.sha, tuple(files), licences[0] if licences else "")


def small_file(repo: str, name: str, revision: str) -> Path | None:
    """A configuration file, from the cache if it is there and else fetched; None if the repository has no such file.

    That it has none is remembered by the client, too."""
    with hub_errors(repo, revision):
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import RemoteEntryNotFoundError

        cached = try_to_load_from_cache(repo, name, revision=revision)
        if cached is None:
            try:
                cached = hf_hub_download(repo, name, revision=revision)
            except RemoteEntryNotFoundError:
                return None
        return Path(cached) if isinstance(cached, str) else None


def cache_of(repo: str) -> Path:
    """Where the client keeps a repository: `blobs` by etag, and `snapshots` by commit that link to them."""
    from huggingface_hub import constants

    return Path(os.path.expanduser(constants.HF_HUB_CACHE)) / f"models--{repo.replace('/', '--')}"


def blob(repo: str, etag: str) -> Path:
    return cache_of(repo) / "blobs" / etag


def unfinished(repo: str, etag: str) -> Path:
    """What has arrived of a file."""
    return blob(repo, f"{etag}.incomplete")


def snapshot(repo: str, commit: str) -> Path:
    return cache_of(repo) / "snapshots" / commit


# ---- bytes ------------------------------------------------------------------------------------------------


class Counted(FileIO):
    """A file that something is appended to; `moved` is called with the number of bytes that it has."""

    def __init__(self, path: Path, moved: Callable[[int], None]) -> None:
        super().__init__(path, "ab")
        self.moved = moved

    def write(self, piece: Any) -> int:
        """All of the piece, or an OSError."""
        view = memoryview(piece)
        while view:
            view = view[super().write(view) or 0 :]
        self.moved(self.tell())
        return len(piece)


def fetch(
    repo: str, file: RemoteFile, commit: str, moved: Callable[[int], None], checked: Callable[[int], None] = no_op
) -> str:
    """Have a file of a repository in the client's cache, going on where an earlier attempt stopped: its sha256.

    The client goes on after broken connections, but throws away what it has when it is interrupted, hours of work for
    a file of 10 GB; so it writes to a file of ours, which becomes the content in its cache. What is there already is
    not fetched again, but hashed. `moved` is called with how many bytes have arrived, `checked` with how many of them
    were hashed then.
    """
    with hub_errors(repo, commit, file.name):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import WeakFileLock

        whole, part = blob(repo, file.etag), unfinished(repo, file.etag)
        lock = cache_of(repo).parent / ".locks" / cache_of(repo).name / f"{file.etag}.lock"
        for folder in (whole.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            sha256 = intact(whole, file, checked)
            if sha256 is None:
                receive(repo, file, commit, part, moved)
                sha256 = intact(part, file, checked)
                if sha256 is None:
                    part.unlink()
                    raise Failed(f"{file.name} of {repo} arrived damaged and was removed; pull again")
                os.replace(part, whole)
        link = Path(hf_hub_download(repo, file.name, revision=commit))
        if link.is_symlink() and not link.samefile(whole):
            raise Failed(f"the Hub contradicts itself about {file.name} of {repo}; try again later")
        return sha256


def receive(repo: str, file: RemoteFile, commit: str, part: Path, moved: Callable[[int], None]) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if part.is_symlink() or part.exists() and part.stat().st_size > file.bytes:  # what a link leads to is not ours
        part.unlink()
    headers = build_hf_headers(library_name="sora-cli") | {"Accept-Encoding": "identity"}
    with Counted(part, moved) as opened:
        http_get(
            hf_hub_url(repo, file.name, revision=commit),
            cast(Any, opened),
            resume_size=opened.tell(),
            headers=headers,
            expected_size=file.bytes,
        )
        os.fsync(opened.fileno())


def intact(path: Path, file: RemoteFile, checked: Callable[[int], None]) -> str | None:
    """The sha256 of what has arrived of a file; None if it is not, byte for byte, what the Hub listed."""
    from huggingface_hub.utils.sha import git_hash

    if not path.is_file() or path.stat().st_size != file.bytes:
        return None
    sha256 = weights.hash_of(path, checked)
    found, right = (sha256, file.sha256) if file.sha256 else (git_hash(path.read_bytes()), file.etag)
    return sha256 if found == right else None


# ---- errors -----------------------------------------------------------------------------------------------


@contextmanager
def hub_errors(repo: str, revision: str, name: str = "") -> Iterator[None]:
    """Turns errors of the client into Failed, or SoraError: one line that says what to do."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of every attempt
    try:
        yield
    except http.failures(ImportError, OSError, ValueError) as error:
        http.session()  # whose proxies may be why
        raise Failed(obstacle(error, repo, revision, name)) from error


def refusal(error: "HfHubHTTPError", repo: str, revision: str, what: str) -> str:
    """The message for an error status of the Hub."""
    from huggingface_hub import constants, errors

    status, page = error.response.status_code, f"{constants.ENDPOINT}/{repo}"
    gone = "does not exist (any more); `sora-cli weights pull --update` takes the newest version"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"revision {revision} of {repo} {gone}"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{what} at {revision[:12]} {gone}"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated ({status}): accept its terms at {page}, then set HF_TOKEN to your token"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return f"there is no repository {repo}, or it is private ({status}); check the name, or set HF_TOKEN"
    if status in (401, 403):
        return f"the Hub refuses {what} ({status}); set HF_TOKEN to a token that may read {page}"
    if status == 429:
        return f"the Hub asks to wait ({status}, too many requests); try {what} again in a few minutes"
    return f"the Hub could not serve {what} ({status}); try again later: what has arrived is kept"


def obstacle(error: BaseException, repo: str, revision: str, name: str) -> str:
    """The message for any error: of the Hub, of this machine, or of the connection."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    causes = list(chain(error))
    what = f"{name} of {repo}" if name else repo
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return refusal(cause, repo, revision, what)
    if any(isinstance(cause, UnicodeEncodeError) for cause in causes):
        return f"HF_TOKEN or HF_ENDPOINT has letters that cannot be sent to {constants.ENDPOINT}; set it again"
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return f"{what} is not on this machine and HF_HUB_OFFLINE is set; unset it to fetch"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return f"{constants.ENDPOINT} cannot be reached (host name not found); check the connection"
    numbers = [cause.errno for cause in causes if isinstance(cause, OSError)]
    if any(number in FULL for number in numbers):
        return f"the disk of {constants.HF_HUB_CACHE} is full; make room and pull again: what has arrived is kept"
    if numbers and numbers[0] is not None and getattr(error, "filename", None) is not None:  # of this machine
        return f"cannot write {what} to {constants.HF_HUB_CACHE}: {os.strerror(numbers[0])}; change HF_HOME"
    if any("Timeout" in type(cause).__name__ for cause in causes):
        return f"{constants.ENDPOINT} does not answer in time; try {what} again: what has arrived is kept"
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return f"the connection to {constants.ENDPOINT} broke during {what} ({why}); try again: what has arrived is kept"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
