"""Prompts as numbers on disk: kept, bounded, and never an obstacle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sora_cli.prompts.cache import Embeddings, default_folder, key_of

KEY, OTHER = key_of("umt5", "a cat", "bfloat16"), key_of("umt5", "a dog", "bfloat16")
FEATURES = torch.randn(7, 24, generator=torch.Generator().manual_seed(0)).bfloat16()


def age(cache: Embeddings, key: str, seconds: int) -> None:
    os.utime(cache.path(key), (seconds, seconds))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_was_put_is_got(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = Embeddings(tmp_path / "new" / "folder")
    assert cache.get(KEY) is None
    cache.put(KEY, FEATURES.to(dtype))
    found = Embeddings(tmp_path / "new" / "folder").get(KEY)
    assert found is not None and found.dtype == dtype and torch.equal(found, FEATURES.to(dtype))
    assert cache.get(OTHER) is None
    assert names(cache.folder) == [f"{KEY}.safetensors"]


def test_keys_tell_encoders_prompts_and_types_apart() -> None:
    told = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("a", 'b", "c', ""), ("a", "é", "c"), ("a", "b", "d")]
    assert len({key_of(*what) for what in told}) == len(told)
    again = "from sora_cli.prompts.cache import key_of; print(key_of('umt5', 'a cat', 'bfloat16'))"
    assert subprocess.run([sys.executable, "-c", again], capture_output=True, text=True).stdout.strip() == KEY


def test_damaged_entries_are_not_there(tmp_path: Path) -> None:
    cache = Embeddings(tmp_path)
    cache.put(KEY, FEATURES)
    whole = cache.path(KEY).read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for damaged in (whole[:-5], whole[:4], b"", b"x" * len(whole), whole.replace(b"features", b"pictures"), flipped):
        cache.path(KEY).write_bytes(damaged)
        assert cache.get(KEY) is None
    cache.put(KEY, FEATURES.float() * float("nan"))
    assert cache.get(KEY) is None
    cache.put(KEY, FEATURES)
    assert torch.equal(cache.get(KEY), FEATURES)


@pytest.mark.parametrize(("dtype", "shape"), [
    ("BF16", [24, 7]), ("BF16", [168]), ("F16", [7, 24]), ("U8", [7, 48]), ("F32", [7, 12]), ("I16", [7, 24]),
])  # fmt: skip
def test_an_entry_of_another_shape_or_type_is_not_there(tmp_path: Path, dtype: str, shape: list[int]) -> None:
    cache = Embeddings(tmp_path)
    cache.put(KEY, FEATURES)
    content = cache.path(KEY).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    (name,) = header.keys() - {"__metadata__"}
    header[name] |= {"dtype": dtype, "shape": shape}
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    cache.path(KEY).write_bytes(len(told).to_bytes(8, "little") + told + content[8 + size :])
    assert cache.get(KEY) is None
    cache.put(KEY, FEATURES)
    assert cache.get(KEY) is not None


def test_an_entry_under_anothers_name_is_not_taken(tmp_path: Path) -> None:
    cache = Embeddings(tmp_path)
    cache.put(KEY, FEATURES)
    cache.path(KEY).rename(cache.path(OTHER))
    assert cache.get(OTHER) is None


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    keys = [key_of("umt5", str(i), "bfloat16") for i in range(4)]
    cache = Embeddings(tmp_path)
    for second, key in enumerate(keys[:3]):
        cache.put(key, FEATURES)
        age(cache, key, 1000 + second)
    size = cache.path(keys[0]).stat().st_size
    (tmp_path / f"{OTHER}.4711").write_bytes(b"left by a crash")
    os.utime(tmp_path / f"{OTHER}.4711", (1, 1))
    (tmp_path / "note.txt").write_text("the user's own")
    os.utime(tmp_path / "note.txt", (1, 1))
    assert cache.get(keys[0]) is not None  # used again: younger than 1 and 2
    Embeddings(tmp_path, most=3 * size).put(keys[3], FEATURES)
    assert names(tmp_path) == sorted(["note.txt", *(f"{keys[i]}.safetensors" for i in (0, 2, 3))])


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Embeddings(tmp_path / "file" / "folder")
    cache.put(KEY, FEATURES)
    assert cache.get(KEY) is None
    blocked = Embeddings(tmp_path)
    blocked.path(KEY).mkdir()
    blocked.put(KEY, FEATURES)
    assert blocked.get(KEY) is None
    assert names(tmp_path) == sorted(["file", f"{KEY}.safetensors"])


def test_the_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_folder() == Embeddings().folder == Path("/caches/sora-cli/embeddings")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert default_folder() == Path("/home/me/.cache/sora-cli/embeddings")


def test_this_test_can_fail(tmp_path: Path) -> None:
    cache = Embeddings(tmp_path)
    cache.put(KEY, FEATURES)
    content = cache.path(KEY).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["features"]["shape"] == [7, 24] and header["__metadata__"]["key"] == KEY
