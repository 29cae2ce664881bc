"""The two kinds of failure a user can meet, and how messages count and show what others wrote. Everything else is a bug
and shows its traceback."""

import difflib
import json
import unicodedata
from collections.abc import Iterable, Sequence


class SoraError(Exception):
    """The user can fix this: what is wrong and what would be right, in one line. Exit code 2."""

    exit_code = 2


class Failed(SoraError):
    """The request was fine but the work could not be finished: a broken file, a full disk. Exit code 1."""

    exit_code = 1


OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # codes, marks that turn the direction, halves of letters, new lines
JOINERS = "\u200c\u200d"  # which some scripts and emojis need


def readable(text: str) -> str:
    """What strangers wrote, on one line, with all that a terminal would obey escaped as in JSON; so JSON stays JSON."""
    if text.isprintable():
        return text
    return "".join(json.dumps(letter)[1:-1] if unicodedata.category(letter) in OBEYED and letter not in JOINERS
                   else letter for letter in text)  # fmt: skip


def short(text: str, longest: int = 100) -> str:
    """What strangers wrote, fit for one line of a terminal."""
    line = readable(" ".join(text.split()))
    return line if len(line) <= longest else f"{line[:longest]}..."


def no_op(*_: object) -> None:
    """Ignore progress and notes."""


def meant(word: str, names: Iterable[str]) -> str:
    """`, did you mean pocket?` if a word is close to a known one, otherwise ""."""
    return "".join(f", did you mean {near}?" for near in difflib.get_close_matches(word, list(names), 1))


def counted(count: float, one: str, many: str = "") -> str:
    """`1 frame`, `2 frames`, `0.5 hours`; `many` is the plural where that is not `one` and an s."""
    number = f"{count:g}" if isinstance(count, float) else str(count)
    return f"{number} {one if number == '1' else many or one + 's'}"


def among(count: int, total: int, one: str, many: str = "") -> str:
    """`1 of 3 files`, `1 of 1 file`"""
    return f"{count} of {counted(total, one, many)}"


def listed(texts: Sequence[str], most: int = 8) -> str:
    """`a.mp4, b.mp4, ...`: the first of some texts."""
    return ", ".join([*texts[:most], *(["..."] if len(texts) > most else [])])


def be(count: float) -> str:
    """`is` of one, `are` of none or many."""
    return "is" if count == 1 else "are"


def have(count: float) -> str:
    return "has" if count == 1 else "have"
