"""What is a picture, an animation or a video, and what nobody put into a folder as footage: alike for all verbs."""

import subprocess
from collections import Counter
from pathlib import Path

import forked
import numpy as np
import pytest
from PIL import Image
from test_data import built, make, manifest, picture, run, tiny  # noqa: F401

from sora_cli import media
from sora_cli.cli.caption import files_of
from sora_cli.dataset import footage
from sora_cli.errors import SoraError
from sora_cli.media import kinds


def photo(size: tuple[int, int] = (96, 72), seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def kind_of(path: Path) -> str:
    built(path.parent, path.parent.parent / "out")
    line = manifest(path.parent.parent / "out")[path.name]
    return line["reason"] or line["kind"]


@pytest.mark.parametrize("name", ["a.avif", "a.jfif", "a.jpe", "a.jp2", "a.JPG", "a.tga", "a.ppm", "a.qoi", "a.webp"])
def test_pictures_by_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    photo().save(path, "jpeg" if name == "a.jfif" else None)
    assert kind_of(path) == "image" and files_of([str(path.parent)]) == ([str(path)], [])


@pytest.mark.parametrize("name", ["a.jpg", "a.mpo.jpeg", "pages.tif", "sizes.webp"])
def test_several_pictures_in_a_file_that_are_no_animation_are_the_first(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    kind = "TIFF" if name.endswith("tif") else "WEBP" if name.endswith("webp") else "MPO"
    more = [] if kind == "WEBP" else [photo(seed=1)]
    photo().save(path, kind, save_all=True, append_images=more)
    assert kind_of(path) == "image"
    assert np.abs(footage.read_image(path).astype(int) - np.asarray(Image.open(path).convert("RGB"))).max() <= 1


def test_an_animation_stays_one(tmp_path: Path) -> None:
    for name in ("a.webp", "a.png", "a.gif"):
        path = tmp_path / name[2:] / "in" / name
        path.parent.mkdir(parents=True)
        photo().save(path, save_all=True, append_images=[photo(seed=seed) for seed in range(1, 12)], duration=80)
        assert kind_of(path) == "video", name
        row = {"kind": "video", "fps": 12.5, "size": (96, 72)}
        whole = footage.read(path, row, 0, 12, (96, 72))
        assert (footage.read(path, row, 5, 3, (96, 72)) == whole[5:8]).all()


def test_too_large_is_not_broken_and_nothing_of_pythons_is_said(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("L", (9001, 10002)).save(tmp_path / "in" / "warned.png")  # more than Pillow likes
    Image.new("L", (14000, 14000)).save(tmp_path / "in" / "refused.png")  # more than it opens
    make(tmp_path / "in" / "long.mp4", "-frames:v", "1", "-pix_fmt", "yuv420p", source="color=s=8400x64")
    script = "from test_engine import tiny_part\n"
    script += "from sora_cli import registry\n"
    script += "registry.load_model_files = lambda model, stem: tiny_part('tiny', stem)\n"
    words = ["data", "build", str(tmp_path / "in"), "-o", str(tmp_path / "o")]
    script += f"from sora_cli.cli import main; main({words})"
    told = forked.run(script)
    assert told.returncode == 2 and "Warning" not in told.stderr, told.stderr
    reasons = {file: line["reason"] for file, line in manifest(tmp_path / "o").items()}
    assert reasons["warned.png"].startswith("too large: it is 9001x10002")
    assert reasons["long.mp4"].startswith("too large: it is 8400x64")
    assert reasons["refused.png"].startswith("too large: ")


FOREIGN = (".Trash-1000/files/c.png", "@eaDir/c.png", "__MACOSX/._c.png", "._c.png", ".hidden/deep/c.png",
           "#recycle/c.png", "$RECYCLE.BIN/c.png", "sub/.ipynb_checkpoints/c.png", ".c.png")  # fmt: skip


def test_what_no_person_put_there_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / ".clips"  # which somebody named
    for name in ("a.png", "sub/b.png", *FOREIGN):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(folder / name)
    (folder / "c.HEIC").touch()
    (folder / "link").symlink_to(folder / "sub")
    said = built(folder, tmp_path / "out")
    lines = manifest(tmp_path / "out")
    assert {file for file, line in lines.items() if line["state"] == "used"} == {"a.png", "sub/b.png"}
    assert Counter(line["reason"].partition(":")[0] for line in lines.values() if line["reason"]) == {
        "hidden": 5, "of another program": 4, "linked folder": 1, ".heic cannot be read here": 1}  # fmt: skip
    assert "left out: 5 hidden, 4 of another program, 1 linked folder" in said
    assert "1 .heic file cannot be read here; convert it to .jpg" in said
    files, remarks = files_of([str(folder)])
    assert files == [str(folder / "a.png"), str(folder / "sub/b.png")] and all(line in said for line in remarks)
    assert "2 of 13 files are usable" in said
    assert "hidden: 5" in run("show", tmp_path / "out").stdout


def test_a_folder_of_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.heic").touch()
    (tmp_path / ".b.png").touch()
    with pytest.raises(SoraError, match=r"no video or picture in .*; 1 \.heic file cannot be.*left out: 1 hidden"):
        files_of([str(tmp_path)])


def test_endings_are_of_one_kind_each() -> None:
    known = [*kinds.VIDEOS, *kinds.IMAGES, *kinds.UNREADABLE]
    assert len(known) == len(set(known)) and all(name == name.lower() and name[0] == "." for name in known)
    assert all(kinds.foreign(name) == "" for name in ("a.mp4", "deep/er/a.b.mp4", "@home/a.mp4", "trash/a.mp4"))


def test_what_footage_suffers_in_a_dataset_is_said(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    tags = "setparams=color_primaries=bt2020:color_trc={}:colorspace=bt2020nc"
    source = f"testsrc2=s=96x72:r=24,format=yuv420p10le,{tags}"
    transfers = {"a.mkv": "smpte2084", "b.mkv": "smpte2084", "c.mkv": "arib-std-b67", "d.mkv": "bt709"}
    for name, transfer in transfers.items():
        subprocess.run([media.ffmpeg(), "-v", "error", "-f", "lavfi", "-i", source.format(transfer), "-frames:v", "24",
                        "-c:v", "ffv1", clips / name], check=True)  # fmt: skip
    for _ in range(2):  # what is known from before is said again
        said = built(clips, tmp_path / "out")
        assert "a.mkv, b.mkv: its HDR light (PQ) is" in said and "c.mkv: its HDR light (HLG) is" in said
    lines = manifest(tmp_path / "out")
    assert [bool(lines[name]["notes"]) for name in ("a.mkv", "b.mkv", "c.mkv", "d.mkv")] == [True, True, True, False]
    assert "(HLG)" in lines["c.mkv"]["notes"][0]
