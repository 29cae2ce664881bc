"""What strangers wrote reaches a terminal without anything that it would obey."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file
from test_data import picture

from sora_cli import cli
from sora_cli.cli.screen import Screen
from sora_cli.errors import readable

EVIL = {
    "escape": "\x1b[2J", "title": "\x1b]0;x\x07", "C1": "\x9b31m", "backspaces": "\b\b", "direction": "\u202egpj",
    "line": "\u2028x", "half a letter": "\ud800", "byte": "\udc9b", "deletion": "\x7f",
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("what", EVIL)
def test_what_a_terminal_would_obey_is_escaped_as_in_json(what: str) -> None:
    shown = readable(f"a {EVIL[what]} \u00e9\u4e2d")
    assert shown.isprintable() and shown.startswith("a ") and shown.endswith(" \u00e9\u4e2d")
    found = {"a": EVIL[what], EVIL[what]: ["\u00e9"]}
    line = readable(json.dumps(found, ensure_ascii=False))
    assert line.isprintable() and json.loads(line) == found


@pytest.mark.parametrize(
    "text", ["", "a cat", "\u0645\u06cc\u200c\u062e", "\U0001f469\u200d\U0001f680", "a\u00a0b", "\ue000"]
)
def test_what_is_only_read_stays(text: str) -> None:
    assert readable(text) == text


def by_error(text: str) -> None:
    cli.complain(f"no file {text}", 2)


def by_note(text: str) -> None:
    Screen().note(f"file {text} [bold]")


def by_prompt(text: str) -> None:
    assert cli.run(["generate", f"a cat {text}", "--model", f"no{text}"]) == 2


def by_list(text: str) -> None:
    Path("a.jsonl").write_text(json.dumps({"prompt": "a cat", "model": text}) + "\n" + json.dumps({text: 1}) + "\n")
    assert cli.run(["batch", "a.jsonl", "-o", "{line}.mp4"]) == 2


def by_lora(text: str) -> None:
    part = {f"transformer.blocks.0.attn.{name}.weight": torch.zeros(4, 4) for name in ("lora_A", "lora_B")}
    save_file(part, "a.safetensors", {"base_model": text.encode(errors="replace").decode()})
    cli.run(["info", "a.safetensors"])
    cli.run(["info", "a.safetensors", "--json"])


def by_dataset(text: str) -> None:
    Path("clips").mkdir()
    picture(Path("clips/a.png"))
    Path("clips/a.txt").write_text(f"a cat {text}", errors="replace")
    Path("clips/b.png").write_text(text, errors="replace")
    cli.run(["data", "build", "clips", "-o", "ds", "--size", "64x64", "--device", "cpu"])
    cli.run(["data", "show", "ds"])
    cli.run(["caption", "clips", "--keep-human", "1", "--model", f"http://a{text}"])


@pytest.mark.parametrize("way", [by_error, by_note, by_prompt, by_list, by_lora, by_dataset])
@pytest.mark.parametrize("what", ["title", "C1", "direction"])
def test_every_way_to_the_terminal(way: Callable[[str], None], what: str, capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    with monkeypatch.context() as patched:
        tiny.install(patched.setattr)
        way(EVIL[what])
    said = capsys.readouterr()
    assert said.out + said.err
    assert all(letter.isprintable() or letter == "\n" for letter in said.out + said.err), (said.out + said.err).encode()
