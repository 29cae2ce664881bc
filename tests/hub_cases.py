"""A tiny model on a Hub of this machine, and what tests of it share: fixtures, and what must be here in the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import wan_folders
from hub_server import Hub, connect, serving

from sora_cli import cli, registry
from sora_cli.registry import hub

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
usage = { steps = 8 }

[tiny21]
kind = "wan"
about = "another that shares its text encoder"
text = "tiny-text"
licence = "Tiny Licence"
accept = true
parts = [
  { role = "dit", repo = "tiny/wan21", folder = "transformer", bytes = 200_000 },
  { role = "vae", repo = "tiny/wan21", folder = "vae", bytes = 700_000 },
]
usage = { steps = 8 }

[tiny-text]
kind = "umt5"
about = "of both"
parts = [
  { role = "text", repo = "tiny/wan22", folder = "text_encoder", bytes = 30_000 },
  { role = "tokenizer", repo = "tiny/wan22", folder = "tokenizer", bytes = 4_000, names = ["tokenizer.json"] },
]
"""
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


@contextmanager
def published(folders: Path, home: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of this machine with these models, that this process asks, and a home for what comes from there."""
    with serving() as server:
        server.publish("tiny/wan22", folders / "wan22")
        server.publish("tiny/wan21", folders / "wan21")
        connect(patch, server.url, home)
        (home / "config" / "sora-cli").mkdir(parents=True, exist_ok=True)
        (home / "config" / "sora-cli" / "weights.toml").write_text(MODELS)
        yield server


@pytest.fixture
def server(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with published(folders, tmp_path, monkeypatch) as server:
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
