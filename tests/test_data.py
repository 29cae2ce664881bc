"""From a folder of clips to a dataset: every file accounted for, nothing done twice, nothing lost to a kill."""

import json
import random
import signal
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from test_engine import tiny_part
from typer.testing import CliRunner, Result

from sora_cli import registry
from sora_cli.cli import app
from sora_cli.dataset import build, captions, footage, scan, shards
from sora_cli.dataset.dataset import Dataset
from sora_cli.dataset.shards import identity
from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.media import ffmpeg
from sora_cli.models.sora.vae import from_weights

RUNNER = CliRunner()
ROW = {"kind": "video", "fps": 24.0, "size": (128, 96)}  # of a row of the index


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load_model_files", lambda model, stem: tiny_part("tiny", stem))


def run(*words: object) -> Result:
    return RUNNER.invoke(app, ["data", *map(str, words)])


def built(folder: Path, out: Path, *words: object) -> str:
    told = run("build", folder, "-o", out, "--size", "64x64", "--device", "cpu", "--dtype", "float32", *words)
    assert told.exit_code == 0, (told.output, told.exception)
    assert told.stdout == f"{out}\n"
    return told.stderr


def manifest(out: Path) -> dict[str, dict[str, Any]]:
    return {line["file"]: line for line in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}


def state(out: Path) -> dict[str, tuple[int, bytes]]:
    """Of every file: its inode, which changes when it is written again, and its content."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()}


def make(path: Path, *words: str, source: str = "testsrc2=d=1:s=128x96:r=24") -> Path:
    """A file that ffmpeg makes of one of its test pictures."""
    command = [ffmpeg(), "-loglevel", "error", "-y", "-f", "lavfi", "-i", source, *words, str(path)]
    subprocess.run(command, check=True)
    return path


H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (96, 72)) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every kind that people have, and of what is of no use."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "deep" / "er").mkdir(parents=True)
    two = "testsrc2=d=1:s=128x96:r=24[a];mandelbrot=s=128x96:r=24,trim=duration=1[b];[a][b]concat=n=2:v=1"
    make(folder / "h264.mp4", *H264, source=two)
    make(folder / "vp9.webm", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
    make(folder / "deep/er/prores.mov", "-c:v", "prores_ks")
    make(folder / "moving.gif", source="testsrc2=d=1:s=100x100:r=10")
    subprocess.run([ffmpeg(), "-loglevel", "error", "-display_rotation", "90", "-i", str(folder / "h264.mp4"), "-c",
                    "copy", str(folder / "rotated.mp4")], check=True)  # fmt: skip
    make(folder / "vfr.mkv", "-vf", "select='if(lt(n,15),1,not(mod(n,3)))'", "-fps_mode", "vfr", *H264,
         source="testsrc2=d=2:s=128x96:r=30")  # fmt: skip
    make(folder / "fast.mp4", *H264, source="testsrc2=d=1:s=128x96:r=60")
    make(folder / "black.mp4", *H264, source="color=black:d=1:s=128x96")
    make(folder / "frozen.mp4", "-vf", "loop=24:1:0,trim=end_frame=24", *H264, source="testsrc2=d=1:s=128x96:r=24")
    make(folder / "tiny.mp4", *H264, source="testsrc2=d=1:s=40x40:r=24")
    make(folder / "short.mp4", "-frames:v", "6", *H264)
    picture(folder / "still.png")
    picture(folder / "one colour.png", size=(64, 64))
    Image.new("RGB", (64, 64), "orange").save(folder / "one colour.png")
    whole = (folder / "h264.mp4").read_bytes()
    (folder / "corrupt.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.png").write_bytes((folder / "still.png").read_bytes()[:200])
    (folder / "empty.mov").touch()
    (folder / "h264.txt").write_text("a test card,\nthen a fractal\n")
    (folder / "deep/er/prores.json").write_text('{"caption": "a test card"}')
    (folder / "deep/er/README").write_text("not for us")
    return folder


@pytest.fixture(scope="module")
def dataset(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load_model_files", lambda model, stem: tiny_part("tiny", stem))
        built(clips, out)
    return out


# -- What becomes of files ----------------------------------------------------------------------------------


def test_a_thousand_files_are_accounted_for(tmp_path: Path) -> None:
    folder, out = tmp_path / "many", tmp_path / "dataset"
    for name in ("a", "b", "c/d"):
        (folder / name).mkdir(parents=True)
    places = [folder / "a", folder / "b", folder / "c" / "d", folder]
    for i in range(1000):
        place = places[i % 4]
        if i % 100 == 7:
            clip = place / f"{i}.gif"
            clip.touch() if i > 500 else make(clip, source="testsrc2=d=1:r=8:s=64x64")
        elif i % 10 == 1:
            (place / f"{i}.txt").write_text("a note")
        elif i % 10 == 2:
            (place / f"{i}.png").write_bytes(b"no picture")
        elif i % 50 == 3:
            (place / f"{i}.mp4").write_bytes(random.Random(i).randbytes(500))
        else:
            picture(place / f"{i}.{('png', 'jpg', 'bmp')[i % 3]}", i, (64, 64))
    said = built(folder, out)
    found = manifest(out)
    assert sorted(found) == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert len(found) == 1000 and list(found) == sorted(found)
    reasons = Counter(line["reason"].partition(":")[0] for line in found.values())
    assert reasons == {"": 775, "broken": 125, "not a video or image by its name": 100}
    assert all((line["state"] == "used") == (not line["reason"]) for line in found.values())
    names = [name for line in found.values() for shot in line["takes"] for name in shot["samples"]]
    assert len(Dataset(out)) == len(names) == len(set(names)) == 775
    assert "775 of 1000 files are usable" in said and "775 of 775 files have no caption" in said


def test_every_kind_of_footage_is_read_as_it_is_shown(dataset: Path) -> None:
    found = manifest(dataset)
    used = {file: line for file, line in found.items() if line["state"] == "used"}
    assert set(used) == {"h264.mp4", "vp9.webm", "deep/er/prores.mov", "moving.gif", "rotated.mp4", "vfr.mkv",
                         "fast.mp4", "still.png"}  # fmt: skip
    assert {file: (line["width"], line["height"]) for file, line in used.items() if line["width"] != 128} == {
        "moving.gif": (100, 100), "rotated.mp4": (96, 128), "still.png": (96, 72)}  # fmt: skip
    assert {file: round(line["fps"]) for file, line in used.items()} == {
        "h264.mp4": 24, "vp9.webm": 24, "deep/er/prores.mov": 24, "moving.gif": 10, "rotated.mp4": 24, "vfr.mkv": 30,
        "fast.mp4": 30, "still.png": 0}  # fmt: skip
    assert [(shot["begin"], shot["end"]) for shot in found["h264.mp4"]["takes"]] == [(0, 1), (1, 2)]  # its two shots
    assert used["h264.mp4"]["caption"] == "a test card, then a fractal"
    assert used["deep/er/prores.mov"]["caption_from"] == "deep/er/prores.json"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("corrupt.mp4", "broken: it is not a readable video: "),
        ("cut.png", "broken: it is not a readable image: "),
        ("empty.mov", "broken: it is empty"),
        ("black.mp4", "black"),
        ("frozen.mp4", "static: nothing moves"),
        ("tiny.mp4", "tiny: 40x40"),
        ("short.mp4", "too short: 0.25 s"),
        ("one colour.png", "of one colour"),
        ("h264.txt", "beside h264.mp4"),
        ("deep/er/README", "not a video or image by its name"),
    ],
)
def test_what_is_of_no_use_says_why(dataset: Path, file: str, reason: str) -> None:
    line = manifest(dataset)[file]
    assert line["state"] == "skipped" and line["reason"].startswith(reason)


def test_upright_by_its_tag_and_over_black(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 4), np.uint8)
    pixels[:, :40] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert footage.read_image(tmp_path / "a.png")[0, [0, 79]].tolist() == [[255, 0, 0], [0, 0, 0]]
    tag = Image.Exif()
    tag[0x0112] = 6  # a phone held upright
    Image.fromarray(pixels[..., :3]).save(tmp_path / "b.jpg", exif=tag)
    shown = footage.read_image(tmp_path / "b.jpg")
    assert shown.shape == (80, 40, 3) and shown[5, 20, 0] > 200 and shown[75, 20, 0] < 50


def test_fast_clips_are_thinned_evenly() -> None:
    assert [footage.decimated_fps(fps, 30) for fps in (24, 25, 50, 60, 120, 12)] == [24, 25, 25, 30, 30, 12]
    assert footage.decimated_fps(59.94, 30) == pytest.approx(29.97)


def test_pieces_have_whole_chunks_and_cover_a_shot() -> None:
    shots = (scan.VideoShot(10, 500),)
    record = scan.ScannedFile("a", kind="video", width=64, height=64, own_fps=24, fps=24, takes=shots)
    config = build.BuildConfig(Path(), Path(), seconds=4)
    made = list(build.samples_of(record, "", config))
    assert all(sample.frames % 4 == 1 and sample.frames <= 97 for sample in made)
    assert made[0].first == 10 and made[-1].first + made[-1].frames > 505
    gaps = [b.first - a.first - a.frames for a, b in zip(made, made[1:], strict=False)]
    assert all(0 <= gap < 4 for gap in gaps)


# -- Captions -----------------------------------------------------------------------------------------------


def test_a_table_of_captions_comes_before_what_lies_beside(clips: Path, tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text(f'file,caption\n./h264.mp4,"from, the table"\n{clips.resolve()}/still.png,a blur\nnowhere.mp4,x\n')
    found = captions.Captions(clips, scan.files_of(clips, tmp_path), table)
    assert found.of("h264.mp4") == captions.Caption("from, the table", "captions.csv")
    assert found.of("still.png").text == "a blur" and found.of("deep/er/prores.mov").text == "a test card"
    assert found.of("vp9.webm") == captions.Caption() and found.unmatched == ["nowhere.mp4"]
    lines = tmp_path / "captions.jsonl"
    lines.write_text('{"file": "vp9.webm", "caption": "a card"}\n\n')
    assert captions.read_table(lines) == ([("line 1", "vp9.webm", "a card")], "")


# -- What a dataset holds -----------------------------------------------------------------------------------


def test_samples_are_the_latents_of_their_frames(dataset: Path, clips: Path) -> None:
    data, vae = Dataset(dataset), from_weights(*tiny_part("tiny", "vae"))
    shots = [shot for line in manifest(dataset).values() for shot in line["takes"]]
    assert len(data) == len(data.shapes) == sum(len(shot["samples"]) for shot in shots)
    for i, row in enumerate(data.rows):
        latents, seconds, caption = data[i]
        assert latents.dtype == torch.float32 and tuple(latents.shape[1:]) == data.shapes[i]
        assert latents.shape[1] == 1 + (row["frames"] - 1) // 4
        assert row["canvas"] == [latents.shape[3] * 16, latents.shape[2] * 16]
        assert len(seconds) == latents.shape[1] and caption == row["caption"]
    i = next(i for i, row in enumerate(data.rows) if row["file"] == "h264.mp4" and row["first"] == 24)
    assert data[i][1].tolist() == pytest.approx([k / 6 for k in range(6)])
    frames = footage.read(clips / "h264.mp4", ROW, 24, 21, tuple(data.rows[i]["canvas"]))
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    assert torch.allclose(data[i][0], vae.encode(video)[0], atol=2e-3)


def test_a_shot_begins_with_its_own_first_frame(clips: Path) -> None:
    before = footage.read(clips / "h264.mp4", ROW, 23, 1, (64, 64))[0].astype(int)
    first, second = footage.read(clips / "h264.mp4", ROW, 24, 2, (64, 64)).astype(int)
    assert abs(first - second).mean() < 15 < abs(first - before).mean()


def test_shards_are_plain_tar_files_for_others(dataset: Path) -> None:
    (path,) = dataset.glob("*.tar")
    with tarfile.open(path) as tar:
        names = tar.getnames()
        tensors = load(tar.extractfile("00000000.safetensors").read())  # type: ignore[union-attr]
        row = json.load(tar.extractfile("00000000.json"))  # type: ignore[arg-type]
    assert names[:2] == ["00000000.safetensors", "00000000.json"]
    assert set(tensors) == {"latents", "features"} and tensors["latents"].dtype == torch.float16
    assert row["file"] == "deep/er/prores.mov" and row["seconds"] == pytest.approx(1 / 6) and row["end"] == 0.875


def test_captions_are_features_of_the_text_tower(dataset: Path) -> None:
    from sora_cli.models.sora.text import from_weights as text_from

    data = Dataset(dataset)
    tokenizer, tower = text_from(*tiny_part("tiny", "text"))
    said = data.captions.index("a test card")
    found = data.features(said)
    assert found is not None and torch.allclose(found, tower(tokenizer.encode(["a test card"]))[0][0], atol=5e-3)
    silent = data.features(data.captions.index(""))
    assert silent is not None and not silent.any()
    assert data.features(said, "another") is None and data.features(said, data.text) is not None


def test_another_vae_is_refused_and_another_decoder_is_not(dataset: Path) -> None:
    tensors, header = tiny_part("tiny", "vae")
    data = Dataset(dataset)
    data.check_vae(identity(tensors, header))
    decoder = {k: v + 1 if k.startswith("decoder.") else v for k, v in tensors.items()}
    data.check_vae(identity(decoder, header))
    with pytest.raises(SoraError, match="are of another VAE; give theirs with --vae, or make them again: `sora-cli"):
        data.check_vae(identity(tensors | {"std": tensors["std"] * 2}, header))


def test_frames_are_crops_of_the_sources(dataset: Path, clips: Path) -> None:
    data = Dataset(dataset)
    video = data.frames(random.Random(0), 6, 5, 48, 32)
    assert video.shape == (6, 3, 5, 48, 32) and -1 <= video.min() < -0.5 and 0.5 < video.max() <= 1
    assert torch.equal(video, data.frames(random.Random(0), 6, 5, 48, 32))
    assert not torch.equal(video, data.frames(random.Random(1), 6, 5, 48, 32))
    assert (video.diff(dim=2).abs().mean((1, 3, 4)) > 0).all()  # neighbours, but not the same frame
    assert data.frames(random.Random(0), 3, 1, 128, 160).shape == (3, 3, 1, 128, 160)  # more than the canvas is
    with pytest.raises(SoraError, match=r"no shot of .* has 999 frames; the longest has"):
        data.check_frames(999)


def test_sources_that_are_gone_are_named(tmp_path: Path) -> None:
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    picture(folder / "a.png")
    built(folder, out)
    before = state(out)
    folder.rename(tmp_path / "moved")
    with pytest.raises(Failed, match=r"a\.png is gone; `sora-cli data build FOLDER"):
        Dataset(out).check_frames(1)
    with pytest.raises(Failed, match=r"a\.png is gone; `sora-cli data build FOLDER"):
        Dataset(out).frames(random.Random(0), 1, 1, 32, 32)
    told = run("show", out, "--sheet", tmp_path / "sheet.png")
    assert isinstance(told.exception, Failed) and "gone" in str(told.exception)
    built(tmp_path / "moved", out)
    Dataset(out).frames(random.Random(0), 1, 1, 32, 32)
    Dataset(out).check_frames(1)
    assert {k: v for k, v in before.items() if k.endswith(".tar")} == {
        k: v for k, v in state(out).items() if k.endswith(".tar")}  # fmt: skip
    picture(tmp_path / "moved" / "a.png", 7)
    with pytest.raises(Failed, match=r"a\.png has changed; `sora-cli data build`"):
        Dataset(out).check_frames(1)


# -- Again, and after a kill --------------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_says_so(dataset: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(dataset)
    monkeypatch.setattr(build.Networks, "encode", lambda *_: pytest.fail("it is encoded already"))
    for what in ("of_video", "of_image"):
        monkeypatch.setattr(scan, what, only_broken_ones(getattr(scan, what)))
    assert "nothing to do: 10 samples of 8 files were in" in built(clips, dataset)
    assert state(dataset) == before


def only_broken_ones(look: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Broken files are tried again every time: a disk may have been away."""
    def looked(path: Path, *rest: object) -> dict[str, Any]:
        assert path.name in ("corrupt.mp4", "cut.png"), "it is known already"
        return look(path, *rest)

    return looked


KILLED = """
import os, signal, sys
from tiny import install
install(setattr)
from sora_cli.dataset import build, scan
left = {step}
def deadly(function):
    def counted(*given):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given)
    return counted
if {scanning}:
    scan.examine = deadly(scan.examine)
else:
    build.Networks.encode = deadly(build.Networks.encode)
build.SHARD_BYTES = 12_000
from sora_cli.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(("scanning", "step"), [(True, 12), (False, 6)])
def test_a_killed_run_goes_on(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scanning: bool,
                              step: int) -> None:  # fmt: skip
    out, whole = tmp_path / "cut", tmp_path / "whole"
    words = ["data", "build", str(clips), "-o", str(out), "--size", "64x64", "--device", "cpu", "--dtype", "float32"]
    script = KILLED.format(step=step, scanning=scanning)
    killed = forked.run(script, *words, "--workers", "1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "index.jsonl").exists()
    with pytest.raises(SoraError, match="is not finished; `sora-cli data build` finishes it"):
        Dataset(out)
    finished = state(out)
    assert scanning or len([name for name in finished if name.endswith(".tar")]) > 1
    seen: list[str] = []
    examine, encode = scan.examine, build.Networks.encode
    monkeypatch.setattr(build, "SHARD_BYTES", 12_000)
    monkeypatch.setattr(scan, "examine", lambda *given: (seen.append(given[1].file), examine(*given))[1])
    built(clips, out)
    assert not list(out.glob("*.part")) and not (out / "scan.jsonl").exists()
    after = state(out)
    assert all(after[name] == there for name, there in finished.items() if name.endswith(".tar"))
    assert not scanning or "vp9.webm" in seen and "deep/er/prores.mov" not in seen
    monkeypatch.setattr(build.Networks, "encode", encode)
    built(clips, whole)
    assert {name: content for name, (_, content) in state(whole).items()} == {
        name: content for name, (_, content) in after.items()}  # fmt: skip


def test_new_files_and_captions_cost_only_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    for i in range(4):
        picture(folder / f"{i}.png", i)
    built(folder, out)
    before = Dataset(out)
    kept = {row["file"]: before[i][0] for i, row in enumerate(before.rows)}
    picture(folder / "00.png", 9)  # it comes first
    (folder / "2.txt").write_text("a cat")
    encoded: list[int] = []
    encode = build.Networks.encode
    monkeypatch.setattr(build.Networks, "encode", lambda *given: (encoded.append(len(given[1])), encode(*given))[1])
    built(folder, out)
    data = Dataset(out)
    assert encoded == [1] and len(list(out.glob("*.tar"))) == 1
    assert data.captions == ["", "", "", "a cat", ""]
    assert all(torch.equal(data[i][0], kept[row["file"]]) for i, row in enumerate(data.rows) if row["file"] != "00.png")
    (folder / "1.png").unlink()
    assert "4 samples of 4 files are in" in built(folder, out) and len(Dataset(out)) == 4


def test_another_vae_encodes_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    picture(folder / "a.png")
    built(folder, out)
    before = Dataset(out)[0][0]
    tensors, header = tiny_part("tiny", "vae")
    weights.save(tmp_path / "vae.safetensors", tensors | {"std": tensors["std"] * 2}, header)
    built(folder, out, "--vae", tmp_path / "vae.safetensors")
    assert torch.allclose(Dataset(out)[0][0], before / 2, atol=1e-3)


def test_a_file_that_goes_away_meanwhile_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        picture(folder / name)
    load = build.Networks.load
    monkeypatch.setattr(build.Networks, "load", lambda *given: ((folder / "a.png").unlink(), load(*given))[1])
    built(folder, out)
    line = manifest(out)["a.png"]
    assert (line["state"], line["reason"]) == ("skipped", build.UNREAD) and len(Dataset(out)) == 1


# -- Words --------------------------------------------------------------------------------------------------


def test_show_counts_and_draws(dataset: Path, tmp_path: Path) -> None:
    told = run("show", dataset, "--json", "--sheet", tmp_path / "sheet.png")
    assert told.exit_code == 0, told.exception
    found = json.loads(told.stdout)
    assert (found["files"], found["videos"], found["images"], found["samples"]) == (19, 7, 1, 10)
    assert found["skipped"]["broken"] == 3 and found["captions"]["none"] == 6
    assert sum(found["lengths"].values()) == 10 and found["seconds"] == pytest.approx(9.5, abs=1)
    with Image.open(tmp_path / "sheet.png") as page:
        assert page.width > 900 and len(page.getcolors(1 << 24)) > 1000
    plain = run("show", dataset).stdout
    assert "7 videos and 1 image used" in plain and "broken: 3" in plain


def test_what_cannot_be_built_is_refused(clips: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").touch()
    for words, said in [
        ((tmp_path / "nowhere", "-o", tmp_path / "a"), "there is no folder"),
        ((clips, "-o", clips), "is the folder of the clips"),
        ((clips, "-o", tmp_path / "full"), "is neither empty nor a dataset"),
        ((tmp_path / "full", "-o", dataset), "is the dataset of"),
        ((clips, "-o", tmp_path / "a", "--size", "big"), "WIDTHxHEIGHT"),
        ((clips, "-o", tmp_path / "a", "--vae", tmp_path / "no.safetensors"), "there is no file"),
        ((tmp_path / "none", "-o", tmp_path / "b"), "nothing in"),
    ]:
        told = run("build", *words)
        assert isinstance(told.exception, SoraError) and said in str(told.exception), told.exception
    assert not (tmp_path / "a").exists()
    told = run("show", tmp_path / "full")
    assert isinstance(told.exception, SoraError) and "is not a dataset; `sora-cli data build" in str(told.exception)


def test_a_dataset_may_lie_among_the_clips(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    built(tmp_path, tmp_path / "dataset")
    assert "nothing to do" in built(tmp_path, tmp_path / "dataset")
    assert list(manifest(tmp_path / "dataset")) == ["a.png"]


def test_damage_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    picture(tmp_path / "clips" / "a.png")
    built(tmp_path / "clips", tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*.tar")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(Failed, match=r"is not whole: .* has 900 bytes"):
        Dataset(tmp_path / "out")
    index = tmp_path / "out" / shards.INDEX
    index.write_text(index.read_text().splitlines()[0] + "\n")
    with pytest.raises(Failed, match="is damaged"):
        Dataset(tmp_path / "out")


STRANGE: list[tuple[int, dict[str, Any]]] = [  # lines of an index, and what they say instead
    (0, {"vae": None}), (0, {"source": 3}), (0, {"shards": []}), (0, {"channels": "x"}), (0, {"shards": {"a.tar": 5}}),
    (1, {"shard": None}), (1, {"offset": "x"}), (1, {"shape": [6, 1]}), (1, {"shape": [6, 1, 999, 2]}),
    (1, {"caption": 5}), (1, {"caption": "another"}), (1, {"crc32": None}), (1, {"canvas": "64x64"}),
]  # fmt: skip


def test_what_an_index_or_a_manifest_says_is_not_believed(tmp_path: Path) -> None:
    """Lines of strangers, and bits that flipped, are a line and no traceback, and a build makes them good."""
    (tmp_path / "clips").mkdir()
    picture(tmp_path / "clips" / "a.png")
    out = tmp_path / "out"
    built(tmp_path / "clips", out)
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    for number, change in STRANGE:
        lines = shards.read_lines(out / shards.INDEX)
        lines[number] |= change
        shards.write_lines(out / shards.INDEX, lines)
        told = run("show", out)
        assert isinstance(told.exception, Failed) and "index.jsonl is damaged" in str(told.exception), change
        built(tmp_path / "clips", out)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == whole, change
    manifest = whole["manifest.jsonl"].decode()
    pairs = [('"image"', "5"), ('"first": 0', '"first": "0"'), ("96", "0"), ("[0, 0, 0, 0]", "5"),
             ("[0, 0, 0, 0]", "[0]"), ('"notes": []', '"notes": 5'), ('"notes": []', '"notes": [[]]')]  # fmt: skip
    others = [manifest.replace(*pair) for pair in pairs]
    for line in ("{}", '{"file": "a.png"}', *others):
        (out / shards.MANIFEST).write_text(line)
        (out / shards.SCAN).write_text(line)
        assert isinstance(run("show", out).exception, Failed), line
        built(tmp_path / "clips", out)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == whole, line


def test_a_dataset_of_strangers_costs_no_file_of_others(tmp_path: Path) -> None:
    """Its index may name files that are no shards, its samples may lack what a build asks of them."""
    (tmp_path / "clips").mkdir()
    picture(tmp_path / "clips" / "a.png")
    out = tmp_path / "out"
    built(tmp_path / "clips", out)
    others = [tmp_path / "beside.txt", out / "notes.txt", tmp_path / "clips" / "a.png"]
    for path in others[:2]:
        path.write_text("mine")
    header, row = shards.read_lines(out / shards.INDEX)
    names = ("../beside.txt", "notes.txt", str(others[2]))
    header["shards"] |= {name: {"bytes": 9, "crc32": 0} for name in names}
    del row["key"]
    shards.write_lines(out / shards.INDEX, [header | {"crc32": shards.lines_checksum(header, [row])}, row])
    with shards.writing(out / f"00009-{12 * '0'}.tar") as put:
        put("00000000", {"latents": torch.zeros(1)}, {"caption": "no key, no file"})
    assert "made again" in built(tmp_path / "clips", out)
    assert all(path.is_file() for path in others) and len(list(out.glob("*.tar"))) == len(Dataset(out)) == 1


def spoil(out: Path, how: str) -> None:
    (path,) = out.glob("*.tar")
    if how == "a shard is gone":
        path.unlink()
    elif how == "a shard is cut":
        path.write_bytes(path.read_bytes()[:3000])
    elif how == "zeros in a shard":
        content, (_, row) = bytearray(path.read_bytes()), shards.read_lines(out / shards.INDEX)[:2]
        end = row["offset"] + row["bytes"]
        content[end - 90 : end] = bytes(90)
        path.write_bytes(content)
    elif how == "the index is cut":
        (out / shards.INDEX).write_text((out / shards.INDEX).read_text()[:-100])
    elif how == "the index is garbage":
        (out / shards.INDEX).write_bytes(b"\x00" * 500)
    else:
        (out / shards.MANIFEST).unlink()


@pytest.mark.parametrize("how", ["a shard is gone", "a shard is cut", "zeros in a shard", "the index is cut",
                                 "the index is garbage", "the manifest is gone"])  # fmt: skip
def test_what_is_damaged_is_made_again(tmp_path: Path, how: str) -> None:
    (tmp_path / "clips").mkdir()
    for number in range(3):
        picture(tmp_path / "clips" / f"{number}.png", number)
    built(tmp_path / "clips", tmp_path / "out")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    spoil(tmp_path / "out", how)
    shown = run("show", tmp_path / "out")
    assert how == "zeros in a shard" or shown.exception or "damaged  " in shown.stdout, shown.stdout
    if how == "zeros in a shard":
        with pytest.raises(Failed, match="is damaged"):
            _ = Dataset(tmp_path / "out")[0]
    said = built(tmp_path / "clips", tmp_path / "out")
    assert "nothing to do" not in said and ("made again" in said) == ("shard" in how), said
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole
    assert "nothing to do: 3 samples of 3 files" in built(tmp_path / "clips", tmp_path / "out")
