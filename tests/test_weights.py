"""Checkpoints that are whole are read exactly; all others are named, with a remedy."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"layer.{i}.weight": torch.randn(64, 64, generator=generator) for i in range(5)}


def test_round_trip(tmp_path: Path) -> None:
    weights.save(tmp_path / "a.safetensors", tensors(), {"config": '{"width": 64}'})
    found, metadata = weights.load(tmp_path / "a.safetensors")
    assert metadata == {"config": '{"width": 64}'}
    torch.testing.assert_close(found, tensors(), rtol=0, atol=0)
    torch.testing.assert_close(load_file(tmp_path / "a.safetensors"), tensors(), rtol=0, atol=0)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_shards_hold_the_limit_and_merge(tmp_path: Path) -> None:
    paths = weights.save_part(tmp_path, "dit", tensors(), {"config": "{}"}, limit=2 * 64 * 64 * 4)
    assert [path.name for path in paths] == [f"dit-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert all(path.stat().st_size < 2 * 64 * 64 * 4 + 1000 for path in paths)
    found, metadata = weights.load_part(tmp_path, "dit")
    assert metadata == {"config": "{}"}
    torch.testing.assert_close(found, tensors(), rtol=0, atol=0)


def test_fewer_shards_replace_more(tmp_path: Path) -> None:
    weights.save_part(tmp_path, "dit", tensors(), limit=20_000)
    weights.save_part(tmp_path, "dit", tensors())
    assert os.listdir(tmp_path) == ["dit.safetensors"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    paths = weights.save_part(tmp_path, "dit", tensors(), limit=2 * 64 * 64 * 4)
    paths[1].unlink()
    with pytest.raises(Failed, match="2 of 3 shards"):
        weights.load_part(tmp_path, "dit")


@pytest.mark.parametrize("kept", [0, 4, 100, 5000])
def test_truncated(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.safetensors"
    weights.save(path, tensors())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Failed, match=r"a\.safetensors is damaged: it (is truncated|has 5000 bytes, but)"):
        weights.load(path)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(SoraError, match="no checkpoint"):
        weights.load(tmp_path / "a.safetensors")


def test_garbage(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(os.urandom(4000))
    with pytest.raises(Failed, match="not safetensors"):
        weights.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_poison(tmp_path: Path, poison: float) -> None:
    bad = tensors()
    bad["layer.3.weight"][5, 5] = poison
    weights.save(tmp_path / "a.safetensors", bad)
    with pytest.raises(Failed, match=r"NaN or infinity in layer\.3\.weight"):
        weights.load(tmp_path / "a.safetensors")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failed, match="No space left"):
        weights.save(tmp_path / "a.safetensors", tensors())
    assert os.listdir(tmp_path) == []
