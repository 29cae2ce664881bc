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
        ("1600x100", "at most 8 times the shorter"),
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


# ---- addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "frame"),
    [("0", 0), ("60", 60), ("119", 119), ("-1", 119), ("-120", 0), ("+7", 7), (" 60 ", 60),
     ("0s", 0), ("2.5s", 60), ("2s", 48), (".5s", 12), ("1.s", 24), ("-0.5s", 108), ("-5s", 0)],
)
def test_addresses(text: str, frame: int) -> None:
    assert geometry.parse_address(text, fps=24, frames=120) == frame


@pytest.mark.parametrize("text", ["120", "-121", "5s", "-5.1s", "-0", "99s"])
def test_addresses_outside(text: str) -> None:
    with pytest.raises(SoraError, match=r"from 0 to 119, seconds from 0s to 4\.95s, or -1 to -120"):
        geometry.parse_address(text, fps=24, frames=120)


@pytest.mark.parametrize("text", ["", "s", "2.5", "two", "1m", "--1", "1e3", "nan", "-", "2,5s"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(SoraError, match="is not a time"):
        geometry.parse_address(text, fps=24, frames=120)


@pytest.mark.parametrize(
    ("frame", "latent", "key"),
    [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 1, 4), (4, 1, 4), (6, 1, 4), (7, 2, 8), (119, 30, 120)],
)
def test_snap(frame: int, latent: int, key: int) -> None:
    assert geometry.snap(frame) == (latent, key)


ADDRESSES = st.text(max_size=12) | st.from_regex(r"[+-]?[0-9]{0,20}\.?[0-9]{0,20}s?")


@given(ADDRESSES, st.floats(1, 120), st.integers(1, 400))
def test_any_address_is_a_frame_or_refused(text: str, fps: float, frames: int) -> None:
    try:
        assert 0 <= geometry.parse_address(text, fps, frames) < frames
    except SoraError as error:
        assert len(str(error)) < 300


# ---- spans ------------------------------------------------------------------------------------------------


@given(st.integers(-20, 60), st.integers(1, 40))
def test_key_frames_are_those_inside(start: int, frames: int) -> None:
    first, count = geometry.key_frames(start, frames)
    inside = [frame for frame in range(start, start + frames) if frame % 4 == 0]
    assert [4 * n for n in range(first, first + count)] == inside


@given(st.integers(0, 16), st.integers(1, 60), st.integers(0, 16))
def test_a_span_has_latents_for_all_of_it(lead: int, frames: int, trail: int) -> None:
    latents = geometry.Span(lead, frames, trail).latents
    assert geometry.frames_in(latents - 1) < lead + frames + trail <= geometry.frames_in(latents)


@given(st.lists(st.integers(0, 400), max_size=6), st.lists(st.integers(0, 400), max_size=6))
def test_no_other_lead_is_nearer(stills: list[int], clips: list[int]) -> None:
    def away(lead: int) -> tuple[int, int]:
        """Frames from the single ones to key frames, and of clips up to their first key frame."""
        ahead = [(frame + lead) % 4 for frame in stills]
        return sum(min(n, 4 - n) for n in ahead), sum(-(frame + lead) % 4 for frame in clips)

    found = geometry.span_for(1, [*((at, 1) for at in stills), *((at, 5) for at in clips)]).lead
    assert 0 <= found < 4 and away(found) == min(map(away, range(4)))
    if len(stills) == 1 or (not stills and len(clips) == 1):
        assert ([*stills, *clips][0] + found) % 4 == 0


@pytest.mark.parametrize(
    ("asked", "stride", "native", "made", "kept"),
    [
        ((1280, 720), 16, (1280, 704), (1280, 704), (1252, 704)),  # as near to the native size as the aspect allows
        ((720, 1280), 16, (1280, 704), (704, 1280), (704, 1252)),
        ((832, 480), 8, (832, 480), (832, 480), (832, 480)),
        ((480, 270), 16, (1280, 704), (480, 288), (480, 270)),  # smaller than native: as asked, on whole tokens
        ((1920, 1080), 8, (832, 480), (832, 480), (832, 468)),
        ((16, 16), 16, (1280, 704), (32, 32), (32, 32)),
    ],
)
def test_a_canvas_within_the_native_size(asked, stride, native, made, kept) -> None:
    canvas = geometry.canvas_within(*asked, stride, native[0] * native[1])
    assert (canvas.width, canvas.height) == made
    assert (canvas.crop_width, canvas.crop_height) == kept


def test_runs_are_cut_where_a_number_is_missing() -> None:
    assert geometry.runs((0, 1, 5, 6, 9)) == [[0, 1], [5, 6], [9]] and geometry.runs([]) == []
