"""The file tree and the recipes of the pages are those of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sora_cli import cli
from sora_cli.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_tree_names_every_part_and_nothing_else() -> None:
    tree = re.search(r"```\nsora_cli/\n(.*?)```", README, re.S)
    assert tree is not None and tree[1].count("\n") <= 20
    named = set(re.findall(r"^  ([a-z_]+/)", tree[1], re.M)) | set(re.findall(r"\w+\.py", tree[1].splitlines()[-1]))
    folder = ROOT / "sora_cli"
    there = {p.name for p in folder.glob("*.py") if not p.name.startswith("__")}
    there |= {f"{p.name}/" for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert named == there
    assert "models/sora/" in tree[1] and "models/wan/" in tree[1]


def test_what_design_says_about_changing_one_thing_holds(tmp_path: Path) -> None:
    """The files and examples that it names are there, and a verb, a training stage and a word are added by what it
    says, on a copy."""
    design = (ROOT / "docs" / "design.md").read_text()
    table = design[design.index("## Change one thing") : design.index("## One engine")]
    for row in re.findall(r"^\| (?:an?|names) .*", table, re.M):
        named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|toml))", row)
        paths = [next(p for p in (ROOT / name, ROOT / "sora_cli" / name) if p.is_file()) for name in named]
        *_, example = re.findall(r"`(.+?)`", row)
        assert example in named or any(example in path.read_text() for path in paths), row
    code = shutil.copytree(ROOT / "sora_cli", tmp_path / "sora_cli", ignore=shutil.ignore_patterns("pocket", "*.pyc"))
    shutil.copy(ROOT / "weights.toml", tmp_path)

    (code / "cli" / "hello.py").write_text(
        "from sora_cli.cli.options import Compute, flattened\n\n\n"
        "@flattened\ndef hello(name: str, *, compute: Compute) -> None:\n"
        '    """Greet somebody."""\n    print(f"hello {name}, on {compute.device}")\n')  # fmt: skip
    words = (code / "cli" / "__init__.py").read_text()
    words = words.replace("for verb in (", "from sora_cli.cli.hello import hello\nfor verb in (hello, ", 1)
    (code / "cli" / "__init__.py").write_text(words)
    stages = (code / "train" / "options.py").read_text()
    hue = '@dataclass(frozen=True)\nclass HueOptions(TrainOptions):\n    """Learn a hue."""\n\n    stage = "hue"\n\n\n'
    stages = stages.replace("STAGES:", f"{hue}STAGES:").replace("EvaluatorOptions)", "EvaluatorOptions, HueOptions)")
    (code / "train" / "options.py").write_text(stages)
    synonyms = code / "world" / "synonyms.py"
    synonyms.write_text(synonyms.read_text().replace('"cat": "', '"cat": "moggy, ', 1))

    def said(*words: str) -> str:
        return subprocess.run([sys.executable, *words], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
                              capture_output=True, text=True, check=True).stdout  # fmt: skip

    assert said("-m", "sora_cli", "hello", "you", "--device", "cpu") == "hello you, on cpu\n"
    assert "Learn a hue." in said("-m", "sora_cli", "train", "hue", "--help")
    asked = "from sora_cli.prompts.grammar import expand; print(expand('a moggy in the snow').caption)"
    assert re.match(r"a \w+ cat .*, snow,", said("-c", asked))


def test_a_model_is_shown_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Every part is a line of its own, the tiny decoder too, and what does not apply is left out."""
    assert cli.run(["weights", "show", "wan2.2-5b"]) == 0
    shown = capsys.readouterr().out
    assert "  tiny           Kijai/WanVideo_comfy@main taew2_2.safetensors, 22.8 MB\n" in shown
    assert "{" not in shown and "conditioned" not in shown and "  shift          5\n" in shown


def test_help_lists_options_by_topic() -> None:
    said = CliRunner().invoke(app, ["extend", "--help"], env={"COLUMNS": "100", "TERM": "dumb"}).output
    topics = re.findall(r"^╭─ (\w+)", said, re.M)
    assert topics == ["Arguments", "Options", "Input", "Sampling", "Compute", "Output", "Terminal"]
    assert said.index("─ Compute") < said.index("--decoder") < said.index("--threads") < said.index("─ Output")
    assert said.index("--after") < said.index("─ Input") < said.index("--input-res") < said.index("─ Sampling")
