"""Captions of files: beside them under whatever names and encodings people have, and in tables."""

import json
import os
import sys
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_data import built, clips, make, manifest, picture, run, tiny  # noqa: F401
from typer.testing import CliRunner

from sora_cli.captioning import Caption
from sora_cli.cli import app
from sora_cli.dataset import beside
from sora_cli.dataset.captions import Captions, read_table
from sora_cli.errors import SoraError

cli = sys.modules["sora_cli.cli.caption"]
SAID = "a man\u2019s caf\u00e9 by the sea"


# -- Beside a clip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", SAID.encode()),
        ("a.txt", SAID.encode("utf-8-sig")),
        ("a.txt", SAID.encode("utf-16")),
        ("a.txt", b"\xfe\xff" + SAID.encode("utf-16-be")),
        ("a.txt", SAID.encode("utf-32")),
        ("a.TXT", SAID.encode()),
        ("a.caption", SAID.encode()),
        ("a.mp4.txt", SAID.encode()),
        ("a.mp4.Caption", SAID.encode()),
        ("a.json", json.dumps({"caption": SAID}).encode()),
        ("a.json", json.dumps({"text": SAID}).encode("utf-16")),
        ("a.JSON", json.dumps({"shot": {"prompt": SAID}}).encode()),
        ("a.mp4.json", json.dumps(SAID).encode()),
    ],
)
def test_a_caption_is_found_and_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = Captions(tmp_path, ["a.mp4", name])
    assert (found.of("a.mp4").text, found.of("a.mp4").source) == (SAID, name)
    assert found.owners[name] == "a.mp4" and not found.wrong and not found.guesses


@pytest.mark.parametrize(
    ("content", "text", "guess"),
    [
        (SAID.encode("cp1252"), SAID, "Windows-1252"),
        ("ein gr\u00fcner \u00c4tna".encode("cp1252"), "ein gr\u00fcner \u00c4tna", "Windows-1252"),
        ("a red boat".encode("utf-16-le"), "a red boat", "UTF-16-LE"),
        ("a red boat".encode("utf-16-be"), "a red boat", "UTF-16-BE"),
    ],
)
def test_what_has_to_be_guessed_is_said(tmp_path: Path, content: bytes, text: str, guess: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert beside.read(tmp_path / "a.txt") == beside.Said(text, guess=guess)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "\u043b\u043e\u0434\u043a\u0430 \u043d\u0430".encode("cp1251"), "encoding is unknown"),
        ("a.txt", "\u6d77\u4e0a\u7684\u5c0f\u8239".encode("gbk"), "encoding is unknown"),
        ("a.txt", "caf\u00e9, caf\u00e9".encode()[:-1], "or it is damaged"),
        ("a.txt", b"\xff\xfea\x00b", "or it is damaged"),
        ("a.txt", b"\x01\x02 binary", "not text"),
        ("a.txt", b"x" * 1_000_001, "1000001 bytes"),
        ("a.json", b'{"caption": "a boat', "not JSON"),
        ("a.json", b'{"width": 3}', "no caption"),
        ("a.json", b'{"caption": ["a", "b"]}', "its caption is not text"),
        ("a.json", b"[" * 100_000, "not JSON"),
    ],
)  # fmt: skip
def test_what_is_no_caption_says_why(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = Captions(tmp_path, ["a.mp4", name])
    assert not found.of("a.mp4").text and reason in found.wrong[name]


@pytest.mark.parametrize("make", [os.mkfifo, partial(os.symlink, "/dev/zero"), os.mkdir])
def test_what_has_no_end_is_not_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.txt")
    assert beside.read(tmp_path / "a.txt").wrong == "it is not a regular file"


def test_names_are_the_same_composed_and_decomposed(tmp_path: Path) -> None:
    clip, side = unicodedata.normalize("NFD", "caf\u00e9.mp4"), unicodedata.normalize("NFC", "caf\u00e9.txt")
    (tmp_path / side).write_text("a cup")
    (tmp_path / "t.csv").write_text(f"file,caption\n{unicodedata.normalize('NFC', clip)},a mug\n", encoding="utf-8")
    assert Captions(tmp_path, [clip, side]).of(clip).text == "a cup"
    assert Captions(tmp_path, [clip, side], tmp_path / "t.csv").of(clip).text == "a mug"


def test_one_caption_is_used_and_the_other_named(tmp_path: Path) -> None:
    for name, content in (("a.json", '{"caption": "two"}'), ("a.txt", "one"), ("b.txt", " "), ("b.caption", "three")):
        (tmp_path / name).write_text(content)
    found = Captions(tmp_path, ["a.mp4", "b.mp4", "a.json", "a.txt", "b.txt", "b.caption"])
    assert found.of("a.mp4").text == "one" and found.others("a.mp4") == ["a.json"]
    assert found.of("b.mp4").text == "three" and found.others("b.mp4") == []


def test_what_cannot_be_read_is_in_the_notes_and_in_the_manifest(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        picture(tmp_path / "in" / f"{name}.png", number) if (tmp_path / "in").exists() else (tmp_path / "in").mkdir()
    picture(tmp_path / "in" / "a.png", 7)
    (tmp_path / "in" / "a.txt").write_bytes(b"\x00\x01")
    (tmp_path / "in" / "b.txt").write_bytes(SAID.encode("cp1252"))
    (tmp_path / "in" / "c.json").write_text('{"caption": 5}')
    said = built(tmp_path / "in", tmp_path / "out")
    lines = manifest(tmp_path / "out")
    assert "2 files beside clips are not read as captions: a.txt (" in said
    assert "c.json (its caption is not text)" in said
    assert "b.txt (Windows-1252)" in said and lines["b.png"]["caption"] == SAID
    assert lines["b.txt"]["reason"] == "beside b.png"
    assert lines["a.txt"]["reason"].startswith("not a caption of a.png: ")
    shown = json.loads(run("show", tmp_path / "out", "--json").stdout)
    assert shown["skipped"] == {"not a caption": 2, "beside a clip": 1}


# -- Tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'file,caption\na.mp4,"one, two"\n'),
        ("t.csv", 'Caption , File\r\n"one, two", a.mp4\r\n\r\n'),
        ("t.csv", "file;caption\na.mp4;one, two\n"),
        ("t.csv", 'file_name,text,,\na.mp4,"one, two",,,\n'),
        ("t.tsv", "file\tcaption\na.mp4\tone, two\n"),
        ("t.jsonl", '\n{"file_name": "a.mp4", "text": "one,\\n two"}\n'),
    ],
)
def test_tables_of_all_kinds(tmp_path: Path, name: str, content: str) -> None:
    for coding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / name).write_text(content, encoding=coding, newline="")
        assert [row[1:] for row in read_table(tmp_path / name)[0]] == [("a.mp4", "one, two")]


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("t.csv", "file,caption\na.mp4,one, two\n", "row 1 has 3 cells for 2 columns; quote captions with ','"),
        ("t.csv", "caption,file\nx,a.mp4\none, two,a.mp4\n", "row 2 has 3 cells"),
        ("t.csv", "file,caption\na.mp4\n", "row 1 has 1 cell for 2 columns"),
        ("t.csv", 'file,caption\na.mp4,"one\nb.mp4,two\n', "unexpected end of data"),
        ("t.csv", "path,caption\na.mp4,one\n", "no column file; its columns are path, caption"),
        ("t.csv", "file,caption,caption\na.mp4,one,two\n", "2 columns named caption"),
        ("t.csv", "file,caption\na.mp4,one\n./a.mp4,two\n", "row 2 of"),
        ("t.csv", "file,caption\nb.mp4,one\n", "no caption for any file of"),
        ("t.csv", "file,caption\n", "no caption for any file of"),
        ("t.csv", "", "no column file; its columns are none"),
        ("t.csv", "file,caption\n ,one\n", "row 1 names no file"),
        ("t.jsonl", '{"file": "a.mp4", "caption": "one"}\n{"file": "b', "line 2 is not JSON"),
        ("t.jsonl", '{"file": "a.mp4", "said": "one"}\n', "line 1 has no text for caption; its keys are file, said"),
        ("t.jsonl", '[{"file": "a.mp4", "caption": "one"}]', "line 1 is not an object"),
        ("t.txt", "a.mp4 one", "must be a .csv, .tsv, .jsonl file"),
    ],
)  # fmt: skip
def test_tables_that_say_something_else_are_refused(tmp_path: Path, name: str, content: str, wrong: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SoraError) as error:
        Captions(tmp_path, ["a.mp4"], tmp_path / name)
    assert wrong in str(error.value) and "\n" not in str(error.value)


def test_files_are_named_from_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "tables").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("sub/a.mp4", "./sub/a.mp4", "clips/sub/a.mp4", str(folder / "sub/a.mp4"), "sub\\a.mp4",
                 "link/sub/a.mp4", "../clips/sub/a.mp4"):  # fmt: skip
        table = tmp_path / "tables" / "t.jsonl"
        table.write_text(json.dumps({"file": name, "caption": "one"}))
        assert Captions(Path("clips"), ["sub/a.mp4"], table).of("sub/a.mp4").text == "one", name
        assert Captions(Path("link"), ["sub/a.mp4"], table).of("sub/a.mp4").text == "one", name


class Parrot:
    """A captioner that always says the same."""

    def sample_frames(self, name: str, say: object = None) -> list[Any]:
        return []

    def caption(self, frames: list[Any]) -> Caption:
        return Caption("a card")


def test_what_caption_writes_is_what_data_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in" / "new\nline.gif", source="testsrc2=d=1:s=64x64:r=8")
    raw = tmp_path / "in" / b"caf\xe9.gif".decode(errors="surrogateescape")
    raw.write_bytes((tmp_path / "in" / "new\nline.gif").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "open_captioner", lambda *words: Parrot())
    told = CliRunner().invoke(app, ["caption", "in", "-o", "c.jsonl"])
    assert told.exit_code == 0, told.exception
    built(Path("in"), tmp_path / "out", "--captions", "c.jsonl")
    assert len(manifest(tmp_path / "out")) == 2
    assert all(line["caption_from"] == "c.jsonl" for line in manifest(tmp_path / "out").values())
    lines = CliRunner().invoke(app, ["caption", "in/new\nline.gif"]).stdout
    assert lines.startswith("in/new\\nline.gif\t") and lines.count("\n") == 1


@pytest.mark.parametrize(("words", "note"), [(18, False), (19, True), (60, True)])
def test_captions_that_are_longer_than_what_is_read_are_named(words: int, note: bool, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name, count in (("a", words), ("b", 4)):
        make(tmp_path / "in" / f"{name}.gif", source="testsrc2=d=1:s=64x64:r=8")
        (tmp_path / "in" / f"{name}.txt").write_text(" ".join(["cat"] * count))
    told = CliRunner().invoke(app, ["data", "build", "in", "-o", "ds", "--size", "64x64"])
    assert told.exit_code == 0, told.output
    said = "1 of 2 captions is longer than the 18 words that are read: a.gif"
    assert (said in " ".join(told.stderr.split())) == note


@pytest.mark.parametrize("mark", [";", ",", "\t", "|"])
def test_excels_first_line_says_what_separates_cells(mark: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f'sep={mark}\nfile{mark}caption\na.png{mark}"a boat, at sea; slow"\n')
    rows, _ = read_table(table)
    assert [row[1:] for row in rows] == [("a.png", "a boat, at sea; slow")]


@pytest.mark.parametrize("line", [
    '{"file": "a", "caption": "b", "caption": "c"}', '{"file": "a", "file": "b", "caption": "c"}',
    '{"file": "a", "caption": "c", "caption": "c"}',
])  # fmt: skip
def test_what_is_said_twice_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(f'{{"file": "x", "caption": "y"}}\n{line}\n')
    with pytest.raises(SoraError, match="line 2: it has a key twice"):
        read_table(tmp_path / "t.jsonl")
    (tmp_path / "a.json").write_text(line)
    assert beside.read(tmp_path / "a.json").wrong == "it has a key twice"


@pytest.mark.parametrize("text", ["<!DOCTYPE html><html>", "\n <html><body>404</body>", "<?xml version='1.0'?><Error/>",
                                  "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"])
def test_what_a_download_left_is_no_caption(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    said = beside.read(tmp_path / "a.txt")
    assert said.text == "" and said.wrong.startswith("it is a")


@pytest.mark.parametrize("content", [b"{\\rtf1\\ansi a boat}", b"\xef\xbb\xbf{\\rtf1 a boat}", b"\n{\\rtf1 x}"])
def test_rich_text_is_no_caption(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert beside.read(tmp_path / "a.txt").wrong == "it is rich text; save it as plain text"


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff\u2060", "\u00a0\u3000", "\u200e \u202e"])
def test_what_is_not_seen_is_blank(tmp_path: Path, blank: str) -> None:
    (tmp_path / "a.txt").write_bytes(blank.encode())
    assert beside.read(tmp_path / "a.txt") == beside.Said()


@pytest.mark.parametrize(("name", "content", "where"), [
    ("t.csv", "file,caption,text\na.mp4,,a boat\n", "it has caption and text"),
    ("t.tsv", "file\tfile_name\ttext\na.mp4\tb.mp4\ta boat\n", "it has file and file_name"),
    ("t.jsonl", '{"file_name": "a.mp4", "text": "x", "caption": "y"}\n', "line 1: it has caption and text"),
])  # fmt: skip
def test_a_table_that_says_two_things_is_refused(tmp_path: Path, name: str, content: str, where: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SoraError, match=where):
        read_table(tmp_path / name)
