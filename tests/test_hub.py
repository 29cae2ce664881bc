"""Models fetched by the real client from a Hub on this machine, through everything that can go wrong on the way."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wan_folders
from hub_server import CHUNK, Hub, connect, environment, serving

from sora_cli import cli, hub, registry, remote
from sora_cli.errors import Failed, SoraError
from sora_cli.hub import pulling

MODELS = """
[tiny]
kind = "wan"
about = "a test"
text = "tiny-text"
licence_url = "https://example.org/licence"
parts = [
  { role = "dit", repo = "tiny/wan22", folder = "transformer", bytes = 200_000 },
  { role = "vae", repo = "tiny/wan22", folder = "vae", bytes = 700_000 },
]

[tiny21]
kind = "wan"
about = "another that shares its text encoder"
text = "tiny-text"
licence = "Tiny Licence"
accept = true
parts = [{ role = "dit", repo = "tiny/wan21", folder = "transformer", bytes = 200_000 }]

[tiny-text]
kind = "umt5"
about = "of both"
parts = [
  { role = "text", repo = "tiny/wan22", folder = "text_encoder", bytes = 30_000 },
  { role = "tokenizer", repo = "tiny/wan22", folder = "tokenizer", bytes = 4_000, names = ["tokenizer.json"] },
]
"""
MAIN = "from sora_cli.cli import main; main()"
SHARD = "transformer/diffusion_pytorch_model-00002-of-00003.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
FILES = 5 + 2 + 5 + 1  # of tiny: transformer, vae, text encoder, tokenizer


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("checkpoints")
    wan_folders.write(home / "wan22", wan_folders.WAN22)
    wan_folders.write(home / "wan21", wan_folders.WAN21)
    wan_folders.write(home / "newer", wan_folders.WAN22, seed=1)
    return home


@pytest.fixture
def server(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as server:
        server.publish("tiny/wan22", folders / "wan22")
        server.publish("tiny/wan21", folders / "wan21")
        connect(monkeypatch, server.url, tmp_path)
        monkeypatch.setattr(os, "fsync", lambda number: None)  # a disk takes its time
        (tmp_path / "config" / "sora-cli").mkdir(parents=True)
        (tmp_path / "config" / "sora-cli" / "weights.toml").write_text(MODELS)
        yield server


@pytest.fixture
def sora(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """A command line: its exit code and what it says."""

    def run(*words: str) -> tuple[int, str]:
        code = cli.run(list(words))
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def sent_from(server: Hub, name: str) -> list[int]:
    """The first bytes of all answers with a file."""
    return [r.start for r in server.requests if r.path.endswith(name) and r.path.startswith("/stored/")]


def tiny() -> registry.Entry:
    return registry.entry("tiny")


def pull(name: str = "tiny", **how: object) -> None:
    hub.pull(registry.entry(name), yes=True, **how)  # type: ignore[arg-type]


def assert_whole(folders: Path, checkpoint: str = "wan22") -> None:
    """All that `tiny` needs is where `locate` says, as it was published, and nothing else is."""
    found = hub.locate(tiny())
    assert list(found) == ["dit", "vae", "text", "tokenizer"]
    for role, folder in found.items():
        source = folders / checkpoint / registry.FOLDERS[role]
        there = {path.name: path.read_bytes() for path in folder.iterdir()}
        wanted = {path.name: path.read_bytes() for path in source.iterdir()}
        assert there == {name: wanted[name] for name in wanted if role != "tokenizer" or name == "tokenizer.json"}
    hub.verify(tiny())


# -- Fetching ---------------------------------------------------------------------------------------------


def test_a_model_is_fetched_once(server: Hub, folders: Path) -> None:
    assert hub.status(tiny()) == hub.Status("absent", 0, 934_000)
    with pytest.raises(Failed, match=r"tiny \(934.0 kB\) is not on this machine; `sora-cli weights pull tiny`"):
        hub.locate(tiny())
    pull()
    assert_whole(folders)
    assert len(server.fetched()) == len(set(server.fetched())) == FILES
    found = hub.status(tiny())
    assert found.state == "present" and found.bytes == found.total > 900_000
    asked = len(server.requests)
    pull()
    assert len(server.requests) == asked, "what is here is not even asked for"


def test_the_lock_has_commits_sizes_and_hashes(server: Hub, folders: Path) -> None:
    pull()
    told = json.loads(hub.lock_path().read_text())["files"]["tiny/wan22@main"]
    assert len(told) == FILES
    for name, record in told.items():
        content = (folders / "wan22" / name).read_bytes()
        assert record["commit"] == server.repositories["tiny/wan22"].branches["main"]
        assert (record["bytes"], record["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_client_and_other_programs_find_the_files(server: Hub, folders: Path) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    pull()
    commit = server.repositories["tiny/wan22"].branches["main"]
    path = hf_hub_download("tiny/wan22", VAE, revision=commit, local_files_only=True)
    assert Path(path).read_bytes() == (folders / "wan22" / VAE).read_bytes()
    (repo,) = scan_cache_dir(remote.cache_of("").parent).repos
    assert repo.size_on_disk == hub.status(tiny()).bytes


def test_files_that_another_program_fetched_are_not_fetched_again(server: Hub, folders: Path) -> None:
    from huggingface_hub import hf_hub_download

    for name in (VAE, "vae/config.json"):
        hf_hub_download("tiny/wan22", name)
    before = len(server.fetched())
    pull()
    assert_whole(folders)
    assert len(server.fetched()) == before + FILES - 2


def test_the_token_goes_to_the_hub_and_nowhere_else(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.repositories["tiny/wan22"].token = "hf_secret"
    pull()
    for request in server.requests:
        assert request.authorised != request.path.startswith("/stored/"), request


# -- Faults -----------------------------------------------------------------------------------------------

FAULTS = {
    "cut": ({"where": SHARD, "cut": 50_000, "times": 1}, None),  # the client goes on by itself
    "cut for good": ({"where": SHARD, "cut": 0, "times": 99}, "broke at transformer/.*; try again: what has arrived"),
    "500": ({"where": SHARD, "status": 500}, r"could not serve transformer/.* of tiny/wan22 \(500\); try again later"),
    "503 for the listing": ({"where": "/api/", "status": 503}, r"could not serve tiny/wan22 \(503\)"),
    "429": ({"where": SHARD, "status": 429, "times": 99}, r"asks to wait \(429.*in a few minutes"),
    "404 file": ({"where": SHARD, "status": 404, "methods": ("GET", "HEAD")}, r"tiny/wan22.*\(404\)"),
    "403": ({"where": SHARD, "status": 403}, r"refuses transformer/.* \(403\); set HF_TOKEN"),
    "wrong bytes": ({"where": SHARD, "flip": True}, "arrived damaged and was removed; pull again"),
    "wrong bytes of a small file": ({"where": "vae/config.json", "flip": True}, "config.json.*arrived damaged"),
    "slow answer": ({"where": SHARD, "wait": 0.6, "times": 99}, "does not answer in time; try transformer/"),
    "slow listing": ({"where": "/api/", "wait": 0.6}, "does not answer in time; try tiny/wan22"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_line_and_the_next_pull_goes_on(
    fault: str, server: Hub, folders: Path, sora: Callable[..., tuple[int, str]]
) -> None:
    how, line = FAULTS[fault]
    server.fail(**how)  # type: ignore[arg-type]
    code, said = sora("weights", "pull", "tiny", "--yes", "--quiet")
    if line is None:
        assert (code, said) == (0, "")
    else:
        assert code == 1 and said.count("\n") == 1
        with pytest.raises(Failed, match=line):
            raise Failed(said)
        assert hub.status(tiny()).state != "present"
        server.faults.clear()
        assert sora("weights", "pull", "tiny", "--yes", "--quiet") == (0, "")
    assert_whole(folders)
    whole = [r.path for r in server.requests if r.method == "GET" and r.status == 200 and "/api/" not in r.path]
    assert len([name for name in set(whole) if whole.count(name) > 1]) <= 1, "of all files, only the one that failed"


def test_what_arrived_of_a_file_is_not_sent_again(server: Hub, folders: Path) -> None:
    server.fail(SHARD, cut=50_000)
    server.fail(SHARD, wait=0.6, times=99)
    with pytest.raises(Failed, match="does not answer in time"):
        pull()
    server.faults.clear()
    found = hub.status(tiny())
    assert found.state == "partial" and 50_000 <= found.bytes < found.total
    with pytest.raises(Failed, match=r"only \d+.\d kB of tiny \(9\d+.\d kB\) are on this machine"):
        hub.locate(tiny())
    pull()
    starts = sent_from(server, SHARD)
    assert starts[0] == 0 and 50_000 - CHUNK < starts[-1] <= 50_000
    assert_whole(folders)


def test_an_interrupt_keeps_what_arrived(server: Hub, folders: Path, tmp_path: Path) -> None:
    server.fail(SHARD, cut=60_000, times=1)
    server.fail(SHARD, wait=20, times=1)  # the client's second attempt waits here
    script = f"from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}; {MAIN}"
    words = [sys.executable, "-c", script, "weights", "pull", "tiny", "--yes"]
    told = environment(server.url, tmp_path) | {"HF_HUB_DOWNLOAD_TIMEOUT": "30"}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=told)
    while sum(fault.times for fault in server.faults):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130 and said.splitlines()[-1] == "sora-cli: interrupted"
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, env=told)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert_whole(folders)
    starts = sent_from(server, SHARD)
    assert starts[0] == 0 and 60_000 - CHUNK < starts[-1] <= 60_000
    assert max(server.fetched().count(name) for name in server.fetched() if name != SHARD) == 1


def test_a_full_disk_keeps_what_arrived(server: Hub, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: remote.Counted, piece: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(remote.Counted, "write", full)
        with pytest.raises(Failed, match=r"the disk of .*/hub is full; make room and pull again"):
            pull()
    pull()
    assert_whole(folders)


def test_a_cache_that_cannot_be_written_is_named(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("not a folder")
    with pytest.raises(Failed, match=rf"cannot write .* to {tmp_path}/hub: .*; HF_HOME says where else"):
        pull()


def test_a_disk_that_is_too_small_is_refused_with_numbers(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 500_000))
    with pytest.raises(Failed, match=r"tiny needs 9\d\d.\d kB and the disk of .*/hub has 500.0 kB free"):
        pull()
    assert server.fetched() == []


def test_offline(server: Hub, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Failed, match="tiny/wan22 is not on this machine and HF_HUB_OFFLINE is set"):
        pull()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    pull()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_whole(folders)
    pull()


def test_no_server_and_no_name_of_it(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "http://127.0.0.1:1", tmp_path)
    with pytest.raises(Failed, match=r"the connection to http://127.0.0.1:1 broke at tiny/wan22 .*refused"):
        pull()
    connect(monkeypatch, "http://no-such-host.invalid", tmp_path)
    with pytest.raises(Failed, match=r"no way to http://no-such-host.invalid \(its name is not known here\)"):
        pull()


def test_what_is_not_there(server: Hub, tmp_path: Path) -> None:
    config = tmp_path / "config" / "sora-cli" / "weights.toml"
    config.write_text(MODELS.replace("tiny/wan22", "tiny/gone"))
    with pytest.raises(Failed, match="there is no repository tiny/gone, or it is private"):
        pull()
    config.write_text(MODELS.replace('folder = "vae",', 'folder = "vae", revision = "v9",'))
    with pytest.raises(Failed, match=r"revision v9 of tiny/wan22 is not there"):
        pull()
    config.write_text(MODELS.replace('folder = "vae",', 'folder = "vea",'))
    with pytest.raises(Failed, match=r"tiny/wan22 has in vea no \.safetensors"):
        pull()
    assert server.fetched() == []


def test_a_gated_repository(server: Hub, monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    server.repositories["tiny/wan22"].token = "hf_right"
    for token, status in (("", 401), ("hf_wrong", 403)):
        monkeypatch.setenv("HF_TOKEN", token)
        line = rf"gated \({status}\): accept its terms at {server.url}/tiny/wan22, then set HF_TOKEN"
        with pytest.raises(Failed, match=line):
            pull()
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    pull()
    assert_whole(folders)


# -- What is refused --------------------------------------------------------------------------------------


EVIL = ("../evil.json", "/etc/evil.json", "vae\\..\\evil.json", "vae/../../evil.json", "C:/evil.json")


@pytest.mark.parametrize("name", EVIL)
def test_names_that_lead_elsewhere(name: str, server: Hub) -> None:
    files = dict(server.repositories["tiny/wan22"].commits[server.repositories["tiny/wan22"].branches["main"]])
    server.publish("tiny/wan22", files | {name: b"{}"})
    with pytest.raises(Failed, match="which leads elsewhere; nothing of it is fetched") as caught:
        pull()
    assert repr(name) in str(caught.value)
    assert server.fetched() == []


def test_pickles(server: Hub) -> None:
    files = dict(server.repositories["tiny/wan22"].commits[server.repositories["tiny/wan22"].branches["main"]])
    files["vae/diffusion_pytorch_model.bin"] = files.pop(VAE)
    server.publish("tiny/wan22", files)
    with pytest.raises(Failed, match=r"in vae only vae/diffusion_pytorch_model\.bin: a pickle, which may run code"):
        pull()
    assert server.fetched() == []


def test_variants_and_pickles_beside_the_weights_are_left_alone(server: Hub, folders: Path) -> None:
    files = dict(server.repositories["tiny/wan22"].commits[server.repositories["tiny/wan22"].branches["main"]])
    more = ("vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin", "vae/run.py")
    server.publish("tiny/wan22", files | {name: b"x" for name in more})
    pull()
    assert_whole(folders)
    assert not {*more} & {*server.fetched()}


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
    cached = sum(path.stat().st_size for path in (remote.cache_of("tiny/wan22") / "blobs").iterdir())
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
            with pytest.raises(Failed, match=f"{base} of tiny/wan22 is not the file that weights.toml names"):
                pull(update=True)


def test_a_damaged_lock_is_named(server: Hub, folders: Path) -> None:
    pull()
    for content in ("{", "[]", '{"files": {"x@main": {"a": {"size": 1}}}, "licences": {}}'):
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
    with pytest.raises(Failed, match=rf"{VAE} had changed and went; `sora-cli weights pull tiny` fetches it again"):
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
    blobs = remote.cache_of("tiny/wan22") / "blobs"
    before = hub.status(tiny()).bytes
    freed = hub.remove(tiny())
    assert freed.kept == ("tiny21",)
    left = sum(path.stat().st_size for path in blobs.iterdir())
    assert freed.bytes == before - left > 800_000
    assert hub.status(registry.entry("tiny21")).state == "present"
    assert hub.status(tiny()).state == "partial"
    again = hub.remove(registry.entry("tiny21"))
    assert again.kept == () and again.bytes > left
    assert not list((remote.cache_of("").parent).glob("models--*"))
    pull()
    assert_whole(folders)


def test_removal_frees_unfinished_files(server: Hub) -> None:
    server.fail(SHARD, cut=50_000)
    server.fail(SHARD, cut=0, times=99)
    with pytest.raises(Failed, match="broke at"):
        pull()
    assert hub.remove(tiny()).bytes >= 150_000
    assert not remote.cache_of("tiny/wan22").exists()
    with pytest.raises(SoraError, match="pocket is shipped"):
        hub.remove(registry.entry("pocket"))


# -- Consent ----------------------------------------------------------------------------------------------


def test_nothing_is_fetched_unasked(server: Hub, sora: Callable[..., tuple[int, str]]) -> None:
    code, said = sora("weights", "pull", "tiny")
    assert code == 2 and said.count("\n") == 1
    assert "kB to fetch" in said and "free in" in said and "Apache-2.0 (https://example.org/licence)" in said
    assert "--yes says that you want it" in said
    with pytest.raises(Failed, match="is not on this machine; `sora-cli weights pull tiny`"):
        hub.ensure(tiny())
    assert server.fetched() == []
    assert set(hub.ensure(tiny(), yes=True)) == {"dit", "vae", "text", "tokenizer"}


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_one_question_on_a_terminal(answer: str, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = []
    monkeypatch.setattr(pulling, "on_terminal", lambda: True)
    monkeypatch.setattr(pulling, "ask", lambda question: questions.append(question) or answer)
    if answer == "y":
        hub.ensure(tiny())
        hub.ensure(tiny())
    else:
        with pytest.raises(SoraError, match="tiny was not fetched"):
            hub.ensure(tiny())
        assert server.fetched() == []
    assert len(questions) == 1 and questions[0].endswith("Fetch it? [y/N]")


def test_a_licence_is_accepted_by_its_name_once(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SoraError, match=r'tiny21 is under the Tiny Licence .*--accept-licence "Tiny Licence"'):
        pull("tiny21")
    with pytest.raises(SoraError, match="under the Tiny Licence, not under 'MIT'"):
        pull("tiny21", accept="MIT")
    assert server.fetched() == []
    monkeypatch.setattr(pulling, "on_terminal", lambda: True)
    monkeypatch.setattr(pulling, "ask", lambda question: "Tiny Licence")
    pull("tiny21")
    monkeypatch.setattr(pulling, "on_terminal", lambda: False)
    hub.ensure(registry.entry("tiny21"))
    assert json.loads(hub.lock_path().read_text())["licences"] == {"tiny21": "Tiny Licence"}


def test_files_without_an_accepted_licence_are_not_used(server: Hub) -> None:
    pull("tiny21", accept="Tiny Licence")
    told = json.loads(hub.lock_path().read_text())
    hub.lock_path().write_text(json.dumps(told | {"licences": {}}))
    with pytest.raises(SoraError, match="has to be accepted"):
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
    assert known.fetched() == ["transformer/config.json"], "only what is needed to know it"
    pull("hf:tiny/known")
    found = hub.locate(entry)
    assert found["dit"].parts[-3] == "snapshots" and len(list(found["dit"].iterdir())) == 5
    asked = len(known.requests)
    assert registry.entry("hf:tiny/known") == entry
    assert len(known.requests) == asked, "it is known from now on"
    code, said = sora("weights", "list")
    assert code == 0 and "hf:tiny/known" in said
    assert sora("weights", "rm", "hf:tiny/known")[0] == 0
    assert not remote.cache_of("tiny/known").exists()


def test_a_repository_with_its_own_text_encoder_at_a_revision(known: Hub, tmp_path: Path) -> None:
    wan_folders.write(tmp_path / "full", wan_folders.WAN21, channels=16)
    known.publish("tiny/full", tmp_path / "full", branch="v1")
    entry = registry.entry("hf:tiny/full@v1")
    assert [(part.repo, part.revision) for part in entry.parts] == [("tiny/full", "v1")] * 4
    pull("hf:tiny/full@v1")
    assert (hub.locate(entry)["tokenizer"] / "tokenizer.json").is_file()
    with pytest.raises(Failed, match="there is no repository tiny/nope"):
        registry.entry("hf:tiny/nope")
    with pytest.raises(SoraError, match="hf:full names no repository; it must look like hf:OWNER/NAME"):
        registry.entry("hf:full")
    known.publish("tiny/empty", {"README.md": b"nothing"})
    with pytest.raises(SoraError, match=r"tiny/empty has no transformer/config\.json; supported are"):
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
    with pytest.raises(Failed, match=r"00002-of-00003\.safetensors is truncated"):
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
    assert sora("weights", "verify", "tiny")[1].startswith("tiny is whole")
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
