"""The places of the world, each painted on a view."""

from collections.abc import Callable

import torch
from torch import Tensor

from sora_cli.world.motion import TAU
from sora_cli.world.scenery import View, clouds, disc, fill, flakes, ground, hills, line, paint, spikes, stars, within


def ocean(view: View) -> None:
    fill(view, view.gradient((0.0, "#5db8f5"), (0.5, "#e3f5ff")))
    disc(view, 0.55, 0.16, 0.085, (0.0, "#fff3b0"))
    clouds(view, 4, 0.16, 0.30, "#ffffff", size=0.8)
    hills(view, 0.47, [(0.010, 0.9, 1, 0.0), (0.006, 2.1, -1, 0.3)], 0.25, (0.45, "#4fb0ee"), (0.65, "#2b86da"))
    middle = hills(view, 0.59, [(0.018, 0.8, 2, 0.2), (0.008, 1.9, 2, 0.7)], 0.5, (0.56, "#3394e2"), (0.8, "#1b63bf"))
    line(view, middle + 0.004, 0.008, "#d8f1ff", 0.55)
    near = hills(view, 0.75, [(0.026, 0.6, 3, 0.5), (0.010, 1.5, 3, 0.1)], 0.9, (0.72, "#1f6fcb"), (1.0, "#0c3c8c"))
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
    hills(view, 0.52, [(0.045, 0.45, 0, 0.1), (0.02, 0.9, 0, 0.4)], 0.3, (0.45, "#a6dd7a"), (0.75, "#79c455"))
    hills(view, 0.66, [(0.035, 0.6, 0, 0.55), (0.004, 3.0, 2, 0.0)], 0.7, (0.62, "#6cc24a"), (1.0, "#2f8f2f"))
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
    hills(view, 0.58, [(0.03, 0.35, 0, 0.1), (0.002, 4.0, 6, 0.0)], 0.3, (0.5, "#eec07a"), (0.75, "#dba257"))
    hills(view, 0.68, [(0.045, 0.5, 0, 0.6), (0.012, 1.1, 0, 0.0)], 0.6, (0.62, "#e2a552"), (0.9, "#c98637"))
    hills(view, 0.84, [(0.03, 0.4, 0, 0.3)], 1.0, (0.8, "#d6943f"), (1.0, "#b06c24"))


def city(view: View) -> None:
    fill(view, view.gradient((0.0, "#0b1238"), (0.8, "#4b3a78")))
    stars(view, 16, 0.35, 0.77)
    disc(view, 0.55, 0.17, 0.085, (0.0, "#fff6cf"))
    _blocks(view, 0.30, 0.16, "#2b2b5c", None, 0.3, 0.37)
    _blocks(view, 0.36, 0.24, "#15173a", "#ffd768", 0.6, 0.0)
    road = torch.full_like(view.x, 0.86)
    ground(view, road, (0.86, "#3a3a52"), (1.0, "#23233a"))
    line(view, road + 0.07, 0.008, "#e9d27a", 0.5)


def _blocks(view: View, width: float, least: float, code: str, lit: str | None, depth: float, salt: float) -> None:
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
    hills(view, 0.60, [(0.035, 0.5, 0, 0.3), (0.01, 1.3, 0, 0.1)], 0.35, (0.55, "#eef4fa"), (0.8, "#c9d9ea"))
    hills(view, 0.76, [(0.03, 0.45, 0, 0.8)], 0.8, (0.72, "#ffffff"), (1.0, "#dbe6f3"))
    flakes(view, 44, 1, 0.014, "#ffffff")


def sunset(view: View) -> None:
    fill(view, view.gradient((0.0, "#6b3fa0"), (0.25, "#f2617a"), (0.55, "#ffc56b")))
    disc(view, 0.0, 0.5, 0.17, (0.0, "#fff0a8"))
    hills(view, 0.55, [(0.003, 1.5, 2, 0.0)], 0.2, (0.55, "#f58a6b"), (0.82, "#8a3f83"))
    part = view.band(0.56, 0.77)
    glint = torch.exp(-(part.x / 0.2).square())[:, None, :]
    ripple = torch.sin(TAU * (part.y * 26 - part.turns(6)[:, None])).clamp(min=0)[:, :, None]
    paint(part, 0.55 * ripple * glint, part.colour("#ffe9a0"))
    lap = hills(view, 0.775, [(0.012, 0.7, 0, 0.2), (0.010, 0.0, 2, 0.0)], 0.9,
                (0.76, "#c98a5e"), (0.8, "#e0ac74"), (1.0, "#b87a4c"))
    line(view, lap, 0.010, "#fff1e0", 0.8)


def forest(view: View) -> None:
    fill(view, view.gradient((0.0, "#bfe3c0"), (0.7, "#eaf7d0")))
    spikes(view, 0.80, 0.62, 3.7, 0.80, 0.07, 0.25, (0.2, "#9ccfa2"), (0.8, "#86bd92"))
    spikes(view, 0.82, 0.66, 2.5, 0.72, 0.07, 0.5, (0.2, "#57a36c"), (0.8, "#3f8458"))
    spikes(view, 0.86, 0.70, 1.6, 0.58, 0.07, 0.8, (0.2, "#2f7d4c"), (0.8, "#174c30"))
    hills(view, 0.80, [(0.012, 0.8, 0, 0.3)], 1.0, (0.78, "#6a5a2f"), (1.0, "#40361b"))
    flakes(view, 10, 1, 0.012, "#fff7a8", sway=0.1, salt=0.2, low=0.8, high=0.2, alpha=0.8)


def underwater(view: View) -> None:
    fill(view, view.gradient((0.0, "#4fd3d6"), (0.5, "#1283a8"), (1.0, "#07365f")))
    part = view.band(-0.1, 0.82)
    slant = part.along(0.2)[:, None, :] + 0.35 * part.y[:, :, None]
    rays = torch.sin(TAU * (0.9 * slant + part.turns(1)[:, None, None])).clamp(min=0)
    paint(part, 0.3 * rays * (1 - 1.2 * part.y[:, :, None]).clamp(min=0), part.colour("#d8fff6"))
    spikes(view, 0.92, 0.36, 4.1, 0.30, 0.0, 0.5, (0.55, "#1f9c7c"), (0.92, "#0c5f5c"), sway=0.10)
    spikes(view, 0.95, 0.30, 2.3, 0.26, 0.0, 0.8, (0.6, "#39b36b"), (0.95, "#14694e"), sway=0.12)
    hills(view, 0.88, [(0.025, 0.5, 0, 0.2), (0.008, 1.4, 0, 0.5)], 0.9, (0.84, "#c9bd86"), (1.0, "#8a8a63"))
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
    hills(view, 0.80, [(0.02, 0.8, 0, 0.2), (0.008, 2.3, 0, 0.6)], 0.9, (0.78, "#3b2a2e"), (1.0, "#1a1216"))
    flakes(view, 24, -1, 0.012, "#ffb53f", sway=0.06, salt=0.11, low=0.85, high=-0.1)


def _lava(view: View) -> None:
    """A stream down the slope; the light in it runs."""
    view = view.around(0.0, 0.4)
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
    hills(view, 0.66, [(0.02, 0.5, 0, 0.1), (0.006, 1.7, 0, 0.4)], 0.5, (0.63, "#c9cbd3"), (1.0, "#8b8e9b"))
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
    hills(view, 0.66, [(0.03, 0.4, 0, 0.6), (0.01, 1.1, 0, 0.2)], 0.6, (0.6, "#5b86ad"), (1.0, "#b9d3e6"))


def stage(view: View) -> None:
    fill(view, view.gradient((0.0, "#2a0a14"), (0.8, "#5a1524")))
    folds = torch.sin(TAU * 2.6 * view.along(0.3))[:, None, :] * torch.ones_like(view.y)[:, :, None]
    paint(view, 0.45 * folds.clamp(min=0), view.colour("#a5203a"))
    for middle, code, cycles in ((-0.45, "#ffe08a", 2), (0.45, "#8ad4ff", -2)):
        lean = middle + 0.30 * torch.sin(TAU * view.turns(cycles))[:, None, None]
        at = (view.x[:, None, :] - middle * 0.4) - (lean - middle * 0.4) * (view.y[:, :, None] + 0.1)
        beam = torch.exp(-(at / (0.03 + 0.13 * (view.y[:, :, None] + 0.1).clamp(min=0))).square())
        paint(view, 0.55 * beam * (1.1 - view.y[:, :, None]).clamp(0, 1), view.colour(code))
    boards = hills(view, 0.80, [(0.0, 1.0, 0, 0.0)], 0.0, (0.80, "#b9783f"), (1.0, "#6d401d"))
    line(view, boards + 0.07, 0.006, "#7c4a22", 0.6)
    line(view, boards + 0.14, 0.007, "#7c4a22", 0.6)


PAINTERS: dict[str, Callable[[View], None]] = {
    "ocean": ocean, "sky": sky, "space": space, "meadow": meadow, "desert": desert, "city at night": city,
    "snow": snow, "sunset beach": sunset, "forest": forest, "underwater": underwater, "volcano": volcano,
    "moon": moon, "aurora": aurora, "stage": stage,
}
