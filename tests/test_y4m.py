"""The y4m header and its frames, against ffmpeg's own streams and against anything at all."""

import io
import subprocess
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sora_cli import media
from sora_cli.errors import Failed, SoraError
from sora_cli.media import y4m
from sora_cli.media.y4m import Format


def made(pix_fmt: str, size: str = "7x5", count: int = 2) -> bytes:
    """ffmpeg's own y4m stream of a test picture."""
    source = ["-f", "lavfi", "-i", f"testsrc=s={size}:r=30000/1001", "-frames:v", str(count), "-pix_fmt", pix_fmt]
    command = [media.ffmpeg(), "-v", "error", *source, "-strict", "-1", "-f", "yuv4mpegpipe", "pipe:1"]
    return subprocess.run(command, capture_output=True, check=True).stdout


PIX_FMTS = ("yuv420p", "yuvj420p", "yuv411p", "yuv422p", "yuv444p", "yuva444p", "gray", "gray16le", "yuv420p10le")


@pytest.mark.parametrize("pix_fmt", [*PIX_FMTS, "yuv444p12le"])
def test_ffmpegs_streams_are_taken_apart_and_put_together(pix_fmt: str) -> None:
    """Odd sizes, so that a wrong rounding of chroma shows as a stream that does not end with a frame."""
    data = made(pix_fmt)
    stream = io.BytesIO(data)
    format = y4m.read_format(stream)
    assert (format.size, format.rate) == ((7, 5), Fraction(30000, 1001))
    assert format.pix_fmt == pix_fmt.replace("yuvj", "yuv")
    assert format.full_range == (pix_fmt in ("yuvj420p", "gray", "gray16le"))
    frames = list(y4m.read_frames(stream, format, "it"))
    assert len(frames) == 2 and b"".join(y4m.stream(frames, format)) == data


def test_what_a_header_says() -> None:
    format = Format.parse(b"YUV4MPEG2 W64 H48 F25:1 It A4:3 C422 XCOLORRANGE=FULL XCOLORMATRIX=smpte170m Zwhat\n")
    assert (format.interlace, format.pixel_aspect, format.matrix) == ("t", Fraction(4, 3), "smpte170m")
    assert format.header() == b"YUV4MPEG2 W64 H48 F25:1 It A4:3 C422 XCOLORRANGE=FULL XCOLORMATRIX=smpte170m\n"
    assert Format.parse(b"YUV4MPEG2 W64 H48 F25:1").chroma == "420jpeg"
    assert Format(8, 8, Fraction(24), tags=("COLORMATRIX=x,movie=/etc/passwd",)).matrix == "bt709"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b"RIFF W2 H2 F24:1", "YUV4MPEG2"),
        (b"YUV4MPEG2 H2 F24:1", "W is missing"),
        (b"YUV4MPEG2 W-2 H2 F24:1", "W is '-2'"),
        (b"YUV4MPEG2 W0 H2 F24:1", "0x2"),
        (b"YUV4MPEG2 W8193 H2 F24:1", "8193x2"),
        (b"YUV4MPEG2 W" + b"9" * 900 + b" H2 F24:1", "W is '999"),
        (b"YUV4MPEG2 W2 H2", "F is missing"),
        (b"YUV4MPEG2 W2 H2 F0:0", "frame rate 0 is"),
        (b"YUV4MPEG2 W2 H2 F241:1", "frame rate 241 is"),
        (b"YUV4MPEG2 W2 H2 F24:1 C420p11", "420p11"),
        (b"YUV4MPEG2 W2 H2 F24:1 Azwei", "A is"),
        ("YUV4MPEG2 W٢ H2 F24:1".encode(), "W is"),
    ],
)
def test_false_headers_are_one_line(line: bytes, wrong: str) -> None:
    with pytest.raises(SoraError, match=wrong) as caught:
        Format.parse(line)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


WORDS = st.one_of(
    st.binary(max_size=12),
    st.builds(lambda letter, n: f"{letter}{n}".encode(), st.sampled_from("WHFIACX"), st.integers(-9, 10**12)),
    st.builds(lambda letter, a, b: f"{letter}{a}:{b}".encode(), st.sampled_from("FA"), st.integers(), st.integers()),
    st.sampled_from([b"W16", b"H16", b"F24:1", b"C444", b"C420jpeg", b"Ip", b"XYSCSS=444"]),
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=99), st.lists(WORDS, max_size=9).map(lambda w: b" ".join([b"YUV4MPEG2", *w]))))
def test_any_header_is_read_or_refused(line: bytes) -> None:
    try:
        format = y4m.read_format(io.BytesIO(line))
    except SoraError:
        return
    assert 0 < format.frame_bytes <= 8192 * 8192 * 8
    assert Format.parse(format.header()) == format


def test_frame_parameters_are_passed_over() -> None:
    format = Format(2, 2, Fraction(24), "mono")
    stream = io.BytesIO(b"FRAME Ip Xhello\nabcdFRAME\nefgh")
    assert list(y4m.read_frames(stream, format, "it")) == [b"abcd", b"efgh"]


@pytest.mark.parametrize("rest", [b"FRA", b"FRAME", b"FRAME\n", b"FRAME\nefg"])
def test_an_end_inside_of_a_frame_names_it(rest: bytes) -> None:
    frames = y4m.read_frames(io.BytesIO(b"FRAME\nabcd" + rest), Format(2, 2, Fraction(24), "mono"), "it")
    assert next(frames) == b"abcd"
    with pytest.raises(Failed, match="it is cut off: it ends in the middle of frame 1"):
        next(frames)


def test_garbage_between_frames_is_named() -> None:
    frames = y4m.read_frames(io.BytesIO(b"FRAMES\n" * 999), Format(2, 2, Fraction(24), "mono"), "it")
    with pytest.raises(Failed, match="frame 0 does not begin with FRAME"):
        next(frames)


def test_a_header_without_end_is_not_read_to_it() -> None:
    stream = io.BytesIO(b"YUV4MPEG2 " + b"X" * 10**6)
    with pytest.raises(SoraError, match="longer than"):
        y4m.read_format(stream)
    assert stream.tell() <= y4m.LONGEST_LINE
