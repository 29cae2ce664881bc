"""What lies where an output goes stays, whatever it is and whenever it came."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from sora_cli import cli, media
from sora_cli.cli.target import Target
from sora_cli.files.owned import Owned
from sora_cli.generation.engine import Generation

QUICK = (*tiny.QUICK, "-q")
GENERATE = ("generate", "a cat", *QUICK, "--res", "64x64", "--frames", "9")


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)


def windows_of_another() -> None:
    Path("mine").mkdir()
    Path("mine/window-00000.safetensors").touch()
    Path("a.mp4.resume").symlink_to("mine")


@pytest.mark.parametrize(("put", "words", "said"), [
    (lambda: Path("a.mp4").symlink_to("nowhere"), (), "a.mp4 already exists"),
    (lambda: Path("a.json").symlink_to("nowhere"), (), "a.json already exists"),
    (lambda: Path("a.preview.webp").symlink_to("nowhere"), ("--preview",), "a.preview.webp already exists"),
    (lambda: os.mkfifo("a.mp4"), ("--force",), "cannot write a.mp4: it is a device or a pipe"),
    (lambda: Path("00007.png").touch(), ("-o", "%05d.png"), "00007.png already exists"),
    (windows_of_another, ("--force",), "a.mp4.resume is in the way: it is no folder of ours"),
    (windows_of_another, ("--resume",), "a.mp4.resume is in the way"),
    (lambda: Path("a.mp4.resume").touch(), (), "a.mp4.resume is in the way"),
    (lambda: os.mkfifo("a.mp4.resume"), (), "a.mp4.resume is in the way"),
    (lambda: Path("a.mp4.resume").symlink_to("nowhere"), (), "a.mp4.resume is in the way"),
    (lambda: None, ("-o", "ä" * 109 + ".mp4"), "the name has 222 bytes; at most 220"),
])  # fmt: skip
def test_what_is_in_the_way_stays(put: Callable[[], None], words: tuple[str, ...], said: str,
                                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    put()
    before = tiny.everything()
    assert cli.run([*GENERATE, "-o", "a.mp4", *words]) == 2
    assert said in capsys.readouterr().err and tiny.everything() == before


@pytest.mark.parametrize(("words", "come"), [
    ((*GENERATE, "-o", "a.y4m"), "a.y4m"),
    ((*GENERATE, "-o", "a.y4m"), "a.json"),
    (("encode", "clip.y4m", "-o", "b.safetensors", "--device", "cpu", "-q"), "b.safetensors"),
    (("extend", "clip.y4m", "-o", "%d.png", "--after", "0.2", *QUICK), "3.png"),
])  # fmt: skip
def test_what_comes_while_networks_are_loaded_stays(
    words: tuple[str, ...], come: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write("clip.y4m", tiny.y4m_format(), tiny.noise(tiny.y4m_format(), 5))
    check = Target.check
    monkeypatch.setattr(Target, "check", lambda target: (check(target), Path(come).write_text("mine")))
    monkeypatch.setattr(Target, "check_format", lambda *given: None)
    assert cli.run(list(words)) == 2
    assert f"{come} already exists" in capsys.readouterr().err and Path(come).read_text() == "mine"
    assert tiny.everything() == sorted(["clip.y4m", come])


@pytest.mark.parametrize(("words", "come"), [
    ((*GENERATE, "-o", "a.y4m"), "a.y4m"),
    ((*GENERATE, "-o", "a.y4m"), "a.safetensors"),  # such as those of an a.webm
    ((*GENERATE, "-o", "a.y4m", "--sheet", "s.png"), "s.png"),
])  # fmt: skip
def test_what_comes_while_a_video_is_made_stays(
    words: tuple[str, ...], come: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = Generation.frames
    monkeypatch.setattr(Generation, "frames", lambda run: (Path(come).write_text("mine"), frames(run))[1])
    assert cli.run(list(words)) == 2
    assert f"{come} already exists" in capsys.readouterr().err and Path(come).read_text() == "mine"
    assert tiny.everything() == sorted([come, "a.y4m.resume", "a.y4m.resume/identity.json",
                                        "a.y4m.resume/window-00000.safetensors"])  # fmt: skip


def test_latents_are_not_decoded_over_an_unfinished_video(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*GENERATE, "-o", "a.y4m"]) == 0
    Path("b.y4m.resume").mkdir()
    Path("b.y4m.resume/window-00000.safetensors").touch()
    decode = ["decode", "a.safetensors", "-o", "b.y4m", "--device", "cpu", "-q"]
    assert cli.run(decode) == 2 and "b.y4m is unfinished" in capsys.readouterr().err
    assert cli.run([*decode, "--force"]) == 0 and not Path("b.y4m.resume").exists()


@pytest.mark.parametrize("again", [("--preview",), ()])
def test_the_preview_of_a_killed_process_goes(again: tuple[str, ...]) -> None:
    media.write_moving("a.preview.webp", [np.zeros((16, 16, 3), np.uint8)] * 2, 0.1)
    assert cli.run([*GENERATE, "-o", "a.y4m", *again]) == 0
    assert tiny.everything() == tiny.kept("a.y4m")


def test_a_finished_video_is_another_with_other_options(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*GENERATE, "-o", "a.y4m", "--resume"]
    assert [cli.run(words), cli.run(words), cli.run([*words, "--dtype", "float32"])] == [0, 0, 2]
    assert "a.y4m already exists, made with other dtype" in capsys.readouterr().err
    gif, mp4 = Target(name="a.gif"), Target(name="a.mp4")  # which has that size and rate anyway
    for asked in ("sized", "timed"):
        assert replace(gif, **{asked: True}).identity != gif.identity
        assert replace(mp4, **{asked: True}).identity == mp4.identity


def test_an_empty_folder_of_somebody_s_stays() -> None:
    Path("mine").mkdir()
    with Owned(Path("mine")):
        pass
    assert Path("mine").exists()
