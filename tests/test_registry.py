"""Models by name, by the users' own tables, by folder: found, or refused in a line that says what is there."""

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import wan_folders
from safetensors.torch import save_file

from sora_cli import cli, registry
from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.registry import layouts, schema

MINE = """
[mine]
kind = "wan"
about = "my own"
text = "umt5-xxl"
cell = 16
parts = [
  { role = "dit", repo = "me/mine", folder = "transformer", bytes = 1_000, names = ["*.safetensors"] },
  { role = "vae", path = "here/vae.safetensors" },
]
[mine.usage]
steps = 7
guidance = 1
trained = ["start"]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the users' own models."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "sora-cli"
    folder.mkdir(parents=True)
    return folder


def tensors() -> dict[str, torch.Tensor]:
    return {f"layer.{i}.weight": torch.full((64, 64), float(i)) for i in range(5)}


# -- Shipped models ---------------------------------------------------------------------------------------


def register(monkeypatch: pytest.MonkeyPatch, folder: Path) -> registry.Entry:
    """A model `tiny` of all the files in a folder."""
    files = tuple(
        registry.WeightFile(path, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.glob("*.safetensors"))
    )
    model = registry.Entry("tiny", "sora", "a test", files)
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": model})
    return model


def test_parts_of_a_shipped_model_are_read_from_all_their_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights.save_part(tmp_path, "dit", tensors(), {"config": "{}"}, limit=2 * 64 * 64 * 4)
    register(monkeypatch, tmp_path)
    found, metadata = registry.load_model_files(registry.entry("tiny"), "dit")
    assert metadata == {"config": "{}"}
    torch.testing.assert_close(found, tensors(), rtol=0, atol=0)
    with pytest.raises(Failed, match="no part 'vae'"):
        registry.load_model_files(registry.entry("tiny"), "vae")


def test_a_model_that_is_sent_is_looked_up_where_it_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.save(tmp_path / "vae.safetensors", tensors())
    sent = pickle.dumps(register(monkeypatch, tmp_path))
    weights.save(tmp_path / "dit.safetensors", tensors())
    there = register(monkeypatch, tmp_path)
    assert len(there.files) == 2 and pickle.loads(sent) is there


def test_one_flipped_bit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.save(tmp_path / "vae.safetensors", tensors())
    model = register(monkeypatch, tmp_path)
    registry.verify(model)
    data = bytearray((tmp_path / "vae.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "vae.safetensors").write_bytes(data)
    with pytest.raises(Failed, match=r"vae\.safetensors are damaged or changed.*reinstall"):
        registry.verify(model)
    with pytest.raises(Failed, match="damaged or changed"):
        registry.load_model_files(registry.entry("tiny"), "vae")


def test_missing_and_short_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vae.safetensors"
    weights.save(path, tensors())
    model = register(monkeypatch, tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(Failed, match="bytes instead of"):
        registry.verify(model)
    path.unlink()
    with pytest.raises(Failed, match="missing"):
        registry.verify(model)


def test_unknown_models_name_the_known() -> None:
    with pytest.raises(SoraError, match="known models: pocket"):
        registry.entry("veo")


def test_the_registry_is_what_is_shipped() -> None:
    """scripts/register_weights.py has been run after the last change of the weights."""
    for name in registry.names():
        model = registry.entry(name)
        if model.files:
            registry.verify(model)
            assert sum(file.bytes for file in model.files) <= 60_000_000
            assert {file.path.name for file in model.files} == {
                path.name for path in model.files[0].path.parent.glob("*.safetensors")
            }
    script = Path(__file__).parent.parent / "scripts" / "register_weights.py"
    subprocess.run([sys.executable, script, "--check"], check=True)


# -- Users' own models ------------------------------------------------------------------------------------


def test_a_model_of_the_users_own(home: Path) -> None:
    (home / "weights.toml").write_text(MINE)
    found = registry.entry("mine")
    assert [part.role for part in found.parts] == ["dit", "vae", "text", "tokenizer"]
    assert found.parts[1].path == home / "here" / "vae.safetensors", "beside the table"
    assert found.parts[2:] == registry.entry("umt5-xxl").parts
    assert found.parts[0].names == ("*.safetensors",) and found.parts[0].revision == "main"
    assert (found.usage.steps, found.usage.guidance, found.usage.trained) == (7, 1, ("start",))
    assert registry.names()[0] == "pocket" and registry.names()[-1] == "mine"


def test_a_model_may_be_used_like_a_shipped_one(home: Path) -> None:
    parts = MINE[MINE.index("parts") : MINE.index("[mine.usage]")]
    told = f'[mine]\nkind = "wan"\nabout = ""\nlike = "wan2.1-1.3b"\n{parts}'
    small = "{ channels = 16, width = 64, heads = 2, hidden = 8, layers = 1 }"
    other = f"{told}[mine.usage]\nsteps = 7\n[mine.network]\ndit = {small}"
    like = registry.entry("wan2.1-1.3b")
    (home / "weights.toml").write_text(told)
    found = registry.entry("mine")
    assert (found.cell, found.usage, found.network) == (like.cell, like.usage, like.network)
    assert found.parts[2:] == like.parts[2:] and found.parts[:2] != like.parts[:2]
    (home / "weights.toml").write_text(other)
    found = registry.entry("mine")
    assert found.usage == registry.replace(like.usage, steps=7) and found.network and like.network
    assert (found.network.dit.width, found.network.vae) == (64, like.network.vae)


DIT = "channels = 16, hidden = 8"
VAE = "vae = { channels = 4, width = 8, decoder_width = 8, multiples"


@pytest.mark.parametrize("network, line", [
    (f"dit = {{ {DIT}, width = 64, heads = 0, layers = 1 }}", " dit: width 64 is not a multiple of 0 heads"),
    (f"dit = {{ {DIT}, width = 64, heads = 3, layers = 1 }}", " dit: width 64 is not a multiple of 3 heads"),
    (f"dit = {{ {DIT}, width = 6, heads = 2, layers = 1 }}",
     " dit: head width 3 and waves 256 must be even: they come in pairs"),
    (f"dit = {{ {DIT}, width = 64, heads = -2, layers = 1 }}", " dit: its heads is -2"),
    (f"dit = {{ {DIT}, width = 64, heads = 2, layers = 0 }}", " dit: its layers is 0"),
    (f"dit = {{ {DIT}, width = 64, heads = 2, layers = 5_000 }}", " dit: its layers is 5000"),
    (f"dit = {{ {DIT}, width = 64, heads = '2', layers = 1 }}", " dit has heads = '2'; it must be a whole number"),
    (f"dit = {{ {DIT}, width = 64, heads = true, layers = 1 }}", " dit has heads = True; it must be a whole number"),
    (f"dit = {{ {DIT}, width = 64.5, heads = 2, layers = 1 }}", " dit has width = 64.5; it must be a whole number"),
    (f"dit = {{ {DIT}, width = 64, heads = 2 }}", " dit lacks layers"),
    ("vae = { channels = 1_000_000_000, width = 8, decoder_width = 8 }", " vae: its channels is 1000000000"),
    (f"{VAE} = ['2'] }}", " vae: its multiples is '2'"),
    (f"{VAE} = [1, 2, 0, 2] }}", " vae: its multiples is 0"),
    ("dit = 64", " has dit = 64; it must be a table"),
    ("unet = {}", " has an unknown key unet; known keys: dit, vae, text"),
])  # fmt: skip
def test_sizes_that_no_network_has_are_refused_when_they_are_read(
    home: Path, capsys: pytest.CaptureFixture[str], network: str, line: str
) -> None:
    table = home / "weights.toml"
    table.write_text(MINE.replace('text = "umt5-xxl"', 'like = "wan2.1-1.3b"') + f"[mine.network]\n{network}\n")
    assert cli.run(["generate", "a cat", "--model", "mine"]) == 2
    assert capsys.readouterr().err == f"sora-cli: {table}: [mine] network{line}\n"


def test_the_example_of_the_documentation(home: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "hub.md").read_text(encoding="utf-8")
    (home / "weights.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    found, like = registry.entry("my-wan"), registry.entry("wan2.1-1.3b")
    assert found.usage == registry.replace(like.usage, steps=20, solver="euler")
    assert [part.path is None for part in found.parts] == [False, False, True, True]


def test_own_parts_take_the_place_of_the_text_encoder_s(home: Path) -> None:
    mine = MINE.replace("parts = [", 'parts = [\n  { role = "text", path = "~/text" },')
    (home / "weights.toml").write_text(mine)
    found = {part.role: part for part in registry.entry("mine").parts}
    assert len(registry.entry("mine").parts) == 4 and found["text"].path == Path.home() / "text"
    assert found["tokenizer"] in registry.entry("umt5-xxl").parts


def test_own_weights_of_our_architecture(home: Path) -> None:
    """A checkpoint that was trained here, beside the users' table."""
    (home / "trained").mkdir()
    save_file(tensors(), home / "trained" / "dit.safetensors")
    content = (home / "trained" / "dit.safetensors").read_bytes()
    file = f'{{ name = "dit.safetensors", bytes = {len(content)}, sha256 = "{hashlib.sha256(content).hexdigest()}" }}'
    told = f'[run]\nkind = "sora"\nabout = "mine"\nfolder = "trained"\nfiles = [{file}]\n'
    (home / "weights.toml").write_text(told)
    registry.verify(registry.entry("run"))
    found, _ = registry.load_model_files(registry.entry("run"), "dit")
    torch.testing.assert_close(found, tensors(), rtol=0, atol=0)


DIT = '{ role = "dit", path = "dit" }'
BROKEN = {
    "no TOML": ("[mine\n", "line 1"),
    "no text": (b"\xff\xfe", "codec can't decode"),
    "a shipped name": ('[pocket]\nkind = "sora"\n', "pocket is the name of a shipped model; give yours another name"),
    "no table": ("mine = 3\n", r"\[mine\] must be a table of kind, about"),
    "a missing key": (MINE.replace('about = "my own"', ""), r"\[mine\] lacks about"),
    "a missing key of a part": (MINE.replace(", bytes = 1_000", ""), r"\[mine\] parts lacks bytes"),
    "an unknown key": (MINE.replace("cell =", "cells ="), r"\[mine\] has an unknown key cells; known keys: kind"),
    "an unknown key of the usage": (MINE.replace("steps", "step"), r"\[mine\] usage has an unknown key step;"),
    "a text for a number": (MINE.replace("7", '"7"'), r"usage has steps = '7'; it must be a whole number"),
    "a truth for a number": (MINE.replace("7", "true"), r"usage has steps = True; it must be a whole number"),
    "no list": (MINE.replace('["start"]', '"start"'), r"usage has trained = 'start'; it must be a list"),
    "no list of texts": (MINE.replace('["start"]', "[1]"), r"trained = \[1\]; it must be a list of strings"),
    "an unknown kind": (MINE.replace('"wan"', '"ltx"'),
                        rf"\[mine\] has kind = 'ltx'; known kinds: {', '.join(schema.KINDS)}$"),
    "an unknown role": (MINE.replace('"dit"', '"unet"'), "role = 'unet'; known roles: dit, vae, text, tokenizer"),
    "an unknown text encoder": (MINE.replace("umt5-xxl", "t5"), r"\[mine\] has text = 't5', but there is no such"),
    "a strange repository": (MINE.replace("me/mine", "../mine"), r"repo = '\.\./mine'; it must look like OWNER/NAME"),
    "no text encoder": (MINE.replace('text = "umt5-xxl"', ""), "no part with role = 'text'; text = .umt5-xxl. names"),
    "no autoencoder": (MINE.replace('"vae"', '"text"'), r"\[mine\] has no part with role = 'vae'$"),
    "two transformers": (MINE.replace("parts = [", f"parts = [{DIT},"), "several parts with role = 'dit'; keep one"),
    "an unknown solver": (MINE + 'solver = "unipcc"',
                          f"usage has solver = 'unipcc'; known solvers: {', '.join(schema.SOLVERS)}$"),
    "unknown plan": (MINE + 'plan = "slide"', "usage has plan = 'slide'; known plans: full, autoregressive, sliding"),
    "all known": (MINE + "window = 5\ncontext = 5", r"context = 5; it must be less than window, which is 5"),
    "no usage": (MINE[: MINE.index("[mine.usage]")], r"\[mine\] needs usage, or `like` naming a shipped model$"),
    "like no other": (MINE.replace("cell = 16", 'like = "wan3"'), "like = 'wan3'; of its kind: wan2.2-5b, wan2.1"),
    "like another kind": (MINE.replace("cell = 16", 'like = "pocket"'), "like = 'pocket'; of its kind: wan2"),
    "nothing to load": (MINE.replace("parts", "names"), "unknown key names"),
    "neither files nor parts": ('[mine]\nkind = "wan"\nabout = ""\n', r"\[mine\] needs either files .* or parts"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_table_is_one_line_and_stands_in_no_other_model_s_way(fault: str, home: Path) -> None:
    content, line = BROKEN[fault]
    path = home / "weights.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for asked in (lambda: registry.entry("mine"), registry.names):
        with pytest.raises(SoraError, match=line) as caught:
            asked()
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert registry.entry("pocket").files
    assert registry.entry("wan2.2-5b").parts


def test_the_shipped_table_passes_the_same_checks() -> None:
    for name, model in registry.shipped().items():
        schema.check_model(name, model)


# -- Folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "channels", "like"),
    [
        (wan_folders.WAN22, 48, "wan2.2-5b"),
        (wan_folders.WAN21, 16, "wan2.1-1.3b"),
        (wan_folders.SKYREELS2, 16, "skyreels2-1.3b"),
    ],
)
def test_a_folder_is_known_by_its_architecture(kind: str, channels: int, like: str, tmp_path: Path) -> None:
    folder = wan_folders.write(tmp_path / "model", kind, channels=channels)
    found, known = registry.entry(str(folder)), registry.entry(like)
    assert (found.kind, found.cell, found.usage) == (known.kind, known.cell, known.usage)
    assert {part.role: part.path for part in found.parts} == {
        role: folder / name for role, name in registry.FOLDERS.items()
    }
    network = [path for part in ("transformer", "vae", "text_encoder") for path in (folder / part).iterdir()]
    assert found.bytes == sum(path.stat().st_size for path in (*network, folder / "tokenizer" / "tokenizer.json"))


def test_a_folder_without_a_text_encoder_takes_the_shared_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wan_folders.write(tmp_path / "model", wan_folders.WAN22, ("transformer", "vae", "tokenizer"), channels=48)
    monkeypatch.chdir(tmp_path)
    found = registry.entry("./model")
    assert [part.path is None for part in found.parts] == [False, False, True, True]
    assert found.parts[2:] == registry.entry("umt5-xxl").parts
    assert found.name == "./model"


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_part_of_a_model_names_the_folder_of_the_whole(part: str, tmp_path: Path) -> None:
    folder = wan_folders.write(tmp_path / "model", wan_folders.WAN21, channels=16)
    with pytest.raises(SoraError, match=f"is one part of a model; give the folder that contains it, {folder}$"):
        registry.entry(str(folder / part))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"image_dim": 1280}, r"takes image embeddings \(image_dim is 1280\); supported: the text-to-video"),
    ({"added_kv_proj_dim": 5120}, r"takes image embeddings \(added_kv_proj_dim is 5120\)"),
    ({"in_channels": 36}, r"another kind of model \(_class_name WanTransformer3DModel, in_channels 36\); supported"),
    ({"in_channels": [16]}, r"in_channels \[16\]"),
    ({"_class_name": "LTXVideoTransformer3DModel"}, "_class_name LTXVideoTransformer3DModel"),
    ({"_class_name": "WanVACETransformer3DModel"}, "_class_name WanVACETransformer3DModel"),
]


@pytest.mark.parametrize(("change", "line"), REFUSED)
def test_other_architectures_are_refused_by_name(change: dict[str, Any], line: str, tmp_path: Path) -> None:
    folder = wan_folders.write(tmp_path / "model", wan_folders.WAN21, ("transformer", "vae"), channels=16)
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SoraError, match=line):
        registry.entry(str(folder))


def test_what_is_no_model_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SoraError, match=r"no model in model: model/transformer/config\.json is missing \(hf:"):
        registry.entry("./model")
    wan_folders.write(tmp_path / "model", wan_folders.WAN21, ("transformer",), channels=16)
    with pytest.raises(SoraError, match=r"model/vae/config\.json is missing"):
        registry.entry("./model")
    wan_folders.write(tmp_path / "model", wan_folders.WAN21, ("vae",), channels=16)
    registry.entry("./model")
    (tmp_path / "model" / "transformer_2").mkdir()
    (tmp_path / "model" / "transformer_2" / "config.json").write_text("{}")
    with pytest.raises(SoraError, match="two transformers"):
        registry.entry("./model")
    for content in ("{", "[1]", ""):
        (tmp_path / "model" / "transformer" / "config.json").write_text(content)
        with pytest.raises(Failed, match=r"transformer/config\.json is not (JSON|a JSON object)"):
            registry.entry("./model")


def test_a_folder_of_a_lora_is_one(tmp_path: Path) -> None:
    weights.save(tmp_path / "dit.safetensors", {"blocks.0.q.weight": torch.zeros(2, 2)})
    with pytest.raises(SoraError, match="is a training run"):
        registry.entry(str(tmp_path))
    factors = {f"transformer.blocks.0.q.{half}.weight": torch.zeros(2, 2) for half in ("lora_A", "lora_B")}
    weights.save(tmp_path / "dit.safetensors", factors)
    with pytest.raises(SoraError, match=r"holds a LoRA; use it with --lora .*dit\.safetensors"):
        registry.entry(str(tmp_path))


@pytest.mark.parametrize(("name", "repository"), [
    ("https://huggingface.co/a/b-c.1", "hf:a/b-c.1"), ("http://www.huggingface.co/a/b/", "hf:a/b"), ("hf.co/a/b",
                                                                                                     "hf:a/b"),
    ("https://huggingface.co/a/b/tree/v2/transformer", "hf:a/b@v2"), ("https://huggingface.co/a/b?library=x", "hf:a/b"),
])  # fmt: skip
def test_the_page_of_a_repository_is_the_repository(
    monkeypatch: pytest.MonkeyPatch, name: str, repository: str
) -> None:
    monkeypatch.setattr(layouts, "of_repository", lambda told: told)
    assert registry.entry(name) == repository


@pytest.mark.parametrize(("name", "complaint"), [
    ("./vae.safetensors", "there is no file"), ("./wan-Q4_K_M.gguf", "set SORA_COMFY to ComfyUI's folder"),
    ("~/model.ckpt", "cannot be read; it must be"), ("https://example.org/a/b", "is an address"),
    ("https://huggingface.co/a/b/resolve/main/x.safetensors", "is an address; download the model, or give its"),
    ("https://huggingface.co/a/b/blob/v2/transformer/config.json", "is an address"),
    ("https://huggingface.co/spaces/a/b", "is an address"), ("https://hf.co/datasets/a/b", "is an address"),
    ("https://huggingface.co/a", "is an address"), ("./nowhere", "there is no model in"),
    ("~nobody-here/model", "there is no model in"), ("~nobody-here/dit.gguf", "there is no file"),
    *((f"hf:{name}", "is not a repository") for name in ("a/b.git", "a/b..c", "a--b/c", "\u00e4/b", "a/b.")),
])  # fmt: skip
def test_what_people_take_for_a_model_is_told(name: str, complaint: str) -> None:
    with pytest.raises(SoraError, match=complaint) as told:
        registry.entry(name)
    assert "\n" not in str(told.value)


def test_a_table_that_is_nested_without_end_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "sora-cli").mkdir()
    (tmp_path / "sora-cli" / "weights.toml").write_text(f"[a]\nx = {'[' * 5000}")
    with pytest.raises(SoraError, match=r"weights.toml: maximum recursion depth"):
        registry.names()


@pytest.mark.parametrize("how", ["up", "full", "link", "folder", "part"])
def test_an_export_names_its_own_files_alone(tmp_path: Path, how: str) -> None:
    """It may be a stranger's, who knows what files are called here."""
    home, mine = tmp_path / "model", tmp_path / "mine"
    home.mkdir(), mine.mkdir()
    save_file(tensors(), mine / "dit.safetensors")
    (home / "dit.safetensors").symlink_to(mine / "dit.safetensors")
    name = {"up": "../mine/dit.safetensors", "full": str(mine / "dit.safetensors")}.get(how, "dit.safetensors")
    file = f'{{ name = "{name}", bytes = 1, sha256 = "{64 * "0"}" }}'
    told = f'[run]\nkind = "sora"\nabout = "theirs"\nfiles = [{file}]\n'
    if how == "folder":
        told = told.replace("files =", 'folder = "../mine"\nfiles =')
    if how == "part":
        told = f'[run]\nkind = "umt5"\nabout = "theirs"\nparts = [{{ role = "text", path = "{mine}" }}]\n'
    (home / "weights.toml").write_text(told)
    with pytest.raises(SoraError, match="leads out of the checkpoint"):
        registry.entry(str(home))
    if how in ("up", "link"):
        (home / "dit.safetensors").unlink()
        save_file(tensors(), home / "dit.safetensors")
        (home / "weights.toml").write_text(told.replace("../mine/", ""))
        assert registry.entry(str(home)).files[0].path == home / "dit.safetensors"
