"""Animated backgrounds as closed forms: gradients, wavy edges, and fields of soft blobs. All of them repeat after a
bar of 8 s, so that a time says what is seen, and a video of 8 s is a loop.

A blob field is a sum of products of a profile along x and one along y, hence one batched matrix product."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

TAU = 2 * torch.pi
BAR = 8.0                                    # seconds after which everything repeats
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
        """About `count` places a 2.4 units: x [N, K] now, and a number in [0, 1) for each [K]. `drift` is their speed
        at the beginning of the bar, from where they sway."""
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
    part = view.band(y - 1.05 * radius / view.tall, y + 1.05 * radius / view.tall)
    part = part.cut(slice(None), _span(((part.x - x).abs() < 1.05 * radius).any(0)))
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
    """Things that fall (speed > 0, falls a bar, and one more for every second of them) or rise, swaying, between two
    heights."""
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


# ---------------------------------------------------------------------------------------------------- places

def ocean(view: View) -> None:
    fill(view, view.gradient((0.0, "#5db8f5"), (0.5, "#e3f5ff")))
    disc(view, 0.55, 0.16, 0.085, (0.0, "#fff3b0"))
    clouds(view, 4, 0.16, 0.30, "#ffffff", size=0.8)
    far = view.edge(0.47, [(0.010, 0.9, 1, 0.0), (0.006, 2.1, -1, 0.3)], 0.25)
    ground(view, far, (0.45, "#4fb0ee"), (0.65, "#2b86da"))
    middle = view.edge(0.59, [(0.018, 0.8, 2, 0.2), (0.008, 1.9, 2, 0.7)], 0.5)
    ground(view, middle, (0.56, "#3394e2"), (0.8, "#1b63bf"))
    line(view, middle + 0.004, 0.008, "#d8f1ff", 0.55)
    near = view.edge(0.75, [(0.026, 0.6, 3, 0.5), (0.010, 1.5, 3, 0.1)], 0.9)
    ground(view, near, (0.72, "#1f6fcb"), (1.0, "#0c3c8c"))
    line(view, near + 0.005, 0.011, "#e8f8ff", 0.7)


def sky(view: View) -> None:
    fill(view, view.gradient((0.0, "#3f93ea"), (1.0, "#cdeaff")))
    clouds(view, 6, 0.16, 0.94, "#ffffff", drift=0.08, size=1.15)


def space(view: View) -> None:
    fill(view, view.gradient((0.0, "#05061a"), (1.0, "#1d0f3f")))
    x, u = view.scatter(3, 0.05, 0.01, 0.2)
    mist = view.blobs(x, (0.25 + 0.5 * u)[None].expand_as(x), 0.38, 0.2)
    paint(view, 0.45 * mist.clamp(0, 1), view.colour("#5a2c8f"))
    stars(view, 46, 1.0)
    disc(view, -0.56, 0.24, 0.12, (0.1, "#ffb976"), (0.38, "#b4552f"))


def meadow(view: View) -> None:
    fill(view, view.gradient((0.0, "#6cc1ff"), (0.55, "#e2f6ff")))
    disc(view, -0.55, 0.17, 0.1, (0.0, "#ffe36b"))
    clouds(view, 4, 0.15, 0.32, "#ffffff", size=0.85)
    ground(view, view.edge(0.52, [(0.045, 0.45, 0, 0.1), (0.02, 0.9, 0, 0.4)], 0.3),
           (0.45, "#a6dd7a"), (0.75, "#79c455"))
    ground(view, view.edge(0.66, [(0.035, 0.6, 0, 0.55), (0.004, 3.0, 2, 0.0)], 0.7),
           (0.62, "#6cc24a"), (1.0, "#2f8f2f"))
    x, u = view.scatter(18, 1.0, 0.0, 0.41)
    x = x + 0.008 * torch.sin(TAU * (view.turns(4)[:, None] + 3 * u))
    y = (0.76 + 0.22 * ((u * 2.62) % 1))[None].expand_as(x)
    part, half = view.band(0.70, 1.1), x.shape[1] // 2
    for flowers, code in ((slice(half), "#ffdf3d"), (slice(half, None), "#f4679d")):
        petals = part.blobs(x[:, flowers], y[:, flowers], 0.017, 0.017)
        paint(part, (1.6 * petals).clamp(0, 1), part.colour(code))


def desert(view: View) -> None:
    fill(view, view.gradient((0.0, "#f7b267"), (0.6, "#fff0cf")))
    disc(view, 0.52, 0.2, 0.11, (0.0, "#fffbe6"))
    spikes(view, 0.62, 0.30, 0.95, 0.55, 0.0, 0.2, (0.3, "#d9a35c"), (0.62, "#b98447"), sway=0.0)
    ground(view, view.edge(0.58, [(0.03, 0.35, 0, 0.1), (0.002, 4.0, 6, 0.0)], 0.3),
           (0.5, "#eec07a"), (0.75, "#dba257"))
    ground(view, view.edge(0.68, [(0.045, 0.5, 0, 0.6), (0.012, 1.1, 0, 0.0)], 0.6),
           (0.62, "#e2a552"), (0.9, "#c98637"))
    ground(view, view.edge(0.84, [(0.03, 0.4, 0, 0.3)], 1.0), (0.8, "#d6943f"), (1.0, "#b06c24"))


def city(view: View) -> None:
    fill(view, view.gradient((0.0, "#0b1238"), (0.8, "#4b3a78")))
    stars(view, 16, 0.35, 0.77)
    disc(view, 0.55, 0.17, 0.085, (0.0, "#fff6cf"))
    _blocks(view, 0.30, 0.16, "#2b2b5c", None, 0.3, 0.37)
    _blocks(view, 0.36, 0.24, "#15173a", "#ffd768", 0.6, 0.0)
    road = torch.full_like(view.x, 0.86)
    ground(view, road, (0.86, "#3a3a52"), (1.0, "#23233a"))
    line(view, road + 0.07, 0.008, "#e9d27a", 0.5)


def _blocks(view: View, width: float, least: float, code: str, lit: str | None, depth: float,
            salt: float) -> None:
    """A row of houses `width` apart; windows go on and off."""
    x = view.along(depth) / width + salt
    house = torch.floor(x)
    tall = least + 0.28 * ((house * 0.618034 + salt) % 1)
    wall = ((0.44 - (x - house - 0.5).abs()) * view.sharp[:, 0] * width + 0.5).clamp(0, 1)
    roof = 0.86 - 0.5 * least - (tall - 0.5 * least) * wall
    ground(view, roof, (0.0, code))
    if lit:
        _windows(view, x - house, house, roof, width, lit)


def _windows(view: View, x: Tensor, house: Tensor, roof: Tensor, width: float, lit: str) -> None:
    """Three windows a floor; x [N, W] runs from 0 to 1 along a house."""
    column = (x - 0.12) / 0.76 * 3
    pane = _box((column % 1 - 0.5).abs(), 0.27, view.sharp[:, 0] * width * 0.76 / 3)
    pane = pane * ((column > 0) & (column < 3))
    floors = 0.40 + 0.055 * torch.arange(8, device=x.device)
    part = view.band(0.38, 0.85)
    down = _box((part.y[:, :, None] - floors - 0.014).abs(), 0.013, part.sharp * part.tall)    # [N, H, R]
    key = (house + 0.37 * torch.floor(column))[:, None, :] * 0.7548 + floors[:, None] * 10.36  # [N, R, W]
    awake = torch.sin(TAU * (key * 7.3 + view.turns(1)[:, None, None]))
    light = ((awake + 0.25) * 6).clamp(0, 1) * (floors[:, None] > roof[:, None, :] + 0.02) * pane[:, None, :]
    paint(part, torch.bmm(down, light) * 0.9, part.colour(lit))


def _box(distance: Tensor, half: Tensor | float, sharp: Tensor) -> Tensor:
    return ((half - distance) * sharp + 0.5).clamp(0, 1)


def snow(view: View) -> None:
    fill(view, view.gradient((0.0, "#8aa9cb"), (0.6, "#dfe9f3")))
    spikes(view, 0.62, 0.26, 5.0, 0.62, 0.07, 0.3, (0.3, "#6d98a0"), (0.62, "#4a7480"), sway=0.01)
    ground(view, view.edge(0.60, [(0.035, 0.5, 0, 0.3), (0.01, 1.3, 0, 0.1)], 0.35),
           (0.55, "#eef4fa"), (0.8, "#c9d9ea"))
    ground(view, view.edge(0.76, [(0.03, 0.45, 0, 0.8)], 0.8), (0.72, "#ffffff"), (1.0, "#dbe6f3"))
    flakes(view, 44, 1, 0.014, "#ffffff")


def sunset(view: View) -> None:
    fill(view, view.gradient((0.0, "#6b3fa0"), (0.25, "#f2617a"), (0.55, "#ffc56b")))
    disc(view, 0.0, 0.5, 0.17, (0.0, "#fff0a8"))
    ground(view, view.edge(0.55, [(0.003, 1.5, 2, 0.0)], 0.2), (0.55, "#f58a6b"), (0.82, "#8a3f83"))
    part = view.band(0.56, 0.77)
    glint = torch.exp(-(part.x / 0.2).square())[:, None, :]
    ripple = torch.sin(TAU * (part.y * 26 - part.turns(6)[:, None])).clamp(min=0)[:, :, None]
    paint(part, 0.55 * ripple * glint, part.colour("#ffe9a0"))
    lap = view.edge(0.775, [(0.012, 0.7, 0, 0.2), (0.010, 0.0, 2, 0.0)], 0.9)
    ground(view, lap, (0.76, "#c98a5e"), (0.8, "#e0ac74"), (1.0, "#b87a4c"))
    line(view, lap, 0.010, "#fff1e0", 0.8)


def forest(view: View) -> None:
    fill(view, view.gradient((0.0, "#bfe3c0"), (0.7, "#eaf7d0")))
    spikes(view, 0.80, 0.62, 3.7, 0.80, 0.07, 0.25, (0.2, "#9ccfa2"), (0.8, "#86bd92"))
    spikes(view, 0.82, 0.66, 2.5, 0.72, 0.07, 0.5, (0.2, "#57a36c"), (0.8, "#3f8458"))
    spikes(view, 0.86, 0.70, 1.6, 0.58, 0.07, 0.8, (0.2, "#2f7d4c"), (0.8, "#174c30"))
    ground(view, view.edge(0.80, [(0.012, 0.8, 0, 0.3)], 1.0), (0.78, "#6a5a2f"), (1.0, "#40361b"))
    flakes(view, 10, 1, 0.012, "#fff7a8", sway=0.1, salt=0.2, low=0.8, high=0.2, alpha=0.8)


def underwater(view: View) -> None:
    fill(view, view.gradient((0.0, "#4fd3d6"), (0.5, "#1283a8"), (1.0, "#07365f")))
    part = view.band(-0.1, 0.82)
    slant = part.along(0.2)[:, None, :] + 0.35 * part.y[:, :, None]
    rays = torch.sin(TAU * (0.9 * slant + part.turns(1)[:, None, None])).clamp(min=0)
    paint(part, 0.3 * rays * (1 - 1.2 * part.y[:, :, None]).clamp(min=0), part.colour("#d8fff6"))
    spikes(view, 0.92, 0.36, 4.1, 0.30, 0.0, 0.5, (0.55, "#1f9c7c"), (0.92, "#0c5f5c"), sway=0.10)
    spikes(view, 0.95, 0.30, 2.3, 0.26, 0.0, 0.8, (0.6, "#39b36b"), (0.95, "#14694e"), sway=0.12)
    ground(view, view.edge(0.88, [(0.025, 0.5, 0, 0.2), (0.008, 1.4, 0, 0.5)], 0.9),
           (0.84, "#c9bd86"), (1.0, "#8a8a63"))
    flakes(view, 20, -1, 0.018, "#d6fbff", sway=0.03, salt=0.83, alpha=0.65)


def volcano(view: View) -> None:
    fill(view, view.gradient((0.0, "#2a0d1d"), (0.7, "#b3361f")))
    clouds(view, 4, 0.10, 0.22, "#3a2430", drift=0.05, size=1.1, alpha=0.8)
    pulse = 0.75 + 0.25 * torch.sin(TAU * view.turns(4)[:, None])
    sky_part = view.band(-0.2, 0.72)
    glow = sky_part.blobs(torch.zeros_like(pulse), torch.full_like(pulse, 0.28), 0.28, 0.2, pulse)
    paint(sky_part, 0.95 * glow, sky_part.colour("#ffa53a"))
    ground(view, (0.22 + 0.62 * (view.x.abs() - 0.02)).clamp(min=0.30), (0.3, "#5d3234"), (0.85, "#2b1a22"))
    _lava(view.band(0.28, 0.83))
    ground(view, view.edge(0.80, [(0.02, 0.8, 0, 0.2), (0.008, 2.3, 0, 0.6)], 0.9),
           (0.78, "#3b2a2e"), (1.0, "#1a1216"))
    flakes(view, 24, -1, 0.012, "#ffb53f", sway=0.06, salt=0.11, low=0.85, high=-0.1)


def _lava(view: View) -> None:
    """A stream down the slope; the light in it runs."""
    view = view.cut(slice(None), _span((view.x.abs() < 0.4).any(0)))
    y = view.y[:, :, None]
    bend = 0.05 * torch.sin(TAU * 1.6 * y) + 0.32 * (y - 0.3)
    light = 0.8 + 0.2 * torch.sin(TAU * (5 * y - view.turns(5)[:, None, None]))
    stream = torch.exp(-((view.x[:, None, :] - bend) / 0.045).square()) * ((y - 0.29) * 30).clamp(0, 1)
    paint(view, stream * light, view.colour("#ff6a1f"))


def moon(view: View) -> None:
    fill(view, view.gradient((0.0, "#02030c"), (0.7, "#10142c")))
    stars(view, 34, 0.62, 0.63)
    earth = disc(view, 0.50, 0.22, 0.15, (0.08, "#5cb8ff"), (0.4, "#0f4fae"))
    x, u = view.scatter(4, 0.0, 0.03, 0.5)
    land = earth.blobs(x * 0.25 + 0.5, (0.14 + 0.16 * u)[None].expand_as(x), 0.05, 0.03)
    paint(earth, within(earth, 0.50, 0.22, 0.15) * (land * 1.5).clamp(0, 0.9), earth.colour("#58b368"))
    ground(view, view.edge(0.66, [(0.02, 0.5, 0, 0.1), (0.006, 1.7, 0, 0.4)], 0.5),
           (0.63, "#c9cbd3"), (1.0, "#8b8e9b"))
    x, u = view.scatter(9, 0.8, 0.0, 0.05)
    size, part = (u * 5) % 1, view.band(0.70, 1.1)
    craters = part.blobs(x, (0.76 + 0.20 * u)[None].expand_as(x), 0.05 + 0.07 * size, 0.014 + 0.02 * size)
    paint(part, ((craters - 0.25) * 2.5).clamp(0, 0.75), part.colour("#74778a"))


def aurora(view: View) -> None:
    fill(view, view.gradient((0.0, "#04102e"), (0.7, "#17406b")))
    stars(view, 30, 0.5, 0.47)
    part = view.band(-0.1, 0.68)
    for level, code, phase, cycles in ((0.34, "#3ff2a0", 0.0, 1), (0.26, "#7a6cf0", 0.45, -1)):
        hem = part.edge(level, [(0.07, 0.45, cycles, phase), (0.02, 1.7, 2 * cycles, 0.2)], 0.1)
        above = hem[:, None, :] - part.y[:, :, None]
        folds = 0.7 + 0.3 * torch.sin(TAU * (3.5 * part.along(0.1) + part.turns(cycles)[:, None] + phase))[:, None, :]
        veil = torch.exp(-above.clamp(min=0) / 0.14) * torch.exp(-(above.clamp(max=0) / 0.02).square())
        paint(part, 0.85 * folds * veil, part.colour(code))
    spikes(view, 0.66, 0.20, 3.3, 0.60, 0.07, 0.35, (0.4, "#10304a"), (0.66, "#0a2036"), sway=0.0)
    ground(view, view.edge(0.66, [(0.03, 0.4, 0, 0.6), (0.01, 1.1, 0, 0.2)], 0.6), (0.6, "#5b86ad"), (1.0, "#b9d3e6"))


def stage(view: View) -> None:
    fill(view, view.gradient((0.0, "#2a0a14"), (0.8, "#5a1524")))
    folds = torch.sin(TAU * 2.6 * view.along(0.3))[:, None, :] * torch.ones_like(view.y)[:, :, None]
    paint(view, 0.45 * folds.clamp(min=0), view.colour("#a5203a"))
    for middle, code, cycles in ((-0.45, "#ffe08a", 2), (0.45, "#8ad4ff", -2)):
        lean = middle + 0.30 * torch.sin(TAU * view.turns(cycles))[:, None, None]
        at = (view.x[:, None, :] - middle * 0.4) - (lean - middle * 0.4) * (view.y[:, :, None] + 0.1)
        beam = torch.exp(-(at / (0.03 + 0.13 * (view.y[:, :, None] + 0.1).clamp(min=0))).square())
        paint(view, 0.55 * beam * (1.1 - view.y[:, :, None]).clamp(0, 1), view.colour(code))
    boards = view.edge(0.80, [(0.0, 1.0, 0, 0.0)], 0.0)
    ground(view, boards, (0.80, "#b9783f"), (1.0, "#6d401d"))
    line(view, boards + 0.07, 0.006, "#7c4a22", 0.6)
    line(view, boards + 0.14, 0.007, "#7c4a22", 0.6)


PAINTERS: dict[str, Callable[[View], None]] = {
    "ocean": ocean, "sky": sky, "space": space, "meadow": meadow, "desert": desert, "city at night": city,
    "snow": snow, "sunset beach": sunset, "forest": forest, "underwater": underwater, "volcano": volcano,
    "moon": moon, "aurora": aurora, "stage": stage,
}
