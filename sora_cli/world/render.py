"""Scenes and times to pictures: backgrounds in batches of a place, then shadows, boards and subjects."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli.world.compositing import Layer, joined, shade, stamp
from sora_cli.world.motion import Pose, pan, pose, zoom
from sora_cli.world.places import PAINTERS, View
from sora_cli.world.scene import Scene
from sora_cli.world.sprites import INDEX, atlas
from sora_cli.world.vocabulary import HEIGHT_OF, PLACES, SIDE_OF, SIZE_OF

CHUNK, CHUNK_CPU = 2**26, 2**18    # pixels painted at once; on the CPU few enough for the cache
Run = tuple[Scene, np.ndarray]     # a scene and some seconds of its bar


@dataclass(frozen=True)
class Frame:
    height: int
    width: int

    @property
    def short(self) -> int:
        return min(self.height, self.width)


@torch.no_grad()
def render(scenes: Sequence[Scene], times: Tensor, height: int, width: int,
           device: str | torch.device = "cpu") -> Tensor:
    """Pictures of each scene at times [B, T] in seconds -> [B, T, 3, H, W] float32 in [0, 1] on `device`.

    A frame depends on its scene, time and size alone (up to rounding), and the same scene at another size of
    the same aspect is the same picture."""
    assert times.shape[0] == len(scenes), f"{len(scenes)} scenes but times {tuple(times.shape)}"
    size, device, length = Frame(height, width), torch.device(device), times.shape[1]
    out = torch.empty((len(scenes), length, 3, height, width), device=device)
    flat = rearrange(out, "b t c h w -> (b t) c h w")
    pixels = CHUNK_CPU if device.type == "cpu" else CHUNK
    for place, index in _chunks(scenes, length, max(1, pixels // (height * width))):
        runs = _runs(scenes, times.double().cpu().numpy(), index)
        if index[-1] - index[0] == len(index) - 1:
            _paint(runs, flat[index[0]:index[-1] + 1], place, size)
        else:
            picture = torch.empty((len(index), 3, height, width), device=device)
            flat[torch.tensor(index, device=device)] = _paint(runs, picture, place, size)
    return out


def _chunks(scenes: Sequence[Scene], length: int, step: int) -> Iterator[tuple[str, list[int]]]:
    """(place, numbers of at most `step` frames that lie there); frame number = scene * length + time."""
    for place in PLACES:
        frames = [b * length + t for b, scene in enumerate(scenes) if scene.place == place for t in range(length)]
        yield from ((place, frames[start:start + step]) for start in range(0, len(frames), step))


def _runs(scenes: Sequence[Scene], seconds: np.ndarray, index: list[int]) -> list[Run]:
    length = seconds.shape[1]
    runs = groupby(index, key=lambda i: i // length)
    return [(scenes[b], scenes[b].begins + seconds[b, [i % length for i in run]]) for b, run in runs]


def _paint(runs: list[Run], picture: Tensor, place: str, size: Frame) -> Tensor:
    """Scenes of one place at their times, one after another, onto picture [N, 3, H, W]."""
    PAINTERS[place](_view(runs, picture, size))
    cast = list(actors(runs, size))
    for rank in (1, 0):                                       # a layer has one sprite a frame
        _act(picture, [actor for actor in cast if actor.rank == rank], foam=place == "ocean")
    return picture


def _act(picture: Tensor, actors: list["Actor"], foam: bool) -> None:
    """Shadows (on water, foam), boards and sprites of these actors."""
    shadows = [actor.shadow() for actor in actors if actor.touches]
    if shadows:
        shade(picture, joined(shadows), *((1.0, 0.7) if foam else (0.0, 0.45)))
    for layers in ([a.board() for a in actors if a.surfs], [a.sprite() for a in actors]):
        if layers:
            stamp(picture, joined(layers))


def _view(runs: list[Run], picture: Tensor, size: Frame) -> View:
    def column(values: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(values)).float().to(picture.device)

    near = column([zoom(scene.camera, t) for scene, t in runs])
    x = (torch.arange(size.width, device=picture.device) + 0.5 - size.width / 2) / size.short
    y = (torch.arange(size.height, device=picture.device) + 0.5) / size.height - 0.5
    return View(
        x=x / near[:, None], y=y / near[:, None] + 0.5, zoom=near, t=column([t for _, t in runs]),
        camera=column([pan(scene.camera, t) for scene, t in runs]),
        chance=column([np.tile(_tint(scene), (len(t), 1)) for scene, t in runs]),
        wide=size.width / size.short, tall=size.height / size.short, short=size.short, canvas=picture)


def _tint(scene: Scene) -> np.ndarray:
    """All that chance decides: three numbers in [0, 1)."""
    rng = Random(scene.seed)
    return np.array([rng.random() for _ in range(3)])


@dataclass(frozen=True)
class Actor:
    """A subject in some frames of its scene."""

    scene: Scene
    rank: int                      # 0 the first subject, 1 the second
    cell: int
    share: float                   # its size in short sides
    pose: Pose
    near: np.ndarray               # [n] magnification
    frames: np.ndarray             # [n]
    size: Frame

    @property
    def surfs(self) -> bool:
        return self.scene.action == "surfing"

    @property
    def touches(self) -> bool:
        """Whether it leaves a shadow on the ground or foam on the water."""
        return self.pose.feet is not None and (not self.surfs or self.scene.place == "ocean")

    @property
    def sole(self) -> float:
        """From the centre to the feet, in short sides."""
        return float(atlas().feet[self.cell]) * self.share

    def _layer(self, cell: int, x: np.ndarray, y: np.ndarray, wide: np.ndarray, tall: np.ndarray,
               angle: np.ndarray) -> Layer:
        """From short sides to pixels, magnified about the frame's centre."""
        unit = self.size.short * self.near
        return Layer(self.frames, np.full(len(x), cell), x * unit + self.size.width / 2,
                     y * unit + self.size.height / 2, wide * unit, tall * unit, angle)

    def sprite(self) -> Layer:
        pose, grown = self.pose, self.share * self.pose.scale
        return self._layer(self.cell, pose.x, pose.y, pose.flip * grown / np.sqrt(pose.squash),
                           grown * pose.squash, pose.angle)

    def board(self) -> Layer:
        """A surfboard under the feet, turning with the subject."""
        x = self.pose.x - self.sole * np.sin(self.pose.angle)
        y = self.pose.y + self.sole * np.cos(self.pose.angle)
        long = np.full(len(x), 1.3 * self.share)
        return self._layer(INDEX["surfboard"], x, y, long, long, self.pose.angle)

    def shadow(self) -> Layer:
        """A flat ellipse at the feet, smaller when the subject leaves the ground; foam below a surfboard."""
        assert self.pose.feet is not None
        low = self.pose.y + self.sole
        lift = np.clip(self.pose.feet - low, 0, None)
        wide = 0.62 * self.share * float(atlas().wide[self.cell]) / (1 + 1.5 * lift)
        y = np.full(len(low), self.pose.feet - 0.005)
        if self.surfs:
            y, wide = low + 0.035, np.full(len(low), 0.72 * self.share)
        return self._layer(0, self.pose.x, y, wide, 0.2 * wide, 0 * wide)


def actors(runs: list[Run], size: Frame) -> Iterator[Actor]:
    """The subjects of scenes in their frames; two stand side by side and are a little smaller."""
    start, wide, tall = 0, size.width / size.short, size.height / size.short
    for scene, t in runs:
        frames, start = np.arange(start, start + len(t)), start + len(t)
        pair = scene.second is not None
        share = SIZE_OF[scene.size] * (0.8 if pair else 1.0)
        for rank, name in enumerate(scene.subjects):
            aside, cell = (0.3 if rank else -0.3) * min(wide, 1.5) if pair else 0.0, INDEX[name]
            x = aside + SIDE_OF[scene.side] * wide * (0.3 if pair else 1.0)
            begins = x, HEIGHT_OF[scene.height] * tall, 0.25 * rank
            made = pose(scene, name, t, wide, tall, begins, share, float(atlas().feet[cell]))
            yield Actor(scene, rank, cell, share, made, zoom(scene.camera, t) ** 1.3, frames, size)
