"""Counts in English, and no message that builds its plural by hand."""

import re
from pathlib import Path

import pytest

from sora_cli.errors import among, be, counted, have

PACKAGE = Path(__file__).parent.parent / "sora_cli"


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 frames"), (1, "1 frame"), (2, "2 frames"), (1.0, "1 frame"), (0.5, "0.5 frames"), (1001, "1001 frames")],
)
def test_counts(count: float, said: str) -> None:
    assert counted(count, "frame") == said


def test_other_words() -> None:
    assert [counted(n, "batch", "batches") for n in (1, 3)] == ["1 batch", "3 batches"]
    assert among(1, 1, "file") == "1 of 1 file" and among(1, 3, "file") == "1 of 3 files"
    assert [be(n) for n in (0, 1, 2)] == ["are", "is", "are"]
    assert [have(n) for n in (0, 1, 2)] == ["have", "has", "have"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_adds_an_s_by_hand(path: Path) -> None:
    by_hand = r"""['"]s['"] (if|\*) """
    found = [line for line in path.read_text().splitlines() if re.search(by_hand, line) and '("s",' not in line]
    assert path.name == "errors.py" or not found
