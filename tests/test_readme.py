"""The README's file tree and commands are those of the project."""

import re
from pathlib import Path

from typer.testing import CliRunner

from sora_cli.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_tree_names_every_module_and_nothing_else() -> None:
    tree = re.search(r"```\nsora_cli/\n(.*?)```", README, re.S)
    assert tree is not None
    named = set(re.findall(r"^  ([a-z_]+(?:\.py|/))", tree[1], re.M))
    folder = ROOT / "sora_cli"
    there = {p.name for p in folder.glob("*.py") if not p.name.startswith("__")}
    there |= {f"{p.name}/" for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert {n for n in named if n != "models/"} == there - {"models/"}
    assert "models/sora/" in tree[1] and "models/wan/" in tree[1]


def test_every_option_in_the_readme_exists() -> None:
    runner = CliRunner()
    for line in re.findall(r"^sora-cli (.+)$", README, re.M):
        command = line.split()[0]
        told = runner.invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        assert told.exit_code == 0, line
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", line):
            assert option in told.output, f"{option} in: sora-cli {line}"
