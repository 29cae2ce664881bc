"""What we start ends with us."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

ENDLESS = "['sleep', '1000']"
BEGIN = f"from sora_cli.media.orphans import Child; child = Child({ENDLESS}); print(child.pid, flush=True)"


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(pid: int) -> bool:
    for _ in range(500):
        if not runs(pid):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def begun():  # type: ignore[no-untyped-def]
    """Starts a program that prints the id of its child; whatever is left ends with the test."""
    children = []

    def begin(program: str) -> tuple[subprocess.Popen[str], int]:
        parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  text=True)  # fmt: skip
        assert parent.stdout
        children.append(int(parent.stdout.readline()))
        return parent, children[-1]

    yield begin
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes through /proc")
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "exit", "abort"])
def test_no_child_outlives_us(begun, end: str) -> None:  # type: ignore[no-untyped-def]
    last = {"exit": "import os; os._exit(0)", "abort": "import os; os.abort()"}.get(end, "input()")
    parent, child = begun(f"{BEGIN}; input(); {last}" if end in ("exit", "abort") else f"{BEGIN}; {last}")
    assert runs(child)
    if end.startswith("SIG"):
        parent.send_signal(getattr(signal, end))
        parent.wait()
    else:
        parent.communicate("go on\n")
    assert gone(child)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes through /proc")
def test_a_thread_that_ends_takes_no_child_along(begun) -> None:  # type: ignore[no-untyped-def]
    """And a copy of us holds nothing open: it lives on while the child ends with the parent."""
    program = ("import os, threading, time\n"
               "from sora_cli.media.orphans import Child\n"
               f"thread = threading.Thread(target=lambda: print(Child({ENDLESS}).pid, flush=True))\n"
               "thread.start(); thread.join()\n"
               "if os.fork() == 0: os.close(0); os.close(1); time.sleep(5); os._exit(0)\n"
               "input()")  # fmt: skip
    parent, child = begun(program)
    time.sleep(0.3)
    assert runs(child)
    parent.kill()
    parent.wait()
    assert gone(child)


def test_who_has_ended_is_forgotten() -> None:
    from sora_cli.media.orphans import Child, reaper

    child = Child(["true"])
    assert child.pid in reaper.running
    child.wait()
    assert child.pid not in reaper.running
