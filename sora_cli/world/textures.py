"""Generic moving imagery, so that the VAE also learns footage that is not the world: dead leaves, noise,
gradients, rows of glyphs; panned, zoomed and turned, some with a second picture moving in front."""

from random import Random

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from sora_cli.world.sprites import CELL, COLUMNS, NAMES, atlas

_MARGIN = 1.3                      # an image is this much larger than what is seen of it


@torch.no_grad()
def generic(n: int, frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """n clips [n, frames, 3, H, W] in [0, 1] on the generator's device, each of a random kind."""
    seeds = torch.randint(2**31, (n,), generator=generator, device=generator.device).tolist()
    return torch.stack([_clip(Random(seed), frames, height, width, generator.device) for seed in seeds])


def image(rng: Random, height: int, width: int) -> Tensor:
    """A picture [3, H, W] of a random kind, on the CPU."""
    return rng.choice((leaves, leaves, noise, gradient, glyphs, stickers))(rng, height, width).clamp(0, 1)


def leaves(rng: Random, height: int, width: int) -> Tensor:
    """Dead leaves: occluding discs and boxes whose sizes follow a power law, as in photographs."""
    picture = gradient(rng, height, width)
    short = min(height, width)
    for _ in range(90):
        radius = short * 0.03 * min(rng.random() ** -0.6, 14)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        top, left = max(int(y - radius), 0), max(int(x - radius), 0)
        part = picture[:, top:int(y + radius) + 2, left:int(x + radius) + 2]
        dy = torch.arange(part.shape[1])[:, None] + top - y
        dx = torch.arange(part.shape[2])[None] + left - x
        shade = 1 + (rng.uniform(-0.3, 0.3) * dx + rng.uniform(-0.3, 0.3) * dy) / radius
        part.lerp_(shade * _colour(rng), (radius - _distance(rng, dx, dy) + 0.5).clamp(0, 1))
    return picture


def _distance(rng: Random, dx: Tensor, dy: Tensor) -> Tensor:
    """Round, or a box, of random proportions."""
    stretch = rng.uniform(1, 2.5)
    dx, dy = (dx, dy * stretch) if rng.random() < 0.5 else (dx * stretch, dy)
    return (dx.square() + dy.square()).sqrt() if rng.random() < 0.6 else torch.maximum(dx.abs(), dy.abs())


def noise(rng: Random, height: int, width: int) -> Tensor:
    """Octaves of smooth noise; the slope from clouds to grain is random."""
    torch_rng, fall = torch.Generator().manual_seed(rng.randrange(2**31)), rng.uniform(0.4, 0.95)
    total = torch.zeros(1, 3, height, width)
    for octave in range(1, 7):
        rows, columns = min(2**octave + 1, height), min(2**octave * width // height + 2, width)
        grain = torch.randn(1, 3, rows, columns, generator=torch_rng)
        total += fall**octave * F.interpolate(grain, (height, width), mode="bilinear", align_corners=True)
    mix = torch.eye(3) * rng.uniform(0.1, 1) + torch.rand(3, 1, generator=torch_rng) * rng.uniform(0.2, 1)
    mixed = torch.einsum("dc,chw->dhw", mix, total[0] / total.std())
    return (0.5 + 0.2 * mixed) * 0.8 + 0.2 * _colour(rng)


def gradient(rng: Random, height: int, width: int) -> Tensor:
    """A few colours spread smoothly, sometimes with a grating."""
    colours = torch.stack([_colour(rng) for _ in range(rng.choice((2, 4, 6, 9)))])
    rows = rng.choice([r for r in (1, 2, 3) if len(colours) % r == 0])
    grid = rearrange(colours, "(r k) c 1 1 -> 1 c r k", r=rows)
    picture = F.interpolate(grid, (height, width), mode="bilinear", align_corners=True)[0]
    if rng.random() < 0.4:
        fx, fy = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25)
        phase = fx * torch.arange(width)[None] + fy * torch.arange(height)[:, None]
        picture = picture + rng.uniform(0.03, 0.3) * torch.sin(phase * rng.uniform(0.2, 4))
    return picture.clamp(0, 1)


def glyphs(rng: Random, height: int, width: int) -> Tensor:
    """Lines of random 5 x 7 letters with gaps for words, on a calm background."""
    torch_rng, scale = torch.Generator().manual_seed(rng.randrange(2**31)), rng.choice((1, 2, 3, 4, 6))
    lines, letters = height // (10 * scale) + 1, width // (6 * scale) + 1
    ink = torch.rand(lines, letters, 7, 5, generator=torch_rng) < 0.45
    ink &= torch.rand(lines, letters, 1, 1, generator=torch_rng) < 0.82
    page = rearrange(F.pad(ink, (0, 1, 0, 3)), "l n h w -> (l h) (n w)")
    page = repeat(page, "h w -> (h s) (w t)", s=scale, t=scale)[:height, :width].float()
    return torch.lerp(gradient(rng, height, width), _colour(rng).expand(3, height, width), page)


def stickers(rng: Random, height: int, width: int) -> Tensor:
    """The world's sprites strewn over noise or a gradient, mirrored and of any size."""
    picture, sheet = rng.choice((noise, gradient))(rng, height, width), atlas().levels[0]
    for _ in range(12):
        size, cell = rng.randint(CELL // 5, CELL), rng.randrange(len(NAMES))
        row, column = divmod(cell, COLUMNS)
        cut = sheet[:, :, row * CELL:(row + 1) * CELL, column * CELL:(column + 1) * CELL]
        drawn = F.interpolate(cut, (size, size), mode="bilinear", antialias=True)[0].flip(-1)
        y, x = rng.randrange(height), rng.randrange(width)
        part = picture[:, y:y + size, x:x + size]
        drawn = drawn[:, :part.shape[1], :part.shape[2]]
        part.mul_(1 - drawn[3:]).add_(drawn[:3])
    return picture


def _colour(rng: Random) -> Tensor:
    """[3, 1, 1], more often greyish than pure, as in photographs."""
    grey, pure = rng.random(), rng.random() ** 1.5
    return torch.tensor([grey + pure * (rng.random() - grey) for _ in range(3)])[:, None, None]


def _clip(rng: Random, frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """[T, 3, H, W]: an image under a moving camera; half the time another passes in front, in an ellipse."""

    def moving() -> Tensor:
        picture = image(rng, round(height * _MARGIN), round(width * _MARGIN)).to(device)
        return _panned(rng, picture, frames, height, width)

    clip = moving()
    if rng.random() < 0.5:
        clip = torch.lerp(clip, moving(), _ellipse(rng, frames, height, width, device))
    return clip


def _steps(rng: Random, frames: int, start: float, speed: float) -> Tensor:
    """[T] a number that starts within +-start and changes by at most speed a frame."""
    return rng.uniform(-start, start) + torch.arange(frames) * rng.uniform(-speed, speed)


def _panned(rng: Random, picture: Tensor, frames: int, height: int, width: int) -> Tensor:
    pace = 0.0 if rng.random() < 0.2 else rng.random()
    scale = (1 + _steps(rng, frames, 0.1, 0.01 * pace)) / _MARGIN
    turn = _steps(rng, frames, 0.05, 0.01 * pace if rng.random() < 0.3 else 0.0)
    x, y = _steps(rng, frames, 0.1, 0.03 * pace), _steps(rng, frames, 0.1, 0.03 * pace)
    cos, sin, aspect = scale * turn.cos(), scale * turn.sin(), width / height
    rows = torch.stack([cos, -sin / aspect, x], -1), torch.stack([sin * aspect, cos, y], -1)
    theta = torch.stack(rows, 1)
    grid = F.affine_grid(theta.to(picture.device), [frames, 3, height, width], align_corners=False)
    still_frames = picture[None].expand(frames, -1, -1, -1)
    return F.grid_sample(still_frames, grid, padding_mode="reflection", align_corners=False)


def _ellipse(rng: Random, frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """A moving mask [T, 1, H, W] with an edge of about two pixels."""
    x, y = _steps(rng, frames, 0.6, 0.06).to(device), _steps(rng, frames, 0.6, 0.06).to(device)
    rx, ry = rng.uniform(0.15, 0.7), rng.uniform(0.15, 0.7)
    dx = (torch.linspace(-1, 1, width, device=device) - x[:, None]) / rx
    dy = (torch.linspace(-1, 1, height, device=device) - y[:, None]) / ry
    reach = (dx.square()[:, None, None, :] + dy.square()[:, None, :, None]).sqrt()
    return ((1 - reach) * min(rx * width, ry * height) / 4 + 0.5).clamp(0, 1)
