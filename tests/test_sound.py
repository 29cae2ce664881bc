"""The sound of given videos: in step with their pictures, silent where frames are made, or named where it is lost."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from sora_cli import cli, media

Sora = Callable[..., int]
RATE = 24000                     # at which sound is listened to
# a click and a white frame at the same moment, at 0.25 s and 0.75 s of a second at 24 frames a second
FLASH = "color=black:s=64x64:r=24:d=1,drawbox=c=white:t=fill:enable='between(mod(n,12),6,6)'"
CLICK = "aevalsrc='0.9*sin(2*PI*1000*t)*between(mod(t,0.5),0.25,0.29)':s=48000:d={seconds}:c={layout}"


@pytest.fixture
def sora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sora:
    """Run one command line in an empty folder with the tiny engine; returns the exit code."""
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return lambda verb, *words: cli.run([verb, *map(str, tiny.QUICK), *map(str, words)])


def ffmpeg(*words: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([media.ffmpeg(), "-hide_banner", "-y", *map(str, words)], capture_output=True, check=True)


def clap(name: str = "clap.mp4", *words: object, layout: str = "mono", seconds: float = 1, before: tuple = ()) -> str:
    """A clip of a second that flashes and clicks twice."""
    sound = CLICK.format(seconds=seconds, layout=layout)
    codec = () if "-c:a" in words else ("-c:a", "flac" if name.endswith("mkv") else "aac")
    ffmpeg("-f", "lavfi", "-i", FLASH, *before, "-f", "lavfi", "-i", sound, "-pix_fmt", "yuv420p", *codec,
           "-strict", "-2", *words, name)  # fmt: skip
    return name


def heard(name: str) -> np.ndarray:
    """The level of a file's sound, for every millisecond of it by its time stamps; 0 is silence."""
    raw = ffmpeg("-v", "error", "-i", name, "-map", "0:a:0", "-ac", 1, "-af", f"aresample={RATE}:async=1:first_pts=0",
                 "-f", "f32le", "pipe:1").stdout  # fmt: skip
    samples = np.frombuffer(raw, np.float32)
    each = RATE // 1000
    return np.abs(samples[: len(samples) // each * each].reshape(-1, each)).max(1)


def onsets(level: np.ndarray) -> list[float]:
    """Seconds at which sound begins after silence."""
    loud = level > 0.2
    begins = [i for i in np.flatnonzero(loud) if not loud[max(0, i - 100) : i].any()]
    return [i / 1000 for i in begins]


def flashes(name: str, given: range) -> list[float]:
    """Seconds at which a given frame is white."""
    with media.open_source(name) as source:
        light = [np.frombuffer(raw, np.uint8)[: 64 * 64].mean() for raw in source]
        return [i / source.format.fps for i in given if light[i] > 150]


def streams(name: str) -> list[str]:
    told = subprocess.run([media.ffmpeg(), "-hide_banner", "-i", name], capture_output=True, text=True).stderr
    return [line.split(": ", 1)[1].strip() for line in told.splitlines() if line.strip().startswith("Stream #0")]


def together(name: str, given: range, times: list[float]) -> None:
    """Clicks lie at the flashes of given frames, within one of them, and nowhere else."""
    assert flashes(name, given) == pytest.approx(times, abs=1e-3)
    assert onsets(heard(name)) == pytest.approx(times, abs=1 / 24)


# ---- every verb -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm"])
def test_extend_keeps_sound_where_the_pictures_are(sora: Sora, suffix: str) -> None:
    clap()
    assert sora("extend", "clap.mp4", "--before", "0.5", "--after", "0.25", "-o", f"x.{suffix}") == 0
    together(f"x.{suffix}", range(12, 36), [0.75, 1.25])
    level = heard(f"x.{suffix}")
    assert level[:450].max() < 0.01 and level[1550:].max() < 0.01
    assert len(level) == pytest.approx(1750, abs=45)
    kind = "opus" if suffix == "webm" else "aac"
    assert streams(f"x.{suffix}")[1].startswith(f"Audio: {kind}")
    if suffix == "mp4":
        assert json.loads(Path("x.json").read_text())["sound"] == [[12, 36]]


def test_reverse_plays_the_given_end_forwards(sora: Sora) -> None:
    clap()
    assert sora("reverse", "clap.mp4", "--seconds", "0.5", "-o", "x.mp4") == 0
    together("x.mp4", range(12, 36), [0.75, 1.25])


def test_a_loop_has_its_sound_in_every_turn(sora: Sora) -> None:
    clap()
    assert sora("loop", "clap.mp4", "--times", "3", "--seconds", "0.3", "-o", "x.mp4") == 0
    turn = 31 / 24
    assert onsets(heard("x.mp4")) == pytest.approx([n * turn + t for n in range(3) for t in (0.25, 0.75)], abs=1 / 24)


def test_clips_on_a_timeline_are_heard_in_their_places(sora: Sora) -> None:
    clap("a.mp4")
    clap("b.mkv", layout="stereo")
    anchors = ("--anchor", "a.mp4@12", "--anchor", "b.mkv@-1")
    assert sora("generate", "a cat", *anchors, "--frames", "84", "--res", "64x64", "-o", "x.mp4") == 0
    assert onsets(heard("x.mp4")) == pytest.approx([0.75, 1.25, 2.75, 3.25], abs=1 / 24)


def test_no_audio(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    clap()
    assert sora("extend", "clap.mp4", "--after", "0.2", "--no-audio", "-o", "x.mp4") == 0
    assert len(streams("x.mp4")) == 1 and "sound" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.apng", "x.y4m", "x%03d.png"])
def test_an_output_without_sound_says_so(sora: Sora, capsys: pytest.CaptureFixture[str], name: str) -> None:
    clap()
    assert sora("extend", "clap.mp4", "--after", "0.05", "-o", name) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "sound" in line]
    assert line == f"clap.mp4: left out: sound ({Path(name).suffix} holds none)"


def test_encode_says_that_latents_hold_no_sound(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    clap()
    assert cli.run(["encode", "--device", "cpu", "clap.mp4"]) == 0
    assert "clap.mp4: left out: sound" in capsys.readouterr().err


# ---- every source -----------------------------------------------------------------------------------------


def late(name: str) -> str:
    """Sound that begins 0.2 s after the pictures, without the first click."""
    return clap(name, before=("-itsoffset", "0.2"))


SOURCES: dict[str, Callable[[], tuple[str, list[float]]]] = {
    "mono in a transport stream": lambda: (clap("a.ts", "-c:a", "mp2", "-muxdelay", "1"), [0.25, 0.75]),
    "5.1": lambda: (clap("a.mkv", "-c:a", "ac3", layout="5.1"), [0.25, 0.75]),
    "pcm": lambda: (clap("a.mov", "-c:a", "pcm_s16le", layout="stereo"), [0.25, 0.75]),
    "7.1.4": lambda: (clap("a.mov", "-c:a", "pcm_s16le", layout="7.1.4"), [0.25, 0.75]),
    "22.2": lambda: (clap("a.mkv", "-c:a", "pcm_s16le", layout="22.2"), [0.25, 0.75]),
    "11 kHz": lambda: (clap("a.mkv", "-ar", "11025"), [0.25, 0.75]),
    "longer than its pictures": lambda: (clap("a.mkv", seconds=3), [0.25, 0.75]),
    "shorter than its pictures": lambda: (clap("a.mkv", seconds=0.4), [0.25]),
    "late": lambda: (late("a.mkv"), [0.45, 0.95]),
    **{
        f"later pictures, {name[2:]}": lambda name=name, codec=codec: (
            clap(name, "-filter:v", "setpts=PTS+0.25/TB", "-c:a", codec), [0.0, 0.5])
        for name, codec in {"a.mkv": "flac", "a.mp4": "aac", "a.flv": "aac", "a.wmv": "wmav2", "a.ogv": "flac",
                            "a.nut": "mp2", "a.mpg": "mp2", "a.ts": "mp2", "a.m2ts": "ac3"}.items()
    },
    "later sound, ts": lambda: (clap("a.ts", "-c:a", "mp2", before=("-itsoffset", "0.2")), [0.45, 0.95]),
    "WMA": lambda: (clap("a.wmv", "-c:a", "wmav2"), [0.25, 0.75]),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sound_of_any_kind_is_in_step(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, times = SOURCES[kind]()
    for out in ("x.webm", "x.mp4"):
        laid(name, out)
        assert onsets(heard(out)) == pytest.approx([0.5 + time for time in times], abs=1 / 24)


def laid(name: str, out: str, stream: io.BytesIO | None = None) -> media.Soundtrack:
    """A source's frames after half a second of its first one, with its sound."""
    track = media.Soundtrack()
    with media.open_source(name, stream=stream) as source:
        frames = list(source)
        with media.open_sink(out, source.format, sound=track) as sink:
            for raw in [frames[0]] * 12 + frames:
                sink.write(raw)
            track.add(source.sound, 12, len(frames))
    return track


def test_a_pipe_brings_its_sound_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container that can be read as it comes; a short one and one that is not kept."""
    monkeypatch.chdir(tmp_path)
    data = Path(clap("a.mkv")).read_bytes()
    for heads in ((1 << 18,), (1 << 11, 1 << 14)):
        monkeypatch.setattr("sora_cli.media.sources.HEADS", heads)
        laid("-", "x.mkv", io.BytesIO(data))
        together("x.mkv", range(12, 36), [0.75, 1.25])


def test_a_pipe_into_a_pipe_says_what_is_lost(
    sora: Sora, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = Path(clap("a.mkv")).read_bytes()
    out = io.TextIOWrapper(io.BytesIO(), write_through=True)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))
    monkeypatch.setattr(sys, "stdout", out)
    assert sora("extend", "-", "--after", "0.05") == 0
    assert out.buffer.getvalue().startswith(b"YUV4MPEG2")  # type: ignore[attr-defined]
    assert "-: left out: sound (a y4m stream holds none)" in capfd.readouterr().err.replace("standard input", "-")


def test_what_else_a_file_has_is_named(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    clap()
    ffmpeg("-i", "clap.mp4", "-i", "clap.mp4", "-i", "s.srt", "-map", "0", "-map", "1:a", "-map", "2", "-c", "copy",
           "-c:s", "srt", "a.mkv")  # fmt: skip
    assert sora("extend", "a.mkv", "--after", "0.05", "-o", "x.mp4") == 0
    assert "a.mkv: left out: 1 more sound track, subtitles" in capsys.readouterr().err
    assert len(streams("x.mp4")) == 2


def test_damaged_sound_costs_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = bytearray(Path(clap("a.ts", "-c:a", "ac3", "-b:v", "20k")).read_bytes())
    packets = [at for at in range(0, len(data) - 188, 188) if (data[at + 1] & 31, data[at + 2]) == (1, 1)]
    for at in packets[3:8]:
        data[at + 60 : at + 180] = bytes(120)
    Path("b.ts").write_bytes(data)
    track = laid("b.ts", "x.mkv")
    assert "damaged" in track.notes[0] and len(streams("x.mkv")) == 2
    with media.open_source("x.mkv") as source:
        assert source.frames == 36


def test_fades_leave_no_click(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A steady tone begins and ends softly where made frames are beside it, at once where there are none."""
    monkeypatch.chdir(tmp_path)
    ffmpeg("-f", "lavfi", "-i", FLASH, "-f", "lavfi", "-i", "aevalsrc=0.8*cos(2*PI*500*t):s=48000:d=1",
           "-c:a", "flac", "-pix_fmt", "yuv420p", "a.mkv")  # fmt: skip
    format = media.Format(64, 64, Fraction(24))
    for start, total in ((6, 36), (0, 24)):
        track = media.Soundtrack()
        with media.open_source("a.mkv") as source, media.open_sink("x.mkv", format, force=True, sound=track) as sink:
            track.add(source.sound, start, 24)
            for _ in range(total):
                sink.write(bytes(format.frame_bytes))
        level = heard("x.mkv")
        if start:
            assert level[252] < 0.2 and level[260] < 0.6 < level[290] and level[1247] < 0.3
        else:
            assert level[8] > 0.6 and level[985] > 0.6
