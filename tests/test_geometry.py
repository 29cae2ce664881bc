"""Sizes: exact division, the canvas of every aspect, frames and latents against a table written by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_cli import geometry
from sora_cli.errors import SoraError


@pytest.mark.parametrize(
    ("frames", "latents"),
    [(1, 1), (2, 2), (5, 2), (6, 3), (9, 3), (17, 5), (120, 31), (480, 121), (481, 121), (482, 122)],
)
def test_latents_cover_the_frames(frames: int, latents: int) -> None:
    assert geometry.latents_for(frames) == latents
    assert geometry.frames_in(latents) - 4 < frames <= geometry.frames_in(latents)


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"), [(20, 24, 480), (1, 23.976, 24), (2.5, 30, 75), (0.04, 24, 1)]
)
def test_frames_are_rounded_seconds(seconds: float, fps: float, frames: int) -> None:
    assert geometry.frames_for(seconds, fps) == frames


def test_less_than_a_frame_is_refused() -> None:
    with pytest.raises(SoraError, match="less than one frame"):
        geometry.frames_for(0.001, 24)


def test_what_does_not_divide_names_its_neighbours() -> None:
    assert geometry.divide(640, 64) == 10
    with pytest.raises(SoraError, match="640 and 704"):
        geometry.divide(650, 64, "width")


@pytest.mark.parametrize("text", ["1280x720", " 1280X720 ", "1280×720"])
def test_resolutions_are_read(text: str) -> None:
    assert geometry.parse_res(text) == (1280, 720)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1280", "WIDTHxHEIGHT"),
        ("axb", "WIDTHxHEIGHT"),
        ("-2x2", "WIDTHxHEIGHT"),
        ("0x0", "out of range"),
        ("99999x100", "out of range"),
        ("321x193", "nearest is 322x194"),
        ("1600x100", "8 to 1"),
    ],
)
def test_bad_resolutions_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(SoraError, match=complaint):
        geometry.parse_res(text)


@pytest.mark.parametrize(
    ("size", "canvas"),
    [
        ((1280, 720), (320, 192, 320, 180)),
        ((720, 1280), (192, 320, 180, 320)),
        ((512, 512), (256, 256, 256, 256)),
        ((320, 192), (320, 192, 320, 192)),
        ((1680, 720), (384, 160, 373, 160)),
    ],
)
def test_canvas_of_common_sizes(size: tuple[int, int], canvas: tuple[int, int, int, int]) -> None:
    assert geometry.canvas(*size) == geometry.Canvas(*canvas)


@given(st.integers(8, 4096).map(lambda n: 2 * n), st.floats(1 / 8, 8))
def test_canvas_of_any_size(width: int, aspect: float) -> None:
    height = max(2, 2 * round(width / aspect / 2))
    made = geometry.canvas(width, height)
    tokens = geometry.divide(made.width, 32) * geometry.divide(made.height, 32)
    assert 30 <= tokens <= 120
    assert made.crop_width <= made.width and made.crop_height <= made.height
    assert made.waste < 0.35
    crop_aspect = made.crop_width / made.crop_height
    assert abs(math.log(crop_aspect * height / width)) <= 1 / min(made.crop_width, made.crop_height)
    assert abs(made.width - made.crop_width - 2 * made.left) <= 1
    assert abs(made.height - made.crop_height - 2 * made.top) <= 1
