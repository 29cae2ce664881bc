"""How long videos drift, by the order in which their frames are made: the same prompts and seeds, planned each way.

    python benchmarks/drift.py                              # 3 prompts, 60 s, draws docs/drift.png
    python benchmarks/drift.py --seconds 4 --every 1 --prompts 1 --steps 1 --picture drift.png
    python benchmarks/drift.py --keep drift.jsonl           # can be stopped, and goes on from there

Colourfulness, sharpness and contrast are those of `sora_cli.media.seams.Drift`, over what they were in the clip's first
column; `colours` is the distance of the colour histogram to that of the first second, 0 the same to 1 disjoint.
`world` is the scene itself, rendered that long: things move there too. Means over the prompts, which are
combinations of the world that no training saw.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from measuring import Ledger, Row, grid, note, parser, show, with_ledger
from rich.table import Table

from sora_cli import geometry, registry
from sora_cli.evaluate.clips import held_out
from sora_cli.generation.engine import Engine
from sora_cli.media.seams import Drift
from sora_cli.shot import PLANS, Shot
from sora_cli.world.captions import dense
from sora_cli.world.render import render
from sora_cli.world.scene import Scene

LOOKS, COLOURS = ("colourfulness", "sharpness", "contrast"), "histogram"
TITLES = {**{look: f"{look}, over the start" for look in LOOKS}, COLOURS: "colours, away from the start"}
WORLD = "world"
BATCH = 24  # frames rendered at once
PICTURE = Path(__file__).parent.parent / "docs" / "drift.png"


# ---- clips ------------------------------------------------------------------------------------------------


@cache
def engine_of(model: str) -> Engine:
    """Loaded when something is to be made, not for results that are kept."""
    return Engine(registry.entry(model))


def generated(shot: Shot) -> Iterator[np.ndarray]:
    run = engine_of(shot.model).start(shot)
    for _ in run.denoise():
        pass
    return run.frames()


def rendered(scene: Scene, shot: Shot) -> Iterator[np.ndarray]:
    """The scene itself, as large as the frames that the engine decodes."""
    canvas = registry.entry(shot.model).canvas(shot.width, shot.height)
    for start in range(0, shot.frames, BATCH):
        times = torch.arange(start, min(start + BATCH, shot.frames))[None] / shot.fps
        video = render([scene], times, canvas.crop_height, canvas.crop_width)[0]
        yield from rearrange(video * 255, "t c h w -> t h w c").round().byte().numpy()


def curve(scene: Scene, shot: Shot, plan: str) -> Row:
    frames = rendered(scene, shot) if plan == WORLD else generated(shot)
    return {"curve": Drift(shot.fps, frames).curve()}


# ---- numbers ----------------------------------------------------------------------------------------------


def by_steps(curve: Sequence[Row], every: int, start: int) -> dict[str, list[float]]:
    """Means of a clip's seconds over steps of `every` seconds; the looks over those of its first `start` seconds."""
    groups = [curve[second : second + every] for second in range(0, len(curve), every)]
    found = {name: [weighted(group, name) for group in groups] for name in (*LOOKS, COLOURS)}
    for look in LOOKS:
        usual = max(weighted(curve[:start], look), 1e-9)
        found[look] = [value / usual for value in found[look]]
    return found


def weighted(rows: Iterable[Row], name: str) -> float:
    """A mean by frames, since the last second may be shorter."""
    values, frames = zip(*((row[name], row["frames"]) for row in rows), strict=True)
    return float(np.average(values, weights=frames))


def mean(found: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Over the prompts, step by step."""
    return {name: np.mean([one[name] for one in found], axis=0).tolist() for name in found[0]}


def report(name: str, curves: dict[str, dict[str, list[float]]], every: int, seconds: float) -> Table:
    length = len(next(iter(curves.values()))[name])
    spans = [f"{n * every}-{min((n + 1) * every, seconds):g} s" for n in range(length)]
    table = grid(TITLES[name], "plan", *spans)
    for plan, found in curves.items():
        table.add_row(plan, *(f"{value:.2f}" for value in found[name]))
    return table


def draw(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    """A panel for each measure, a line for each plan, second by second."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True, layout="constrained")
    for axis, (name, title) in zip(axes.flat, TITLES.items(), strict=True):
        for plan, found in curves.items():
            style = {"color": "grey", "linestyle": "--"} if plan == WORLD else {}
            axis.plot(np.arange(len(found[name])) + 0.5, found[name], label=plan, **style)
        axis.set_title(title, fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    axes[0, 0].legend()
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png")
    part.replace(path)
    plt.close(figure)


# ---- all of it --------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    options = with_ledger(parser(__doc__))
    options.add_argument("--plans", nargs="+", choices=PLANS, default=["hierarchy", "autoregressive", "long-range"])
    options.add_argument("--prompts", type=int, default=3)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--every", type=int, default=10, help="seconds of a column")
    options.add_argument("--res", default="320x180")
    options.add_argument("--fps", type=float, default=24)
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--picture", type=Path, default=PICTURE)
    return options.parse_args()


def measured(asked: argparse.Namespace) -> dict[str, list[list[Row]]]:
    """The curves of all prompts by plan."""
    ledger = Ledger(asked.keep, asked.model)
    width, height = geometry.parse_res(asked.res)
    frames = geometry.frames_for(asked.seconds, asked.fps)
    found: dict[str, list[list[Row]]] = {plan: [] for plan in (*asked.plans, WORLD)}
    for number, scene in enumerate(held_out(asked.prompts, asked.seed)):
        for plan in found:
            note(f"{plan}: {dense(scene)}")
            shot = Shot(dense(scene), width=width, height=height, frames=frames, fps=asked.fps, steps=asked.steps,
                        seed=asked.seed + number, model=asked.model,
                        plan=asked.plans[0] if plan == WORLD else plan)  # fmt: skip
            row = ledger.row({"plan": plan, "scene": scene.seed, "shot": shot.to_dict()},
                             lambda: curve(scene, shot, plan))  # fmt: skip  # noqa: B023
            found[plan].append(row["curve"])
    return found


def main() -> None:
    asked = parse()
    found = measured(asked)
    steps, seconds = ({plan: mean([by_steps(one, every, asked.every) for one in curves])
                       for plan, curves in found.items()} for every in (asked.every, 1))  # fmt: skip
    draw(seconds, asked.picture)
    tables = [report(name, steps, asked.every, asked.seconds) for name in TITLES]
    show({"every": asked.every, "steps": steps, "curves": found}, tables, asked.json)


if __name__ == "__main__":
    main()
