"""extend, loop and reverse by a tiny random engine: exact lengths, and given frames that stay what they were."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from clips import read_frames
from PIL import Image

from sora_cli import cli, media, registry
from sora_cli.files import weights
from sora_cli.generation import engine as engines
from sora_cli.media import y4m
from sora_cli.pipelines.codec import Codec
from sora_cli.prompts.grammar import expand
from sora_cli.shot import Shot
from sora_cli.storage import latent_file

Sora = Callable[..., int]


@pytest.fixture
def sora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sora:
    """Run one command line in an empty folder with the tiny engine; returns the exit code."""
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return lambda verb, *words: cli.run([verb, *map(str, tiny.QUICK), *map(str, words)])


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for every time that the encoder is asked."""
    calls: list[int] = []
    whole = Codec.encode
    monkeypatch.setattr(Codec, "encode", lambda *words: calls.append(1) or whole(*words))
    return calls


def record(name: str) -> dict[str, Any]:
    return json.loads(Path(name).read_text())


def piped(sora: Sora, monkeypatch: pytest.MonkeyPatch, feed: bytes, *words: object) -> bytes:
    """What a command writes to standard output while it reads `feed`."""
    out = io.TextIOWrapper(io.BytesIO(), write_through=True)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(feed), isatty=lambda: False))
    monkeypatch.setattr(sys, "stdout", out)
    assert sora(*words) == 0
    return out.buffer.getvalue()  # type: ignore[attr-defined]


# ---- extend -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "before", "after", "format"),
    [
        (1, None, 0.25, tiny.y4m_format(63, 47, 24)),
        (2, 0.25, None, tiny.y4m_format(64, 64, 25, "422")),
        (4, 0.25, 0.3, tiny.y4m_format(63, 47, 23.976, "444")),
        (5, None, 0.04, tiny.y4m_format(64, 50, 25, "mono")),
        (13, 0.2, 0.2, tiny.y4m_format(47, 63, 30)),
        (30, 0.04, 0.5, tiny.y4m_format(64, 64, 24)),
    ],
)
def test_extend_adds_exactly_what_is_asked_and_changes_nothing(
    sora: Sora, given: int, before: float | None, after: float | None, format: media.Format
) -> None:
    frames = tiny.noise(format, given)
    tiny.write("a.y4m", format, frames)
    words = [*(("--before", before) if before else ()), *(("--after", after) if after else ())]
    assert sora("extend", "a.y4m", *words, "-o", "b.y4m") == 0
    ahead, behind = (round((seconds or 0) * format.fps) for seconds in (before, after))
    same, found = tiny.read("b.y4m")
    assert same == format and len(found) == ahead + given + behind
    assert found[ahead : ahead + given] == frames
    assert os.path.exists("b.json") and tiny.everything() == ["a.y4m", "b.json", "b.y4m"]
    told = record("b.json")
    assert (told["frames"], told["given"]) == (len(found), [ahead, ahead + given])


def test_a_pipe_is_extended_into_a_pipe(sora: Sora, monkeypatch: pytest.MonkeyPatch) -> None:
    format = tiny.y4m_format(63, 47, 25, "420jpeg")
    feed = tiny.stream(format, tiny.noise(format, 6))
    out = io.BytesIO(piped(sora, monkeypatch, feed, "extend", "-", "--after", "0.2"))
    assert y4m.read_format(out) == format
    found = list(y4m.read_frames(out, format, "it"))
    assert len(found) == 11 and feed == tiny.stream(format, found[:6])
    assert tiny.everything() == []


def test_an_mp4_is_extended_by_its_own_prompt(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    format = tiny.y4m_format(64, 48, 25)
    flat = [bytes([60 + 10 * n]) * format.frame_bytes for n in range(7)]
    tiny.write("clip.mp4", format, flat, {"sora": Shot("a cat surfing", seed=3).to_json()})
    assert sora("extend", "clip.mp4", "--after", 0.2) == 0
    assert capsys.readouterr().out == "clip-extended.mp4\n"
    found = media.probe("clip-extended.mp4")
    assert (found.width, found.height, found.fps, found.frames) == (64, 48, 25, 12)
    shot = Shot.from_json(found.metadata["sora"])
    assert (shot.prompt, shot.seed, shot.frames) == ("a cat surfing", 0, 5)
    (was, now) = (read_frames(name) for name in ("clip.mp4", "clip-extended.mp4"))
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(was, now, strict=False)) < 2
    assert sora("extend", "clip.mp4", "a dog", "--before", 0.2, "--res", "32x64", "--fps", 12.5, "-o", "b.mp4") == 0
    found = media.probe("b.mp4")
    assert (found.width, found.height, found.fps, found.frames) == (32, 64, 12.5, 2 + 4)
    assert Shot.from_json(found.metadata["sora"]).prompt == "a dog"


@pytest.mark.parametrize("verb", [("extend", "--after", 0.2), ("loop",), ("reverse", "--seconds", 0.2)])
def test_what_is_seen_in_a_video_stays_where_it_is(sora: Sora, verb: tuple[Any, ...]) -> None:
    """The caption of a video that was made is gone on with, whatever the seed, unless something else is asked for."""
    caption = "a large cat surfing normal, ocean, camera still, left side, high, beat two"
    own, format = Shot("a cat surfing", seed=5, captions=(caption,)), tiny.y4m_format(64, 48, 25)
    tiny.write("clip.mp4", format, tiny.noise(format, 7), {"sora": own.to_json()})
    name, *length = verb

    def read(*words: object) -> str:
        assert sora(name, "clip.mp4", *words, *length, "-o", "b.mp4", "--force") == 0
        (found,) = record("b.json")["shot"]["captions"]
        return found

    assert read() == read("--seed", 9) == caption
    assert read("--expand", "off") == "a cat surfing"
    assert read("--expand", "grammar", "--seed", 1) == expand("a cat surfing", 1).caption
    assert read("a dog", "--seed", 2) == expand("a dog", 2).caption


@pytest.mark.parametrize(
    "words",
    [
        ("extend", "a.y4m", "--after", 0.1),
        ("loop", "a.y4m"),
        ("loop", "a cat", "--seconds", 0.4),
        ("reverse", "a.y4m", "--seconds", 0.2),
    ],
)
def test_random_seeds_are_said_and_recorded(
    sora: Sora, capsys: pytest.CaptureFixture[str], words: tuple[object, ...]
) -> None:
    tiny.write("a.y4m", tiny.y4m_format(), tiny.noise(tiny.y4m_format(), 5))
    assert sora(*words, "--seed", "random", "-o", "b.mp4") == 0
    assert f"seed {record('b.json')['shot']['seed']}\n" in capsys.readouterr().err
    assert sora(*words, "--seed", "any", "-o", "c.mp4") == 2
    assert "--seed is 'any'" in capsys.readouterr().err


def test_latents_beside_a_video_are_gone_on_from(sora: Sora, encoded: list[int]) -> None:
    """Twice; then all latents decode to the frames, but where a join is smoothed."""
    assert sora("generate", "a cat", "--frames", 10, "--res", "64x64", "-o", "a.y4m") == 0
    assert sora("extend", "a.y4m", "a cat", "--after", 29 / 24, "-o", "b.y4m") == 0
    assert sora("extend", "b.y4m", "a cat", "--after", 4 / 24, "-o", "c.y4m") == 0
    assert encoded == [] and tiny.everything() == tiny.kept("a.y4m", "b.y4m", "c.y4m")
    parts = [latent_file.load(name) for name in ("a.safetensors", "b.safetensors", "c.safetensors")]
    for (was, old), (now, new) in zip(parts, parts[1:], strict=False):
        assert torch.equal(now[:, : was.shape[1]], was) and new.frames > old.frames
    assert parts[-1][1].video == weights.hash_of(Path("c.y4m")) and parts[-1][1].frames == 43
    format, shown = tiny.read("c.y4m")
    codec = Codec.of(registry.entry("pocket"), "cpu", "auto")
    decoded = list(media.from_rgb(codec.decode("c.safetensors"), (64, 64), format))
    assert len(decoded) == len(shown) == 43
    for number in (*range(10), *range(10 + 24, 39)):
        raw = [np.frombuffer(raw, np.uint8).astype(int) for raw in (shown[number], decoded[number])]
        assert np.abs(raw[0] - raw[1]).max() <= 1, number


def test_latents_of_another_video_are_left_alone(sora: Sora, encoded: list[int]) -> None:
    assert sora("generate", "a cat", "--frames", 6, "--res", "64x64", "-o", "a.y4m") == 0
    assert sora("extend", "a.y4m", "--after", 0.2, "--res", "48x48", "-o", "b.y4m") == 0
    assert encoded == [1] and not os.path.exists("b.safetensors")
    format, frames = tiny.read("a.y4m")
    os.unlink("a.y4m")
    tiny.write("a.y4m", format, [*frames[:-1], frames[0]])
    assert sora("extend", "a.y4m", "--after", 0.2, "-o", "c.y4m") == 0
    assert encoded == [1, 1] and not os.path.exists("c.safetensors")


# ---- loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "connector", "times", "given"), [(0.1, 3, 1, 1), (0.3, 7, 3, 9), (0.45, 11, 1, 14)]
)
def test_a_video_is_closed(sora: Sora, seconds: float, connector: int, times: int, given: int) -> None:
    format = tiny.y4m_format(63, 47, 24, "444")
    frames = tiny.noise(format, given)
    tiny.write("a.y4m", format, frames)
    assert sora("loop", "a.y4m", "--seconds", seconds, "--times", times, "-o", "b.y4m") == 0
    same, found = tiny.read("b.y4m")
    once = given + connector
    assert same == format and len(found) == once * times and found[:given] == frames
    assert all(found[n * once : (n + 1) * once] == found[:once] for n in range(times))
    told = record("b.json")
    assert (told["frames"], told["times"], told["given"]) == (once * times, times, [0, given])


def test_a_loop_from_a_prompt(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("a cat surfing", "--res", "64x64", "--fps", 10, "--seconds", 0.9)
    assert sora("loop", *words, "-o", "a.gif") == 0
    assert media.probe("a.gif").frames == 8  # 9 is no whole number of chunks
    assert b"NETSCAPE2.0\x03\x01\x00\x00\x00" in Path("a.gif").read_bytes()  # for ever
    made, header = latent_file.load("a.safetensors")
    assert header.cyclic and header.frames == 8 and made.shape[1] == 2
    capsys.readouterr()
    assert sora("loop", *words, "--times", 3, "--no-metadata") == 0
    assert capsys.readouterr().out == "a-cat-surfing-loop.mp4\n"
    assert media.probe("a-cat-surfing-loop.mp4").frames == 24
    assert tiny.everything() == sorted([*tiny.kept("a.gif"), "a-cat-surfing-loop.mp4"])


# ---- reverse ----------------------------------------------------------------------------------------------


def test_what_leads_up_to_a_picture(sora: Sora) -> None:
    across, down = np.meshgrid(np.arange(64), np.arange(48))
    picture = np.stack([across * 4, down * 5, across + down], -1).astype(np.uint8)
    Image.fromarray(picture).save("end.png")
    assert sora("reverse", "end.png", "a cat", "--seconds", 0.5) == 0
    *made, last = read_frames("end-reverse.mp4")
    assert len(made) == 11 and np.abs(last.astype(int) - picture).mean() < 4
    assert record("end-reverse.json")["given"] == [11, 12]
    assert sora("reverse", "end.png", "--seconds", 0.2, "--fps", 60, "-o", "b.y4m") == 0
    format, frames = tiny.read("b.y4m")
    assert (format.fps, len(frames)) == (60, 12) and frames[-1] == tiny.read("end.png")[1][0]


@pytest.mark.parametrize("given", [2, 5, 16])
def test_what_leads_up_to_a_clip(sora: Sora, given: int) -> None:
    format = tiny.y4m_format(63, 47, 24)
    frames = tiny.noise(format, given)
    tiny.write("a.y4m", format, frames)
    assert sora("reverse", "a.y4m", "--seconds", 0.3, "-o", "b.y4m") == 0
    same, found = tiny.read("b.y4m")
    assert same == format and len(found) == 7 + given and found[7:] == frames


# ---- what cannot be done ----------------------------------------------------------------------------------


def damaged(name: str) -> str:
    """An MP4 of half its length, its index at the front."""
    format = tiny.y4m_format(64, 64)
    content = Path(tiny.write("whole.mp4", format, tiny.noise(format, 40))).read_bytes()
    Path("whole.mp4").unlink()
    Path(name).write_bytes(content[: len(content) // 2])
    return name


def sound(name: str) -> str:
    command = [media.ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "sine=d=0.2", name]
    subprocess.run(command, check=True)
    return name


def text(name: str) -> str:
    Path(name).write_text("This is a text.\n" * 200)
    return name


def empty(name: str) -> str:
    Path(name).touch()
    return name


def folder(name: str) -> str:
    os.mkdir(name)
    return name


def nothing(name: str) -> str:
    return name


@pytest.mark.parametrize("verb", ["extend", "loop", "reverse"])
@pytest.mark.parametrize(
    ("make", "code"), [(damaged, 1), (sound, 1), (text, 1), (empty, 2), (folder, 2), (nothing, 2)]
)
def test_what_is_no_video_is_one_line(
    sora: Sora, capsys: pytest.CaptureFixture[str], verb: str, make: Callable[[str], str], code: int
) -> None:
    make("a b.mp4")
    before = tiny.everything()
    assert sora(verb, "a b.mp4", "-q", "--seconds" if verb != "extend" else "--after", 0.2) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("sora-cli: ") and err.count("\n") == 1 and "a b.mp4" in err
    assert [name for name in tiny.everything() if ".resume" not in name] == before  # windows may be finished


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("extend", "a.y4m", "-o", "a.y4m", "--force"), "is also the input"),
        (("extend", "a.y4m", "--after", "0"), "less than one frame"),
        (("extend", "a.y4m", "--after", "-1"), "less than one frame"),
        (("extend", "a.y4m", "--before", "nan"), "is not a length"),
        (("extend", "a.y4m", "--before", "inf"), "is not a length"),
        (("extend", "a.y4m", "--after", "1e9"), "must be from"),
        (("extend", "a.y4m"), "must be even"),
        (("extend", "a.y4m", "-o", "b.y4m", "--plan", "zigzag"), "unknown plan"),
        (("extend", "a.y4m", "-o", "b.y4m", "--model", "veo"), "known models"),
        (("extend", "a.y4m", "-o", "b.gif", "--fps", "60"), "at most 50"),
        (("extend", "a.y4m", "-o", "%d.png"), "already exists"),
        (("extend", "a.y4m", "-o", "taken.mp4", "--res", "64x64"), "--force"),
        (("loop", "a.y4m", "-o", "b.y4m", "--seconds", "0"), "less than one frame"),
        (("loop", "a.y4m", "-o", "b.y4m", "--seconds", "nan"), "is not a length"),
        (("loop", "a.y4m", "-o", "a.y4m", "--force"), "is also the input"),
        (("loop", "x" * 300, "a cat"), "there is no video"),
        (("loop", " "), "prompt is empty"),
        (("loop", "a cat", "--fps", "60", "-o", "b.gif"), "at most 50"),
        (("loop", "-", "--times", "2", "-o", "b.y4m"), "can be read only once"),
        (("reverse", "a.y4m", "-o", "b.y4m", "--seconds", "nan"), "is not a length"),
        (("reverse", "a.y4m", "-o", "./a.y4m", "--force"), "is also the input"),
        (("loop", "a cat", "--seconds", "0.5", "-o", "b.png"), "is an image but 12 frames are requested"),
        (("reverse", "a.y4m", "-o", "b.y4m", "--input-res", "64x64"), "rate"),
        (("reverse", "nowhere.png"), "no file"),
        (("reverse", "nowhere.png", "--dry-run"), "no file"),
        (("extend", "a.y4m", "-o", "b.y4m", "--res", ""), "resolution"),
        (("loop", "a.y4m", "-o", "b.y4m", "--input-res", ""), "resolution"),
        (("reverse", "a.y4m", "-o", ""), "-o is empty"),
        (("loop", "a cat", "--input-fps", "3", "-o", "b.mp4"), "say how to read one"),
        (("extend", "a.y4m", "-o", "-", "--resume"), "a pipe does not keep"),
        (("generate", "a cat", "-n", "2", "--sheet", "s.png"), "--sheet draws one video"),
    ],
)
def test_nonsense_is_refused_before_weights_are_read(
    sora: Sora,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    complaint: str,
) -> None:
    format = tiny.y4m_format(63, 47)
    tiny.write("a.y4m", format, tiny.noise(format, 3))
    Path("taken.mp4").write_text("mine")
    Path("1.png").write_text("mine")
    monkeypatch.delattr(engines, "Engine")
    assert sora(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("sora-cli: ") and err.count("\n") == 1 and complaint in err
    assert tiny.everything() == ["1.png", "a.y4m", "taken.mp4"]


@pytest.mark.parametrize("words", [("extend", "a.y4m"), ("loop", "a.y4m"), ("reverse", "a.y4m"), ("loop", "a boat")])
def test_a_dry_run_says_what_a_verb_takes_and_makes_nothing(
    sora: Sora, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    tiny.write("a.y4m", tiny.y4m_format(64, 64), tiny.noise(tiny.y4m_format(64, 64), 3))
    monkeypatch.setattr("sora_cli.placement.estimate.product_rate", lambda *words: 1e9)
    monkeypatch.delattr(engines, "Engine")
    assert sora(*words, "--dry-run", "--json") == 0
    cost = json.loads(capsys.readouterr().out)
    assert cost["steps"] >= cost["windows"] >= 1 and cost["peak"] > 0 and tiny.everything() == ["a.y4m"]


@pytest.mark.parametrize("name", ["a b'c\"d", "-dash", "ünï ©日本", "100%", "[x]*?", "file:x"])
def test_any_name_will_do(sora: Sora, capsys: pytest.CaptureFixture[str], name: str) -> None:
    format = tiny.y4m_format(64, 48)
    tiny.write(f"{name}.mp4", format, tiny.noise(format, 2))
    assert sora("extend", "--after", 0.1, "--sheet", "sheet.png", "--", f"{name}.mp4") == 0
    output = capsys.readouterr().out.removesuffix("\n")
    assert output == f"{name.replace('%', '')}-extended.mp4" and media.probe(output).frames == 4
    assert tiny.everything() == sorted([f"{name}.mp4", output, output.replace(".mp4", ".json"), "sheet.png"])


def test_numbered_images_are_extended_into_numbered_images(sora: Sora) -> None:
    os.mkdir("in")
    for number in range(1, 4):
        Image.new("RGB", (64, 48), (60 * number, 90, 20)).save(f"in/{number:03}.png")
    assert sora("extend", "in/%03d.png", "--after", 0.1, "-o", "%02d.png", "--sheet", "sheet.png") == 0
    assert sorted(os.listdir()) == ["01.png", "02.png", "03.png", "04.png", "05.png", "in", "sheet.png"]
    assert np.abs(np.asarray(Image.open("02.png")).astype(int) - (120, 90, 20)).max() <= 3
