"""One process at a time in a folder of work, and no work that goes on as another."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny
from forked import Forked
from test_data import RUNNER, built, picture, run, state
from test_training import options, toy_run

from sora_cli import cli, media, registry
from sora_cli.cli import app
from sora_cli.dataset import build, scan
from sora_cli.dataset.dataset import Dataset
from sora_cli.errors import Failed, SoraError
from sora_cli.files import owned, weights
from sora_cli.files.owned import Owned
from sora_cli.train.options import DitOptions
from sora_cli.train.trainer import run_folder
from sora_cli.train.trainer.checkpoint import checkpoints

GENERATE = ("generate", "a cat", *tiny.QUICK, "--res", "64x64", "--frames", "41", "-q")

# The command line on tiny models, which waits in its first forward pass until it is killed.
WAITING = """
import sys, time
import tiny
from sora_cli import cli
from sora_cli.models.sora.dit import Dit
tiny.install(setattr)
Dit.forward = lambda *words: (print("here", flush=True), time.sleep(99))
cli.main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder and the tiny engine."""
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)


@contextmanager
def waiting(script: str, *words: str) -> Iterator[Forked]:
    """Another process that runs a script until it prints a line, and is killed in the end."""
    with Forked(script, *words) as process:
        assert process.stdout and process.stdout.readline() == b"here\n", process.said()
        yield process


# -- The object -----------------------------------------------------------------------------------------------


HOLDING = """
import sys, time
from pathlib import Path
from typing import Any
from sora_cli.files.owned import Owned
with Owned(Path(sys.argv[1])):
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
    first = Owned(Path("a"), {"stage": "dit", "data": {"id": "x"}}, "training run", "--fresh starts over")
    first.begin()
    first.begin()
    other = Owned(Path("a"), {"stage": "vae", "data": {"id": "y"}}, "training run", "--fresh starts over")
    nearer = Owned(Path("a"), {"stage": "dit", "data": {"id": "y"}}, "training run", "--fresh starts over")
    for one, difference in ((other, 'stage was "dit" and is now "vae"'), (nearer, 'data.id was "x" and is now "y"')):
        with pytest.raises(SoraError) as told:
            one.begin()
        assert str(told.value) == f"a holds another training run: {difference}; --fresh starts over"
        assert told.value.exit_code == 2
    Path("a/mine.txt").touch()
    other.remove()
    other.begin()
    assert tiny.everything("a") == ["identity.json", "mine.txt"]


def test_half_written_files_of_dead_processes_go_and_those_of_others_stay() -> None:
    dead = Forked("")
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
    other = replace(entry, usage=replace(entry.usage, **change))
    monkeypatch.setattr(registry, "registry", lambda: {"pocket": other})
    assert cli.run([*GENERATE, "-o", "a.y4m", "--resume"]) == 2
    assert said in capsys.readouterr().err


def test_a_video_goes_on_in_the_version_that_it_began_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(monkeypatch)
    monkeypatch.setattr("sora_cli.generation.engine.__version__", "9.9")
    assert cli.run([*GENERATE, "-o", "a.y4m", "--resume"]) == 2
    said = 'version was "0.1.0" and is now "9.9"; repeat its command, or start over with --force'
    assert said in capsys.readouterr().err


def begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A video whose windows are there and that could not be written."""
    def full(*words: object) -> object:
        raise Failed("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(media, "from_rgb", full)
        assert cli.run([*GENERATE, "-o", "a.y4m"]) == 1
    assert "a.y4m.resume/identity.json" in tiny.everything()


# -- Datasets -------------------------------------------------------------------------------------------------

# `data build`, which waits at its first clip until it is killed; and one that kills itself at a random moment.
BUILDING = """
import sys, time
import tiny
from sora_cli import cli
from sora_cli.dataset import build
tiny.install(setattr)
build.Networks.encode = lambda *words: (print("here", flush=True), time.sleep(99))
cli.main(sys.argv[1:])
"""
DYING = """
import os, random, signal, sys
import torch
torch.set_num_threads(1)
import tiny
from sora_cli import cli
from sora_cli.dataset import build, scan
tiny.install(setattr)
build.SHARD_BYTES = 12_000
draw, codes = random.Random(0), []

def dying(function, left):
    def maybe(*words, **more):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **more)
    return maybe

while not codes or codes[-1] == -signal.SIGKILL:
    moment = draw.randint(1, 12 + 6 * len(codes))
    if (child := os.fork()) == 0:
        left = [moment]
        os.fsync, os.replace = dying(os.fsync, left), dying(os.replace, left)
        scan.examine, build.Networks.encode = dying(scan.examine, left), dying(build.Networks.encode, left)
        cli.main(sys.argv[1:])
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(*codes)
"""
BUILD = ("--size", "64x64", "--device", "cpu", "--dtype", "float32")


def pictures(folder: str, count: int = 4, first: int = 0) -> Path:
    Path(folder).mkdir()
    for number in range(first, first + count):
        picture(Path(folder) / f"{number}.png", number)
    return Path(folder)


def refused(*words: str) -> str:
    told = run(*words, *BUILD)
    assert isinstance(told.exception, SoraError), (told.output, told.exception)
    return str(told.exception)


def test_a_disk_that_is_away_costs_no_sample() -> None:
    clips = pictures("clips")
    built(clips, Path("ds"))
    before = state(Path("ds"))
    clips.rename("elsewhere")
    clips.mkdir()  # where nothing is mounted
    assert "4 of the 4 files that ds was made from are not in clips" in refused("build", "clips", "-o", "ds")
    assert state(Path("ds")) == before
    (clips / "0.png").write_bytes(b"")
    Path("elsewhere/1.png").rename("clips/1.png")
    assert "3 of the 4 files" in refused("build", "clips", "-o", "ds")
    assert not list(Path("ds").glob("*.part"))
    built(clips, Path("ds"), "--prune")
    assert len(Dataset("ds")) == 1


def test_files_that_cannot_be_read_for_a_moment_cost_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = pictures("clips")
    built(clips, Path("ds"))
    before = shards_in("ds")
    with monkeypatch.context() as patched:
        away = scan.ScannedFile("", reason="broken: input/output error")
        patched.setattr(scan, "outside", lambda folder, file, *reason: replace(away, file=file))
        assert "4 of the 4 files" in refused("build", "clips", "-o", "ds")
    assert shards_in("ds") == before
    assert "nothing to do" in built(clips, Path("ds"))


def shards_in(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.tar")}


def test_a_dataset_stays_with_its_clips() -> None:
    clips = pictures("clips")
    pictures("others", first=50)
    pictures("namesakes")
    for path in Path("namesakes").iterdir():
        picture(path, 77, (64, 80))
    built(clips, Path("ds"))
    before = state(Path("ds"))
    clips.rename("moved")
    for other in ("others", "namesakes"):
        assert "4 of the 4 files that ds was made from are not in" in refused("build", other, "-o", "ds")
        assert state(Path("ds")) == before
    built(Path("moved"), Path("ds"))
    assert shards_in("ds").items() <= {name: content for name, (_, content) in before.items()}.items()


def test_two_processes_on_one_dataset() -> None:
    pictures("clips")
    with waiting(BUILDING, "data", "build", "clips", "-o", "ds", *BUILD) as other:
        before = state(Path("ds"))
        assert f"ds is in use by process {other.pid} on " in refused("build", "clips", "-o", "ds")
        assert state(Path("ds")) == before and any(".part" in name for name in before) and other.poll() is None
    built(Path("clips"), Path("ds"))
    assert len(Dataset("ds")) == 4 and not list(Path("ds").glob("*.part"))


def test_a_clip_that_could_not_be_read_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = pictures("clips")
    attempt = build.attempt
    with monkeypatch.context() as patched:
        patched.setattr(build, "attempt", lambda sample, source: None if sample.record.file == "1.png"
                        else attempt(sample, source))  # fmt: skip
        assert "3 samples of 3 files are in ds" in built(clips, Path("ds"))
        once = shards_in("ds")
        assert "nothing to do: 3 samples of 3 files" in built(clips, Path("ds")) and shards_in("ds") == once
    encoded: list[int] = []
    encode = build.Networks.encode
    monkeypatch.setattr(build.Networks, "encode", lambda *given: (encoded.append(1), encode(*given))[1])
    assert "4 samples of 4 files are in ds" in built(clips, Path("ds"))
    assert len(Dataset("ds")) == 4 and encoded == [1]


def test_a_dataset_that_is_killed_again_and_again_is_the_undisturbed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = pictures("clips", 8)
    done = forked.run(DYING, "data", "build", "clips", "-o", "ds", "--workers", "1", "-q", *BUILD)
    assert done.returncode == 0, done.stderr
    *died, code = map(int, done.stdout.split("\n")[-2].split())
    assert code == 0 and len(died) >= 2, (died, code)
    monkeypatch.setattr(build, "SHARD_BYTES", 12_000)
    built(clips, Path("whole"))
    assert {name: content for name, (_, content) in state(Path("ds")).items()} == {
        name: content for name, (_, content) in state(Path("whole")).items()}  # fmt: skip


# -- Training runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 4}, "seed was 3 and is now 4"),
        ({"accumulate": 2}, "accumulate was 1 and is now 2"),
        ({"zoom": 2}, "zoom was 1 and is now 2"),
        ({"preset": "mini"}, 'preset was "nano" and is now "mini"'),
    ],
)
def test_a_run_goes_on_as_itself_alone(change: dict[str, object], said: str) -> None:
    toy_run(Path("run"), 5)
    before = tiny.everything("run")
    with pytest.raises(SoraError, match=f"run holds another training run: {said}; --fresh starts over, --out goes"):
        toy_run(Path("run"), 10, **change)
    assert tiny.everything("run") == before
    toy_run(Path("run"), 10)


def test_a_run_stays_with_its_data_and_its_frozen_networks() -> None:
    built(pictures("clips"), Path("ds"))
    built(pictures("others", first=9), Path("other"))
    networks = {"vae": "one", "text": "two"}
    asked: dict[str, Any] = {"kind": DitOptions, "data": "ds", "frozen": networks}
    toy_run(Path("run"), 5, **asked)
    with pytest.raises(SoraError, match="another training run: data was"):
        toy_run(Path("run"), 10, **(asked | {"data": "other"}))
    networks["text"] = "three"
    with pytest.raises(SoraError, match='text was "two" and is now "three"'):
        toy_run(Path("run"), 10, **asked)
    networks["text"] = "two"
    Path("ds").rename("moved")
    toy_run(Path("run"), 10, **(asked | {"data": "moved"}))


def test_a_run_that_begins_anew_is_gone_on_with_and_not_the_one_before() -> None:
    toy_run(Path("run"), 20)
    with pytest.raises(KeyboardInterrupt):
        toy_run(Path("run"), 10, stop=7, resume=False)
    assert [path.name for path in checkpoints(Path("run"))] == ["checkpoint-0000005"]


def test_a_fresh_run_empties_what_the_one_before_wrote() -> None:
    toy_run(Path("run"), 5)
    for name in ("notes.txt", "samples/mine.jpg", "dit.safetensors", "dit-best.safetensors"):
        (Path("run") / name).touch()
    asked = options(Path("run"), kind=DitOptions, resume=False)
    with run_folder.held(asked):
        assert tiny.everything("run") == ["dit-best.safetensors", "lock", "notes.txt", "samples", "samples/mine.jpg"]
    needed = replace(asked, init=Path("run/dit-best.safetensors"))
    with pytest.raises(SoraError, match="--fresh would empty run, but run/dit-best"), run_folder.held(needed):
        pass
    toy_run(Path("run"), 5, seed=4)


def test_two_processes_on_one_run() -> None:
    with waiting(HOLDING, "run") as other:
        assert f"run is in use by process {other.pid} on" in refused_run("train", "vae", "--fresh", "--out", "run")


def refused_run(*words: str) -> str:
    told = RUNNER.invoke(app, list(words))
    assert isinstance(told.exception, SoraError), (told.output, told.exception)
    return str(told.exception)


def test_a_distilled_model_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr("sora_cli.train.recipes.dit.train", lambda options: seen.append(options.folder))
    Path("dit.safetensors").touch()
    assert RUNNER.invoke(app, ["train", "dit", "--init", "dit.safetensors"]).exit_code == 0
    assert RUNNER.invoke(app, ["train", "dit", "--init", "dit.safetensors", "--distil"]).exit_code == 0
    assert seen == [Path("runs/dit-nano"), Path("runs/dit-nano-distilled")]


def test_a_training_that_goes_on_sweeps_what_a_killed_one_was_writing(tmp_path: Path) -> None:
    dead = Forked("")
    dead.wait()
    blocks = tmp_path / "run" / "latents-256"
    blocks.mkdir(parents=True)
    gone, mine, other = (blocks / name for name in (f"00000007.safetensors.{dead.pid}.part",
                                                    f"00000008.safetensors.{os.getpid()}.part", "00000007.safetensors"))
    for path in (gone, mine, other):
        path.write_bytes(b"half")
    with run_folder.held(DitOptions(out=tmp_path / "run")):
        assert not gone.exists() and mine.exists() and other.exists()
