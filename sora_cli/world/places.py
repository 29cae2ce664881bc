"""Twelve animated backgrounds as closed forms: gradients, wavy edges, and fields of soft blobs.

A blob field is a sum of products of a profile along x and one along y, hence one batched matrix product."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

TAU = 2 * torch.pi
Wave = tuple[float, float, float, float]     # amplitude, cycles per unit, cycles per second, phase


@dataclass(frozen=True)
class View:
    """What the camera sees in N frames. x in short sides from the centre, y as a share of the height."""

    x: Tensor                      # [N, W]
    y: Tensor                      # [N, H]
    t: Tensor                      # [N] seconds
    camera: Tensor                 # [N] pan in short sides
    zoom: Tensor                   # [N]
    chance: Tensor                 # [N, 8] in [0, 1), constant in a scene
    wide: float                    # the frame in short sides
    tall: float

    def along(self, depth: float) -> Tensor:
        """x [N, W] of a layer that follows the camera by `depth` (0 far, 1 near)."""
        return self.x + (self.camera * depth + 0.5 * (self.chance[:, 0] - 0.5))[:, None]

    def colour(self, code: str) -> Tensor:
        """#rrggbb -> [N, 3, 1, 1], with the scene's tint."""
        rgb = torch.tensor([int(code[i:i + 2], 16) / 255 for i in (1, 3, 5)], device=self.x.device)
        return (rgb * (0.93 + 0.14 * self.chance[:, 1:4])).clamp(max=1)[:, :, None, None]

    def gradient(self, *stops: tuple[float, str]) -> Tensor:
        """Colours at heights -> [N, 3, H, 1]."""
        made = self.colour(stops[0][1])
        for (above, _), (below, code) in zip(stops, stops[1:], strict=False):
            share = ((self.y - above) / (below - above)).clamp(0, 1)[:, None, :, None]
            made = made + (self.colour(code) - made) * share
        return made

    def edge(self, level: float, waves: list[Wave], depth: float) -> Tensor:
        """Height [N, W] of a wavy edge."""
        x = self.along(depth)
        return level + sum(a * torch.sin(TAU * (f * x + (s * self.t)[:, None] + p)) for a, f, s, p in waves)

    def scatter(self, count: int, depth: float, drift: float, salt: float) -> tuple[Tensor, Tensor]:
        """About `count` places a 2.4 units: x [N, K] now, and a number in [0, 1) for each [K]."""
        span = max(2.4, self.wide + 0.8)
        k = torch.arange(round(count * span / 2.4), device=self.x.device)
        start = (k * 0.7548776662 + salt) % 1 * span
        x = start + (drift * self.t - depth * self.camera - 0.5 * (self.chance[:, 0] - 0.5))[:, None]
        return (x + span / 2) % span - span / 2, (k * 0.5698402910 + salt) % 1

    def blobs(self, x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float, weight: Tensor | float = 1.0) -> Tensor:
        """Sum of Gaussians at x, y [N, K] with radii in short sides -> [N, H, W]."""
        across = torch.exp(-((self.x[:, None, :] - x[:, :, None]) / _column(rx)).square())
        down = torch.exp(-((self.y[:, None, :] - y[:, :, None]) * self.tall / _column(ry)).square())
        return torch.einsum("nkh,nkw->nhw", down * _column(weight), across)

    def disc(self, x: float, y: float, radius: float, depth: float = 0.05) -> Tensor:
        """A crisp disc [N, H, W]."""
        dx = self.x + depth * self.camera[:, None] - x
        dy = (self.y - y) * self.tall
        distance = (dx.square()[:, None, :] + dy.square()[:, :, None]).sqrt()
        return ((radius - distance) * self.sharp + 0.5).clamp(0, 1)

    @property
    def sharp(self) -> Tensor:
        """Pixels per short side [N, 1, 1]."""
        return (self.zoom * (min(self.x.shape[1] / self.wide, self.y.shape[1] / self.tall)))[:, None, None]


def _column(value: Tensor | float) -> Tensor | float:
    return value[..., :, None] if isinstance(value, Tensor) else value


def paint(picture: Tensor, mask: Tensor, colour: Tensor) -> None:
    """picture [N, 3, H, W] towards colour [N, 3, 1 | H, 1] where mask [N, H, W] is 1."""
    picture.lerp_(colour, mask[:, None])


def ground(picture: Tensor, view: View, edge: Tensor, colour: Tensor) -> None:
    """Fill everything below edge [N, W]; only the rows that the edge crosses are blended."""
    unit = view.sharp * view.tall                                                             # pixels a height
    first, solid = _rows(view, edge, unit)
    part = slice(first, solid)
    mask = ((view.y[:, part, None] - edge[:, None, :]) * unit + 0.5).clamp(0, 1)
    tall = colour.shape[2] > 1
    paint(picture[:, :, part], mask, colour[:, :, part] if tall else colour)
    picture[:, :, solid:] = colour[:, :, solid:] if tall else colour


def _rows(view: View, edge: Tensor, unit: Tensor) -> tuple[int, int]:
    if edge.is_cuda:
        return 0, view.y.shape[1]
    touched = ((view.y - edge.amin(1, keepdim=True)) * unit[:, 0] > -0.5).any(0)
    solid = ((view.y - edge.amax(1, keepdim=True)) * unit[:, 0] >= 0.5).all(0)
    return int((~touched).sum()), view.y.shape[1] - int(solid.sum())


def line(picture: Tensor, view: View, edge: Tensor, width: float, colour: Tensor, alpha: float) -> None:
    """A soft line along edge [N, W], `width` in shares of the height."""
    first, last = _rows(view, torch.cat([edge - 2.2 * width, edge + 2.2 * width], 1), view.sharp * view.tall)
    mask = torch.exp(-((view.y[:, first:last, None] - edge[:, None, :]) / width).square()) * alpha
    paint(picture[:, :, first:last], mask, colour)


def fresh(view: View, colours: Tensor) -> Tensor:
    """A picture [N, 3, H, W] of colours [N, 3, H, 1]."""
    return colours.expand(-1, -1, -1, view.x.shape[1]).contiguous()


def clouds(picture: Tensor, view: View, count: int, top: float, bottom: float, colour: str, drift: float = 0.06,
           size: float = 1.0, alpha: float = 0.95) -> None:
    """Puffs of three Gaussians each, cut at a soft threshold."""
    x, u = view.scatter(count, 0.15, drift, 0.13)
    y = (top + (bottom - top) * u)[None].expand_as(x)
    grow = size * (0.8 + 0.5 * ((u * 7) % 1))
    step = 0.11 * grow
    xs = torch.cat([x - step, x, x + 0.9 * step], 1)
    ys = torch.cat([y + 0.012, y - 0.02 * size, y + 0.014], 1)
    high = min(1.0, bottom + 0.2)
    rows = int((view.y < high).sum(1).amax())
    field = replace(view, y=view.y[:, :rows]).blobs(xs, ys, (grow * 0.115).repeat(3), (grow * 0.062).repeat(3))
    paint(picture[:, :, :rows], ((field - 0.3) * 2.2).clamp(0, alpha), view.colour(colour))


def stars(picture: Tensor, view: View, count: int, bottom: float, salt: float = 0.31) -> None:
    x, u = view.scatter(count, 0.08, 0.0, salt)
    v = (u * 17.31) % 1
    bright = 0.45 + 0.55 * torch.sin(TAU * (view.t[:, None] * (0.25 + 0.4 * v) + u))
    size = 0.007 + 0.008 * v
    field = view.blobs(x, (u * bottom)[None].expand_as(x), size, size, bright.clamp(min=0.05))
    picture += field[:, None].clamp(0, 1)
    picture.clamp_(max=1)


def flakes(picture: Tensor, view: View, count: int, speed: float, size: float, colour: str, sway: float = 0.03,
           salt: float = 0.57, low: float = 1.1, high: float = -0.1, alpha: float = 0.9) -> None:
    """Things that fall (speed > 0, heights a second) or rise, swaying, between two heights."""
    x, u = view.scatter(count, 0.5, 0.0, salt)
    v = (u * 13.7) % 1
    y = (u + view.t[:, None] * speed * (0.7 + 0.6 * v)) % 1 * (low - high) + high
    x = x + sway * torch.sin(TAU * (0.3 * view.t[:, None] + v))
    radius = size * (0.6 + 0.8 * v)
    paint(picture, (1.5 * view.blobs(x, y, radius, radius)).clamp(0, alpha), view.colour(colour))


# ---------------------------------------------------------------------------------------------------- places

def ocean(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#5db8f5"), (0.5, "#e3f5ff")))
    paint(picture, view.disc(0.55, 0.16, 0.085), view.colour("#fff3b0"))
    clouds(picture, view, 4, 0.12, 0.28, "#ffffff", size=0.8)
    far = view.edge(0.47, [(0.010, 0.9, 0.10, 0.0), (0.006, 2.1, -0.16, 0.3)], 0.25)
    ground(picture, view, far, view.gradient((0.45, "#4fb0ee"), (0.65, "#2b86da")))
    middle = view.edge(0.59, [(0.018, 0.8, 0.22, 0.2), (0.008, 1.9, 0.30, 0.7)], 0.5)
    ground(picture, view, middle, view.gradient((0.56, "#3394e2"), (0.8, "#1b63bf")))
    line(picture, view, middle + 0.004, 0.008, view.colour("#d8f1ff"), 0.55)
    near = view.edge(0.75, [(0.026, 0.6, 0.33, 0.5), (0.010, 1.5, 0.42, 0.1)], 0.9)
    ground(picture, view, near, view.gradient((0.72, "#1f6fcb"), (1.0, "#0c3c8c")))
    line(picture, view, near + 0.005, 0.011, view.colour("#e8f8ff"), 0.7)
    return picture


def sky(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#3f93ea"), (1.0, "#cdeaff")))
    clouds(picture, view, 9, 0.10, 0.92, "#ffffff", drift=0.08, size=1.25)
    return picture


def space(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#05061a"), (1.0, "#1d0f3f")))
    x, u = view.scatter(3, 0.05, 0.01, 0.2)
    mist = view.blobs(x, (0.25 + 0.5 * u)[None].expand_as(x), 0.38, 0.2)
    paint(picture, 0.45 * mist.clamp(0, 1), view.colour("#5a2c8f"))
    stars(picture, view, 46, 1.0)
    paint(picture, view.disc(-0.56, 0.24, 0.12), view.gradient((0.1, "#ffb976"), (0.38, "#b4552f")))
    return picture


def meadow(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#6cc1ff"), (0.55, "#e2f6ff")))
    paint(picture, view.disc(-0.55, 0.17, 0.1), view.colour("#ffe36b"))
    clouds(picture, view, 4, 0.12, 0.3, "#ffffff", size=0.85)
    ground(picture, view, view.edge(0.52, [(0.045, 0.45, 0.0, 0.1), (0.02, 0.9, 0.0, 0.4)], 0.3),
           view.gradient((0.45, "#a6dd7a"), (0.75, "#79c455")))
    ground(picture, view, view.edge(0.66, [(0.035, 0.6, 0.0, 0.55), (0.004, 3.0, 0.3, 0.0)], 0.7),
           view.gradient((0.62, "#6cc24a"), (1.0, "#2f8f2f")))
    x, u = view.scatter(18, 1.0, 0.0, 0.41)
    sway = 0.008 * torch.sin(TAU * (0.5 * view.t[:, None] + 3 * u))
    half = x.shape[1] // 2
    y = (0.76 + 0.22 * ((u * 9.7) % 1))[None].expand_as(x)
    for part, code in ((slice(half), "#ffdf3d"), (slice(half, None), "#f4679d")):
        low = int((view.y < 0.68).sum(1).amin())
        field = replace(view, y=view.y[:, low:]).blobs((x + sway)[:, part], y[:, part], 0.016, 0.016)
        paint(picture[:, :, low:], (1.6 * field).clamp(0, 1), view.colour(code))
    return picture


def desert(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#f7b267"), (0.6, "#fff0cf")))
    paint(picture, view.disc(0.52, 0.2, 0.11), view.colour("#fffbe6"))
    shimmer = 0.002
    ground(picture, view, view.edge(0.56, [(0.05, 0.35, 0.0, 0.1), (shimmer, 4.0, 0.8, 0.0)], 0.3),
           view.gradient((0.5, "#eec07a"), (0.75, "#dba257")))
    ground(picture, view, view.edge(0.68, [(0.045, 0.5, 0.0, 0.6), (0.012, 1.1, 0.0, 0.0)], 0.6),
           view.gradient((0.62, "#e2a552"), (0.9, "#c98637")))
    ground(picture, view, view.edge(0.84, [(0.03, 0.4, 0.0, 0.3)], 1.0), view.gradient((0.8, "#d6943f"), (1.0, "#b06c24")))
    return picture


def city(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#0b1238"), (0.8, "#4b3a78")))
    stars(picture, view, 16, 0.35, 0.77)
    paint(picture, view.disc(0.55, 0.17, 0.085), view.colour("#fff6cf"))
    _blocks(picture, view, 0.30, 0.16, "#2b2b5c", None, 0.3, 0.37)
    _blocks(picture, view, 0.36, 0.24, "#15173a", "#ffd768", 0.6, 0.0)
    road = torch.full_like(view.x, 0.86)
    ground(picture, view, road, view.gradient((0.86, "#3a3a52"), (1.0, "#23233a")))
    line(picture, view, road + 0.07, 0.008, view.colour("#e9d27a"), 0.5)
    return picture


def _blocks(picture: Tensor, view: View, width: float, least: float, code: str, lit: str | None, depth: float,
            salt: float) -> None:
    """A row of houses `width` apart; windows go on and off."""
    x = view.along(depth) / width + salt
    house = torch.floor(x)
    tall = least + 0.28 * ((house * 0.618034 + salt) % 1)
    gap = (x - house - 0.5).abs()
    roof = torch.where(gap < 0.44, 0.86 - tall, torch.full_like(tall, 0.86 - 0.5 * least))
    ground(picture, view, roof, view.colour(code))
    if lit is None:
        return
    column = (x - house - 0.12) / 0.76 * 3                                                    # three windows a floor
    pane = _box((column % 1 - 0.5).abs(), 0.27, 3 * view.sharp[:, 0] * width / 0.76 / 9) * (column > 0) * (column < 3)
    rows = torch.arange(8, device=x.device)
    top = 0.40 + 0.055 * rows                                                                 # heights of floors
    down = _box((view.y[:, :, None] - top - 0.014).abs(), 0.013, view.sharp * view.tall)       # [N, H, R]
    key = (house + 0.37 * torch.floor(column))[:, None, :] * 0.7548 + rows[:, None] * 0.5698   # [N, R, W]
    dim = torch.sin(TAU * (key * 7.3 + 0.06 * view.t[:, None, None]))
    on = ((dim + 0.25) * 6).clamp(0, 1) * (top[:, None] > roof[:, None, :] + 0.02) * pane[:, None, :]
    paint(picture, torch.bmm(down, on) * 0.9, view.colour(lit))


def _box(distance: Tensor, half: float, sharp: Tensor) -> Tensor:
    return ((half - distance) * sharp + 0.5).clamp(0, 1)


def snow(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#93aeca"), (0.6, "#dde8f2")))
    _pines(picture, view, 0.60, 0.13, 5.0, "#6f94a5", 0.3)
    ground(picture, view, view.edge(0.60, [(0.035, 0.5, 0.0, 0.3), (0.01, 1.3, 0.0, 0.1)], 0.35),
           view.gradient((0.55, "#eef4fa"), (0.8, "#c9d9ea")))
    ground(picture, view, view.edge(0.76, [(0.03, 0.45, 0.0, 0.8)], 0.8), view.gradient((0.72, "#ffffff"), (1.0, "#dbe6f3")))
    flakes(picture, view, 44, 0.16, 0.013, "#ffffff")
    return picture


def _pines(picture: Tensor, view: View, foot: float, tall: float, often: float, code: str, depth: float) -> None:
    x = view.along(depth) * often
    tree = torch.floor(x)
    height = tall * (0.55 + 0.45 * ((tree * 0.618034) % 1))
    sway = 0.04 * torch.sin(TAU * (0.2 * view.t[:, None] + tree * 0.3))
    edge = foot - height * (1 - 2 * (x - tree - 0.5 + sway).abs()).clamp(min=0)
    ground(picture, view, edge, view.colour(code))


def sunset(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#6b3fa0"), (0.25, "#f2617a"), (0.55, "#ffc56b")))
    paint(picture, view.disc(0.0, 0.5, 0.17, 0.02), view.colour("#fff0a8"))
    sea = view.edge(0.55, [(0.003, 1.5, 0.2, 0.0)], 0.2)
    ground(picture, view, sea, view.gradient((0.55, "#f58a6b"), (0.82, "#8a3f83")))
    rows = view.y[:, :, None] * 26 - 0.8 * view.t[:, None, None]
    glint = torch.exp(-(((view.x + 0.02 * view.camera[:, None])[:, None, :]) / 0.2).square())
    shine = (torch.sin(TAU * rows).clamp(min=0) * ((view.y > 0.56) & (view.y < 0.78))[:, :, None]) * glint
    paint(picture, 0.55 * shine, view.colour("#ffe9a0"))
    lap = view.edge(0.775, [(0.012, 0.7, 0.0, 0.2), (0.010, 0.0, 0.22, 0.0)], 0.9)
    ground(picture, view, lap, view.gradient((0.76, "#c98a5e"), (0.8, "#e0ac74"), (1.0, "#b87a4c")))
    line(picture, view, lap, 0.010, view.colour("#fff1e0"), 0.8)
    return picture


def forest(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#bfe3c0"), (0.7, "#eaf7d0")))
    _pines(picture, view, 0.72, 0.60, 3.1, "#8fc49a", 0.25)
    _pines(picture, view, 0.78, 0.62, 2.1, "#4b9463", 0.5)
    _pines(picture, view, 0.84, 0.50, 1.37, "#20633f", 0.8)
    ground(picture, view, view.edge(0.80, [(0.012, 0.8, 0.0, 0.3)], 1.0), view.gradient((0.78, "#6a5a2f"), (1.0, "#40361b")))
    flakes(picture, view, 10, 0.05, 0.011, "#fff7a8", sway=0.1, salt=0.2, low=0.8, high=0.2, alpha=0.8)
    return picture


def underwater(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#4fd3d6"), (0.5, "#1283a8"), (1.0, "#07365f")))
    slant = view.along(0.2)[:, None, :] + 0.35 * view.y[:, :, None]
    rays = torch.sin(TAU * (0.9 * slant + (0.07 * view.t)[:, None, None])).clamp(min=0)
    paint(picture, 0.3 * rays * (1 - 1.2 * view.y[:, :, None]).clamp(min=0), view.colour("#d8fff6"))
    ground(picture, view, view.edge(0.88, [(0.025, 0.5, 0.0, 0.2), (0.008, 1.4, 0.0, 0.5)], 0.9),
           view.gradient((0.84, "#c9bd86"), (1.0, "#8a8a63")))
    flakes(picture, view, 22, -0.14, 0.018, "#d6fbff", sway=0.03, salt=0.83, alpha=0.65)
    return picture


def volcano(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#2a0d1d"), (0.7, "#b3361f")))
    clouds(picture, view, 4, 0.06, 0.2, "#3a2430", drift=0.05, size=1.2, alpha=0.8)
    x = view.along(0.1)
    slope = torch.maximum(0.30 + 0.0 * x, 0.22 + 0.62 * (x.abs() - 0.02))
    pulse = 0.75 + 0.25 * torch.sin(TAU * 0.5 * view.t)[:, None, None]
    glow = torch.exp(-(x[:, None, :] / 0.28).square() - ((view.y[:, :, None] - 0.28) * view.tall / 0.2).square())
    paint(picture, (0.95 * glow * pulse).clamp(0, 1), view.colour("#ffa53a"))
    ground(picture, view, slope, view.gradient((0.3, "#5d3234"), (0.85, "#2b1a22")))
    _lava(picture, view, x)
    ground(picture, view, view.edge(0.80, [(0.02, 0.8, 0.0, 0.2), (0.008, 2.3, 0.0, 0.6)], 0.9),
           view.gradient((0.78, "#3b2a2e"), (1.0, "#1a1216")))
    flakes(picture, view, 24, -0.2, 0.011, "#ffb53f", sway=0.06, salt=0.11, low=0.85, high=-0.1)
    return picture


def _lava(picture: Tensor, view: View, x: Tensor) -> None:
    """Streams down the slope; the light in them runs."""
    y = view.y[:, :, None]
    bend = 0.05 * torch.sin(TAU * 1.6 * y) + 0.32 * (y - 0.3)
    stream = torch.exp(-((x[:, None, :] - bend) / 0.045).square())
    light = 0.8 + 0.2 * torch.sin(TAU * (5 * y - 0.6 * view.t[:, None, None]))
    paint(picture, stream * light * ((y - 0.29) * 30).clamp(0, 1), view.colour("#ff6a1f"))


def moon(view: View) -> Tensor:
    picture = fresh(view, view.gradient((0.0, "#02030c"), (0.7, "#10142c")))
    stars(picture, view, 34, 0.62, 0.63)
    earth = view.disc(0.50, 0.22, 0.15)
    paint(picture, earth, view.gradient((0.08, "#5cb8ff"), (0.4, "#0f4fae")))
    x, u = view.scatter(4, 0.05, 0.03, 0.5)
    land = view.blobs(x * 0.25 + 0.5, (0.14 + 0.16 * u)[None].expand_as(x), 0.05, 0.03)
    paint(picture, earth * (land * 1.5).clamp(0, 0.9), view.colour("#58b368"))
    ground(picture, view, view.edge(0.66, [(0.02, 0.5, 0.0, 0.1), (0.006, 1.7, 0.0, 0.4)], 0.5),
           view.gradient((0.63, "#c9cbd3"), (1.0, "#8b8e9b")))
    x, u = view.scatter(9, 0.8, 0.0, 0.05)
    low = int((view.y < 0.68).sum(1).amin())
    field = replace(view, y=view.y[:, low:]).blobs(
        x, (0.74 + 0.22 * u)[None].expand_as(x), 0.05 + 0.07 * ((u * 5) % 1), 0.014 + 0.02 * ((u * 5) % 1))
    paint(picture[:, :, low:], ((field - 0.25) * 2.5).clamp(0, 0.75), view.colour("#74778a"))
    return picture


PAINTERS: dict[str, Callable[[View], Tensor]] = {
    "ocean": ocean, "sky": sky, "space": space, "meadow": meadow, "desert": desert, "city at night": city,
    "snow": snow, "sunset beach": sunset, "forest": forest, "underwater": underwater, "volcano": volcano, "moon": moon,
}
