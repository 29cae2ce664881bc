"""What verbs make of footage that is not like their own: shapes, notes, full colours."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from sora_cli import cli, media
from sora_cli.storage import latent_file

Sora = Callable[..., int]
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", "-pix_fmt", "yuv420p")


@pytest.fixture
def sora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sora:
    """Run one command line in an empty folder with the tiny engine; returns the exit code."""
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return lambda verb, *words: cli.run([verb, *map(str, tiny.QUICK), *map(str, words)])


def clip(name: str, filters: str = "null", *words: object, size: str = "96x64", frames: int = 8) -> str:
    source = f"testsrc2=s={size}:r=24,{filters}"
    codec = words or (() if name.endswith("y4m") else H264)
    command = [media.ffmpeg(), "-v", "error", "-y", "-f", "lavfi", "-i", source, "-frames:v", frames, *codec, name]
    subprocess.run(list(map(str, command)), check=True)
    return name


# ---- shapes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("aspect", "seen"), [("2/1", (192, 64)), ("1/2", (96, 128)), ("64/45", (138, 64))])
def test_the_canvas_has_the_shape_that_is_seen(sora: Sora, aspect: str, seen: media.Size) -> None:
    clip("a.mp4", f"setsar={aspect}")
    assert sora("extend", "a.mp4", "--after", "0.1", "-o", "x.mp4") == 0
    found = json.loads(Path("x.json").read_text())
    assert (found["shot"]["width"], found["shot"]["height"]) == seen
    canvas = tiny.CANVAS(*seen)
    assert any(note.startswith(f"generated at {canvas.width}x{canvas.height}") for note in found["notes"])
    with media.open_source("x.mp4") as source:
        assert source.format.size == (96, 64) and source.format.aspect == aspect.replace("/", ":")


def test_latents_are_of_square_pixels(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    clip("a.mp4", "setsar=2/1")
    assert cli.run(["encode", "--device", "cpu", "a.mp4"]) == 0
    header = latent_file.read_header(Path("a.safetensors"))
    assert (header.width, header.height) == (192, 64)
    assert "pixels are not square: 96x64 is taken as 192x64" in capsys.readouterr().err


# ---- notes ------------------------------------------------------------------------------------------------


def transparent() -> str:
    Image.new("RGBA", (64, 64), (200, 10, 10, 90)).save("a.png")
    return "a.png@0"


def bright() -> str:
    tags = "format=yuv420p10le,setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc"
    clip("a.mkv", tags, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=0")
    return "a.mkv@0"


def woven() -> str:
    return clip("a.y4m", "tinterlace=interleave_top,setfield=tff", "-pix_fmt", "yuv420p") + "@-1"


def uneven() -> str:
    return clip("a.mp4", "select='lt(n,4)+not(mod(n,3))'", *H264, "-fps_mode", "vfr") + "@4"


def damaged() -> str:
    data = bytearray(Path(clip("a.avi", "noise=alls=40:allf=t", "-c:v", "mpeg4", "-q:v", "2")).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 60] = bytes(60)
    Path("a.avi").write_bytes(data)
    return "a.avi@0"


ANCHORS = {transparent: "transparent", bright: "HDR", woven: "interlaced", uneven: "varies", damaged: "damaged"}


@pytest.mark.parametrize("make", ANCHORS)
def test_anchors_say_what_they_suffer(sora: Sora, capsys: pytest.CaptureFixture[str], make: Callable[[], str]) -> None:
    anchor = make()
    words = ("--anchor", anchor, "--frames", 40, "--res", "64x64", "-o", "x.mp4")
    assert sora("generate", "a cat", *words) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{anchor.split('@')[0]}: ")]
    assert ANCHORS[make] in line


def test_a_damaged_video_is_extended_with_a_note(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    damaged()
    assert sora("extend", "a.avi", "--after", "0.1", "-o", "x.mp4") == 0
    assert "a.avi: it is damaged" in capsys.readouterr().err


# ---- full colours -----------------------------------------------------------------------------------------


def card() -> np.ndarray:
    """Single pixels of strong colours, of which 4:2:0 makes mud."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
    return colours[np.indices((64, 64)).sum(0) % 4]


@pytest.mark.parametrize("name", ["x%05d.png", "x.apng", "x.y4m"])
def test_a_given_picture_keeps_its_colours(sora: Sora, name: str) -> None:
    Image.fromarray(card()).save("a.png")
    assert sora("generate", "a cat", "--image", "a.png", "--frames", 3, "--res", "64x64", "-o", name) == 0
    with media.open_source(name) as source:
        first = next(iter(media.to_rgb(source, source.format, (64, 64))))
    assert np.abs(first.astype(int) - card()).mean() < 3
