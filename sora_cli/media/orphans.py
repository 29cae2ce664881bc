"""No child outlives us, however we end: a shell waits at the end of a pipe that only we hold, and then ends those that
are left. (Linux' PR_SET_PDEATHSIG is bound to the thread that starts a child, not to the process.)"""

import os
import subprocess
from contextlib import suppress
from threading import RLock
from typing import Any

REAPER = 'while read -r line; do pids=$line; done; [ -z "$pids" ] || kill -9 $pids'


class Reaper:
    """The shell, from the first child on, and the children that it knows of."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.running: set[int] = set()
        self.shell: subprocess.Popen[bytes] | None = None

    def begin(self, pid: int) -> None:
        with self.lock:
            self.running.add(pid)
            self.send_pids()

    def end(self, pid: int) -> None:
        with self.lock:
            if pid in self.running:
                self.running.discard(pid)
                self.send_pids()

    def send_pids(self) -> None:
        """All that are running now, on one line. Where there is no shell, children are on their own."""
        with suppress(OSError):
            self.shell = self.shell or subprocess.Popen(
                ["/bin/sh", "-c", REAPER], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, bufsize=0)  # fmt: skip
            assert self.shell.stdin
            self.shell.stdin.write(f"{' '.join(map(str, self.running))}\n".encode())

    def forked(self) -> None:
        """A copy of us has children of its own, and does not hold our pipe open."""
        if self.shell and self.shell.stdin:
            self.shell.stdin.close()
            self.shell.returncode = 0  # it is not our child to wait for
        self.__init__()  # type: ignore[misc]


reaper = Reaper()
os.register_at_fork(after_in_child=reaper.forked)


class Child(subprocess.Popen[bytes]):
    """A process that ends with us, whatever ends us."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        reaper.begin(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        reaper.end(self.pid)
        return code

    def poll(self) -> int | None:
        code = super().poll()
        if code is not None:
            reaper.end(self.pid)
        return code
