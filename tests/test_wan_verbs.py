"""A Wan model from a Hub of this machine to finished videos, by the commands that users type."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wan_folders
from hub_cases import published
from hub_server import Hub
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import noise, y4m_format
from tiny import write as write_video

from sora_cli import cli, media
from sora_cli.storage import latent_file

USAGE = """
cell = 16
[tiny.usage]
width = 96
height = 64
fps = 24.0
frames = 17
window = 5
context = 2
steps = 2
guidance = 2.0
shift = 5.0
solver = "unipc"
plan = "sliding"
negative = "blurred"
trained = ["start"]
"""
Sora = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def pulled(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where `tiny` was pulled from the Hub."""
    home = tmp_path_factory.mktemp("pulled")
    with pytest.MonkeyPatch.context() as patch, published(folders, home, patch):
        assert cli.run(["weights", "pull", "tiny", "--yes", "--quiet"]) == 0
    return home


@pytest.fixture
def wan(pulled: Path, server: Hub, sora: Sora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sora:
    """A command line in an empty folder, where `tiny` is a Wan 2.2 that is here already."""
    shutil.copytree(pulled, tmp_path, symlinks=True, dirs_exist_ok=True)
    models = tmp_path / "config" / "sora-cli" / "weights.toml"
    text = models.read_text()
    models.write_text(text.replace("usage = { steps = 8 }\n\n[tiny21]", USAGE + "\n[tiny21]"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lambda *words: sora(*words, *(("--model", "tiny", "--device", "cpu") if words[0] != "info" else ()))


def clip(name: str, count: int = 12) -> str:
    format = y4m_format(96, 64)
    return write_video(name, format, noise(format, count))


def picture(name: str) -> str:
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)).save(name)
    return name


def shown(name: str) -> list[np.ndarray]:
    with media.open_source(name) as source:
        return list(media.to_rgb(source, source.format, source.format.size))


def test_it_is_pulled_and_then_makes_videos(wan: Sora, server: Hub) -> None:
    code, said = wan("generate", "a cat on a boat", "-o", "a.mp4")
    assert code == 0 and said.splitlines()[0] == "a.mp4", said
    found = media.probe("a.mp4")
    assert (found.width, found.height, found.frames, found.fps) == (96, 64, 17, 24.0)
    shot = json.loads(Path("a.json").read_text())["shot"]
    assert (shot["steps"], shot["guidance"], shot["negative"], shot["plan"]) == (2, 2.0, "blurred", "sliding")
    assert latent_file.read_layout("a.safetensors").shape == (6, 5, 4, 6)
    before = len(server.requests)
    assert wan("generate", "--from", "a.mp4", "-o", "b.mp4")[0] == 0
    assert len(server.requests) == before, "a model that is here needs no Hub"
    assert all(np.array_equal(one, same) for one, same in zip(shown("a.mp4"), shown("b.mp4"), strict=True))


def test_anchors_are_shown_as_they_are(wan: Sora) -> None:
    start, end = picture("start.png"), picture("end.png")
    code, said = wan("generate", "a cat", "--image", start, "--end", end, "-o", "a.y4m")
    assert code == 0 and "experimental: tiny was not trained for a given end picture or clip" in said
    frames = shown("a.y4m")
    assert len(frames) == 17
    given = np.asarray(Image.open(start)).astype(int)
    for frame in (frames[0], frames[-1]):  # but for the coarser colours of 4:2:0
        assert np.abs(frame.mean((0, 1)) - given.mean((0, 1))).max() < 2
    assert np.abs(frames[0].astype(int) - frames[8].astype(int)).mean() > 5


@pytest.mark.parametrize(("sides", "frames"), [(("--after", "0.5"), 12 + 12), (("--before", "0.5"), 12 + 12),
                                               (("--before", "0.25", "--after", "1.5"), 6 + 12 + 36)])  # fmt: skip
def test_extend(wan: Sora, sides: tuple[str, ...], frames: int) -> None:
    source = clip("in.y4m")
    code, said = wan("extend", source, "a cat", *sides, "-o", "out.y4m")
    assert code == 0, said
    made, given = shown("out.y4m"), shown(source)
    start = 0 if sides[0] == "--after" else 6 if len(sides) == 4 else 12
    assert len(made) == frames
    assert all(np.array_equal(one, same) for one, same in zip(made[start : start + 12], given, strict=True))


def test_extend_goes_on_from_the_latents_beside(wan: Sora) -> None:
    assert wan("generate", "a cat", "-o", "a.mp4")[0] == 0
    assert wan("extend", "a.mp4", "--after", "0.5", "-o", "b.mp4")[0] == 0
    before, _ = latent_file.load("a.safetensors")
    after, header = latent_file.load("b.safetensors")
    assert header.frames == 17 + 12 and (after[:, :5] == before).all()


def test_loop(wan: Sora) -> None:
    code, said = wan("loop", "a cat", "--seconds", "0.6", "-o", "a.y4m")
    assert code == 0 and "experimental" in said and "seam" in said, said
    assert len(shown("a.y4m")) == 16
    source = clip("in.y4m")
    code, said = wan("loop", source, "a cat", "--seconds", "0.4", "-o", "b.y4m")
    assert code == 0 and len(shown("b.y4m")) == 12 + 11, said
    assert all(np.array_equal(one, same) for one, same in zip(shown("b.y4m"), shown(source), strict=False))


def test_reverse(wan: Sora) -> None:
    code, said = wan("reverse", picture("end.png"), "a cat", "--seconds", "1.5", "-o", "a.mp4")
    assert code == 0 and len(shown("a.mp4")) == 36, said


def test_encode_and_decode(wan: Sora, sora: Sora) -> None:
    assert wan("encode", clip("in.y4m"), "-o", "a.safetensors")[0] == 0
    assert latent_file.read_layout("a.safetensors").shape == (6, 4, 4, 6)
    assert wan("decode", "a.safetensors", "-o", "all.y4m")[0] == 0
    assert wan("decode", "a.safetensors", "--frames", "6:9", "-o", "some.y4m")[0] == 0
    assert all(np.array_equal(one, same) for one, same in zip(shown("some.y4m"), shown("all.y4m")[6:9], strict=True))
    head = latent_file.load("a.safetensors")
    latent_file.save("of-a-folder.safetensors", head[0], replace(head[1], model=latent_file.plainly("hf:some/wan")))
    code, said = sora("decode", "of-a-folder.safetensors", "-o", "b.mp4")
    assert code == 2 and "hf-some-wan, which is not registered here; known models: pocket, " in said
    assert "--model hf:" in said
    code, said = cli_of("decode", "a.safetensors", "--model", "pocket", "-o", "b.mp4")
    assert code == 2 and not Path("b.mp4").exists()


def cli_of(*words: str) -> tuple[int, str]:
    return cli.run(list(words)), ""


def test_windows_are_gone_on_with_after_a_crash(wan: Sora, monkeypatch: pytest.MonkeyPatch) -> None:
    from sora_cli.pipelines.wan import Wan

    words = ("generate", "a cat", "--seconds", "2", "-o", "a.mp4")
    assert wan(*words)[0] == 0
    whole, _ = latent_file.load("a.safetensors")
    for path in Path.cwd().iterdir():
        path.unlink()
    solver, calls = Wan.sample, []

    def crashing(self: Wan, *what: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise OSError("the power is gone")
        return solver(self, *what)

    monkeypatch.setattr(Wan, "sample", crashing)
    assert wan(*words)[0] == 1 and not Path("a.mp4").exists()
    assert wan(*words, "--resume")[0] == 0
    again, _ = latent_file.load("a.safetensors")
    assert (whole == again).all() and len(calls) == 3 + 2


# ---- refusals -----------------------------------------------------------------------------------------------


def test_what_is_not_here_is_named_with_its_remedy(wan: Sora, sora: Sora) -> None:
    code, said = sora("generate", "a cat", "--model", "wan2.2-5b", "-o", "a.mp4")
    assert code == 1 and said.count("\n") == 1 and "weights pull wan2.2-5b" in said and "34.2 GB" in said
    code, said = sora("generate", "a cat", "--model", "veo", "-o", "a.mp4")
    assert code == 2 and said.count("\n") == 1 and "wan2.2-5b" in said


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tensors of a shard."""
    (path,) = sorted(folder.glob("*00002-of*.safetensors"))
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def first(tensors: dict[str, Any]) -> str:
    return min(tensors)


def wrong_key(folder: Path) -> None:
    edited(folder / "transformer", lambda tensors: tensors.update(strange=tensors.pop(first(tensors))))


def wrong_shape(folder: Path) -> None:
    edited(folder / "transformer", lambda t: t.update({first(t): t[first(t)].flatten()[:2].clone()}))


def wrong_type(folder: Path) -> None:
    edited(folder / "transformer", lambda t: t.update({first(t): t[first(t)].double()}))


def pickled(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")


def linked(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.move(path, folder.parent / "elsewhere.safetensors")
    path.symlink_to(folder.parent / "elsewhere.safetensors")


def outside(folder: Path) -> None:
    (index,) = (folder / "transformer").glob("*.index.json")
    told = json.loads(index.read_text())
    key = next(iter(told["weight_map"]))
    told["weight_map"][key] = "../vae/diffusion_pytorch_model.safetensors"
    index.write_text(json.dumps(told))


def embedder(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_dim": 1280, "added_kv_proj_dim": 5120}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (wrong_key, "00002-of.*strange"),
        (wrong_shape, "00002-of.*is 2, but the network needs"),
        (wrong_type, "00002-of.*F64"),
        (pickled, r"vae.*safetensors"),
        (linked, "leads out of the checkpoint"),
        (outside, r"\.\./vae/"),
        (embedder, "image_dim is 1280"),
    ],
)
def test_what_cannot_be_trusted_is_refused_by_name(
    wan: Sora, sora: Sora, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    import re

    folder = wan_folders.write(tmp_path / "model", wan_folders.WAN22, channels=48)
    damage(folder)
    code, said = sora("generate", "a cat", "--model", str(folder), "--res", "96x64", "--frames", "5", "--steps", "1",
                      "--device", "cpu", "--quiet", "-o", "a.mp4")  # fmt: skip
    assert code in (1, 2) and said.count("\n") == 1, said
    assert re.search(words, said), said
    assert not list(Path.cwd().iterdir())


def test_a_dry_run_says_what_is_not_read_and_loads_no_weights(wan: Sora, monkeypatch: pytest.MonkeyPatch) -> None:
    long, other = "xyz vbk " * 170 + "the very end", "vbk xyz " * 170 + "and what not to show"
    how = ("--frames", "5", "--res", "96x64", "-o", "a.mp4", "--force")
    code, made = wan("generate", "a cat", *how, "--prompt-at", f"0.1s={long}", "--negative", other)
    monkeypatch.setattr("sora_cli.pipelines.load", None)
    again, planned = wan("generate", "a cat", *how, "--prompt-at", f"0.1s={long}", "--negative", other, "--dry-run")
    assert (code, again) == (0, 0), made + planned
    for said in (made, planned):
        assert said.count("tiny reads 512 tokens of a prompt; not read: ") == 2
    assert "not read" not in wan("generate", "xyz vbk " * 60, *how, "--dry-run")[1]
