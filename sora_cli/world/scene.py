"""A scene is ten named choices and a seed; some combinations are kept out of training. No torch."""

import random
import zlib
from dataclasses import dataclass
from itertools import product
from typing import Literal

from sora_cli.errors import SoraError
from sora_cli.world.vocabulary import ACTIONS, BEAT_OF, FIELDS, PLACES, SUBJECTS

Split = Literal["train", "held-out"]
_NEVER_HELD_OUT = ("cat", "surfing", "ocean")


@dataclass(frozen=True)
class Scene:
    """One clip of the world. `seed` decides nothing but the tint of the place."""

    subject: str
    action: str
    place: str
    size: str = "large"
    speed: str = "normal"
    camera: str = "still"
    side: str = "middle"
    height: str = "low"
    beat: str = "beat one"
    second: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _known("subject", self.subject, SUBJECTS)
        for field, names in FIELDS.items():
            _known(field, getattr(self, field), names)
        if self.second is not None:
            _known("second subject", self.second, SUBJECTS)

    @property
    def subjects(self) -> tuple[str, ...]:
        return (self.subject,) if self.second is None else (self.subject, self.second)

    @property
    def begins(self) -> float:
        """The second of the world's bar at which the scene begins: with that, its time says what is seen."""
        return BEAT_OF[self.beat]

    @property
    def triples(self) -> list[tuple[str, str, str]]:
        """(subject, action, place) of every subject."""
        return [(s, self.action, self.place) for s in self.subjects]


def _known(field: str, value: str, names: dict) -> None:
    if value not in names:
        raise SoraError(f"unknown {field} {value!r}; the world has {', '.join(names)}")


HELD_OUT: frozenset[tuple[str, str, str]] = frozenset(
    triple for triple in product(SUBJECTS, ACTIONS, PLACES)
    if triple != _NEVER_HELD_OUT and zlib.crc32("|".join(triple).encode()) % 10 == 0
)


def sample_scene(rng: random.Random, split: Split = "train") -> Scene:
    """A random scene; none of its triples is in HELD_OUT for "train", the first one is for "held-out"."""
    if split not in ("train", "held-out"):
        raise SoraError(f'unknown split {split!r}; it must be "train" or "held-out"')
    while True:
        scene = _draw(rng)
        held = [triple in HELD_OUT for triple in scene.triples]
        if held[0] if split == "held-out" else not any(held):
            return scene


def _draw(rng: random.Random) -> Scene:
    subject = rng.choice(list(SUBJECTS))
    action = rng.choice([*ACTIONS, "surfing"])
    return Scene(
        subject=subject,
        action=action,
        place=SUBJECTS[subject].home if rng.random() < 0.25 else rng.choice(list(PLACES)),
        size=rng.choices(list(FIELDS["size"]), (0.06, 0.14, 0.80))[0],
        speed="normal" if action == "standing still" else rng.choices(list(FIELDS["speed"]), (0.15, 0.7, 0.15))[0],
        camera=rng.choices(list(FIELDS["camera"]), (0.84, 0.04, 0.04, 0.04, 0.04))[0],
        **{field: rng.choice(list(FIELDS[field])) for field in ("side", "height", "beat")},
        second=rng.choice([s for s in SUBJECTS if s != subject]) if rng.random() < 0.1 else None,
        seed=rng.randrange(2**31),
    )
