"""Trained networks as a folder: what is in it, that it runs, and what is refused."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from test_engine import tiny_part
from typer.testing import CliRunner

from sora_cli import registry
from sora_cli.cli import app
from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.media import probe
from sora_cli.train import export as exporting
from sora_cli.world.captions import words as worldly

RUNNER = CliRunner()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three trainings as they leave their folders."""
    monkeypatch.chdir(tmp_path)
    for stem in ("text", "vae", "dit"):
        tensors, header = tiny_part("tiny", stem)
        training = {"training": json.dumps({"preset": "nano", "steps": "3"})}
        folder = tmp_path / "runs" / stem
        folder.mkdir(parents=True)
        weights.save_part(folder, stem, tensors, header | training)
    return tmp_path / "runs"


def export(*words: str) -> str:
    asked = ["train", "export", "--init", "runs/dit", "--vae", "runs/vae/vae.safetensors",
             "--text", "runs/text/text.safetensors", "--out", "mine", *words]  # fmt: skip
    told = RUNNER.invoke(app, asked)
    assert told.exit_code == 0, told.output
    return told.stdout


def test_an_exported_folder_generates(runs: Path, tmp_path: Path) -> None:
    assert export().strip() == "mine"
    asked = ["generate", "a cat", "--model", "./mine", "--frames", "5", "--res", "64x64", "--steps", "1", "-o", "a.mp4"]
    told = RUNNER.invoke(app, [*asked, "--quiet", "--json"])
    assert told.exit_code == 0, told.output
    assert probe(tmp_path / "a.mp4").frames == 5
    assert json.loads(told.stdout)["shot"]["model"] == "./mine"
    again = RUNNER.invoke(app, ["decode", "a.safetensors", "--model", "./mine", "-o", "b.mp4", "--quiet"])
    assert again.exit_code == 0, again.output


def test_a_model_that_was_trained_on_makes_another_video(runs: Path) -> None:
    """Under its old name, too: what the old weights made is not taken for done."""
    export()
    asked = ["generate", "a cat", "--model", "./mine", "--frames", "5", "--res", "64x64", "--steps", "1", "-o", "a.mp4"]
    assert RUNNER.invoke(app, asked).exit_code == 0
    made = Path("a.mp4").read_bytes()
    assert "already done" in RUNNER.invoke(app, [*asked, "--resume"]).output
    shutil.rmtree("mine")
    tensors, header = tiny_part("tiny", "dit")
    weights.save_part(runs / "dit", "dit", {name: tensor + 0.1 for name, tensor in tensors.items()}, header)
    export()
    told = RUNNER.invoke(app, [*asked, "--resume"])
    assert told.exit_code and "made with other weights; --force overwrites it" in str(told.exception)
    assert RUNNER.invoke(app, [*asked, "--force"]).exit_code == 0 and Path("a.mp4").read_bytes() != made


def test_the_folder_describes_itself(runs: Path) -> None:
    export()
    (model,) = tomllib.loads(Path("mine/weights.toml").read_text()).values()
    names = {file["name"] for file in model["files"]}
    assert names == {"dit.safetensors", "vae.safetensors", "text.safetensors"}
    card = Path("mine/README.md").read_text()
    assert card.startswith("# mine\n") and "--model ./mine" in card and "steps 3" in card and "channels 6" in card
    for file in registry.entry("./mine").files:
        weights.check(file.path, file.sha256, file.bytes)


def test_prompts_become_captions_of_the_world_where_it_was_learned_and_so_were_its_words(runs: Path) -> None:
    """A transformer that learned from people's own captions reads those, whatever its text tower knows."""
    tensors, header = tiny_part("tiny", "text")
    numbers, told = tiny_part("tiny", "dit")
    own = {"videos": 2, "images": 0, "shots": 2, "seconds": 6.0, "example": "ein Apfelmännchen",
           "captions": {"different": 2, "words": [1, 2, 3]}}  # fmt: skip
    for words, data, grammar in ((worldly(), {}, True), (worldly()[1:], {}, False), (worldly(), own, False)):
        weights.save_part(runs / "text", "text", tensors, header | {"vocabulary": json.dumps(words)})
        weights.save_part(runs / "dit", "dit", numbers, told | {"data": json.dumps(data)})
        export()
        usage, pocket = registry.entry("./mine").usage, registry.entry("pocket").usage
        assert usage == (pocket if grammar else registry.SamplingDefaults(window=pocket.window, context=pocket.context))


def test_changed_weights_are_refused(runs: Path) -> None:
    export()
    with Path("mine/vae.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(Failed, match="damaged or changed"):
        registry.load_model_files(registry.entry("./mine"), "vae")


def test_a_run_is_no_model_yet(runs: Path) -> None:
    with pytest.raises(SoraError, match="training run; `sora-cli train export --init runs/dit --out mine`"):
        registry.entry("./runs/dit")


def test_what_does_not_fit_is_refused(runs: Path) -> None:
    tensors, header = tiny_part("tiny", "vae")
    other = json.loads(header["config"]) | {"space": 9}
    weights.save(runs / "vae" / "vae.safetensors", tensors, header | {"config": json.dumps(other)})
    told = RUNNER.invoke(app, ["train", "export", "--init", "runs/dit", "--vae", "runs/vae", "--out", "mine"])
    assert isinstance(told.exception, SoraError) and "6 channels, but this VAE has 9 + 2" in str(told.exception)
    assert not Path("mine").exists()
    shutil.copytree(runs / "dit", runs / "learning" / "checkpoint-0000250")
    told = RUNNER.invoke(app, ["train", "export", "--init", "runs/learning", "--out", "mine"])
    assert isinstance(told.exception, SoraError) and "runs/learning has no transformer yet" in str(told.exception)
    told = RUNNER.invoke(app, ["train", "export", "--out", "mine"])
    assert told.exit_code == 2 and "--init" in told.output


def test_nothing_is_written_among_other_things(runs: Path) -> None:
    Path("mine").mkdir()
    Path("mine/README.md").write_text("my holidays")
    told = RUNNER.invoke(app, ["train", "export", "--init", "runs/dit", "--out", "mine"])
    assert isinstance(told.exception, SoraError) and "mine is neither empty nor a model" in str(told.exception)
    assert Path("mine/README.md").read_text() == "my holidays"
    Path("mine/README.md").unlink()
    export()
    export()  # again, in place of the one before


def test_an_export_that_was_killed_is_made_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(exporting, "card", lambda *told: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(AssertionError):
            export()
    assert {path.name for path in Path("mine").iterdir()} >= {"dit.safetensors", "identity.json"}
    export()
    assert registry.entry("./mine") and not Path("mine/identity.json").exists()


def test_a_folder_with_two_models_is_refused(runs: Path) -> None:
    export()
    path = Path("mine/weights.toml")
    path.write_text(path.read_text() + path.read_text().replace('["mine"', '["other"'))
    with pytest.raises(SoraError, match="names 2 models; it must name one"):
        registry.entry("./mine")
