"""GIF and WebP at a size for sharing, and pictures that come out of PNG, APNG and WebP bit for bit; against PIL."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from sora_cli import cli, media
from sora_cli.errors import SoraError

Sora = Callable[..., int]


@pytest.fixture
def sora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sora:
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return lambda verb, *words: cli.run([verb, *map(str, (*words, *(tiny.QUICK if verb != "decode" else ())))])


def pictures(name: str) -> list[np.ndarray]:
    """All pictures of a file, as PIL reads them."""
    with Image.open(name) as image:
        found = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            found.append(np.asarray(image.convert("RGB")))
        return found


def milliseconds(name: str) -> list[int]:
    with Image.open(name) as image:
        shown = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            shown.append(image.info["duration"])
        return shown


def noise(seed: int = 0, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def made(size: tuple[int, int], rate: str, aspect: str = "1:1") -> media.Format:
    return media.Format(*size, Fraction(rate), aspect=aspect)


# ---- at a size for sharing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "rate", "aspect", "shared", "fps"),
    [
        ((1280, 720), "24", "1:1", (480, 270), "12"),
        ((832, 480), "16", "1:1", (480, 276), "15"),
        ((720, 1280), "30000/1001", "1:1", (480, 854), "15000/1001"),
        ((640, 360), "24000/1001", "1:1", (480, 270), "12000/1001"),
        ((320, 181), "25", "1:1", (320, 181), "25/2"),
        ((480, 2), "60", "1:1", (480, 2), "15"),
        ((8192, 2), "10", "1:1", (480, 2), "10"),
        ((720, 576), "25", "64:45", (480, 270), "25/2"),
        ((240, 240), "15", "2:1", (480, 240), "15"),
    ],
)
def test_what_is_shared_is_small(size: tuple[int, int], rate: str, aspect: str, shared: tuple[int, int],
                                 fps: str) -> None:  # fmt: skip
    format = made(size, rate, aspect)
    for name in ("a.gif", "a.WEBP"):
        found = media.Shared.of(name, format)
        assert (found.format.size, found.format.rate) == (shared, Fraction(fps))
        assert media.Shared.of(name, format, size=True, rate=True).format == format
    for name in ("a.mp4", "a.apng", "a%03d.png", "-"):
        assert media.Shared.of(name, format).format == format


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
@pytest.mark.parametrize("count", [1, 2, 11, 12])
def test_every_second_frame_at_half_the_rate(tmp_path: Path, name: str, count: int) -> None:
    format = media.Format(64, 48, Fraction(24), "444", tags=media.RGB)
    greys = [np.full((48, 64, 3), 20 * n, np.uint8) for n in range(count)]
    shared = media.Shared.of(name, format)
    with media.open_sink(str(tmp_path / name), format, shared=shared) as sink:
        for raw in media.from_rgb(greys, (64, 48), format):
            sink.write(raw)
    found = [round(float(picture.mean())) for picture in pictures(str(tmp_path / name))]
    assert np.abs(np.subtract(found, [20 * n for n in range(0, count, 2)])).max() <= 2
    assert shared.count(count) == len(found)
    if count > 2:
        assert abs(sum(milliseconds(str(tmp_path / name))) - 1000 * len(found) / 12) <= 10


def test_one_palette_serves_the_whole_clip(tmp_path: Path) -> None:
    """GIF keeps it once, before the first frame, and no frame brings its own."""
    format = media.Format(64, 48, Fraction(12), "444", tags=media.RGB)
    with media.open_sink(str(tmp_path / "a.gif"), format) as sink:
        for raw in media.from_rgb([noise(n) for n in range(3)], (64, 48), format):
            sink.write(raw)
    data = (tmp_path / "a.gif").read_bytes()
    own = [data[at + 9] & 0x80 for at in range(len(data) - 9) if data[at] == 0x2C and data[at - 1] == 0
           and data[at + 1 : at + 9] == b"\0\0\0\0\x40\0\x30\0"]  # fmt: skip
    assert data[10] & 0x80 and own == [0, 0, 0]


def test_a_gif_of_a_prompt_is_for_sharing(sora: Sora, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("a cat surfing", "--frames", 9)
    assert sora("generate", *words, "--res", "500x300", "-o", "a.gif", "--sheet", "a.png") == 0
    assert "a.gif: for sharing, 12 frames a second instead of 24; --fps 24 keeps all" in capsys.readouterr().err
    assert [picture.shape for picture in pictures("a.gif")] == [(300, 500, 3)] * 5
    record = json.loads(Path("a.json").read_text())
    assert record["frames"] == 9 and record["written"] == {"frames": 5, "width": 500, "height": 300, "fps": 12.0}
    assert sora("decode", "a.safetensors", "-o", "b.webp", "--fps", 24, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames"], told["width"], told["height"], told["fps"]) == (9, 480, 288, 24.0)
    assert [picture.shape for picture in pictures("b.webp")] == [(288, 480, 3)] * 9
    assert sora("loop", "a.gif", "--seconds", 0.3, "-o", "c.webp") == 0
    assert len(pictures("c.webp")) == 5 + 3 and "sharing" in capsys.readouterr().err


def test_one_picture_stays_large(sora: Sora) -> None:
    assert sora("generate", "a cat", "--frames", 1, "-o", "a.webp") == 0
    (one,) = pictures("a.webp")
    assert one.shape[1] > 480


# ---- bit for bit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "mode", "name"),
    [
        ("a.png", "RGB", "x.webp"), ("a.png", "P", "x%02d.png"), ("a.png", "RGBA", "x.apng"), ("a.png", "L", "x.webp"),
        ("a.webp", "RGB", "x.webp"), ("a.bmp", "RGB", "x.apng"), ("a.tif", "RGB", "x%02d.png"),
    ],
)  # fmt: skip
def test_a_given_picture_comes_out_bit_for_bit(sora: Sora, given: str, mode: str, name: str) -> None:
    Image.fromarray(noise()).convert(mode).save(given, **({"lossless": True} if given.endswith("webp") else {}))
    words = ("--res", "64x48", "--lossless", "-o", name)
    assert sora("generate", "a cat", "--image", given, "--frames", 3, *words) == 0
    assert np.array_equal(pictures("x01.png" if "%" in name else name)[0], pictures(given)[0])
    turned = name.replace("x", "y")
    assert sora("reverse", given, "--seconds", 0.1, "--lossless", "-o", turned) == 0
    assert np.array_equal(pictures("y02.png" if "%" in name else turned)[-1], pictures(given)[0])


def test_given_clips_come_out_bit_for_bit(sora: Sora) -> None:
    """Of a verb that goes on from them: numbered pictures, an APNG of them, a GIF."""
    for number in range(1, 7):
        Image.fromarray(noise(number)).save(f"a{number}.png")
    whole = [noise(number) for number in range(1, 7)]
    Image.fromarray(whole[0]).save("a.gif", save_all=True, append_images=[Image.fromarray(one) for one in whole[1:]],
                                   duration=100)  # fmt: skip
    assert sora("extend", "a%d.png", "--after", 0.1, "-o", "b.apng") == 0
    assert sora("extend", "b.apng", "--after", 0.1, "--lossless", "-o", "c.webp") == 0
    assert sora("loop", "a.gif", "--seconds", 0.2, "--times", 2, "-o", "d%d.png") == 0
    for name in ("b.apng", "c.webp"):
        assert all(map(np.array_equal, pictures(name)[:6], whole))
    once = len(list(Path().glob("d*.png"))) // 2
    of_gif = pictures("a.gif")
    for number, picture in enumerate(of_gif, 1):
        assert np.array_equal(pictures(f"d{number}.png")[0], picture)
        assert np.array_equal(pictures(f"d{number + once}.png")[0], picture)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webm", "-"])
def test_what_cannot_be_lossless_says_so(sora: Sora, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert sora("generate", "a cat", "--lossless", "-o", name) == 2
    assert "cannot be lossless; .png, .apng and .webp can" in capsys.readouterr().err
    with pytest.raises(SoraError, match="lossless"):
        media.Shared.of(name, made((64, 48), "24"), lossless=True)
