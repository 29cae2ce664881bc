"""Damaged inputs of all kinds that people give: each must be refused in one line, kept in part with a note, or used.

    python benchmarks/hostile.py                          # 1,000 of them
    python benchmarks/hostile.py --first 250 --count 250  # a quarter
    python benchmarks/hostile.py --only LoRA --count 40 --show

What is whole is made once, for every kind of input, with command lines that read it. Every trial is a copy with one
kind of damage, chosen by its number alone, and one command line in a process of its own, with 8 GB and 30 s. A
traceback, a hang, a lack of memory, an output under its name after a failure and temporary files are counted as failed,
and there may be none: the exit code says so.
"""

import argparse
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import hostile_inputs as whole

from sora_cli import cli

MEMORY, SECONDS = 8 << 30, 30
OUTCOMES = ("refused", "kept with a note", "used", "failed")
NOTES = re.compile("damaged|broken|left out|cut off|no captions|are not in|read as|made again|not read|varies|skipped|"
                   "missing|looks little|has no caption|have no caption|does not know|refers to files")  # fmt: skip
Damage = Callable[[bytes, random.Random], bytes]


# ---- damage -----------------------------------------------------------------------------------------------


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Some bits, more of them near the beginning, where what is said of the rest is."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 4, 32))):
        place = int(len(found) * rng.random() ** rng.choice((1, 3)))
        found[place] ^= 1 << rng.randrange(8)
    return bytes(found)


def zeroed(data: bytes, rng: random.Random) -> bytes:
    length = min(len(data), rng.choice((16, 512, 4096)))
    place = rng.randrange(len(data) - length + 1)
    return data[:place] + bytes(length) + data[place + length :]


def lying(data: bytes, rng: random.Random) -> bytes:
    """Numbers near the beginning, each of them something else."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 3))):
        place = rng.randrange(max(1, min(len(found), 256) - 8))
        size = rng.choice((1, 2, 4, 8))
        found[place : place + size] = rng.randbytes(size)
    return bytes(found[: len(data)])


def huge(data: bytes, rng: random.Random) -> bytes:
    """A number as large as can be: in text, one of those that are there."""
    numbers = list(re.finditer(rb"(?<![\w.])\d+(?:\.\d+)?(?!\w)", data)) if readable(data) else []
    if numbers:
        number = rng.choice(numbers)
        large = rng.choice((b"1e999", b"9" * 30, b"-1", b"99999999999", b"NaN", b"1e308", b"0", b"9" * 5000))
        return data[: number.start()] + large + data[number.end() :]
    place = rng.randrange(max(1, min(len(data), 2048) - 8))
    large = rng.choice((b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80"))
    return data[:place] + large + data[place + len(large) :]


def empty(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\n", b" ", b"\x00"))


def other(data: bytes, rng: random.Random) -> bytes:
    """Another file under the right name."""
    return rng.choice((
        b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>no</body></html>", b"PK\x03\x04" + bytes(60),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", b"\x89PNG\r\n\x1a\n" + rng.randbytes(80),
        b'{"error": "Unauthorized"}', b"[]", b"null", b'"text"', b"[" * 100_000, b"\x1f\x8b" + rng.randbytes(90),
        rng.randbytes(3000), b"GGUF" + rng.randbytes(100), b"YUV4MPEG2 W64 H64 F24:1\n", "кот\n".encode("utf-16"),
    ))  # fmt: skip


def typed(data: bytes, rng: random.Random) -> bytes:
    """A value of JSON that is of another type, is missing, or has a key twice; other texts lose or gain a mark."""
    values = list(re.finditer(rb':\s*("(?:[^"\\]|\\.)*"|-?[\d.]+|true|false|null|\[[^\[\]{}]*\])', data))
    if readable(data) and values:
        value = rng.choice(values)
        new = rng.choice((b"null", b"[]", b"{}", b'"x"', b"[1]", b"true", b"-1", b'{"a": [1]}', b'"\\ud800"', b'"../x"',
                          b'"' + b"a" * 5000 + b'"', b"1.5", b'["a", 1, null]'))  # fmt: skip
        return data[: value.start(1)] + new + data[value.end(1) :]
    place = rng.randrange(len(data))
    return data[:place] + rng.choice((b'"', b"\x00", b"\n", b",", b"{", b"\xff", b"\t", b"%", b"\\")) + data[place:]


DAMAGES: dict[str, Damage] = {
    "cut": cut, "bytes flipped": flipped, "block zeroed": zeroed, "header lies": lying, "huge numbers": huge,
    "empty": empty, "another file": other, "another type": typed,
}  # fmt: skip


def readable(data: bytes) -> bool:
    return not re.search(rb"[\x00-\x08\x0e-\x1f]", data[:4096])


# ---- one trial --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    number: int
    kind: str
    damage: str
    words: Sequence[str]
    outcome: str
    said: str
    seconds: float


def trial(number: int, seed: int, made: dict[str, whole.Made], kinds: Sequence[str]) -> Outcome:
    """One damaged input; what it is hangs on the numbers alone."""
    rng = random.Random(f"{seed} {number}")
    kind = kinds[number % len(kinds)]
    name = rng.choice(list(DAMAGES))
    with tempfile.TemporaryDirectory(prefix="hostile-") as there:
        folder = Path(there) / "it"
        shutil.copytree(made[kind].folder, folder)
        victim = folder / rng.choice(made[kind].victims)
        victim.write_bytes(DAMAGES[name](victim.read_bytes(), rng))
        words, piped = rng.choice(made[kind].commands), kind in whole.PIPED
        before = contents(folder)
        begun = time.monotonic()
        code, said = forked(words, folder, victim if piped else None)
        new = sorted(contents(folder) - before)
        outcome, why = judged(code, said, new)
        return Outcome(number, kind, name, words, outcome, why, time.monotonic() - begun)


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def forked(words: Sequence[str], folder: Path, piped: Path | None) -> tuple[int, str]:
    """The exit code of a command line in a process of its own, and what it says on stderr."""
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            inside(words, folder, errors.fileno(), piped)
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return os.waitstatus_to_exitcode(status), errors.read().decode(errors="replace")


def inside(words: Sequence[str], folder: Path, errors: int, piped: Path | None) -> None:
    """The child's part; it never comes back."""
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(piped or os.devnull, os.O_RDONLY), 0)
        sys.stdin = io.TextIOWrapper(os.fdopen(0, "rb", closefd=False))
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        limit = MEMORY + used()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        os.environ |= {"SORA_HOME": str(folder / ".home"), "HF_HUB_OFFLINE": "1"}
        cli.main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except BaseException:  # noqa: BLE001 (a traceback is what is looked for)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def used() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def judged(code: int, said: str, new: list[str]) -> tuple[str, str]:
    """What came of a trial, and why it failed, or the last line."""
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    left = [name for name in new if ".part" in name or (code and Path(name).name in whole.OUTPUTS)]
    wrong = {
        f"signal {-code}: a hang or a crash": code < 0, "a traceback": code == 99 or "Traceback" in said,
        "a lack of memory": bool(re.search("ran out of|not enough memory", last)), f"left behind: {left}": bool(left),
        "no line that says why": code > 0 and not last.startswith("sora-cli: "),
        f"exit code {code}": code not in (0, 1, 2, 99) and code > 0,
        "a line of some length": len(last) > 1000,
    }  # fmt: skip
    if reasons := [reason for reason, there in wrong.items() if there]:
        return "failed", f"{'; '.join(reasons)}: {last[:200]}"
    if code:
        return "refused", last
    noted = [line for line in lines if NOTES.search(line)]
    return ("kept with a note", noted[0]) if noted else ("used", last)


def trials(numbers: Sequence[int], seed: int, kinds: Sequence[str] = whole.KINDS) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory(prefix="hostile-whole-") as folder:
        made = {kind: whole.make(kind, Path(folder) / kind) for kind in dict.fromkeys(kinds)}
        for number in numbers:
            yield trial(number, seed, made, kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=whole.KINDS, help="one kind of input")
    parser.add_argument("--show", action="store_true", help="print the message of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add a line for each")
    told = parser.parse_args()
    kinds = (told.only,) if told.only else whole.KINDS
    counts: Counter[tuple[str, str]] = Counter()
    slowest = 0.0
    for one in trials(range(told.first, told.first + told.count), told.seed, kinds):
        counts[one.kind, one.outcome] += 1
        slowest = max(slowest, one.seconds)
        if told.show or one.outcome == "failed":
            line = f"{one.number} {one.kind}, {one.damage}: {one.outcome}: {one.said}"
            print(f"{line}  [{' '.join(one.words)}]", flush=True)
        if told.json:
            with told.json.open("a") as lines:
                lines.write(json.dumps(vars(one)) + "\n")
    table = Table("input", *OUTCOMES, title=f"{sum(counts.values())} damaged inputs, the slowest {slowest:.1f} s")
    for kind in kinds:
        table.add_row(kind, *(str(counts[kind, outcome]) for outcome in OUTCOMES))
    sums = [sum(counts[kind, outcome] for kind in kinds) for outcome in OUTCOMES]
    table.add_row("all", *map(str, sums))
    Console(width=120).print(table)
    sys.exit(bool(sums[-1]))


if __name__ == "__main__":
    main()
