"""Other systems than Linux, as far as they can be pretended: what they lack is not needed, and Windows is refused."""

import ast
import errno
import io
import os
import selectors
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from sora_cli import cli, media
from sora_cli.media import process
from sora_cli.placement import machine

PACKAGE = Path(cli.__file__).parent.parent
ONLY_POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios"}


def test_windows_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    for words in (["generate", "a cat"], ["encode", "a.mp4"], ["doctor"]):
        assert cli.run(words) == 1
        said = capsys.readouterr()
        assert said.out == "" and "WSL 2" in said.err and said.err.count("\n") == 1
    assert cli.run(["--version"]) == 0 and cli.run(["loop", "--help"]) == 0
    assert "sora-cli" in capsys.readouterr().out


def test_nothing_is_imported_that_only_some_systems_have() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not ONLY_POSIX & {name.split(".")[0] for name in names}, path


@pytest.mark.parametrize("waiting", ["PollSelector", "SelectSelector"])
def test_as_on_macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: str) -> None:
    """No epoll, no processors to be bound to, no /proc, no pipes of a size, another temporary folder."""
    monkeypatch.setenv("SORA_FFMPEG", media.ffmpeg())  # imageio-ffmpeg would look for that of macOS
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(selectors, "DefaultSelector", getattr(selectors, waiting))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(process, "PIPE", -1)
    monkeypatch.setattr(machine, "lines_of", lambda path: [])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["generate", "a cat", "--frames", "9", "--res", "64x48", "-o", "Ä b.mp4", *tiny.QUICK]) == 0
    assert cli.run(["extend", "Ä b.mp4", "--after", "0.2", "-o", "c.gif", *tiny.QUICK]) == 0
    assert media.probe("Ä b.mp4").frames == 9


@pytest.mark.parametrize("code", [errno.EPERM, errno.EBUSY, errno.ENOMEM])
def test_pipes_that_the_system_refuses_to_widen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    asked: list[int] = []

    def fcntl(pipe: int, command: int, size: int) -> None:
        asked.append(size)
        raise OSError(code, os.strerror(code))

    name = str(tmp_path / "a.mp4")
    monkeypatch.setattr(process, "PIPE", process.PIPE)
    monkeypatch.setattr("fcntl.fcntl", fcntl)
    tiny.write(name, tiny.y4m_format(), tiny.noise(tiny.y4m_format(), 3))
    assert media.probe(name).frames == 3 and len(tiny.read(name)[1]) == 3
    assert len(asked) == 1, "a system that refuses is not asked again"


@pytest.mark.parametrize("coding", ["ascii", "cp1252", "latin-1"])
def test_terminals_of_few_letters(tmp_path: Path, coding: str) -> None:
    """Whatever a name holds, it is printed as far as the terminal has letters for it."""
    name = "Ünï 猫.png"
    media.write_image(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    terminal = {**os.environ, "PYTHONIOENCODING": coding, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "sora_cli", "info", name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=terminal)
    assert done.returncode == 0, done.stderr
    assert b"8x8" in done.stdout and io.BytesIO(done.stdout).readline().startswith(b"file ")
