"""Animated backgrounds as closed forms: gradients, wavy edges, and fields of soft blobs. All of them repeat after a
bar of 8 s, so that a time says what is seen, and a video of 8 s is a loop.

A blob field is a sum of products of a profile along x and one along y, hence one batched matrix product."""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from sora_cli.world.motion import BAR, TAU

Wave = tuple[float, float, int, float]       # amplitude, cycles per unit, cycles per bar, phase


@dataclass(frozen=True)
class View:
    """What the camera sees in N frames. x in short sides from the centre, y as a share of the height."""

    x: Tensor                      # [N, W]
    y: Tensor                      # [N, H]
    t: Tensor                      # [N] seconds
    camera: Tensor                 # [N] pan in short sides
    zoom: Tensor                   # [N]
    chance: Tensor                 # [N, 3] in [0, 1): the scene's tint
    wide: float                    # the frame in short sides
    tall: float
    short: int                     # pixels of the short side
    canvas: Tensor                 # [N, 3, H, W] to paint on

    def cut(self, rows: slice, columns: slice = slice(None)) -> "View":
        """A part of the view, painting on that part of the canvas."""
        return replace(self, x=self.x[:, columns], y=self.y[:, rows], canvas=self.canvas[:, :, rows, columns])

    def band(self, above: float, below: float) -> "View":
        """The rows that lie between two heights in any frame."""
        return self.cut(_span(((self.y > above) & (self.y < below)).any(0)))

    def around(self, x: float, reach: float) -> "View":
        """The columns that are nearer to x than `reach` in any frame."""
        return self.cut(slice(None), _span(((self.x - x).abs() < reach).any(0)))

    def along(self, depth: float) -> Tensor:
        """x [N, W] of a layer that follows the camera by `depth` (0 far, 1 near)."""
        return self.x + (self.camera * depth)[:, None]

    def turns(self, cycles: int | Tensor) -> Tensor:
        """How often something that has so many cycles a bar has turned by now [N], or [N, K] for cycles [K]."""
        t = self.t if isinstance(cycles, int) else self.t[:, None]
        return t * cycles / BAR

    def colour(self, code: str) -> Tensor:
        """#rrggbb -> [N, 3, 1, 1], with the scene's tint."""
        rgb = torch.tensor([int(code[i:i + 2], 16) / 255 for i in (1, 3, 5)], device=self.x.device)
        return (rgb * (0.96 + 0.08 * self.chance)).clamp(max=1)[:, :, None, None]

    def gradient(self, *stops: tuple[float, str]) -> Tensor:
        """Colours at heights -> [N, 3, H, 1]."""
        made = self.colour(stops[0][1])
        for (above, _), (below, code) in pairwise(stops):
            share = ((self.y - above) / (below - above)).clamp(0, 1)[:, None, :, None]
            made = made + (self.colour(code) - made) * share
        return made

    def edge(self, level: float, waves: list[Wave], depth: float) -> Tensor:
        """Height [N, W] of a wavy edge."""
        x = self.along(depth)
        height = torch.full_like(x, level)
        for a, f, s, p in waves:
            height += a * torch.sin(TAU * (f * x + self.turns(s)[:, None] + p))
        return height

    def scatter(self, count: int, depth: float, drift: float, salt: float) -> tuple[Tensor, Tensor]:
        """About `count` places a 2.4 units: x [N, K] now and a random number [K]; `drift` is their first speed."""
        span = max(2.4, self.wide + 0.8)
        k = torch.arange(round(count * span / 2.4), device=self.x.device)
        start = (k * 0.7548776662 + salt) % 1 * span
        x = start + (drift * BAR / TAU * torch.sin(TAU * self.turns(1)) - depth * self.camera)[:, None]
        return (x + span / 2) % span - span / 2, (k * 0.5698402910 + salt) % 1

    def blobs(self, x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float,
              weight: Tensor | float = 1.0, flat: float = 1.0) -> Tensor:
        """Sum of Gaussians at x, y [N, K], radii in short sides -> [N, H, W]; `flat` as high below y."""
        across = torch.exp(-((self.x[:, None, :] - x[:, :, None]) / _column(rx)).square())
        rise = (self.y[:, None, :] - y[:, :, None]) * self.tall / _column(ry)
        down = torch.exp(-torch.maximum(-rise, rise / flat).square())
        return torch.bmm((down * _column(weight)).mT, across)

    @property
    def sharp(self) -> Tensor:
        """Pixels per short side [N, 1, 1]."""
        return self.zoom[:, None, None] * self.short


def _column(value: Tensor | float) -> Tensor | float:
    return value[..., :, None] if isinstance(value, Tensor) else value


def _span(touched: Tensor) -> slice:
    """From the first to the last true entry."""
    where = touched.nonzero()
    return slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0)


def fill(view: View, colours: Tensor) -> None:
    """The whole canvas in colours [N, 3, H, 1]."""
    view.canvas.copy_(colours.expand_as(view.canvas))


def paint(view: View, mask: Tensor, colour: Tensor) -> None:
    """The canvas towards colour [N, 3, 1 | H, 1] where mask [N, H, W] is 1."""
    view.canvas.lerp_(colour, mask[:, None])


def disc(view: View, x: float, y: float, radius: float, *colours: tuple[float, str]) -> View:
    """A crisp disc, in one colour or a gradient; very far away, so that panning does not move it."""
    part = view.band(y - 1.05 * radius / view.tall, y + 1.05 * radius / view.tall).around(x, 1.05 * radius)
    paint(part, within(part, x, y, radius), part.gradient(*colours))
    return part


def within(view: View, x: float, y: float, radius: float) -> Tensor:
    """1 inside a disc [N, H, W]."""
    distance = ((view.x - x).square()[:, None, :] + ((view.y - y) * view.tall).square()[:, :, None]).sqrt()
    return ((radius - distance) * view.sharp + 0.5).clamp(0, 1)


def ground(view: View, edge: Tensor, *colours: tuple[float, str]) -> None:
    """Fill everything below edge [N, W]; only the rows that the edge crosses are blended."""
    unit = view.sharp * view.tall                                                   # pixels a height
    touched = _rows(view, edge, edge)
    solid = view.cut(slice(touched.stop, None))
    fill(solid, solid.gradient(*colours))
    part = view.cut(touched)
    paint(part, ((part.y[:, :, None] - edge[:, None, :]) * unit + 0.5).clamp(0, 1), part.gradient(*colours))


def _rows(view: View, above: Tensor, below: Tensor) -> slice:
    """The rows between two edges [N, W], in any frame, and a pixel around them."""
    pixel = 1 / (view.short * view.tall)
    first = (view.y < above.amin(1, keepdim=True) - pixel).all(0).sum()
    last = (view.y <= below.amax(1, keepdim=True) + pixel).any(0).sum()
    return slice(int(first), int(last))


def hills(view: View, level: float, waves: list[Wave], depth: float, *colours: tuple[float, str]) -> Tensor:
    """Ground below a wavy edge [N, W], which is returned."""
    edge = view.edge(level, waves, depth)
    ground(view, edge, *colours)
    return edge


def line(view: View, edge: Tensor, width: float, colour: str, alpha: float) -> None:
    """A soft line along edge [N, W], `width` in shares of the height."""
    part = view.cut(_rows(view, edge - 2.8 * width, edge + 2.8 * width))
    off = (part.y[:, :, None] - edge[:, None, :]) / width
    paint(part, torch.exp(-off.square()) * alpha, part.colour(colour))


def clouds(view: View, count: int, top: float, bottom: float, colour: str, drift: float = 0.06,
           size: float = 1.0, alpha: float = 0.95) -> None:
    """Puffs of three Gaussians each, flat below, cut at a soft threshold."""
    x, u = view.scatter(count, 0.15, drift, 0.13)
    y = (top + (bottom - top) * u)[None].repeat(len(x), 3)
    grow = size * (0.65 + 0.6 * ((u * 7) % 1))
    xs = torch.cat([x - 0.115 * grow, x, x + 0.105 * grow], 1)
    rx = torch.cat([0.085 * grow, 0.105 * grow, 0.08 * grow])
    ry = torch.cat([0.055 * grow, 0.10 * grow, 0.065 * grow])
    part = view.band(top - 0.3 * size, bottom + 0.12 * size)
    paint(part, ((part.blobs(xs, y, rx, ry, flat=0.4) - 0.32) * 3).clamp(0, alpha), part.colour(colour))


def stars(view: View, count: int, bottom: float, salt: float = 0.31) -> None:
    x, u = view.scatter(count, 0.08, 0.0, salt)
    v = (u * 17.31) % 1
    bright = 0.55 + 0.45 * torch.sin(TAU * (view.turns(2 + (3 * v).floor()) + u))
    size = 0.008 + 0.008 * v
    part = view.band(-0.1, bottom + 0.1)
    field = part.blobs(x, (u * bottom)[None].expand_as(x), size, size, bright)
    paint(part, field.clamp(0, 1), part.colour("#ffffff"))


def flakes(view: View, count: int, speed: int, size: float, colour: str, sway: float = 0.03,
           salt: float = 0.57, low: float = 1.1, high: float = -0.1, alpha: float = 0.9) -> None:
    """Things that fall (speed > 0: a bar plus one more a second of them) or rise, swaying, between two heights."""
    x, u = view.scatter(count, 0.5, 0.0, salt)
    v = (u * 13.7) % 1
    falls = speed * (1 + (2 * v).floor())
    y = (u + view.turns(falls)) % 1 * (low - high) + high
    x = x + sway * torch.sin(TAU * (view.turns(2)[:, None] + v))
    radius = size * (0.6 + 0.8 * v)
    paint(view, (1.5 * view.blobs(x, y, radius, radius)).clamp(0, alpha), view.colour(colour))


def spikes(view: View, foot: float, tall: float, often: float, slim: float, jagged: float, depth: float,
           *colours: tuple[float, str], sway: float = 0.02) -> None:
    """A row of pines (jagged) or blades: one every 1 / often units, `slim` of the gap wide."""
    x = view.along(depth) * often
    tree = torch.floor(x)
    height = tall * (0.6 + 0.4 * ((tree * 0.618034) % 1))
    lean = sway * torch.sin(TAU * (view.turns(2)[:, None] + tree * 0.3)) + 0.2 * torch.sin(2.4 * tree)
    side = ((x - tree - 0.5 + lean).abs() * 2 / slim).clamp(max=1)
    outline = 1 - side - jagged * (0.5 - (side * 4) % 1) * (side < 1)
    ground(view, foot - height * outline.clamp(min=0), *colours)
