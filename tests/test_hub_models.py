"""Models that were fetched: pinned, verified, removed; asked for first; and named by their repository or folder."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import wan_folders
from hub_cases import MODELS, SHARD, VAE, assert_whole, pull, tiny
from hub_server import Hub, environment

from sora_cli import registry
from sora_cli.cli.models import check_model
from sora_cli.errors import Failed, SoraError
from sora_cli.registry import hub, hub_client
from sora_cli.registry.hub import download

# -- Pinned -----------------------------------------------------------------------------------------------


def test_a_branch_that_moved_is_not_followed_until_asked(server: Hub, folders: Path) -> None:
    server.fail(SHARD, status=500)
    with pytest.raises(Failed):
        pull()
    server.publish("tiny/wan22", folders / "newer")
    pull()
    assert_whole(folders, "wan22")
    before = hub.status(tiny()).bytes
    pull(update=True)
    assert_whole(folders, "newer")
    cached = sum(path.stat().st_size for path in (hub_client.cache_of("tiny/wan22") / "blobs").iterdir())
    assert cached == hub.status(tiny()).bytes, "the older files are gone"
    assert abs(cached - before) < 1000
    pull(update=True)
    assert_whole(folders, "newer")


def test_an_update_that_fails_loses_nothing(server: Hub, folders: Path) -> None:
    pull()
    server.publish("tiny/wan22", folders / "newer")
    server.fail(VAE, status=500)
    with pytest.raises(Failed, match="500"):
        pull(update=True)
    assert_whole(folders, "wan22")
    pull(update=True)
    assert_whole(folders, "newer")


def test_other_bytes_under_the_same_commit_are_refused(server: Hub) -> None:
    pull()
    repository = server.repositories["tiny/wan22"]
    files = repository.commits[repository.branches["main"]]
    for name in (VAE, "vae/config.json"):  # one that the Hub lists with its sha256, and one without
        path = hub.locate(tiny())["vae"] / name.rpartition("/")[2]
        path.resolve().unlink()
        path.unlink()
        right, files[name] = files[name], files[name][:-1] + b" "
        with pytest.raises(Failed, match=rf"{name} of tiny/wan22 changed since it was first fetched; .*--update"):
            pull()
        files[name] = right
        pull()


def test_hashes_of_weights_toml_win(server: Hub, tmp_path: Path, folders: Path) -> None:
    base = VAE.rpartition("/")[2]
    right = hashlib.sha256((folders / "wan22" / VAE).read_bytes()).hexdigest()
    for told in (right, "0" * 64):
        pinned = f'folder = "vae", sha256 = {{ "{base}" = "{told}" }},'
        (tmp_path / "config" / "sora-cli" / "weights.toml").write_text(MODELS.replace('folder = "vae",', pinned))
        if told == right:
            pull()
            assert_whole(folders)
        else:
            with pytest.raises(Failed, match=f"{base} of tiny/wan22 does not have the hash that weights.toml gives"):
                pull(update=True)


def test_a_damaged_lock_is_named(server: Hub, folders: Path) -> None:
    pull()
    pin = {"commit": "a" * 40, "bytes": 1, "etag": "b" * 40, "sha256": None, "models": []}
    wrong = [{"commit": 5}, {"commit": "../../mine"}, {"etag": "../x"}, {"bytes": "1"}, {"bytes": -1}, {"sha256": 5},
             {"models": "tiny"}, {"models": [5]}, {"models": None}]  # fmt: skip
    pins = [json.dumps({"files": {"x@main": {"a": pin | one}}, "licences": {}}) for one in wrong]
    for content in ("{", "[]", '{"files": {"x@main": {"a": {"size": 1}}}, "licences": {}}', *pins):
        hub.lock_path().write_text(content)
        with pytest.raises(Failed, match=r"weights\.lock is damaged .*delete it and pull again"):
            hub.status(tiny())
    hub.lock_path().unlink()
    sent = len(server.fetched())
    pull()
    assert_whole(folders)
    assert len(server.fetched()) == sent


# -- Verify and remove ------------------------------------------------------------------------------------


def test_one_flipped_bit_is_found_and_fetched_again(server: Hub, folders: Path) -> None:
    pull()
    path = hub.locate(tiny())["vae"] / VAE.rpartition("/")[2]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.resolve().write_bytes(content)
    assert hub.status(tiny()).state == "present", "sizes do not tell"
    with pytest.raises(Failed, match=rf"removed {VAE}: changed; `sora-cli weights pull tiny` repairs it"):
        hub.verify(tiny())
    assert hub.status(tiny()).state == "partial"
    sent = len(server.fetched())
    pull()
    assert_whole(folders)
    assert server.fetched()[sent:] == [VAE]


def test_a_missing_or_short_file_is_missed(server: Hub, folders: Path) -> None:
    pull()
    path = hub.locate(tiny())["vae"] / VAE.rpartition("/")[2]
    path.resolve().write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Failed, match=r"only 2\d\d.\d kB of tiny"):
        hub.ensure(tiny())
    pull()
    assert_whole(folders)


def test_removal_keeps_what_others_share(server: Hub, folders: Path) -> None:
    pull()
    pull("tiny21", accept="Tiny Licence")
    blobs = hub_client.cache_of("tiny/wan22") / "blobs"
    before = hub.status(tiny()).bytes
    freed, kept = hub.remove(tiny())
    assert kept == ["tiny21"]
    left = sum(path.stat().st_size for path in blobs.iterdir())
    assert freed == before - left > 800_000
    assert hub.status(registry.entry("tiny21")).state == "present"
    assert hub.status(tiny()).state == "partial"
    again, kept = hub.remove(registry.entry("tiny21"))
    assert kept == [] and again > left
    assert not list((hub_client.cache_of("").parent).glob("models--*"))
    pull()
    assert_whole(folders)


def test_removal_frees_unfinished_files(server: Hub) -> None:
    server.fail(SHARD, cut=50_000)
    server.fail(SHARD, cut=0, times=99)
    with pytest.raises(Failed, match="broke during"):
        pull()
    assert hub.remove(tiny())[0] >= 50_000
    assert not hub_client.cache_of("tiny/wan22").exists()
    with pytest.raises(SoraError, match="pocket is part of sora-cli and cannot be removed"):
        hub.remove(registry.entry("pocket"))


# -- Consent ----------------------------------------------------------------------------------------------


def test_nothing_is_fetched_unasked(server: Hub, sora: Callable[..., tuple[int, str]]) -> None:
    code, said = sora("weights", "pull", "tiny")
    assert code == 2 and said.count("\n") == 1
    assert "kB to fetch" in said and "free in" in said and "Apache-2.0 (https://example.org/licence)" in said
    assert "give --yes to fetch it" in said
    with pytest.raises(Failed, match="is not on this machine; `sora-cli weights pull tiny`"):
        hub.ensure(tiny())
    assert server.fetched() == []
    assert set(hub.ensure(tiny(), yes=True)) == {"dit", "vae", "text", "tokenizer"}


@pytest.mark.parametrize("quiet", [True, False])
def test_what_a_verb_fetches_is_told_unless_it_is_quiet(
    quiet: bool, server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "on_terminal", lambda: True)
    monkeypatch.setattr(download, "ask", lambda question: "y")
    check_model(tiny(), quiet)
    said = capsys.readouterr()
    assert said.out == "" and (said.err == "") == quiet
    assert hub.status(tiny()).state == "present"


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_one_question_on_a_terminal(answer: str, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = []
    monkeypatch.setattr(download, "on_terminal", lambda: True)
    monkeypatch.setattr(download, "ask", lambda question: questions.append(question) or answer)
    if answer == "y":
        hub.ensure(tiny())
        hub.ensure(tiny())
    else:
        with pytest.raises(SoraError, match="tiny was not fetched"):
            hub.ensure(tiny())
        assert server.fetched() == []
    assert len(questions) == 1 and questions[0].endswith("Fetch it? [y/N]")


def test_a_licence_is_accepted_by_its_name_once(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SoraError, match=r'tiny21 is under the Tiny Licence, .*--accept-licence "Tiny Licence"'):
        pull("tiny21")
    with pytest.raises(SoraError, match="under the Tiny Licence, not under 'MIT'"):
        pull("tiny21", accept="MIT")
    assert server.fetched() == []
    monkeypatch.setattr(download, "on_terminal", lambda: True)
    monkeypatch.setattr(download, "ask", lambda question: "Tiny Licence")
    pull("tiny21")
    monkeypatch.setattr(download, "on_terminal", lambda: False)
    hub.ensure(registry.entry("tiny21"))
    assert json.loads(hub.lock_path().read_text())["licences"] == {"tiny21": "Tiny Licence"}


def test_files_without_an_accepted_licence_are_not_used(server: Hub) -> None:
    pull("tiny21", accept="Tiny Licence")
    told = json.loads(hub.lock_path().read_text())
    hub.lock_path().write_text(json.dumps(told | {"licences": {}}))
    with pytest.raises(SoraError, match="which you must accept"):
        hub.ensure(registry.entry("tiny21"))


# -- Repositories and folders without an entry ------------------------------------------------------------


@pytest.fixture
def known(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A repository of a known architecture without a text encoder, and one on this machine that is shared."""
    wan_folders.write(tmp_path / "known", wan_folders.WAN22, ("transformer", "vae"), channels=48)
    server.publish("tiny/known", tmp_path / "known")
    told = registry.registry() | {"umt5-xxl": registry.own()["tiny-text"]}
    told["wan2.2-5b"] = registry.replace(told["wan2.2-5b"], parts=registry.own()["tiny"].parts)
    monkeypatch.setattr(registry, "registry", lambda: told)
    return server


def test_a_repository_by_its_name(known: Hub, sora: Callable[..., tuple[int, str]]) -> None:
    entry = registry.entry("hf:tiny/known")
    assert [part.repo for part in entry.parts] == ["tiny/known"] * 2 + ["tiny/wan22"] * 2
    assert entry.usage == registry.entry("wan2.2-5b").usage and entry.cell == 16 and entry.kind == "wan"
    assert known.fetched() == ["transformer/config.json", "model_index.json"], "only what is needed to know it"
    pull("hf:tiny/known")
    found = hub.locate(entry)
    assert found["dit"].parts[-3] == "snapshots" and len(list(found["dit"].iterdir())) == 5
    asked = len(known.requests)
    assert registry.entry("hf:tiny/known") == entry
    assert len(known.requests) == asked, "it is known from now on"
    code, said = sora("weights", "list")
    assert code == 0 and "hf:tiny/known" in said
    assert sora("weights", "rm", "hf:tiny/known")[0] == 0
    assert not hub_client.cache_of("tiny/known").exists()


def test_a_repository_that_was_fetched_without_its_index_is_known_offline(
    known: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    entry = registry.entry("hf:tiny/known")
    index = hub_client.small_file("tiny/known", "model_index.json", "main")
    assert index
    index.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert registry.entry("hf:tiny/known") == entry


def test_a_repository_without_the_transformer_that_its_index_names(known: Hub, tmp_path: Path) -> None:
    for named, lacks in ((["diffusers", "WanTransformer3DModel"], True), ([None, None], False)):
        (tmp_path / "known" / "model_index.json").write_text(json.dumps({"transformer_2": named}))
        known.publish("tiny/known", tmp_path / "known", branch=f"v{lacks}")
        with pytest.raises(SoraError, match="lacks transformer_2/, which its") if lacks else nullcontext():
            registry.entry(f"hf:tiny/known@v{lacks}")


def test_a_repository_with_its_own_text_encoder_at_a_revision(known: Hub, tmp_path: Path) -> None:
    wan_folders.write(tmp_path / "full", wan_folders.WAN21, channels=16)
    known.publish("tiny/full", tmp_path / "full", branch="v1")
    entry = registry.entry("hf:tiny/full@v1")
    assert [(part.repo, part.revision) for part in entry.parts] == [("tiny/full", "v1")] * 4
    pull("hf:tiny/full@v1")
    assert (hub.locate(entry)["tokenizer"] / "tokenizer.json").is_file()
    with pytest.raises(Failed, match="there is no repository tiny/nope"):
        registry.entry("hf:tiny/nope")
    with pytest.raises(SoraError, match="hf:full is not a repository; it must look like hf:OWNER/NAME"):
        registry.entry("hf:full")
    known.publish("tiny/empty", {"README.md": b"nothing"})
    with pytest.raises(SoraError, match=r"tiny/empty has no transformer/config\.json; supported: the"):
        registry.entry("hf:tiny/empty")


def test_a_folder(known: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = registry.entry("./known")
    with pytest.raises(Failed, match=r"only .* of \./known .* `sora-cli weights pull \./known`"):
        hub.locate(entry)
    pull("./known")
    assert hub.locate(entry)["dit"] == Path("known/transformer")
    assert {name.split("/")[0] for name in known.fetched()} == {"text_encoder", "tokenizer"}
    hub.verify(entry)
    shard = tmp_path / "known" / SHARD
    content = shard.read_bytes()
    shard.write_bytes(content[:-4])
    with pytest.raises(Failed, match=r"00002-of-00003\.safetensors is damaged: it has .* bytes, but"):
        hub.ensure(entry)
    shard.unlink()
    with pytest.raises(Failed, match=r"transformer lacks .*00002-of-00003\.safetensors"):
        hub.ensure(entry)
    shard.write_bytes(content)
    assert set(hub.ensure(entry)) == {"dit", "vae", "text", "tokenizer"}


# -- Commands ---------------------------------------------------------------------------------------------


def test_the_commands(server: Hub, folders: Path, sora: Callable[..., tuple[int, str]]) -> None:
    rows = {row["name"]: row for row in json.loads(sora("weights", "list", "--json")[1])}
    assert rows["tiny"]["state"] == "absent" and rows["pocket"]["state"] == "present"
    assert rows["skyreels2-1.3b"]["anchors"] == ["start", "end", "extend"] and "tiny-text" not in rows
    code, said = sora("weights", "pull", "tiny", "--yes")
    assert code == 0 and "tiny is here" in said and SHARD in said
    assert sora("weights", "verify", "tiny")[1].startswith("tiny is intact")
    shown = json.loads(sora("weights", "show", "tiny", "--json")[1])
    assert shown["state"] == "present" and shown["usage"]["steps"] == 8 and len(shown["parts"]) == 4
    assert "tiny/wan22@main transformer" in sora("weights", "show", "tiny")[1]
    paths = json.loads(sora("weights", "path", "tiny", "--json")[1])
    assert Path(paths["dit"]).joinpath("config.json").is_file()
    assert "freed" in sora("weights", "rm", "tiny")[1]
    assert sora("weights", "rm", "tiny") == (2, "sora-cli: nothing of tiny is on this machine\n")
    assert sora("weights", "path", "tiny")[0] == 1
    assert sora("weights", "pull", "veo")[0] == 2
    assert "Commands" in sora("weights")[1]


def test_no_partial_output_of_quiet_pulls(server: Hub, tmp_path: Path) -> None:
    """As a script would: the environment alone says where the Hub is and where things lie."""
    words = [sys.executable, "-m", "sora_cli", "weights", "pull", "tiny", "--yes", "--quiet", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(server.url, tmp_path))
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)[0]["state"] == "present"
    assert os.listdir(tmp_path / "hub" / "models--tiny--wan22" / "snapshots")


SINGLE = """
[single]
kind = "wan"
about = "repackaged in single files"
parts = [
  {{ role = "vae", repo = "tiny/wan22", folder = "vae", names = ["diffusion_pytorch_model.safetensors"], bytes = 1 }},
  {{ role = "dit", path = "{path}" }},
  {{ role = "text", path = "{home}/text_encoder" }},
  {{ role = "tokenizer", path = "{home}/tokenizer" }},
]
usage = {{ steps = 8 }}
"""


def test_a_part_may_be_a_single_file_there_or_here(server: Hub, folders: Path, tmp_path: Path) -> None:
    mine = folders / "wan22" / VAE
    (tmp_path / "config" / "sora-cli" / "weights.toml").write_text(SINGLE.format(path=mine, home=folders / "wan22"))
    hub.pull(registry.entry("single"), yes=True)
    sizes = {part.role: part.bytes for part in registry.entry("single").parts}
    assert (sizes["vae"], sizes["dit"]) == (1, mine.stat().st_size), "that of a file which is here is known"
    found = hub.locate(registry.entry("single"))
    assert found["vae"].name == "diffusion_pytorch_model.safetensors" and found["dit"] == mine
    assert found["vae"].read_bytes() == mine.read_bytes() and len(server.fetched()) == 1
    hub.verify(registry.entry("single"))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: None, r"the dit of single should be at .*dit\.pt, but nothing is there$"),
        (lambda path: path.write_bytes(b"PK"), r"dit\.pt is a pickle, which runs code; only \.safetensors"),
        (lambda path: path.mkdir(), r"dit\.pt holds no \.safetensors file"),
    ],
)
def test_what_the_user_should_have_is_named(
    make: Callable[[Path], object], line: str, server: Hub, folders: Path, tmp_path: Path
) -> None:
    told = SINGLE.format(path=tmp_path / "dit.pt", home=folders / "wan22")
    (tmp_path / "config" / "sora-cli" / "weights.toml").write_text(told)
    make(tmp_path / "dit.pt")
    entry = registry.entry("single")
    for ask in (hub.locate, hub.verify, hub.ensure, partial(hub.ensure, yes=True), partial(hub.pull, yes=True)):
        with pytest.raises(SoraError, match=line):
            ask(entry)
    assert server.fetched() == []


def test_a_folder_without_a_tokenizer_is_named(server: Hub, folders: Path, tmp_path: Path) -> None:
    told = SINGLE.format(path=folders / "wan22" / VAE, home=folders / "wan22").replace("/tokenizer", "/vae")
    (tmp_path / "config" / "sora-cli" / "weights.toml").write_text(told)
    with pytest.raises(SoraError, match=r"wan22/vae holds no tokenizer\.json; give the folder that does"):
        hub.pull(registry.entry("single"), yes=True)


def test_an_endless_header_is_not_read(server: Hub, folders: Path, tmp_path: Path) -> None:
    """A header that claims to be all of a large file is refused by its length."""
    with (tmp_path / "dit.safetensors").open("wb") as file:
        file.write((2**30 - 8).to_bytes(8, "little"))
        file.truncate(2**30)
    told = SINGLE.format(path=tmp_path / "dit.safetensors", home=folders / "wan22")
    (tmp_path / "config" / "sora-cli" / "weights.toml").write_text(told)
    with pytest.raises(Failed, match="header has 1073741816 bytes; at most"):
        hub.pull(registry.entry("single"), yes=True)


def test_encoding_needs_the_autoencoder_alone(server: Hub) -> None:
    from sora_cli.geometry import Canvas
    from sora_cli.pipelines import load_codec
    from sora_cli.storage.latent_file import vae_of

    hub.ensure(tiny().only("vae"), yes=True)
    assert len(server.fetched()) == 2  # its config.json and its weights
    codec = load_codec(tiny(), Canvas(64, 64, 64, 64), "cpu", "float32")
    assert codec.vae.channels == 6 and len(vae_of(tiny())) == 64
    with pytest.raises(Failed, match="weights pull tiny"):
        hub.locate(tiny())
