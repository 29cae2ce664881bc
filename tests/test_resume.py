"""Whatever stops a video, --resume finishes it as if nothing had."""

import json
import os
from pathlib import Path

import forked
import pytest
import tiny

from sora_cli import cli, media
from sora_cli.storage import latent_file

GENERATE = ["generate", "a cat", *tiny.QUICK, "--res", "64x64", "--frames", "41"]

# Forks: every child has its own random moment, counted in forward passes, flushes and renames, and kills itself.
KILLED = """
import os, random, signal, sys
import torch
torch.set_num_threads(1)
import tiny
from sora_cli import cli
from sora_cli.models.sora.dit import Dit

def dying(function, left):
    def maybe(*words, **more):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **more)
    return maybe

def child(moment, words):
    left = [moment]
    os.fsync, os.replace, Dit.forward = (dying(f, left) for f in (os.fsync, os.replace, Dit.forward))
    cli.main(words)

tiny.install(setattr)
for stem in ("text", "vae", "dit"):
    tiny.random_part(stem)  # once for all children
draw, codes = random.Random(int(sys.argv[1])), []
while not codes or codes[-1] == -signal.SIGKILL:
    assert len(codes) < 60, codes
    words = sys.argv[2:] + (["--resume"] if codes else [])
    moment = draw.randint(1, 9)
    if (pid := os.fork()) == 0:
        child(moment, words)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(*codes)
"""


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder and the tiny engine."""
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)


def killed(seed: int, *words: str) -> list[int]:
    """Exit codes of a command that is killed again and again, and resumed until it ends by itself."""
    done = forked.run(KILLED, str(seed), *words)
    assert done.returncode == 0, done.stderr
    return [int(code) for code in done.stdout.split("\n")[-2].split()]


def test_killed_again_and_again(capsys: pytest.CaptureFixture[str]) -> None:
    *died, code = killed(1, *GENERATE, "-o", "a.y4m", "-q")
    assert code == 0 and len(died) >= 2, (died, code)
    assert tiny.everything() == tiny.kept("a.y4m")
    assert cli.run([*GENERATE, "-o", "b.y4m"]) == 0
    assert Path("a.y4m").read_bytes() == Path("b.y4m").read_bytes()
    (one, header), (other, same) = (latent_file.load(name) for name in ("a.safetensors", "b.safetensors"))
    assert header == same and one.numpy().tobytes() == other.numpy().tobytes()  # the order of the header varies


def test_both_ends_of_an_extension_are_resumed() -> None:
    format = tiny.y4m_format()
    tiny.write("clip.y4m", format, tiny.noise(format, 9))
    words = ["extend", "clip.y4m", *tiny.QUICK, "--before", "0.5", "--after", "0.5"]
    *died, code = killed(2, *words, "-o", "a.y4m", "-q")
    assert code == 0 and died
    assert cli.run([*words, "-o", "b.y4m"]) == 0
    assert Path("a.y4m").read_bytes() == Path("b.y4m").read_bytes()
    assert not any("resume" in name or "part" in name for name in tiny.everything())


def test_an_ffmpeg_that_dies_costs_no_window(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dies").write_text("#!/bin/sh\nexit 7\n")
    os.chmod("dies", 0o755)
    with monkeypatch.context() as patched:
        patched.setenv("SORA_FFMPEG", os.path.abspath("dies"))
        assert cli.run([*GENERATE, "-o", "a.mp4", "-q"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "ffmpeg" in err
    left = tiny.everything()
    assert left[:3] == ["a.mp4.resume", "a.mp4.resume/identity.json", "a.mp4.resume/window-00000.safetensors"]
    assert left[-1] == "dies" and not any(".part" in name for name in left)

    assert cli.run([*GENERATE, "-o", "a.mp4", "-q"]) == 2
    assert "--resume continues it" in capsys.readouterr().err and tiny.everything() == left
    assert cli.run([*GENERATE, "-o", "a.mp4", "-q", "--resume", "--seed", "1"]) == 2
    assert "seed was 0 and is now 1" in capsys.readouterr().err and tiny.everything() == left
    assert cli.run([*GENERATE, "-o", "a.mp4", "-q", "--resume"]) == 0
    assert media.probe("a.mp4").frames == 41 and json.loads(Path("a.json").read_text())["flops"] == 0
    assert tiny.everything() == sorted([*tiny.kept("a.mp4"), "dies"])


def test_starting_over_leaves_nothing_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the new video has other parts than the old one."""
    format = tiny.y4m_format()
    tiny.write("clip.y4m", format, tiny.noise(format, 5))
    words = ["extend", "clip.y4m", *tiny.QUICK, "-o", "b.mp4", "-q"]
    with monkeypatch.context() as patched:
        patched.setattr(media, "from_rgb", lambda *words: iter([b""]))
        with pytest.raises(AssertionError):
            cli.run([*words, "--before", "0.2"])
    assert "b.mp4.resume/before" in tiny.everything()
    assert cli.run([*words, "--after", "0.2"]) == 2
    assert cli.run([*words, "--after", "0.2", "--force"]) == 0
    assert tiny.everything() == ["b.json", "b.mp4", "clip.y4m"]
