"""Captions in files of their own: which file beside a clip is one, and what it says. No torch."""

import codecs
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISREG

from sora_cli.errors import SoraError
from sora_cli.media.kinds import ending

ENDINGS = (".txt", ".caption", ".json")  # the first one that says something is the caption
KEYS = ("caption", "text", "prompt")     # of JSON; the last one in records of our own videos
UNKNOWN = "its encoding is unknown, or it is damaged; save it as UTF-8"
FOREIGNERS = {
    "a web page": re.compile(r"\s*<(!doctype|html|\?xml)\b", re.IGNORECASE),
    "rich text; save it as plain text": re.compile(r"\s*\{\\rtf\d"),
    "a Git LFS pointer": re.compile(r"version https://git-lfs"),
}
LARGEST = 1_000_000                      # bytes
MARKS = (("utf-8-sig", codecs.BOM_UTF8), ("utf-32", codecs.BOM_UTF32_LE), ("utf-32", codecs.BOM_UTF32_BE),
         ("utf-16", codecs.BOM_UTF16_LE), ("utf-16", codecs.BOM_UTF16_BE))  # fmt: skip
ZEROS = 0.4                              # of the bytes of Latin text in UTF-16 on one side
FOREIGN = 0.25                           # of the letters of a text in Windows-1252 that are not a to z, at most


@dataclass(frozen=True)
class Said:
    """A file's caption: `text` on one line, or why it is `wrong`; `guess` is the encoding where it is guessed."""

    text: str = ""
    wrong: str = ""
    guess: str = ""


def pairs(files: Iterable[str], clips: Iterable[str]) -> dict[str, list[str]]:
    """The files that may hold the caption of each clip, in the order in which they are asked: NAME.txt and NAME.mp4.txt
    of NAME.mp4, then those of the other endings. Names may be composed or decomposed (NFC, NFD)."""
    owners: dict[str, set[str]] = {}
    for clip in clips:
        for name in (clip, stem(clip)):
            owners.setdefault(same(name), set()).add(clip)
    found: dict[str, list[str]] = {}
    for file in sorted(files, key=lambda file: (ENDINGS.index(ending(file)) if ending(file) in ENDINGS else 9, file)):
        for clip in owners.get(same(stem(file)), ()) if ending(file) in ENDINGS else ():
            found.setdefault(clip, []).append(file)
    return found


def stem(file: str) -> str:
    return str(PurePosixPath(file).with_suffix(""))


def same(name: str) -> str:
    """A name as all file systems have it alike."""
    return unicodedata.normalize("NFC", name)


def around(clips: Iterable[Path]) -> Iterator[tuple[Path, list[Path]]]:
    """Clips anywhere, each with the files beside it that may hold its caption."""
    folders: dict[Path, list[Path]] = {}
    for clip in clips:
        folders.setdefault(clip.parent, []).append(clip)
    for folder, members in folders.items():
        names = [path.name for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file()]
        known = pairs(names, [clip.name for clip in members])
        yield from ((clip, [folder / name for name in known.get(clip.name, ())]) for clip in members)


# ---- what they say ----------------------------------------------------------------------------------------


def read(path: Path) -> Said:
    """What a caption file says; whatever is in it, this is an answer."""
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):  # a pipe or a device may have no end
            return Said(wrong="it is not a regular file")
        if status.st_size > LARGEST:
            return Said(wrong=f"it has {status.st_size} bytes, too many for a caption")
        text, guess = decoded(path.read_bytes())
        if foreign := next((what for what, pattern in FOREIGNERS.items() if pattern.match(text)), ""):
            return Said(wrong=f"it is {foreign}")
        return Said(one_line(text_within(text) if path.suffix.lower() == ".json" else text), guess=guess)
    except SoraError as error:
        return Said(wrong=str(error))
    except OSError as error:
        return Said(wrong=(error.strerror or "unreadable").lower())


def text_within(text: str) -> str:
    """The caption in JSON; SoraError if there is none."""
    if not text.strip():
        return ""
    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise SoraError(f"it is not JSON ({str(error).partition(':')[0]})") from error
    if isinstance(found, dict):
        found = found["shot"] if isinstance(found.get("shot"), dict) else found
        key = next((key for key in KEYS if key in found), None)
        if key is None:
            raise SoraError(f"it has no {KEYS[0]}")
        found = found[key]
    if not isinstance(found, str):
        raise SoraError("its caption is not text")
    return found


def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; SoraError if a key repeats, since the second would hide the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise SoraError("it has a key twice")
    return found


def one_line(text: str) -> str:
    """A text on one line; "" if there is nothing to see in it."""
    line = " ".join(text.split())
    return line if any(letter.isprintable() for letter in line.replace(" ", "")) else ""


def decoded(content: bytes) -> tuple[str, str]:
    """Text of any encoding, and the encoding if it is a guess; SoraError if it is not text."""
    coding = next((coding for coding, mark in MARKS if content.startswith(mark)), "utf-8")
    try:
        text, guess = content.decode(coding), ""
    except ValueError as error:
        if coding != "utf-8" or not content.decode(errors="ignore").isascii():  # parts of it are what it says, or UTF-8
            raise SoraError(UNKNOWN) from error
        text, guess = guessed(content)
    else:
        if "\x00" in text:
            text, guess = guessed(content)
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        raise SoraError("it is not text")
    return text, guess


def guessed(content: bytes) -> tuple[str, str]:
    """Text that has no byte order mark and is not UTF-8, and its encoding."""
    for zeros, coding in ((content[1::2], "utf-16-le"), (content[::2], "utf-16-be")):
        if zeros.count(0) > ZEROS * len(zeros):
            return content.decode(coding, errors="replace"), coding.upper()
    try:
        text = content.decode("cp1252")
    except ValueError:
        text = ""
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters)
    if not letters or foreign > FOREIGN * len(letters) or re.search(rb"[\x80-\xff]{3}", content):
        raise SoraError(UNKNOWN)
    return text, "Windows-1252"
