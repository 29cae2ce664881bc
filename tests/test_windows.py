"""Whatever happens while windows are put, what comes back is the first so many of them, bit for bit."""

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path

import forked
import pytest
import torch
from safetensors.torch import save_file

from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.storage.resume import Windows, clear

SHOT = {"shot": {"prompt": "a cat", "seed": 5}, "weights": ["ab" * 32], "dtype": "float32"}


def identity(**shot: object) -> str:
    return json.dumps(SHOT | {"shot": SHOT["shot"] | shot})  # type: ignore[operator]


def window(number: int) -> torch.Tensor:
    return torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(number))


def filled(folder: Path, count: int = 4) -> Windows:
    windows = Windows(folder, identity())
    for number in range(count):
        windows.put(number, window(number))
    return windows


def assert_first(found: Iterable[torch.Tensor], count: int) -> None:
    tensors = list(found)
    assert len(tensors) == count
    assert all(torch.equal(tensor, window(number)) for number, tensor in enumerate(tensors))


def test_what_was_put_comes_back_in_order(tmp_path: Path) -> None:
    assert list(Windows(tmp_path / "a", identity()).finished()) == []
    filled(tmp_path / "a")
    assert_first(Windows(tmp_path / "a", identity()).finished(), 4)


def test_nothing_is_written_before_the_first_window(tmp_path: Path) -> None:
    list(Windows(tmp_path / "deep" / "a", identity()).finished())
    assert os.listdir(tmp_path) == []
    filled(tmp_path / "deep" / "a", 1)
    assert sorted(os.listdir(tmp_path / "deep" / "a")) == ["identity.json", "window-00000.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bits_are_kept_in_every_type(tmp_path: Path, dtype: torch.dtype) -> None:
    strided = window(0).to(dtype).transpose(0, 1)
    Windows(tmp_path, identity()).put(0, strided)
    (found,) = Windows(tmp_path, identity()).finished()
    assert found.dtype == dtype and torch.equal(found, strided)


def test_another_video_is_named(tmp_path: Path) -> None:
    filled(tmp_path / "a")
    with pytest.raises(SoraError, match=r"a holds another video: shot\.seed was 5 and is now 7;"):
        Windows(tmp_path / "a", identity(seed=7))
    with pytest.raises(SoraError, match=r"shot\.plan was null and is now \"full\""):
        Windows(tmp_path / "a", identity(plan="full"))
    with pytest.raises(SoraError, match=r"was \"a cat\" and is now \"xxx.*xxx\.\.\.;"):
        Windows(tmp_path / "a", identity(prompt="x" * 999))


def test_the_order_of_the_identity_does_not_matter(tmp_path: Path) -> None:
    filled(tmp_path)
    assert_first(Windows(tmp_path, json.dumps(dict(reversed(json.loads(identity()).items())))).finished(), 4)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    match how:
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "torn":
            path.write_bytes(data[: len(data) // 2])
        case "zeros":  # what some file systems leave after a power cut
            path.write_bytes(bytes(len(data)))
        case "one bit":
            path.write_bytes(data[:-7] + bytes([data[-7] ^ 1]) + data[-6:])
        case "another window":
            path.write_bytes(path.with_name("window-00003.safetensors").read_bytes())
        case "another video":
            other = Windows(path.parent / "other", identity(seed=9))
            other.put(2, window(2))
            os.replace(other.path(2), path)
        case "another shape":
            tensors, tags = weights.load(path)
            save_file({"latents": tensors["latents"].reshape(6, 4, 2, 4)}, path, tags)
        case "no seal":
            save_file({"latents": window(2)}, path)
        case "not finite":
            save_file({"latents": window(2) * float("nan")}, path)
        case "odd numbers":
            path.write_bytes(data.replace(b'"F32"', b'"F4" ', 1))


HOWS = ["gone", "empty", "torn", "zeros", "one bit", "another window", "another video", "another shape",
        "no seal", "not finite", "odd numbers"]  # fmt: skip


@pytest.mark.parametrize("how", HOWS)
def test_a_window_that_cannot_be_trusted_is_made_again(tmp_path: Path, how: str) -> None:
    windows = filled(tmp_path)
    damage(windows.path(2), how)
    again = Windows(tmp_path, identity())
    assert_first(again.finished(), 2)
    again.put(2, window(2))
    assert_first(again.finished(), 4)


def test_every_torn_length_is_seen(tmp_path: Path) -> None:
    windows = filled(tmp_path, 1)
    data = windows.path(0).read_bytes()
    for kept in random.Random(0).sample(range(len(data)), 60):
        windows.path(0).write_bytes(data[:kept])
        assert list(windows.finished()) == []


@pytest.mark.parametrize("text", ["", "{", "[" * 9999, "\x00", "null"])
def test_a_note_that_is_none_costs_nothing(tmp_path: Path, text: str) -> None:
    (filled(tmp_path).folder / "identity.json").write_text(text)
    windows = Windows(tmp_path, identity())
    assert_first(windows.finished(), 4)
    windows.put(4, window(4))
    assert json.loads((tmp_path / "identity.json").read_text()) == json.loads(identity())


def test_without_a_note_the_windows_of_another_are_still_strangers(tmp_path: Path) -> None:
    (filled(tmp_path).folder / "identity.json").unlink()
    assert list(Windows(tmp_path, identity(seed=7)).finished()) == []


def test_remove_takes_only_its_own(tmp_path: Path) -> None:
    windows = filled(tmp_path / "a")
    (tmp_path / "a" / "window-00004.safetensors.part").write_text("torn")
    clear(windows.folder)
    assert os.listdir(tmp_path) == []
    clear(windows.folder)
    (filled(tmp_path / "a").folder / "mine.txt").write_text("keep")
    clear(windows.folder)
    assert os.listdir(tmp_path / "a") == ["mine.txt"]


def test_a_full_disk_and_a_file_in_the_way_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Failed, match=r"could not write .*identity\.json"):
        Windows(tmp_path / "file", identity()).put(0, window(0))
    windows = filled(tmp_path / "a", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failed, match=r"window-00001.*No space left"):
        windows.put(1, window(1))
    assert sorted(os.listdir(windows.folder)) == ["identity.json", "window-00000.safetensors"]


KILLED = """
import os, random, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from sora_cli.storage.resume import Windows, clear
from test_windows import identity, window

folder, rng, most, kept = Path(sys.argv[2]), random.Random(0), 5, []
wanted = [window(number) for number in range(most)]
warm = Windows(folder.with_name("warm"), identity())
warm.put(0, wanted[0])  # what is imported on the way is not to be counted
clear(warm.folder)

def work(last: int) -> None:
    '''Put what is missing, and die by SIGKILL at the `last` call of any function or system call.'''
    calls = 0
    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call", "c_return")
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
    windows = Windows(folder, identity())
    first = len(list(windows.finished()))
    sys.setprofile(count)
    for number in range(first, most):
        windows.put(number, wanted[number])

for life in range(60):
    if not (child := os.fork()):
        work(rng.randrange(1, 700))
        os._exit(0)
    rng.random()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL), status
    found = list(Windows(folder, identity()).finished())
    assert len(found) <= most and all(map(torch.equal, found, wanted)), len(found)
    kept.append(len(found))
    if len(found) == most:
        clear(folder)
        assert not folder.exists()
print(kept)
"""


def test_sigkill_leaves_a_prefix(tmp_path: Path) -> None:
    """Sixty lives, each killed at a random call; the next goes on where the last one stopped."""
    here = str(Path(__file__).parent)
    done = forked.run(KILLED, here, str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout)
    assert {0, 1, 2, 3, 4, 5} == set(kept), kept  # it died early, late and in between, and it got there
