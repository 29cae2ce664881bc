"""The figures that pocket is held to: what they are made of."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import bar


def test_a_figure_knows_whether_it_is_reached() -> None:
    assert bar.Figure("", 95.0, low=95.0).reached and not bar.Figure("", 94.9, low=95.0).reached
    assert bar.Figure("", 20.0, high=20.0).reached and not bar.Figure("", 20.1, high=20.0).reached
    assert [bar.Figure("", value, 0.85, 1.1).reached for value in (0.84, 0.85, 1.1, 1.11)] == [False, True, True, False]
    assert bar.Figure("", 7.0).reached
    assert not bar.Figure("", None, low=95.0).reached                            # nobody could say


def test_a_figure_is_a_line_of_the_table() -> None:
    assert bar.cells(bar.Figure("a", 97.6, low=98, unit=" %", best=99.5, error=1.1)) == (
        "a", "98 ± 1 %", ">= 98 %", "NO", "100 %"
    )  # fmt: skip
    assert bar.cells(bar.Figure("b", 1.03, 0.85, 1.1)) == ("b", "1.03", "0.85 to 1.1", "yes", "")
    assert bar.cells(bar.Figure("c", 0.0018, high=0.002)) == ("c", "0.0018", "<= 0.002", "yes", "")
    assert bar.cells(bar.Figure("d", 18.1)) == ("d", "18.10", "", "", "")
    assert bar.cells(bar.percent("e", {"mean": 0.5, "error": 0.1}, 95, 90, known=False))[1:4] == (
        "not judged", ">= 95 %", "NO"
    )  # fmt: skip


def test_what_the_judge_misses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    share = {"mean": 0.97, "error": 0.01}
    found = {kind: share for kind in (*bar.exam.KINDS, "all")}
    judged = {kind: share for kind in (*bar.exam.KINDS, "pairs")} | {"action": {"mean": 0.9, "error": 0.02}}
    alike = {"subject": {"mean": 20.0, "error": 0.5}, "whole": {"mean": 25.0, "error": 0.5},
             "sharpness": {"mean": 0.9, "error": 0.01}}  # fmt: skip
    steering = {"adherence": {"generated": found, "real": found},
                "alike": {"generated": alike, "decoded": alike, "another": alike}}  # fmt: skip
    monkeypatch.setattr(bar, "judged", lambda bench: judged)
    monkeypatch.setattr(bar.exam, "steering", lambda exam, scenes: steering)
    monkeypatch.setattr(bar.Bench, "candidate", None)
    bench = bar.Bench("pocket", 4, 0)
    figures = {figure.name: figure for figure in (*bar.trial(bench), *bar.prompts(bench))}
    assert not figures["judge on real renders: action"].reached
    assert figures["action follows the prompt"].value is None and not figures["action follows the prompt"].reached
    assert figures["all follows the prompt"].value is None
    assert figures["place follows the prompt"].value == pytest.approx(97)
    assert figures["two subjects"].low == pytest.approx(0.85 * 97) and figures["two subjects"].reached
    assert figures["like the scene itself, subject's cells"].low == pytest.approx(17)


def test_the_photograph_moves_by_whole_pixels() -> None:
    video = bar.photograph()
    assert video.shape == (17, 3, bar.HEIGHT, bar.WIDTH) and 0 <= video.min() < video.max() <= 1
    assert torch.equal(video[0, :, 2:, 4:], video[1, :, :-2, :-4])


def test_frechet_distance_of_gaussians_has_a_closed_form() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(20000, 3, generator=rng, dtype=torch.float64)
    y = (y - y.mean(0)) @ torch.linalg.cholesky(torch.linalg.inv(y.T.cov()))     # exactly white
    scale, shift_ = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.3, 0, -1.0]).double()
    expected = float(shift_.square().sum() + (scale - 1).square().sum())
    assert bar.frechet(y * scale + shift_, y) == pytest.approx(expected, rel=1e-6)
    assert bar.frechet(y, y) == pytest.approx(0, abs=1e-9)
