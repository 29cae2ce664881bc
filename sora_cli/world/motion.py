"""Where a subject is at any time: closed forms, periodic or wrapping through the frame. No torch.

The world keeps a beat: at normal speed a motion repeats after 1/2, 1, 2 or 4 s, and speeds are octaves, so that all
of it repeats after a bar of 8 s. Nothing here is left to chance."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sora_cli.world.scene import Scene
from sora_cli.world.vocabulary import GROUND, SPEED_OF, SUBJECTS

Array = np.ndarray
TAU = 2 * np.pi
CROSSING = 4.0                     # seconds from one side to the other
BAR = 8.0                          # seconds after which the camera repeats, and with it everything


@dataclass(frozen=True)
class Pose:
    """x, y from the frame's centre in short sides, y downwards; angle in radians, clockwise on the screen."""

    x: Array
    y: Array
    scale: Array
    squash: Array
    angle: Array
    flip: float                    # -1 mirrors the sprite
    feet: float | None             # y of the ground under it; None: it floats


@dataclass(frozen=True)
class Stage:
    """Everything a motion needs: time scaled by speed, the frame's size, and where it begins."""

    t: Array
    wide: float                    # frame in short sides
    tall: float
    size: float                    # subject in short sides
    x: float                       # the start
    y: float
    phase: float                   # in [0, 1), of the motion's own period
    reach: float                   # how far it may stick out of its middle on both sides, in short sides

    def turns(self, seconds: float) -> Array:
        """How often something has come round by now that does so in these seconds."""
        return self.t / seconds + self.phase

    def posed(self, **changes: Any) -> Pose:
        """The subject where it begins, upright and still, but for these changes."""
        one, zero = np.ones_like(self.t), np.zeros_like(self.t)
        return replace(Pose(zero + self.x, zero + self.y, one, one, zero, 0.0, None), **changes)

    @property
    def room(self) -> float:
        """How high a jump may be."""
        return min(0.34, max(0.12, 0.5 * self.tall + self.y - 0.45 * self.size))


def _wrap(value: Array, span: float) -> Array:
    return (value + span / 2) % span - span / 2


def _saw(t: Array) -> Array:
    """0 -> 1 over 88 % of the period, and smoothly back in the rest."""
    t = t % 1.0
    back = np.clip((t - 0.88) / 0.12, 0, 1)
    return np.minimum(t / 0.88, 1) * (1 - back * back * (3 - 2 * back))


def _across(s: Stage, way: int) -> Pose:
    span = s.wide + s.reach
    x = _wrap(way * (span * (s.t / CROSSING + s.phase / 2) - 0.22 * s.wide) + s.x, span)  # begins inside
    hop = 0.015 * np.abs(np.sin(TAU * s.turns(1)))
    return s.posed(x=x, y=s.y - hop, flip=way)


def _vertical(s: Stage, way: int) -> Pose:
    span = s.tall + s.reach
    y = _wrap(way * (span * (s.t / CROSSING + s.phase / 2) - 0.2 * s.tall), span)
    return s.posed(y=y, x=s.x + 0.02 * np.sin(TAU * s.turns(2)))


def _bouncing(s: Stage) -> Pose:
    up = np.abs(np.sin(np.pi * s.turns(1)))
    return s.posed(y=s.y - s.room * up, squash=1 - 0.16 * (1 - up) ** 4)


def _flipping(s: Stage) -> Pose:
    turn = s.turns(2)
    return s.posed(y=s.y - s.room * np.abs(np.sin(np.pi * turn)), angle=TAU * turn)


def _floating(s: Stage) -> Pose:
    wave = TAU * s.turns(4)
    return s.posed(x=s.x + 0.04 * np.cos(wave), y=s.y + 0.13 * np.sin(wave), angle=0.08 * np.cos(wave))


def _surfing(s: Stage) -> Pose:
    wave = TAU * s.turns(2)
    x = s.x + 0.11 * np.sin(TAU * (s.t / 4 + s.phase / 2))
    return s.posed(x=x, y=s.y + 0.05 * np.sin(wave), angle=0.2 * np.cos(wave), flip=1.0)


def _swinging(s: Stage) -> Pose:
    angle, arm = 0.62 * np.sin(TAU * s.turns(2)), 0.55 * s.size
    return s.posed(x=s.x - arm * np.sin(angle), y=s.y + arm * (np.cos(angle) - 1), angle=angle)


def _circling(s: Stage) -> Pose:
    turn, radius = TAU * s.turns(4), 0.21
    return s.posed(x=s.x + 1.3 * radius * np.cos(turn), y=s.y + radius * np.sin(turn))


def _shaking(s: Stage) -> Pose:
    wave = np.sin(TAU * s.turns(1 / 2))
    return s.posed(x=s.x + 0.045 * wave, angle=0.09 * wave)


def _dancing(s: Stage) -> Pose:
    beat = TAU * s.turns(1)
    return s.posed(x=s.x + 0.06 * np.sin(beat), y=s.y - 0.06 * np.abs(np.cos(beat)),
                   angle=0.34 * np.sin(beat), squash=1 + 0.07 * np.cos(2 * beat))


MOTIONS: dict[str, Callable[[Stage], Pose]] = {
    "moving left": lambda s: _across(s, -1),
    "moving right": lambda s: _across(s, 1),
    "bouncing": _bouncing,
    "spinning": lambda s: s.posed(angle=TAU * s.turns(2)),
    "growing": lambda s: s.posed(scale=0.55 * (1.25 / 0.55) ** _saw(s.turns(4))),
    "shrinking": lambda s: s.posed(scale=1.25 * (0.5 / 1.25) ** _saw(s.turns(4))),
    "rising": lambda s: _vertical(s, -1),
    "falling": lambda s: _vertical(s, 1),
    "surfing": _surfing,
    "swinging": _swinging,
    "circling": _circling,
    "standing still": lambda s: s.posed(squash=1 + 0.025 * np.sin(TAU * s.turns(2))),
    "shaking": _shaking,
    "dancing": _dancing,
    "flipping": _flipping,
    "floating": _floating,
}
FLOATING = {"floating", "spinning", "rising", "falling", "circling", "swinging", "growing", "shrinking"}


def pose(scene: Scene, name: str, times: Array, wide: float, tall: float, start: tuple[float, float, float],
         size: float, feet: float) -> Pose:
    """The pose of subject `name`. start: (x, y, phase) where it begins, y from where it would stand or float; feet: its
    lowest point below its centre, in sizes."""
    subject, ground = SUBJECTS[name], GROUND[scene.place]
    stands = scene.action == "surfing" or not subject.flies and scene.action not in FLOATING
    floor = (ground - 0.5) * tall + min(start[1], 0.0) if ground is not None and stands else None
    y = floor - feet * size if floor is not None else start[1]
    reach = size * (1.0 if subject.nose is None else 1.3)
    stage = Stage(times * SPEED_OF[scene.speed], wide, tall, size, start[0], y, start[2], reach)
    made = MOTIONS[scene.action](stage)
    settle = made.y + (1 - made.squash) * feet * size          # squashing keeps the feet where they are
    return replace(made, y=settle, flip=-1.0 if subject.facing * made.flip < 0 else 1.0, feet=floor,
                   angle=made.angle + _nose(subject.nose, scene.action))


def _nose(nose: float | None, action: str) -> float:
    """Turn a rocket's nose into its flight, clockwise; a mirrored sprite turns the other way."""
    if nose is None:
        return 0.0
    turns = {"rising": nose - 90, "falling": nose + 90, "moving right": nose, "moving left": -nose}
    return float(np.deg2rad(turns.get(action, 0.0)))


def zoom(camera: str, t: Array) -> Array:
    """Magnification of the background; the subject's is its power 1.4."""
    saw = _saw(t / BAR)
    return {"zoom in": 1.3**saw, "zoom out": 1.3 ** (1 - saw)}.get(camera, np.ones_like(t))


def pan(camera: str, t: Array) -> Array:
    """Camera position in short sides: it goes on for most of a bar, and comes back."""
    return {"pan left": -1.5, "pan right": 1.5}.get(camera, 0.0) * _saw(t / BAR)
