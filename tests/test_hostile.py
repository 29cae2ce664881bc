"""A share of `benchmarks/hostile.py`: damaged inputs that are refused in a line, kept in part with a note, or used."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUICK = ("video, mp4", "video, ts", "video, gif", "picture, png", "picture, webp", "a pipe", "configuration",
         "tokenizer", "LoRA", "GGUF", "registry", "table of captions", "captions beside clips", "batch")  # fmt: skip
COUNT = 28


def test_damaged_inputs_are_refused_or_noted_or_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import hostile

    found = list(hostile.trials(range(COUNT), 7, QUICK))
    assert [one for one in found if one.outcome == "failed"] == []
    assert {one.outcome for one in found} == {"refused", "kept with a note", "used"} and len(found) == COUNT


@pytest.mark.parametrize(("code", "said", "new", "outcome"), [
    (2, "sora-cli: a.mp4 is empty\n", [], "refused"),
    (0, "a.mp4: it is damaged (x); 3 frames were read\n3 frames in 1 s\n", ["out.mp4"], "kept with a note"),
    (0, "3 frames in 1 s\n", ["out.mp4"], "used"),
    (99, "Traceback (most recent call last):\nValueError: x\n", [], "failed"),
    (1, "Traceback (most recent call last):\nValueError: x\n", [], "failed"),
    (-14, "", [], "failed"),
    (1, "sora-cli: not enough memory\n", [], "failed"),
    (1, "sora-cli: a.mp4 is damaged\n", ["out.mp4"], "failed"),
    (0, "", [".x.part-12"], "failed"),
    (2, "two lines\nof another program\n", [], "failed"),
])  # fmt: skip
def test_what_counts_as_failed(code: int, said: str, new: list[str], outcome: str,
                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import hostile

    assert hostile.judged(code, said, new)[0] == outcome
