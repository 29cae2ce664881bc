"""encode and decode through pipes: any length in, any kind out, the same bits either way."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import read_frames
from test_encode import clip, saved, scene_frames, sora, tiny
from tiny import noise, write, y4m_format

from sora_cli import media
from sora_cli.media import y4m
from sora_cli.models.sora.vae import Vae
from sora_cli.storage import latent_file

__all__ = ["clip", "sora", "tiny"]  # fixtures


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))


def raw_of(stream: io.BytesIO) -> tuple[media.Format, list[bytes]]:
    format = y4m.read_format(stream)
    return format, list(y4m.read_frames(stream, format, "it"))


def as_y4m(path: Path) -> bytes:
    with media.open_source(str(path)) as source:
        return b"".join(y4m.stream(source, source.format))


def test_a_stream_is_encoded_like_the_file(
    sora: Callable[..., int], clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sora("encode", clip, "-o", "file.safetensors") == 0
    for name, data in (("y4m", as_y4m(clip)), ("mp4", clip.read_bytes())):
        stdin(monkeypatch, data)
        assert sora("encode", "-", "-o", f"{name}.safetensors") == 0
        made, header = latent_file.load(f"{name}.safetensors")
        assert (header.frames, header.fps, header.video) == (22, 24.0, "")
        assert torch.equal(made, latent_file.load("file.safetensors")[0])
    assert capsys.readouterr().out.split() == ["file.safetensors", "y4m.safetensors", "mp4.safetensors"]


def test_raw_frames_need_their_size_and_rate(
    sora: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = scene_frames(6, 90, 160).tobytes()
    stdin(monkeypatch, raw)
    assert sora("encode", "-", "-o", "a.safetensors", "--input-res", "160x90") == 2
    assert "rate" in capsys.readouterr().err and os.listdir() == []
    stdin(monkeypatch, raw)
    assert sora("encode", "-", "-o", "a.safetensors", "--input-res", "160x90", "--input-fps", 30) == 0
    header = latent_file.read_header("a.safetensors")
    assert (header.width, header.height, header.fps, header.frames) == (160, 90, 30.0, 6)
    stdin(monkeypatch, raw[:-1])
    assert sora("encode", "-", "-o", "b.safetensors", "--input-res", "160x90", "--input-fps", 30) == 1
    assert "frame 5" in capsys.readouterr().err and os.listdir() == ["a.safetensors"]


def test_numbered_images_odd_sides_and_another_size(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, frame in enumerate(scene_frames(3, 91, 161), 1):
        media.write_image(f"in{number:03}.png", frame)
    assert sora("encode", "in%03d.png", "--input-fps", 12) == 0
    err = capsys.readouterr().err
    assert "161x91 is taken as 162x92" in err and "--input-fps" not in err
    header = latent_file.read_header("in.safetensors")
    assert (header.width, header.height, header.fps, header.frames) == (162, 92, 12.0, 3)
    assert sora("encode", "in%03d.png", "--res", "96x64", "-o", "small.safetensors") == 0
    header = latent_file.read_header("small.safetensors")
    assert (header.width, header.height, header.video) == (96, 64, "")


@pytest.mark.parametrize("suffix", ["mp4", "y4m", "gif"])
def test_a_rate_for_what_has_its_own_is_noted(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    clip = write(f"a.{suffix}", y4m_format(64, 64, 10), noise(y4m_format(64, 64, 10), 10))
    for rate, said in ((5, True), (10, False)):
        assert sora("encode", clip, "-o", "a.safetensors", "--force", "--input-fps", rate) == 0
        line = f"a.{suffix}: --input-fps does nothing, because the file says 10 frames a second; --fps changes the rate"
        assert (line in capsys.readouterr().err) == said
        assert latent_file.read_header("a.safetensors").fps == 10


def test_an_endless_stream_ends_in_an_error(
    sora: Callable[..., int], clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["sora_cli.cli.encode"], "MOST_FRAMES", 10)
    assert sora("encode", clip, "-o", "a.safetensors") == 2
    assert "frames is 11" in capsys.readouterr().err and os.listdir() == []


def test_parts_in_a_pipe_have_the_bits_of_the_whole(
    sora: Callable[..., int], tiny: Vae, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(Path("a.safetensors"), tiny, 21)
    assert sora("decode", "a.safetensors", "-o", "a.y4m") == 0
    assert capsys.readouterr().out == "a.y4m\n"
    format, whole = raw_of(io.BytesIO(Path("a.y4m").read_bytes()))
    assert (format.size, format.fps, len(whole)) == ((320, 180), 24.0, 21)
    piped = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=piped, isatty=lambda: False, write=pytest.fail))
    assert sora("decode", "a.safetensors", "-o", "-", "--frames", "7:12", "--json") == 0
    piped.seek(0)
    assert raw_of(piped) == (format, whole[7:12])


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng", "mkv", "webm"])
def test_every_kind_of_output(sora: Callable[..., int], tiny: Vae, suffix: str) -> None:
    saved(Path("a.safetensors"), tiny, 5)
    assert sora("decode", "a.safetensors", "-o", f"a.{suffix}", "--res", "64x64", "--fps", 10) == 0
    if suffix == "webp":  # which ffmpeg writes but does not read
        from PIL import Image

        with Image.open("a.webp") as image:
            assert (image.n_frames, image.size) == (5, (64, 64))
        return
    found = media.probe(f"a.{suffix}")
    assert (found.width, found.height, found.frames, found.fps) == (64, 64, 5, 10.0)


def test_images_keep_the_colours(sora: Callable[..., int], tiny: Vae) -> None:
    """Numbered PNGs hold the decoded frames, but for rounding."""
    from sora_cli.pipelines.codec import Codec

    saved(Path("a.safetensors"), tiny, 5)
    assert sora("decode", "a.safetensors", "-o", "a%02d.png", "--dtype", "float32") == 0
    decoded = np.stack([*Codec(tiny, torch.device("cpu"), torch.float32).decode("a.safetensors")])
    found = np.stack([read_frames(f"a{n:02}.png")[0] for n in range(1, 6)])
    assert found.shape == (5, decoded.shape[1], 320, 3)
    assert np.abs(found.astype(int) - decoded).max() <= 3
    assert sora("decode", "a.safetensors", "-o", "a%02d.png") == 2  # they are there
