"""Scenes and times to pictures: backgrounds in batches of a place, sprites sampled into boxes of their own size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from sora_cli.world.motion import Pose, pan, pose, zoom
from sora_cli.world.places import PAINTERS, View
from sora_cli.world.scene import Scene
from sora_cli.world.sprites import CELL, COLUMNS, INDEX, Atlas, atlas
from sora_cli.world.vocabulary import PLACES, SIZE_OF

CHUNK, CHUNK_CPU = 2**26, 2**18   # pixels painted at once; on the CPU few enough for the cache
_ORDER = list(PLACES)


@dataclass(frozen=True)
class Frame:
    height: int
    width: int

    @property
    def short(self) -> int:
        return min(self.height, self.width)


@dataclass
class Layer:
    """One sprite (or contact shadow) in n frames, in pixels; arrays [n]."""

    frame: np.ndarray              # which frame of the chunk
    cell: np.ndarray
    x: np.ndarray
    y: np.ndarray
    wide: np.ndarray               # signed: negative mirrors
    tall: np.ndarray
    angle: np.ndarray


@torch.no_grad()
def render(scenes: Sequence[Scene], times: Tensor, height: int, width: int,
           device: str | torch.device = "cpu") -> Tensor:
    """Pictures of each scene at times [B, T] in seconds -> [B, T, 3, H, W] float32 in [0, 1] on `device`.

    A frame depends on its scene, time and size alone (up to rounding), and the same scene at another size of the
    same aspect is the same picture."""
    assert times.shape[0] == len(scenes), f"{len(scenes)} scenes but times {tuple(times.shape)}"
    size, seconds, device = Frame(height, width), times.double().cpu().numpy(), torch.device(device)
    out = torch.empty((*times.shape, 3, height, width), device=device)
    flat = rearrange(out, "b t c h w -> (b t) c h w")
    order = sorted(range(len(scenes)), key=lambda b: _ORDER.index(scenes[b].place))
    for place, group in groupby(order, key=lambda b: scenes[b].place):
        frames = [(b, t) for b in group for t in range(times.shape[1])]
        step = max(1, (CHUNK_CPU if device.type == "cpu" else CHUNK) // (height * width))
        for start in range(0, len(frames), step):
            part = frames[start:start + step]
            index = [b * times.shape[1] + t for b, t in part]
            runs = [(scenes[b], seconds[b, [t for _, t in run]]) for b, run in
                    ((b, list(run)) for b, run in groupby(part, key=lambda frame: frame[0]))]
            if index[-1] - index[0] == len(index) - 1:
                _paint(runs, flat[index[0]:index[-1] + 1], place, size)
            else:
                flat[torch.tensor(index, device=device)] = _paint(runs, torch.empty_like(flat[:len(index)]), place, size)
    return out


def _paint(runs: list[tuple[Scene, np.ndarray]], picture: Tensor, place: str, size: Frame) -> Tensor:
    """Scenes of one place at their times, one after another, onto picture [N, 3, H, W]."""
    PAINTERS[place](_view(runs, picture, size))
    for shade, layer in _layers(runs, size):
        (_shade if shade else _stamp)(picture, layer, shade)
    return picture


def _view(runs: list[tuple[Scene, np.ndarray]], picture: Tensor, size: Frame) -> View:
    device = picture.device

    def column(values: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(values)).float().to(device)

    near = column([zoom(s.camera, t) for s, t in runs])
    x = (torch.arange(size.width, device=device) + 0.5 - size.width / 2) / size.short
    y = (torch.arange(size.height, device=device) + 0.5) / size.height - 0.5
    return View(
        x=x / near[:, None], y=y / near[:, None] + 0.5, zoom=near, t=column([t for _, t in runs]),
        camera=column([pan(s.camera, t) for s, t in runs]),
        chance=column([np.tile(_chance(s, 8), (len(t), 1)) for s, t in runs]),
        wide=size.width / size.short, tall=size.height / size.short,
        short=size.short, canvas=picture)


def _chance(scene: Scene, count: int, salt: int = 0) -> np.ndarray:
    rng = Random(scene.seed * 4 + salt)
    return np.array([rng.random() for _ in range(count)])


# --------------------------------------------------------------------------------------------------- sprites

def _layers(runs: list[tuple[Scene, np.ndarray]], size: Frame) -> Iterator[tuple[str, Layer]]:
    """(shade, layer) from back to front; shade "" is a sprite, "dark" or "foam" a contact shadow."""
    start, back, boards, front = 0, [], [], []
    shadows: dict[str, list[Layer]] = {"dark": [], "foam": []}
    for scene, t in runs:
        frames = np.arange(start, start + len(t))
        start += len(t)
        for i, name in enumerate(scene.subjects):
            made, share = _placed(scene, name, i, t, size)
            (front if i == 0 else back).append(_sprite(scene, name, made, share, t, frames, size))
            if scene.action == "surfing":
                boards.append(_board(scene, name, made, share, t, frames, size))
            if made.feet is not None and scene.action != "surfing" or scene.place == "ocean" and made.feet is not None:
                shadows["foam" if scene.place == "ocean" else "dark"].append(
                    _shadow(scene, name, made, share, t, frames, size))
    for shade, made_layers in (*shadows.items(), ("", boards), ("", back), ("", front)):
        if made_layers:
            yield shade, _joined(made_layers)


def _joined(layers: list[Layer]) -> Layer:
    names = Layer.__dataclass_fields__
    return Layer(**{name: np.concatenate([getattr(layer, name) for layer in layers]) for name in names})


def _placed(scene: Scene, name: str, i: int, t: np.ndarray, size: Frame) -> tuple[Pose, float]:
    """Pose and size (share of the short side) of subject number i; two subjects stand side by side."""
    chance = _chance(scene, 3, salt=1)
    pair = scene.second is not None
    share = SIZE_OF[scene.size] * (0.8 if pair else 1.0)
    wide, tall = size.width / size.short, size.height / size.short
    x = (chance[0] - 0.5) * 0.3 * wide * (0.3 if pair else 1.0) + pair * (0.3 if i else -0.3) * min(wide, 1.5)
    start = (x, (chance[1] - 0.5) * 0.12, float((chance[2] + 0.17 * i) % 1))
    return pose(scene, name, t, wide, tall, start, share, float(atlas().feet[INDEX[name]])), share


def _layer(cell: int, frames: np.ndarray, size: Frame, x: np.ndarray, y: np.ndarray, wide: np.ndarray,
           tall: np.ndarray, angle: np.ndarray, near: np.ndarray) -> Layer:
    """From short sides to pixels, magnified by `near` about the frame's centre."""
    unit = size.short * near
    return Layer(frames, np.full(len(frames), cell), x * unit + size.width / 2, y * unit + size.height / 2,
                 wide * unit, tall * unit, angle)


def _sprite(scene: Scene, name: str, made: Pose, share: float, t: np.ndarray, frames: np.ndarray, size: Frame) -> Layer:
    grown = share * made.scale
    return _layer(INDEX[name], frames, size, made.x, made.y, grown / np.sqrt(made.squash) * made.flip,
                  grown * made.squash, made.angle, zoom(scene.camera, t) ** 1.3)


def _board(scene: Scene, name: str, made: Pose, share: float, t: np.ndarray, frames: np.ndarray, size: Frame) -> Layer:
    """A surfboard under the feet, turning with the subject."""
    down = float(atlas().feet[INDEX[name]]) * share
    x, y = made.x - down * np.sin(made.angle), made.y + down * np.cos(made.angle)
    long = np.full(len(t), 1.3 * share)
    return _layer(INDEX["surfboard"], frames, size, x, y, long, long, made.angle, zoom(scene.camera, t) ** 1.3)


def _shadow(scene: Scene, name: str, made: Pose, share: float, t: np.ndarray, frames: np.ndarray, size: Frame) -> Layer:
    assert made.feet is not None
    feet = float(atlas().feet[INDEX[name]])
    lift = np.clip(made.feet - made.y - feet * share, 0, None)
    wide = share * float(atlas().wide[INDEX[name]]) * 0.62 / (1 + 1.5 * lift)
    foot = np.full(len(t), made.feet - 0.005)
    if scene.action == "surfing":
        foot, wide = made.y + feet * share + 0.035, wide * 0 + 0.72 * share
    return _layer(0, frames, size, made.x, foot, wide, 0.2 * wide, 0 * t, zoom(scene.camera, t) ** 1.3)


def _boxes(layer: Layer, half_wide: np.ndarray, half_tall: np.ndarray, picture: Tensor
           ) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Left and top corners [n] and one common box size: tight on the CPU, the whole frame elsewhere."""
    height, width = picture.shape[-2:]
    if picture.device.type != "cpu":
        zero = np.zeros(len(layer.x), int)
        return zero, zero, height, width
    tall, wide = int(2 * half_tall.max()) + 3, int(2 * half_wide.max()) + 3
    return np.floor(layer.x - wide / 2).astype(int), np.floor(layer.y - tall / 2).astype(int), tall, wide


def _offsets(layer: Layer, left: np.ndarray, top: np.ndarray, tall: int, wide: int, device: torch.device
             ) -> tuple[Tensor, Tensor]:
    """Pixel centres relative to the layer's centre: dx [n, 1, w], dy [n, h, 1]."""
    dx = torch.from_numpy(left + 0.5 - layer.x).float().to(device)[:, None, None]
    dy = torch.from_numpy(top + 0.5 - layer.y).float().to(device)[:, None, None]
    steps = torch.arange(max(wide, tall), device=device)
    return dx + steps[None, None, :wide], dy + steps[None, :tall, None]


def _blend(picture: Tensor, layer: Layer, left: np.ndarray, top: np.ndarray, keep: Tensor, light: Tensor | None) -> None:
    """picture = picture * keep + light, in the boxes. keep [n, 1, h, w], light [n, 3, h, w]."""
    height, width = picture.shape[-2:]
    tall, wide = keep.shape[-2:]
    if picture.device.type != "cpu":
        index = torch.from_numpy(layer.frame).to(picture.device)
        seen = picture[index] * keep
        picture[index] = seen if light is None else seen + light
        return
    for i, (frame, x, y) in enumerate(zip(layer.frame.tolist(), left.tolist(), top.tolist(), strict=True)):
        x0, x1, y0, y1 = max(-x, 0), min(width - x, wide), max(-y, 0), min(height - y, tall)
        if x0 < x1 and y0 < y1:
            target = picture[frame, :, y + y0:y + y1, x + x0:x + x1]
            target.mul_(keep[i, :, y0:y1, x0:x1])
            if light is not None:
                target.add_(light[i, :, y0:y1, x0:x1])


def _stamp(picture: Tensor, layer: Layer, _: str) -> None:
    """Composite sprites; each from the atlas level nearest to its size."""
    sheet = atlas(str(picture.device))
    pixels = np.maximum(np.abs(layer.wide), np.abs(layer.tall))
    level = np.clip(np.round(np.log2(CELL / np.maximum(pixels, 1))), 0, len(sheet.levels) - 1).astype(int)
    for number in np.unique(level):
        chosen = Layer(**{name: getattr(layer, name)[level == number] for name in Layer.__dataclass_fields__})
        _stamp_level(picture, chosen, sheet, int(number))


def _stamp_level(picture: Tensor, layer: Layer, sheet: Atlas, level: int) -> None:
    cos, sin = np.cos(layer.angle), np.sin(layer.angle)
    wide, tall = np.abs(layer.wide), np.abs(layer.tall)
    left, top, h, w = _boxes(layer, (abs(cos) * wide + abs(sin) * tall) / 2, (abs(sin) * wide + abs(cos) * tall) / 2,
                             picture)
    dx, dy = _offsets(layer, left, top, h, w, picture.device)

    def factor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).float().to(picture.device)[:, None, None]

    source = sheet.levels[level]
    across, down = 2 / COLUMNS, 2 * (CELL >> level) / source.shape[2]                         # a cell in grid units
    grid = torch.empty(len(left), h, w, 2, device=picture.device)
    for i, (p, q, signed, cell, step) in enumerate((
            (dx, dy, layer.wide, layer.cell % COLUMNS, across), (dy, -dx, layer.tall, layer.cell // COLUMNS, down))):
        middle = factor((cell + 0.5) * step - 1)
        torch.add(p * factor(step * cos / signed) + middle, q * factor(step * sin / signed), out=grid[..., i])
        torch.clamp(grid[..., i], middle - step / 2, middle + step / 2, out=grid[..., i])
    drawn = F.grid_sample(source, rearrange(grid, "n h w two -> 1 (n h) w two"), align_corners=False)
    drawn = rearrange(drawn, "1 c (n h) w -> n c h w", h=h)
    _blend(picture, layer, left, top, 1 - drawn[:, 3:], drawn[:, :3])


def _shade(picture: Tensor, layer: Layer, shade: str) -> None:
    """Soft ellipses under the feet: darker ground, or white foam."""
    left, top, h, w = _boxes(layer, 2.0 * layer.wide, 2.0 * layer.tall, picture)
    dx, dy = _offsets(layer, left, top, h, w, picture.device)
    rx, ry = (torch.from_numpy(r).float().to(picture.device)[:, None, None] for r in (layer.wide, layer.tall))
    cover = torch.exp(-(dx / (0.8 * rx)).square()) * torch.exp(-(dy / (0.8 * ry)).square())
    cover = (0.45 if shade == "dark" else 0.7) * cover[:, None]
    _blend(picture, layer, left, top, 1 - cover, None if shade == "dark" else cover.expand(-1, 3, -1, -1))
