"""encode, decode and info: what goes in comes out, frame by frame, and nonsense is one line."""

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import read_frames, write_frames
from einops import rearrange
from typer.testing import CliRunner

from sora_cli import cli, geometry, media, registry
from sora_cli.cli.jobs import Job
from sora_cli.cli.target import Target
from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.models.sora.vae import Vae, VaeConfig
from sora_cli.pipelines.codec import Codec, whole_chunks
from sora_cli.shot import Shot
from sora_cli.storage import latent_file
from sora_cli.world.render import render
from sora_cli.world.scene import sample_scene

CONFIG = VaeConfig(space=4, details=0, time=2, deep=8, wide=8, paint=8, tail=8, blocks=1, memory=2, zoom=1)
SHOT = Shot("a cat surfing", width=320, height=180, frames=22)


def scene_frames(count: int, height: int = 180, width: int = 320) -> np.ndarray:
    """A clip of the world, uint8 [T, h, w, 3]."""
    pictures = render([sample_scene(random.Random(3))], torch.arange(count)[None] / 24, height, width)
    return (rearrange(pictures[0], "T C h w -> T h w C") * 255).round().to(torch.uint8).numpy()


def write(path: Path, frames: np.ndarray, tags: dict[str, object]) -> Path:
    return write_frames(path, frames, frames.shape[2:0:-1], metadata=tags)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", scene_frames(22), {"sora": SHOT.to_json()})


@pytest.fixture(scope="module")
def tiny() -> Vae:
    """Random weights, but for pictures that are not all the same grey."""
    torch.manual_seed(0)
    vae = Vae(CONFIG).eval().requires_grad_(False)
    for p in vae.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return vae


@pytest.fixture
def sora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Vae) -> Callable[..., int]:
    """Run one command line in an empty folder with a tiny autoencoder; returns the exit code."""
    header = {"config": json.dumps(asdict(CONFIG))}
    monkeypatch.setattr(registry, "load_model_files", lambda model, stem: (tiny.state_dict(), header))
    monkeypatch.setattr(registry, "verify", lambda model: None)
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli.run([str(word) for word in words], debug="--debug" in words)


def codec(vae: Vae) -> Codec:
    return Codec(vae, torch.device("cpu"), torch.float32)


# ---- the codec against the autoencoder --------------------------------------------------------------------


def test_a_file_holds_what_encode_gives_and_decodes_to_what_decode_gives(
    sora: Callable[..., int], clip: Path, tiny: Vae
) -> None:
    assert sora("encode", clip, "-o", "a.safetensors", "--dtype", "float32") == 0
    made, header = latent_file.load("a.safetensors")
    assert (header.width, header.height, header.fps, header.frames, header.lead) == (320, 180, 24.0, 22, 0)
    assert (header.vae, header.shot) == (latent_file.vae_of(registry.entry("pocket")), SHOT.to_json())
    assert header.video == weights.hash_of(clip)
    with media.open_source(str(clip)) as source:
        frames = np.stack([*media.to_rgb(source, source.format, (320, 180))])
    frames = frames[[*range(22), 21, 21, 21]]  # 22 -> 25 = 1 + 4 * 6
    video = rearrange(torch.from_numpy(frames), "T h w C -> 1 C T h w").float() / 127.5 - 1
    edges = torch.cat([video[..., :1, :]] * 6 + [video] + [video[..., -1:, :]] * 6, -2)  # 180 -> 192
    whole = tiny.encode(edges)
    assert torch.allclose(made, whole[0], atol=1e-5)
    decoded = np.stack([*codec(tiny).decode("a.safetensors")])
    expected = ((tiny.decode(whole)[0, :, :22, 6:186] + 1) * 127.5).round().to(torch.uint8)
    assert decoded.std() > 1
    assert np.abs(decoded.astype(int) - rearrange(expected, "C T h w -> T h w C").numpy()).max() <= 1


def saved(path: Path, vae: Vae, frames: int, **more: object) -> latent_file.Header:
    """Random latents of a 320x180 video."""
    header = latent_file.Header("pocket", latent_file.vae_of(registry.entry("pocket")), 320, 180, 24.0, frames, **more)  # type: ignore[arg-type]
    made = torch.randn(6, header.latents, 12, 20, generator=torch.Generator().manual_seed(0))
    latent_file.save(path, made, header)
    return header


@pytest.mark.parametrize("more", [{}, {"lead": 3}, {"cyclic": True}, {"cyclic": True, "lead": 2}])
def test_a_part_is_exactly_that_part_of_the_whole(tmp_path: Path, tiny: Vae, more: dict[str, object]) -> None:
    saved(tmp_path / "a.safetensors", tiny, 40, **more)
    whole = np.stack([*codec(tiny).decode(tmp_path / "a.safetensors")])
    assert whole.shape == (40, 180, 320, 3)
    for wanted in (range(10, 20), range(0, 1), range(39, 40), range(17, 36)):
        part = np.stack([*codec(tiny).decode(tmp_path / "a.safetensors", wanted)])
        assert np.array_equal(part, whole[wanted.start : wanted.stop]), wanted


def test_a_part_reads_only_its_latents(tmp_path: Path, tiny: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "a.safetensors", tiny, 40)
    read, load = [], latent_file.load
    monkeypatch.setattr(latent_file, "load", lambda path, *at: read.append(at) or load(path, *at))
    assert len([*codec(tiny).decode(tmp_path / "a.safetensors", range(33, 36))]) == 3
    assert read == [(6, 2), (8, 2)]  # latents 6 and 7 for their last key frame, and 8 and 9, which are frames 29-36


def test_a_loop_goes_on_where_it_began(tmp_path: Path, tiny: Vae) -> None:
    """Rotating a loop's latents by one rotates its frames by four (up to rounding: the groups are others)."""
    header = saved(tmp_path / "a.safetensors", tiny, 20, cyclic=True)
    made, _ = latent_file.load(tmp_path / "a.safetensors")
    latent_file.save(tmp_path / "b.safetensors", made.roll(1, 1), header)
    one, other = (np.stack([*codec(tiny).decode(tmp_path / f"{name}.safetensors")]) for name in "ab")
    assert np.abs(np.roll(one, 4, 0).astype(int) - other).max() <= 1


def test_the_lead_is_dropped(tmp_path: Path, tiny: Vae) -> None:
    header = saved(tmp_path / "a.safetensors", tiny, 19, lead=2)
    made, _ = latent_file.load(tmp_path / "a.safetensors")
    latent_file.save(tmp_path / "b.safetensors", made, replace(header, lead=0, frames=21))
    one, other = (np.stack([*codec(tiny).decode(tmp_path / f"{name}.safetensors")]) for name in "ab")
    assert np.array_equal(one, other[2:])  # not even rounding differs


def test_encoding_holds_a_few_frames_at_a_time(tiny: Vae) -> None:
    """After each piece of latents no more has been taken from the source than they need."""
    taken = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal taken
        for frame in scene_frames(4).repeat(15, 0):
            taken += 1
            yield frame

    covered = 0
    for piece in codec(tiny).encode(source(), geometry.canvas(320, 180)):
        covered += piece.shape[1]
        assert taken <= 1 + 4 * (covered - 1) + 1 or taken == 60
    assert covered == geometry.latents_for(60)


@pytest.mark.parametrize(("count", "due"), [(0, 0), (1, 1), (2, 5), (5, 5), (6, 9), (8, 9), (9, 9)])
def test_chunks_are_filled_with_the_last_frame(count: int, due: int) -> None:
    pictures = [np.full((2, 2, 3), i, np.uint8) for i in range(count)]
    filled = [int(p[0, 0, 0]) for p in whole_chunks(pictures)]
    assert filled == [*range(count), *[count - 1] * (due - count)]


def test_pictures_are_scaled_into_the_canvas_and_their_edges_repeated(tiny: Vae) -> None:
    """Against Pillow's reduction of the same picture."""
    from PIL import Image

    canvas = geometry.canvas(640, 360)
    picture = scene_frames(1, 360, 640)[0]
    size = canvas.crop_width, canvas.crop_height
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)).astype(float)
    rows = range(canvas.top, canvas.top + canvas.crop_height)
    x = rearrange((codec(tiny).frame(picture, canvas) + 1) * 127.5, "C h w -> h w C").numpy()
    assert x.shape == (canvas.height, canvas.width, 3) and canvas.top > 0
    assert np.abs(x[rows] - small).mean() < 0.5
    assert np.array_equal(x[0], x[canvas.top]) and np.array_equal(x[-1], x[rows[-1]])


def test_latents_of_another_width_are_refused(tmp_path: Path, tiny: Vae) -> None:
    header = latent_file.Header("pocket", "ab" * 32, 320, 180, 24.0, 1)
    latent_file.save(tmp_path / "a.safetensors", torch.zeros(7, 1, 12, 20), header)
    with pytest.raises(Failed, match="7 channels, but the autoencoder has 6"):
        list(codec(tiny).decode(tmp_path / "a.safetensors"))


# ---- the command line -------------------------------------------------------------------------------------


def test_the_shipped_autoencoder_keeps_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip of the world through encode and decode, both from the command line: above 20 dB."""
    monkeypatch.chdir(tmp_path)
    frames = scene_frames(10)
    write(Path("clip.mp4"), frames, {})
    runner = CliRunner()
    for words in (["encode", "clip.mp4", "-o", "a.safetensors"], ["decode", "a.safetensors", "-o", "back.mp4"]):
        done = runner.invoke(cli.app, words)
        assert done.exit_code == 0 and done.stdout == f"{words[-1]}\n", done.output
    back = np.stack(read_frames("back.mp4"))
    error = np.mean((back.astype(float) - frames) ** 2)
    assert 10 * np.log10(255**2 / error) > 20
    assert sorted(os.listdir()) == ["a.safetensors", "back.mp4", "clip.mp4"]


def test_decode_as_it_was_or_as_asked(
    sora: Callable[..., int], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sora("encode", clip, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["output"], made["frames"], made["latents"]) == ("clip.safetensors", 22, 7)
    assert sora("decode", "clip.safetensors") == 0
    found = media.probe("clip.mp4")
    assert (found.width, found.height, found.fps, found.frames) == (320, 180, 24.0, 22)
    assert Shot.from_json(found.metadata["sora"]) == SHOT
    part = ("--frames", "10:20", "--res", "96x64", "--fps", 12, "-o", "part.mp4")
    assert sora("decode", "clip.safetensors", *part) == 0
    found = media.probe("part.mp4")
    assert (found.width, found.height, found.fps, found.frames) == (96, 64, 12.0, 10)
    assert "sora" not in found.metadata  # it is not that shot any more


@pytest.mark.parametrize("verb, suffix", [("encode", ".safetensors"), ("decode", ".mp4")])
def test_a_job_that_is_made_elsewhere_is_written_there(
    verb: str, suffix: str, sora: Callable[..., int], clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node of a cluster that does not see the output's folder."""
    assert sora("encode", clip, "-o", "a.safetensors") == 0
    os.mkdir("there")
    carry_out = Job.carry_out

    def elsewhere(job: Job, *how: Any) -> None:
        target = replace(job.target, name=f"there/{job.target.name}")
        job.check(target)
        carry_out(job, *how, target)

    monkeypatch.setattr(Job, "carry_out", elsewhere)
    assert sora(verb, clip if verb == "encode" else "a.safetensors", "-o", f"b{suffix}") == 0
    assert os.listdir("there") == [f"b{suffix}"] and not Path(f"b{suffix}").exists()


def test_one_process_at_a_time_writes_a_file(
    sora: Callable[..., int], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sora("encode", clip, "-o", "a.safetensors") == 0
    for words, out in (("encode", str(clip)), "b.safetensors"), (("decode", "a.safetensors"), "b.mp4"):
        with Target(name=out).own:
            capsys.readouterr()
            assert sora(*words, "-o", out) == 2
            assert f"{out} is in use by process {os.getpid()} on" in capsys.readouterr().err
        assert not Path(out).exists() and sora(*words, "-o", out, "--quiet") == 0
        assert sorted(path.name for path in Path().glob("b.*")) == sorted({"b.safetensors", out})


def test_one_frame_is_an_image(sora: Callable[..., int], clip: Path) -> None:
    assert sora("encode", clip, "-o", "a.safetensors") == 0
    assert sora("decode", "a.safetensors", "--frames", "21:") == 0
    assert media.probe("a.png").frames == 1
    assert sora("encode", "a.png", "-o", "b.safetensors") == 0
    assert latent_file.read_header("b.safetensors").frames == 1
    assert latent_file.load("b.safetensors")[0].shape == (6, 1, 12, 20)


def test_odd_sides_become_even(sora: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = scene_frames(2, 91, 161)
    media.write_image("a.png", frames[0])
    assert sora("encode", "a.png") == 0
    header = latent_file.read_header("a.safetensors")
    assert (header.width, header.height) == (162, 92)


def complaint(sora: Callable[..., int], capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code and the line; nothing else was said and nothing written."""
    before = sorted(os.listdir())
    code = sora(*words)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("sora-cli: ") and err.count("\n") == 1, (out, err)
    assert sorted(os.listdir()) == before
    return code, err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("encode", "nowhere.mp4"), 2, "no file nowhere.mp4"),
        (("encode", "."), 2, ". is a folder"),
        (("encode", "noise.mp4"), 1, "not a readable video"),
        (("encode", "clip.mp4", "-o", "a.mp4"), 2, "must end in .safetensors"),
        (("encode", "clip.mp4", "-o", "no/a.safetensors"), 2, "no folder no"),
        (("encode", "clip.mp4", "-o", "a.safetensors"), 2, "--force"),
        (("encode", "clip.mp4", "--model", "veo"), 2, "known models: pocket"),
        (("encode", "clip.mp4", "--fps", "nan", "-o", "e.safetensors"), 2, "from 1 to 120"),
        (("encode", "-"), 2, "give -o NAME.safetensors"),
        (("encode", "gap%05d.png"), 2, "no numbered images like gap00001.png"),
        (("encode", "tiny.png"), 2, "8x8 is out of range"),
        (("decode", "nowhere.safetensors"), 2, "no file nowhere"),
        (("decode", "clip.mp4"), 1, "is not a file of latents"),
        (("decode", "noise.mp4"), 1, "is not a file of latents"),
        (("decode", "a.safetensors", "-o", "clip.mp4"), 2, "--force"),
        (("decode", "a.safetensors", "-o", "a.txt"), 2, "must end in .mp4, .mov"),
        (("decode", "a.safetensors", "-o", "a.gif", "--fps", "60"), 2, "at most 50 frames a second"),
        (("decode", "a.safetensors", "-o", "a.png"), 2, "21 frames are requested"),
        (("decode", "a.safetensors", "--frames", "20:10"), 2, "21 frames: 0:21"),
        (("decode", "a.safetensors", "--frames", "5:5"), 2, "0:21"),
        (("decode", "a.safetensors", "--frames", "10:22"), 2, "0:21"),
        (("decode", "a.safetensors", "--frames", "7"), 2, "10:20"),
        (("decode", "a.safetensors", "--frames", "-3:"), 2, "10:20"),
        (("decode", "a.safetensors", "--res", "97x64"), 2, "nearest is 98x64"),
        (("decode", "a.safetensors", "--fps", "0"), 2, "from 1 to 120"),
        (("decode", "a.safetensors", "--fps", "nan"), 2, "from 1 to 120"),
        (("decode", "a.safetensors", "--model", "veo"), 2, "known models: pocket"),
        (("decode", "b.safetensors"), 2, "abababababab of pocket, but that of pocket is"),
        (("decode", "c.safetensors"), 2, "known models: pocket"),
        (("info", "nowhere.mp4"), 2, "no file nowhere"),
        (("info", "noise.mp4"), 1, "not a readable video"),
        (("info", "noise.png"), 1, "not a readable image"),
        (("info", "d.safetensors"), 1, "truncated or not safetensors"),
    ],
)
def test_nonsense_is_one_line(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], clip: Path, tiny: Vae,
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str,
) -> None:  # fmt: skip
    os.symlink(clip, "clip.mp4")
    Path("noise.mp4").write_bytes(random.Random(0).randbytes(5000))
    Path("noise.png").write_bytes(b"\x89PNG\r\n\x1a\n" + random.Random(0).randbytes(5000))
    Path("d.safetensors").write_bytes(b"\xff" * 99)
    media.write_image("tiny.png", np.zeros((8, 8, 3), np.uint8))
    header = saved(Path("a.safetensors"), tiny, 21)
    latent_file.save("b.safetensors", torch.zeros(6, 6, 12, 20), replace(header, vae="ab" * 32))
    latent_file.save("c.safetensors", torch.zeros(6, 6, 12, 20), replace(header, model="wan"))
    monkeypatch.setitem(sys.modules, "sora_cli.pipelines.codec", None)  # refused before any network is touched
    found, line = complaint(sora, capsys, *words)
    assert found == code and said in line, line


def test_poison_is_found_on_the_way(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], tiny: Vae
) -> None:
    header = saved(Path("a.safetensors"), tiny, 40)
    bad, _ = latent_file.load("a.safetensors")
    bad[0, 9] = float("nan")
    weights.save("a.safetensors", {"latents": bad}, latent_file.to_strings(header))
    code, line = complaint(sora, capsys, "decode", "a.safetensors", "-o", "a.mp4")
    assert code == 1 and "not finite" in line


def test_a_file_that_changes_is_seen(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = iter(("ab" * 32, "cd" * 32))
    monkeypatch.setattr(weights, "hash_of", lambda path: next(hashes))
    code, line = complaint(sora, capsys, "encode", clip)
    assert code == 1 and "changed while it was read" in line


# ---- info -------------------------------------------------------------------------------------------------


def told(sora: Callable[..., int], capsys: pytest.CaptureFixture[str], file: object) -> tuple[dict, str]:
    """What info says as JSON and as a table."""
    capsys.readouterr()
    assert sora("info", file, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert sora("info", file) == 0
    return found, capsys.readouterr().out


def test_info_of_a_video(sora: Callable[..., int], capsys: pytest.CaptureFixture[str], clip: Path) -> None:
    found, table = told(sora, capsys, clip)
    assert found["kind"] == "video" and found["shot"] == json.loads(SHOT.to_json())
    assert (found["width"], found["height"], found["fps"], found["frames"]) == (320, 180, 24, 22)
    assert (found["codec"], found["seconds"]) == ("h264", 0.917)
    for row in ("kind         video, H.264 in MP4, ", "picture      320x180\n", "0.917 s: 22 frames, 24 a second\n",
                "colours      4:2:0, 8 bits\n", "sound        none\n", "prompt       a cat surfing\n"):  # fmt: skip
        assert row in table


@pytest.mark.parametrize(
    ("tags", "shot", "row"),
    [({}, None, "made from    unknown: "), ({"sora": "\x9b2J{"}, "not a shot: ", "made from    not a shot: ")],
)
def test_info_of_a_stranger(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], tags: dict[str, object], shot: str | None, row: str
) -> None:
    found, table = told(sora, capsys, write(Path("a.mp4"), scene_frames(2), tags))
    assert found["shot"] == shot if shot is None else found["shot"].startswith(shot)
    assert row in table and all(letter.isprintable() or letter == "\n" for letter in table)


def test_info_of_an_image(sora: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    media.write_image("a.png", scene_frames(1, 360, 640)[0], {"sora": SHOT.to_json()})
    found, table = told(sora, capsys, "a.png")
    assert found == {"file": "a.png", "kind": "image", "width": 640, "height": 360, "shot": json.loads(SHOT.to_json())}
    assert "picture      640x360\n" in table and "prompt       a cat surfing\n" in table
    media.write_image("b.png", scene_frames(1)[0])
    assert told(sora, capsys, "b.png")[0]["shot"] is None


def test_info_of_latents(sora: Callable[..., int], capsys: pytest.CaptureFixture[str], tiny: Vae) -> None:
    header = saved(Path("a.safetensors"), tiny, 21, shot=SHOT.to_json(), lead=1)
    found, table = told(sora, capsys, "a.safetensors")
    assert found["kind"] == "latents" and found["shot"] == json.loads(SHOT.to_json())
    assert {name: found[name] for name in asdict(header) if name != "shot"} | {"shot": SHOT.to_json()} == asdict(header)
    assert (found["shape"], found["dtype"]) == ([6, 7, 12, 20], "F32")
    assert "latents: 7 of 6 channels, 20x12 cells, in F32\n" in table and header.vae[:12] in table
    latent_file.save("b.safetensors", torch.zeros(6, 7, 12, 20), replace(header, shot=""))
    with pytest.raises(SoraError):
        Shot.from_json("")
    assert told(sora, capsys, "b.safetensors")[0]["shot"] is None
