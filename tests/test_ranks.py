"""Several processes learn what one does, and a run goes on with more or fewer of them."""

import json
import socket
from pathlib import Path

import forked
import pytest
import torch
import toy_run
from forked import FORKS

from sora_cli.errors import SoraError
from sora_cli.train.trainer import distributed
from sora_cli.train.trainer.checkpoint import checkpoints
from sora_cli.train.trainer.prefetch import Prefetcher


def run(processes: int, out: Path, *asked: object) -> list[int | None]:
    """The exit codes of so many processes that meet as torchrun's do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [FORKS.Process(target=toy_run.worker, args=(rank, processes, port, str(out), *asked))
               for rank in range(processes)]  # fmt: skip
    for process in started:
        process.start()
    for process in started:
        process.join(100)
    for process in started:
        process.kill()
    return [process.exitcode for process in started]


def end(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "end.pt")


def assert_same(a: Path, b: Path) -> None:
    """Up to the order of sums, which Muon's products in bfloat16 make visible: weights move by some 0.1 in all."""
    one, other = end(a), end(b)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=2e-3, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, two batches a step."""
    out = tmp_path_factory.mktemp("alone")
    assert run(1, out, 20, 2) == [0]
    return out


@pytest.fixture(scope="module")
def alone_with_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, four batches a step."""
    out = tmp_path_factory.mktemp("four")
    assert run(1, out, 20, 4) == [0]
    return out


def test_two_processes_are_one_with_twice_the_batch(alone: Path, tmp_path: Path) -> None:
    assert run(2, tmp_path, 20) == [0, 0]  # one batch for each process
    assert_same(alone, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (alone / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines[1:]] == pytest.approx([line["loss"] for line in expected[1:]], rel=1e-3)


def test_a_killed_process_costs_the_steps_since_the_last_checkpoint(alone: Path, tmp_path: Path) -> None:
    assert 0 not in run(2, tmp_path, 20, 2, 2 * 13)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-0000010"]
    assert run(1, tmp_path, 20) == [0]  # goes on alone, with two batches as it began
    assert_same(alone, tmp_path)


def test_a_run_goes_on_with_more_processes(alone_with_four: Path, tmp_path: Path) -> None:
    assert 0 not in run(2, tmp_path, 20, 4, 4 * 7)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-0000005"]
    assert run(4, tmp_path, 20) == [0] * 4
    assert_same(alone_with_four, tmp_path)


def test_torchrun_starts_a_killed_run_again(alone: Path, tmp_path: Path) -> None:
    with forked.program("import sys, toy_run; toy_run.main(sys.argv[1], *map(int, sys.argv[2:]))") as toy:
        made = forked.run("from torch.distributed.run import main; main()", "--standalone", "--nproc-per-node", "2",
                          "--max-restarts", "1", "--no-python", str(toy), str(tmp_path), "20", "2", "26")  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert_same(alone, tmp_path)


def test_shards_learn_what_one_process_does(alone_with_four: Path, tmp_path: Path) -> None:
    assert run(2, tmp_path, 20, 4, None, True) == [0, 0]
    assert_same(alone_with_four, tmp_path)


@pytest.mark.parametrize("processes", [1, 4])
def test_checkpoints_do_not_know_of_shards(alone_with_four: Path, tmp_path: Path, processes: int) -> None:
    assert 0 not in run(2, tmp_path, 20, 4, 4 * 12, True)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-0000010"]
    *shards, about = sorted(checkpoints(tmp_path)[0].iterdir(), key=lambda path: path.suffix == ".json")
    sizes = [path.stat().st_size for path in shards]  # what a process holds is all that it writes
    assert about.name == "run.json" and len(shards) == 2 and max(sizes) < 0.6 * sum(sizes)
    assert run(processes, tmp_path, 20, None, None, True) == [0] * processes
    assert_same(alone_with_four, tmp_path)


def test_batches_that_cannot_be_shared_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    with pytest.raises(SoraError, match="4 processes cannot share 6 batches a step; use --accumulate 8"):
        distributed.GradAccumulator(torch.nn.Linear(1, 1), lambda number: {}, 6, Prefetcher(int, 0, 4, 6))
