"""Frame rates that a model does not make: exact numbers of frames, true motion, given pictures and sound in step."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_sound import clap, heard, onsets

from sora_cli import cli, media, registry
from sora_cli.cli import models
from sora_cli.generation.engine import Engine
from sora_cli.generation.plan import made, plan
from sora_cli.media import Retiming
from sora_cli.placement.estimate.cost import INTERPOLATE, INTERPOLATED
from sora_cli.shot import Anchor, Cue, Shot
from sora_cli.world.render import render
from sora_cli.world.scene import Scene

Sora = Callable[..., int]
SIZE = (96, 64)


@pytest.fixture
def sora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sora:
    """One command line in an empty folder, by a tiny model that makes 16 frames a second and no other rate."""
    tiny.install(monkeypatch.setattr)
    (own,) = registry.registry().values()
    trained = tuple(one for one in own.usage.trained if one != "fps")
    slow = replace(own, usage=replace(own.usage, fps=16.0, trained=trained))
    monkeypatch.setattr(registry, "registry", lambda: {"pocket": slow})
    monkeypatch.chdir(tmp_path)
    return lambda verb, *words: cli.run([verb, *map(str, tiny.QUICK), *map(str, words)])


def record(name: str) -> dict[str, Any]:
    return json.loads(Path(name).read_text())


def greys(count: int, step: int = 2) -> list[np.ndarray]:
    """Frames that are as light as they are late."""
    return [np.full((64, 96, 3), 20 + step * number, np.uint8) for number in range(count)]


def times(retiming: Retiming, count: int) -> list[float]:
    """Which made frame, or what between two, each shown one is, through ffmpeg."""
    format = media.Format(*SIZE, retiming.shown, "444", tags=("COLORRANGE=FULL",))
    raw = media.from_rgb(greys(count), SIZE, format, retiming)
    return [(float(frame.mean()) - 20) / 2 for frame in media.to_rgb(raw, format, SIZE)]


# ---- frames ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "shown", "count"),
    [(16, 24, 32), (16, 60, 9), (24, 60, 24), (24, 25, 48), (16, 23.976, 20), (24, 12, 25), (30, 24, 31), (24, 1, 49)],
)
def test_every_frame_shows_its_time(rate: float, shown: float, count: int) -> None:
    retiming = Retiming.between(rate, shown)
    found, ratio = times(retiming, count), retiming.ratio
    assert len(found) == len([j for j in range(1000) if j / ratio < count]), "as many as last as long"
    due = [min(float(j / ratio), count - 1) for j in range(len(found))]
    due = due if shown > rate else [int(time) for time in due]
    assert found == pytest.approx(due, abs=0.51), "half a level of grey is rounding"
    there = [j for j, time in enumerate(due) if time == int(time)]
    assert [found[j] for j in there] == [due[j] for j in there], "what is there is taken as it is"


def test_a_loop_leads_to_its_first_frame() -> None:
    """What is behind the last frame lies between it and the first."""
    retiming = Retiming(Fraction(16), Fraction(48), frames=24, turn=8, cyclic=True)
    light = np.cos(np.arange(8) / 8 * 2 * np.pi) * 20 + 100
    frames = [np.full((64, 96, 3), round(value), np.uint8) for value in light]
    format = media.Format(*SIZE, Fraction(48), "444", tags=("COLORRANGE=FULL",))
    raw = media.from_rgb(frames, SIZE, format, retiming)
    found = [float(frame.mean()) for frame in media.to_rgb(raw, format, SIZE)]
    assert len(found) == 24 and found[21] < found[22] < found[23] <= found[0], found


def test_the_frame_at_the_end_is_the_very_same() -> None:
    format = media.Format(*SIZE, Fraction(16), "444")
    raw = list(media.from_rgb(greys(14), SIZE, format))
    shown = list(media.retimed(raw, format, Retiming(Fraction(16), Fraction(24), frames=20, end=13)))
    assert len(shown) == 20 and shown[-1] == raw[13]


@pytest.mark.parametrize("chroma", ["420mpeg2", "444", "422", "420p10", "mono"])
def test_raw_frames_keep_their_format(chroma: str) -> None:
    format = media.Format(*SIZE, Fraction(16), chroma)
    raw = list(media.from_rgb(greys(8), SIZE, format))
    found = list(media.retimed(raw, format, Retiming(Fraction(16), Fraction(24))))
    assert len(found) == 12 and {len(frame) for frame in found} == {format.frame_bytes}
    kind = np.dtype("<u2" if chroma == "420p10" else "u1")
    for one, same in zip(raw[::2], found[::3], strict=True):
        away = np.abs(np.frombuffer(one, kind).astype(int) - np.frombuffer(same, kind))
        assert away.max() <= (3 if chroma == "420p10" else 0)  # of 1023: it is interpolated in eight bits


def test_motion_is_followed_and_cuts_are_kept() -> None:
    """Against what really is between the frames: closer than repeating the nearest one by far, and never a mixture of
    two scenes."""
    scenes = [Scene("shark", "moving left", "ocean", seed=1), Scene("rocket", "shaking", "snow", seed=2)]
    seconds = torch.arange(33, dtype=torch.float64) / 48
    real = (render(scenes, seconds.expand(2, 33), 96, 160) * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    given = [*real[0][::3], *real[1][::3]]  # a cut behind the eleventh
    format = media.Format(160, 96, Fraction(48), "444", tags=("COLORRANGE=FULL",))
    raw = media.from_rgb(given, (160, 96), format, Retiming(Fraction(16), Fraction(48)))
    found = np.stack(list(media.to_rgb(raw, format, (160, 96)))).astype(float)
    between = [j for j in range(30) if j % 3]
    error = np.square(found[between] - real[0][between]).mean()
    repeated = np.square(np.repeat(real[0][::3], 3, 0)[between].astype(float) - real[0][between]).mean()
    assert error < repeated / 2
    for j in (31, 32):
        assert min(np.abs(found[j] - end).mean() for end in (real[0][30], real[1][0])) < 2


# ---- shots -------------------------------------------------------------------------------------------------


def test_a_shot_at_another_rate_lasts_as_long_and_has_everything_where_it_was() -> None:
    anchors = (Anchor("a.png", "0"), Anchor("b.png", "60"), Anchor("c.png", "2.5s"), Anchor("d.png", "-1"))
    rates = {16.0: (81, [0, 40, 40, 80]), 60.0: (299, [0, 150, 150, 298]), 12.0: (61, [0, 30, 30, 60])}
    for at, (frames, where) in rates.items():
        for anchor, frame in zip(anchors, where, strict=True):
            shot = Shot("a", frames=120, anchors=(anchor,), cues=(Cue("3s", "b"),)).at(at)
            assert (shot.fps, shot.frames) == (at, frames)
            assert int(shot.anchors[0].at) % shot.frames == frame
            assert int(shot.cues[0].at) == 3 * at
    loop = Shot("a", frames=100, fps=25.0, loop=True).at(16.0)
    assert loop.frames == 64


def test_models_make_the_rates_that_they_were_trained_for() -> None:
    rates = {"pocket": {24: 24, 12: 12, 60: 30, 50: 25}, "wan2.1-1.3b": {24: 16, 16: 16}, "wan2.2-5b": {60: 24},
             "fastwan-5b": {12: 24}}  # fmt: skip
    for model, fps, rate in ((model, float(fps), rate) for model, each in rates.items() for fps, rate in each.items()):
        assert made(Shot("a", fps=fps, frames=8, model=model), registry.entry(model)).fps == rate
    assert made(Shot("a", fps=60.0, frames=1), registry.entry("wan2.1-1.3b")).fps == 60


# ---- commands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.y4m", "a.gif", "a%02d.png", "a.webm"])
@pytest.mark.parametrize(("fps", "frames"), [(25, 25), (50, 50), (8, 8)])
def test_every_output_has_the_frames_that_are_asked(
    sora: Sora, name: str, fps: int, frames: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sora("generate", "a cat", "--res", "64x64", "--seconds", 1, "--fps", fps, "-o", name) == 0
    said = capsys.readouterr().err
    by = "interpolated by ffmpeg's minterpolate" if fps > 16 else "leaving frames out"
    assert said.count("made at 16 frames a second") == 1 and by in said
    if "%" in name:
        assert len(list(Path().glob("a*.png"))) == frames
        return
    found = media.probe(name)
    assert found.frames == frames and found.fps == pytest.approx(fps, rel=0.01)
    told = record(str(Path(name).with_suffix(".json")))
    assert (told["frames"], told["shot"]["frames"], told["shot"]["fps"]) == (frames, frames, fps)
    assert (told["rate"]["made"], told["rate"]["shown"]) == (16, fps) and told["rate"]["by"] in said


def test_at_its_own_rate_nothing_is_said_or_done(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    assert sora("generate", "a cat", "--res", "64x64", "--seconds", 0.5, "--fps", 16, "-o", "a.y4m") == 0
    assert "rate" not in record("a.json") and "made at" not in capsys.readouterr().err


@pytest.mark.parametrize("fps", [24, 60, 12, 5])
def test_given_pictures_stay_what_they_are(sora: Sora, fps: int) -> None:
    for name, seed in (("start.png", 1), ("end.png", 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(name)
    ends = ("--image", "start.png", "--end", "end.png")
    assert sora("generate", "a cat", "--res", "64x64", "--frames", 14, "--fps", fps, *ends, "-o", "a.y4m") == 0
    format, frames = tiny.read("a.y4m")
    for given, shown in (("start.png", frames[0]), ("end.png", frames[-1])):
        with media.open_source(given) as source:
            (raw,) = media.from_rgb(media.to_rgb(source, source.format, format.size), format.size, format)
        assert np.abs(np.frombuffer(raw, "u1").astype(int) - np.frombuffer(shown, "u1")).max() <= 2
    assert len(frames) == 14


@pytest.mark.parametrize(("fps", "at", "first"), [(32, "0", 0), (24, "-1", 16), (8, "1s", 8), ("30000/1001", "5", 5)])
def test_given_clips_stay_what_they_are(sora: Sora, fps: str, at: str, first: int) -> None:
    """At a rate that the model does not make, and every one of their frames."""
    rng, given = np.random.default_rng(0), media.Format(64, 64, Fraction(fps), "444")
    with media.open_sink("clip.y4m", given) as sink:
        for grey in range(40, 200, 20):
            sink.write(rng.integers(grey, grey + 20, given.frame_bytes, np.uint8).tobytes())
    words = ("--res", "64x64", "--frames", 24, "--fps", float(given.rate), "--anchor", f"clip.y4m@{at}")
    assert sora("generate", "a cat", *words, "-o", "a.y4m") == 0
    format, frames = tiny.read("a.y4m")
    with media.open_source("clip.y4m", rgb=True) as source:
        raw = list(media.from_rgb(media.to_rgb(source, source.format, format.size), format.size, format))
    assert len(raw) == 8 and frames[first : first + 8] == raw and len(frames) == 24


def test_a_given_clip_of_a_lower_rate_is_interpolated(sora: Sora) -> None:
    with media.open_sink("clip.y4m", media.Format(64, 64, Fraction(16), "444")) as sink:
        for grey in range(40, 80, 5):
            sink.write(bytes([grey]) * 64 * 64 + bytes([128]) * 2 * 64 * 64)
    words = ("--res", "64x64", "--frames", 24, "--fps", 32, "--anchor", "clip.y4m@0")
    assert sora("generate", "a cat", *words, "-o", "a.y4m") == 0
    light = [np.frombuffer(frame[: 64 * 64], np.uint8).mean() for frame in tiny.read("a.y4m")[1][:15]]
    assert min(np.diff(light)) > 1


def test_what_was_begun_goes_on_and_plans_say_the_rate(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("generate", "a cat", "--res", "64x64", "--seconds", 1, "--fps", 24)
    assert sora(*words, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rate"]["made"] == 16
    assert sora(*words, "-o", "a.y4m") == 0 and sora(*words, "-o", "b.y4m") == 0
    assert Path("a.y4m").read_bytes() == Path("b.y4m").read_bytes()
    capsys.readouterr()
    assert sora(*words, "-o", "a.y4m", "--resume") == 0
    assert "already done" in capsys.readouterr().err


def test_plans_count_the_frames_that_are_shown_and_made(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the same video, a higher rate takes the interpolation, memory for it and more of the encoder's time; a lower
    one less of that; and neither calls for a rate that the model was not trained for."""
    words = ("generate", "a cat", "--res", "64x64", "--seconds", 1, "--dry-run")

    def cost(fps: float, *more: object) -> dict[str, Any]:
        assert sora(*words, "--fps", fps, "--json", *more) == 0
        said = capsys.readouterr()
        assert "frame rate" not in said.err
        return json.loads(said.out)

    plain, fast, slow = cost(16), cost(48), cost(8)
    assert {one["latents"] for one in (plain, fast, slow)} == {5} and "interpolation" not in plain["seconds"]
    assert fast["seconds"]["encoder"] == pytest.approx(3 * plain["seconds"]["encoder"])
    assert fast["disk"]["video"] == pytest.approx(3 * plain["disk"]["video"])
    assert slow["disk"]["video"] == pytest.approx(plain["disk"]["video"] / 2)
    assert "interpolation" not in slow["seconds"] and slow["peak"] == plain["peak"]
    shot = Shot("a cat", width=64, height=64, frames=16, fps=16, steps=1)
    run = Engine(registry.entry("pocket"), "cpu").start(shot)
    width, height = (2 * side for side in run.source_size)  # zoom, as shipped
    assert fast["seconds"]["interpolation"] == pytest.approx(INTERPOLATE * 48 * width * height)
    assert fast["peak"] - plain["peak"] == pytest.approx(INTERPOLATED * width * height)
    Image.new("RGB", (64, 64)).save("a.png")  # with given pictures, frames are interpolated in their size
    given = cost(48, "--image", "a.png")
    assert given["seconds"]["interpolation"] == pytest.approx(INTERPOLATE * 48 * 64 * 64)


@pytest.mark.parametrize("model", ["wan2.1-1.3b", "wan2.2-5b", "skyreels2-1.3b", "wan2.2-a14b", "pocket"])
@pytest.mark.parametrize("fps", [60, 59.94, 25, 12, 120])
def test_another_rate_alone_asks_for_no_more_than_a_model_makes(model: str, fps: float) -> None:
    """81 frames at 16 a second fill a window of Wan 2.1, and the 82nd would take another."""
    entry, shot = registry.entry(model), models.default_shot(registry.entry(model))
    shown = replace(shot, fps=fps, frames=models.frames_at(fps, shot, entry.usage))
    assert abs(shown.seconds - shot.seconds) <= 0.1
    usual, windows = (len(plan(one, entry).windows) for one in (shot, made(shown, entry)))
    assert windows <= usual or model == "pocket"
    if model == "pocket":  # which makes any rate up to 30
        assert shown.seconds == pytest.approx(5, abs=0.5 / fps)


def test_loops(sora: Sora) -> None:
    assert sora("loop", "a cat", "--seconds", 1, "--res", "64x64", "--fps", 24, "--times", 2, "-o", "a.y4m") == 0
    format, frames = tiny.read("a.y4m")
    assert (format.fps, len(frames)) == (24, 48) and frames[:24] == frames[24:] and record("a.json")["times"] == 2


@pytest.mark.parametrize(("fps", "frames"), [(60, 60), (12, 12)])
def test_a_given_video_and_what_is_made_of_it(sora: Sora, fps: int, frames: int) -> None:
    """All of it is shown at the rate that is asked: what is given is a half, and its sound stays where it was."""
    clap("in.mp4", "-t", "0.5")
    words = ("--fps", fps, "-o", "out.mp4")
    assert sora("extend", "in.mp4", "a cat", "--before", 0.5, *words) == 0
    found, told = media.probe("out.mp4"), record("out.json")
    assert (found.fps, found.frames, told["given"]) == (fps, frames, [frames // 2, frames])
    assert onsets(heard("out.mp4")) == pytest.approx([0.75], abs=1 / 12)
    assert sora("loop", "in.mp4", "--seconds", 0.25, *words, "--force") == 0
    assert media.probe("out.mp4").fps == fps
    assert sora("reverse", "in.mp4", "--seconds", 0.5, *words, "--force") == 0
    assert media.probe("out.mp4").frames == frames
