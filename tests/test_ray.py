"""A batch on a Ray cluster: what it makes is what it makes without, whichever node dies and whoever sees the folder."""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny

from sora_cli import cli
from sora_cli.cli import cluster as clusters
from sora_cli.cli.batch import LOCAL, WithAddress
from sora_cli.cli.cluster import Cluster, Worker, last_line

WORDS = ("--frames", "5", "--res", "64x64", "--steps", "1", "--device", "cpu")
SIZE = {"num_cpus": 1, "object_store_memory": 10**8}  # of a node


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes of a core each, on this machine."""
    pytest.importorskip("ray")
    os.environ.update(clusters.QUIET)
    os.environ.update({"RAY_memory_monitor_refresh_ms": "0"})  # kills no worker where others fill the memory
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
    from ray.cluster_utils import Cluster as Nodes

    found = Nodes(initialize_head=True, head_node_args={**SIZE, "include_dashboard": False, "no_monitor": True})
    yield found, found.add_node(**SIZE)
    found.shutdown()


def listed(name: str, *told: dict[str, Any]) -> str:
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in told))
    return name


def told(output: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "a cat", "seed": len(output), "output": output} | more


@contextmanager
def meanwhile(work: Any, when: Any) -> Iterator[None]:
    """Do something as soon as it is time for it."""

    def wait() -> None:
        while not when() and not over.is_set():
            time.sleep(0.02)
        work()

    over = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    yield
    over.set()
    thread.join()


def made_of(out: str) -> Counter[str]:
    events = [json.loads(line) for line in out.splitlines()]
    return Counter(event["output"] for event in events if event["event"] in ("made", "skipped"))


def test_a_node_that_dies_costs_nothing(nodes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{n}.mp4" for n in range(9)] + [f"{n}.png" for n in range(2)]
    alone = [told(f"alone-{name}", seed=n, frames=9 - 8 * name.endswith("png")) for n, name in enumerate(names)]
    assert cli.run(["batch", listed("alone.jsonl", *alone), *WORDS[2:], "-q"]) == 0
    jobs = listed("jobs.jsonl", *({**line, "output": line["output"][6:]} for line in alone))
    capsys.readouterr()
    cluster, second = nodes
    with meanwhile(lambda: cluster.remove_node(second, allow_graceful=False), lambda: Path(names[2]).exists()):
        assert cli.run(["batch", jobs, *WORDS[2:], "--ray", cluster.address, "--json"]) == 0
    said = capsys.readouterr()
    assert made_of(said.out) == Counter(names), said.err
    for name in names:
        assert Path(name).read_bytes() == Path(f"alone-{name}").read_bytes(), name
    assert not [name for name in tiny.everything() if ".part" in name or ".resume" in name or name.startswith(".")]


def test_what_is_made_out_of_sight_is_brought(
    nodes: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Cluster, "mark_folders", lambda self, items: None)
    Path("broken.mp4").write_bytes(b"no video")
    format = tiny.y4m_format()
    clip = tiny.write("clip.y4m", format, tiny.noise(format, 9))
    os.mkdir("on")
    jobs = listed(
        "jobs.jsonl", told("a.mp4", sheet="on/a.png"), told("%03d.png", metadata=False),
        told("on/c.mp4", verb="extend", input=clip, after=0.25, frames=None),
        {"verb": "encode", "video": clip, "output": "clip.safetensors"},
        {"verb": "extend", "input": "broken.mp4", "after": 0.25, "output": "d.mp4"},
    )  # fmt: skip
    assert cli.run(["batch", jobs, *WORDS, "--ray", nodes[0].address, "--json"]) == 1
    said = capsys.readouterr()
    assert set(made_of(said.out)) == {"a.mp4", "%03d.png", "on/c.mp4", "clip.safetensors"}, said.err
    there = {*tiny.kept("a.mp4"), "on/c.mp4", "on/c.json", "on/a.png", "001.png", "005.png", "clip.safetensors"}
    assert there <= set(tiny.everything()) and "broken.mp4" in Path("jobs.failed.jsonl").read_text()
    assert json.loads(Path("a.json").read_text())["output"] == "a.mp4"
    before = {name: Path(name).stat().st_mtime_ns for name in there}
    Path("jobs.jsonl").write_text("".join(Path("jobs.jsonl").read_text().splitlines(keepends=True)[:-1]))
    assert cli.run(["batch", "jobs.jsonl", *WORDS]) == 0 and "0 made, 4 skipped" in capsys.readouterr().err
    assert before == {name: Path(name).stat().st_mtime_ns for name in there}


def test_a_worker_does_not_take_other_files_for_the_same(tmp_path: Path) -> None:
    worker = Worker(str(tmp_path), 1)
    Path(".mark").write_text("this batch")
    assert worker.sees(Path(), (".mark", "this batch")) and worker.sees(tmp_path, (".mark", "this batch"))
    assert not worker.sees(Path(), (".mark", "another")) and not worker.sees(Path("nowhere"), (".mark", "this batch"))


@pytest.mark.parametrize("words, why", [
    (["--ray", "ray://there:10001"], "does not take ray:// addresses"), (["--ray", "127.0.0.1:9"], "no answer from"),
    (["--cores", "2"], "--cores needs --ray"),
])  # fmt: skip
def test_what_is_refused(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["batch", listed("jobs.jsonl", told("a.mp4")), *WORDS, *words]) != 0
    err = capsys.readouterr().err
    assert why in err and err.count("\n") == 1 and tiny.everything() == ["jobs.jsonl"]


def test_without_ray_a_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.run(["batch", listed("jobs.jsonl", told("a.mp4")), *WORDS, "--ray"]) == 2
    assert capsys.readouterr().err == "sora-cli: --ray needs Ray: pip install 'sora-cli[ray]'\n"


@pytest.mark.parametrize("words, whole", [
    (["a.jsonl", "--ray"], ["a.jsonl", f"--ray={LOCAL}"]), (["--ray", "a.jsonl"], [f"--ray={LOCAL}", "a.jsonl"]),
    (["--ray", "host:6379", "a"], ["--ray", "host:6379", "a"]), (["--ray", "auto", "-q"], ["--ray", "auto", "-q"]),
    (["--ray=auto", "--json"], ["--ray=auto", "--json"]), (["--ray", "--json"], [f"--ray={LOCAL}", "--json"]),
])  # fmt: skip
def test_an_address_may_be_left_out(words: list[str], whole: list[str]) -> None:
    assert WithAddress.addressed(words) == whole


def test_the_last_line_of_an_error_is_its_cause() -> None:
    assert last_line(RuntimeError("The actor died\n  File x\nModuleNotFoundError: no\n")) == "ModuleNotFoundError: no"
    assert last_line(RuntimeError()) == "RuntimeError"
