"""What a terminal shows while work takes long: at every stage what is done, before it is over; and nothing elsewhere.

Every stage waits until its words have been seen, so that a stage without any would wait for ever."""

import os
import pty
import re
import select
import textwrap
import time
from pathlib import Path

import forked
import pytest
from forked import Forked
from hub_server import Hub, environment

from sora_cli import media

TESTS = Path(__file__).parent
PATIENCE = 60  # seconds, after which what does not come is missing
STAGES = {  # what waits: the words that are seen meanwhile
    "checking": "checking what is given",
    "asking": "asking scribe what to show",
    "loading": "loading pocket",
    "reading": "reading the prompt and what is given",
    "denoising": "denoising",
    "decoding": "making frames and writing them",
    "finishing": "finishing the file",
}
SLOW = """
    import sys, time
    from pathlib import Path
    import tiny
    from sora_cli import cli
    from sora_cli.cli import jobs
    from sora_cli.generation import engine
    from sora_cli.media import writer
    from sora_cli.prompts import rewriting

    tiny.install(setattr)

    def slow(owner, name, stage):
        work = getattr(owner, name)
        def waiting(*words, **more):
            while not Path(stage).exists():
                time.sleep(0.02)
            return work(*words, **more)
        setattr(owner, name, waiting)

    slow(jobs, "check_rooms", "checking")
    rewriting.rewrite_prompts = lambda shot, *words: shot.prompts
    slow(rewriting, "rewrite_prompts", "asking")
    slow(engine.Engine, "__init__", "loading")
    slow(engine.Generation, "read", "reading")
    slow(engine.Generation, "inputs", "denoising")
    slow(engine.Generation, "decoded", "decoding")
    slow(writer.FileSink, "finish", "finishing")
    sys.exit(cli.run(["generate", "a cat", "--res", "64x64", "--seconds", "0.5", "-o", "a.mp4",
                      "--expand", "http://localhost:1/v1#scribe", *sys.argv[1:]]))
"""


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, script: str, **env: str) -> None:
        self.ours, theirs = pty.openpty()
        shown = {"TERM": "xterm-256color", "COLUMNS": "99"}
        self.process = Forked(textwrap.dedent(script), env=os.environ | shown | env, stdin=theirs, stderr=theirs)
        os.close(theirs)
        self.text = ""

    def wait_for(self, words: str) -> bool:
        """Read until the words are there; False if the command ends without them, or takes too long."""
        end = time.monotonic() + PATIENCE
        while words not in self.text and time.monotonic() < end:
            if select.select([self.ours], [], [], 0.1)[0]:
                try:
                    said = os.read(self.ours, 65536)
                except OSError:  # it has ended
                    break
                self.text += re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", said.decode(errors="replace"))
            elif self.process.poll() is not None:
                break
        found = words in self.text
        self.text = self.text.partition(words)[2] if found else self.text
        return found

    def close(self) -> int:
        self.process.kill() if self.process.poll() is None and not self.drained() else None
        os.close(self.ours)
        return self.process.wait()

    def drained(self) -> bool:
        self.wait_for("what is never said")
        return self.process.poll() is not None


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_stage_says_what_it_does_while_it_does_it(here: Path) -> None:
    terminal = Terminal(SLOW)
    missing = []
    for stage, words in STAGES.items():
        if not terminal.wait_for(words):
            missing.append(stage)
        Path(stage).touch()
    assert not missing and terminal.close() == 0
    assert media.probe("a.mp4").frames == 12


@pytest.mark.parametrize("words", [(), ("--quiet",)])
def test_where_there_is_no_terminal_nothing_moves(here: Path, words: tuple[str, ...]) -> None:
    for stage in STAGES:
        Path(stage).touch()
    done = forked.run(textwrap.dedent(SLOW), *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "a.mp4\n" and "\x1b" not in done.stderr and "\r" not in done.stderr
    assert not any(said in done.stderr for said in STAGES.values()) and bool(done.stderr) == (not words)


def test_fetching_and_verifying_say_so(server: Hub, here: Path) -> None:
    """Before the first byte, for the Hub may be slow to answer; and while files are read once more."""
    script = """
        import sys, time
        from pathlib import Path
        from sora_cli import cli
        from sora_cli.files import weights
        from sora_cli.registry import hub_client
        listing, hash_of = hub_client.listing, weights.hash_of

        def waiting(stage, work, *words):
            while not Path(stage).exists():
                time.sleep(0.02)
            return work(*words)

        def slowly(path, moved):
            moved(1)
            return waiting("verifying", hash_of, path, moved)

        hub_client.listing = lambda *words: waiting("asking", listing, *words)
        code = cli.run(["weights", "pull", "tiny", "--yes"])
        weights.hash_of = slowly
        sys.exit(code or cli.run(["weights", "verify", "tiny"]))
    """
    terminal = Terminal(script, **environment(server.url, here))
    assert terminal.wait_for("asking the Hub")
    Path("asking").touch()
    assert terminal.wait_for("tiny is here"), terminal.text
    assert terminal.wait_for("checking")
    Path("verifying").touch()
    assert terminal.wait_for("tiny is intact") and terminal.close() == 0
