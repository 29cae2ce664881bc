"""Names of inputs and outputs: what can be refused without decoding, and numbered sequences."""

import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sora_cli.errors import SoraError

STREAM = "-"


@dataclass(frozen=True)
class Sequence:
    """Numbered images, `folder/name%05d.png`: what comes before the number, its digits, what comes after."""

    folder: Path
    before: str
    digits: int
    after: str

    def path(self, number: int) -> Path:
        return self.folder / f"{self.before}{number:0{self.digits}d}{self.after}"

    def numbers(self) -> list[int]:
        """The numbers of the existing images, ascending."""
        shape = re.compile(rf"{re.escape(self.before)}(\d{{{max(self.digits, 1)},}}){re.escape(self.after)}", re.ASCII)
        if not self.folder.is_dir():
            return []
        found = (shape.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match and self.path(int(match[1])).name == match[0])

    def pattern(self) -> str:
        """The name for ffmpeg, in which every other % is doubled."""
        literal = [str(part).replace("%", "%%") for part in (self.folder, self.before, self.after)]
        return str(Path(literal[0]) / f"{literal[1]}%0{self.digits}d{literal[2]}")


def sequence_of(name: str) -> Sequence | None:
    """The sequence that a name like `frame%05d.png` stands for; None for the name of one file."""
    path = Path(name)
    match = re.fullmatch(r"(.*?)%0?(\d?)d(.*)", path.name, re.ASCII | re.DOTALL)
    return Sequence(path.parent, match[1], int(match[2] or 1), match[3]) if match else None


def check_input(name: str) -> None:
    """Refuse an input that is missing, a folder, empty or unreadable."""
    path = Path(name)
    if name == STREAM:
        return
    if path.is_dir():
        raise SoraError(f"{name} is a folder; give a video, or numbered images as {path / '%05d.png'}")
    if not path.exists():
        check_sequence(name)
    elif not os.access(path, os.R_OK):
        raise SoraError(f"cannot read {name}: permission denied")
    elif path.is_file() and path.stat().st_size == 0:
        raise SoraError(f"{name} is empty")


def check_sequence(name: str) -> None:
    """Refuse a name that is neither a file nor a gapless sequence of images."""
    sequence = sequence_of(name)
    if sequence is None:
        raise SoraError(f"there is no file {name}")
    numbers = sequence.numbers()
    if not numbers:
        raise SoraError(f"there is no file {name}, and no numbered images like {sequence.path(1)}")
    for before, after in pairwise(numbers):
        if after > before + 1:
            raise SoraError(f"{sequence.path(before + 1)} is missing between {numbers[0]} and {numbers[-1]}")


def same_file(a: str, b: str) -> bool:
    """Whether two names are the same file; standard input and output never are."""
    if STREAM in (a, b):
        return False
    try:
        return os.path.samefile(a, b)
    except OSError:                  # one of them is not there
        return os.path.realpath(a) == os.path.realpath(b)
