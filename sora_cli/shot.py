"""A shot: what was asked, validated once, frozen and serialisable (metadata, batch lines, replay)."""

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from sora_cli import geometry
from sora_cli.errors import SoraError

PLANS = ("full", "hierarchy")
LONGEST_SECONDS = 3600.0
LONGEST_PROMPT = 2000
MOST_FRAMES = 432_000          # an hour at the fastest frame rate


@dataclass(frozen=True)
class Shot:
    """One video to make. Sizes in pixels, `frames` exact, `fps` frames per second."""

    prompt: str
    negative: str = ""
    width: int = 1280
    height: int = 720
    frames: int = 120
    fps: float = 24.0
    seed: int = 0
    steps: int = 8
    guidance: float = 3.0
    model: str = "pocket"
    plan: str = "hierarchy"

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise SoraError('the prompt is empty; say what to show, for example "a cat surfing"')
        check_text("prompt", self.prompt)
        check_text("negative prompt", self.negative)
        geometry.check_size(self.width, self.height)
        check_range("fps", self.fps, 1, 120)
        check_range("frames", self.frames, 1, MOST_FRAMES)
        check_range("seconds", self.seconds, 0, LONGEST_SECONDS)
        check_range("seed", self.seed, 0, 2**63 - 1)
        check_range("steps", self.steps, 1, 1000)
        check_range("guidance", self.guidance, 0, 100)
        if self.plan not in PLANS:
            raise SoraError(f"unknown plan {self.plan!r}; there are {', '.join(PLANS)}")

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Shot":
        """The inverse of to_json; SoraError on anything that is not a shot."""
        try:
            asked = json.loads(text)
        except json.JSONDecodeError as error:
            raise SoraError(f"not a shot: {error}") from error
        if not isinstance(asked, dict) or "prompt" not in asked:
            raise SoraError("not a shot: a JSON object with at least a prompt is needed")
        kinds = {field.name: type(getattr(BLANK, field.name)) for field in fields(cls)}
        if unknown := sorted(asked.keys() - kinds.keys()):
            raise SoraError(f"not a shot: unknown field {', '.join(unknown)}; known are {', '.join(kinds)}")
        return cls(**{name: typed(name, value, kinds[name]) for name, value in asked.items()})


def check_text(what: str, text: str) -> None:
    if len(text) > LONGEST_PROMPT:
        raise SoraError(f"the {what} has {len(text)} characters; at most {LONGEST_PROMPT} are read")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise SoraError(f"the {what} is not valid UTF-8")


def check_range(what: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise SoraError(f"{what} is {value:g}; it must be from {low:g} to {high:g}")


def typed(name: str, value: Any, kind: type) -> Any:
    """`value` as `kind`, where a whole number may stand for a float; SoraError otherwise."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise SoraError(f"not a shot: {name} is {value!r}, which is not of type {kind.__name__}")
    return value


BLANK = Shot(prompt="blank")
