"""Real files, made and read by ffmpeg; their boxes parsed here by hand."""

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from clips import format_of, read_frames, write_frames
from PIL import Image

from sora_cli import media
from sora_cli.errors import Failed, SoraError
from sora_cli.media import probing

TRICKY = '{"prompt": "a=b; #1 \\\\ [x] \'cat\' ☃"}'


def frames(count: int, width: int = 160, height: int = 96) -> list[np.ndarray]:
    """A grey ramp over time: frame i has the level 40 + 8 i."""
    return [np.full((height, width, 3), (40 + 8 * i) % 256, np.uint8) for i in range(count)]


def boxes(path: Path) -> list[str]:
    """The names of an MP4's top-level boxes, in order."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        names.append(name.decode())
        at += size
    return names


def write(path: Path, count: int = 12, fps: float = 24.0, size: tuple[int, int] = (320, 192)) -> Path:
    return write_frames(path, frames(count), (160, 96), size, fps, {"sora": TRICKY})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("media") / "clip.mp4")


def test_what_is_asked_is_what_comes_out(clip: Path) -> None:
    found = media.probe(clip)
    assert (found.width, found.height, found.fps, found.frames) == (320, 192, 24.0, 12)
    assert (found.picture.codec, found.picture.pix_fmt, found.seconds) == ("h264", "yuv420p", 0.5)
    assert not media.part_of(clip).exists()


def test_the_index_is_at_the_front(clip: Path) -> None:
    names = boxes(clip)
    assert names[0] == "ftyp" and names.index("moov") < names.index("mdat")


def test_the_shot_is_in_the_metadata(clip: Path) -> None:
    assert media.probe(clip).metadata["sora"] == TRICKY


def test_frames_come_back(clip: Path) -> None:
    seen = read_frames(clip)
    assert [frame.shape for frame in seen] == [(192, 320, 3)] * 12
    for frame, wrote in zip(seen, frames(12), strict=True):
        assert abs(frame.astype(float) - float(wrote[0, 0, 0])).mean() < 2


def test_colours_survive(tmp_path: Path) -> None:
    red = np.zeros((96, 160, 3), np.uint8)
    red[..., 0] = 220
    write_frames(tmp_path / "red.mp4", [red], (160, 96))
    (seen,) = read_frames(tmp_path / "red.mp4")
    assert np.abs(seen.astype(int) - red).max() < 12


@pytest.mark.parametrize("fps", [1.0, 7.5, 23.976, 25.0, 29.97, 59.94, 120.0])
def test_frame_rates(tmp_path: Path, fps: float) -> None:
    found = media.probe(write(tmp_path / "rate.mp4", count=3, fps=fps, size=(64, 48)))
    assert found.frames == 3
    assert found.fps == pytest.approx(fps, abs=1e-4)


def test_names_that_ffmpeg_would_misread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.mp4", "-y.mp4", "%03d.mp4", "pipe:1.mp4"):
        write(Path(name), count=1, size=(64, 48))
        assert media.probe(name).frames == 1
    assert sorted(os.listdir()) == sorted(["concat:a|b.mp4", "-y.mp4", "%03d.mp4", "pipe:1.mp4"])


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    format = format_of((160, 96))
    with pytest.raises(KeyError), media.open_sink(str(tmp_path / "a.mp4"), format) as sink:
        sink.write(bytes(format.frame_bytes))
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_an_error_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("old")
    with pytest.raises(KeyError), media.open_sink(str(tmp_path / "a.mp4"), format_of((160, 96))):
        raise KeyError
    assert (tmp_path / "a.mp4").read_text() == "old"


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    media.part_of(target).symlink_to("/dev/full")
    with pytest.raises(Failed, match="No space left on device"):
        write(target)
    assert os.listdir(tmp_path) == []


def test_an_encoder_that_dies_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\nhead -c 100 >/dev/null\necho '[x264 @ 0x1] invalid moon phase' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("SORA_FFMPEG", str(fake))
    format = format_of((320, 192))
    sink = media.open_sink(str(tmp_path / "a.mp4"), format)
    with pytest.raises(Failed, match=r"a\.mp4: invalid moon phase"), sink:
        for _ in range(50):
            sink.write(bytes(format.frame_bytes))
    assert os.listdir(tmp_path) == ["ffmpeg"]


def test_no_ffmpeg_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORA_FFMPEG", str(tmp_path / "nowhere"))
    with pytest.raises(Failed, match="does not start"):
        write(tmp_path / "a.mp4")


INTERRUPTED = """
import sys, time
from fractions import Fraction
from sora_cli.media import Format, open_sink
format = Format(320, 192, Fraction(24))
with open_sink(sys.argv[1], format) as sink:
    while True:
        sink.write(bytes(format.frame_bytes))
        print("frame", flush=True)
        time.sleep(0.01)
"""


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "a.mp4")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )  # fmt: skip
    assert process.stdout
    process.stdout.readline()
    wait_for(tmp_path / f"a.mp4.{process.pid}.part")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) != 0
    assert os.listdir(tmp_path) == []


def wait_for(path: Path, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def test_images(tmp_path: Path) -> None:
    from PIL import Image

    media.write_image(tmp_path / "a.png", frames(1)[0], {"sora": TRICKY})
    with Image.open(tmp_path / "a.png") as image:
        assert (image.size, image.format, image.info["sora"]) == ((160, 96), "PNG", TRICKY)
        assert image.getpixel((7, 7)) == (40, 40, 40)
    assert os.listdir(tmp_path) == ["a.png"]


def test_garbage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 99)
    with pytest.raises(Failed, match=r"a\.mp4 is not a readable video"):
        media.probe(tmp_path / "a.mp4")
    with pytest.raises(Failed, match=r"a\.mp4 is not a readable video"):
        read_frames(tmp_path / "a.mp4")
    with pytest.raises(SoraError, match="there is no file"):
        media.probe(tmp_path / "b.mp4")


# -- What is known of a file that has not changed ---------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands by which ffmpeg is asked what a file holds."""
    found: list[list[str]] = []
    run = probing.finished

    def counted(command: list[str], *more: Any) -> object:
        found.append(command)
        return run(command, *more)

    monkeypatch.setattr(probing, "finished", counted)
    return found


def size_of(path: Path) -> tuple[int, int]:
    found = probing.looked_at(["-i", media.as_file(path)], path.name)
    return found.width, found.height


def test_a_file_is_looked_at_once(tmp_path: Path, looks: list[list[str]]) -> None:
    path = write(tmp_path / "a.mp4", count=1)
    assert size_of(path) == size_of(path) == (320, 192)
    assert len(looks) == 1
    assert size_of(path.rename(tmp_path / "b.mp4")) == (320, 192)  # another name, by which errors call it
    assert len(looks) == 2


def picture(path: Path, width: int, height: int) -> bytes:
    """A portable pixmap, of which the size of its file does not tell that of the picture."""
    path.write_bytes(b"P6\n%d %d\n255\n" % (width, height) + bytes(3 * width * height))
    return path.read_bytes()


def test_one_run_counts_frames_and_says_what_they_are(tmp_path: Path, looks: list[list[str]]) -> None:
    """Lists longer than what ffmpeg keeps back of them, and tags that look like a line of one."""
    path, count = tmp_path / "a.mkv", 2000
    tags = {"sora": "a\n0, 1, 2, 3, 4, 0x5\n0, b=c", "title": "0, 1, 2, 3"}
    words = [word for name, value in tags.items() for word in ("-metadata", f"{name}={value}")]
    command = [media.ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:r=25", "-frames:v", str(count)]
    subprocess.run([*command, "-c:v", "ffv1", *words, path], check=True)
    found = media.probe(path)
    assert (found.frames, found.fps, found.width, found.picture.codec, len(looks)) == (count, 25, 16, "ffv1", 1)
    told = {name.lower(): value for name, value in found.metadata.items()}
    assert {name: told[name] for name in tags} == tags and set(told) == {*tags, "encoder"}


def test_packets_are_listed_once(tmp_path: Path, looks: list[list[str]]) -> None:
    """For the rate, for their number and for the next one who opens it."""
    made = [Image.new("RGB", (32, 32), (40 * n, 0, 0)) for n in range(5)]
    made[0].save(tmp_path / "a.gif", save_all=True, append_images=made[1:], duration=[40, 40, 200, 40, 40])
    for _ in range(2):
        with media.open_source(str(tmp_path / "a.gif")) as source:
            assert "varies" in source.notes[0]
    assert ["framecrc" in command for command in looks] == [False, True]


def test_a_file_that_changed_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "a.ppm"
    before = picture(path, 32, 16)
    assert size_of(path) == (32, 16)
    old = path.stat()
    assert len(picture(path, 16, 32)) == len(before)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))  # in its place, no longer, and as if nobody had touched it
    assert (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino) == (
        old.st_size, old.st_mtime_ns, old.st_ino)  # fmt: skip
    assert size_of(path) == (16, 32)
    picture(tmp_path / "b", 64, 8)
    os.replace(tmp_path / "b", path)
    assert size_of(path) == (64, 8)
    path.unlink()
    with pytest.raises(Failed, match="not a readable video"):
        size_of(path)
    path.symlink_to(tmp_path / "c.ppm")
    for width, height in ((8, 24), (24, 8)):
        picture(tmp_path / "c.ppm", width, height)
        assert size_of(path) == (width, height)


def test_what_is_no_single_file_is_looked_at_every_time(tmp_path: Path) -> None:
    """A pipe, whose name says nothing, and a list, whose parts change without it."""
    (tmp_path / "list").write_text("ffconcat version 1.0\nfile part.ppm\n")
    for width, height in ((32, 16), (16, 32)):
        sent = picture(tmp_path / "part.ppm", width, height)
        assert size_of(tmp_path / "list") == (width, height)
        piped = probing.describe(["-i", "pipe:0"], "pipe", sent)
        assert (piped.width, piped.height) == (width, height)
    os.mkfifo(tmp_path / "pipe")
    assert not any(map(probing.state_of, ("pipe:0", str(tmp_path), str(tmp_path / "pipe"), str(tmp_path / "%03d.png"))))


def test_what_is_not_readable_is_said_every_time(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 99)
    for _ in range(2):
        with pytest.raises(Failed, match=r"a\.mp4 is not a readable video"):
            size_of(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm"])
def test_what_is_too_long_for_a_tag_is_left_out_with_a_note(tmp_path: Path, name: str) -> None:
    format, path = tiny.y4m_format(), str(tmp_path / name)
    for text, kept in (("cat," * 29_000, True), ("cat," * 33_000, False), ("\u732b" * 60_000, False)):
        with media.open_sink(path, format, {"sora": text}) as sink:
            for frame in tiny.noise(format, 2):
                sink.write(frame)
        assert media.probe(path).metadata.get("sora", "") == text * kept
        assert sink.notes == ([] if kept else [f"{path} does not hold how it was made, which is too long for it"])


@pytest.mark.parametrize(("before", "after", "said"), [
    (9, 5, ["p006.png to p009.png are from before, and no part of this video"]),
    (6, 5, ["p006.png is from before, and no part of this video"]), (5, 5, []), (3, 5, []),
])  # fmt: skip
def test_images_that_were_there_before_are_named(tmp_path: Path, before: int, after: int, said: list[str]) -> None:
    format, name = tiny.y4m_format(), str(tmp_path / "p%03d.png")
    for count in (before, after):
        with media.open_sink(name, format, force=True) as sink:
            for frame in tiny.noise(format, count):
                sink.write(frame)
    assert sink.notes == said and len(list(tmp_path.iterdir())) == max(before, after)
