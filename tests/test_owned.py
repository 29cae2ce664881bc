"""One process at a time in a folder of work, and no work that goes on as another."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny

from sora_cli import cli, owned, registry, weights
from sora_cli.errors import SoraError
from sora_cli.owned import Owned

HERE = str(Path(__file__).parent)
GENERATE = ("generate", "a cat", *tiny.QUICK, "--res", "64x64", "--frames", "41", "-q")

# The command line on tiny models, which waits in its first forward pass until it is killed.
WAITING = """
import sys, time
sys.path.insert(0, sys.argv[1])
import tiny
from sora_cli import cli
from sora_cli.models.sora.dit import Dit
tiny.install(setattr)
Dit.forward = lambda *words: (print("here", flush=True), time.sleep(99))
cli.main(sys.argv[2:])
"""


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder and the tiny engine."""
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)


@contextmanager
def waiting(script: str, *words: str) -> Iterator[subprocess.Popen]:
    """Another process that runs a script until it prints a line, and is killed in the end."""
    process = subprocess.Popen([sys.executable, "-c", script, HERE, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "here\n"
        yield process
    finally:
        process.kill()
        process.wait()


# -- The object -----------------------------------------------------------------------------------------------


HOLDING = """
import sys, time
from pathlib import Path
from sora_cli.owned import Owned
with Owned(Path(sys.argv[2])):
    print("here", flush=True)
    time.sleep(99)
"""


def test_one_process_works_in_a_folder_and_a_dead_one_leaves_it() -> None:
    with waiting(HOLDING, "a") as other:
        with pytest.raises(SoraError, match=f"a is in use by process {other.pid} on .*; wait until it ends"), \
                Owned(Path("a")):  # fmt: skip
            pass
        with pytest.raises(SoraError, match=f"process {other.pid}"):
            Owned(Path("a")).check_free()
    assert Path("a/lock").exists() and Owned(Path("a")).empty  # it was killed
    with Owned(Path("a")) as own:
        assert own.holder().startswith(f"process {os.getpid()} on ")
    assert not Path("a").exists()


def test_other_work_is_refused_by_its_first_difference() -> None:
    first = Owned(Path("a"), {"seed": 1, "data": {"id": "x"}}, "training run", "--fresh starts over")
    first.begin()
    first.begin()
    other = Owned(Path("a"), {"seed": 2, "data": {"id": "y"}}, "training run", "--fresh starts over")
    said = "a holds another training run: data.id was \"x\" and is now \"y\"; --fresh starts over"
    with pytest.raises(SoraError) as told:
        other.begin()
    assert str(told.value) == said and told.value.exit_code == 2
    Path("a/mine.txt").touch()
    other.remove()
    other.begin()
    assert tiny.everything("a") == ["identity.json", "mine.txt"]


def test_half_written_files_of_dead_processes_go_and_those_of_others_stay() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with waiting(HOLDING, "b") as other:
        stale, alive = Path(f"a.txt.{dead.pid}.part"), Path(f"a.txt.{other.pid}.part")
        for path in (stale, alive, Path("a.txt.mine.part"), Path("c.txt.part")):
            path.touch()
        weights.write(Path("a.txt"), b"whole")
        assert not stale.exists() and alive.exists()
    assert Path("a.txt.mine.part").exists() and Path("c.txt.part").exists()


def test_two_writers_of_one_file_leave_a_whole_one() -> None:
    with owned.writing(Path("a")) as file:
        file.write(b"one")
        pid = os.fork()
        if pid == 0:
            weights.write(Path("a"), b"two")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0 and Path("a").read_bytes() == b"two"
    assert Path("a").read_bytes() == b"one" and tiny.everything() == ["a"]


# -- Outputs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--resume",), ("--force",)])
def test_two_processes_on_one_output(capsys: pytest.CaptureFixture[str], more: tuple[str, ...]) -> None:
    with waiting(WAITING, *GENERATE, "-o", "a.y4m") as other:
        before = tiny.everything()
        assert cli.run([*GENERATE, "-o", "a.y4m", *more]) == 2
        assert f"a.y4m is in use by process {other.pid} on " in capsys.readouterr().err
        assert tiny.everything() == before and other.poll() is None
    assert cli.run([*GENERATE, "-o", "a.y4m", *more]) == 0  # the dead one held nothing and had made nothing
    assert tiny.everything() == tiny.kept("a.y4m")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"solver": "unipc"}, 'usage.solver was "euler" and is now "unipc"'),
        ({"shift": 5.0}, "usage.shift was null and is now 5.0"),
        ({"window": 3}, "usage.window was 4 and is now 3"),
        ({"context": 1}, "usage.context was 2 and is now 1"),
    ],
)
def test_a_video_goes_on_with_the_settings_that_it_began_with(
    change: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(monkeypatch)
    entry = registry.entry("pocket")
    from dataclasses import replace

    other = replace(entry, usage=replace(entry.usage, **change))
    monkeypatch.setattr(registry, "registry", lambda: {"pocket": other})
    assert cli.run([*GENERATE, "-o", "a.y4m", "--resume"]) == 2
    assert said in capsys.readouterr().err


def test_a_video_goes_on_in_the_version_that_it_began_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sora_cli import engine

    begin(monkeypatch)
    monkeypatch.setattr(engine, "__version__", "9.9")
    assert cli.run([*GENERATE, "-o", "a.y4m", "--resume"]) == 2
    assert 'version was "0.1.0" and is now "9.9"; ask for the same again, or --force' in capsys.readouterr().err


def begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A video whose windows are there and that could not be written."""
    from sora_cli import media
    from sora_cli.errors import Failed

    def full(*words: object) -> object:
        raise Failed("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(media, "from_rgb", full)
        assert cli.run([*GENERATE, "-o", "a.y4m"]) == 1
    assert "a.y4m.resume/identity.json" in tiny.everything()
