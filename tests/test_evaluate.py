"""The measures against closed forms, the definition and real renders; the judge's shapes; the whole exam on a fake."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from sora_cli import registry
from sora_cli.evaluate import clips, measure, table
from sora_cli.files import weights
from sora_cli.models.sora.conv import shift
from sora_cli.models.sora.evaluator import (
    FRAMES,
    HEIGHT,
    SPAN,
    WIDTH,
    Evaluator,
    EvaluatorConfig,
    Labels,
    Named,
    classify,
    filled,
    from_weights,
    looked_at,
    moments,
    name,
    shrink,
)
from sora_cli.shot import Shot
from sora_cli.train.recipes.evaluator import accuracy, damage, labels
from sora_cli.train.trainer.stage import save_half
from sora_cli.world import metrics
from sora_cli.world.captions import dense
from sora_cli.world.motion import MOTIONS, Stage
from sora_cli.world.scene import HELD_OUT, Scene
from sora_cli.world.vocabulary import ACTIONS, BEAT_OF, PLACES, SPEED_OF, SUBJECTS

CONFIG = EvaluatorConfig(tuple(SUBJECTS), tuple(ACTIONS), tuple(PLACES), (8, 8, 16, 16), (8, 8, 16, 16))
CAT = Scene("cat", "spinning", "meadow", beat="beat two")


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


def test_an_estimate_has_the_standard_error_of_a_mean() -> None:
    shares = metrics.estimate([True] * 64 + [False] * 36)
    assert shares == {"mean": 0.64, "error": pytest.approx(math.sqrt(0.64 * 0.36 / 99))}
    assert metrics.estimate([3.0]) == {"mean": 3.0, "error": 0.0}


# -- Like the scene itself --------------------------------------------------------------------------------


def test_psnr_in_cells_counts_their_pixels_alone() -> None:
    x = torch.zeros(1, 3, 3, 32, 48)
    y = x.clone()
    y[:, :, :, :16, 16:32] = 0.1                                                 # 20 dB in cell (0, 1)
    y[:, 1, :, 16:, :16] = 0.01                                                  # 40 dB in cell (1, 0) of frame 1
    y[:, :, :, 16:, 32:] = 0.9                                                   # nobody asks about cell (1, 2)
    cells = torch.zeros(1, 3, 2, 3, dtype=torch.bool)
    cells[:, 0, 0, 1] = cells[:, 1, 1, 0] = True                                 # and in frame 2 about none
    assert metrics.psnr_in(x, y, cells) == pytest.approx((20 + 40) / 2, abs=1e-3)
    cells[:, 1, 0, 1] = True
    both = -10 * math.log10((0.01 + 0.0001) / 2)
    assert metrics.psnr_in(x, y, cells) == pytest.approx((20 + both) / 2, abs=1e-3)


def test_the_gradient_of_a_ramp_is_its_slope() -> None:
    row, column = torch.arange(32).float() / 100, torch.arange(48).float() / 100
    ramp = (3 * row[:, None] + 4 * column[None]).expand(1, 1, 3, 32, 48)
    cells = torch.tensor([[True, False, False], [False, True, False]]).view(1, 1, 2, 3)
    assert float(metrics.gradient(ramp, cells)) == pytest.approx(0.05, rel=1e-4)     # of 3 and 4
    assert metrics.sharpness(ramp / 2, ramp, cells) == pytest.approx(0.5, rel=1e-4)


def test_the_cells_of_a_subject_are_where_the_picture_differs_without_it() -> None:
    times = clips.seconds(2)
    cells = clips.covered(CAT, times)
    seen = clips.rendered(CAT, times) - clips.rendered(clips.another(CAT), times)
    differs = F.max_pool2d(seen.abs().amax(1), 16) > 0.1
    assert cells.shape == differs.shape == (2, clips.HEIGHT // 16, clips.WIDTH // 16)
    assert 0.05 < float(cells.float().mean()) < 0.5
    assert float((differs & cells).sum() / cells.sum()) > 0.9


def test_a_scene_is_like_itself_and_a_blurred_one_is_not_sharp() -> None:
    clip = clips.rendered(CAT, clips.seconds(5))
    assert measure.alike(clip, CAT) == {"subject": 100.0, "whole": pytest.approx(100.0), "sharpness": 1.0}
    blurred = F.interpolate(F.avg_pool2d(clip, 4), scale_factor=4.0, mode="bilinear")
    found = measure.alike(blurred, CAT)
    assert found["sharpness"] < 0.85
    assert found["subject"] < found["whole"] < 40                                # the subject is what has details
    coarse = F.interpolate(F.avg_pool2d(clip, 16), scale_factor=16.0)            # a mosaic
    assert measure.alike(coarse, CAT)["subject"] < found["subject"]


def test_the_floor_is_another_subject_at_the_same_place() -> None:
    other = clips.another(CAT)
    assert (other.action, other.place, other.beat) == (CAT.action, CAT.place, CAT.beat) and other.subject != "cat"
    clip = clips.rendered(CAT, clips.seconds(5))
    assert measure.alike(clip, other)["subject"] < 20 < measure.alike(clip, CAT)["subject"]


def test_what_is_painted_larger_is_compared_with_a_larger_scene() -> None:
    large = clips.rendered(CAT, clips.seconds(2), 2 * clips.HEIGHT, 2 * clips.WIDTH)
    assert measure.alike(large, CAT)["subject"] == 100.0
    enlarged = F.interpolate(clips.rendered(CAT, clips.seconds(2)), scale_factor=2.0, mode="bilinear")
    found = measure.alike(enlarged, CAT)
    assert 20 < found["subject"] < 100 and found["sharpness"] < 1


# -- The judge --------------------------------------------------------------------------------------------


def test_judge_gives_a_score_to_every_name_in_every_cell(network: Evaluator) -> None:
    scores = network(noise(2, FRAMES, 3, HEIGHT, WIDTH))
    stills = len(range(0, FRAMES, 3))
    assert scores.subject.shape == (2, stills, 9, 15, len(SUBJECTS) + 1)
    assert scores.action.shape == (2, FRAMES, 9, 15, len(ACTIONS) + 1)
    assert scores.place.shape == (2, len(PLACES))


def test_the_judge_looks_often_enough_to_tell_all_motions_apart() -> None:
    """Whichever the speed and the beat, each motion looks unlike all others at the moments that are looked at."""
    def path(action: str, speed: str, beat: str) -> np.ndarray:
        stage = Stage(moments().numpy() * SPEED_OF[speed], 5 / 3, 1.0, 0.5, 0.0, 0.0, BEAT_OF[beat], 0.5)
        made = MOTIONS[action](stage)
        return np.stack([made.x - made.x[0], made.y - made.y[0], made.scale, np.sin(made.angle), np.cos(made.angle)])

    paths = {(action, speed, beat): path(action, speed, beat)
             for action in ACTIONS if action != "surfing" for speed in SPEED_OF for beat in BEAT_OF}  # a board is seen
    nearest = min(float(np.abs(paths[one] - paths[other]).max())
                  for one in paths for other in paths if one[0] < other[0])  # fmt: skip
    assert nearest > 0.02


def test_shift_moves_channels_through_time_and_never_between_clips() -> None:
    n = FRAMES
    x = torch.arange(2.0 * n).view(2 * n, 1, 1, 1).expand(2 * n, 4, 1, 1)        # two clips
    moved = shift(x, n)[..., 0, 0]
    assert moved[:, 0].tolist() == [0, *range(n - 1), 0, *range(n, 2 * n - 1)]
    assert moved[:, 1].tolist() == [*range(1, n), 0, *range(n + 1, 2 * n), 0]
    assert moved[:, 2:].tolist() == x[:, 2:, 0, 0].tolist()


def test_judge_sees_the_direction_of_time(network: Evaluator) -> None:
    video = noise(1, FRAMES, 3, HEIGHT, WIDTH)
    assert not torch.allclose(network(video).action, network(video.flip(1)).action)


def test_name_looks_at_the_seconds_that_was_asked_for(network: Evaluator) -> None:
    video = noise(73, 3, HEIGHT, WIDTH)
    index = list(range(24, 70, 5))                                               # from 1 s on, at 24 fps
    torch.testing.assert_close(looked_at(video, 24.0, 1.0), video[None, index])
    assert len(index) == FRAMES and pytest.approx(45 / 24) == SPAN and clips.SHORT > 45
    assert name(network, video, 24.0, start=1.0) == classify(network, video[None, index])
    with pytest.raises(AssertionError, match="end before"):
        name(network, video, 24.0, start=1.2)


def scores_of(subjects: list[str], action: str, place: str) -> Labels:
    """What a judge would say that sees each subject in as many cells as it has others after it."""
    subject, act = torch.zeros(1, 4, 9, 15, len(SUBJECTS) + 1), torch.zeros(1, FRAMES, 9, 15, len(ACTIONS) + 1)
    subject[..., -1] = act[..., -1] = 10
    for number, each in enumerate(reversed(subjects)):
        subject[0, :, : number + 1, number, CONFIG.subjects.index(each)] = 30
        act[0, :, : number + 1, number, CONFIG.actions.index(action)] = 30
    return Labels(subject, act, F.one_hot(torch.tensor([CONFIG.places.index(place)]), len(PLACES)).float())


def test_those_are_named_of_whom_there_is_most(network: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_of(["dog", "cat", "cow"], "falling", "moon")
    assert filled(scores.subject).topk(3).values[0].tolist() == pytest.approx([12, 8, 4], abs=0.3)
    monkeypatch.setattr(Evaluator, "forward", lambda self, video: scores)
    video = noise(1, FRAMES, 3, HEIGHT, WIDTH)
    assert classify(network, video) == Named(frozenset({"dog"}), "falling", "moon")
    assert classify(network, video, 2).subjects == {"dog", "cat"}


def test_a_pair_is_right_when_both_are() -> None:
    alone, pair = Scene("dog", "falling", "moon"), Scene("cat", "falling", "moon", second="dog")
    marks = accuracy(scores_of(["dog", "cat"], "falling", "moon"), [alone], CONFIG)
    assert marks == {"subject": 1.0, "pairs": 1.0, "action": 1.0, "place": 1.0}
    assert accuracy(scores_of(["dog", "cat"], "falling", "moon"), [pair], CONFIG)["pairs"] == 1
    assert accuracy(scores_of(["dog", "cow"], "falling", "moon"), [pair], CONFIG)["pairs"] == 0


def test_judge_survives_its_file(network: Evaluator, tmp_path: Path) -> None:
    again = from_weights(*weights.load(exported(network, tmp_path)))
    video = noise(1, FRAMES, 3, HEIGHT, WIDTH)
    for ours, theirs in zip(again(video), network(video), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)           # half precision


def exported(network: Evaluator, folder: Path) -> Path:
    metadata = {"config": asdict(network.config), "training": {}}
    return save_half(folder / "evaluator.safetensors", network.state_dict(), metadata)


def test_damage_keeps_range_shape_and_content() -> None:
    video = shrink(noise(20, 3, 24, 40)).view(4, 5, 3, HEIGHT, WIDTH)
    damaged = damage(video, torch.Generator().manual_seed(0))
    assert damaged.shape == video.shape
    assert 0 <= float(damaged.min()) <= float(damaged.max()) <= 1
    assert 10 < metrics.psnr(damaged, video) < 40


def test_labels_are_where_the_subjects_are() -> None:
    scenes = [Scene("cat", "standing still", "meadow", second="dog"), Scene("fox", "rising", "sky")]
    right = labels(scenes, torch.stack([moments(), moments(3.0)]), CONFIG, torch.device("cpu"))
    cat, dog, fox = (CONFIG.subjects.index(each) for each in ("cat", "dog", "fox"))
    nobody = len(SUBJECTS)
    assert right.subject.shape == (2, 4, 9, 15) and right.action.shape == (2, FRAMES, 9, 15)
    assert set(right.subject[0].unique().tolist()) == {cat, dog, nobody}
    assert set(right.subject[1].unique().tolist()) == {fox, nobody}
    where = [(right.subject[0, 0] == each).nonzero().float().mean(0)[1] for each in (cat, dog)]
    assert where[0] < 7 < where[1]                                               # the first stands on the left
    assert torch.equal(right.subject != nobody, right.action[:, ::3] != len(ACTIONS))
    assert set(right.action[1].unique().tolist()) == {CONFIG.actions.index("rising"), len(ACTIONS)}
    assert [CONFIG.places[i] for i in right.place] == ["meadow", "sky"]


# -- The exam ---------------------------------------------------------------------------------------------


def named(subjects: str, action: str, place: str) -> Named:
    return Named(frozenset(subjects.split()), action, place)


def test_adherence_counts() -> None:
    scenes = [Scene("cat", "surfing", "ocean"), Scene("dog", "spinning", "snow", second="cow")]
    found = measure.adherence([named("cat", "surfing", "ocean"), named("cow dog", "falling", "snow")], scenes)
    assert {kind: share["mean"] for kind, share in found.items()} == {
        "subject": 1.0, "action": 0.5, "place": 1.0, "all": 0.5
    }  # fmt: skip
    assert measure.adherence([named("cow cat", "falling", "snow")] * 2, scenes)["subject"]["mean"] == 0


def test_scenes_of_the_exam_are_held_out_and_repeatable() -> None:
    scenes = clips.held_out(40, 7)
    assert all((scene.subject, scene.action, scene.place) in HELD_OUT for scene in scenes)
    assert scenes == clips.held_out(40, 7) != clips.held_out(40, 8)
    assert {(scene.size, scene.speed, scene.camera, scene.second) for scene in scenes} == {
        ("large", "normal", "still", None)
    }
    assert [len({getattr(scene, name) for scene in scenes}) for name in ("side", "height", "beat")] == [3, 2, 4]


def test_pairs_are_two_subjects_and_repeatable() -> None:
    pairs = clips.pairs(12, 3)
    assert pairs == clips.pairs(12, 3) != clips.pairs(12, 4)
    assert all(scene.second and scene.second != scene.subject for scene in pairs)
    assert all(scene.triples[0] in HELD_OUT for scene in pairs)


def test_clips_are_asked_for_by_the_whole_caption() -> None:
    scene = clips.held_out(1, 0)[0]
    shot = clips.shot_of(scene, 49, 5, registry.entry("pocket"))
    assert shot.captions == (dense(scene),) and shot.seed == 5
    assert (shot.width, shot.height) == (clips.CANVAS.width, clips.CANVAS.height)     # nothing is cropped


def test_what_the_judge_misses_it_may_not_judge() -> None:
    sure = {kind: {"mean": 0.96, "error": 0.01} for kind in (*measure.KINDS, "pairs")}
    assert measure.trusted(sure) == {"subject", "action", "place", "pairs", "all"}
    assert measure.trusted(sure | {"action": {"mean": 0.94, "error": 0.01}}) == {"subject", "place", "pairs"}
    assert measure.trusted(sure | {"pairs": {"mean": 0.62, "error": 0.05}}) == {"subject", "action", "place", "all"}


class FakeEngine:
    """Paints every frame in one grey; stands in for the engine."""

    def __init__(self, entry: registry.Entry, device: str) -> None:
        self.entry = entry
        self.shot: Shot | None = None

    def start(self, shot: Shot) -> "FakeEngine":
        self.shot = shot
        return self

    def denoise(self) -> Iterator[None]:
        yield

    def frames(self) -> Iterator[np.ndarray]:
        assert self.shot is not None
        for _ in range(self.shot.frames):
            yield np.full((self.shot.height, self.shot.width, 3), 128, np.uint8)


class Copier:
    """A VAE that loses nothing."""

    def encode(self, video: Tensor) -> Tensor:
        return video

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> dict:
    torch.manual_seed(0)
    judge = weights.load(exported(Evaluator(CONFIG).eval(), tmp_path_factory.mktemp("judge")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure.registry, "load_model_files", lambda model, part: judge)
        patch.setattr(measure.autoencoder, "from_weights", lambda tensors, metadata: Copier())
        patch.setattr(measure, "Engine", FakeEngine)
        for name_, value in {"SLICES": 2, "SIZES": ((64, 32), (32, 64))}.items():
            patch.setattr(measure, name_, value)
        return measure.evaluate(registry.entry("pocket"), clips=2, seed=0, device="cpu")


@pytest.fixture
def result(exam: dict) -> dict:
    return copy.deepcopy(exam)


def printed(result: dict) -> str:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(table(result))
    return capture.get()


def test_exam_of_a_grey_painter(result: dict) -> None:
    assert json.loads(json.dumps(result)) == result
    assert [row["psnr"] for row in result["reconstruction"]] == pytest.approx([100.0] * 2)
    assert [row["subject"] for row in result["reconstruction"]] == pytest.approx([100.0] * 2)
    assert result["motion"]["generated"] == 0.0 < result["motion"]["real"]
    assert result["drift"]["generated"]["colour"] == pytest.approx([0.0] * 2, abs=1e-6)
    assert result["adherence"].keys() == {"generated", "decoded", "real", "shuffled"}
    assert result["adherence"]["decoded"] == result["adherence"]["real"]
    alike = result["alike"]
    assert alike["decoded"]["subject"]["mean"] == 100.0 and alike["decoded"]["sharpness"]["mean"] == 1.0
    assert alike["generated"]["subject"]["mean"] < 20 and alike["generated"]["sharpness"]["mean"] == 0.0
    assert result["drift"]["real"]["like"] == [100.0] * 2 and max(result["drift"]["generated"]["like"]) < 20
    text = printed(result)
    assert "64x32" in text and "100.0 dB" in text and "against another subject" in text


def test_a_judge_that_is_wrong_is_not_believed(result: dict) -> None:
    for kind in result["judge"]:
        result["judge"][kind] = {"mean": 0.5 if kind == "action" else 1.0, "error": 0.0}
    result["adherence"]["generated"] = {kind: {"mean": 0.42, "error": 0.0} for kind in (*measure.KINDS, "all")}
    text = printed(result)
    assert "under 95% for action" in text
    row = next(line for line in text.splitlines() if line.strip("│ ").startswith("generated "))
    assert row.count("42%") == 2 and row.count("?") == 2                          # subject and place; action and all
    assert "subject, generated" in text and "action, generated" not in text
    for kind in result["judge"]:
        result["judge"][kind] = {"mean": 1.0, "error": 0.0}
    assert "under 95%" not in printed(result) and "action, generated" in printed(result)


def test_config_survives_json() -> None:
    again = EvaluatorConfig(**{k: tuple(v) for k, v in json.loads(json.dumps(asdict(CONFIG))).items()})
    assert again == CONFIG
