"""The two kinds of failure a user can meet; everything else is a bug and shows its traceback."""

import difflib
from collections.abc import Iterable


class SoraError(Exception):
    """The user can fix this: what is wrong and what would be right, in one line. Exit code 2."""

    exit_code = 2


class Failed(SoraError):
    """The request was fine but the work could not be finished: a broken file, a full disk. Exit code 1."""

    exit_code = 1


def meant(word: str, known: Iterable[str]) -> str:
    """`, did you mean pocket?`, where a word is nearly one of those that are known."""
    return "".join(f", did you mean {near}?" for near in difflib.get_close_matches(word, list(known), 1))
