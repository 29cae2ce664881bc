"""The world: what is said, what is drawn, and what is kept out of training."""

import random
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
import torch
from einops import reduce
from PIL import Image

from sora_cli.errors import SoraError
from sora_cli.world import HELD_OUT, Scene, compositing, dense, parse, sample_scene, sparse, tokens, words
from sora_cli.world.render import render
from sora_cli.world.sheet import sheet
from sora_cli.world.textures import generic
from sora_cli.world.vocabulary import ACTIONS, BEATS, CAMERAS, HEIGHTS, PLACES, SIDES, SIZES, SPEEDS, SUBJECTS

FIELDS = ("action", "place", "size", "speed", "camera", "side", "height", "beat")


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[Scene]]:
    rng = random.Random(0)
    return {split: [sample_scene(rng, split) for _ in range(3000)] for split in ("train", "held-out")}


def test_the_vocabulary_is_as_large_as_promised() -> None:
    assert len(SUBJECTS) >= 64 and len(ACTIONS) >= 16 and len(PLACES) >= 14
    assert all(subject.home in PLACES for subject in SUBJECTS.values())


def test_held_out_combinations_are_never_in_train(scenes: dict[str, list[Scene]]) -> None:
    assert not any(triple in HELD_OUT for scene in scenes["train"] for triple in scene.triples)
    assert all((scene.subject, scene.action, scene.place) in HELD_OUT for scene in scenes["held-out"])
    assert 0.08 < len(HELD_OUT) / (len(SUBJECTS) * len(ACTIONS) * len(PLACES)) < 0.12
    assert ("cat", "surfing", "ocean") not in HELD_OUT


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_the_whole_vocabulary_occurs_in_both_splits(scenes: dict[str, list[Scene]], split: str) -> None:
    for field, names in {"subject": SUBJECTS, "action": ACTIONS, "place": PLACES, "size": SIZES,
                         "speed": SPEEDS, "camera": CAMERAS, "side": SIDES, "height": HEIGHTS,
                         "beat": BEATS}.items():
        assert {getattr(scene, field) for scene in scenes[split]} == set(names), field


def test_a_scene_refuses_what_the_world_does_not_have() -> None:
    with pytest.raises(SoraError, match=r"unknown subject 'walrus'.*cat"):
        Scene("walrus", "surfing", "ocean")
    with pytest.raises(SoraError, match=r"unknown side 'left'.*right side"):
        Scene("cat", "surfing", "ocean", side="left")


def test_parse_recovers_every_field_of_a_dense_caption(scenes: dict[str, list[Scene]]) -> None:
    known = set(words())
    for scene in scenes["train"][:1000] + scenes["held-out"][:1000]:
        caption, said = dense(scene), parse(dense(scene))
        assert (said.subjects, said.unknown, said.read_as) == (scene.subjects, [], {}), caption
        assert all(getattr(said, name) == getattr(scene, name) for name in FIELDS), caption
        assert len(tokens(caption)) <= 20 and known.issuperset(tokens(caption)), caption


@pytest.mark.parametrize("pair", [("unicorn", "horse"), ("panda", "bear"), ("koala", "bear"), ("cat", "unicorn")])
def test_two_subjects_are_two_where_their_names_together_are_one(pair: tuple[str, str]) -> None:
    assert parse(dense(Scene(pair[0], "spinning", "space", second=pair[1]))).subjects == pair
    assert parse(f"a {' '.join(pair)} in space").subjects[0] == pair[0]


@pytest.mark.parametrize("where", product(SIDES, HEIGHTS, BEATS))
def test_every_place_and_beat_is_read_with_every_action(where: tuple[str, str, str]) -> None:
    for action, camera in product(ACTIONS, CAMERAS):
        scene = Scene("cat", action, "city at night", "small", "slow", camera, *where, second="owl")
        said = parse(dense(scene))
        assert (said.action, said.camera, said.side, said.height, said.beat) == (action, camera, *where)


def test_parse_recovers_what_a_sparse_caption_says(scenes: dict[str, list[Scene]]) -> None:
    rng, known = random.Random(1), set(words())
    for scene in scenes["train"]:
        caption = sparse(scene, rng)
        said = parse(caption)
        assert said.subjects[0] == scene.subject and said.unknown == [] and not said.read_as, caption
        assert all(getattr(said, name) in (None, getattr(scene, name)) for name in FIELDS), caption
        assert known.issuperset(tokens(caption)), caption


def test_people_say_now_and_then_where_something_is(scenes: dict[str, list[Scene]]) -> None:
    rng = random.Random(2)
    said = [parse(sparse(scene, rng)) for scene in scenes["train"]]
    for name, share in {"side": 0.3, "height": 0.2, "beat": 0.1}.items():
        assert abs(sum(getattr(one, name) is not None for one in said) / len(said) - share) < 0.04, name


@pytest.mark.parametrize(("prompt", "subjects", "action", "place"), [
    ("A cat surfing", ("cat",), "surfing", None),
    ("a kitty riding a wave", ("cat",), "surfing", None),
    ("Puppies jump in the park", ("dog",), "bouncing", "meadow"),
    ("a rocket going up in space", ("rocket",), "rising", "space"),
    ("a penguin walks to the left through the snow", ("penguin",), "moving left", "snow"),
    ("the car drives across town at night", ("car",), "moving right", "city at night"),
    ("a ball and an elephant spinning, on the moon", ("football", "elephant"), "spinning", "moon"),
    ("A cat surfing a big wave at sunset", ("cat",), "surfing", "sunset beach"),
    ("a butterfly flying from right to left", ("butterfly",), "moving left", None),
    ("three mice under the northern lights", ("mouse",), None, "aurora"),
    ("deer and geese in the polar night", ("deer", "swan"), None, "aurora"),
    ("a stag, aurora borealis", ("deer",), None, "aurora"),
    ("a koala bear dances on the stage", ("koala",), "dancing", "stage"),
    ("a robot in the spotlight", ("robot",), None, "stage"),
    ("alien at a concert", ("alien",), None, "stage"),
    ("a moped and a lorry", ("motorcycle", "truck"), None, None),
    ("a lamb does a backflip", ("sheep",), "flipping", None),
    ("porpoises somersault in the sea", ("dolphin",), "flipping", "ocean"),
    ("the kangaroo flips", ("kangaroo",), "flipping", None),
    ("a swan floats on the water", ("swan",), "floating", "ocean"),
    ("a chipmunk bobs up and down", ("squirrel",), "floating", None),
    ("a balloon floating to the left", ("balloon",), "moving left", None),
    ("a ghost floats up", ("ghost",), "rising", None),
    ("an alien ship over the dunes", ("ufo",), None, "desert"),
])
def test_parse_understands_people(prompt: str, subjects: tuple, action: str, place: str | None) -> None:
    said = parse(prompt)
    assert (said.subjects, said.action, said.place, said.unknown) == (subjects, action, place, [])


@pytest.mark.parametrize(("prompt", "side", "height"), [
    ("a cat on the left", "left side", None),
    ("a cat at the right side", "right side", None),
    ("a cat in the right-hand corner", "right side", None),
    ("a cat to the left of the frame", "left side", None),
    ("left half: a cat", "left side", None),
    ("a cat in the centre", "middle", None),
    ("a cat in the middle of the ocean", "middle", None),
    ("a cat centered", "middle", None),
    ("a bird high up in the sky", None, "high"),
    ("a bee at the top of the picture", None, "high"),
    ("a cat, low", None, "low"),
    ("a fish near the bottom", None, "low"),
    ("a cat at the top right", "right side", "high"),
    ("in the lower left corner a cat", "left side", "low"),
    ("a cat on the right moving left", "right side", None),
    ("a cat moving left", None, None),
    ("a cat flying to the left", None, None),
    ("a cat from left to right", None, None),
    ("a cat from the right side to the left side", None, None),
    ("a cat, pan left", None, None),
    ("a cat walks to the left side", None, None),
    ("a cat walks to the left of the frame", None, None),
    ("a boat on the high seas", None, None),
    ("a high-speed train", None, None),
    ("a high quality video of a cat", None, None),
    ("a cat at the north pole", None, None),
    ("a whale at the bottom of the sea", None, None),
    ("an owl in the middle of the night", None, None),
    ("a middle-aged cat", None, None),
])
def test_parse_understands_where_something_is(prompt: str, side: str | None, height: str | None) -> None:
    said = parse(prompt)
    assert (said.side, said.height) == (side, height)


@pytest.mark.parametrize(("prompt", "action", "place"), [
    ("a cat on the right moving left", "moving left", None),
    ("a cat walks to the left side", "moving left", None),
    ("a cat walks to the right of the frame", "moving right", None),
    ("a cat on the left", None, None),
    ("a cat walking on the left", "moving right", None),
    ("a car from the right side to the left side", "moving left", None),
    ("a cat in the middle of the ocean", None, "ocean"),
    ("a boat on the high seas", None, "ocean"),
    ("a whale at the bottom of the sea", None, "underwater"),
    ("an owl in the middle of the night", None, "city at night"),
    ("a cat in the city centre", None, "city at night"),
])
def test_sides_are_neither_directions_nor_places(prompt: str, action: str | None, place: str | None) -> None:
    said = parse(prompt)
    assert (said.action, said.place, said.unknown) == (action, place, [])


def test_parse_understands_the_camera() -> None:
    assert parse("a bear in the forest, the camera pans right").camera == "pan right"
    assert parse("camera zooms out from a slow snail").camera == "zoom out"
    assert parse("a snail, camera still").action is None


@pytest.mark.parametrize(("prompt", "action", "camera", "more"), [
    ("the camera stays still while a fox runs", "moving right", "still", []),
    ("the camera holds still, a red fox runs from left to right", "moving right", "still", []),
    ("a fox runs and the camera stays perfectly still", "moving right", "still", []),
    ("a still camera films a dancing bear", "dancing", "still", []),
    ("a static shot of a penguin walking to the left", "moving left", "still", []),
    ("camera moves slowly to the right as a dog spins", "spinning", "pan right", ["slowly"]),
    ("a slow zoom in on a cow, which jumps fast", "bouncing", "zoom in", ["slow"]),
    ("the camera pushes in on a cat dancing", "dancing", "zoom in", []),
    ("a penguin stands still, the camera pulls away", "standing still", "zoom out", []),
    ("the camera circles a dancing dog", "dancing", None, ["camera circles"]),
    ("the camera shakes while a train goes left", "moving left", None, ["camera shakes"]),
    ("a cow, zoom in, then pan left", None, "zoom in", ["pan left"]),
])
def test_what_the_camera_does_is_not_what_a_subject_does(
    prompt: str, action: str | None, camera: str | None, more: list[str]
) -> None:
    said = parse(prompt)
    assert (said.action, said.camera, said.more) == (action, camera, more)
    assert said.speed == ("fast" if "fast" in prompt else None)


@pytest.mark.parametrize(("prompt", "more"), [
    ("a cat moves to the left, then jumps", ["jumps"]),
    ("a dog runs and jumps", ["runs"]),
    ("a cat jumps to the left", ["left"]),
    ("a snail moves slowly, then fast", ["fast"]),
    ("a cat in the forest, then on the moon", ["moon"]),
    ("a dog at night in the desert", ["night"]),
    ("a big cat and a small dog", ["small"]),
    ("a cat on the left, then on the right", ["right side"]),
    ("a cat surfing in the ocean, in the waves of the sea", []),
    ("a balloon floating to the left", []),
    ("a dog running, walking and trotting to the right", []),
])
def test_what_is_said_twice_is_named(prompt: str, more: list[str]) -> None:
    assert parse(prompt).more == more


def test_captions_of_the_world_say_nothing_twice(scenes: dict[str, list[Scene]]) -> None:
    rng = random.Random(3)
    for scene in scenes["train"][:500]:
        assert parse(dense(scene)).more == []
    told = [parse(sparse(scene, rng)) for scene in scenes["train"]]
    assert sum(bool(said.more) for said in told) < 0.02 * len(told)


@pytest.mark.parametrize(("prompt", "subjects", "unknown"), [
    ("冲浪的猫", (), ["冲浪的猫"]),
    ("кот на доске", (), ["кот", "на", "доске"]),
    ("बिल्ली नाचती है", (), ["बिल्ली", "नाचती", "है"]),
    ("قطة ترقص", (), ["قطة", "ترقص"]),
    ("un éléphant, e\u0301toile", ("elephant",), ["un", "étoile"]),
    ("🐈 and ✈️ with 🎻", ("cat", "airplane"), ["🎻"]),
    ("ｃａｔ_dog", ("cat", "dog"), []),
    ("naïve café", (), ["naïve", "café"]),
])
def test_what_is_not_read_is_named_in_whole_words(prompt: str, subjects: tuple, unknown: list[str]) -> None:
    said = parse(prompt)
    assert (said.subjects, said.unknown) == (subjects, unknown)


def test_parse_lists_unknown_words_in_their_order() -> None:
    assert parse("a purple walrus and a cat surfing near a castle").unknown == ["purple", "walrus", "castle"]


def test_a_frame_depends_on_its_own_scene_and_time_alone() -> None:
    rng = random.Random(2)
    batch = [sample_scene(rng) for _ in range(14)]
    times = torch.rand(14, 3, generator=torch.Generator().manual_seed(0)) * 900
    together = render(batch, times, 64, 96)
    assert together.shape == (14, 3, 3, 64, 96) and together.dtype == torch.float32
    assert together.min() >= 0 and together.max() <= 1 and torch.equal(together, render(batch, times, 64, 96))
    alone = torch.cat([render([s], t[None, 1:2], 64, 96) for s, t in zip(batch, times, strict=True)])
    torch.testing.assert_close(alone, together[:, 1:2], atol=2e-3, rtol=0)


def test_whole_frame_compositing_agrees_with_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, times = random.Random(4), torch.tensor([[0.0, 0.9]] * 12)
    batch = [replace(sample_scene(rng), second=rng.choice([None, "fox"])) for _ in range(12)]
    boxes = render(batch, times, 64, 96)
    monkeypatch.setattr(compositing, "_tight", lambda picture: False)       # as on an accelerator
    torch.testing.assert_close(render(batch, times, 64, 96), boxes, atol=2e-3, rtol=0)


@pytest.mark.parametrize("place", PLACES)
def test_the_same_scene_at_twice_the_size_is_the_same_picture(place: str) -> None:
    pair = [Scene("cat", "surfing", place, seed=1),
            Scene("train", "dancing", place, camera="zoom in", second="owl")]
    times = torch.tensor([[0.0, 1.3]] * 2)
    small, large = (render(pair, times, 96 * k, 160 * k) for k in (1, 2))
    pooled = reduce(large, "b t c (h i) (w j) -> b t c h w", "mean", i=2, j=2)
    error = reduce((pooled - small).square(), "b t c h w -> b", "mean")
    assert (-10 * error.log10()).min() > 25


def _centre(action: str, seconds: list[float]) -> torch.Tensor:
    """(y, x) of a red balloon over the sky, from its colour alone [T, 2]."""
    picture = render([Scene("balloon", action, "sky", seed=3)], torch.tensor([seconds]), 96, 160)[0]
    red = (picture[:, 0] - picture[:, 2]).clamp(min=0.3) - 0.3
    rows, columns = torch.arange(96) / 96, torch.arange(160) / 96
    total = red.sum((1, 2))
    return torch.stack([(red.sum(2) * rows).sum(1) / total, (red.sum(1) * columns).sum(1) / total], 1)


@pytest.mark.parametrize(("action", "axis", "sign"), [
    ("moving right", 1, 1), ("moving left", 1, -1), ("falling", 0, 1), ("rising", 0, -1)])
def test_subjects_go_where_the_caption_says(action: str, axis: int, sign: int) -> None:
    steps = _centre(action, [0.0, 0.4, 0.8]).diff(dim=0)[:, axis] * sign
    assert (steps > 0.1).all() and (steps < 0.3).all()


@pytest.mark.parametrize(("action", "sign"), [("growing", 1), ("shrinking", -1)])
def test_subjects_change_size_as_the_caption_says(action: str, sign: int) -> None:
    picture = render([Scene("balloon", action, "sky", seed=3)], torch.tensor([[0.2, 1.0, 2.0]]), 96, 160)[0]
    area = (picture[:, 0] - picture[:, 2] > 0.3).float().mean((1, 2))
    assert (area.diff() * sign > 0).all()


def test_a_place_moves_but_a_still_subject_does_not() -> None:
    scene = Scene("pumpkin", "standing still", "ocean", seed=5)
    picture = render([scene], torch.tensor([[0.0, 3.0]]), 96, 160)[0]
    assert (picture[0] - picture[1]).abs().max() > 0.05
    drift = _centre("standing still", [0.0, 0.9]).diff(dim=0).abs()
    assert drift.max() < 0.02


def test_textures_are_varied_and_repeatable() -> None:
    def made(seed: int) -> torch.Tensor:
        return generic(4, 5, 48, 64, torch.Generator().manual_seed(seed))

    clips = made(0)
    assert clips.shape == (4, 5, 3, 48, 64) and clips.min() >= 0 and clips.max() <= 1
    assert torch.equal(clips, made(0)) and not torch.equal(clips, made(1))
    assert (clips.std((1, 3, 4)) > 0.01).any(1).all()


def test_the_sheet_is_written_whole(tmp_path) -> None:
    sheet(tmp_path / "sheet.png", count=2, height=48, width=80)
    assert Image.open(tmp_path / "sheet.png").size[1] == 96
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_words_need_no_torch() -> None:
    code = "import sys, sora_cli.world; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
