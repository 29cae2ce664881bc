"""What verbs make of footage that is not like their own: shapes, notes, full colours."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from sora_cli import cli, media
from sora_cli.media.y4m import depth_of
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


def ffmpeg(*words: object) -> None:
    subprocess.run([media.ffmpeg(), "-v", "error", "-y", *map(str, words)], check=True)


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


# ---- more than 8 bits -------------------------------------------------------------------------------------


def deep(name: str, pix_fmt: str, *words: str) -> str:
    """A clip, or a picture, whose samples have more than 8 bits and use the lowest of them."""
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=24", "-vf", f"format=gbrp16,noise=alls=30,format={pix_fmt}",
           "-frames:v", "2" if words else "1", *words, name)  # fmt: skip
    return name


def deepest(name: str) -> np.ndarray:
    """The first frame in 16 bits."""
    command = [media.ffmpeg(), "-v", "error", "-i", name, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb48le"]
    command.append("pipe:1")
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, "<u2")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "grey.png"])
@pytest.mark.parametrize("out", ["x%05d.png", "x.apng"])
def test_16_bits_stay_as_they_are(sora: Sora, capsys: pytest.CaptureFixture[str], name: str, out: str) -> None:
    deep(name, "gray16be" if "grey" in name else "rgb48be")
    assert sora("extend", name, "a cat", "--after", "0.1", "-o", out) == 0
    assert "bits" not in capsys.readouterr().err
    first = deepest(out.replace("%05d", "00001"))
    assert np.array_equal(first, deepest(name)) and len(np.unique(first % 257)) > 1


REDUCED = {
    "x.mp4": ("extend", "a.png", "x.mp4: 8 bits per colour instead of 16"),
    "x.webp": ("extend", "a.png", "x.webp: 8 bits per colour instead of 16"),
    "x.mov": ("extend", "a.mkv", "x.mov: 8 bits per colour instead of 10"),
    "x%05d.png": ("generate", "a.png", "a.png: its 16 bits per colour are reduced to 8"),
    "y%05d.png": ("extend", "alpha.png", "alpha.png: its 16 bits per colour are reduced to 8"),
}


@pytest.mark.parametrize("out", REDUCED)
def test_what_has_fewer_bits_says_so(sora: Sora, capsys: pytest.CaptureFixture[str], out: str) -> None:
    verb, name, line = REDUCED[out]
    pix_fmt = {"a.png": "rgb48be", "a.mkv": "yuv420p10le", "alpha.png": "rgba64be"}[name]
    deep(name, pix_fmt, *["-c:v", "ffv1"][: 2 * name.endswith(".mkv")])
    extending = [name, "a cat", "--after", "0.1"]
    making = ["a cat", "--image", name, "--frames", 3, "--res", "64x64"]
    assert sora(verb, *(extending if verb == "extend" else making), "-o", out) == 0
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv420p", 8), ("yuv420p10le", 10), ("p010le", 10), ("rgb48be", 16),
    ("rgba64le", 16), ("gray12le", 12), ("rgb565le", 8), ("x2rgb10le", 10), ("grayf32le", 32)])  # fmt: skip
def test_bits_by_the_name_of_pixels(pix_fmt: str, bits: int) -> None:
    assert depth_of(pix_fmt) == bits


# ---- what else comes along --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["timecode", "attachments", "chapters", "a cover"])
def test_what_lies_beside_pictures_is_named(sora: Sora, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x64:r=24:d=0.5"]
    Path("f.ttf").write_bytes(b"\0\1\0\0" + bytes(300))
    Path("c.txt").write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=300\ntitle=one\n")
    Image.new("RGB", (64, 64), "red").save("c.png")
    words, name = {
        "timecode": (["-timecode", "01:00:00:00"], "a.mov"),
        "attachments": (["-attach", "f.ttf", "-metadata:s:t", "mimetype=application/x-truetype-font"], "a.mkv"),
        "chapters": (["-i", "c.txt", "-map_metadata", "1"], "a.mp4"),
        "a cover": (["-i", "c.png", "-map", "0", "-map", "1", "-disposition:v:1", "attached_pic"], "a.mp4"),
    }[kind]
    ffmpeg(*source, *words, "-c:v:0", "libx264", *["-c:v:1", "png"][: 2 * ("cover" in kind)], name)
    assert sora("extend", name, "a cat", "--after", "0.1", "-o", "x.mp4") == 0
    assert re.search(rf"{name}: left out: .*{kind}", capsys.readouterr().err)
