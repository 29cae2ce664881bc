"""Frames in and out, compared with what ffmpeg itself makes of the same files."""

import io
import os
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from sora_cli import media
from sora_cli.errors import Failed, SoraError
from sora_cli.media import Format, sinks, y4m
from sora_cli.media.orphans import reaper

TEST = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=24:d=0.5,rotate=n/5")       # 12 frames, all different


def ffmpeg(*words: object, feed: bytes | None = None) -> bytes:
    command = [media.ffmpeg(), "-v", "error", "-y", *map(str, words)]
    return subprocess.run(command, input=feed, capture_output=True, check=True).stdout


def make(path: Path, *words: object) -> Path:
    """A file of 12 frames, 64x48 at 24 a second."""
    ffmpeg(*TEST, *words, f"file:{path}")
    return path


def planes(path: Path | str, *words: str) -> bytes:
    """ffmpeg's own decoding of a file, as raw planes."""
    return ffmpeg("-i", f"file:{path}", *words, "-f", "rawvideo", "pipe:1")


def taken(name: Path | str, **wish: object) -> tuple[media.Source, list[bytes]]:
    with media.open_source(str(name), **wish) as source:
        return source, list(source)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("streams") / "clip.mp4", "-pix_fmt", "yuv420p", "-movflags", "faststart")


@pytest.fixture(scope="module")
def stream() -> bytes:
    return ffmpeg(*TEST, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "pipe:1")


# --- what comes in ---------------------------------------------------------------------------------------------


def test_a_stream_passes_bit_for_bit(stream: bytes, tmp_path: Path) -> None:
    with media.open_source("-", stream=io.BytesIO(stream)) as source:
        with media.open_sink(str(tmp_path / "a.y4m"), source.format) as sink:
            for raw in source:
                sink.write(raw)
        assert source.frames is None
    assert (tmp_path / "a.y4m").read_bytes() == stream
    source, frames = taken(tmp_path / "a.y4m")
    assert source.frames == len(frames) == 12 and b"".join(y4m.stream(frames, source.format)) == stream
    assert os.listdir(tmp_path) == ["a.y4m"]


def test_a_file_comes_as_ffmpeg_decodes_it(clip: Path) -> None:
    source, frames = taken(clip)
    assert (source.format.size, source.format.rate, source.format.chroma) == ((64, 48), 24, "420mpeg2")
    assert source.frames == 12 and source.notes == [] and "encoder" in source.metadata
    assert b"".join(frames) == planes(clip)


@pytest.mark.parametrize("faststart", [True, False])
def test_a_container_comes_through_a_pipe(clip: Path, tmp_path: Path, faststart: bool) -> None:
    """Short ones even with their index at the end."""
    data = clip.read_bytes() if faststart else make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p").read_bytes()
    _, frames = taken("-", stream=io.BytesIO(data))
    assert len(frames) == 12


def long_container(tmp_path: Path, *words: str) -> bytes:
    """More than is looked at before decoding."""
    noise = ("-f", "lavfi", "-i", "nullsrc=s=64x48:r=24:d=5,geq=random(1)*255:128:128")
    ffmpeg(*noise, *words, tmp_path / "long.mp4")
    return (tmp_path / "long.mp4").read_bytes()


def test_a_long_container_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = long_container(tmp_path, "-qp", "1", "-pix_fmt", "yuv420p", "-movflags", "faststart")
    assert len(data) > 1 << 18
    _, frames = taken("-", stream=io.BytesIO(data))
    assert b"".join(frames) == planes(tmp_path / "long.mp4")
    monkeypatch.setattr("sora_cli.media.sources.HEADS", (1 << 12, 1 << 14))
    with pytest.raises(Failed, match="index at the end"):
        taken("-", stream=io.BytesIO(long_container(tmp_path, "-qp", "1", "-pix_fmt", "yuv420p")))


def test_raw_rgb_needs_its_size_and_rate(clip: Path) -> None:
    rgb = planes(clip, "-pix_fmt", "rgb24")
    source, frames = taken("-", input_size=(64, 48), input_fps=12.5, stream=io.BytesIO(rgb))
    assert (len(frames), source.format.rate, source.format.chroma) == (12, Fraction(25, 2), "444")
    with pytest.raises(Failed, match="middle of frame 11"):
        taken("-", input_size=(64, 48), input_fps=12.5, stream=io.BytesIO(rgb[:-1]))
    with pytest.raises(SoraError, match="rate"):
        media.open_source("-", input_size=(64, 48), stream=io.BytesIO(rgb))


def test_another_size_and_rate(clip: Path, stream: bytes) -> None:
    for name, extra in ((str(clip), None), ("-", io.BytesIO(stream))):
        source, frames = taken(name, size=(32, 20), fps=12, stream=extra)
        assert (source.format.size, source.format.fps, len(frames)) == ((32, 20), 12, 6)
        assert source.format.aspect == "1:1" and source.format.chroma.startswith("420")


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "chroma"),
    [
        ("yuv420p10le", "ffv1", "420p10"),
        ("yuv422p", "ffv1", "422"),
        ("yuv444p", "ffv1", "444"),
        ("gray", "ffv1", "mono"),
        ("yuvj420p", "mjpeg", "420jpeg"),
    ],
)
def test_planes_keep_their_kind(tmp_path: Path, pix_fmt: str, codec: str, chroma: str) -> None:
    path = make(tmp_path / "a.mkv", "-c:v", codec, "-pix_fmt", pix_fmt)
    source, frames = taken(path)
    assert source.format.chroma == chroma
    assert source.format.full_range == (pix_fmt in ("gray", "yuvj420p"))
    assert b"".join(frames) == planes(path)


def test_colours_that_are_not_bt709_are_told(tmp_path: Path) -> None:
    for named, matrix in (("bt709", "bt709"), ("bt470bg", "bt470bg"), ("unknown", "smpte170m")):
        words = ("-pix_fmt", "yuv420p", "-vf", f"format=yuv420p,setparams=colorspace={named}")
        source, _ = taken(make(tmp_path / "a.mp4", *words))
        assert source.format.matrix == matrix


def test_rotated_footage_is_upright(clip: Path, tmp_path: Path) -> None:
    ffmpeg("-display_rotation", "90", "-i", clip, "-c", "copy", tmp_path / "r.mp4")
    source, frames = taken(tmp_path / "r.mp4")
    assert source.format.size == (48, 64)
    before, after = (np.frombuffer(raw[: 64 * 48], np.uint8) for raw in (taken(clip)[1][0], frames[0]))
    assert (np.rot90(before.reshape(48, 64)) == after.reshape(64, 48)).all()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_rate_becomes_constant(tmp_path: Path, suffix: str) -> None:
    """Of every three frames the second is left out; the one before it stands in, and each frame keeps its time."""
    path = make(tmp_path / f"v.{suffix}", "-vf", "select=mod(n\\,3)-1", "-fps_mode", "vfr", "-pix_fmt", "yuv420p")
    source, frames = taken(path)
    assert source.format.rate == 24
    assert suffix == "mkv" or "rate varies" in source.notes[0]       # the header of this Matroska says 24 and no more
    kept = planes(path, "-fps_mode", "passthrough")
    each = [kept[i : i + len(frames[0])] for i in range(0, len(kept), len(frames[0]))]
    shown = [each.index(raw) for raw in frames]      # MP4 gives the last one a longer time
    assert shown[:12] == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7] and len(shown) <= 13


def test_transparency_is_over_black(tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 16), (200, 100, 40, 255))
    image.paste((200, 100, 40, 128), (8, 0, 16, 16))
    image.save(tmp_path / "a.png")
    with media.open_source(str(tmp_path / "a.png")) as source:
        assert "black" in source.notes[0] and source.format.chroma == "444"
        (frame,) = media.to_rgb(source, source.format, (16, 16))
    flat = np.asarray(Image.alpha_composite(Image.new("RGBA", (16, 16), (0, 0, 0, 255)), image).convert("RGB"))
    assert np.abs(frame.astype(int) - flat).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_still_is_one_frame(tmp_path: Path, suffix: str) -> None:
    gradient = np.indices((48, 64)).sum(0).astype(np.uint8)
    picture = np.stack([gradient, gradient // 2, 255 - gradient], -1)
    Image.fromarray(picture).save(tmp_path / f"a.{suffix}", quality=98)
    with media.open_source(str(tmp_path / f"a.{suffix}")) as source:
        assert (source.frames, source.format.fps) == (1, 24)
        (frame,) = media.to_rgb(source, source.format, (64, 48))
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert np.abs(frame.astype(int) - np.asarray(image.convert("RGB"))).mean() < 2


def test_numbered_images(tmp_path: Path, clip: Path) -> None:
    folder = tmp_path / "100% %03d"
    folder.mkdir()
    rgb = np.frombuffer(planes(clip, "-pix_fmt", "rgb24"), np.uint8).reshape(12, 48, 64, 3)
    for number, frame in enumerate(rgb, 7):
        Image.fromarray(frame).save(folder / f"a {number:03d}.png")
    source, frames = taken(folder / "a %03d.png", input_fps=10)
    assert (len(frames), source.frames, source.format.fps) == (12, 12, 10)
    (folder / "a 009.png").unlink()
    with pytest.raises(SoraError, match=r"a 009\.png is missing"):
        media.open_source(str(folder / "a %03d.png"))
    (folder / "b 20240101120000.png").touch()
    (folder / "b 001.png").touch()
    with pytest.raises(SoraError, match=r"b 002\.png is missing"):
        media.open_source(str(folder / "b %03d.png"))
    with pytest.raises(SoraError, match="no numbered images"):
        media.open_source(str(folder / "b%03d.png"))


@pytest.mark.parametrize(("kinds", "notes"), [
    ([("RGB", 64), ("L", 64), ("RGB", 64), ("RGBA", 64)], 0), ([("RGB", 64), ("RGB", 32), ("RGB", 64)], 1),
])  # fmt: skip
def test_numbered_images_of_several_kinds_all_come(tmp_path: Path, kinds: list[tuple[str, int]], notes: int) -> None:
    for number, (mode, side) in enumerate(kinds):
        Image.new("RGB", (side, side), (60 * number,) * 3).convert(mode).save(tmp_path / f"{number}.png")
    with media.open_source(str(tmp_path / "%d.png")) as source:
        shown = [frame.mean() for frame in media.to_rgb(source, source.format, source.format.size)]
    assert np.abs(np.subtract(shown, [60 * number for number in range(len(kinds))])).max() < 2
    assert source.notes == ["its pictures are of several sizes; all are shown in that of the first"] * notes


NAMES = ("a b.mp4", "it's \"x\".mp4", "-y.mp4", "猫 ☃.mp4", "concat:a|b.mp4", "http:x", "%03d.png",
         "a\n[error] b.mp4")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_local_name(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    kind = "png" if name.endswith("png") else "mp4"
    png = ffmpeg(*TEST, "-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "-")
    data = clip.read_bytes() if kind == "mp4" else png
    Path(name).write_bytes(data)
    source, frames = taken(name)
    assert len(frames) == (12 if kind == "mp4" else 1) and source.notes == []


def test_the_largest_and_the_smallest(tmp_path: Path) -> None:
    for size in ((1, 1), (7680, 4320)):
        name = tmp_path / f"{size[0]}.y4m"
        format = Format(*size, Fraction(24), "mono")
        with media.open_sink(str(name), format) as sink:
            sink.write(bytes(format.frame_bytes))
        assert taken(name)[1] == [bytes(format.frame_bytes)]
    with media.open_source(str(tmp_path / "1.y4m"), size=(2, 2)) as source:
        assert len(list(source)) == 1
    Image.new("1", (9000, 8)).save(tmp_path / "wide.png")
    with pytest.raises(Failed, match="9000x8"):
        media.open_source(str(tmp_path / "wide.png"))


def test_a_named_pipe_is_a_stream(stream: bytes, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen(["dd", f"of={tmp_path / 'pipe'}", "status=none"], stdin=subprocess.PIPE)
    feeder = Thread(target=writer.communicate, args=(stream,))
    feeder.start()
    source, frames = taken(tmp_path / "pipe")
    feeder.join()
    assert source.frames is None and b"".join(y4m.stream(frames, source.format)) == stream


def test_sound_with_a_cover_is_no_video(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "cover.png")
    sound = ("-f", "lavfi", "-i", "sine=d=0.2", "-i", tmp_path / "cover.png", "-map", "0", "-map", "1")
    ffmpeg(*sound, "-c:v", "copy", "-disposition:v", "attached_pic", tmp_path / "song.m4a")
    with pytest.raises(Failed, match="only sound"):
        media.open_source(str(tmp_path / "song.m4a"))


# --- what is refused -------------------------------------------------------------------------------------------


def test_bad_inputs_are_one_line(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video\n" * 99)
    (tmp_path / "text.txt").write_text("this is no video\n" * 99)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "false.y4m").write_bytes(b"YUV4MPEG2 W0 H0 F24:1\n")
    (tmp_path / "none.y4m").write_bytes(b"YUV4MPEG2 W2 H2 F24:1\n")
    (tmp_path / "cut.y4m").write_bytes(b"YUV4MPEG2 W2 H2 F24:1 Cmono\nFRAME\nabc")
    data = long_container(tmp_path, "-pix_fmt", "yuv420p")
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    ffmpeg("-i", tmp_path / "long.mp4", "-c", "copy", "-movflags", "faststart", tmp_path / "front.mp4")
    (tmp_path / "cut2.mp4").write_bytes((tmp_path / "front.mp4").read_bytes()[: len(data) // 2])
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", tmp_path / "sound.m4a")
    ffmpeg("-i", clip, "-frames:v", "0", "-f", "matroska", tmp_path / "zero.mkv")
    for name, wrong in {
        "text.mp4": "not a readable video", "text.txt": "not a readable video", "empty.mp4": "is empty",
        "false.y4m": "0x0", "none.y4m": "no frames", "cut.y4m": "middle of frame 0", "cut.mp4": "moov atom",
        "cut2.mp4": "partial file", "sound.m4a": "only sound", "zero.mkv": "video|frames", "": "is a folder",
        "nowhere.mp4": "there is no file",
    }.items():  # fmt: skip
        with pytest.raises(SoraError, match=wrong) as caught:
            taken(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"YUV4MPEG2 W2 H2 F24:1 Cmono\n"])
def test_a_pipe_without_frames(data: bytes) -> None:
    with pytest.raises(Failed, match="standard input has no frames"):
        media.open_source("-", stream=io.BytesIO(data))


def test_a_terminal_and_a_closed_pipe_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(Failed, match="no frames"):
        media.open_source("-")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr("sys.stdout", terminal)
        with pytest.raises(SoraError, match="terminal"):
            media.open_source("-")
        with pytest.raises(SoraError, match="terminal"):
            media.open_sink("-", Format(2, 2, Fraction(24)))
    os.close(ours)


def test_one_file_under_two_names(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    a, b = str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")
    assert media.same_file(a, b) and media.same_file(f"{tmp_path}/x/../c.mp4", f"{tmp_path}/c.mp4")
    assert not media.same_file(a, str(tmp_path / "c.mp4")) and not media.same_file("-", "-")


# --- RGB -------------------------------------------------------------------------------------------------------


def smooth(count: int = 3, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Slow gradients, on which the chroma of 4:2:0 loses next to nothing."""
    y, x = np.mgrid[: size[1], : size[0]]
    return [np.stack([40 + x * 2, 60 + y * 3, 90 + x + y + i], -1).clip(0, 255).astype(np.uint8) for i in range(count)]


@pytest.mark.parametrize("chroma", ["420mpeg2", "422", "444", "420p10"])
@pytest.mark.parametrize("tags", [(), ("COLORRANGE=FULL",), ("COLORMATRIX=smpte170m",)])
def test_rgb_there_and_back(chroma: str, tags: tuple[str, ...]) -> None:
    format = Format(64, 48, Fraction(24), chroma, tags=tags)
    raw = list(media.from_rgb(smooth(), (64, 48), format))
    assert [len(r) for r in raw] == [format.frame_bytes] * 3
    for before, after in zip(smooth(), media.to_rgb(raw, format, (64, 48)), strict=True):
        assert np.abs(before.astype(int) - after).mean() < 1.5


@pytest.mark.parametrize(("tags", "kr", "kb"), [((), 0.2126, 0.0722), (("COLORMATRIX=smpte170m",), 0.299, 0.114)])
def test_luma_is_the_closed_form(tags: tuple[str, ...], kr: float, kb: float) -> None:
    colour = np.array([200, 60, 30])
    frame = np.broadcast_to(colour, (4, 4, 3)).astype(np.uint8)
    luma = float(colour @ [kr, 1 - kr - kb, kb])
    for spread, expected in ((tags, 16 + luma * 219 / 255), ((*tags, "COLORRANGE=FULL"), luma)):
        (raw,) = media.from_rgb([frame], (4, 4), Format(4, 4, Fraction(24), "444", tags=spread))
        assert abs(raw[0] - expected) <= 1


def test_pictures_are_fitted() -> None:
    """White of 40x20 into 20x20: bars above and below, the edges gone, or squeezed."""
    white = np.full((20, 40, 3), 255, np.uint8)
    white[:, :8] = white[:, -8:] = 0
    format = Format(40, 20, Fraction(24), "444")
    raw = list(media.from_rgb([white], (40, 20), format))
    rows = {fit: next(media.to_rgb(raw, format, (20, 20), fit)) for fit in media.FITS}
    assert all(frame.shape == (20, 20, 3) for frame in rows.values())
    assert rows["contain"][:4].max() < 16 and rows["contain"][10, 10].min() > 240
    assert rows["cover"].min() > 230
    assert rows["stretch"][:, :2].max() < 16 and rows["stretch"][0, 10].min() > 240
    with pytest.raises(SoraError, match="zoom"):
        next(media.to_rgb(raw, format, (20, 20), "zoom"))


def test_pixels_that_are_not_square_are_shown_square() -> None:
    format = Format(20, 20, Fraction(24), "444", aspect="2:1")
    frame = next(media.to_rgb([b"\xeb" * 400 + b"\x80" * 800], format, (20, 20), "contain"))
    assert frame[:4].max() < 16 and frame[10].min() > 240


def test_what_the_producer_raises_reaches_the_consumer() -> None:
    def producer() -> Iterator[bytes]:
        yield bytes(64 * 48 * 3)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(media.to_rgb(producer(), Format(64, 48, Fraction(24), "444"), (8, 8)))


def test_a_consumer_that_stops_stops_ffmpeg() -> None:
    drawn = []

    def producer() -> Iterator[bytes]:
        while True:
            drawn.append(1)
            yield bytes(640 * 480)

    before = set(reaper.running)
    frames = media.to_rgb(producer(), Format(640, 480, Fraction(24), "mono"), (8, 8))
    next(frames)
    (process,) = reaper.running - before
    frames.close()
    assert process not in reaper.running and len(drawn) < 200


def test_ten_thousand_frames_in_little_memory() -> None:
    """30 MB of frames pass; never more than a few are alive. A thousand of them see two ffmpegs as well."""
    format = Format(32, 32, Fraction(24), "444")
    one = bytes(format.frame_bytes)
    tracemalloc.start()
    with media.open_source("-", stream=endless(format, one, 10_000)) as source:
        rgb = media.to_rgb(islice(source, 1000), format, (32, 32))
        changed = sum(1 for _ in media.from_rgb(rgb, (32, 32), format))
        passed = sum(1 for _ in y4m.stream(source, format))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (changed, passed) == (1000, 1 + 2 * 9000) and peak < 1_000_000


def endless(format: Format, raw: bytes, count: int) -> io.BufferedReader:
    """A stream of the same frame, made as it is read."""

    class Made(io.RawIOBase):
        pieces = y4m.stream((raw for _ in range(count)), format)
        left = b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            self.left = self.left or next(self.pieces, b"")
            size = min(len(buffer), len(self.left))
            buffer[:size], self.left = self.left[:size], self.left[size:]
            return size

    return io.BufferedReader(Made())


# --- what goes out ---------------------------------------------------------------------------------------------


def write(name: Path | str, stream: bytes, **words: object) -> None:
    source = media.open_source("-", stream=io.BytesIO(stream))
    with source, media.open_sink(str(name), source.format, **words) as sink:
        for raw in source:
            sink.write(raw)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "h264"), ("mov", "h264"), ("mkv", "h264"), ("webm", "vp9")])
def test_videos(stream: bytes, tmp_path: Path, suffix: str, codec: str) -> None:
    write(tmp_path / f"a.{suffix}", stream, metadata={"sora": '{"a": "b=c;#"}'})
    found = media.probe(tmp_path / f"a.{suffix}")
    seen = found.picture
    assert (seen.codec, seen.pix_fmt, found.width, found.height, found.frames) == (codec, "yuv420p", 64, 48, 12)
    assert {k.lower(): v for k, v in found.metadata.items()}["sora"] == '{"a": "b=c;#"}'
    assert os.listdir(tmp_path) == [f"a.{suffix}"]
    wrote, read = (np.frombuffer(data, np.uint8).astype(int) for data in (
        planes_of(stream), planes(tmp_path / f"a.{suffix}")))  # fmt: skip
    assert np.abs(wrote - read).mean() < 4


def planes_of(stream: bytes) -> bytes:
    return ffmpeg("-i", "pipe:0", "-f", "rawvideo", "pipe:1", feed=stream)


def test_the_encoder_sees_the_very_planes(stream: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lossless encoder in place of x264's quality 18, the file holds what was sent."""
    monkeypatch.setitem(sinks.VIDEOS, ".mkv", (("-c:v", "ffv1"), ("-f", "matroska")))
    write(tmp_path / "a.mkv", stream)
    assert planes(tmp_path / "a.mkv") == planes_of(stream)
    told = subprocess.run([media.ffmpeg(), "-i", tmp_path / "a.mkv"], capture_output=True, text=True).stderr
    assert "yuv420p(tv, bt709" in told


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
def test_moving_images(stream: bytes, tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a.{suffix}", stream)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert (image.size, image.n_frames, image.info["loop"]) == ((64, 48), 12, 0)
        image.seek(11)
        last = np.asarray(image.convert("RGB")).astype(int)
    filters = "setparams=colorspace=bt709,scale=flags=lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
    rgb = ffmpeg("-i", "pipe:0", "-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24", "-", feed=stream)
    expected = np.frombuffer(rgb, np.uint8).reshape(12, 48, 64, 3)[11]
    assert np.abs(last - expected).mean() < (1 if suffix == "apng" else 12)
    assert os.listdir(tmp_path) == [f"a.{suffix}"]


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
def test_moving_images_may_play_once(stream: bytes, tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a.{suffix}", stream, loops=1)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert image.info.get("loop", 1) == 1


def test_numbered_images_are_put_in_place(stream: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "50%"
    folder.mkdir()
    write(folder / "a%03d.png", stream)
    assert sorted(os.listdir(folder)) == [f"a{i:03d}.png" for i in range(1, 13)]
    with pytest.raises(SoraError, match=r"a001\.png already exists"):
        write(folder / "a%03d.png", stream)
    write(folder / "a%03d.png", stream, force=True)
    assert len(taken(folder / "a%03d.png")[1]) == 12


def test_one_frame_is_a_png(stream: bytes, tmp_path: Path) -> None:
    with media.open_source("-", stream=io.BytesIO(stream)) as source:
        with media.open_sink(str(tmp_path / "a.png"), source.format, {"sora": "x"}) as sink:
            sink.write(next(source))
        with Image.open(tmp_path / "a.png") as image:
            assert (image.size, image.info["sora"]) == ((64, 48), "x")
    with pytest.raises(Failed, match="holds only one frame"):
        write(tmp_path / "b.png", stream)
    assert os.listdir(tmp_path) == ["a.png"]


def test_what_cannot_be_written_is_refused_before(tmp_path: Path) -> None:
    odd, fast = Format(321, 181, Fraction(24)), Format(32, 32, Fraction(60))
    for name, format, wrong in (
        ("a.mp4", odd, "nearest size is 320x180"), ("a.gif", fast, "at most 50"), ("a.avi", fast, "must end in .mp4"),
    ):  # fmt: skip
        with pytest.raises(SoraError, match=wrong):
            media.open_sink(str(tmp_path / name), format)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.y4m", "a.png", "a%03d.png"])
def test_nothing_is_left_of_what_was_not_finished(stream: bytes, tmp_path: Path, name: str) -> None:
    format = Format(64, 48, Fraction(24))
    with pytest.raises(KeyError), media.open_sink(str(tmp_path / name), format):
        raise KeyError
    with pytest.raises(Failed, match="no frames"), media.open_sink(str(tmp_path / name), format):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.y4m"])
def test_a_full_disk_is_one_line(stream: bytes, tmp_path: Path, name: str) -> None:
    media.part_of(tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(Failed, match="No space left on device"):
        write(tmp_path / name, stream)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    format = Format(64, 48, Fraction(12))
    with open("/dev/full", "wb") as full, pytest.raises(Failed, match="standard output: No space left on device"):
        sinks.StreamSink(full, format).write(bytes(format.frame_bytes))


def test_an_encoder_that_is_killed_is_one_line(stream: bytes, tmp_path: Path) -> None:
    sink = media.open_sink(str(tmp_path / "a.gif"), Format(64, 48, Fraction(24)))
    with pytest.raises(Failed, match="code -9"), sink:
        sink.process.kill()
        while True:
            sink.write(bytes(sink.format.frame_bytes))
    assert os.listdir(tmp_path) == []


PIPED = """
import sys
from sora_cli import media
with media.open_source("-") as source, media.open_sink("-", source.format) as sink:
    for raw in source:
        sink.write(raw)
"""


def test_standard_input_to_standard_output(stream: bytes) -> None:
    done = subprocess.run([sys.executable, "-c", PIPED], input=stream, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, stream, b"")


def test_a_reader_that_leaves_is_not_spoken_of() -> None:
    guarded = "try:\n" + textwrap.indent(PIPED, "    ") + "except BrokenPipeError:\n    pass"
    ours, theirs = os.pipe()
    os.close(ours)
    format = Format(320, 240, Fraction(24), "mono")
    feed = b"".join(y4m.stream([bytes(format.frame_bytes)] * 9, format))
    done = subprocess.run([sys.executable, "-c", guarded], input=feed, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")
