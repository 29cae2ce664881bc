"""Where a video goes, what is kept beside it, and what of that is there already. No torch."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sora_cli import media
from sora_cli.cli.options import Keeping
from sora_cli.cli.outputs import check_output, check_place
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.files.owned import LOCK, Owned, differences
from sora_cli.media.moving import SHARED
from sora_cli.media.names import sequence_of
from sora_cli.shot import check_text
from sora_cli.storage.resume import clear

IMAGES = (".png", ".gif", ".webp", ".apng")


@dataclass(frozen=True, kw_only=True)
class Target(Keeping):
    """Where a video goes (`-` is standard output) and what is kept beside it."""

    name: str
    suffixes: Sequence[str] = media.SUFFIXES
    sized: bool = False  # whether its size was asked for, ...
    timed: bool = False  # ... and its rate, so that a GIF or WebP has them, too
    asked: Mapping[str, Any] = field(default_factory=dict)  # in JSON, what determines the video ...
    sources: tuple[str, ...] = ()  # ... beside the content of these files
    called: str = ""  # its name in the record, where it is made under another one

    @property
    def stream(self) -> bool:
        return self.name == media.STREAM

    @cached_property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def resume_folder(self) -> Path:
        """The folder with the finished windows of an unfinished video."""
        return self.path.with_name(self.path.name + ".resume")

    @property
    def own(self) -> Owned:
        """The lock of the video, held by at most one process."""
        return Owned(self.resume_folder, kind="video", name=self.name)

    @contextmanager
    def held(self) -> Iterator[Owned]:
        """The same, taken for writing: what has come since the check is not overwritten, and windows that are not to be
        resumed are removed. Pipes need no lock."""
        own = self.own
        if self.stream:
            yield own
            return
        with own:
            self.check_new()
            if not self.resume:
                self.clear_resume()
            yield own

    @property
    def replaces(self) -> bool:
        """Whether existing files may be overwritten: with --force, or when an unfinished run is resumed."""
        return self.force or (self.resume and not self.own.empty)

    @property
    def record(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def latents(self) -> Path:
        return self.path.with_suffix(".safetensors")

    @property
    def preview(self) -> Path | None:
        """The preview's file; None for a pipe."""
        if self.stream:
            return None
        sequence = sequence_of(self.name)
        stem = sequence.before.strip("-_.") or "images" if sequence else self.path.stem
        return self.path.with_name(f"{stem}.preview.webp")

    @property
    def one_image(self) -> bool:
        """Whether the output is one image, and not a name of numbered ones, `a%05d.png`."""
        return self.path.suffix.lower() == ".png" and sequence_of(self.name) is None

    @property
    def images(self) -> bool:
        """Whether the output is made of images, which keep every bit of a given picture."""
        return self.path.suffix.lower() in IMAGES

    def shared(self, format: media.Format) -> media.Shared:
        """The frames in the file, which a GIF or WebP may reduce in size and rate."""
        return media.Shared.of(self.name, format, self.sized, self.timed, self.lossless)

    @property
    def keeps(self) -> bool:
        """Whether a record and latents are written: not for pipes, images or with --no-metadata."""
        return self.metadata and not self.stream and self.path.suffix.lower() != ".png"

    @property
    def identity(self) -> Any:
        """Everything that determines the video, in JSON, as stored in its record."""
        files = {name: content_of(name) for name in self.sources}
        shared = self.path.suffix.lower() in SHARED
        more = {"lossless": self.lossless, "res": shared and self.sized, "fps": shared and self.timed}
        kept = {name: True for name, asked in more.items() if asked}
        return json.loads(json.dumps({**self.asked, "audio": self.audio, **kept, "files": files}))

    @property
    def there(self) -> bool:
        """Whether the output exists."""
        sequence = sequence_of(self.name)
        return bool(sequence.numbers()) if sequence else os.path.lexists(self.path)

    @property
    def recorded(self) -> dict[str, Any]:
        """The record of the existing video; empty if it cannot be read."""
        with suppress(OSError, ValueError, RecursionError):
            found = json.loads(self.record.read_text(encoding="utf-8")) if self.path.exists() else {}
            return found if isinstance(found, dict) else {}
        return {}

    @property
    def done(self) -> bool:
        """Whether the requested video exists, and not just a different one with its name."""
        if not self.keeps or not (made := self.recorded.get("asked")):
            return False
        kept = (path for path in self.resume_folder.rglob("*") if path.name != LOCK)
        newest = max((path.stat().st_mtime_ns for path in kept), default=0)
        return newest <= self.record.stat().st_mtime_ns and made == self.identity

    def settle(self) -> None:
        """Remove leftovers of a killed process from a finished video."""
        with suppress(SoraError), self.own:
            self.clear_resume()

    def check(self) -> None:
        """Refuse, before any work, an output that cannot be written or would overwrite files."""
        check_text("name of the output", self.name)
        if self.sheet and self.stream:
            raise SoraError("--sheet reads the finished video, which a pipe does not keep; give -o a name")
        if self.resume and self.stream:
            raise SoraError("--resume continues from finished windows, which a pipe does not keep; give -o a name")
        if self.stream:
            return
        check_place(self.path, self.suffixes)
        folder = self.resume_folder
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise SoraError(f"{folder} is in the way: it is no folder of ours; move it, or give another -o")
        self.own.check_free()
        self.check_new()

    def check_new(self) -> None:
        """Refuse to overwrite files, or to give up finished windows."""
        self.check_files()
        if not (self.own.empty or self.resume or self.force):
            raise SoraError(f"{self.path} is unfinished; --resume continues it, --force starts over")

    def check_files(self) -> None:
        """Refuse to overwrite files."""
        if self.stream:
            return
        if self.sheet:
            check_output(self.sheet, (".png",), self.replaces)
        check_output(self.path, self.suffixes, self.replaces, self.difference)
        for beside in (self.record, self.latents) if self.keeps else ():
            if os.path.lexists(beside) and not self.replaces:
                raise SoraError(f"{beside} already exists; --force overwrites it, "
                                f"--no-metadata writes nothing beside {self.path}")  # fmt: skip

    def difference(self) -> str:
        """How the existing video differs from the requested one, as far as its record says."""
        made = self.recorded.get("asked") if self.asked and self.keeps else None
        found = differences(made, self.identity) if made else []
        if not found:
            return ""
        line = min(found, key=len)
        name = line.partition(" was ")[0].removeprefix("shot.").partition(".")[0]
        return f", made with other {name}" if "null" in line or "..." in line else f": its {line}"

    def check_preview(self) -> None:
        """Refuse a preview that would overwrite another file."""
        path = self.preview
        if path and os.path.lexists(path) and not (self.replaces or media.is_preview(path)):
            raise SoraError(f"{path} already exists, and the preview needs its name; --force overwrites it")

    def check_format(self, format: media.Format) -> None:
        """Refuse frames that the output cannot hold, and numbered images that are there already."""
        if self.stream or self.path.suffix.lower() == ".png":
            media.open_sink(self.name, format, force=self.replaces)
        else:
            media.check_format(self.path, self.shared(format).format)

    def clear_resume(self) -> None:
        """Remove all finished windows of the video."""
        for folder in (*self.resume_folder.glob("*/"), self.resume_folder):
            if not folder.is_symlink():
                clear(folder)

    def clear_preview(self) -> None:
        """Remove the preview of this video, or of an earlier process that did not finish it."""
        if (path := self.preview) and media.is_preview(path):
            path.unlink(missing_ok=True)


def content_of(name: str) -> str:
    """A SHA-256 of a file, or of numbered images together; "" for a stream."""
    if name != media.STREAM and Path(name).is_file():
        return weights.hash_of(Path(name))
    if not (sequence := sequence_of(name)):
        return ""
    hashes = (weights.hash_of(sequence.path(number)) for number in sequence.numbers())
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()
