"""The pages that promise things: every yes has a test or a command that is there, and tables are what scripts make."""

import re
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sora_cli.cli import app

ROOT = Path(__file__).parent.parent
FEATURES = (ROOT / "docs" / "features.md").read_text()
LINES = [line for line in FEATURES.splitlines() if line.startswith("| ")]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]


@pytest.mark.parametrize("row", ROWS[1:], ids=lambda row: row[0])
def test_every_yes_is_shown(row: list[str]) -> None:
    _, ours, shown, *others = row
    assert len(row) == len(ROWS[0]) and all(others)
    assert re.match(r"(yes|partly|no|in work)\b", ours)
    assert bool(shown) == ours.startswith(("yes", "partly"))
    for one in re.findall(r"`(.+?)`", shown):
        check_command(one) if one.startswith("sora-cli ") else check_test(one)


def check_test(name: str) -> None:
    file, _, function = name.partition("::")
    assert (ROOT / file).is_file(), name
    assert f"def {function or 'test_'}" in (ROOT / file).read_text(), name


def check_command(line: str) -> None:
    _, verb, *words = line.split()
    told = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert told.exit_code == 0 and all(word in told.output for word in words if word.startswith("--")), line


@pytest.mark.parametrize(("script", "page"), [("choose_table.py", "docs/choose.md"), ("model_table.py", "README.md")])
def test_tables_are_what_scripts_make(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, page: str
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr("sys.argv", [script])
    runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    table = capsys.readouterr().out
    right = f"python scripts/{script} --write puts it right"
    assert table.count("\n") > 4 and table in (ROOT / page).read_text(), right
