"""Whether a batch survives crashes: what is there at last must be what an undisturbed batch makes, bit for bit.

    python benchmarks/batch_crash.py --jobs 200 --kills 10       # SIGKILL at random moments, and the same command again
    python benchmarks/batch_crash.py --jobs 60 --nodes 3         # a Ray cluster of three, one of which dies halfway
    python benchmarks/batch_crash.py --jobs 40 --nodes 2 --calm  # no node dies: the rate of two against one
    python benchmarks/batch_crash.py --jobs 60 --shards 3        # parts side by side, and a list that grows

Nodes have a core each and are all on this machine."""

import hashlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measuring import PROGRAM, Row, grid, note, parser, show

from sora_cli import media
from sora_cli.cli.cluster import QUIET

OVER = ("made", "skipped")


def listed(folder: Path, jobs: range) -> str:
    """A list of videos, one a seed, which are written beside it; made longer if it is there."""
    folder.mkdir(exist_ok=True)
    with (folder / "jobs.jsonl").open("a") as file:
        for seed in jobs:
            told = {"prompt": "a cat surfing", "seed": seed, "output": str(folder / f"{seed}.mp4")}
            file.write(json.dumps(told) + "\n")
    return str(folder / "jobs.jsonl")


def start(words: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen([*PROGRAM, "batch", *words, "--json", "-q"], stdout=subprocess.PIPE, text=True)


def events(process: "subprocess.Popen[str]") -> Iterator[Row]:
    """What a batch says, as it comes."""
    assert process.stdout
    yield from map(json.loads, process.stdout)
    process.wait()


def until(process: "subprocess.Popen[str]", moment: float) -> list[Row]:
    """What a batch says until it is killed after so many seconds."""
    try:
        said, _ = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
    return [json.loads(line) for line in said.splitlines() if line.endswith("}")]  # the last may be cut


def whole(process: "subprocess.Popen[str]") -> Iterator[Row]:
    """The events of a batch that ends by itself; SystemExit if it fails."""
    yield from events(process)
    if process.returncode:
        raise SystemExit(f"the batch ended with {process.returncode}")


def videos(folder: Path) -> dict[str, str]:
    """A hash of each video."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.mp4")}


def compare(folder: Path, other: Path, made: Counter[str]) -> Row:
    """A folder held against the one of the undisturbed batch, and what should not be in it."""
    found, wanted = videos(folder), videos(other)
    kept = {".mp4", ".json", ".safetensors", ".jsonl"}
    return {
        "videos": len(found), "identical": sum(found.get(name) == digest for name, digest in wanted.items()),
        "playable": sum(media.probe(str(folder / name)).frames > 0 for name in found),
        "made twice": sum(count > 1 for count in made.values()),
        "remains": sorted(path.name for path in folder.iterdir() if path.suffix not in kept or path.is_dir()),
    }  # fmt: skip


def count(found: Sequence[Row], event: str = "made") -> Counter[str]:
    return Counter(one["output"] for one in found if one["event"] == event)


# ---- crashes ----------------------------------------------------------------------------------------------


def killed(folder: Path, jobs: range, words: list[str], kills: int, took: tuple[float, float],
           rng: random.Random) -> Row:  # fmt: skip
    """Killed at random moments, and at last left alone. `took` are the seconds to the first video and to the last;
    all moments together leave time for the whole list."""
    path, made, at = listed(folder, jobs), Counter[str](), []
    for _ in range(kills):
        moment = rng.uniform(0.5, 1) * took[0] + rng.uniform(0, 2 * (took[1] - took[0]) / kills)
        made += count(until(start([path, *words]), moment))
        at.append(round(moment, 1))
        note(f"killed after {moment:.1f} s, {len(made)} made so far")
    made += count(list(whole(start([path, *words]))))
    return {"at": at, "made": made}


@contextmanager
def nodes(number: int) -> Iterator[Any]:
    """A Ray cluster of so many nodes, the first of which is not for workers, for it may not die."""
    os.environ.update(QUIET)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8})
    try:
        yield cluster, [cluster.add_node(num_cpus=1, object_store_memory=10**8) for _ in range(number)]
    finally:
        cluster.shutdown()


def on_nodes(folder: Path, jobs: range, words: list[str], number: int, calm: bool) -> Row:
    """The rate of so many nodes, from the first videos that are finished to the last; one dies halfway, unless calm."""
    path, found, ends = listed(folder, jobs), [], []
    with nodes(number) as (cluster, there):
        process = start([path, *words, "--ray", cluster.address])
        for event in whole(process):
            found.append(event)
            if event["event"] not in OVER:
                continue
            ends.append(time.perf_counter())
            if len(ends) == len(jobs) // 2 and not calm:
                cluster.remove_node(there[-1], allow_graceful=False)
                note("a node is dead")
    return {"nodes": number, "rate": 60 * (len(ends) - number) / (ends[-1] - ends[number - 1]), "made": count(found)}


def sharded(folder: Path, jobs: range, words: list[str], parts: int) -> Row:
    """Parts side by side, with the first half of the list and again with all of it."""
    made, where = Counter[str](), Counter[str]()
    for piece in (jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]):
        path = listed(folder, piece)
        running = [start([path, *words, "--shard", f"{n}/{parts}"]) for n in range(1, parts + 1)]
        found = [list(events(process)) for process in running]
        made += sum(map(count, found), Counter())
        where = Counter(one["output"] for part in found for one in part if one["event"] in OVER)
    return {"made": made, "in several parts": sum(times > 1 for times in where.values()), "of the list": len(where)}


def run(asked: Any, folder: Path, words: list[str]) -> Row:
    """One crash, and what became of it."""
    jobs = range(asked.jobs)
    started = time.perf_counter()
    process = start([listed(folder / "calm", jobs), *words])
    times = [time.perf_counter() - started for event in whole(process) if event["event"] in OVER]
    note(f"undisturbed: {times[-1]:.1f} s")
    if asked.nodes:
        row = on_nodes(folder / "nodes", jobs, words, asked.nodes, asked.calm)
        if asked.calm:
            alone = on_nodes(folder / "node", jobs, words, 1, True)["rate"]
            row |= {"rate of one": alone, "times": row["rate"] / alone}
        return row | compare(folder / "nodes", folder / "calm", row.pop("made"))
    if asked.shards:
        row = sharded(folder / "shards", jobs, words, asked.shards)
        return row | compare(folder / "shards", folder / "calm", row.pop("made"))
    row = killed(folder / "killed", jobs, words, asked.kills, (times[0], times[-1]), random.Random(asked.seed))
    return row | compare(folder / "killed", folder / "calm", row.pop("made"))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--jobs", type=int, default=60)
    made.add_argument("--kills", type=int, default=10)
    made.add_argument("--nodes", type=int, default=0, help="nodes of a Ray cluster, instead of kills")
    made.add_argument("--calm", action="store_true", help="let all nodes live, and compare with one")
    made.add_argument("--shards", type=int, default=0, help="parts side by side, instead of kills")
    made.add_argument("--seconds", type=float, default=0.5)
    made.add_argument("--res", default="128x96")
    made.add_argument("--seed", type=int, default=0, help="seed of the moments")
    asked = made.parse_args()
    words = ["--model", asked.model, "--seconds", f"{asked.seconds:g}", "--res", asked.res]
    with tempfile.TemporaryDirectory() as name:
        row = run(asked, Path(name), words)
    table = grid(f"{asked.jobs} jobs", "", "")
    for what, value in row.items():
        table.add_row(what, f"{value:.2f}" if isinstance(value, float) else str(value))
    show(row, [table], asked.json)


if __name__ == "__main__":
    main()
