"""Training the text tower: it learns, it resumes to the identical step, and what it exports can be read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sora_cli.dataset import shards
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.models.sora.text import UNKNOWN, from_weights
from sora_cli.train.options import ClipOptions
from sora_cli.train.recipes.clip import PRESETS, ClipStage, Footage, train, word_dropout
from sora_cli.train.trainer.config import Preset
from sora_cli.train.trainer.logger import note_unread

TINY = Preset((32, 4, 1, 16, (8, 16, 24)), steps=40, batch=8, lr=5e-3)


def options(out: Path, **more: Any) -> ClipOptions:
    return ClipOptions(out=out, device="cpu", dtype="float32", **more)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "nano", TINY)
    monkeypatch.setattr(ClipStage, "recall", lambda stage, batches: 0.0)


def test_it_learns_and_exports_a_tower(tmp_path: Path) -> None:
    tensors, metadata = weights.load(train(options(tmp_path)))
    losses = [line["loss"] for line in map(json.loads, (tmp_path / "log.jsonl").open()) if "loss" in line]
    assert losses[-1] < losses[0] - 0.15
    tokenizer, tower = from_weights(tensors, metadata)
    cat, dog = tower(tokenizer.encode(["a cat in the snow", "a dog in the snow"])).pooled
    assert float(cat @ dog) < 0.999
    assert json.loads(metadata["training"])["recipe"]["steps"] == TINY.steps


def test_interrupted_training_equals_uninterrupted_training(tmp_path: Path) -> None:
    whole, _ = weights.load(train(options(tmp_path / "whole", steps=3)))
    for _ in range(2):
        train(options(tmp_path / "parts", steps=3, minutes=0.0))         # one step, then out of time
    parts, _ = weights.load(train(options(tmp_path / "parts", steps=3)))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


# ---- of a dataset -----------------------------------------------------------------------------------------

SAID = ("ein roter Ball", "ein blauer Ball", "der Mond", "nothing moves here", "eine sehr, sehr lange Geschichte")


def dataset(folder: Path, captions: Sequence[str]) -> str:
    """As many clips as captions, each of a level of its own, as `data build` leaves them; the last one is a picture."""
    folder.mkdir()
    with shards.writing(folder / "00000-0.tar") as put:
        for number, caption in enumerate(captions):
            T = 1 if number == len(captions) - 1 else 3 + number
            latents = torch.full((4, T, 4 + 2 * number, 6), number - 2.0).half()
            put(f"{number}", {"latents": latents, "features": torch.zeros(2, 8)},
                {"caption": caption, "shape": list(latents.shape), "seconds": 1 / 6 if T > 1 else 0.0, "kind": "video",
                 "file": f"{number}.mp4", "first": 0, "frames": 4 * T - 3, "fps": 24.0, "begin": 0.0, "end": 1.0,
                 "canvas": [96, 64], "size": [96, 64]})  # fmt: skip
    rows = list(shards.rows_of(folder / "00000-0.tar"))
    header = {"format": shards.FORMAT, "samples": len(rows), "vae": "v", "text": "t", "channels": 4, "source": "clips"}
    (folder / shards.INDEX).write_text("".join(f"{json.dumps(line)}\n" for line in [header, *rows]))
    return str(folder)


def test_the_words_of_a_dataset_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the exam is quick here
    monkeypatch.setitem(PRESETS, "nano", TINY)
    data = dataset(tmp_path / "data", SAID)
    tensors, metadata = weights.load(train(options(tmp_path / "run", data=data, steps=400)))
    tokenizer, _ = from_weights(tensors, metadata)
    assert not any(map(tokenizer.oov_words, SAID)) and tokenizer.oov_words("a cat") == ["a", "cat"]
    told = json.loads(metadata["training"])
    assert told["data"] == "data" and told["recipe"]["batch"] == len(SAID)
    assert told["recall_at_1"] >= 0.9  # of 20 clips; one in five by chance
    assert (tmp_path / "run" / "curves.png").is_file()


def test_long_captions_get_more_tokens_up_to_a_limit(tmp_path: Path) -> None:
    def context(words: int) -> int:
        name = tmp_path / str(words)
        return Footage(dataset(name, ["a b c", " ".join(f"word{n}" for n in range(words))])).context

    assert [context(words) for words in (4, 22, 90)] == [24, 26, 36]


def test_batches_tell_different_captions_apart(tmp_path: Path) -> None:
    clips = Footage(dataset(tmp_path / "data", [*SAID, SAID[0], ""]))
    assert clips.most == len(SAID)
    moments, captions = clips.draw(5, "0/1", "train")
    assert moments.shape == (5, 2, 4, 12, 20) and sorted(captions) == sorted(SAID)
    again, _ = clips.draw(5, "0/1", "train")
    assert torch.equal(moments, again)
    levels = {caption: float(moment.mean()) for caption, moment in zip(captions, moments, strict=True)}
    assert levels[SAID[3]] == 1.0 and levels[SAID[0]] in (-2.0, 3.0)  # a clip of its own caption


def test_words_are_misheard_now_and_then_but_nothing_else(tmp_path: Path) -> None:
    tokens = torch.tensor([[1, *range(3, 103), 103, 0, 0]]).expand(20, -1)
    heard = word_dropout(tokens, 0.1, "0/1", end=103)
    lost = heard == UNKNOWN
    assert 0.05 < float(lost[:, 1:101].float().mean()) < 0.15
    assert torch.equal(heard[~lost], tokens[~lost]) and not lost[:, [0, 101, 102, 103]].any()
    assert torch.equal(word_dropout(tokens, 0.0, "0/1", end=103), tokens)


@pytest.mark.parametrize("captions", [["a cat"] * 3, ["", ""]])
def test_captions_that_are_all_the_same_teach_no_words(tmp_path: Path, captions: list[str]) -> None:
    with pytest.raises(SoraError, match="all the same, or there are none"):
        train(options(tmp_path / "run", data=dataset(tmp_path / "data", captions)))


def test_captions_that_are_longer_than_what_is_read_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    note_unread(["a b c", "a b c d!", "d c b a, e"], most=3)
    assert capsys.readouterr() == ("", "2 of 3 captions are longer than the 3 words that are read\n")
    note_unread(["a b c", "\u732b", ""], most=3)
    assert capsys.readouterr() == ("", "")
