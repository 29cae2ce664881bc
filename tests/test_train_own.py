"""From a folder of clips to a model of one's own, by the commands of docs/training.md, on tiny networks."""

import json
import random
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_data import H264, make, picture
from test_engine import tiny_part
from test_training import TINY_VAE
from typer.testing import CliRunner, Result

from sora_cli import cli, registry
from sora_cli.cli import app
from sora_cli.dataset.dataset import Dataset
from sora_cli.dataset.shards import identity
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.media import probe
from sora_cli.train.recipes import clip as clip_training
from sora_cli.train.recipes import dit as dit_training
from sora_cli.train.recipes import vae as vae_training
from sora_cli.train.trainer.config import Preset

RUNNER = CliRunner()
TINY_CLIP = Preset((16, 2, 1, 8, (8, 8)), steps=2, batch=2, lr=1e-3)
CPU = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three clips and a picture in ./clips, and presets that train at once."""
    monkeypatch.chdir(tmp_path)
    of_others = registry.load_model_files

    def load(model: registry.Entry, stem: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        return tiny_part("tiny", stem) if model.name == "pocket" else of_others(model, stem)

    monkeypatch.setattr(registry, "load_model_files", load)
    monkeypatch.setitem(vae_training.PRESETS, "nano", TINY_VAE)
    monkeypatch.setattr(vae_training, "CROP", (64, 64))
    monkeypatch.setitem(dit_training.WIDTHS, "nano", (32, 1, 2))
    clips = tmp_path / "clips"
    clips.mkdir()
    for number, source in enumerate(("testsrc2=d=1:s=128x96:r=24", "testsrc2=d=1:s=96x128:r=25")):
        make(clips / f"{number}.mp4", *H264, source=source)
        (clips / f"{number}.txt").write_text("a cat in the ocean")
    make(clips / "2.gif", source="testsrc2=d=1:s=100x100:r=12")
    picture(clips / "3.png")
    return clips


def run(*words: str) -> Result:
    told = RUNNER.invoke(app, list(words))
    assert told.exit_code == 0, (told.output, told.exception)
    return told


def refused(*words: str) -> str:
    told = RUNNER.invoke(app, list(words))
    assert isinstance(told.exception, SoraError), (told.output, told.exception)
    return str(told.exception)


def train_vae() -> None:
    run("train", "vae", "--data", "dataset", "--steps", "2", "--batch", "2", "--out", "runs/vae", *CPU)


def test_from_a_folder_of_clips_to_a_video(folder: Path, tmp_path: Path) -> None:
    build = ["data", "build", "clips", "-o", "dataset", "--size", "64x64", *CPU]
    run(*build)
    train_vae()
    vae = "runs/vae/vae.safetensors"
    assert json.loads(weights.read_header(Path(vae)).metadata["training"])["data"] == "dataset"
    dit = ["train", "dit", "--data", "dataset", "--vae", vae, "--steps", "2", "--batch", "2", "--eager", "--out",
           "runs/dit", *CPU]  # fmt: skip
    assert "are of another VAE" in refused(*dit)
    run(*build, "--vae", vae)
    assert Dataset("dataset").vae == identity(*weights.load(vae))
    run(*dit)
    run("train", "export", "--init", "runs/dit", "--vae", vae, "--out", "mine")
    run("generate", "a cat", "--model", "./mine", "--frames", "5", "--res", "64x64", "--steps", "1", "-o", "a.mp4",
        "--device", "cpu", "--quiet")  # fmt: skip
    assert probe(tmp_path / "a.mp4").frames == 5
    assert str(tmp_path) not in (tmp_path / "mine" / "README.md").read_text()


def test_the_captions_of_a_folder_become_the_words_of_its_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that pocket never heard are learned, read at generation as they are typed, and go with the model alone."""
    for number, said in enumerate(("Eine Katze am Meer", "Zwei Bälle")):
        (folder / f"{number}.txt").write_text(said)
    told = run("data", "build", "clips", "-o", "dataset", "--size", "64x64", *CPU)
    assert "`sora-cli train clip --data dataset` makes one that knows them" in told.stderr
    monkeypatch.setitem(clip_training.PRESETS, "nano", TINY_CLIP)
    run("train", "clip", "--data", "dataset", "--steps", "2", "--out", "runs/words", *CPU)
    run("train", "dit", "--data", "dataset", "--text", "runs/words", "--steps", "10", "--batch", "2", "--eager",
        "--out", "runs/dit", *CPU)  # fmt: skip
    wrong = ["train", "export", "--init", "runs/dit", "--out", "mine"]
    assert "trained with a different text tower; give the one of its run with --text" in refused(*wrong)
    assert not Path("mine").exists()
    run(*wrong, "--text", "runs/words")
    card = Path("mine/README.md").read_text()
    assert "generate 'Eine Katze am Meer' --model ./mine" in card and "2 different captions of up to 4 words" in card
    assert "After 10 steps" in card and "3 videos and 1 picture" in card and "pictures" not in card
    told = run("generate", "zwei Katzen am Meer", "--model", "./mine", "--frames", "5", "--res", "64x64", "--steps",
               "1", "-o", "a.mp4", "--device", "cpu", "--json")  # fmt: skip
    assert json.loads(told.stdout)["shot"]["captions"] == []  # what is typed is what is read
    assert "./mine does not know: katzen" in told.stderr and "world --help" not in told.stderr
    assert "was not trained on pocket's grammar" in refused("generate", "x", "--model", "./mine", "--expand", "grammar")
    assert "the judge knows only pocket's world" in refused("evaluate", "--model", "./mine")


def test_few_steps_are_baked_in_with_the_networks_of_the_run_alone(folder: Path) -> None:
    run("data", "build", "clips", "-o", "dataset", "--size", "64x64", *CPU)
    dit = ["train", "dit", "--data", "dataset", "--steps", "1", "--batch", "2", "--eager", *CPU]
    run(*dit, "--out", "runs/dit")
    train_vae()
    distil = [*dit, "--init", "runs/dit", "--distil", "--out", "runs/few"]
    assert "trained with a different VAE; give the one of its run with --vae" in refused(*distil, "--vae", "runs/vae")
    run(*distil)


@pytest.mark.parametrize(
    "words",
    [
        "clip --init pocket", "captioner --init pocket", "evaluator --data world", "captioner --data world",
        "vae --align off", "vae --distil", "dit --decoder-only", "dit --zoom 2", "lora --preset base", "lora --vae v",
        "clip --rank 4", "export --steps 1",
    ],
)  # fmt: skip
def test_what_an_option_does_not_apply_to_has_it_not(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", *words.split()]) == 2
    assert f"No such option: {words.split()[1]}" in capsys.readouterr().err


def test_the_vae_learns_from_the_sources(folder: Path) -> None:
    """What it is shown are crops of the clips: its channels are measured on those."""
    run("data", "build", "clips", "-o", "dataset", "--size", "64x64", *CPU)
    draw = partial(vae_training.dataset_clip, dataset=Dataset("dataset"), device=torch.device("cpu"))
    drawn = [vae_training.batch(0, step, 2, torch.device("cpu"), 0.5, draw) for step in range(20)]
    assert torch.equal(drawn[3].read, vae_training.batch(0, 3, 2, torch.device("cpu"), 0.5, draw).read)
    assert {(8, 3, 1, 64, 64), (2, 3, 5, 64, 64)} <= {tuple(one.read.shape) for one in drawn}
    larger = draw(random.Random(0), 2, 1, zoom=2)
    assert larger.read.shape == (2, 3, 1, 64, 64) and larger.painted.shape == (2, 3, 1, 128, 128)
    train_vae()
    tensors, _ = weights.load("runs/vae/vae.safetensors")
    assert tensors["std"].gt(0).all() and not tensors["std"].eq(1).all()
    assert Image.open("runs/vae/samples/000002.png").size[0] == 5 * 64


def test_what_is_no_dataset_is_refused_before_anything_begins(folder: Path) -> None:
    assert refused("train", "vae", "--data", "moon") == (
        "unknown --data 'moon'; use world, or a folder that `sora-cli data build` made")  # fmt: skip
    assert "clips is not a dataset; `sora-cli data build CLIPS -o clips` makes one" in refused(
        "train", "dit", "--data", "clips")  # fmt: skip
    run("data", "build", "clips", "-o", "dataset", "--size", "64x64", *CPU)
    (folder / "1.mp4").unlink()
    said = refused("train", "vae", "--data", "dataset", *CPU)
    assert "1.mp4 is gone; `sora-cli data build FOLDER -o dataset`" in said
    assert not Path("runs").exists()


def test_short_clips_cannot_train_a_vae(tmp_path: Path, folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix != ".png":
            path.unlink()
    run("data", "build", "clips", "-o", "dataset", "--size", "64x64", *CPU)
    assert "no shot of dataset has 9 frames; the longest has 1" in refused("train", "vae", "--data", "dataset", *CPU)


def test_what_is_shipped_is_begun_with_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path | None] = []
    for module in (dit_training, vae_training):
        monkeypatch.setattr(module, "train", lambda options: begun.append(options.init))
    for stage in ("vae", "dit"):
        run("train", stage, "--init", "pocket")
    assert begun == [registry.PACKAGE / "pocket"] * 2 and (registry.PACKAGE / "pocket" / "vae.safetensors").is_file()
    Path("pocket").mkdir()
    run("train", "dit", "--init", "pocket")
    assert begun[-1] == Path("pocket")
