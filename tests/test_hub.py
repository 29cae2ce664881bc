"""Models fetched by the real client from a Hub on this machine, through everything that can go wrong on the way."""

import hashlib
import json
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import forked
import pytest
from forked import Forked
from hub_cases import FILES, MODELS, SHARD, VAE, assert_whole, pull, sent_from, tiny
from hub_server import CHUNK, Hub, connect, environment
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from sora_cli.errors import Failed, SoraError
from sora_cli.registry import hub, hub_client

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


class Heard:
    """A screen that remembers the bars: (how far, of how much), by name."""

    def __init__(self) -> None:
        self.bars: dict[str, list[tuple[int, int]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def note(self, text: str) -> None: ...

    def clear(self) -> None: ...

    def doing(self, what: str) -> AbstractContextManager[None]:
        return nullcontext()

    def show(self, stage: str, done: int, total: int) -> None:
        self.bars.setdefault(stage, []).append((done, total))


def test_bars_tell_of_a_file_of_all_and_of_the_check(server: Hub) -> None:
    server.fail(SHARD, cut=60_000)
    server.fail(SHARD, wait=0.6, times=99)
    with pytest.raises(Failed, match="does not answer in time"):
        pull()
    server.faults.clear()
    pull(screen=(heard := Heard()))
    total = hub.status(tiny()).bytes
    everything, checks = heard.bars.pop("all"), heard.bars.pop("checking")
    assert everything == sorted(everything) and everything[-1] == (total, total)
    assert everything[0][0] > 60_000, "what was there before counts"
    assert sum(done for done, size in checks if done == size) == sum(moves[-1][0] for moves in heard.bars.values())
    assert all(moves[-1][0] == moves[-1][1] for moves in heard.bars.values())


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
    (repo,) = scan_cache_dir(hub_client.cache_of("").parent).repos
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
    "cut off": ({"where": SHARD, "cut": 0, "times": 99}, "broke during transformer/.*; try again: what has arrived"),
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
    with pytest.raises(Failed, match=r"only \d+.\d kB of tiny \(9\d+.\d kB\) is on this machine"):
        hub.locate(tiny())
    pull()
    starts = sent_from(server, SHARD)
    assert starts[0] == 0 and 50_000 - CHUNK < starts[-1] <= 50_000
    assert_whole(folders)


def test_an_interrupt_keeps_what_arrived(server: Hub, folders: Path, tmp_path: Path) -> None:
    server.fail(SHARD, cut=60_000, times=1)
    server.fail(SHARD, wait=20, times=1)  # the client's second attempt waits here
    script = f"from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}; {forked.SORA_CLI}"
    words, told = ["weights", "pull", "tiny", "--yes"], environment(server.url, tmp_path)
    with Forked(script, *words, env=told | {"HF_HUB_DOWNLOAD_TIMEOUT": "30"}) as process:
        while sum(fault.times for fault in server.faults):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        said = process.said()
    assert said.splitlines()[-2:] == ["what has arrived is kept; the next pull continues from there",
                                      "sora-cli: interrupted"]  # fmt: skip
    done = forked.run(script, *words, env=told)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert_whole(folders)
    starts = sent_from(server, SHARD)
    assert starts[0] == 0 and 60_000 - CHUNK < starts[-1] <= 60_000
    assert max(server.fetched().count(name) for name in server.fetched() if name != SHARD) == 1


def test_a_full_disk_keeps_what_arrived(server: Hub, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: hub_client.Counted, piece: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(hub_client.Counted, "write", full)
        with pytest.raises(Failed, match=r"the disk of .*/hub is full; make room and pull again"):
            pull()
    pull()
    assert_whole(folders)


def test_a_cache_that_cannot_be_written_is_named(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("not a folder")
    with pytest.raises(Failed, match=rf"cannot write .* to {tmp_path}/hub: .*; change HF_HOME"):
        pull()


def test_a_disk_that_is_too_small_is_refused_with_numbers(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 500_000))
    with pytest.raises(Failed, match=r"tiny needs 9\d\d.\d kB, but the disk of .*/hub has 500.0 kB free"):
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
    with pytest.raises(Failed, match=r"the connection to http://127.0.0.1:1 broke during tiny/wan22 .*refused"):
        pull()
    connect(monkeypatch, "http://no-such-host.invalid", tmp_path)
    with pytest.raises(Failed, match=r"http://no-such-host.invalid cannot be reached \(host name not found\)"):
        pull()


@pytest.mark.parametrize("proxy", ["foo://bar", "http://[::1"])
def test_a_proxy_that_is_none_is_named(server: Hub, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    close_session()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(SoraError, match=r"a proxy or the certificates cannot be used .*; check HTTP_PROXY"):
        pull()


@pytest.mark.parametrize(("name", "value", "line"), [
    ("HF_TOKEN", "\u00fc", "HF_TOKEN or HF_ENDPOINT has letters"), ("ENDPOINT", "http://a\x1b[2J", "the connection to"),
])  # fmt: skip
def test_what_cannot_be_asked_is_one_line(server: Hub, name: str, value: str, line: str,
                                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", value if name == "ENDPOINT" else server.url)
    with pytest.raises(Failed, match=line):
        pull()


def test_what_is_not_there(server: Hub, tmp_path: Path) -> None:
    config = tmp_path / "config" / "sora-cli" / "weights.toml"
    config.write_text(MODELS.replace("tiny/wan22", "tiny/gone"))
    with pytest.raises(Failed, match="there is no repository tiny/gone, or it is private"):
        pull()
    config.write_text(MODELS.replace('folder = "vae",', 'folder = "vae", revision = "v9",'))
    with pytest.raises(Failed, match=r"revision v9 of tiny/wan22 does not exist"):
        pull()
    config.write_text(MODELS.replace('folder = "vae",', 'folder = "vea",'))
    with pytest.raises(Failed, match=r"vea of tiny/wan22 has no \.safetensors"):
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
    with pytest.raises(Failed, match="which points outside its folder; nothing is fetched") as caught:
        pull()
    assert repr(name) in str(caught.value)
    assert server.fetched() == []


def test_pickles(server: Hub) -> None:
    files = dict(server.repositories["tiny/wan22"].commits[server.repositories["tiny/wan22"].branches["main"]])
    files["vae/diffusion_pytorch_model.bin"] = files.pop(VAE)
    server.publish("tiny/wan22", files)
    only = r"vae of tiny/wan22 has only vae/diffusion_pytorch_model\.bin: a pickle, which may run code"
    with pytest.raises(Failed, match=only):
        pull()
    assert server.fetched() == []


def test_variants_and_pickles_beside_the_weights_are_left_alone(server: Hub, folders: Path) -> None:
    files = dict(server.repositories["tiny/wan22"].commits[server.repositories["tiny/wan22"].branches["main"]])
    more = ("vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin", "vae/run.py")
    server.publish("tiny/wan22", files | {name: b"x" for name in more})
    pull()
    assert_whole(folders)
    assert not {*more} & {*server.fetched()}


@pytest.mark.parametrize(
    "change",
    [
        {"sha": 5}, {"siblings": [1]}, {"siblings": [{}]}, {"siblings": 7}, {"tags": 5}, {"tags": [1]},
        {"sha": "a" * 5000}, {"siblings": [{"rfilename": "a.json", "size": "5", "blobId": "ab"}]}, {"sha": None},
        {"siblings": [{"rfilename": 5, "size": 5, "blobId": "ab"}]},
        {"siblings": [{"rfilename": "a.json", "size": 5, "blobId": "ab", "lfs": 9}]},
        {"sha": "main"}, {"sha": "\u0661" * 40}, {"sha": "g" * 40}, {"lastModified": "yesterday"},
        {"siblings": [{"rfilename": VAE, "size": -5, "blobId": "a" * 40}]},
        {"siblings": [{"rfilename": VAE, "size": True, "blobId": "a" * 40}]},
        {"siblings": [{"rfilename": VAE, "size": 5, "blobId": "a" * 5000}]},
        {"siblings": [{"rfilename": VAE, "size": 5, "blobId": "../../x"}]},
    ],
)  # fmt: skip
def test_a_listing_that_is_none_is_one_line(change: dict[str, Any], server: Hub, folders: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    right = json.dumps
    monkeypatch.setattr("hub_server.json.dumps", lambda told, **words: right(
        told | change if isinstance(told, dict) and "siblings" in told else told, **words))
    with pytest.raises(Failed) as told:
        pull()
    assert "the Hub" in str(told.value) and len(str(told.value)) < 200 and "\n" not in str(told.value)


@pytest.mark.parametrize("body", [b"<html><title>Sign in</title>", b"", b"[", b"[" * 100_000, b'{"sha": "\xff"}', b"5"])
def test_an_answer_that_is_no_listing_is_called_that(body: bytes, server: Hub, folders: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("hub_server.Handler.serve_listing", lambda self, *_: self.send(200, body, {}, None))
    with pytest.raises(Failed, match=r"^the Hub's listing of tiny/wan22 is not valid; try again later$"):
        pull()
    monkeypatch.undo()
