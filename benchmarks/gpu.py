"""Everything that only a GPU can tell, unattended, in fifteen minutes: speed and memory beside their predictions.

    python benchmarks/gpu.py                     # into gpu-report/: gpu.md, gpu.json, what every part said
    python benchmarks/gpu.py --only packed text  # some parts
    python benchmarks/gpu.py --write             # and the table into README.md
    python benchmarks/gpu.py --device cpu --tiny # the same on tiny networks, in half a minute

Networks have random weights, so that nothing is downloaded. Every part runs in a process of its own, with so much time
and no more; what it found by then is kept, and the report is written after each. The exit code is 1 if one did not end
well. Needs the extra `dev` for the tests, and `parity` for what is compared with diffusers. Memory is that of tensors,
without the driver's; on a CPU that of the whole process.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from measuring import Row, note

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from pages import put  # noqa: E402

BEGIN, END = "<!-- gpu: benchmarks/gpu.py -->", "<!-- end of gpu -->"
MINUTES = 14.5  # in all, by default
LEAST = 5.0  # seconds that are worth beginning a part with


def run(name: str, limit: float, asked: argparse.Namespace, folder: Path) -> list[Row]:
    """The rows of one part, in a process of its own that ends with everything it started."""
    words = [sys.executable, __file__, "--part", name, "--device", asked.device, *(["--tiny"] if asked.tiny else [])]
    log, rows = asked.out / f"{name.replace(' ', '-')}.log", asked.out / f"{name.replace(' ', '-')}.jsonl"
    begun = time.perf_counter()
    with log.open("w") as said, rows.open("w") as found, tempfile.TemporaryDirectory(dir=folder) as own:
        process = subprocess.Popen([*words, "--folder", own], stdout=found, stderr=said, start_new_session=True)
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(process)
    known = [json.loads(line) for line in rows.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    wrong = "" if code == 0 else f"stopped after {limit:.0f} s" if code is None else f"failed ({code}): {last(log)}"
    if wrong:
        known.append(missing(name, wrong))
    note(f"{name}: {len(known)} rows in {time.perf_counter() - begun:.0f} s{', ' + wrong if wrong else ''}")
    return [{"part": name, **row} for row in known]


def missing(name: str, why: str) -> Row:
    """The row of a part that did not end well."""
    return {"what": name, "measured": None, "unit": "", "predicted": None, "note": why, "ended": False}


def end(process: subprocess.Popen) -> None:
    """Have a process and all that it started end."""
    with suppress(ProcessLookupError, PermissionError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


# ---- report -----------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Markdown, a line for each row."""
    lines = [("", "measured", "predicted", "")]
    lines += [("---",) * 4]
    for row in rows:
        told = f"{number(row['measured'])} {row['unit']}".strip() if row["measured"] is not None else "-"
        lines.append((row["what"], told, number(row["predicted"]), row["note"]))
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def number(value: float | str | None) -> str:
    """1234.5 -> "1234", 0.01234 -> "0.0123": three digits at the least."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def save(rows: list[Row], asked: argparse.Namespace) -> None:
    told = {"device": asked.device, "tiny": asked.tiny, "torch": torch.__version__, "rows": rows}
    for name, content in (("gpu.json", json.dumps(told, indent=1) + "\n"), ("gpu.md", table(rows))):
        path = asked.out / name
        path.with_suffix(".part").write_text(content, encoding="utf-8")
        path.with_suffix(".part").replace(path)


def part(name: str, asked: argparse.Namespace) -> None:
    """Measure one part in this process, a line of JSON for each row as it is found."""
    from gpu_parts import PARTS, At

    measure, _ = PARTS[name]
    for row in measure(At(torch.device(asked.device), asked.tiny, asked.folder)):
        print(json.dumps(row), flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--tiny", action="store_true", help="tiny networks, to see that all of it runs")
    made.add_argument("--only", nargs="+", metavar="PART", help="parts whose names start with this")
    made.add_argument("--minutes", type=float, default=MINUTES, help=f"for all of it; {MINUTES:g} by default")
    made.add_argument("--out", type=Path, default=Path("gpu-report"), help="the folder for the report")
    made.add_argument("--write", action="store_true", help="put the table into README.md as well")
    made.add_argument("--part", help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return made


def main() -> None:
    asked = parser().parse_args()
    if asked.part:
        part(asked.part, asked)
        return
    from gpu_parts import PARTS

    chosen = {name: limit for name, (_, limit) in PARTS.items() if not asked.only or name.startswith(tuple(asked.only))}
    if asked.tiny:  # where all models are the same
        of_models = [name for name in chosen if name.startswith("model")]
        chosen = {name: limit for name, limit in chosen.items() if name not in of_models[1:]}
    if not chosen:
        raise SystemExit(f"no part begins with {' or '.join(asked.only)}; parts: {', '.join(PARTS)}")
    asked.out = asked.out.absolute()
    asked.out.mkdir(parents=True, exist_ok=True)
    until, rows = time.monotonic() + 60 * asked.minutes, []
    with tempfile.TemporaryDirectory() as folder:
        for name, limit in chosen.items():
            left = until - time.monotonic()
            if left < LEAST:
                rows.append({"part": name, **missing(name, "no time was left")})
            else:
                rows += run(name, min(limit, left), asked, Path(folder))
            save(rows, asked)
    if asked.write:
        put(table(rows), ROOT / "README.md", BEGIN, END)
    else:
        print(table(rows), end="")
    sys.exit(not all(row.get("ended", True) for row in rows))


if __name__ == "__main__":
    main()
