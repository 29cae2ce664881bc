"""The figures that pocket is held to: what they are made of."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import bar

from sora_cli.evaluate.network import HEIGHT, WIDTH, Evaluator, EvaluatorConfig
from sora_cli.world.scene import HELD_OUT, Scene
from sora_cli.world.vocabulary import ACTIONS, PLACES, SUBJECTS


def test_a_figure_knows_whether_it_is_reached() -> None:
    assert bar.Figure("", 95.0, ">=", 95.0).reached and not bar.Figure("", 94.9, ">=", 95.0).reached
    assert bar.Figure("", 20.0, "<=", 20.0).reached and not bar.Figure("", 20.1, "<=", 20.0).reached
    assert bar.Figure("", 7.0, "").reached


def test_the_photograph_moves_by_whole_pixels() -> None:
    video = bar.photograph()
    assert video.shape == (1, 17, 3, bar.exam.HEIGHT, bar.exam.WIDTH) and 0 <= video.min() < video.max() <= 1
    assert torch.equal(video[0, 0, :, 2:, 4:], video[0, 1, :, :-2, :-4])


def test_pairs_are_two_subjects_and_repeatable() -> None:
    pairs = bar.two_subjects(12, 3)
    assert pairs == bar.two_subjects(12, 3) != bar.two_subjects(12, 4)
    assert all(scene.second and scene.second != scene.subject for scene in pairs)
    assert all(scene.triples[0] in HELD_OUT for scene in pairs)


def test_both_subjects_must_be_the_likeliest_two(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EvaluatorConfig(tuple(SUBJECTS), tuple(ACTIONS), tuple(PLACES), (8, 8, 16))
    network = Evaluator(config).eval()
    torch.nn.init.zeros_(network.subject.weight)
    network.subject.bias.data.zero_()[[config.subjects.index("cat"), config.subjects.index("dog")]] = 5.0
    monkeypatch.setattr(bar, "judge", lambda: network)
    video = torch.rand(bar.SHORT, 3, HEIGHT, WIDTH)
    assert bar.both(video, Scene("dog", "spinning", "sky", second="cat"))
    assert not bar.both(video, Scene("dog", "spinning", "sky", second="cow"))
