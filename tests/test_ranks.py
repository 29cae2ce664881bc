"""Several processes learn what one does, and a run goes on with more or fewer of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sora_cli.errors import SoraError
from sora_cli.train import loop, ranks

SCRIPT = Path(__file__).with_name("toy_run.py")


def run(processes: int, out: Path, *asked: object) -> subprocess.CompletedProcess[str]:
    starter = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone",
                                         "--nproc-per-node", str(processes)]  # fmt: skip
    command = [sys.executable, *starter, str(SCRIPT), str(out), *map(str, asked)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"})


def end(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "end.pt")


def assert_same(a: Path, b: Path) -> None:
    one, other = end(a), end(b)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, two batches a step."""
    out = tmp_path_factory.mktemp("alone")
    assert run(1, out, 20, 2).returncode == 0
    return out


def test_two_processes_are_one_with_twice_the_batch(alone: Path, tmp_path: Path) -> None:
    made = run(2, tmp_path, 20)  # one batch for each process
    assert made.returncode == 0, made.stderr
    assert_same(alone, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (alone / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines[1:]] == pytest.approx([line["loss"] for line in expected[1:]], rel=1e-3)


def test_a_killed_process_costs_the_steps_since_the_last_checkpoint(alone: Path, tmp_path: Path) -> None:
    dead = run(2, tmp_path, 20, 2, 2 * 13)
    assert dead.returncode != 0
    assert [p.name for p in loop.checkpoints(tmp_path)] == ["checkpoint-0000010"]
    assert run(1, tmp_path, 20).returncode == 0  # goes on alone, with two batches as it began
    assert_same(alone, tmp_path)


def test_a_run_goes_on_with_more_processes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(1, whole, 20, 4).returncode == 0
    assert run(2, cut, 20, 4, 4 * 7).returncode != 0
    assert [p.name for p in loop.checkpoints(cut)] == ["checkpoint-0000005"]
    made = run(4, cut, 20)
    assert made.returncode == 0, made.stderr
    assert_same(whole, cut)


def test_batches_that_cannot_be_shared_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "count", lambda: 4)
    with pytest.raises(SoraError, match="4 processes cannot share 6 batches a step; use --accumulate 8"):
        ranks.Step(torch.nn.Linear(1, 1), lambda number: {}, 6)
