"""ffmpeg as a process: where it is, how it starts, what it says, and bytes through it."""

import errno
import io
import os
import re
import selectors
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import IO

from sora_cli.errors import Failed
from sora_cli.media.orphans import Child

QUIET = ("-hide_banner", "-nostdin", "-loglevel", "error")
Y4M_IN = (*QUIET, "-f", "yuv4mpegpipe", "-i", "pipe:0")
# with checksums looked at; that a frame is damaged which comes none the less is a warning
CHECKED = ("-hide_banner", "-nostdin", "-loglevel", "repeat+level+warning", "-err_detect", "crccheck")
DAMAGED = "corrupt decoded frame"                # ffmpeg's words for what its decoders mark as such
LEVEL = re.compile(r"^(?:\[[^\]]*\] )*?\[(panic|fatal|error|warning|info|verbose)\] ")
SERIOUS = ("panic", "fatal", "error")
LOCAL = ("-protocol_whitelist", "file,pipe")     # what is read may name other files, never a network
BLOCK = 1 << 16
PIPE = 1 << 18    # bytes that wait between two processes, where the system lets us say
NARROW = (errno.EPERM, errno.EBUSY, errno.ENOMEM)  # why it does not
# what a line of ffmpeg's stderr says that names the cause, the most telling first
CAUSES = ("no space|denied|moov atom|partial file|ended prematurely", "invalid|error|no such", ".")


def ffmpeg() -> str:
    """The ffmpeg binary: $SORA_FFMPEG, else the one that imageio-ffmpeg carries or finds."""
    if chosen := os.environ.get("SORA_FFMPEG"):
        return chosen
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise Failed("no ffmpeg was found; reinstall imageio-ffmpeg or set SORA_FFMPEG") from error


def as_file(path: Path | str) -> str:
    """A name that ffmpeg cannot take for a protocol (`concat:...`) or an option (`-y`)."""
    return f"file:{path}"


def file_of(words: list[str]) -> Path:
    """The file of an input, of which these are ffmpeg's words."""
    return Path(words[-1].removeprefix("file:"))


@cache
def rational(fps: float, tolerance: float = 5e-4) -> str:
    """24.0 -> 24/1, 23.976 -> 24000/1001: exact for the rates that cameras use. A long list asks for the same often."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    away = abs(float(ntsc) - fps)  # of slow rates, whole ones are as near
    exact = ntsc if away < min(tolerance, abs(round(fps) - fps)) else Fraction(fps).limit_denominator(1000)
    return f"{exact.numerator}/{exact.denominator}"


def start(
    command: list[str], stdin: int | None = None, stdout: int | None = None, stderr: IO[bytes] | int | None = None
) -> subprocess.Popen[bytes]:
    """ffmpeg in its own session, so that Ctrl-C reaches us alone and we decide what happens to the file. It ends with
    us, however we end."""
    global PIPE
    try:
        return Child(command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True, pipesize=PIPE)
    except OSError as error:
        if PIPE > 0 and error.errno in NARROW:
            PIPE = -1  # as the system likes; it is not asked again, for Popen forgets pipes that it cannot widen
            return start(command, stdin, stdout, stderr)
        raise Failed(f"ffmpeg does not start ({command[0]}): {error.strerror}") from error


def complaints(stderr: str) -> list[str]:
    """The error lines of ffmpeg's stderr; all that are there if it prints no levels."""
    found = [(line, level) for line in stderr.splitlines() if (level := LEVEL.match(line))]
    if not found:
        return stderr.splitlines()
    return [line for line, level in found if level[1] in SERIOUS or DAMAGED in line]


def finished(command: list[str], feed: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run ffmpeg on some input bytes to its end; its output, stderr and exit code."""
    with start(command, subprocess.PIPE, subprocess.PIPE, subprocess.PIPE) as process:
        try:
            said = process.communicate(feed)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, *(text.decode(errors="replace") for text in said))


def explain(stderr: str) -> str:
    """The line of ffmpeg's stderr that names the cause, without its prefixes."""
    lines = [re.sub(r"^(\[[^\]]*\]\s*)+", "", line).strip() for line in complaints(stderr)]
    telling = (line for pattern in CAUSES for line in lines if re.search(pattern, line, re.IGNORECASE))
    return next(telling, "")


class Through(io.RawIOBase):
    """What an ffmpeg command writes to its stdout, to be read; `feed` is what goes to its stdin.

    The feed is drawn on in the reader's own thread and only while ffmpeg has nothing to give, so memory stays at
    one piece of it however long it is, neither side can wait for the other, and what the feed raises reaches the
    reader. Failed, beginning with `blame`, if ffmpeg fails or says what `fatal` matches; close() stops ffmpeg.
    """

    def __init__(
        self, command: list[str], feed: Iterable[bytes | memoryview] | None, blame: str, fatal: str
    ) -> None:
        self.command, self.blame, self.fatal = command, blame, fatal
        self.log = self.said = ""        # what ffmpeg printed, and complained of, when all has been read
        self.feed: Iterator[bytes | memoryview] = iter(feed or ())
        self.pending = memoryview(b"")
        self.complaints = tempfile.TemporaryFile()       # noqa: SIM115 (close() does)
        stdin = subprocess.DEVNULL if feed is None else subprocess.PIPE
        try:
            self.process = start(command, stdin, subprocess.PIPE, self.complaints)
        except Failed:
            self.complaints.close()
            super().close()
            raise
        assert self.process.stdout
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        if self.process.stdin:
            os.set_blocking(self.process.stdin.fileno(), False)
            self.selector.register(self.process.stdin, selectors.EVENT_WRITE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        assert self.process.stdout
        while True:
            ready = {key.fileobj for key, _ in self.selector.select()}
            if self.process.stdout in ready:
                count = os.readv(self.process.stdout.fileno(), [buffer])
                if count == 0:
                    self.check()
                return count
            self.push()

    def push(self) -> None:
        """Hand ffmpeg as much of the pending piece as it takes now, or close its stdin after the last."""
        assert self.process.stdin
        if not self.pending:
            self.pending = memoryview(next(self.feed, b"")).cast("B")
        try:
            if self.pending:
                self.pending = self.pending[os.write(self.process.stdin.fileno(), self.pending) :]
                return
        except BlockingIOError:
            return
        except BrokenPipeError:      # it has seen enough, or it failed: its exit code will tell
            pass
        self.stop_feeding()

    def stop_feeding(self) -> None:
        if self.process.stdin and not self.process.stdin.closed:
            self.selector.unregister(self.process.stdin)
            self.process.stdin.close()

    def check(self) -> None:
        """Failed if what has been read to its end was not all that there should be."""
        code = self.process.wait()
        self.complaints.seek(0)
        printed = self.complaints.read()
        for name in (word for word in self.command if "\n" in word):
            printed = printed.replace(os.fsencode(name), b"")  # whose lines are not ffmpeg's
        self.log = printed.decode(errors="replace")
        self.said = explain(self.log)
        if code != 0 or (self.fatal and re.search(self.fatal, "\n".join(complaints(self.log)))):
            raise Failed(f"{self.blame}: {self.said or f'ffmpeg ended with code {code}'}")

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        self.process.kill()
        self.process.wait()
        self.stop_feeding()
        self.selector.close()
        assert self.process.stdout
        self.process.stdout.close()
        self.complaints.close()


def pieces(
    command: list[str], size: int, blame: str, feed: Iterable[bytes | memoryview] | None = None, fatal: str = ""
) -> Iterator[bytes]:
    """What an ffmpeg command writes, in pieces of so many bytes; see `Through`."""
    with closing(Through(command, feed, blame, fatal)) as through:
        stream = io.BufferedReader(through, BLOCK)
        while len(piece := stream.read(size)) == size:
            yield piece
