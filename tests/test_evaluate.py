"""The measures against closed forms and the definition; the judge's shapes; the whole exam on a fake."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from sora_cli import weights
from sora_cli.evaluate import measure, metrics, table
from sora_cli.evaluate.network import (
    FRAMES,
    HEIGHT,
    WIDTH,
    Evaluator,
    EvaluatorConfig,
    Named,
    from_weights,
    name,
    shift,
    shrink,
)
from sora_cli.shot import Shot
from sora_cli.train.evaluator import damage, export, labels
from sora_cli.world.scene import HELD_OUT, Scene, sample_scene
from sora_cli.world.vocabulary import ACTIONS, PLACES, SUBJECTS

CONFIG = EvaluatorConfig(tuple(SUBJECTS), tuple(ACTIONS), tuple(PLACES), (8, 8, 16))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network() -> Evaluator:
    torch.manual_seed(0)
    return Evaluator(CONFIG).eval()


# -- Metrics ----------------------------------------------------------------------------------------------


def test_psnr_of_a_known_error() -> None:
    x = noise(2, 3, 3, 8, 8)
    assert metrics.psnr(x, x + 0.1) == pytest.approx(20.0, abs=1e-3)             # -10 log10 0.01
    assert metrics.psnr(x, x) == pytest.approx(100.0)


def test_ssim_equals_the_definition_window_by_window() -> None:
    x, y = noise(1, 1, 1, 13, 12), noise(1, 1, 1, 13, 12, seed=1)
    a, b = x[0, 0, 0].double().numpy(), y[0, 0, 0].double().numpy()
    at = np.arange(11) - 5
    g = np.exp(-(at**2) / (2 * 1.5**2))
    g = np.outer(g, g) / np.outer(g, g).sum()
    found = []
    for i in range(3):
        for j in range(2):
            p, q = a[i:i + 11, j:j + 11], b[i:i + 11, j:j + 11]
            mp, mq = (g * p).sum(), (g * q).sum()
            vp, vq = (g * (p - mp) ** 2).sum(), (g * (q - mq) ** 2).sum()
            cov = (g * (p - mp) * (q - mq)).sum()
            luminance = (2 * mp * mq + 1e-4) / (mp**2 + mq**2 + 1e-4)
            found.append(luminance * (2 * cov + 9e-4) / (vp + vq + 9e-4))
    assert metrics.ssim(x, y) == pytest.approx(np.mean(found), abs=1e-5)
    assert metrics.ssim(x, x) == pytest.approx(1.0)


def test_flicker_sees_change_in_time_alone() -> None:
    x = noise(1, 4, 3, 8, 8)
    blinking = torch.tensor([0.0, 0.1, 0.0, 0.1]).view(1, 4, 1, 1, 1)
    assert metrics.flicker(x + 0.3, x) == pytest.approx(0, abs=1e-6)
    assert metrics.flicker(x + blinking, x) == pytest.approx(0.1, abs=1e-6)
    assert metrics.motion(blinking.expand(1, 4, 3, 8, 8)) == pytest.approx(0.1, abs=1e-6)


def test_drift_of_a_steady_fade() -> None:
    fade = torch.arange(10).view(1, 10, 1, 1, 1).expand(1, 10, 3, 4, 4) / 10
    assert metrics.drift(fade, 5) == pytest.approx([0.2 * i * math.sqrt(3) for i in range(5)], abs=1e-6)


def test_frechet_distance_of_gaussians_has_a_closed_form() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(20000, 3, generator=rng, dtype=torch.float64)
    y = (y - y.mean(0)) @ torch.linalg.cholesky(torch.linalg.inv(y.T.cov()))     # exactly white
    scale, shift_ = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.3, 0, -1.0]).double()
    expected = float(shift_.square().sum() + (scale - 1).square().sum())
    assert metrics.frechet(y * scale + shift_, y) == pytest.approx(expected, rel=1e-6)
    assert metrics.frechet(y, y) == pytest.approx(0, abs=1e-9)


# -- The judge --------------------------------------------------------------------------------------------


def test_judge_gives_a_score_to_every_name(network: Evaluator) -> None:
    scores = network(noise(2, FRAMES, 3, HEIGHT, WIDTH))
    assert [s.shape for s in scores] == [(2, len(SUBJECTS)), (2, len(ACTIONS)), (2, len(PLACES))]


def test_shift_moves_channels_through_time_and_never_between_clips() -> None:
    n = FRAMES
    x = torch.arange(2.0 * n).view(2 * n, 1, 1, 1).expand(2 * n, 4, 1, 1)        # two clips
    moved = shift(x)[..., 0, 0]
    assert moved[:, 0].tolist() == [0, *range(n - 1), 0, *range(n, 2 * n - 1)]
    assert moved[:, 1].tolist() == [*range(1, n), 0, *range(n + 1, 2 * n), 0]
    assert moved[:, 2:].tolist() == x[:, 2:, 0, 0].tolist()


def test_judge_sees_the_direction_of_time(network: Evaluator) -> None:
    video = noise(1, FRAMES, 3, HEIGHT, WIDTH)
    assert not torch.allclose(network(video).action, network(video.flip(1)).action)


def test_name_looks_at_the_seconds_that_was_asked_for(network: Evaluator) -> None:
    video = noise(73, 3, HEIGHT, WIDTH)
    index = list(range(24, 73, 6))                                               # 1 s to 3 s at 24 fps
    best = [int(scores.argmax()) for scores in network(video[None, index])]
    assert name(network, video, 24.0, start=1.0) == Named(
        CONFIG.subjects[best[0]], CONFIG.actions[best[1]], CONFIG.places[best[2]]
    )
    with pytest.raises(AssertionError, match="end before"):
        name(network, video, 24.0, start=1.1)


def test_judge_survives_its_file(network: Evaluator, tmp_path: Path) -> None:
    again = from_weights(*weights.load(export(network, {}, tmp_path / "evaluator.safetensors")))
    video = noise(1, FRAMES, 3, HEIGHT, WIDTH)
    for ours, theirs in zip(again(video), network(video), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)           # half precision


def test_damage_keeps_range_shape_and_content() -> None:
    video = shrink(noise(20, 3, 24, 40)).view(4, 5, 3, HEIGHT, WIDTH)
    damaged = damage(video, torch.Generator().manual_seed(0))
    assert damaged.shape == video.shape
    assert 0 <= float(damaged.min()) <= float(damaged.max()) <= 1
    assert 10 < metrics.psnr(damaged, video) < 40


def test_labels_are_the_scenes_fields() -> None:
    scenes = [sample_scene(random.Random(i), "train") for i in range(4)]
    right = labels(scenes, CONFIG)
    assert [CONFIG.actions[i] for i in right.action] == [scene.action for scene in scenes]


# -- The exam ---------------------------------------------------------------------------------------------


def test_adherence_counts() -> None:
    scenes = [Scene("cat", "surfing", "ocean"), Scene("dog", "spinning", "snow")]
    named = [Named("cat", "surfing", "ocean"), Named("dog", "falling", "snow")]
    assert measure.adherence(named, scenes) == {"subject": 1.0, "action": 0.5, "place": 1.0, "all": 0.5}


def test_scenes_of_the_exam_are_held_out_and_repeatable() -> None:
    scenes = measure.held_out(20, 7)
    assert all((scene.subject, scene.action, scene.place) in HELD_OUT for scene in scenes)
    assert scenes == measure.held_out(20, 7) != measure.held_out(20, 8)


class FakeEngine:
    """Paints every frame in one grey; stands in for the engine."""

    def __init__(self, model: str, device: str) -> None:
        self.shot: Shot | None = None

    def start(self, shot: Shot) -> "FakeEngine":
        self.shot = shot
        return self

    def denoise(self) -> Iterator[None]:
        yield

    def frames(self) -> Iterator[np.ndarray]:
        assert self.shot is not None
        for _ in range(self.shot.frames):
            yield np.full((96, 160, 3), 128, np.uint8)


class Copier:
    """A VAE that loses nothing."""

    def encode(self, video: Tensor) -> Tensor:
        return video

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@pytest.fixture
def result(network: Evaluator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict:
    judge = weights.load(export(network, {}, tmp_path / "evaluator.safetensors"))
    monkeypatch.setattr(measure.registry, "load_model_files", lambda model, part: judge)
    monkeypatch.setattr(measure.autoencoder, "from_weights", lambda tensors, metadata: Copier())
    monkeypatch.setattr(measure, "Engine", FakeEngine)
    for name_, value in {"LONG": 97, "SLICES": 2, "RECONSTRUCTED_FRAMES": 2, "SIZES": ((64, 32), (32, 64)),
                         "WIDTH": 160, "HEIGHT": 96}.items():  # fmt: skip
        monkeypatch.setattr(measure, name_, value)
    return measure.evaluate("pocket", clips=2, seed=0, device="cpu")


def test_exam_of_a_grey_painter(result: dict) -> None:
    assert json.loads(json.dumps(result)) == result
    assert [row["psnr"] for row in result["reconstruction"]] == pytest.approx([100.0] * 2)
    assert result["motion"]["generated"] == 0.0 < result["motion"]["real"]
    assert result["drift"]["generated"]["colour"] == pytest.approx([0.0] * 2, abs=1e-6)
    assert result["adherence"].keys() == {"generated", "decoded", "real", "shuffled"}
    assert result["adherence"]["decoded"] == result["adherence"]["real"]
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(table(result))
    text = capture.get()
    assert "64x32" in text and "100.0 dB" in text and "shuffled captions" in text


def test_config_survives_json() -> None:
    again = EvaluatorConfig(**{k: tuple(v) for k, v in json.loads(json.dumps(asdict(CONFIG))).items()})
    assert again == CONFIG
