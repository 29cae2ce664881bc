"""A training goes on as itself: what its options name is the same, and not only called so. And what it says of that."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_data import built
from test_engine import tiny_part
from test_lora import pocket as pocket
from test_owned import pictures
from test_training import options, toy_run

from sora_cli.dataset.shards import identity
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.train.data.world_packs import PHASES, Schedule
from sora_cli.train.options import DitOptions
from sora_cli.train.recipes import dit as dits
from sora_cli.train.trainer import checkpoint, distributed, run_folder
from sora_cli.train.trainer.logger import Log


@pytest.mark.parametrize("content", [None, b"", b"{", b"\x00" * 90])
def test_a_run_that_does_not_say_which_it_is_goes_on_as_none(content: bytes | None, tmp_path: Path) -> None:
    toy_run(tmp_path / "run", 5)
    identity = tmp_path / "run" / "identity.json"
    stored = identity.read_bytes()
    identity.unlink() if content is None else identity.write_bytes(content)
    with pytest.raises(SoraError, match="does not say which training run its checkpoints are of; --fresh starts over"):
        toy_run(tmp_path / "run", 10, seed=4)
    identity.write_bytes(stored)
    toy_run(tmp_path / "run", 10)


def test_a_run_that_was_stopped_early_leaves_nothing_to_another(tmp_path: Path) -> None:
    def stopped(**asked: object) -> None:
        with run_folder.held(options(tmp_path, **asked)), pytest.raises(KeyboardInterrupt):
            toy_run(tmp_path, 5, stop=3, **asked)

    stopped()
    for name in ("latents-3-0/00000001.safetensors", "phases.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "checkpoint-0000002").mkdir()  # a process was killed while it removed it
    stopped()
    assert (tmp_path / "latents-3-0/00000001.safetensors").exists() and not (tmp_path / "phases.json").exists()
    stopped(seed=4)
    assert not (tmp_path / "latents-3-0").exists()


def test_finished_weights_without_their_checkpoints_are_not_written_over(tmp_path: Path) -> None:
    toy_run(tmp_path, 5)
    shutil.rmtree(tmp_path / "checkpoint-0000005")
    (tmp_path / "vae.safetensors").touch()
    with pytest.raises(SoraError, match="another training run: seed was 3 and is now 4"):
        toy_run(tmp_path, 5, seed=4)


def test_a_run_keeps_its_number_format(tmp_path: Path) -> None:
    toy_run(tmp_path, 5)
    with pytest.raises(SoraError, match='dtype was "float32" and is now "bfloat16"'):
        toy_run(tmp_path, 10, precision=torch.bfloat16)


@pytest.mark.parametrize("content", ["{", "[]", "[1]", '[0, "a"]', "0", "[0, 1, 2]"])
def test_damaged_phases_are_not_guessed(tmp_path: Path, content: str) -> None:
    (tmp_path / "phases.json").write_text(content)
    with pytest.raises(SoraError, match=r"phases.json is damaged; start over with --fresh"):
        Schedule(PHASES, tmp_path / "phases.json")


def test_a_sheet_is_drawn_before_its_checkpoint_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run that is stopped between the two draws it again."""
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", lambda *state: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            toy_run(tmp_path, 5)
    assert (tmp_path / "samples/000005.png").exists() and not checkpoint.checkpoints(tmp_path)


@pytest.mark.parametrize("change", ["a caption", "numbers of latents", "a file less", "a file more"])
def test_a_folder_of_latents_is_known_by_its_content(change: str, tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.txt", "b.safetensors"):
        (tmp_path / name).write_bytes(name.encode() * 9)
    (tmp_path / "deeper").mkdir()
    before = run_folder.data_id(str(tmp_path))
    assert before == run_folder.data_id(str(tmp_path))
    if change == "a caption":
        (tmp_path / "a.txt").write_bytes(b"b.txt" * 9)
    elif change == "numbers of latents":
        (tmp_path / "b.safetensors").write_bytes(b"c.safetensors" * 9)
    elif change == "a file less":
        (tmp_path / "a.txt").unlink()
    else:
        (tmp_path / "c.txt").touch()
    assert run_folder.data_id(str(tmp_path)) != before


@pytest.mark.parametrize("others", [[], ["vae"], ["text"], ["vae", "text"]])
def test_weights_that_were_trained_beside_other_networks_say_so(
    others: list[str], pocket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, header = tiny_part("tiny", "dit")
    config = json.loads(header["config"])
    monkeypatch.setitem(dits.WIDTHS, "nano", (config["width"], config["depth"], config["heads"]))
    ids = {stem: "another" if stem in others else identity(*tiny_part("tiny", stem)) for stem in ("vae", "text")}
    weights.save(Path("init.safetensors"), tensors, {**header, "frozen": json.dumps(ids)})
    monkeypatch.setattr(dits.DitStage, "world", lambda stage: None)
    asked = DitOptions(init=Path("init.safetensors"), out=Path("run"), align="off", device="cpu", compiled=False)
    dits.DitStage(asked, torch.device("cpu"), torch.float32)
    said = capsys.readouterr().err
    assert said.count("\n") == len(others)
    assert all(f"init.safetensors was trained with a different {dits.NAMES[stem]}" in said for stem in others)


@pytest.mark.parametrize("own", [True, False])
def test_the_tower_that_a_block_is_aligned_with_is_part_of_a_run(tmp_path: Path, own: bool) -> None:
    found = []
    for content in (b"one", b"two", b"one"):
        (tmp_path / "video.safetensors").write_bytes(content)
        align = "clip" if own else f"ViT-B-32:{tmp_path / 'video.safetensors'}"
        asked = DitOptions(data="ds", align=align, text=tmp_path)
        stage = SimpleNamespace(options=asked, frozen=SimpleNamespace(ids={"vae": "x", "text": "y"}))
        found.append(dits.DitStage.identity(stage))  # type: ignore[arg-type]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(("main", "lines"), [(True, 1), (False, 0)])
def test_one_process_of_many_warns(main: bool, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    console = SimpleNamespace(print=lambda text, **how: said.append(text))
    monkeypatch.setattr(distributed, "is_main", lambda: main)
    Log.warn(SimpleNamespace(progress=SimpleNamespace(console=console)), "the loss grows")  # type: ignore[arg-type]
    assert len(said) == lines


@pytest.mark.parametrize(("room", "workers"), [(1, 1), (30_000, 2), (10**9, 4)])
def test_long_samples_wait_in_small_numbers(room: int, workers: int, pocket: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from sora_cli.dataset import build

    seen, ahead = [], build.ahead
    monkeypatch.setattr(build, "AHEAD", room)
    monkeypatch.setattr(build, "ahead", lambda work, items, count: (seen.append(count), ahead(work, items, count))[1])
    built(pictures("clips"), Path("ds"), "--workers", "4")
    assert seen[-1] == workers
