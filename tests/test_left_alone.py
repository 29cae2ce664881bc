"""What deletions leave alone: what links lead to, what only looks like ours, samples that nobody gave up."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from hub_cases import VAE, pull
from hub_cases import folders as folders
from hub_cases import server as server
from hub_cases import tiny as tiny_model
from test_data import built, picture
from test_owned import pictures, refused, shards_in
from test_training import toy_run

from sora_cli.cli.target import Target
from sora_cli.dataset import scan, shards
from sora_cli.dataset.dataset import Dataset
from sora_cli.errors import Failed, SoraError
from sora_cli.registry import hub, hub_client
from sora_cli.train.options import ClipOptions, DitOptions, TrainOptions, VaeOptions
from sora_cli.train.trainer import run_folder
from sora_cli.train.trainer.checkpoint import checkpoints


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)


# -- Links ----------------------------------------------------------------------------------------------------


def link_file(path: Path, mine: Path) -> None:
    path.unlink()
    path.symlink_to(mine / path.name)


def link_up(path: Path, mine: Path) -> None:
    path.unlink()
    path.symlink_to(os.path.relpath(mine / path.name, path.parent))


def link_content(path: Path, mine: Path) -> None:
    content = path.resolve()
    content.unlink()
    content.symlink_to(mine / path.name)


def link_folder(path: Path, mine: Path) -> None:
    for one in path.parent.iterdir():
        one.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(mine)


@pytest.mark.parametrize("link", [link_file, link_up, link_content, link_folder])
@pytest.mark.parametrize("how", [hub.remove, hub.verify])
def test_weights_outside_of_the_cache_stay(server: object, tmp_path: Path, how: Callable[..., object],
                                           link: Callable[[Path, Path], None]) -> None:  # fmt: skip
    pull()
    path = hub.locate(tiny_model())["vae"] / VAE.rpartition("/")[2]
    mine = tmp_path / "mine"
    mine.mkdir()
    for one in path.parent.iterdir():
        (mine / one.name).write_bytes(one.read_bytes()[:-1] + b"?")
    before = {one.name: one.read_bytes() for one in mine.iterdir()}
    link(path, mine)
    try:
        how(tiny_model())
    except Failed as error:
        assert ("changed" in str(error)) == (link is not link_folder)
    assert {one.name: one.read_bytes() for one in mine.iterdir()} == before
    assert link is link_folder or not os.path.lexists(path)
    assert hub_client.cache_of("tiny/wan22").parent.exists()


def move(path: Path, mine: Path) -> Path:
    """Put a file or a folder among those of the user, and a link in its place."""
    path.rename(mine / path.name)
    path.symlink_to(mine / path.name)
    return mine / path.name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_links_of_a_cache_lead_to_stays(server: object, tmp_path: Path) -> None:
    pull()
    mine, cache = tmp_path / "mine", hub_client.cache_of("tiny/wan22")
    mine.mkdir()
    part = next((cache / "blobs").iterdir())
    (path := part.with_name(f"{part.name}.incomplete")).touch()
    part.unlink()
    move(path, mine).write_bytes(b"mine")
    pull()  # goes on with no file of the user's
    assert (mine / path.name).read_bytes() == b"mine" and not path.is_symlink()
    blobs = move(cache / "blobs", mine)
    next(blobs.iterdir()).rename(blobs / path.name)
    before = contents(mine)
    hub.remove(tiny_model())
    assert contents(mine) == before


def test_a_repository_behind_a_link_stays(server: object, tmp_path: Path) -> None:
    pull()
    (tmp_path / "mine").mkdir()
    move(hub_client.cache_of("tiny/wan22"), tmp_path / "mine")
    before = contents(tmp_path / "mine")
    with pytest.raises(Failed, match="is behind a link out of the cache; remove it yourself"):
        hub.remove(tiny_model())
    assert contents(tmp_path / "mine") == before


def test_links_in_a_circle_are_no_fault_of_ours(server: object) -> None:
    pull()
    folder = hub.locate(tiny_model())["vae"]
    for one in folder.iterdir():
        one.unlink()
    folder.rmdir()
    folder.symlink_to(folder.name)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        hub.remove(tiny_model())


def test_a_fresh_run_follows_no_link_and_leaves_what_only_looks_like_its_own() -> None:
    mine = ["photos/000001.png", "other/model.safetensors", "blocks/00000001.safetensors"]
    near = ["run/samples/photo1.png", "run/latents-of-me/holidays.mp4", "run/checkpoint-thebest/a.safetensors",
            "run/identity.json.mine", "run/dit-small-of-three.safetensors"]  # fmt: skip
    for name in (*mine, *near, "run/latents-256/00000007.safetensors"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for name, target in (("checkpoint-0000005", "other"), ("latents-1", "blocks"), ("tensorboard", "photos")):
        Path("run", name).symlink_to(Path("..", target))
    Path("photos/events.out.tfevents.1").touch()
    with run_folder.held(DitOptions(out=Path("run"), resume=False)):
        pass
    assert all(map(os.path.exists, (*mine, *near, "photos/events.out.tfevents.1")))
    assert not os.path.lexists("run/latents-256") and not os.path.lexists("run/checkpoint-0000005")


def test_a_run_replaces_its_own_checkpoints_alone() -> None:
    toy_run(Path("run"), 5)
    Path("run/checkpoint-0000005/notes.txt").write_text("mine")
    for name in ("mine/checkpoint", "run/checkpoint-thebest"):
        shutil.copytree("run/checkpoint-0000005", name)
    Path("run/checkpoint-0000003").symlink_to(Path("../mine/checkpoint"))
    before = {path: path.read_bytes() for place in ("mine/checkpoint", "run/checkpoint-thebest")
              for path in Path(place).iterdir()}  # fmt: skip
    toy_run(Path("run"), 10)
    assert [path.name for path in checkpoints(Path("run"))] == ["checkpoint-0000010"]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not os.path.lexists("run/checkpoint-0000003")
    (notes,) = Path("run").glob("checkpoint-0000005-*/*")
    assert notes.read_text() == "mine"
    shutil.copytree("run/checkpoint-0000010", "run/checkpoint-0000009")  # a killed process left it
    toy_run(Path("run"), 10)
    assert [path.name for path in checkpoints(Path("run"))] == ["checkpoint-0000010"]


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(("kind", "name"), [
    (DitOptions, "dit-00001-of-00002.safetensors"), (VaeOptions, "vae.safetensors"), (ClipOptions, "video.safetensors"),
    (ClipOptions, "log.jsonl"), (DitOptions, "phases.json"),
])  # fmt: skip
def test_files_that_are_of_no_run_stay(kind: type[TrainOptions], name: str, fresh: bool) -> None:
    Path("model").mkdir()
    Path("model", name).write_text("mine")
    asked = kind(out=Path("model"), resume=not fresh)
    with pytest.raises(SoraError, match=f"{name} is not of a training run and would be"), run_folder.held(asked):
        pass
    assert tiny.everything("model") == [name]
    Path("model/identity.json").write_text("{}")
    with run_folder.held(asked):
        assert Path("model", name).exists() == (not fresh and name != "phases.json")


def test_a_fresh_run_empties_no_folder_of_somebody() -> None:
    mine = ["tensorboard/events.out.tfevents.1", "samples/1.png", "latents-1/00000001.safetensors"]
    for name in mine:
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).touch()
    for fresh in (True, False):
        with run_folder.held(DitOptions(out=Path("photos"), resume=not fresh)):
            assert all(Path("photos", name).exists() for name in mine)


def test_windows_behind_a_link_stay() -> None:
    near = "a.mp4.resume/window-of-mine.safetensors"
    for name in ("mine/window-00000.safetensors", "a.mp4.resume/before/window-00000.safetensors", near):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("a.mp4.resume/after").symlink_to(Path("../mine"))
    Target(name="a.mp4").clear_resume()
    assert Path("mine/window-00000.safetensors").exists() and not Path("a.mp4.resume/before").exists()
    assert Path(near).exists()
    Path("b.mp4.resume").symlink_to("mine")
    Target(name="b.mp4").clear_resume()
    assert Path("mine/window-00000.safetensors").exists()


def test_files_in_a_dataset_that_only_look_like_its_own_stay() -> None:
    pictures("clips")
    built(Path("clips"), Path("ds"))
    near = ["ds/clips-of-holidays.tar", "ds/films.part", "ds/00000-mine.tar", "ds/footage.tar.gz.part",
            "ds/00000-0123456789ab.tar.old.part", "ds/mine.jsonl.12.part"]  # fmt: skip
    for name in near:
        Path(name).write_text("mine")
    Path("ds/index.jsonl.12.part").touch()
    picture(Path("clips/5.png"), 5)
    built(Path("clips"), Path("ds"))
    assert all(map(os.path.exists, near)) and not os.path.exists("ds/index.jsonl.12.part")


# -- Datasets -------------------------------------------------------------------------------------------------


def disk(name: str, count: int, first: int = 0) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    pictures(name, count, first)


def test_a_folder_of_clips_that_is_away_costs_no_sample() -> None:
    disk("clips/a", 4)
    disk("clips/b", 2, 50)
    built(Path("clips"), Path("ds"))
    before = shards_in("ds")
    Path("clips/b").rename("away")
    for _ in range(2):
        assert "2 of the 6 files that ds was made from are not in clips" in refused("build", "clips", "-o", "ds")
        Path("clips/b").mkdir(exist_ok=True)  # where nothing is mounted
    assert shards_in("ds") == before
    Path("clips/a/0.png").unlink()  # one file of a folder that is there was given up
    Path("clips/b").rmdir()
    Path("away").rename("clips/b")
    built(Path("clips"), Path("ds"))
    assert len(Dataset("ds")) == 5
    Path("clips/b").rename("away")
    built(Path("clips"), Path("ds"), "--prune")
    assert len(Dataset("ds")) == 3


def test_without_its_manifest_a_dataset_still_knows_its_clips() -> None:
    for torn in (None, b"{"):
        pictures("clips")
        built(Path("clips"), Path("ds"))
        before = shards_in("ds")
        Path("ds/manifest.jsonl").unlink() if torn is None else Path("ds/manifest.jsonl").write_bytes(torn)
        Path("clips").rename(f"away {torn!r}")
        Path("clips").mkdir()
        assert "4 of the 4 files" in refused("build", "clips", "-o", "ds")
        assert shards_in("ds") == before
        Path("clips").rmdir()


def test_a_file_that_cannot_be_looked_at_for_a_moment_keeps_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures("clips")
    built(Path("clips"), Path("ds"))
    before, outside = shards_in("ds"), scan.outside
    with monkeypatch.context() as patched:
        patched.setattr(scan, "outside", lambda folder, file, *reason: outside(folder, file, *reason)
                        if file != "2.png" else scan.ScannedFile(file, reason="broken: stale file handle"))  # fmt: skip
        said = built(Path("clips"), Path("ds"))
    assert "2.png cannot be read now" in said and "nothing to do: 4 samples" in said
    assert shards_in("ds") == before and len(Dataset("ds")) == 4


def test_a_folder_of_clips_that_became_a_link_is_the_same_folder() -> None:
    pictures("clips")
    built(Path("clips"), Path("ds"))
    before = shards_in("ds")
    Path("clips").rename("disk")
    Path("clips").symlink_to("disk")
    built(Path("clips"), Path("ds"))
    assert shards_in("ds") == before
    assert "nothing to do: 4 samples" in built(Path("clips"), Path("ds"))


@pytest.mark.parametrize("options", [("--fps", "1"), ("--fps", "2", "--max-seconds", "0.5")])
def test_an_option_that_leaves_nothing_of_use_costs_no_sample(options: tuple[str, ...]) -> None:
    from test_data import H264, make

    Path("clips").mkdir()
    make(Path("clips/a.mp4"), *H264, source="testsrc2=d=1:s=96x64:r=12")
    built(Path("clips"), Path("ds"))
    before = shards_in("ds")
    said = refused("build", "clips", "-o", "ds", *options)
    assert "1 of the 1 file that ds was made from is not usable now" in said
    assert shards_in("ds") == before and len(Dataset("ds")) >= 1


@pytest.mark.parametrize("change", [
    {"shard": "../other.tar"}, {"shard": "/etc/passwd"}, {"shard": None}, {"file": "../../mine.png"},
    {"file": "/etc/passwd"}, {"shard": ".."}, {"shard": "deeper/a.tar"}, {"file": 5},
])  # fmt: skip
def test_an_index_names_nothing_outside_of_its_folders(change: dict[str, object]) -> None:
    pictures("clips", 2)
    built(Path("clips"), Path("ds"))
    whole = shards_in("ds")
    header, *rows = shards.read_lines(Path("ds/index.jsonl"))
    shards.write_lines(Path("ds/index.jsonl"), [header, *(row | change for row in rows)])
    with pytest.raises(SoraError, match=r"index\.jsonl is damaged"):
        Dataset("ds")
    built(Path("clips"), Path("ds"))
    assert shards_in("ds") == whole and len(Dataset("ds")) == 2
