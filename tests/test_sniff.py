"""Files under the names of weights that are something else are called that, wherever weights are read."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sora_cli.errors import Failed
from sora_cli.files import published, weights
from sora_cli.files.sniff import instead

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 306807976\n"
CASES = [
    (b"<!DOCTYPE html>\n<html><head><title>Sign in &amp; go\n on</title></head>", "a web page (Sign in & go on)"),
    (b"\xef\xbb\xbf<HTML><body>Not found</body>", "a web page; "),
    (b"<?xml version='1.0'?><Error><Code>Denied</Code><Message>Expired</Message></Error>", "Denied: Expired"),
    (b'{"error":"Unauthorized","message":"Log in"}', "it says: Unauthorized: Log in"),
    (b'{"error": {"message": "No such model"}}', "it says: No such model"),
    (b'{"weights": 3}', "it is JSON"),
    (b"Entry not found", "it is text: Entry not found"),
    (b"Invalid username or password.\n" * 9, "it is text: Invalid username"),
    (POINTER, "a Git LFS pointer"),
    (b"GGUF\x03\x00\x00\x00" + b"\x00" * 90, "a GGUF file"),
    (b"PK\x03\x04" + b"\x00" * 90, "a torch pickle"),
    (gzip.compress(b"weights" * 99, mtime=0), "a gzip file"),
]


@pytest.mark.parametrize(("content", "words"), CASES)
def test_what_it_is_instead(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    for read in (published.about, weights.read_header, weights.load):
        with pytest.raises(Failed) as failed:
            read(path)
        assert words in str(failed.value) and str(path) in str(failed.value) and "\n" not in str(failed.value)


def test_settings_of_models_say_it_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(POINTER)
    with pytest.raises(Failed, match="Git LFS pointer"):
        published.read_json(tmp_path / "config.json")


def test_weights_are_weights(tmp_path: Path) -> None:
    for metadata in (None, {"a": "b" * 100}, {"a": "b" * 70_000, "told": json.dumps({"error": "none"})}):
        save_file({"x": torch.zeros(3)}, tmp_path / "a.safetensors", metadata)
        assert instead(tmp_path / "a.safetensors") == ""
        assert [stored.key for stored in published.about(tmp_path / "a.safetensors")[1]] == ["x"]
    for damage in (b"\x09", b"\xff" * 99, bytes(99)):
        (tmp_path / "b.safetensors").write_bytes(damage)
        with pytest.raises(Failed, match="damaged"):
            published.about(tmp_path / "b.safetensors")
