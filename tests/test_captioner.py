"""The captioner: its grammar against the world's, its network, its training, its words on files, and the other two that
it can be swapped for: a server that speaks OpenAI's protocol, and open_clip's CoCa."""

import base64
import dataclasses
import io
import json
import os
import random
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clips import write_frames
from PIL import Image
from torch import Tensor

from sora_cli import registry
from sora_cli.captioning import frames as watching
from sora_cli.captioning import mixed, open_captioner
from sora_cli.captioning.coca import END, MOST, START, WORDS, Coca
from sora_cli.captioning.constrained_decoding import Grammar, Said, likeliest, vocabulary
from sora_cli.captioning.frames import evenly_spaced, sample_frames
from sora_cli.captioning.pocket import CLIPS, FRAMES, Own, clips
from sora_cli.cli import run as command
from sora_cli.dataset.captions import read_table
from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.files.owned import Owned
from sora_cli.models.sora.captioner import HEIGHT, WIDTH, Captioner, CaptionerConfig
from sora_cli.models.sora.text import Tokenizer
from sora_cli.train.options import CaptionerOptions
from sora_cli.train.recipes import captioner
from sora_cli.train.recipes.captioner import CONTEXT, caption_of, draw, grammar, marks, seen, shares, train
from sora_cli.train.trainer.config import Preset
from sora_cli.world.captions import dense
from sora_cli.world.scene import HELD_OUT, Scene, Split, sample_scene
from sora_cli.world.vocabulary import SUBJECTS

TINY = Preset((32, 4, 1, (8, 8, 16)), steps=30, batch=4, lr=5e-3)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(vocabulary(grammar()), CONTEXT)


@cache
def tiny(seed: int = 0) -> Own:
    """A network of random weights, which says what is a sentence and nonsense."""
    torch.manual_seed(seed)
    config = CaptionerConfig(tokenizer().vocab_size, CONTEXT, *TINY.sizes)
    return Own(Captioner(config).eval().requires_grad_(False), tokenizer(), grammar())


def numbers(caption: str) -> Said:
    """A caption as the numbers of its words."""
    return tuple(tokenizer().encode([caption])[0].tolist()[1 : 1 + len(caption.replace(",", "").split())])


def scenes(count: int, split: Split = "train") -> list[Scene]:
    rng = random.Random(split)
    return [sample_scene(rng, split) for _ in range(count)]


# -- Sentences --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("still", [False, True])
def test_every_caption_of_the_world_is_a_sentence_and_comes_out_as_it_was(still: bool) -> None:
    rules = Grammar(grammar()["still" if still else "clip"], tokenizer())
    pairs = [Scene("cat", "surfing", "ocean", second=name) for name in SUBJECTS if name != "cat"]
    for scene in [*scenes(100), *scenes(100, "held-out"), *pairs]:
        said = numbers(caption_of(scene, still))
        for i, word in enumerate((*said, rules.end)):
            assert word in rules.next(said[:i]), f"{said[:i]} may not go on with {word}"
        assert rules.written(said) == caption_of(scene, still)


def test_what_is_told_of_a_still_has_no_motion_in_it() -> None:
    scene = Scene("ufo", "rising", "city at night", camera="zoom in", second="owl")
    assert caption_of(scene, False) == dense(scene)
    assert caption_of(scene, True) == "a large ufo and an owl, city at night, middle, low"
    sides = Scene("alien", "moving left", "aurora", "small", "slow", "pan right", "left side", "high", "beat three")
    assert caption_of(sides, True) == "a small alien, aurora, left side, high"


@pytest.mark.parametrize("text", ["a large cat", "large cat", "a cat large surfing normal, ocean, camera still",
                                  "a large cat surfing normal, ocean, camera still",
                                  "a large cat surfing normal, ocean, camera still, low, middle, beat one",
                                  "a large cat surfing normal, ocean, camera still, middle, low, beat",
                                  "a large cat and a cat surfing normal, ocean, camera still, middle, low, beat one",
                                  ])  # fmt: skip
def test_other_words_are_no_sentence(text: str) -> None:
    assert Grammar(grammar()["clip"], tokenizer()).phrases(numbers(text)) is None


def test_several_clips_agree_and_words_without_choice_are_not_asked_for() -> None:
    """Two clips: the first likes 1, the second hates it; both can live with 2. Then only the end is left."""
    rows = torch.tensor([[0.6, 0.4, 1e-4, 1e-4], [1e-3, 0.5, 0.4, 0.1]]).log()
    asked: list[Said] = []

    def scores(said: Said) -> Tensor:
        asked.append(said)
        return rows

    assert likeliest(scores, lambda said: [3] if said else [0, 1, 2], end=3, most=9) == (1,)
    assert asked == [()]
    assert likeliest(scores, lambda said: [0, 1], end=3, most=2) == (1, 1)


# -- The network ------------------------------------------------------------------------------------------


def test_a_word_is_told_from_those_before_it_and_from_the_video() -> None:
    network, video = tiny().network, torch.rand(2, FRAMES, 3, HEIGHT, WIDTH)
    tokens = tokenizer().encode([dense(scene) for scene in scenes(2)])
    found = network(video, tokens)
    assert found.scores.shape == (2, CONTEXT, tokenizer().vocab_size)
    torch.testing.assert_close(found.video.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(found.text.norm(dim=-1), torch.ones(2))
    for length in (1, 5):                                          # said word by word, as captions are
        alone = network.decode(network.encode_text(tokens[:, :length]), network.video(video))[:, -1]
        torch.testing.assert_close(alone, found.scores[:, length - 1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found.scores, network(video.flip(1), tokens).scores, atol=1e-4)


def test_config_is_checked() -> None:
    with pytest.raises(ValueError, match="33 is not a multiple of 4"):
        CaptionerConfig(9, 9, 33, 4, 1, (8, 8))
    assert CaptionerConfig(9, 9, 32, 4, 1, (8, 8, 16, 32)).grid == (5, 8)


# -- Training ---------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(captioner.PRESETS, "nano", TINY)
    monkeypatch.setattr(captioner, "EXAMINED", 32)


def options(out: Path, **more: Any) -> CaptionerOptions:
    return CaptionerOptions(out=out, device="cpu", dtype="float32", **more)


def test_it_learns_and_tells(tmp_path: Path, small: None) -> None:
    path = train(options(tmp_path))
    losses = [line["loss"] for line in map(json.loads, (tmp_path / "log.jsonl").open()) if "loss" in line]
    assert losses[-1] < losses[0] - 1
    record = json.loads(weights.load(path)[1]["training"])
    assert record["held_out"].keys() == {*captioner.FIELDS, "all", "recall_at_1"} and len(captioner.FIELDS) == 9
    own = Own.load(str(tmp_path))                                  # a run's folder
    assert own.clip.phrases(numbers(own.caption(noise(9)).text))
    assert own.still.phrases(numbers(own.caption(noise(1)).text))


def test_one_seed_makes_one_captioner_and_an_interruption_changes_nothing(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioner, "examine", lambda own, clips: ({}, 0.0))
    whole = train(options(tmp_path / "whole", steps=3)).read_bytes()
    for _ in range(2):
        train(options(tmp_path / "parts", steps=3, minutes=0.0))             # one step, then out of time
    assert train(options(tmp_path / "parts", steps=3)).read_bytes() == whole


def test_clips_are_whole_short_or_still() -> None:
    drawn = draw(64, "seed", "train")
    lengths = (drawn.times[:, -1] - drawn.times[:, 0]).mul(4).round().tolist()     # in frames
    stills = [caption for caption, length in zip(drawn.captions, lengths, strict=True) if not length]
    assert stills and not any(word in caption for caption in stills for word in ("camera", "beat"))
    assert all(caption.endswith((", high", ", low")) for caption in stills)
    assert set(lengths) > {0.0, FRAMES - 1.0} and min(filter(None, lengths)) >= 4
    exam = draw(8, "seed", "held-out", plain=True)
    assert all(scene.triples[0] in HELD_OUT for scene in exam.scenes)
    assert exam.captions == [dense(scene) for scene in exam.scenes]
    torch.testing.assert_close(exam.times.diff(), torch.full((8, FRAMES - 1), 0.25))
    assert exam.shape == (HEIGHT, WIDTH)


def test_clips_of_every_shape_are_seen_in_one() -> None:
    for shape in captioner.SHAPES:
        drawn = dataclasses.replace(draw(1, "seed", "train"), shape=shape)
        assert seen(drawn, torch.device("cpu")).shape == (1, FRAMES, 3, HEIGHT, WIDTH)


def test_marks_want_both_subjects_in_any_order() -> None:
    scene = Scene("cat", "surfing", "ocean", second="dog")
    right = marks("a large dog and a cat surfing normal, ocean, camera still, middle, low, beat one", scene)
    wrong = marks("a large cat rising normal, ocean, camera pan left, right side, low, beat four", scene)
    assert all(right.values())
    assert [name for name, hit in wrong.items() if not hit] == ["subject", "action", "camera", "side", "beat"]
    assert shares([right, wrong]) == {"subject": 0.5, "action": 0.5, "place": 1.0, "size": 1.0, "speed": 1.0,
                                      "camera": 0.5, "side": 0.5, "height": 1.0, "beat": 0.5, "all": 0.5}  # fmt: skip


# -- Looking ----------------------------------------------------------------------------------------------


def noise(count: int, size: tuple[int, int] = (WIDTH, HEIGHT), seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, size[1], size[0], 3), np.uint8))


def test_clips_are_spread_over_a_video_and_the_last_frame_of_a_short_one_stays() -> None:
    frames = [np.full((1, 1, 3), i, np.uint8) for i in range(40)]
    starts = [clip[0, 0, 0, 0] for clip in clips(frames)]
    assert len(starts) == CLIPS and starts[0] == 0 and starts[-1] == 40 - FRAMES
    assert [clip[:, 0, 0, 0].tolist() for clip in clips(frames[:3])] == [[0, 1, *[2] * 7]]
    assert [clip[:, 0, 0, 0].tolist() for clip in clips(frames[:11])] == [list(range(9))]         # from the beginning
    assert evenly_spaced([0, 1, 2, 3, 4], 3) == [0, 2, 4] and evenly_spaced([0, 1], 3) == [0, 1]


def test_a_video_is_sampled_at_four_frames_a_second_for_a_minute_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ramp = [np.full((48, 64, 3), 8 * i, np.uint8) for i in range(25)]
    video = write_frames(tmp_path / "a.mp4", ramp, (64, 48), fps=12)                # 2.1 s: eight frames, or nine
    frames = sample_frames(str(video), 4.0, (WIDTH, HEIGHT))
    assert [round(float(frame.mean()) / 24) for frame in frames] == list(range(len(frames))) and len(frames) in (8, 9)
    assert frames[0].shape == (HEIGHT, WIDTH, 3)
    assert sample_frames(str(video), 4.0, max_side=32)[0].shape == (24, 32, 3)                # as it is, but smaller
    monkeypatch.setattr(watching, "LONGEST", 1.0)
    assert len(sample_frames(str(video), 4.0, (WIDTH, HEIGHT))) == 4


def test_captions_depend_on_the_frames_alone() -> None:
    again = Own(tiny().network, tokenizer(), grammar())
    assert tiny().caption(noise(30)) == again.caption(noise(30))
    assert len({tiny(seed).caption(noise(9)) for seed in range(6)}) > 1


def test_a_caption_has_a_warning_where_a_video_is_less_like_its_caption_than_usual() -> None:
    frames, parts = noise(9), (tiny().network, tokenizer(), grammar())
    text = tiny().caption(frames).text
    video = torch.from_numpy(np.stack(frames))[None].permute(0, 1, 4, 2, 3) / 255
    alike = tiny().alike(tiny().network.video(video), text)
    found = tiny().network(video, tokenizer().encode([text]))
    assert alike == pytest.approx(float(found.video[0] @ found.text[0]), abs=1e-5)
    assert Own(*parts, threshold=alike - 1e-3).caption(frames) == (text, "")
    assert "unlike the world" in Own(*parts, threshold=alike + 1e-3).caption(frames).warning


# -- Mixing -----------------------------------------------------------------------------------------------


def test_human_captions_are_kept_in_their_share() -> None:
    names = [f"{n}.mp4" for n in range(2000)]
    human, synthetic = dict.fromkeys(names, "h"), dict.fromkeys(names, "s")
    few, many = (mixed(human, synthetic, share, seed=1) for share in (0.3, 0.6))
    assert abs(list(few.values()).count("h") - 600) < 80
    assert all(many[name] == "h" for name in names if few[name] == "h")              # a larger share keeps them
    assert few == mixed(human, synthetic, 0.3, seed=1) != mixed(human, synthetic, 0.3, seed=2)
    some = mixed({name: "h" for name in names[:100]}, synthetic, 0.3, seed=1)
    assert all(some[name] == few[name] for name in names[:100])                      # whatever else there is
    assert set(mixed(human, synthetic, 0).values()) == {"s"} and set(mixed(human, synthetic, 1).values()) == {"h"}


def test_files_with_one_caption_keep_it() -> None:
    assert mixed({"a": "h"}, {"b": "s"}, 0.5) == {"a": "h", "b": "s"}
    with pytest.raises(SoraError, match="between 0 and 1, not 2"):
        mixed({}, {}, 2)


# -- The command ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clip and a picture, a captioner's weights, and the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write_frames(tmp_path / "in" / "a.mp4", noise(12, (64, 48)), (64, 48), fps=8)
    Image.fromarray(noise(1)[0]).save(tmp_path / "in" / "deep" / "b.png")
    (tmp_path / "in" / "notes.md").write_text("no video")
    own, config = tiny(), dataclasses.asdict(tiny().network.config)
    header = {"config": config, "vocabulary": own.tokenizer.vocabulary, "grammar": grammar(), "usual": -1.0}
    weights.save(tmp_path / "captioner.safetensors", own.network.state_dict(),
                 {key: json.dumps(value) for key, value in header.items()})  # fmt: skip
    return tmp_path


def say(capsys: pytest.CaptureFixture, *words: str, model: str = "./captioner.safetensors") -> tuple[int, str, str]:
    code = command(["caption", *words, "--model", model, "--device", "cpu"])
    return code, *capsys.readouterr()


def test_a_folder_is_captioned_file_by_file(folder: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, err = say(capsys, "in")
    rows = [line.split("\t") for line in out.splitlines()]
    assert (code, err) == (0, "") and [name for name, _ in rows] == ["in/a.mp4", "in/deep/b.png"]
    assert rows[0][1].split(", ")[-1].startswith("beat ") and "camera" not in rows[1][1]
    code, out, _ = say(capsys, "in/a.mp4", "in", "./in/../in", str(folder / "in"), "--json")
    assert [json.loads(line) for line in out.splitlines()] == [{"file": name, "caption": text} for name, text in rows]


def test_a_table_of_captions_is_what_data_reads(folder: Path, capsys: pytest.CaptureFixture) -> None:
    lines = say(capsys, "in")[1].splitlines()
    assert say(capsys, "in", "-o", "captions.jsonl") == (0, "captions.jsonl\n", "")
    rows, _ = read_table(Path("captions.jsonl"))
    assert [[file, text] for _, file, text in rows] == [line.split("\t") for line in lines]
    code, _, err = say(capsys, "in", "-o", "captions.jsonl")
    assert code == 2 and "--force" in err
    assert say(capsys, "in", "-o", "captions.jsonl", "--force")[0] == 0


def test_sidecars_that_are_there_are_kept(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "in" / "a.txt").write_text("by hand\n")
    code, out, err = say(capsys, "in", "--sidecars")
    assert code == 0 and out.startswith("in/deep/b.png\t") and "1 of 2 files already has captions" in err
    assert (folder / "in" / "a.txt").read_text() == "by hand\n"
    assert (folder / "in" / "deep" / "b.txt").read_text() == out.split("\t")[1]
    assert len(say(capsys, "in", "--sidecars", "--force")[1].splitlines()) == 2
    assert (folder / "in" / "a.txt").read_text() != "by hand\n"


@pytest.mark.parametrize(("share", "kept"), [("0", False), ("1", True)])
def test_human_captions_are_kept_in_a_table(
    folder: Path, capsys: pytest.CaptureFixture, share: str, kept: bool
) -> None:
    (folder / "in" / "a.txt").write_text("by\n hand\n")
    rows = [json.loads(line) for line in say(capsys, "in", "--json", "--keep-human", share)[1].splitlines()]
    assert [row["human"] for row in rows] == [kept, False]
    assert (rows[0]["caption"] == "by hand") is kept


def test_a_broken_file_stops_no_other(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "in" / "broken.mp4").write_bytes(b"nothing")
    code, out, err = say(capsys, "in", "-o", "captions.jsonl")
    assert code == 1 and len(Path("captions.jsonl").read_text().splitlines()) == 2
    assert "in/broken.mp4 is left out" in err and "1 of 3 files" in err
    code, out, err = say(capsys, "in/broken.mp4")
    assert (code, out, err.count("\n")) == (1, "", 1) and "not a readable video" in err


def failing(monkeypatch: pytest.MonkeyPatch, *numbers: int, error: BaseException | None = None) -> list[int]:
    """Have the captioner fail at its first, second, ... file; the list grows with every file that it is asked for."""
    asked: list[int] = []
    caption = Own.caption

    def told(self: Own, frames: list) -> object:
        asked.append(len(asked) + 1)
        if asked[-1] in numbers:
            raise error or Failed("the server answers 503")
        return caption(self, frames)

    monkeypatch.setattr(Own, "caption", told)
    return asked


def files_in(table: str) -> list[str]:
    return [json.loads(line)["file"] for line in Path(table).read_text().splitlines()]


def test_one_bad_answer_costs_one_file(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = failing(monkeypatch, 1)
    code, _, err = say(capsys, "in", "-o", "c.jsonl")
    assert code == 1 and files_in("c.jsonl") == ["in/deep/b.png"] and "in/a.mp4 is left out" in err
    assert "1 of 2 files could not be captioned: in/a.mp4; the same command tries them again" in err
    assert say(capsys, "in", "-o", "c.jsonl")[:2] == (0, "c.jsonl\n") and asked == [1, 2, 3]
    assert files_in("c.jsonl") == ["in/deep/b.png", "in/a.mp4"] and not Path("c.jsonl.resume").exists()


def test_a_table_goes_on_where_it_was_stopped(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = failing(monkeypatch, 2, error=KeyboardInterrupt())
    assert say(capsys, "in", "-o", "c.jsonl")[0] == 130 and files_in("c.jsonl") == ["in/a.mp4"]
    with Path("c.jsonl").open("a") as file:
        file.write('{"file": "in/de')  # a line that was cut off
    code, _, err = say(capsys, "in", "-o", "c.jsonl", "--seed", "1")
    assert code == 2 and "holds another table: seed was 0 and is now 1; --force starts over" in err
    assert say(capsys, "in", "-o", "c.jsonl")[0] == 0 and asked == [1, 2, 3]
    assert files_in("c.jsonl") == ["in/a.mp4", "in/deep/b.png"] and not Path("c.jsonl.resume").exists()


def test_a_table_goes_on_whatever_its_files_are_called(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 2, error=KeyboardInterrupt())
    assert say(capsys, "in", "-o", "c.jsonl")[0] == 130
    assert say(capsys, str(folder / "in"), "-o", "c.jsonl")[0] == 0
    assert files_in("c.jsonl") == ["in/a.mp4", str(folder / "in/deep/b.png")]


def test_an_older_table_stays_until_there_is_something_new(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("c.jsonl").write_text('{"file": "x", "caption": "y"}\n')
    failing(monkeypatch, 1, 2)
    assert say(capsys, "in", "-o", "c.jsonl", "--force")[0] == 1 and files_in("c.jsonl") == ["x"]
    assert say(capsys, "in", "-o", "c.jsonl", "--force")[0] == 0 and "x" not in files_in("c.jsonl")


@pytest.mark.parametrize("line", ["\0" * 20, "[1]", "5", '{"caption": "a cat"}', '{"file": 5}', "a cat", "[" * 9000,
                                  '{"file": "x"}', '{"file": "x", "caption": 5}', '{"file": "x", "caption": " "}'])
def test_a_line_that_is_no_row_is_named_and_stays(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    failing(monkeypatch, 2)
    assert say(capsys, "in", "-o", "c.jsonl")[0] == 1
    with Path("c.jsonl").open("a") as file:
        file.write(line + "\n")
    before = Path("c.jsonl").read_bytes()
    code, _, err = say(capsys, "in", "-o", "c.jsonl")
    assert code == 2 and "c.jsonl has no row of a table in line 2; mend it, or --force starts over" in err
    assert Path("c.jsonl").read_bytes() == before
    assert say(capsys, "in", "-o", "c.jsonl", "--force")[0] == 0


def test_two_processes_on_one_table(folder: Path, capsys: pytest.CaptureFixture) -> None:
    with Owned(Path("c.jsonl.resume")):
        code, _, err = say(capsys, "in", "-o", "c.jsonl", "--force")
    assert code == 2 and f"c.jsonl is in use by process {os.getpid()} on" in err and not Path("c.jsonl").exists()


def test_doubts_are_noted(folder: Path, capsys: pytest.CaptureFixture) -> None:
    tensors, header = weights.load("captioner.safetensors")
    weights.save("captioner.safetensors", tensors, header | {"usual": "1.1"})
    code, out, err = say(capsys, "in")
    assert code == 0 and len(out.splitlines()) == 2
    assert err.splitlines()[0].startswith("in/a.mp4: unlike the world") and err.count("\n") == 2
    assert say(capsys, "in", "--quiet") == (0, out, "")


REFUSED = [
    (["nowhere.mp4"], "there is no file nowhere.mp4"),
    (["in", "-o", "captions.csv"], ".jsonl"),
    (["in", "-o", "c.jsonl", "--sidecars"], "use only one of them"),
    (["in", "--sidecars", "--keep-human", "0.5"], "leave it out to use --keep-human"),
    (["in", "--served", "llava"], "--model http://SERVER"),
    (["in/a.mp4", "in/a.gif", "--sidecars"], "would share in/a.txt"),
    (["-", "--sidecars"], "leave out --sidecars"),
    (["empty"], "no video or picture in empty"),
    (["in/c.gif", "--sidecars"], "in/c.txt is in the way"),
    (["in", "--timeout", "inf"], "at most 86400"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_cannot_work_is_refused_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    (folder / "empty").mkdir()
    (folder / "in" / "a.gif").write_bytes(b"GIF89a")
    (folder / "in" / "c.gif").write_bytes(b"GIF89a")
    os.mkfifo(folder / "in" / "c.txt")
    code, out, err = say(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err


@pytest.mark.parametrize(("model", "code", "message"), [
    ("magpie", 2, "unknown captioner 'magpie'"),
    ("./nowhere", 2, "there is no captioner nowhere"),
    ("./other.safetensors", 1, "does not contain a captioner"),
    ("pocket", 1, "pocket came without a captioner; `sora-cli train captioner"),
])  # fmt: skip
def test_captioners_that_are_not_there(folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch,
                                       model: str, code: int, message: str) -> None:  # fmt: skip
    weights.save(folder / "other.safetensors", {"x": torch.zeros(1)}, {"config": "{}"})
    without = dataclasses.replace(registry.entry("pocket"), files=())
    monkeypatch.setattr(registry, "registry", lambda: {"pocket": without})
    found, out, err = say(capsys, "in", model=model)
    assert (found, out, err.count("\n")) == (code, "", 1) and message in err


# -- A server ---------------------------------------------------------------------------------------------


class Fake(BaseHTTPRequestHandler):
    """OpenAI's protocol, with the answer that the test wants."""

    server: "FakeServer"

    def do_GET(self) -> None:
        self.server.asked.append(SimpleNamespace(path=self.path, headers=self.headers, body=None))
        self.answer(200, {"data": self.server.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(SimpleNamespace(path=self.path, headers=self.headers, body=body))
        self.server.free.wait(5)
        self.answer(self.server.status, self.server.reply)

    def answer(self, status: int, reply: object) -> None:
        content = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        """Keep quiet."""


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Fake)
        self.models, self.status = [{"id": "seer:7b"}, {"id": "other"}], 200
        self.reply: object = chat("A cat surfs.")
        self.asked: list[SimpleNamespace] = []
        self.free = threading.Event()
        self.free.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def chat(text: str | None) -> dict:
    message = {"role": "assistant", "content": text}
    return {"id": "1", "model": "seer", "created": 0, "system_fingerprint": "", "object": "chat.completion",
            "usage": {}, "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for name in ("OPENAI_API_KEY", "SORA_LLM_KEY", "SORA_LLM_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeServer()
    thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield fake
    fake.free.set()
    fake.shutdown()
    thread.join()
    fake.server_close()


def test_a_server_is_shown_frames_and_never_the_token_of_the_hub(
    folder: Path, capsys: pytest.CaptureFixture, server: FakeServer
) -> None:
    server.reply = chat('<think>\nHm, "a cat".\n</think>\n\n"A cat\n surfs."\n')
    assert say(capsys, "in", model=server.url) == (0, "in/a.mp4\tA cat surfs.\nin/deep/b.png\tA cat surfs.\n", "")
    models, clip, still = server.asked
    assert [one.path for one in server.asked] == ["/v1/models", *["/v1/chat/completions"] * 2]
    assert not any("hf_secret" in str(one.headers) for one in server.asked)
    assert clip.body["model"] == "seer:7b" and clip.body["temperature"] == 0
    *pictures, text = clip.body["messages"][0]["content"]
    assert len(pictures) == 3 and "3 frames" in text["text"]                       # 1.5 s, two a second
    assert [one["type"] for one in still.body["messages"][0]["content"]] == ["image_url", "text"]
    head, data = pictures[0]["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64" and Image.open(io.BytesIO(base64.b64decode(data))).size == (512, 384)


def test_the_model_and_the_key_are_as_told(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    monkeypatch.setenv("SORA_LLM_KEY", "mine")
    asked = open_captioner(f"{server.url}/v1/", served="other")
    assert asked.caption(noise(2)).text == "A cat surfs."
    assert server.asked[0].body["model"] == "other" and server.asked[0].headers["authorization"] == "Bearer mine"


def test_what_is_no_caption_costs_one_file(folder: Path, capsys: pytest.CaptureFixture, server: FakeServer) -> None:
    server.reply = chat("I\u2019m sorry, but I can\u2019t help with that.")
    code, out, err = say(capsys, "in", "--sidecars", model=server.url)
    assert (code, out) == (1, "") and not list((folder / "in").rglob("*.txt"))
    assert "in/a.mp4 is left out: 127.0.0.1" in err
    assert "2 of 2 files could not be captioned: in/a.mp4, in/deep/b.png" in err
    server.reply = chat("A cat surfs.")
    assert say(capsys, "in", "--sidecars", model=server.url)[0] == 0


def test_the_time_of_an_answer_is_that_of_the_option_or_the_environment(
    folder: Path, capsys: pytest.CaptureFixture, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.free.clear()
    code, _, err = say(capsys, "in/a.mp4", "--served", "x", "--timeout", "1", model=server.url)
    assert code == 1 and "does not answer within 1 s; SORA_LLM_TIMEOUT=SECONDS (caption: --timeout) waits longer" in err
    monkeypatch.setenv("SORA_LLM_TIMEOUT", "1.5")
    assert "does not answer within 1.5 s" in say(capsys, "in/a.mp4", "--served", "x", model=server.url)[2]
    with pytest.raises(Failed, match=r"127\.0\.0\.1:9/v1 cannot be reached"):
        open_captioner("http://127.0.0.1:9", timeout=1)


@pytest.mark.parametrize("blank", [b"", b" \n\t", b"\xef\xbb\xbf\r\n", b"\xff\xfe \0\n\0"])
def test_a_blank_sidecar_is_none(folder: Path, capsys: pytest.CaptureFixture, blank: bytes) -> None:
    (folder / "in" / "a.txt").write_bytes(blank)
    code, out, err = say(capsys, "in", "--sidecars")
    assert (code, err) == (0, "") and (folder / "in" / "a.txt").read_text() == out.splitlines()[0].split("\t")[1] + "\n"


# -- CoCa -------------------------------------------------------------------------------------------------


def small_coca() -> Coca:
    """open_clip's CoCa in small, with random weights and the vocabulary of the real one."""
    from open_clip.coca_model import CoCa

    torch.manual_seed(0)
    sizes = {"context_length": 32, "vocab_size": END + 1, "width": 32, "heads": 2, "layers": 1}
    network = CoCa(32, sizes | {"attn_pooler_heads": 2}, sizes | {"embed_cls": True, "output_tokens": True},
                   {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16,
                    "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True})  # fmt: skip
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)                     # open_clip leaves some of them as they are

    def prepare(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image.resize((32, 32)))).permute(2, 0, 1) / 255

    return Coca(network, prepare)


def test_coca_says_what_its_own_forward_finds_likeliest() -> None:
    from open_clip.tokenizer import decode

    coca, frames = small_coca(), noise(2, (40, 32))
    text = coca.caption(frames).text
    said: list[int] = []
    pictures = torch.stack([coca.prepare(Image.fromarray(frame)) for frame in frames])
    while len(said) < MOST and END not in said:
        found = coca.network(pictures, torch.tensor([[START, *said]] * 2), output_labels=False)["logits"][:, -1]
        agreed = found.softmax(-1).log().mean(0)
        said.append(WORDS[int(agreed[WORDS].argmax())])
    assert text and " ".join(decode(torch.tensor(said)).split()) == text


def test_coca_that_is_not_here_is_told_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    code, out, err = say(capsys, "in", model="coca")
    assert (code, out, err.count("\n")) == (1, "", 1) and "is not on this machine" in err


def test_what_a_clip_suffers_is_noted(folder: Path, capsys: pytest.CaptureFixture) -> None:
    cutout = Image.fromarray(noise(1)[0]).convert("RGBA")
    cutout.putalpha(100)
    cutout.save(folder / "in" / "c.png")
    code, _, err = say(capsys, "in")
    assert code == 0 and err.splitlines() == ["in/c.png: transparent parts, if any, are shown on black"]
