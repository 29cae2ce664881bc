"""A shot survives JSON, and refuses what cannot be made."""

import json
from contextlib import suppress
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sora_cli.errors import SoraError
from sora_cli.shot import Anchor, Cue, Shot


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50).filter(str.strip),
    st.integers(0, 2**63 - 1),
    st.floats(1, 120),
    st.integers(1, 400),
)
def test_json_round_trip(prompt: str, seed: int, fps: float, frames: int) -> None:
    shot = Shot(prompt, "blurry", 640, 360, frames, fps, seed)
    assert Shot.from_json(shot.to_json()) == shot
    assert json.loads(shot.to_json())["prompt"] == prompt


def test_seconds() -> None:
    assert Shot("a cat", frames=480, fps=24).seconds == 20


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"prompt": "x" * 3000}, "3000 characters"),
        ({"prompt": "caf\udce9"}, "UTF-8"),
        ({"width": 0}, "out of range"),
        ({"height": 721}, "odd side"),
        ({"frames": 0}, "frames is 0"),
        ({"frames": 87000, "fps": 24.0}, "seconds"),
        ({"fps": 0.5}, "fps is 0.5"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"plan": "zigzag"}, "full, autoregressive"),
    ],
)
def test_nonsense_is_refused(asked: dict, complaint: str) -> None:
    with pytest.raises(SoraError, match=complaint):
        Shot(**{"prompt": "a cat", **asked})


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"prompt": 3}', '{"prompt": "a", "colour": 1}', '{"prompt": "a", "frames": "9"}'],
)
def test_json_that_is_no_shot_is_refused(text: str) -> None:
    with pytest.raises(SoraError, match="not a shot"):
        Shot.from_json(text)


def test_whole_numbers_may_stand_for_floats() -> None:
    assert Shot.from_json('{"prompt": "a", "fps": 30}').fps == 30.0


# ---- anything at all --------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**400) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([field.name for field in fields(Shot)])
TIMES = st.text("0123456789.s-", max_size=6) | st.text(max_size=4)
ANCHORS = st.lists(st.fixed_dictionaries({"path": st.text(max_size=5), "at": TIMES}), max_size=3)
SHOTS = st.dictionaries(FIELDS, JSON | ANCHORS, max_size=5).map(lambda told: {"prompt": "a cat", **told})


@settings(deadline=None)
@given(st.text(max_size=40) | (SHOTS | JSON).map(json.dumps))
def test_any_text_is_a_shot_or_refused(text: str) -> None:
    with suppress(SoraError):
        shot = Shot.from_json(text)
        assert Shot.from_json(shot.to_json()) == shot
        shot.to_json().encode()


@pytest.mark.parametrize("name", [field.name for field in fields(Shot)])
@pytest.mark.parametrize(
    "value",
    [
        "9" * 400, "9" * 5000, "-" + "9" * 400, "1e999", "NaN", "-Infinity", "[" * 990 + "]" * 990, "[" * 99_999,
        '"\\ud800"', '[{"path": "\\ud800", "at": "0"}]', '[{"path": "a", "at": "' + "9" * 400 + 's"}]',
        '[{"at": "1", "prompt": "\\ud800"}]',
    ],
    ids=range(12),
)  # fmt: skip
def test_hostile_values_are_refused(name: str, value: str) -> None:
    with pytest.raises(SoraError):
        Shot.from_json(f'{{"prompt": "a", "{name}": {value}}}')


@given(st.text(max_size=20))
def test_any_word_is_an_anchor_or_a_cue_or_refused(word: str) -> None:
    with suppress(SoraError):
        anchor = Anchor.parse(word)
        assert anchor.path.strip() and (word == f"{anchor.path}@{anchor.at}" or word == anchor.path)
    with suppress(SoraError):
        cue = Cue.parse(word)
        assert cue.prompt.strip() and word.startswith(cue.at, len(word) - len(word.lstrip()))


@pytest.mark.parametrize(
    ("word", "anchor"),
    [
        ("a.png", Anchor("a.png", "0")),
        ("a.png@-1", Anchor("a.png", "-1")),
        ("me@home.mp4@2.5s", Anchor("me@home.mp4", "2.5s")),
        ("@5", Anchor("@5", "0")),
    ],
)
def test_an_anchor_is_a_file_and_a_time(word: str, anchor: Anchor) -> None:
    assert Anchor.parse(word) == anchor
