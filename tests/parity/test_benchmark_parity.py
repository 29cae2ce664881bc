"""benchmarks/wan.py at a tiny size: that it compares like with like, and says all that it promises."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import reference
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.parity
reference("diffusers", "WanPipeline")
sys.path.append(str(Path(__file__).parent.parent.parent / "benchmarks"))

import wan  # noqa: E402
from wan_sides import Case, Ours, cases, products  # noqa: E402


@pytest.mark.parametrize("case", cases("tiny"), ids=lambda case: case.name)
def test_both_sides_give_the_same(case: Case) -> None:
    row = wan.timed(case, torch.device("cpu"), torch.float32, rounds=1)
    assert 0 < row["difference"] <= 1e-4
    assert row["ratio"] == row["seconds"]["ours"] / row["seconds"]["theirs"]


def test_products_are_those_that_torch_counts() -> None:
    """All but those of the timestep, which is one vector."""
    case = next(case for case in cases("reduced") if case.name == "velocity")
    side = Ours(replace(case, size=(2, 8, 12)), torch.device("cpu"), torch.float32)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the fused one is not counted
        side.run()
    assert 0.99 <= products(side.case) / counter.get_total_flops() <= 1


def test_a_row_has_time_memory_and_difference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    words = ["--scale", "tiny", "--only", "velocity, a time", "--dtypes", "bfloat16", "--rounds", "2", "--json"]
    monkeypatch.setattr(sys, "argv", ["wan.py", *words])
    wan.main()
    row: dict[str, Any] = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["name"], row["dtype"]) == ("velocity, a time a frame", "bfloat16")
    assert len(row["runs"]["ours"]) == len(row["runs"]["theirs"]) == 2
    assert row["share"] > 0
    if Path("/proc/self/clear_refs").exists():
        assert row["memory"]["theirs"]["work"] > 0
        assert row["memory"]["ours"]["total"] > 0
