"""Every example runs as it stands, with the shipped weights and tiny settings, and writes what it promises, where the
only ffmpeg is the one that pip brought."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import forked
import numpy as np
import pytest
from clips import read_frames

from sora_cli import media

ROOT = Path(__file__).parent.parent
SMALL = {"RES": "64x64", "STEPS": "1", "FPS": "24", "SECONDS_LONG": "0.25"}
PROGRAMS = ("awk", "basename", "bash", "cat", "mkdir", "mktemp", "rm")  # that every system has; no ffmpeg


@pytest.fixture(scope="module", autouse=True)
def program() -> Iterator[None]:
    """`sora-cli` of the scripts."""
    with forked.program() as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SORA", str(made))
        yield


def run(folder: Path, script: str, *words: str, **settings: str) -> None:
    """One example in a folder of its own, without a system's ffmpeg; stderr is shown if it fails."""
    programs = folder.with_name(folder.name + "-bin")
    programs.mkdir(exist_ok=True)
    for name in PROGRAMS:
        if not (programs / name).exists():
            (programs / name).symlink_to(shutil.which(name) or name)
    kept = {name: value for name, value in os.environ.items() if name not in ("FFMPEG", "SORA_FFMPEG")}
    tools = {"PATH": str(programs)}
    command = ["bash", str(ROOT / "examples" / script), *words]
    done = subprocess.run(command, cwd=folder, env={**kept, **tools, **SMALL, **settings},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def frames(path: Path) -> np.ndarray:
    """Of a video of 64x64 pixels at 24 frames a second, uint8 [T, h, w, 3]."""
    found = media.probe(path)
    assert (found.width, found.height, found.fps) == (64, 64, 24.0)
    return np.stack(read_frames(path))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two prompts with two seeds each, six frames long, as batch.sh makes them."""
    folder = tmp_path_factory.mktemp("batch")
    run(folder, "batch.sh", PROMPTS="a cat surfing\na rocket in space", SEEDS="2")
    return sorted(folder.glob("batch/*.mp4"))


def test_batch(clips: list[Path]) -> None:
    assert [clip.stem for clip in clips] == ["a-cat-surfing-0", "a-cat-surfing-1", "a-rocket-in-space-0",
                                             "a-rocket-in-space-1"]  # fmt: skip
    made = [frames(clip) for clip in clips]
    assert [len(clip) for clip in made] == [6] * 4
    assert difference(made[0], made[1]) > 1 and difference(made[0], made[2]) > 1


def test_pipe(clips: list[Path], tmp_path: Path) -> None:
    run(tmp_path, "pipe.sh", str(clips[0]), "longer.mp4", AFTER="0.25")
    longer, given = frames(tmp_path / "longer.mp4"), frames(clips[0])
    assert len(longer) == 12
    assert difference(longer[:6], given) < 4 < difference(longer[:6], frames(clips[2]))


def test_bridge(clips: list[Path], tmp_path: Path) -> None:
    run(tmp_path, "bridge.sh", str(clips[0]), str(clips[2]), "whole.mp4", CONTEXT="5", BETWEEN="3")
    whole = frames(tmp_path / "whole.mp4")
    assert len(whole) == 6 + 3 + 6
    assert difference(whole[:6], frames(clips[0])) < 4 and difference(whole[9:], frames(clips[2])) < 4
    assert os.listdir(tmp_path) == ["whole.mp4"]


def test_endless_loop(tmp_path: Path) -> None:
    from PIL import Image

    run(tmp_path, "endless-loop.sh")
    folder = tmp_path / "loop"
    assert len(frames(folder / "loop.mp4")) == 8
    for name in ("loop.gif", "loop.webp"):
        with Image.open(folder / name) as image:
            assert (image.n_frames, image.size, image.info["loop"]) == (4, (64, 64), 0)  # at 12 frames a second
    assert 'src="loop.mp4"' in (folder / "index.html").read_text()


def test_story(tmp_path: Path) -> None:
    run(tmp_path, "story.sh", SECONDS_LONG="0.5")
    assert len(frames(tmp_path / "story.mp4")) == 12
    carried = media.probe(tmp_path / "story.mp4").metadata["sora"]
    assert all(at in carried for at in ("0.125s", "0.25s", "0.375s")) and "in the snow" in carried


def test_ffmpeg_is_that_of_sora_cli(tmp_path: Path) -> None:
    """Its words, its pipes, its exit code; `--help` alone is ours."""
    pixels = bytes(range(48))
    frame = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", "4x4")
    command = [sys.executable, "-m", "sora_cli", "ffmpeg", "-v", "error"]
    done = subprocess.run([*command, *frame, "-i", "-", *frame, "-"], input=pixels, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (pixels, b"")
    failed = subprocess.run([*command, "-i", tmp_path / "none.mp4", "-h"], capture_output=True, text=True)
    direct = subprocess.run([media.ffmpeg(), *command[4:], "-i", tmp_path / "none.mp4", "-h"], capture_output=True)
    assert (failed.returncode, failed.stdout) == (direct.returncode, direct.stdout.decode())
    wrong = subprocess.run(command, env={**os.environ, "SORA_FFMPEG": "/no/ffmpeg"}, capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr.startswith("sora-cli: ffmpeg does not start (/no/ffmpeg)")


def test_every_example_is_listed_and_tested() -> None:
    scripts = {path.name for path in (ROOT / "examples").glob("*.sh")}
    assert set(re.findall(r"^- `([\w-]+\.sh)", (ROOT / "examples" / "README.md").read_text(), re.M)) == scripts
    assert set(re.findall(r'run\([^)]*?"([\w-]+\.sh)"', Path(__file__).read_text())) == scripts


def test_own(tmp_path: Path) -> None:
    from PIL import Image

    run(tmp_path, "own.sh", TRAIN_STEPS="2", WORD_STEPS="2", CLIP_SECONDS="1", SIZE="64x64")
    own = tmp_path / "own"
    assert sorted(path.stem for path in own.glob("*.mp4")) == ["bars", "dusk", "fractal", "tiles"]
    assert all(len(frames(path)) == 24 for path in own.glob("*.mp4"))
    with Image.open(own / "own.png") as image:
        assert image.size == (640, 4 * 180)
    assert "4 different captions" in (own / "model" / "README.md").read_text()
