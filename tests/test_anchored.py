"""generate by a tiny random engine: anchors come out as they are, shots are made again, streams stay clean."""

import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from clips import read_frames
from forked import Forked
from PIL import Image
from typer.testing import CliRunner

from sora_cli import cli, media
from sora_cli.cli import app
from sora_cli.cli.describing import shot_in
from sora_cli.cli.generate import option_notes
from sora_cli.errors import SoraError
from sora_cli.generation import engine as engines
from sora_cli.media import y4m
from sora_cli.shot import Shot

Sora = Callable[..., int]
FORMAT = media.Format(64, 48, tiny.y4m_format().rate, "444", tags=("COLORRANGE=LIMITED",))


@pytest.fixture
def sora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sora:
    """Generate 64x48 at 24 frames a second in an empty folder with the tiny engine; returns the exit code."""
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli.run(["generate", *map(str, (*tiny.QUICK, *words))])


def new(*words: object) -> tuple[object, ...]:
    return ("a cat", "--res", "64x48", *words)


def picture(name: str, width: int = 64, height: int = 48, seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(name)
    return name


def clip(name: str, count: int) -> str:
    format = tiny.y4m_format(64, 48)
    return tiny.write(name, format, tiny.noise(format, count))


def as_given(name: str, fit: str = "cover") -> list[bytes]:
    """A file's own frames in the planes that `generate` writes."""
    with media.open_source(name, rgb=True) as source:
        pictures = media.to_rgb(source, source.format, FORMAT.size, fit)
        return list(media.from_rgb(pictures, FORMAT.size, FORMAT))


def frames_of(name: str) -> list[bytes]:
    format, frames = tiny.read(name)
    assert format.size == FORMAT.size
    return frames


# ---- anchors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "places"),
    [
        (("--image", "a.png"), {"a.png": 0}),
        (("--end", "a.png", "--image", "b.png"), {"a.png": 21, "b.png": 0}),
        (("--anchor", "a.png@7", "--anchor", "c.y4m@10"), {"a.png": 7, "c.y4m": 10}),
        (("--anchor", "c.y4m@0.25s"), {"c.y4m": 6}),
        (("--anchor", "c.y4m@-1", "--image", "a.png"), {"a.png": 0, "c.y4m": 17}),
        (("--anchor", "c.y4m@0", "--anchor", "a.png@5", "--anchor", "b.png@-2"), {"c.y4m": 0, "a.png": 5, "b.png": 20}),
    ],
)
def test_anchors_come_out_as_they_are(sora: Sora, words: tuple[str, ...], places: dict[str, int]) -> None:
    picture("a.png"), picture("b.png", seed=1), clip("c.y4m", 5)
    assert sora(*new("--frames", 22, *words, "-o", "out.y4m")) == 0
    found = frames_of("out.y4m")
    assert len(found) == 22
    given = {name: as_given(name) for name in places}
    for name, at in places.items():
        assert found[at : at + len(given[name])] == given[name], name
    made = [frame for frame in found if frame not in {raw for own in given.values() for raw in own}]
    assert len(made) == 22 - sum(map(len, given.values()))


@pytest.mark.parametrize("fit", media.FITS)
@pytest.mark.parametrize("size", [(96, 30), (30, 96)])
def test_anchors_of_another_shape_fill_the_frame(sora: Sora, fit: str, size: tuple[int, int]) -> None:
    picture("a.png", *size)
    assert sora(*new("--frames", 2, "--image", "a.png", "--fit", fit, "-o", "out.y4m")) == 0
    assert frames_of("out.y4m")[0] == as_given("a.png", fit)[0]


def test_a_clip_is_taken_at_the_rate_of_the_video(sora: Sora) -> None:
    clip("c.y4m", 12)
    assert sora(*new("--frames", 9, "--fps", 12, "--anchor", "c.y4m@-1", "-o", "out.y4m")) == 0
    own = as_given("c.y4m")
    assert len(found := frames_of("out.y4m")) == 9 and set(found[3:]) <= set(own)


def test_one_frame_that_is_given(sora: Sora) -> None:
    picture("a.png")
    assert sora("--res", "64x48", "--frames", 1, "--image", "a.png", "-o", "b.png") == 0
    before, after = (np.asarray(Image.open(name)).astype(int) for name in ("a.png", "b.png"))
    assert np.abs(before - after).mean() < 1.5 and np.abs(before - after).max() <= 8     # what 4:4:4 rounds off


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--anchor", "c.y4m@0", "--anchor", "a.png@4"), "overlap"),
        (("--anchor", "a.png@0", "--image", "a.png"), "two anchors"),
        (("--anchor", "a.png@22"), "outside the video"),
        (("--anchor", "a.png@1s"), "outside the video"),
        (("--anchor", "c.y4m@18"), "would cover frames 18 to 22"),
        (("--anchor", "c.y4m@-22"), "would cover frames -4 to 0"),
        (("--anchor", "c.y4m@soon"), "is not a time"),
        (("--frames", "5", "--anchor", "c.y4m@0"), "nothing left to make"),
        (("--image", "nowhere.png"), "no file nowhere.png"),
        (("--image", "text.png"), "text.png is not a readable video"),
        (("--image", "empty.png"), "is empty"),
        (("--image", "."), "is a folder"),
        (("--image", "-"), "give a file"),
        (("--image", "a.png", "--fit", "shrink"), "unknown fit"),
        (("--anchor", "c.y4m@0", "-o", "c.y4m", "--force"), "is also an anchor"),
        (("--prompt-at", "a dog"), "TIME=PROMPT"),
        (("--prompt-at", "22=a dog"), "outside the video"),
        (("--prompt-at", "1=a dog", "--prompt-at", "1=a cat"), "two prompts"),
        (("--from", "nowhere.mp4"), "no file nowhere.mp4"),
        (("--from", "a.png"), "does not say how it was made"),
        (("--fps", "60", "-o", "b.gif"), "at most 50"),
        (("-o", "-", "--sheet", "s.png"), "--sheet"),
    ],
)
def test_what_does_not_fit_is_refused_before_weights_are_read(
    sora: Sora,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    complaint: str,
) -> None:
    picture("a.png"), clip("c.y4m", 5)
    Path("text.png").write_text("no picture")
    Path("empty.png").touch()
    before = tiny.everything()
    monkeypatch.delattr(engines, "Engine")
    assert sora(*new("--frames", 22, *words)) in (1, 2)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("sora-cli: ") and err.count("\n") == 1 and complaint in err
    assert tiny.everything() == before


# ---- shots ------------------------------------------------------------------------------------------------


def test_a_shot_is_made_again_with_changes(sora: Sora) -> None:
    cue = ("--prompt-at", "0.2s=a dog")
    assert sora(*new("--frames", 9, "--seed", 4, *cue, "-o", "a.mp4")) == 0
    shot = Shot.from_json(media.probe("a.mp4").metadata["sora"])
    assert [(cue.at, cue.prompt) for cue in shot.cues] == [("0.2s", "a dog")]
    assert cli.run(["generate", "--from", "a.json", "-o", "b.mp4", "--device", "cpu"]) == 0
    assert read_frames("b.mp4")[8].tobytes() == read_frames("a.mp4")[8].tobytes()
    words = ("--from", "a.safetensors", "--seed", "5", "--seconds", "0.25", "--prompt-at", "1=a dog")
    assert cli.run(["generate", "a boat", *words, "-o", "c.mp4", "--device", "cpu"]) == 0
    again = Shot.from_json(media.probe("c.mp4").metadata["sora"])
    assert (again.prompt, again.seed, again.frames, again.steps) == ("a boat", 5, 6, 1)
    assert (again.width, again.height, again.cues[0].at) == (64, 48, "1")
    assert tiny.everything() == tiny.kept("a.mp4", "b.mp4", "c.mp4")


def test_without_metadata_there_is_only_the_video(sora: Sora) -> None:
    assert sora(*new("--frames", 5, "--no-metadata", "-o", "a.mp4")) == 0
    assert tiny.everything() == ["a.mp4"] and "sora" not in media.probe("a.mp4").metadata


def test_the_record_says_what_was_made(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    picture("a.png")
    assert sora(*new("--frames", 9, "--image", "a.png", "--json", "--sheet", "s.png", "-o", "a.webm")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(Path("a.json").read_text())
    assert (told["verb"], told["output"], told["frames"]) == ("generate", "a.webm", 9)
    assert told["shot"]["anchors"] == [{"path": "a.png", "at": "0"}] and told["flops"] > 0
    assert {"dit", "decode", "given", "text", "encode"} <= told["timings"].keys()
    assert Image.open("s.png").size[0] > 4 * 320


# ---- pipes ------------------------------------------------------------------------------------------------


def test_a_pipe_gets_a_stream_and_nothing_else(
    sora: Sora, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", out)
        assert sora(*new("--frames", 6, "--json", "-o", "-")) == 0
    stream = io.BytesIO(out.buffer.getvalue())  # type: ignore[attr-defined]
    assert (format := y4m.read_format(stream)) == replace(FORMAT, chroma="420mpeg2")
    assert len(list(y4m.read_frames(stream, format, "it"))) == 6
    assert "6 frames in" in capsys.readouterr().err and tiny.everything() == []


PIPED = """
import tiny
from sora_cli import cli
tiny.install(setattr)
cli.main(["generate", "a cat", *tiny.QUICK, "--res", "160x120", "--frames", "40", "-o", "-", "-q"])
"""


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    with Forked(PIPED, folder=tmp_path) as process:
        assert process.stdout and process.stdout.read(9) == y4m.MAGIC
        process.stdout.close()
        assert process.wait() == 1 and process.said() == "" and tiny.everything(tmp_path) == []


@pytest.mark.parametrize("option", ["--image", "--end", "--anchor"])
def test_an_anchor_that_can_be_read_only_once_is_refused(option: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    name = f"{tmp_path / 'pipe'}{'@1s' if option == '--anchor' else ''}"
    told = CliRunner().invoke(app, ["generate", "a cat", option, name, "--dry-run"])
    assert isinstance(told.exception, SoraError) and "an anchor is read more than once" in str(told.exception)


@pytest.mark.parametrize("model", ["hf:somebody/else", "./theirs", "wan3"])
def test_a_record_of_a_stranger_fetches_nothing_unasked(model: str, tmp_path: Path) -> None:
    shot = {"prompt": "a cat", "model": model}
    (tmp_path / "it.json").write_text(json.dumps({"shot": shot}))
    told = CliRunner().invoke(app, ["generate", "--from", str(tmp_path / "it.json"), "--dry-run"])
    assert isinstance(told.exception, SoraError) and f"give --model {model} to use it" in str(told.exception)


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_files_that_a_record_names_are_said(tmp_path: Path, more: tuple[str, ...],
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("p.png")
    shot = {"prompt": "a cat", "anchors": [{"path": "p.png", "at": "0"}], "width": 64, "height": 64, "frames": 5}
    Path("it.json").write_text(json.dumps({"shot": shot}))
    words = ["generate", "--from", "it.json", "--steps", "1", "--device", "cpu", "-o", "x.mp4", *more]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.stderr
    assert "it.json refers to files on this machine, which are read: p.png" in told.stderr
    Path("it.json").write_text(json.dumps({"shot": shot | {"anchors": [], "loras": [{"path": "l", "strength": 0.0}]}}))
    notes = option_notes(shot_in(Path("it.json")), Path("it.json"), set())
    assert list(notes) == ["it.json refers to files on this machine, which are read: l"]
