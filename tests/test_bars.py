"""Black bars: found where they are, not found in dark pictures, and kept out of what the model sees."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny
from typer.testing import CliRunner

from sora_cli.cli import app
from sora_cli.media.bars import Bars

H, W = 120, 160


def clip(bars: Bars, count: int = 6, noise: int = 8) -> list[np.ndarray]:
    """Pictures that move, with bars around them, and the noise that compression leaves."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        picture = rng.integers(60, 220, (H, W, 3), np.uint8)
        picture[: bars.top], picture[H - bars.bottom :] = 0, 0
        picture[:, : bars.left], picture[:, W - bars.right :] = 0, 0
        found.append(np.minimum(picture + rng.integers(0, noise, picture.shape, np.uint8), 255).astype(np.uint8))
    return found


@pytest.mark.parametrize(
    "bars",
    [Bars(), Bars(16, 16), Bars(0, 0, 20, 20), Bars(top=12), Bars(bottom=30), Bars(10, 14, 20, 8), Bars(left=40)],
)
def test_bars_on_any_side_are_found(bars: Bars) -> None:
    pictures = clip(bars)
    assert Bars.around(pictures) == bars and bool(bars) == any(bars)
    inside = bars.inside(pictures[0])
    assert inside.shape[1::-1] == bars.within((W, H)) and bars.put_back(inside).shape == (H, W, 3)
    assert np.array_equal(bars.inside(bars.put_back(inside)), inside)


def night() -> np.ndarray:
    """A sky that grows dark upwards, without an edge."""
    return np.broadcast_to(np.linspace(0, 160, H)[:, None, None], (H, W, 3)).astype(np.uint8)


def spotlight() -> np.ndarray:
    """A soft light in the middle of the dark."""
    y, x = np.mgrid[:H, :W]
    light = 200 * np.exp(-((y - H / 2) ** 2 + (x - W / 2) ** 2) / 400)
    return np.repeat(light[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize("picture", [np.zeros((H, W, 3), np.uint8), night(), spotlight()])
def test_dark_pictures_have_no_bars(picture: np.ndarray) -> None:
    assert not Bars.around([picture] * 3)


def test_what_is_black_for_a_moment_is_no_bar() -> None:
    assert not Bars.around([*clip(Bars(16, 16)), *clip(Bars())]) and not Bars.around([])


@pytest.mark.parametrize("bars", [Bars(16, 16), Bars(0, 0, 12, 12), Bars(bottom=20)])
@pytest.mark.parametrize("verb", ["extend", "reverse", "loop"])
def test_new_frames_have_the_bars_of_the_given_ones(verb: str, bars: Bars, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    ones = clip(bars, count=9)
    format = tiny.y4m_format(W, H, chroma="444")
    from sora_cli import media

    tiny.write("in.y4m", format, list(media.from_rgb(ones, (W, H), format)))
    words = {"extend": ["--after", "0.4"], "reverse": ["--seconds", "0.4"], "loop": ["--seconds", "0.4"]}[verb]
    told = CliRunner().invoke(app, [verb, "in.y4m", "a cat", *words, *tiny.QUICK, "-o", "out.y4m"])
    assert told.exit_code == 0, told.output
    made, raw = tiny.read("out.y4m")
    shown = list(media.to_rgb(raw, made, made.size))
    fresh = shown[: len(shown) - 9] if verb == "reverse" else shown[9:]
    assert len(fresh) >= 7 and "black bars are left as they are" in told.stderr
    for picture in fresh:
        gone = picture.copy()
        gone[bars.top : H - bars.bottom, bars.left : W - bars.right] = 0
        assert gone.max() <= 3 and bars.inside(picture).mean() > 20


def moving(width: int, step: int) -> list[np.ndarray]:
    """A picture that moves before black, as high as the others' bars leave."""
    found = [np.zeros((H, W, 3), np.uint8) for _ in range(12)]
    for n, picture in enumerate(found):
        picture[30:80, 10 + step * n : 10 + step * n + width] = 180
    return found


@pytest.mark.parametrize(("width", "step"), [(30, 3), (60, 5), (70, 2)])
def test_what_moves_before_black_leaves_no_bars(width: int, step: int) -> None:
    pictures = moving(width, step)
    assert not Bars.around(pictures) and not Bars.around([picture.transpose(1, 0, 2) for picture in pictures])


PADS = {"above and below": "320:192:0:32", "on the left": "320:192:80:0", "around": "320:192:40:40", "none": ""}


@pytest.mark.parametrize("where", PADS)
def test_a_dataset_has_no_bars(where: str, tmp_path: Path) -> None:
    """Frames of a sample are those of the same clip without bars."""
    from test_data import H264, make

    from sora_cli.dataset import build, scan

    size = {"above and below": "320x128", "on the left": "240x192", "around": "240x112", "none": "320x192"}[where]
    plain = f"testsrc2=s={size}:r=24:d=1"
    make(tmp_path / "plain.mp4", *H264, "-pix_fmt", "yuv420p", source=plain)
    make(tmp_path / "bars.mp4", *H264, "-pix_fmt", "yuv420p",
         source=plain + (f",pad={PADS[where]}" if PADS[where] else ""))  # fmt: skip
    found = {name: scan.examine(tmp_path, scan.outside(tmp_path, name), 30) for name in ("plain.mp4", "bars.mp4")}
    assert any(found["bars.mp4"].bars) == (where != "none") and not any(found["plain.mp4"].bars)
    assert scan.ScannedFile.read(asdict(found["bars.mp4"])) == found["bars.mp4"]
    config = build.BuildConfig(tmp_path, tmp_path / "ds")
    (one,), (other,) = (list(build.samples_of(record, "", config)) for record in found.values())
    assert one.canvas == other.canvas and one.frames == other.frames
    a, b = (sample.read(tmp_path).astype(int) for sample in (one, other))
    assert a.shape == b.shape and np.abs(a - b).mean() < 12
    row = build.sample_metadata(other)
    assert Bars(*row.get("bars", ())) == found["bars.mp4"].bars


def on_black(draw: str, moving: bool) -> list[np.ndarray]:
    """Lines, an outline, a rectangle or one with a picture in it, drawn on black; a spot may move inside."""
    found = []
    for n in range(6):
        picture = np.zeros((H, W, 3), np.uint8)
        if draw == "lines":
            picture[20:23], picture[-23:-20] = 220, 220
        else:
            picture[20:-20, 30:-30] = (200, 40, 40)
        if draw == "outline":
            picture[23:-23, 33:-33] = 0
        if draw == "picture":
            picture[20:-20, 30:-30] = np.random.default_rng(1).integers(60, 220, (H - 40, W - 60, 3))
        if moving:
            picture[50:70, 50 + 6 * n : 70 + 6 * n] = np.random.default_rng(2).integers(0, 255, (20, 20, 3))
        found.append(picture)
    return found


@pytest.mark.parametrize(("draw", "moving"), [("lines", False), ("lines", True), ("outline", False), ("outline", True),
                                              ("filled", False), ("filled", True), ("picture", False)])  # fmt: skip
def test_what_is_drawn_on_black_has_no_bars(draw: str, moving: bool) -> None:
    assert not Bars.around(on_black(draw, moving))


@pytest.mark.parametrize("bars", [Bars(16, 16), Bars(0, 0, 20, 20)])
def test_a_product_on_white_has_its_bars(bars: Bars) -> None:
    """Its border has one colour as that of a rectangle does, but its bars are as wide as the picture."""
    pictures = []
    for n in range(6):
        picture = bars.put_back(np.full((*reversed(bars.within((W, H))), 3), 250, np.uint8))
        picture[50:70, 50 + 6 * n : 70 + 6 * n] = 90
        pictures.append(picture)
    assert Bars.around(pictures) == bars
