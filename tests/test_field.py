"""The beat of the world, and its field of subjects, against pictures that are drawn by other means."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sora_cli.world import Scene, sample_scene
from sora_cli.world.field import field
from sora_cli.world.render import render
from sora_cli.world.sprites import CELL, COLUMNS, INDEX, PATH
from sora_cli.world.vocabulary import ACTIONS, BEATS, PLACES

PERIODS = {  # seconds at normal speed
    "moving left": 4, "moving right": 4, "rising": 4, "falling": 4, "growing": 4, "shrinking": 4, "surfing": 4,
    "circling": 4, "floating": 4, "spinning": 2, "swinging": 2, "standing still": 2, "flipping": 2, "bouncing": 1,
    "dancing": 1, "shaking": 0.5,
}  # fmt: skip


def apart(scene: Scene, at: float, later: float) -> float:
    """The mean difference between two moments of a scene."""
    one, other = render([scene], torch.tensor([[at, at + later]]), 96, 160)[0]
    return float((one - other).abs().mean())


@pytest.mark.parametrize("action", ACTIONS)
def test_a_motion_repeats_after_its_period_and_no_sooner(action: str) -> None:
    """By its frames: over the sky, whose clouds are asked about one by one below."""
    scene, period = Scene("balloon", action, "sky"), PERIODS[action]
    assert set(PERIODS) == set(ACTIONS)
    for speed, octave in {"slow": 2.0, "normal": 1.0, "fast": 0.5}.items():
        told = replace(scene, speed=speed)
        times = torch.tensor([[0.3, 0.3 + octave * period, 0.3 + octave * period / 4]])
        known = field([told], times, 192, 320)[0, :, 0]
        assert (known[0] - known[1]).abs().max() < 2e-3
        if action not in ("growing", "shrinking"):  # a balloon looks the same from all sides, its place does not
            assert (known[0] - known[2]).abs().max() > 2e-3


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("camera", ["still", "pan left", "zoom in"])
def test_everything_repeats_after_a_bar(place: str, camera: str) -> None:
    scene = Scene("cat", "surfing", place, speed="slow", camera=camera, second="owl")
    assert apart(scene, 1.7, 8.0) < 1e-4 and apart(scene, 1.7, 56.0) < 1e-3
    assert apart(scene, 1.7, 3.0) > 5e-3


def test_nothing_but_a_tint_is_left_to_chance() -> None:
    rng = random.Random(3)
    for _ in range(20):
        scene = sample_scene(rng)
        one, other = render([scene, replace(scene, seed=scene.seed + 1)], torch.full((2, 1), 1.3), 96, 160)[:, 0]
        assert (one - other).abs().max() < 0.13, scene
        fields = field([scene, replace(scene, seed=scene.seed + 1)], torch.full((2, 1), 1.3), 96, 160)
        assert torch.equal(fields[0], fields[1])


def test_sides_heights_and_beats_can_be_seen() -> None:
    def centre(**told: str) -> tuple[float, float]:
        cover = field([Scene("balloon", "floating", "sky", **told)], torch.zeros(1, 1), 192, 320)[0, 0, 0, 0]
        rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(20.0), indexing="ij")
        return float((cover * columns).sum() / cover.sum()), float((cover * rows).sum() / cover.sum())

    left, middle, right = (centre(side=side)[0] for side in ("left side", "middle", "right side"))
    assert middle - left > 2 and right - middle > 2
    assert centre(height="low")[1] - centre(height="high")[1] > 1
    assert centre(beat="beat three")[1] - centre(beat="beat one")[1] > 1


def test_a_beat_is_a_second_of_the_bar_at_which_the_scene_begins() -> None:
    scene = Scene("cat", "dancing", "ocean", camera="pan left", second="owl")
    for beat in BEATS:
        told = replace(scene, beat=beat)
        one, other = render([told, scene], torch.tensor([[0.4], [0.4 + told.begins]]), 96, 160)
        assert torch.allclose(one, other, atol=1e-4), beat
    assert len({replace(scene, beat=beat).begins % 1 for beat in BEATS}) == 4  # other phases of any motion of a second


def pasted(name: str, angle: float, wide: int, mirrored: bool) -> np.ndarray:
    """A sprite's alpha as PIL turns and scales it, [h, w]."""
    row, column = divmod(INDEX[name], COLUMNS)
    with Image.open(PATH) as sheet:
        cell = sheet.convert("RGBA").getchannel("A").crop(
            (column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))  # fmt: skip
    if mirrored:
        cell = cell.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = cell.resize((wide, wide), Image.Resampling.BOX).rotate(-angle, Image.Resampling.BILINEAR, expand=True)
    return np.asarray(turned) / 255


@pytest.mark.parametrize(("name", "action", "beat", "angle", "mirrored"), [
    ("cat", "standing still", "beat one", 0.0, False),
    ("cat", "moving right", "beat three", 0.0, True),
    ("tractor", "spinning", "beat two", 90.0, False),
    ("elephant", "spinning", "beat three", 225.0, False),
])
def test_cover_and_places_are_those_of_the_sprite(name: str, action: str, beat: str, angle: float,
                                                  mirrored: bool) -> None:  # fmt: skip
    """A sprite drawn by PIL, cell by cell: its cover, and where in it every covered cell lies."""
    scene = Scene(name, action, "space", beat=beat)
    cover, u, v = field([scene], torch.zeros(1, 1), 384, 640)[0, 0, 0]
    drawn = pasted(name, angle, round(0.55 * 384), mirrored)
    rows, columns = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    middle = float((cover * columns).sum() / cover.sum()) * 16, float((cover * rows).sum() / cover.sum()) * 16
    weight = drawn / drawn.sum()
    own = [(weight.sum(axis) * (np.arange(size) + 0.5)).sum() for axis, size in enumerate(drawn.shape[::-1])]
    canvas = np.zeros((384 + 800, 640 + 800))
    left, top = (round(m - o) + 400 for m, o in zip(middle, own, strict=True))
    canvas[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    expected = canvas[400:-400, 400:-400].reshape(24, 16, 40, 16).mean((1, 3))
    assert np.abs(cover.numpy() - expected).mean() < 0.01 and abs(float(cover.sum()) - expected.sum()) < 2
    # Straight lines through the sprite: u and v turn with it.
    whole = cover > 0.98
    turn = np.deg2rad(angle)
    x = (columns * 16 - (left - 400 + drawn.shape[1] / 2)) / (0.55 * 384) * (-1 if mirrored else 1)
    y = (rows * 16 - (top - 400 + drawn.shape[0] / 2)) / (0.55 * 384)
    assert whole.sum() > 20
    assert torch.allclose(u[whole], (x * np.cos(turn) + y * np.sin(turn))[whole].float(), atol=0.02)
    assert torch.allclose(v[whole], (y * np.cos(turn) - x * np.sin(turn))[whole].float(), atol=0.02)


def test_a_surfer_has_its_board() -> None:
    surfer, other = (field([Scene("snowman", action, "ocean", beat="beat two")], torch.zeros(1, 1), 192, 320)[0, 0, 0]
                     for action in ("surfing", "standing still"))  # fmt: skip
    assert surfer[0].sum() > 1.2 * other[0].sum()
    assert surfer[1:].abs().max() > 0.52 > other[1:].abs().max()


def test_two_subjects_have_two_fields_and_one_has_one() -> None:
    pair = Scene("dog", "dancing", "stage", second="owl")
    both, alone = field([pair, replace(pair, second=None)], torch.zeros(2, 1), 192, 320)[:, 0]
    assert both[0, 0].any() and both[1, 0].any() and not alone[1].any()
    assert float((both[0, 0] * both[1, 0]).sum()) < 1  # side by side
