"""Threads follow the processors that are free, within what the system and control groups allow."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_training import options, toy_run

from sora_cli.placement import device, machine
from sora_cli.train.trainer import loop


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight processors; the number of threads is as before afterwards."""
    monkeypatch.setattr(machine, "bound", lambda: list(range(8)))
    monkeypatch.setattr(machine, "cores", lambda: 8.0)
    monkeypatch.setattr(machine, "busy", lambda: 0.0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    taken: list[int] = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1])
    monkeypatch.setattr(torch, "set_num_threads", taken.append)


@pytest.mark.parametrize(
    ("groups", "limits", "allowed"),
    [
        ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),
        ("4:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n",
                                "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 3),
        ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 8),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("", {}, 8),
    ],
)  # fmt: skip
def test_control_groups_have_quotas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str,
                                    limits: dict[str, str], allowed: float) -> None:  # fmt: skip
    monkeypatch.setattr(machine, "bound", lambda: list(range(8)))
    files = {"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    assert machine.cores(write(tmp_path, files)) == allowed


def test_where_the_system_binds_nobody_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert machine.bound() == [0, 1, 2]


def test_others_are_seen_on_the_processors_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """user nice system idle iowait irq softirq steal, as `man proc` has them; cpu2 is not ours."""
    monkeypatch.setattr(machine, "bound", lambda: [0, 1])
    stat = "cpu  9 9 9 9\ncpu0 0 0 0 100 0 0 0 0 0 0\ncpu1 0 0 0 100 0 0 0 0 0 0\ncpu2 0 0 0 100 0 0 0 0 0 0\n"
    root = write(tmp_path, {"proc/stat": stat})
    later = "cpu0 10 0 5 105 0 0 0 0 0 0\ncpu1 0 0 0 110 10 0 0 0 0 0\ncpu2 20 0 0 100 0 0 0 0 0 0\n"
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: write(tmp_path, {"proc/stat": later}))
    assert machine.busy(root) == pytest.approx(0.75)
    assert machine.busy(tmp_path / "nowhere") == 0


@pytest.mark.parametrize(
    ("allowed", "taken", "threads", "said"),
    [(8.0, 0.0, 8, ""), (8.0, 0.3, 8, ""), (8.0, 3.2, 5, "3 of 8 processors are busy: computing on 5 threads"),
     (8.0, 8.0, 1, "computing on 1 thread;"), (1.5, 0.0, 2, "1.5 processors may be used"), (8.0, 1.0, 7, "1 of 8 ")],
)  # fmt: skip
def test_threads_follow_what_is_free(eight: None, monkeypatch: pytest.MonkeyPatch, allowed: float, taken: float,
                                     threads: int, said: str) -> None:  # fmt: skip
    monkeypatch.setattr(machine, "cores", lambda: allowed)
    monkeypatch.setattr(machine, "busy", lambda: taken)
    note = device.take_threads()
    assert torch.get_num_threads() == threads
    assert said in note and bool(note) == bool(said)


def test_a_training_takes_the_threads_that_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(loop.distributed, "init", lambda options: (torch.device("cpu"), torch.float32))
    monkeypatch.setattr(loop, "fit", lambda stage: {})
    stage = SimpleNamespace(export=lambda averaged: tmp_path)
    for threads in (None, 3):
        loop.train(lambda *_: stage, options(tmp_path / "run", threads=threads))  # type: ignore[arg-type, return-value]
    assert taken == [3]
    toy_run(tmp_path / "run", 5)
    toy_run(tmp_path / "run", 10, threads=2)  # another number is no other training


def test_who_asks_is_obeyed(eight: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "busy", lambda: 7.0)
    assert device.take_threads(6) == "" and torch.get_num_threads() == 6
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert device.take_threads() == "" and torch.get_num_threads() == 6  # as torch has taken them from it
    assert device.take_threads(3) == "" and torch.get_num_threads() == 3
