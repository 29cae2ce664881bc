"""A shot survives JSON, and refuses what cannot be made."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_cli.errors import SoraError
from sora_cli.shot import Shot


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
        ({"prompt": "  "}, "prompt is empty"),
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
        ({"plan": "zigzag"}, "full, hierarchy"),
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
