"""Training the text tower: it learns, it resumes to the identical step, and what it exports can be read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sora_cli import weights
from sora_cli.errors import SoraError
from sora_cli.models.sora.text import from_weights
from sora_cli.train.clip import Preset, run, train
from sora_cli.train.options import TrainOptions

TINY = Preset(width=32, heads=4, layers=1, embed_dim=16, channels=(8, 16, 24), steps=40, batch=8, rate=5e-3)


def options(out: Path, **more: object) -> TrainOptions:
    asked = TrainOptions("nano", "world", None, None, None, 0, out, device="cpu", dtype="float32")
    return replace(asked, **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def few_held_out_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sora_cli.train.clip.recall", lambda contrast, batches: 0.0)


def test_it_learns_and_exports_a_tower(tmp_path: Path) -> None:
    tensors, metadata = weights.load(run(TINY, options(tmp_path)))
    losses = [line["loss"] for line in map(json.loads, (tmp_path / "log.jsonl").open()) if "loss" in line]
    assert losses[-1] < losses[0] - 0.15
    tokenizer, tower = from_weights(tensors, metadata)
    cat, dog = tower(tokenizer.encode(["a cat in the snow", "a dog in the snow"])).pooled
    assert float(cat @ dog) < 0.999
    assert json.loads(metadata["training"])["recipe"]["steps"] == TINY.steps


def test_interrupted_training_equals_uninterrupted_training(tmp_path: Path) -> None:
    whole, _ = weights.load(run(TINY, options(tmp_path / "whole", steps=3)))
    for _ in range(2):
        run(TINY, options(tmp_path / "parts", steps=3, minutes=0.0))         # one step, then out of time
    parts, _ = weights.load(run(TINY, options(tmp_path / "parts", steps=3)))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


REFUSED = [({"preset": "tera"}, "nano, mini, base"), ({"data": "x"}, "--data world")]


@pytest.mark.parametrize(("asked", "message"), REFUSED)
def test_unknown_presets_and_data_are_refused(tmp_path: Path, asked: dict, message: str) -> None:
    with pytest.raises(SoraError, match=message):
        train(options(tmp_path, **asked))
