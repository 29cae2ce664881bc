"""Who works in a folder, on file systems without locks, too; and what a lock leaves alone."""

import errno
import os
import platform
from pathlib import Path

import forked
import pytest
from test_owned import waiting

from sora_cli.errors import SoraError
from sora_cli.files import owned
from sora_cli.files.owned import Owned

LOCKLESS = """
import fcntl, os, sys, time
from pathlib import Path
from sora_cli.files.owned import Owned
def flock(*words):
    raise OSError(int(sys.argv[1]), os.strerror(int(sys.argv[1])))
fcntl.flock = flock
with Owned(Path("a")):
    print("here", flush=True)
    time.sleep(99)
"""

KILLED = """
import fcntl, os
from pathlib import Path
from sora_cli.files.owned import Owned
fcntl.flock = lambda *_: os._exit(9)
Owned(Path("a")).__enter__()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def without_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(*words: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_one_process_works_on_a_file_system_without_locks(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, code)
    with waiting(LOCKLESS, str(code)) as other:
        with pytest.raises(SoraError, match=f"a is in use by process {other.pid} on {platform.node()}; wait until"), \
                Owned(Path("a")):  # fmt: skip
            pass
        assert Path("a/lock").exists() and other.poll() is None
    with Owned(Path("a")) as own:  # the other one was killed
        assert own.holder() == f"process {os.getpid()} on {platform.node()}"
    assert not Path("a").exists()


def test_a_lock_of_another_machine_that_is_gone_can_be_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, errno.ENOLCK)
    with Owned(Path("a")):
        record = Path("a/lock").read_text()
    Path("a").mkdir()
    Path("a/lock").write_text(record.replace(platform.node(), "elsewhere"))
    line = f"a is in use by process {os.getpid()} on elsewhere; wait until it ends, or delete a/lock if it is gone"
    with pytest.raises(SoraError, match=line), Owned(Path("a")):
        pass
    Path("a/lock").unlink()
    with Owned(Path("a")):
        pass


def test_nothing_is_left_of_a_process_that_is_killed_while_it_tries_a_lock() -> None:
    assert forked.run(KILLED).returncode == 9
    (part,) = os.listdir("a")
    own, others = Owned(Path("a")), Path("a", f"lock.{os.getppid()}.part")
    assert part.startswith("lock.") and own.empty
    others.touch()
    with own:
        assert set(os.listdir("a")) == {"lock", others.name}


def test_a_folder_that_the_process_before_has_just_removed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lockable, leaving = owned.lockable, [Path("a")]

    def left(path: Path) -> bool:
        if leaving:
            leaving.pop().rmdir()
        return lockable(path)

    monkeypatch.setattr(owned, "lockable", left)
    with Owned(Path("a")):
        assert Path("a/lock").exists()


@pytest.mark.parametrize("content", ["mine", "process of law", "12 monkeys", "\x00\x01"])
def test_a_file_of_somebody_s_that_is_called_lock_stays(content: str) -> None:
    Path("a").mkdir()
    Path("a/lock").write_text(content)
    with pytest.raises(SoraError, match="a/lock is in the way"), Owned(Path("a")):
        pass
    assert Path("a/lock").read_text() == content


@pytest.mark.parametrize(("content", "said"), [
    ("", "another process"), ("process 5 on here", "process 5 on here"), ("5\nhere\n123\n", "process 5 on here"),
    ("something", "another process"),
])  # fmt: skip
def test_whoever_holds_a_lock_has_a_name(content: str, said: str) -> None:
    Path("lock").write_text(content)
    assert Owned(Path()).holder() == said
