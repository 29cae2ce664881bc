"""benchmarks/gpu.py on tiny networks: every part runs, and one that hangs or fails loses nothing of the others."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import gpu
from gpu_parts import PARTS, At

CPU = torch.device("cpu")
ELSEWHERE = ("tests", "training", "batch")  # commands of their own, which .ci/run has run
CHOSEN = [name for name in PARTS if name not in ELSEWHERE and not name.startswith("model")]


@pytest.fixture
def asked(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(device="cpu", tiny=True, out=tmp_path)


@pytest.mark.parametrize("name", [*CHOSEN, "model skyreels2-1.3b"])
def test_every_part_finds_numbers(name: str, tmp_path: Path) -> None:
    found = list(PARTS[name][0](At(CPU, True, tmp_path)))
    assert found and json.loads(json.dumps(found)) == found
    measured = [row["measured"] for row in found if row["measured"] is not None]
    assert measured and all(isinstance(value, str) or math.isfinite(value) and value >= 0 for value in measured)
    assert all(row["predicted"] is None or row["predicted"] > 0 for row in found)
    assert gpu.table(found).count("\n") == len(found) + 2
    assert not list(tmp_path.iterdir()), "files of weights are removed"
    if name == "packed":
        notes = [row["note"] for row in found if "a step" in row["what"]]
        assert notes == ["", *["the same bits"] * 3, *["", "the same bits"] * 2]


def test_a_part_that_fails_or_hangs_is_a_row(asked: argparse.Namespace, tmp_path: Path) -> None:
    (failed,) = gpu.run("nowhere", 60, asked, tmp_path)
    assert failed["part"] == "nowhere" and "failed (1): KeyError: 'nowhere'" in failed["note"]
    (hung,) = gpu.run("machine", 0.3, asked, tmp_path)
    assert hung["note"] == "stopped after 0 s" and hung["measured"] is None
    gpu.save([failed, hung], asked)
    assert json.loads((tmp_path / "gpu.json").read_text())["rows"] == [failed, hung]
    assert (tmp_path / "gpu.md").read_text() == gpu.table([failed, hung])


UNFINISHED = """
import os, time
print('{"what": "a", "measured": 1.0}')
print('{"what": "b', end="", flush=True)
os.fork()
time.sleep(60)
"""


def test_what_was_found_before_the_end_is_kept(asked: argparse.Namespace, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "some.py").write_text(UNFINISHED)
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "some.py"))
    found = gpu.run("some", 1.5, asked, tmp_path)
    assert [row["what"] for row in found] == ["a", "some"] and found[1]["note"].startswith("stopped after")


def test_the_report_is_a_table_and_goes_between_marks(
    asked: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, float]] = []

    def run(name: str, limit: float, *_: Any) -> list[dict[str, Any]]:
        ran.append((name, limit))
        told = {"measured": 1234.5, "unit": "s", "predicted": 0.01234, "note": ""}
        return [{"part": name, "what": f"{name} | it", **told}]

    page = tmp_path / "README.md"
    page.write_text(f"before\n{gpu.BEGIN}\nold\n{gpu.END}\nafter\n")
    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    words = ["--device", "cpu", "--only", "machine", "batch", "--out", str(tmp_path / "out"), "--write"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert not ended.value.code and ran == [("machine", PARTS["machine"][1]), ("batch", PARTS["batch"][1])]
    lines = ["|  | measured | predicted |  |", "| --- | --- | --- | --- |", "| machine / it | 1234 s | 0.0123 |  |",
             "| batch / it | 1234 s | 0.0123 |  |"]  # fmt: skip
    assert page.read_text().splitlines() == ["before", gpu.BEGIN, *lines, gpu.END, "after"]
    assert (tmp_path / "out" / "gpu.md").read_text().splitlines() == lines
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "nothing"])
    with pytest.raises(SystemExit, match="no part begins with nothing; parts: machine"):
        gpu.main()


def test_the_page_has_the_marks() -> None:
    page = (Path(__file__).parent.parent / "README.md").read_text()
    assert page.index(gpu.BEGIN) < page.index(gpu.END)
