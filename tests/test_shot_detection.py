"""What is worth looking at: small subjects on plain backgrounds, and where shots begin."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_data import H264, make

from sora_cli.dataset import scan, shot_detection

PLAIN = "color={colour}:s=320x192:r=24:d=1"
CARD = "testsrc2=s=70x70:r=24:d=1"
CLIPS = {
    "a product on white": (f"{PLAIN.format(colour='white')}[a];{CARD}[b];[a][b]overlay=20+120*t:50", ""),
    "a face in the dark": (f"{PLAIN.format(colour='black')}[a];{CARD}[b];[a][b]overlay=20+120*t:50", ""),
    "a dot on grey": (f"{PLAIN.format(colour='gray')},drawbox=x='40':y=60:w=12:h=12:color=white:t=fill,"
                      "scroll=h=0.02", ""),
    "red on green as light": (f"{PLAIN.format(colour='0x009600')},format=gbrp,drawbox=x=100:y=60:w=60:h=60:"
                              "color=0xff2200:t=fill,scroll=h=0.02", ""),
    "black": (PLAIN.format(colour="black"), "black"),
    "a sensor in the dark": (f"{PLAIN.format(colour='black')},noise=alls=12:allf=t+u", "black"),
    "white": (PLAIN.format(colour="white"), "of one colour"),
    "noise on grey": (f"{PLAIN.format(colour='gray')},noise=alls=20:allf=t+u", "of one colour"),
    "noise on white": (f"{PLAIN.format(colour='0xe0e0e0')},noise=alls=10:allf=t", "of one colour"),
}  # fmt: skip


@pytest.mark.parametrize("what", CLIPS)
def test_clips_with_and_without_anything_to_see(tmp_path: Path, what: str) -> None:
    source, reason = CLIPS[what]
    make(tmp_path / "a.mp4", *H264, "-pix_fmt", "yuv420p", source=source)
    found = scan.examine(tmp_path, scan.outside(tmp_path, "a.mp4"), 30)
    assert found.reason == reason and len(found.takes) == 1


def drawn(draw: Callable[[ImageDraw.ImageDraw], object], ground: str) -> Image.Image:
    image = Image.new("RGB", (1200, 800), ground)
    draw(ImageDraw.Draw(image))
    return image


def noise(mean: int, spread: float) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).normal(mean, spread, (400, 600, 3)).clip(0, 255).astype(np.uint8))


PICTURES = {
    "a line drawing": (drawn(lambda pen: pen.ellipse((500, 300, 700, 500), outline="black", width=6), "white"), ""),
    "stars": (drawn(lambda pen: [pen.ellipse((x, x * 7 % 790, x + 6, x * 7 % 790 + 6), fill="white")
                                 for x in range(20, 1180, 37)], "black"), ""),
    "a word": (drawn(lambda pen: pen.text((300, 300), "sora", fill="gray", font_size=90), "white"), ""),
    "a soft gradient": (Image.linear_gradient("L").resize((300, 200)), ""),
    "white": (drawn(lambda pen: None, "white"), "of one colour"),
    "grain on grey": (noise(120, 12), "of one colour"),
    "a lens cap": (noise(6, 4), "black"),
}  # fmt: skip


@pytest.mark.parametrize("what", PICTURES)
def test_pictures_with_and_without_anything_to_see(tmp_path: Path, what: str) -> None:
    picture, reason = PICTURES[what]
    picture.save(tmp_path / "a.png")
    assert scan.examine(tmp_path, scan.outside(tmp_path, "a.png"), 30).reason == reason


# -- Shots --------------------------------------------------------------------------------------------------

TWO = "testsrc2=s=320x192:r=24:d=1[a];mandelbrot=s=320x192:r=24,trim=duration=1[b];"
SHOTS = {
    "a cut": (TWO + "[a][b]concat=n=2:v=1", [(0, 24), (24, 24)]),
    "through black": (TWO + "[a]fade=out:18:6[c];[b]fade=in:0:6[d];[c][d]concat=n=2:v=1", None),
    "through white": (TWO + "[a]fade=out:18:6:color=white,tpad=stop=6:color=white[c];[b]fade=in:0:6:color=white[d];"
                            "[c][d]concat=n=2:v=1", None),
    "a flash": (TWO.partition(";")[0].removesuffix("[a]") + ",drawbox=enable='eq(n,12)':color=white:t=fill", [(0, 24)]),
    "two frames of black": (TWO.partition(";")[0].removesuffix("[a]")
                            + ",drawbox=enable='between(n,12,13)':color=black:t=fill", [(0, 24)]),
}  # fmt: skip


@pytest.mark.parametrize("what", SHOTS)
def test_shots_begin_where_they_should(tmp_path: Path, what: str) -> None:
    source, due = SHOTS[what]
    make(tmp_path / "a.mp4", *H264, "-pix_fmt", "yuv420p", source=source)
    seen = shot_detection.measure_frames(tmp_path / "a.mp4", 24)
    found = shot_detection.shots(seen)
    assert sum(frames for _, frames in found) == seen.frames and found[0][0] == 0
    if due:
        assert found == due
    else:
        first, bare, second = found
        assert seen.nothing(slice(bare[0], second[0])) and min(first[1], second[1]) > 18


@pytest.mark.parametrize("length", [8, 12, 24, 36])
def test_a_dissolve_belongs_to_no_shot(tmp_path: Path, length: int) -> None:
    """ffmpeg's xfade from the 30th frame on."""
    source = ("testsrc2=s=320x192:r=24:d=3[a];mandelbrot=s=320x192:r=24,trim=duration=3,format=yuv420p[b];"
              f"[a][b]xfade=transition=fade:duration={length / 24}:offset=1.25")  # fmt: skip
    make(tmp_path / "a.mp4", *H264, "-pix_fmt", "yuv420p", source=source)
    seen = shot_detection.measure_frames(tmp_path / "a.mp4", 24)
    found = shot_detection.shots(seen)
    bare = [(first, first + count) for first, count in found if seen.nothing(slice(first, first + count))]
    assert len(bare) == 1 and abs(bare[0][0] - 30) <= 3 and abs(bare[0][1] - 30 - length) <= 3
    record = scan.examine(tmp_path, scan.outside(tmp_path, "a.mp4"), 30)
    assert [shot.reason for shot in record.takes] == ["", "a dissolve", ""]


@pytest.mark.parametrize("what", ["scroll=h=0.05", "zoompan=z='1+on/90':d=1:s=320x192:fps=24",
                                  "eq=brightness='0.3*sin(t*3)':eval=frame", "rotate=t/2"])  # fmt: skip
def test_what_moves_or_is_lit_otherwise_is_no_dissolve(tmp_path: Path, what: str) -> None:
    source = f"testsrc2=s=320x192:r=24:d=2,{what}"
    make(tmp_path / "a.mp4", *H264, "-pix_fmt", "yuv420p", source=source)
    assert shot_detection.measure_frames(tmp_path / "a.mp4", 24).dissolves == []
