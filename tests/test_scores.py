"""Seams and drift against closed forms, and against clips of the world that are cut where we say."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from einops import rearrange

from sora_cli.media.seams import FLOOR, Changes, Drift, shrink
from sora_cli.world import Scene
from sora_cli.world.render import render

SCENES = [
    Scene("cat", "surfing", "ocean"),
    Scene("dog", "circling", "space"),
    Scene("rocket", "rising", "space"),
    Scene("penguin", "dancing", "snow"),
    Scene("whale", "moving left", "underwater"),
]


def clip(scene: Scene, times: np.ndarray) -> np.ndarray:
    """The scene at these seconds, uint8 [T, 72, 120, 3]."""
    video = render([scene], torch.from_numpy(times)[None], 72, 120)[0]
    return rearrange(video * 255, "t c h w -> t h w c").round().byte().numpy()


def greys(values: list[float]) -> np.ndarray:
    """Frames of one grey each, float [T, 4, 6, 3]."""
    return np.array(values, np.float32)[:, None, None, None] * np.ones((4, 6, 3), np.float32)


def torus(frames: int, period: int = 64) -> Iterator[np.ndarray]:
    """A wave that moves on by a pixel a frame and comes around after `period` frames."""
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * np.arange(period) / period)
    return (np.roll(wave, number)[None, :, None] * np.ones((8, 1, 3)) for number in range(frames))


# ---- joins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.action)
def test_a_true_continuation_is_seamless_and_a_cut_is_not(scene: Scene) -> None:
    times, join = 0.5 + np.arange(30) / 24, 15
    elsewhere = times + 1.6 * (np.arange(30) >= join)
    assert 0.7 < Changes(clip(scene, times)).boundary(join) < 1.3
    assert Changes(clip(scene, elsewhere)).boundary(join) > 3


def test_the_boundary_is_a_ratio_of_steps() -> None:
    steady = [0.01 * i for i in range(20)]
    jump = [value + 0.05 * (i >= 12) for i, value in enumerate(steady)]
    assert Changes(greys(steady)).boundary(12) == pytest.approx(1, rel=1e-3)
    assert Changes(greys(jump)).boundary(12) == pytest.approx(0.06 / 0.01, rel=1e-3)
    assert Changes(greys(jump)).boundary(11) == pytest.approx(1, rel=1e-3)  # a cut nearby does not matter
    assert Changes(greys([0.3] * 20)).boundary(12) == 1
    assert Changes(greys([0.3] * 12 + [0.5] * 8)).boundary(12) == pytest.approx(0.2 / FLOOR, rel=1e-3)


def test_a_join_at_either_end() -> None:
    assert Changes(greys([0.1, 0.2, 0.3, 0.4])).boundary(1) == pytest.approx(1)
    assert Changes(greys([0.1, 0.2, 0.3, 0.4])).boundary(3) == pytest.approx(1)
    assert Changes(greys([0.1, 0.1])).boundary(1) == 1


def test_bytes_and_floats_score_alike() -> None:
    frames = clip(SCENES[0], np.arange(8) / 24)
    assert Changes(frames).boundary(4) == pytest.approx(Changes(frames / 255).boundary(4), rel=1e-4)


# ---- loops ------------------------------------------------------------------------------------------------


def test_a_torus_is_a_perfect_loop_and_a_part_of_it_is_not() -> None:
    whole, part = Changes(torus(64)).seam(), Changes(torus(24)).seam()
    assert whole.position == pytest.approx(1, rel=1e-3) and whole.velocity == pytest.approx(1, rel=0.25)
    shifted = np.sin(np.pi * 23 / 64) / np.sin(np.pi * 1 / 64)  # two waves apart by 23 pixels, and by one
    assert part.position == pytest.approx(shifted, rel=0.01) and max(part) > 3


@pytest.mark.parametrize(("action", "period"), [("circling", 4.0), ("spinning", 2.0)])
def test_a_whole_turn_of_the_world_loops(action: str, period: float) -> None:
    turn = clip(Scene("dog", action, "desert"), np.arange(48) * period / 48)
    whole, cut = Changes(turn).seam(), Changes(turn[:32]).seam()
    assert max(whole) < 1.6
    assert max(cut) > 3 and cut.position > 2 * whole.position and cut.velocity > 2 * whole.velocity


def test_turning_around_is_seen_in_the_velocity_alone() -> None:
    there = [0.02 * i for i in range(20)]
    seam = Changes(greys(there + there[-2:0:-1])).seam()
    assert seam.position == pytest.approx(1, rel=1e-3)
    assert seam.velocity == max(seam) == pytest.approx(0.04 / FLOOR, rel=1e-3)


def test_what_turns_around_moves_worse_than_what_goes_on() -> None:
    turn = clip(Scene("dog", "circling", "desert"), np.arange(96) / 24)
    back = np.concatenate([turn[:49], turn[47:0:-1]])
    assert Changes(back).seam().velocity > 1.5 * Changes(turn).seam().velocity


def test_loops_in_closed_form() -> None:
    assert max(Changes(greys([0.4] * 5)).seam()) == 1
    saw = Changes(greys([0.02 * i for i in range(10)])).seam()
    assert saw.position == pytest.approx(9, rel=1e-3)
    assert saw.velocity == pytest.approx(0.2 / FLOOR, rel=1e-3)
    wave = Changes(greys(list(0.5 + 0.4 * np.sin(2 * np.pi * (np.arange(40) + 0.5) / 40)))).seam()
    assert wave.position == pytest.approx(np.sqrt(2), rel=0.02)  # the steepest place of a sine


# ---- drift ------------------------------------------------------------------------------------------------


def test_looks_in_closed_form() -> None:
    red = np.zeros((8, 10, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    (row,) = Drift(24, [red]).curve()
    assert row["colourfulness"] == pytest.approx(0.3 * np.hypot(1, 0.5), rel=1e-4)
    assert row["sharpness"] == 0 and row["contrast"] == pytest.approx(0, abs=1e-6)
    ramp = np.linspace(0, 1, 11)[None, :, None] * np.ones((6, 11, 3))
    (row,) = Drift(24, [ramp]).curve()
    assert row["sharpness"] == pytest.approx(0.1, rel=1e-4)
    assert row["contrast"] == pytest.approx(np.linspace(0, 1, 11).std(), rel=1e-4)
    assert row["colourfulness"] == pytest.approx(0, abs=1e-5)


def test_the_distance_of_colours() -> None:
    red, blue = np.eye(3)[0] * np.ones((4, 6, 3)), np.eye(3)[2] * np.ones((4, 6, 3))
    rows = Drift(2, [red, red, red, blue, blue, blue]).curve()
    assert [row["histogram"] for row in rows] == [0, 0.5, 1]


def test_a_row_a_second_and_what_is_left() -> None:
    rows = Drift(24, greys([0.1] * 60)).curve()
    assert [(row["seconds"], row["frames"]) for row in rows] == [(0, 24), (1, 24), (2, 12)]
    rows = Drift(29.97, greys([0.1] * 90)).curve()
    assert [row["frames"] for row in rows] == [30, 30, 30]
    assert Drift(24).curve() == []


def test_a_clip_that_fades_and_blurs_drifts() -> None:
    frames = clip(SCENES[0], np.arange(9) / 3).astype(np.float32) / 255
    kept, lost = Drift(3, frames).curve(), Drift(3)
    for number, frame in enumerate(frames):
        soft = rearrange([np.roll(frame, by, 1) for by in range(number + 1)], "n h w c -> n h w c").mean(0)
        lost.add(0.5 + (soft - 0.5) * 0.9**number)
    last, faded = kept[-1], lost.curve()[-1]
    for what in ("colourfulness", "sharpness", "contrast"):
        assert faded[what] < 0.75 * last[what]
    assert faded["histogram"] > 2 * last["histogram"]


def test_shrinking_is_the_mean_of_squares() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (90, 480, 3)).astype(np.uint8)
    small = shrink(frame)
    assert small.shape == (30, 160, 3) and small.dtype == np.float32
    assert small[3, 5] == pytest.approx(frame[9:12, 15:18].mean((0, 1)) / 255, rel=1e-5)
    assert shrink(frame[:, :500:4]).shape == (90, 120, 3)
    assert shrink(frame[:1]).shape == (1, 480, 3)
