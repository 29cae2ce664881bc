"""`sora-cli doctor` on this machine, and on machines that lack something."""

import json
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from sora_cli import cli, registry
from sora_cli.cli.doctor import Choice, best, hub_here
from sora_cli.errors import Failed
from sora_cli.placement import machine
from sora_cli.placement.estimate import throughput

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command with nothing downloaded, nobody at the other end of the network, and 64 GB of memory."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(machine, "host_free", lambda: 64e9)
    monkeypatch.setattr(throughput, "MEASURED", 0.01)
    monkeypatch.setenv("COLUMNS", "150")

    def command(*words: str) -> tuple[int, str, str]:
        code = cli.run(["doctor", *words])
        return code, *capfd.readouterr()

    return command


def test_everything_that_is_here_is_said(run: Run) -> None:
    code, out, err = run()
    assert code == 0 and err == ""
    names = ["torch", "device", "memory", "ffmpeg", "disk", "cache", "hub", "pocket", "models"]
    assert [line.split()[0] for line in out.splitlines()[:9]] == names
    assert "libx264" in out and "cannot be reached" in out and "intact" in out
    assert all(name in out for name in registry.names()) and out.splitlines()[-1].startswith("best here: --model")


def test_a_mistake_in_the_users_own_models_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sora-cli").mkdir()
    (tmp_path / "sora-cli" / "weights.toml").write_text("[mine\n")
    code, out, _ = run()
    assert code == 0 and "weights.toml" in out and "wan2.2-5b" in out


def test_json_is_one_object(run: Run) -> None:
    import torch

    code, out, _ = run("--json")
    told = json.loads(out)
    assert code == 0 and told["broken"] == [] and told["hub"]["reached"] is False
    assert told["torch"]["version"] == torch.__version__ and told["memory"]["free"] == 64e9
    assert [one["model"] for one in told["models"]] == registry.names()
    five = next(one for one in told["models"] if one["model"] == "wan2.2-5b")
    assert five["download"] == registry.entry("wan2.2-5b").bytes and five["seconds"] > 0 and not five["problem"]


def test_no_ffmpeg_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORA_FFMPEG", "/nowhere/ffmpeg")
    code, out, err = run()
    assert code == 1 and "ffmpeg" in err and "/nowhere" in err and err.count("\n") == 1
    assert "pocket   its weights are intact" in out


def test_an_ffmpeg_without_h264_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'ffmpeg version 7.1-test'\necho ' V....D png   PNG'\n")
    program.chmod(0o755)
    monkeypatch.setenv("SORA_FFMPEG", str(program))
    code, out, err = run()
    assert code == 1 and "no libx264" in err
    assert "7.1-test, encodes png, not libx264" in out


def test_no_disk_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "disk_free", lambda folder: 5e6)
    code, out, err = run()
    assert code == 1 and "5.0 MB free" in err and "100 MB needed" in err
    assert "does not fit on the disk" in " ".join(out.split())


def test_damaged_weights_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(model: registry.Entry) -> None:
        raise Failed("dit.safetensors is damaged")

    monkeypatch.setattr(registry, "verify", damaged)
    code, _, err = run()
    assert code == 1 and "dit.safetensors is damaged" in err


def test_little_memory_is_no_place_for_large_models(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "host_free", lambda: 3e9)
    code, out, _ = run("--json")
    told = json.loads(out)
    assert code == 0 and told["best"] == "pocket"
    assert all("GB is free" in one["problem"] for one in told["models"] if one["model"] != "pocket")
    monkeypatch.setattr(machine, "host_free", lambda: 3e8)
    assert run()[0] == 1


def test_a_torch_that_does_not_load_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name == "sora_cli.placement.device"]:
        monkeypatch.delitem(sys.modules, name)
    code, out, err = run()
    assert code == 1 and "torch does not load" in err and "best here" not in out


def test_offline_by_choice_asks_nobody(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "not checked" in hub_here().words and run()[0] == 0


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_hub_that_answers_is_reached(run: Run, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        found = hub_here()
        server.shutdown()
    assert found.facts["reached"] and len(asked) == 1


def test_the_best_model_is_the_largest_that_one_would_wait_for() -> None:
    def made(model: str, seconds: float, problem: str = "") -> Choice:
        return Choice(model, "", 0, seconds, problem=problem)

    pocket, one = made("pocket", 30), made("wan2.1-1.3b", 95)
    five, fast = made("wan2.2-5b", 600), made("fastwan-5b", 30)
    assert best([pocket, one, five, fast]) == "fastwan-5b" and best([pocket, one, five]) == "wan2.2-5b"
    assert best([pocket, one, made("wan2.2-5b", 9000)]) == "wan2.1-1.3b"
    assert best([pocket, made("wan2.1-1.3b", 95, "too large")]) == "pocket" and best([]) == "pocket"
