"""Footage of every kind, made here by ffmpeg and held against what ffmpeg says of it or what was drawn.

A clip is a bar that moves by four pixels a frame, so that a frame's number can be read off it, whatever a codec, a
container or a conversion did to it on the way.
"""

import io
import re
import subprocess
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sora_cli import media
from sora_cli.dataset import footage, scan
from sora_cli.errors import Failed, SoraError
from sora_cli.media import probing
from sora_cli.media.process import explain

STEP, SIZE, COUNT = 4, (128, 96), 24
Notes = list[str]


def ffmpeg(*words: object) -> None:
    subprocess.run([media.ffmpeg(), "-v", "error", "-y", *map(str, words)], check=True, capture_output=True)


def drawn(path: Path, *words: object, rate: object = 24, extra: str = "", count: int = COUNT,
          size: str = "128x96") -> Path:  # fmt: skip
    """A clip of the moving bar; `extra` are filters behind it."""
    path.write_bytes(drawing(path.suffix, words, rate, extra, count, size))
    return path


@cache
def drawing(suffix: str, words: tuple[object, ...], rate: object, extra: str, count: int, size: str) -> bytes:
    """The file of such a clip, which several tests want."""
    grey, bar = (f"color=s={wide}:r={rate},format=yuv444p,lutyuv=y={luma}:u=110:v=140"
                 for wide, luma in ((size, 60), (f"8x{size.partition('x')[2]}", 235)))  # fmt: skip
    source = f"{grey}[grey];{bar}[bar];[grey][bar]overlay=x='{STEP}*mod(round(t*{rate}),24)':format=yuv444{extra}"
    with tempfile.TemporaryDirectory() as folder:
        ffmpeg("-f", "lavfi", "-i", source, "-frames:v", count, *words, path := Path(folder, f"a{suffix}"))
        return path.read_bytes()


def read(path: Path | str, **wish: object) -> tuple[media.Format, list[np.ndarray], Notes]:
    """A source's format, its frames in RGB and in square pixels, and all that was noted."""
    with media.open_source(str(path), **wish) as source:  # type: ignore[arg-type]
        frames = list(media.to_rgb(source, source.format, source.format.seen))
        return source.format, frames, source.notes


def numbers(frames: Sequence[np.ndarray]) -> list[int]:
    """Which frame each is, by where its bar lies."""
    rows = [frame.astype(float).mean((0, 2)) for frame in frames]
    centres = [np.average(np.arange(len(row)), weights=np.clip(row - 140, 0, None)) for row in rows]
    return [round((centre * SIZE[0] / len(row) - 3.5) / STEP) for centre, row in zip(centres, rows, strict=True)]


# ---- codecs and containers --------------------------------------------------------------------------------

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "12")
CODECS: dict[str, tuple[str, tuple[str, ...]]] = {
    "H.264 in MP4": ("a.mp4", (*H264, "-pix_fmt", "yuv420p")),
    "H.264 with B frames in MKV": ("a.mkv", (*H264, "-bf", "3", "-pix_fmt", "yuv420p")),
    "H.264 in MPEG-TS": ("a.ts", (*H264, "-pix_fmt", "yuv420p")),
    "H.264 in FLV": ("a.flv", (*H264, "-pix_fmt", "yuv420p")),
    "raw H.264": ("a.h264", (*H264, "-pix_fmt", "yuv420p")),
    "H.265, 10 bit": ("a.mp4", ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=0:crf=12",
                                "-pix_fmt", "yuv420p10le")),
    "VP8 in WebM": ("a.webm", ("-c:v", "libvpx", "-b:v", "2M", "-deadline", "realtime", "-pix_fmt", "yuv420p")),
    "VP9 in WebM": ("a.webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p")),
    "AV1 in MP4": ("a.mp4", ("-c:v", "libsvtav1", "-preset", "12", "-crf", "20", "-pix_fmt", "yuv420p")),
    "MPEG-2 in a program stream": ("a.mpg", ("-c:v", "mpeg2video", "-q:v", "2", "-pix_fmt", "yuv420p")),
    "MPEG-1 in a program stream": ("a.mpg", ("-c:v", "mpeg1video", "-q:v", "2", "-pix_fmt", "yuv420p")),
    "MPEG-4 in AVI": ("a.avi", ("-c:v", "mpeg4", "-q:v", "2", "-pix_fmt", "yuv420p")),
    "Motion JPEG in MOV, full range": ("a.mov", ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj422p")),
    "ProRes 4:2:2, 10 bit": ("a.mov", ("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le")),
    "DNxHR": ("a.mxf", ("-c:v", "dnxhd", "-profile:v", "dnxhr_hq", "-pix_fmt", "yuv422p", "-s", "256x192")),
    "FFV1, 4:4:4, 16 bit": ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "yuv444p16le")),
    "FFV1, RGB": ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "bgr0")),
    "FFV1, grey": ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "gray")),
    "UT Video, with alpha": ("a.avi", ("-c:v", "utvideo", "-pix_fmt", "gbrap")),
    "Theora in Ogg": ("a.ogv", ("-c:v", "libtheora", "-q:v", "9", "-pix_fmt", "yuv420p")),
    "GIF": ("a.gif", ()),
    "APNG": ("a.apng", ("-plays", "0", "-f", "apng", "-pix_fmt", "rgb24")),
    "animated WebP": ("a.webp", ("-c:v", "libwebp_anim", "-lossless", "1")),
    "4:1:1 in y4m": ("a.y4m", ("-pix_fmt", "yuv411p",)),
}  # fmt: skip


@pytest.mark.parametrize("kind", CODECS)
def test_every_frame_comes_once_and_in_order(kind: str, tmp_path: Path) -> None:
    name, words = CODECS[kind]
    path = tmp_path / name
    rate = 25 if name in ("a.gif", "a.webp", "a.mpg", "a.mxf") else 24  # of rates that these can say
    try:
        drawn(path, *words, rate=rate)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this ffmpeg does not write it: {error.stderr[-80:]!r}")
    format, frames, notes = read(path)
    assert numbers(frames) == list(range(COUNT)) and format.fps == pytest.approx(rate, rel=1e-3)
    assert [note for note in notes if "transparent" not in note] == []
    grey = frames[5][40:50, -30:-10].mean((0, 1))          # Y 60, Cb 110, Cr 140
    expected = (51, 51, 51) if "gray" in words else (72, 48, 13)
    assert np.abs(grey - expected).max() < 9, grey


# ---- rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "60000/1001", "1", "12.5", "120"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_steady_rates(rate: str, name: str, tmp_path: Path) -> None:
    format, frames, notes = read(drawn(tmp_path / name, *H264, rate=rate, count=8))
    assert format.fps == pytest.approx(float(Fraction(rate)), rel=1e-3)
    assert numbers(frames) == list(range(8)) and notes == []


def test_a_varying_rate_keeps_time(tmp_path: Path) -> None:
    some = ",select='lt(n,6)+eq(mod(n,3),0)*gte(n,6)'"
    path = drawn(tmp_path / "a.mp4", *H264, "-fps_mode", "vfr", extra=some, count=12)
    format, frames, notes = read(path)
    shown = numbers(frames)
    assert format.rate == 24 and shown[:18] == [0, 1, 2, 3, 4, 5, 6, 6, 6, 9, 9, 9, 12, 12, 12, 15, 15, 15]
    (note,) = notes
    assert "varies" in note and "24 frames" in note
    assert "12 frames" in read(path, fps=12)[2][0]
    assert media.probe(path).seconds == pytest.approx(len(frames) / 24, abs=0.1)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_a_pause_slows_nothing_down(name: str, tmp_path: Path) -> None:
    """Screens are recorded when something changes: what lies between pauses keeps all of its frames."""
    paused = ",settb=1/1000,setpts='N*1000/24+gte(N,12)*2000'"
    path = drawn(tmp_path / name, *H264, "-fps_mode", "passthrough", "-enc_time_base", "1/1000", extra=paused)
    format, frames, notes = read(path)
    assert list(dict.fromkeys(numbers(frames))) == list(range(COUNT)) and format.fps == pytest.approx(24, abs=0.3)
    assert len(frames) == pytest.approx(72, abs=2) and notes


@pytest.mark.parametrize(("times", "moved"), [
    ("floor(N/2)*2/24/TB", "12 are left out and 11 are repeated"), ("(N+max(0,N-11))/24/TB", r"1\d are repeated"),
    ("if(lt(N,12),N,11.5+(N-11)/2)/24/TB", r"\d are left out"),
])  # fmt: skip
def test_frames_that_keep_no_time_are_counted(times: str, moved: str, tmp_path: Path) -> None:
    """Where a container says that its rate is steady, and it is not."""
    path = drawn(tmp_path / "a.mkv", *H264, "-fps_mode", "passthrough", extra=f",setpts='{times}'")
    [note] = read(path)[2]
    assert re.fullmatch(f"its frames are not evenly spaced: {moved}.*", note)


@pytest.mark.parametrize("rate", ["24", "30000/1001", "60"])
def test_times_that_were_milliseconds_are_steady(rate: str, tmp_path: Path) -> None:
    ffmpeg("-i", drawn(tmp_path / "a.mkv", *H264, rate=rate), "-c", "copy", tmp_path / "a.mp4")
    format, frames, notes = read(tmp_path / "a.mp4")
    assert format.fps == pytest.approx(float(Fraction(rate)), rel=1e-4)
    assert numbers(frames) == list(range(COUNT)) and notes == []


# ---- shapes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degrees", "turn"), [(90, 1), (180, 2), (270, 3)])
def test_rotated_footage_is_upright(degrees: int, turn: int, tmp_path: Path) -> None:
    drawn(tmp_path / "a.mp4", *H264, count=2)
    ffmpeg("-display_rotation", degrees, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "r.mp4")
    flat, upright = read(tmp_path / "a.mp4")[1][0], read(tmp_path / "r.mp4")[1][0]
    assert np.abs(np.rot90(flat, turn).astype(int) - upright).mean() < 2


@pytest.mark.parametrize(("aspect", "seen"), [("64/45", (182, 96)), ("8/9", (128, 108)), ("2/1", (256, 96))])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.y4m"])
def test_pixels_that_are_not_square(aspect: str, seen: media.Size, name: str, tmp_path: Path) -> None:
    words = () if name == "a.y4m" else H264
    format, frames, _ = read(drawn(tmp_path / name, *words, "-pix_fmt", "yuv420p", extra=f",setsar={aspect}"))
    assert (format.size, format.seen) == (SIZE, seen) and numbers(frames) == list(range(COUNT))


# ---- fields -----------------------------------------------------------------------------------------------

WOVEN = {"tff": ",tinterlace=interleave_top,setfield=tff", "bff": ",tinterlace=interleave_bottom,setfield=bff"}
FIELDS = {
    "H.264 in MP4": ("a.mp4", (*H264, "-flags", "+ildct+ilme", "-x264-params", "{order}=1")),
    "MPEG-2 in TS": ("a.ts", ("-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ildct+ilme")),
    "ProRes in MOV": ("a.mov", ("-c:v", "prores_ks", "-flags", "+ildct")),
    "y4m": ("a.y4m", ("-pix_fmt", "yuv420p")),
    "MPEG-4 in AVI, not marked": ("a.avi", ("-c:v", "mpeg4", "-q:v", "2")),
    "H.264 in MKV, marked as whole": ("a.mkv", H264),
}  # fmt: skip


def combed(frames: Sequence[np.ndarray]) -> float:
    """How much neighbouring lines differ on the average, of 255."""
    return float(np.mean([np.abs(np.diff(frame.astype(float), axis=0)).mean() for frame in frames]))


@pytest.mark.parametrize("order", WOVEN)
@pytest.mark.parametrize("kind", FIELDS)
def test_fields_become_whole_frames(kind: str, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "ROWS", (96,))
    name, words = FIELDS[kind]
    path = drawn(tmp_path / name, *(word.format(order=order) for word in words), "-pix_fmt",
                 "yuv422p10le" if name == "a.mov" else "yuv420p", rate=50, extra=WOVEN[order])  # fmt: skip
    format, frames, notes = read(path)
    ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", tmp_path / "raw")
    woven = np.fromfile(tmp_path / "raw", np.uint8).reshape(-1, 96, 128, 3)
    assert len(frames) == len(woven) == COUNT and format.rate == 25 and format.interlace == "p"
    assert ["interlaced" in note for note in notes] == [True]
    assert combed(woven) > 5 * combed(frames)
    shown = numbers(frames[2:10])                    # each at the time of its first field, in the right order
    assert shown == [shown[0] + 2 * i for i in range(8)]


@pytest.mark.parametrize(
    ("name", "size"), [("a.mp4", "720x576"), ("a.mkv", "720x480"), ("a.avi", "320x192"), ("a.webm", "128x96")]
)
def test_fine_lines_are_no_fields(name: str, size: str, tmp_path: Path) -> None:
    """Test patterns look woven to idet, and come back as they are."""
    words = {"a.avi": ("-c:v", "mpeg4", "-q:v", "2"), "a.webm": ("-c:v", "libvpx", "-b:v", "1M")}.get(name, H264)
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25:d=0.6", *words, "-pix_fmt", "yuv420p", tmp_path / name)
    assert not any("interlaced" in note for note in read(tmp_path / name)[2])


def test_a_pipe_of_fields_says_that_it_is_whole(tmp_path: Path) -> None:
    data = drawn(tmp_path / "a.y4m", "-pix_fmt", "yuv420p", rate=50, extra=WOVEN["bff"]).read_bytes()
    assert b" Ib " in data[:80]
    with media.open_source("-", stream=io.BytesIO(data)) as source:
        assert b" Ip " in source.format.header() and "interlaced" in source.notes[0]
        assert len(list(source)) == COUNT


def test_whole_frames_stay_as_they_are(tmp_path: Path) -> None:
    """Fast motion, fine stripes and noise are no fields."""
    for extra in ("", ",geq=lum='mod(Y+N,2)*100+60':cb=128:cr=128", ",noise=alls=60:allf=t"):
        path = drawn(tmp_path / "a.avi", "-c:v", "ffv1", "-pix_fmt", "yuv420p", extra=extra)
        with media.open_source(str(path)) as source:
            raw = b"".join(source)
        ffmpeg("-i", path, "-f", "rawvideo", tmp_path / "raw")
        assert raw == (tmp_path / "raw").read_bytes() and source.notes == []


# ---- colours ----------------------------------------------------------------------------------------------

TAGS = {
    "bt709": ("bt709", "bt709", "bt709"),
    "PAL": ("bt470bg", "bt470bg", "smpte170m"),
    "NTSC": ("smpte170m", "smpte170m", "smpte170m"),
    "wide": ("bt2020nc", "bt2020", "bt2020-10"),
    "a phone's P3": ("bt709", "smpte432", "bt709"),
    "sRGB screen": ("bt709", "bt709", "iec61966-2-1"),
}


def colours(path: Path) -> tuple[str, ...]:
    """Matrix, primaries, transfer and range of a file, in ffmpeg's words."""
    told = subprocess.run([media.ffmpeg(), "-hide_banner", "-i", path], capture_output=True, text=True).stderr
    match = re.search(r"Video: .*?\((tv|pc), ([\w/-]+)", told)
    assert match, told
    names = match[2].split("/")
    return (*(names * 3 if len(names) == 1 else names), match[1])


@pytest.mark.parametrize("out", ["x.mp4", "x.mov", "x.mkv", "x.webm"])
@pytest.mark.parametrize("kind", TAGS)
def test_a_file_says_which_colours_it_holds(kind: str, out: str, tmp_path: Path) -> None:
    matrix, primaries, transfer = TAGS[kind]
    told = f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range=tv"
    tags = f",scale=out_color_matrix={matrix},{told}"
    path = drawn(tmp_path / "a.mp4", *H264, extra=tags, count=2)
    with media.open_source(str(path)) as source, media.open_sink(str(tmp_path / out), source.format) as sink:
        for raw in source:
            sink.write(raw)
    assert colours(tmp_path / out) == (matrix, primaries, transfer, "tv")


def test_colours_that_nobody_tells_are_told_by_us(tmp_path: Path) -> None:
    for size, matrix in (("128x96", "smpte170m"), ("1280x720", "bt709")):
        path = drawn(tmp_path / "a.mp4", *H264, size=size, count=1)
        with media.open_source(str(path)) as source, media.open_sink(str(tmp_path / "x.mkv"), source.format) as sink:
            for raw in source:
                sink.write(raw)
        assert colours(tmp_path / "x.mkv") == (matrix, matrix, matrix, "tv")


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_hdr_is_as_bright_as_it_was(transfer: str, name: str, tmp_path: Path) -> None:
    """A picture that is put into HDR with its white at 203 nits comes back as it was, up to the brightest parts."""
    to_hdr = ("format=gbrpf32le,setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr,zscale=t=linear:npl=203,"
              f"zscale=p=bt2020,zscale=t={transfer}:npl=203:m=bt2020nc:r=tv,format=yuv420p10le")  # fmt: skip
    grey = tmp_path / "g.png"
    ffmpeg("-f", "lavfi", "-i", "gradients=s=128x96:c0=black:c1=0x808080:x0=0:y0=0:x1=127:y1=0:d=1:speed=0.0001",
           "-frames:v", 1, grey)  # fmt: skip
    ffmpeg("-loop", 1, "-i", grey, "-frames:v", 4, "-vf", to_hdr, "-c:v", "libx265", "-preset", "ultrafast",
           "-x265-params", "log-level=0:crf=4", tmp_path / name)  # fmt: skip
    format, frames, notes = read(tmp_path / name)
    assert "tone-mapped" in notes[0] and format.chroma == "420p10" and format.matrix == "bt709"
    _, (before,), _ = read(grey)
    away = np.abs(before.astype(int) - frames[0]).mean()
    flat = subprocess.run([media.ffmpeg(), "-v", "error", "-i", tmp_path / name, "-frames:v", "1", "-f", "rawvideo",
                           "-pix_fmt", "rgb24", "-"], capture_output=True).stdout  # fmt: skip
    assert np.abs(before.astype(int).ravel() - np.frombuffer(flat, np.uint8)).mean() > 2 * away


# ---- damage -----------------------------------------------------------------------------------------------

BROKEN = {
    "H.264 in MKV": ("a.mkv", (*H264, "-g", "12")),
    "H.264 in TS": ("a.ts", (*H264, "-g", "12")),
    "MPEG-4 in AVI": ("a.avi", ("-c:v", "mpeg4", "-q:v", "2")),
    "MPEG-2": ("a.mpg", ("-c:v", "mpeg2video", "-q:v", "2")),
    "Motion JPEG": ("a.avi", ("-c:v", "mjpeg", "-q:v", "2")),
    "FFV1": ("a.mkv", ("-c:v", "ffv1", "-slicecrc", "1", "-level", "3")),
}


@pytest.mark.parametrize("where", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("kind", BROKEN)
def test_damage_is_said_or_fails(kind: str, where: float, tmp_path: Path) -> None:
    name, words = BROKEN[kind]
    path = drawn(tmp_path / name, *words, "-pix_fmt", "yuvj420p" if "mjpeg" in words else "yuv420p",
                 extra=",noise=alls=30:allf=t", rate=25)  # fmt: skip
    data = bytearray(path.read_bytes())
    at, length = int(where * len(data)), len(data) // 10
    data[at : at + length] = np.random.default_rng(0).bytes(length)
    path.write_bytes(data)
    try:
        _, frames, notes = read(path)
    except Failed as error:
        assert str(path) in str(error)
        return
    assert any("damaged" in note and f"{len(frames)}" in note for note in notes), (len(frames), notes)


def test_damage_makes_a_file_of_a_dataset_broken(tmp_path: Path) -> None:
    path = drawn(tmp_path / "a.avi", "-c:v", "mpeg4", "-q:v", "2", extra=",noise=alls=30:allf=t", count=48)
    assert scan.examine(tmp_path, scan.outside(tmp_path, "a.avi"), 30).reason == ""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :][:16] = bytes(16)
    data[len(data) // 2 : len(data) // 2 + 16] = bytes(16)
    path.write_bytes(data)
    assert scan.examine(tmp_path, scan.outside(tmp_path, "a.avi"), 30).reason.startswith("broken: it is damaged")


NOISY = ",noise=alls=30:allf=t"
WMV = {"a.wmv": ("-c:v", "wmv2", "-q:v", "2"), "b.avi": ("-c:v", "wmv1", "-q:v", "2")}
COUNTED = {  # by its frames, packets, pages, chunks or checksums
    "MPEG-1": ("a.mpg", ("-c:v", "mpeg1video", "-q:v", "2")),
    "MPEG-2 in TS": ("a.ts", ("-c:v", "mpeg2video", "-q:v", "2")),
    "H.264 in M2TS": ("a.m2ts", H264),
    "MPEG-4 in AVI": ("a.avi", ("-c:v", "mpeg4", "-q:v", "2")),
    "WMV 2": ("a.wmv", WMV["a.wmv"]),
    "Theora": ("a.ogv", ("-c:v", "libtheora", "-q:v", "9")),
    "HuffYUV in MKV": ("a.mkv", ("-c:v", "huffyuv")),
    "VP8 in MKV": ("a.mkv", ("-c:v", "libvpx", "-deadline", "realtime", "-b:v", "2M")),
    "H.265 with hashes": ("a.mp4", ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=0:hash=1")),
}  # fmt: skip


@pytest.mark.parametrize("size", [200, 4000])
@pytest.mark.parametrize("kind", COUNTED)
def test_damage_that_is_seen_is_said(kind: str, size: int, tmp_path: Path) -> None:
    name, words = COUNTED[kind]
    path = drawn(tmp_path / name, *words, "-pix_fmt", "yuv422p" if "huffyuv" in words else "yuv420p", extra=NOISY,
                 rate=25)  # fmt: skip
    data, (_, whole, notes) = path.read_bytes(), read(path)
    assert notes == []
    for seed, where in enumerate((0.1, 0.45, 0.92)):
        at = int(where * len(data))
        path.write_bytes(data[:at] + np.random.default_rng(seed).bytes(size) + data[at + size :])
        try:
            _, frames, notes = read(path)
        except Failed:
            continue
        same = len(frames) == len(whole) and all(map(np.array_equal, frames, whole))
        assert same or any("damaged" in note for note in notes), (where, len(frames))


@pytest.mark.parametrize("name", ["a.ts", "a.m2ts", "a.ogv", "a.wmv", "a.mpg", "a.avi"])
def test_whole_units_that_are_missing_are_noticed(name: str, tmp_path: Path) -> None:
    """Exactly some packets, pages or chunks out of the middle, so that every decoder is content."""
    codec = {"a.ogv": "libtheora", "a.wmv": "wmv2", "a.avi": "mjpeg", "a.mpg": "mpeg1video"}.get(name, "mpeg2video")
    planes = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = drawn(tmp_path / name, "-c:v", codec, "-q:v", "2", "-pix_fmt", planes, rate=25, extra=NOISY)
    data = path.read_bytes()
    units = {"a.ts": 188, "a.m2ts": 192, "a.wmv": 3200, "a.mpg": 2048}
    if name == "a.ogv":
        begin, end = (match.start() for match in list(re.finditer(b"OggS", data))[4:6])
    elif name == "a.avi":
        begin, end = (match.start() for match in list(re.finditer(b"00dc", data))[8:10])
    else:
        begin = len(data) // units[name] // 2 * units[name]
        end = begin + 3 * units[name]
    path.write_bytes(data[:begin] + data[end:])
    assert any("damaged" in note for note in read(path)[2])


def test_files_behind_one_another_are_whole(tmp_path: Path) -> None:
    """What `cat` makes of them, and what standards put between packets."""
    words = ("-c:v", "mpeg2video", "-q:v", "2", "-pix_fmt", "yuv420p")
    for name in ("a.ts", "a.m2ts", "a.vob", "a.mpg"):
        clips = [drawn(tmp_path / f"{n}{name}", *words, rate=25, count=n).read_bytes() for n in (31, 12)]
        for number in range(3):
            (tmp_path / name).write_bytes(clips[0] + number * clips[1] + clips[0])
            assert [note for note in read(tmp_path / name)[2] if "damaged" in note] == []
    (tmp_path / "z.vob").write_bytes((tmp_path / "31a.vob").read_bytes() + b"\0\0\1\xb9" + bytes(5000))
    assert read(tmp_path / "z.vob")[2] == []
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=352x240:r=30000/1001:d=1", "-f", "lavfi", "-i", "sine=440:d=1",
           "-target", "ntsc-vcd", tmp_path / "v.mpg")  # fmt: skip
    assert read(tmp_path / "v.mpg")[2] == []


@pytest.mark.parametrize("sound", [0.5, 2])
@pytest.mark.parametrize("name", ["a.ts", "a.mpg", "a.avi", "a.wmv", "a.ogv", "a.mkv", "a.mov"])
def test_sound_of_another_length_is_no_damage(name: str, sound: float, tmp_path: Path) -> None:
    path = tmp_path / name
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=1", "-f", "lavfi", "-i", f"sine=440:d={sound}", path)
    assert [note for note in read(path)[2] if "damaged" in note] == []


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg", "rawvideo"])
def test_an_avi_that_was_written_into_a_pipe(codec: str, tmp_path: Path) -> None:
    """Nobody wrote into its head how long it is."""
    words = ("-frames:v", COUNT, "-c:v", codec, "-f", "avi", "pipe:1")
    with (tmp_path / "a.avi").open("wb") as file:
        subprocess.run([media.ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=128x96:r=24", *map(str, words)],
                       stdout=file, check=True)  # fmt: skip
    _, frames, notes = read(tmp_path / "a.avi")
    assert len(frames) in (COUNT, COUNT + 1) and [note for note in notes if "damaged" in note] == []


@pytest.mark.parametrize("name", WMV)
def test_frames_that_an_encoder_fills_up_are_whole(name: str, tmp_path: Path) -> None:
    path = drawn(tmp_path / "b.avi", *WMV[name], "-pix_fmt", "yuv420p", rate=25)
    data, out, whole = path.read_bytes(), b"", read(path)[1]
    place = begin = data.index(b"movi") + 4
    while data[place : place + 4] == b"00dc":
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        out += b"00dc" + (length + 32).to_bytes(4, "little") + data[place + 8 : place + 8 + length] + b"\x5a" * 32
        out += bytes(length % 2)
        place += 8 + length + length % 2
    movi = (len(out) + 4).to_bytes(4, "little") + b"movi" + out
    data = data[4 + 4 : begin - 8] + movi
    path.write_bytes(b"RIFF" + len(data).to_bytes(4, "little") + data)
    _, frames, notes = read(path)
    assert notes == [] and all(map(np.array_equal, frames, whole)) and len(frames) == COUNT


def test_what_a_file_lacks_makes_it_broken_in_a_dataset(tmp_path: Path) -> None:
    words = ("-c:v", "mpeg4", "-q:v", "2", "-g", "1")
    data = drawn(tmp_path / "a.avi", *words, extra=NOISY, count=48).read_bytes()
    assert scan.examine(tmp_path, scan.outside(tmp_path, "a.avi"), 30).reason == ""
    begin, end = (match.start() for match in list(re.finditer(b"00dc", data))[20:22])
    (tmp_path / "a.avi").write_bytes(data[:begin] + data[end:])
    assert scan.examine(tmp_path, scan.outside(tmp_path, "a.avi"), 30).reason.startswith("broken: it is damaged")


def test_warnings_are_no_damage() -> None:
    said = ("[mov @ 0x5] [warning] Could not find codec parameters for stream 1\nConsider increasing the value\n"
            "[aist#0:1/pcm @ 0x5] [warning] Guessed Channel Layout: mono\n")  # fmt: skip
    assert explain(said) == ""
    assert explain(said + "[vist#0:0/h264 @ 0x5] [dec:h264 @ 0x6] [warning] corrupt decoded frame\n") != ""
    assert explain(said + "[h264 @ 0x5] [error] ac-tex damaged at 3 4\n") == "ac-tex damaged at 3 4"
    assert explain("x: Invalid data found\n") == "x: Invalid data found"


def test_a_transport_stream_that_stops_inside_a_packet(tmp_path: Path) -> None:
    path = drawn(tmp_path / "a.ts", *H264)
    assert read(path)[2] == []
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 188 * 188 + 100])
    assert "cut off" in read(path)[2][0]


# ---- times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov", "a.webp"])
def test_time_stamps_that_lie_are_refused_at_once(name: str, tmp_path: Path) -> None:
    if name == "a.webp":
        red, *others = (Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue"))
        red.save(tmp_path / name, save_all=True, append_images=others, duration=[2**24 - 1, 40, 40])
    else:
        late = "setpts='if(eq(N,0),0,86400/TB)'"
        ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64:r=24:d=1", "-vf", late, "-fps_mode", "passthrough",
               "-frames:v", 2, *H264, "-pix_fmt", "yuv420p", tmp_path / name)  # fmt: skip
    with pytest.raises(Failed, match=r"last [\d.]+ hours, which is too long"):
        read(tmp_path / name)


def test_slides_and_still_films_are_no_lie(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=1/20", "-frames:v", 3, "-pix_fmt", "yuv420p", *H264,
           "-fps_mode", "passthrough", tmp_path / "slides.mp4")  # fmt: skip
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x48:r=24", "-frames:v", 600, "-pix_fmt", "yuv420p", *H264,
           tmp_path / "still.mp4")  # fmt: skip
    for name, seconds in (("slides.mp4", 60), ("still.mp4", 25)):
        with media.open_source(str(tmp_path / name)) as source:
            assert sum(1 for _ in source) == pytest.approx(seconds * source.format.fps, abs=1)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a.webp", "a.y4m"])
def test_short_clips_have_at_least_their_first_frame(name: str, count: int, tmp_path: Path) -> None:
    words = {"a.webp": ("-c:v", "libwebp_anim"), "a.gif": (), "a.y4m": ("-pix_fmt", "yuv420p")}.get(name, H264)
    path = drawn(tmp_path / name, *words, count=count)
    format, frames, _ = read(path, fps=2)
    assert (numbers(frames), format.fps) == ([0], 2)
    assert len(read(path)[1]) == count


def test_one_frame_of_an_animation_is_a_picture(tmp_path: Path) -> None:
    for name in ("a.gif", "a.webp"):
        words = ("-c:v", "libwebp_anim") if name == "a.webp" else ()
        path = drawn(tmp_path / name, *words, rate=2, count=1)
        for wish in ({}, {"fps": 24.0}):
            format, frames, _ = read(path, **wish)
            assert len(frames) == 1 and format.fps == 24


def test_nothing_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.mkv").write_bytes(drawn(tmp_path / "b.mkv", *H264).read_bytes()[:400])
    with pytest.raises(SoraError, match=r"a\.mkv") as caught:
        read(tmp_path / "a.mkv")
    assert "\n" not in str(caught.value)


# ---- more that strangers give ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.avif", "seq.avif", "grey.avif"])
def test_an_avif_is_one_picture_at_any_rate(name: str, tmp_path: Path) -> None:
    image = Image.linear_gradient("L").resize((128, 96)).convert("L" if name == "grey.avif" else "RGB")
    more = [image.rotate(90 * n) for n in range(1, 5)] if name == "seq.avif" else []
    image.save(tmp_path / name, quality=90, **({"save_all": True, "append_images": more} if more else {}))
    for wish in ({}, {"fps": 24.0}, {"fps": 2.0}):
        format, (frame,), _ = read(tmp_path / name, **wish)
        assert format.size == SIZE and np.abs(frame.astype(int) - np.asarray(image.convert("RGB"))).mean() < 3


@pytest.mark.parametrize("primaries", ["smpte432", "bt709", "bt2020"])
@pytest.mark.parametrize("transfer", ["iec61966-2-1", "smpte170m", "bt2020-12"])
def test_colours_with_long_names_are_read(primaries: str, transfer: str, tmp_path: Path) -> None:
    """ffmpeg reads headers of up to 128 bytes, in which not all tags have room."""
    told = f",scale=out_color_matrix=bt470bg:out_range=pc,setparams=colorspace=bt470bg:color_primaries={primaries}"
    path = drawn(tmp_path / "a.mp4", *H264, "-pix_fmt", "yuvj420p", count=3, rate="60000/1001",
                 extra=f"{told}:color_trc={transfer}:range=pc")  # fmt: skip
    format, frames, _ = read(path)
    assert numbers(frames) == [0, 1, 2] and len(format.header()) <= 128
    again = media.Format.parse(format.header())
    assert (again.full_range, again.matrix, again.primaries) == (True, "bt470bg", primaries)


@pytest.mark.parametrize("at", [2, 40, 60])
@pytest.mark.parametrize("seconds", [7200, 50_000, 86400])
def test_a_long_pipe_with_times_that_lie_is_refused(at: int, seconds: int, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(media.sources, "HEADS", (1 << 11, 1 << 14))
    path = drawn(tmp_path / "a.mkv", "-c:v", "ffv1", count=72, rate=24,
                 extra=f",setpts='if(lt(N,{at}),PTS,PTS+{seconds}/TB)'")  # fmt: skip
    with media.open_source("-", stream=io.BytesIO(path.read_bytes())) as source:
        assert next(source)
        with pytest.raises(Failed, match=r"hours, which is too long"):
            for count, _ in enumerate(source):
                assert count < 100
    plain = drawn(tmp_path / "b.mkv", "-c:v", "ffv1", count=72)
    with media.open_source("-", stream=io.BytesIO(plain.read_bytes())) as source:
        assert len(list(source)) == 72 and source.notes == []


@pytest.mark.parametrize("where", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("how", ["zeros", "noise", "cut"])
def test_a_damaged_gif_is_said_to_be(how: str, where: float, tmp_path: Path) -> None:
    path = drawn(tmp_path / "a.gif", extra=",noise=alls=40:allf=t", rate=25)
    assert [note for note in read(path)[2] if "damaged" in note] == []
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    if how == "cut":
        del data[at:]
    else:
        data[at : at + 400] = bytes(400) if how == "zeros" else np.random.default_rng(1).bytes(400)
    path.write_bytes(data)
    _, frames, notes = read(path)
    assert any("damaged" in note and f"{len(frames)}" in note for note in notes), (len(frames), notes)


def test_a_picture_by_another_name_is_a_picture_in_a_dataset(tmp_path: Path) -> None:
    image = Image.linear_gradient("L").resize((128, 96)).convert("RGB")
    for name, format in (("a.mp4", "JPEG"), ("b.mov", "BMP"), ("c.mkv", "TIFF")):
        image.save(tmp_path / name, format=format)
        assert scan.examine(tmp_path, scan.outside(tmp_path, name), 30).kind == "image"


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif"])
def test_a_dataset_reads_on_from_any_frame(name: str, tmp_path: Path) -> None:
    """Also where nothing is found by its time, as in some animations."""
    path = tmp_path / name
    first, *others = (Image.new("RGBA", SIZE, (0, 0, 0, 0)) for _ in range(6))
    for number, picture in enumerate((first, *others)):
        picture.paste((255, 0, 0, 255), (16 * number, 0, 16 * number + 16, 96))
    first.save(path, save_all=True, append_images=others, duration=40, disposal=1 if name == "a.gif" else 0)
    whole, rest = (list(footage.read_video(path, at, 25, SIZE, SIZE, footage.WHOLE)) for at in (0, 3))
    assert len(rest) == len(whole) - 3 > 0 and all(map(np.array_equal, whole[3:], rest))


@pytest.mark.parametrize("rate", [90, 120, 240])
def test_a_clip_that_is_shorter_than_a_frame_is_too_short(rate: int, tmp_path: Path) -> None:
    drawn(tmp_path / "a.mp4", *H264, rate=rate, count=1)
    record = scan.examine(tmp_path, scan.outside(tmp_path, "a.mp4"), 30)
    assert record.kind == "video" and record.reason.startswith("too short")


CUTS = {"a.avi": ("-c:v", "huffyuv", "-pix_fmt", "yuv422p"), "b.avi": ("-c:v", "mpeg4", "-q:v", "2"),
        "a.mxf": ("-c:v", "mpeg2video", "-q:v", "2", "-pix_fmt", "yuv422p"), "a.mkv": H264,
        "a.webm": ("-c:v", "libvpx", "-b:v", "2M", "-deadline", "realtime", "-pix_fmt", "yuv420p")}  # fmt: skip


@pytest.mark.parametrize("where", [0.5, 0.7, 0.95])
@pytest.mark.parametrize("name", CUTS)
def test_a_file_that_is_cut_off_is_said_to_be(name: str, where: float, tmp_path: Path) -> None:
    """Of most, ffmpeg has no word for it."""
    path = drawn(tmp_path / name, *CUTS[name], rate=25, extra=",noise=alls=30:allf=t")
    assert read(path)[2] == []
    path.write_bytes(path.read_bytes()[: int(where * path.stat().st_size)])
    _, frames, notes = read(path)
    assert any("damaged" in note and f"{len(frames)}" in note for note in notes), (len(frames), notes)


@pytest.mark.parametrize("rate", ["1", "2", "3", "5"])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.webm"])
def test_slow_clips_have_the_rate_that_they_say(rate: str, name: str, tmp_path: Path) -> None:
    words = ("-c:v", "libvpx", "-deadline", "realtime", "-pix_fmt", "yuv420p") if name == "a.webm" else H264
    format, frames, _ = read(drawn(tmp_path / name, *words, rate=rate))
    assert format.rate == int(rate) and numbers(frames) == list(range(COUNT))


@pytest.mark.parametrize("kind", ["a.dv", "a.avi", "a.ts"])
def test_fields_come_through_a_pipe(kind: str, tmp_path: Path) -> None:
    """Where a container does not say so, the beginning of the pipe is looked at, as a file is."""
    codec = {"a.dv": ("-c:v", "dvvideo", "-pix_fmt", "yuv420p"), "a.avi": ("-c:v", "utvideo", "-pix_fmt", "yuv422p"),
             "a.ts": ("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-b:v", "20M")}[kind]  # fmt: skip
    woven = "testsrc2=s=720x576:r=50,tinterlace=interleave_bottom,setfield=bff"
    ffmpeg("-f", "lavfi", "-i", woven, "-frames:v", 40, *codec, tmp_path / kind)
    with (tmp_path / kind).open("rb") as pipe, media.open_source("-", stream=pipe) as source:
        assert source.notes == ["it is interlaced; its fields are made into whole frames"]
        assert source.format.rate == 25 and sum(1 for _ in source) == 40


@pytest.mark.parametrize("name", ["a.mkv", "a.nut", "a.mp4"])
def test_whole_frames_through_a_pipe_stay_whole(name: str, tmp_path: Path) -> None:
    mpeg4 = ("-c:v", "mpeg4", "-q:v", 1, "-movflags", "frag_keyframe+empty_moov")
    codec = mpeg4 if name == "a.mp4" else ("-c:v", "ffv1")
    ffmpeg("-f", "lavfi", "-i", "mandelbrot=s=720x576:r=25", "-frames:v", 30, *codec, tmp_path / name)
    with (tmp_path / name).open("rb") as pipe, media.open_source("-", stream=pipe) as source:
        assert not source.notes and sum(1 for _ in source) == 30


@pytest.mark.parametrize("rate", ["F1:1000000", "F1:1801", "F0:1"])
def test_a_stream_that_shows_a_frame_for_hours_is_refused(rate: str, tmp_path: Path) -> None:
    (tmp_path / "a.y4m").write_bytes(f"YUV4MPEG2 W16 H16 {rate} Cmono\n".encode() + (b"FRAME\n" + bytes(256)) * 3)
    with pytest.raises(SoraError, match="is out of range: it must be"):
        media.open_source(str(tmp_path / "a.y4m"), fps=4)


def test_one_frame_of_a_container_that_tells_ticks_has_the_usual_rate(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64", "-frames:v", 1, "-c:v", "wmv2", tmp_path / "a.wmv")
    format, frames, _ = read(tmp_path / "a.wmv")
    assert format.rate == 24 and len(frames) == 1


def paced(path: Path, scale: int, rate: int) -> None:
    """Write into an AVI's header how long its frames are shown: `scale` / `rate` seconds each (dwScale, dwRate)."""
    header = bytearray(path.read_bytes())
    at = header.find(b"strh") + 28
    header[at : at + 8] = scale.to_bytes(4, "little") + rate.to_bytes(4, "little")
    path.write_bytes(header)


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg4 -bf 2", "libx264", "mpeg2video", "mjpeg"])
@pytest.mark.parametrize("piped", [False, True])
def test_frames_that_are_shown_for_years_are_refused(codec: str, piped: bool, tmp_path: Path) -> None:
    """Also where the file says when frames are decoded, and not when they are shown."""
    path = tmp_path / "a.avi"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=24:d=0.5", "-pix_fmt", "yuvj420p", "-c:v", *codec.split(), path)
    paced(path, 100_000_000, 1)
    with path.open("rb") as pipe, pytest.raises(Failed, match="too long for so few of them"):
        media.open_source("-", stream=pipe) if piped else media.open_source(str(path))


@pytest.mark.parametrize("rate", [1000, 100_000_000])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "ffv1"])
def test_frames_that_are_shown_for_no_time_are_named(codec: str, rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=24:d=0.5", "-c:v", codec, path)
    paced(path, 1, rate)
    with media.open_source(str(path), fps=2) as source:
        assert source.notes == [f"it says that it has {float(rate):g} frames a second"]
    with pytest.raises(SoraError, match=r"frame rate .* is out of range: it must be"):
        media.open_source(str(path))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "unitless.jpg"])
def test_densities_of_pictures_stretch_nothing(name: str, tmp_path: Path) -> None:
    """Browsers pass over them, whatever ffmpeg makes of them: both ways in give the size in pixels."""
    path = tmp_path / name
    Image.new("RGB", (160, 120)).save(path, dpi=(300, 150))
    if name == "unitless.jpg":
        data = bytearray(path.read_bytes())
        at = data.find(b"JFIF") + 7
        data[at : at + 5] = bytes([0, 0, 2, 0, 1])  # units of 0: these are the sides of a pixel
        path.write_bytes(data)
    with media.open_source(str(path)) as source:
        assert source.format.seen == (160, 120) and not source.notes
    assert footage.read_image(path).shape == (120, 160, 3)


# ---- colour spaces of pictures ------------------------------------------------------------------------------


def wide(name: str) -> bytes:
    """A matrix profile (ICC.1:2010) with the primaries of Display P3, adapted to D50, and a gamma of 2.2."""

    def fixed(*values: float) -> bytes:
        return b"".join(round(value * 65536).to_bytes(4, "big", signed=True) for value in values)

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(*values)

    said = name.encode("ascii") + b"\0"
    text = b"desc\0\0\0\0" + len(said).to_bytes(4, "big") + said + bytes(78)
    curve = b"curv\0\0\0\0" + (1).to_bytes(4, "big") + round(2.2 * 256).to_bytes(2, "big") + b"\0\0"
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(0.9642, 1, 0.8249),
            b"rXYZ": xyz(0.5151, 0.2412, -0.0011), b"gXYZ": xyz(0.2920, 0.6922, 0.0419),
            b"bXYZ": xyz(0.1571, 0.0666, 0.7841)} | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)  # fmt: skip
    table, body, start = len(tags).to_bytes(4, "big"), b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + (start + len(body)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        body += data + bytes(-len(data) % 4)
    whole = bytes(4) + bytes(4) + b"\x02\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    header = (whole + fixed(0.9642, 1, 0.8249)).ljust(128, b"\0")
    return (start + len(body)).to_bytes(4, "big") + header[4:] + table + body


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_pictures_of_other_colour_spaces_become_srgb(name: str, tmp_path: Path) -> None:
    """A colour that both spaces have looks as it did; every reader says and sees the same."""
    path, seen = tmp_path / name, np.array([234, 51, 35])  # sRGB's red at its purest, in Display P3 by Apple's tables
    lossless = {"lossless": True} if name == "a.webp" else {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
    Image.new("RGB", (64, 48), tuple(map(int, seen))).save(path, icc_profile=wide("Display P3"), **lossless)
    _, frames, notes = read(path)
    assert notes == ["its colours are converted from Display P3 to sRGB"] and len(frames) == 1
    with media.open_source(str(path)) as source:
        [shown] = media.to_rgb(source, source.format, (64, 48))
    assert np.abs(shown.mean((0, 1)) - [255, 0, 0]).max() < 6
    assert np.abs(footage.read_image(path).mean((0, 1)) - [255, 0, 0]).max() < 6


@pytest.mark.parametrize(("name", "turn"), [("a.jpg", 6), ("a.jpg", 5), ("a.png", 3), ("a.webp", 8), ("a.tif", 6)])
def test_a_photo_of_a_phone_is_upright_in_its_colours(name: str, turn: int, tmp_path: Path) -> None:
    seen = np.zeros((48, 64, 3), np.uint8)
    seen[:24, :16] = 200
    exif = Image.Exif()
    exif[0x112] = turn
    Image.fromarray(seen).save(tmp_path / name, exif=exif, icc_profile=wide("Display P3"))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / name)).convert("RGB")).astype(int)
    for frame in (read(tmp_path / name)[1][0], footage.read_image(tmp_path / name)):
        assert frame.shape == upright.shape and np.abs(frame - upright).mean() < 4


MISREAD = {"jpeg in tiff": ("a.tif", "RGB", {"compression": "jpeg"}), "YCbCr": ("a.tif", "YCbCr", {}),
           "alpha in avif": ("a.avif", "RGBA", {"quality": 95}), "CMYK": ("a.jp2", "CMYK", {})}  # fmt: skip


@pytest.mark.parametrize("kind", MISREAD)
def test_kinds_of_pictures_that_ffmpeg_takes_for_others(kind: str, tmp_path: Path) -> None:
    name, mode, words = MISREAD[kind]
    picture = Image.new("RGB", (64, 48), (200, 40, 90)).convert(mode)
    if mode == "RGBA":
        picture.putalpha(128)
    picture.save(tmp_path / name, **words)
    _, [frame], _ = read(tmp_path / name)
    assert np.abs(frame.astype(int) - footage.read_image(tmp_path / name)).max() < 6
    assert np.abs(frame.mean((0, 1)) - np.array([200, 40, 90]) * (128 / 255 if mode == "RGBA" else 1)).max() < 8


def test_pages_of_a_scan_are_counted(tmp_path: Path) -> None:
    first, *others = (Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue"))
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    _, [frame], notes = read(tmp_path / "a.tif")
    assert np.abs(frame.astype(int) - [255, 0, 0]).max() < 4 and notes == ["the first of its 3 pages is read"]


@pytest.mark.parametrize("profile", [wide("sRGB IEC61966-2.1"), b"no profile", None])
def test_pictures_in_srgb_stay_as_they_are(profile: bytes | None, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (234, 51, 35)).save(tmp_path / "a.png", icc_profile=profile)
    assert read(tmp_path / "a.png")[2] == []
    assert (footage.read_image(tmp_path / "a.png") == [234, 51, 35]).all()


def test_a_profile_of_another_kind_of_pixels_is_passed_over(tmp_path: Path) -> None:
    Image.new("CMYK", (64, 48), (0, 200, 40, 10)).save(tmp_path / "a.jpg", icc_profile=wide("Display P3"))
    _, [frame], notes = read(tmp_path / "a.jpg")
    assert np.abs(frame.astype(int) - footage.read_image(tmp_path / "a.jpg")).max() < 6
    assert not any("converted" in note for note in notes)


def test_a_rate_between_pauses_is_found_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(probing, "median", lambda gaps: asked.append(len(gaps)) or sorted(gaps)[len(gaps) // 2])
    times = [second + frame / 20 for second in range(0, 40, 2) for frame in range(20)]
    picture = probing.Picture("matroska,webm", "h264", "yuv420p", 64, 48, fps=10, nominal=1000)
    assert probing.steadied(picture, lambda: (times, 1e-3)).usual == pytest.approx(20) and asked == [len(times) - 1]


def test_a_picture_that_its_decoder_gives_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders of pictures raise what they like; what is wrong is said by the reader."""
    def fails(*_: object) -> None:
        raise RuntimeError("Failed to decode image: Not implemented")

    Image.new("RGB", (64, 48)).save(tmp_path / "a.png", icc_profile=wide("Display P3"))
    monkeypatch.setattr(Image.Image, "load", fails)
    with media.open_source(str(tmp_path / "a.png")) as source:
        assert len(list(source)) == 1 and source.notes == []
    with pytest.raises(Failed, match="is not a readable image: Failed to decode image"):
        footage.read_image(tmp_path / "a.png")
