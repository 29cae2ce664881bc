"""How visible joins are: the wrap of loops, the ends of clips that were extended, and given end images.

    python benchmarks/joins.py                              # 20 seeds of each, at 320x180
    python benchmarks/joins.py --only loops --seeds 2 --seconds 1 --steps 1
    python benchmarks/joins.py --keep joins.jsonl           # can be stopped, and goes on from there

Prompts and scenes are combinations of the world that no training saw. All of it runs in one process, through the
functions that the commands use; frames are looked at after raw y4m, so that no codec is in the way. 1 = seamless.

loops    seam scores of loops from a prompt, beside those of as many frames from the middle of a longer clip of the
         same prompt and seed that was made without looping
extends  boundary scores where frames were added after, and before, the clip of a scene; beside that of the scene
         itself, which goes on there, and that of a clip of the same prompt, made for itself and put there
ends     PSNR (dB) of the last frame of a clip with an end image to that image: as shown, as decoded from the clip's
         latents, and of the image alone through the autoencoder and back; the boundary score of the step into it;
         and how much moves in the second before it, over the rest of the clip (a freeze is near 0), beside the same
         of the scene itself
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from measuring import Ledger, Row, grid, note, parser, show, with_ledger
from rich.table import Table

from sora_cli import geometry, media, registry
from sora_cli.cli.connect import Connector, PassThrough
from sora_cli.cli.extend import frames as extension
from sora_cli.cli.filming import Take
from sora_cli.cli.loop import round_shot
from sora_cli.cli.options import Input
from sora_cli.cli.output_job import OutputJob, format_of
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.evaluate.clips import held_out
from sora_cli.generation import anchors
from sora_cli.generation.engine import Engine, Generation, GivenClip
from sora_cli.media import blend
from sora_cli.media.seams import Changes
from sora_cli.pipelines.codec import pictures_of
from sora_cli.shot import Anchor, Shot
from sora_cli.world.captions import dense
from sora_cli.world.metrics import psnr
from sora_cli.world.render import render
from sora_cli.world.scene import Scene

BATCH = 24  # frames rendered at once
Clip = list[np.ndarray]  # uint8 [h, w, 3] each
PROMISED = {
    "loops": {"ours": ("<=", 1.3), "cut": (">=", 3.0)},
    "extends": {"after": ("<=", 1.5), "before": ("<=", 1.5)},
}


@dataclass(frozen=True)
class Bench:
    """What the measurements of one part share."""

    settings: Shot  # its frames are those made: of a loop, of what extend adds, of a clip with an end image
    given: int  # frames that extend is given

    @property
    def engine(self) -> Engine:
        return engine_of(self.settings.model)

    def shot(self, scene: Scene, number: int) -> Shot:
        return replace(self.settings, prompt=dense(scene), seed=number)

    def made(self, shot: Shot, known: Sequence[GivenClip] = ()) -> Generation:
        run = self.engine.start(shot, known)
        for _ in run.denoise():
            pass
        return run

    def scene(self, scene: Scene, frames: int) -> Clip:
        """The first frames of a scene as they are, at the shot's size."""
        return [frame for start in range(0, frames, BATCH)
                for frame in self.rendered(scene, range(start, min(start + BATCH, frames)))]  # fmt: skip

    def rendered(self, scene: Scene, frames: range) -> np.ndarray:
        times = torch.tensor(frames)[None] / self.settings.fps
        video = render([scene], times, self.settings.height, self.settings.width)[0]
        return rearrange(video * 255, "t c h w -> t h w c").round().byte().numpy()


@cache
def engine_of(model: str) -> Engine:
    """Loaded when something is to be made, not for results that are kept."""
    return Engine(registry.entry(model))


def raw_of(frames: Iterable[np.ndarray], size: media.Size, shot: Shot) -> Iterable[bytes]:
    return media.from_rgb(frames, size, format_of(shot))


def seen(raw: Iterable[bytes], shot: Shot) -> Clip:
    """What a viewer of a y4m output sees."""
    format = format_of(shot)
    return list(media.to_rgb(raw, format, format.size))


def plain(bench: Bench, shot: Shot) -> Clip:
    """A clip of a prompt alone, as it is shown."""
    run = bench.made(shot)
    return seen(raw_of(run.frames(), run.source_size, shot), shot)


# ---- loops ------------------------------------------------------------------------------------------------


def loops(bench: Bench, scene: Scene, number: int) -> Row:
    shot = bench.shot(scene, number)
    loop = round_shot(shot, Input(), shot.seconds)
    seam, cut = Changes(plain(bench, loop)).seam(), Changes(straight(bench, loop)).seam()
    return {"ours": seam.position, "ours, motion": seam.velocity, "cut": cut.position, "cut, motion": cut.velocity}


def straight(bench: Bench, loop: Shot) -> Clip:
    """As many frames as the loop has from the middle of a clip that is not one, a second longer on each side."""
    around = round(loop.fps)
    shot = replace(loop, loop=False, frames=loop.frames + 2 * around)
    return plain(bench, shot)[around : around + loop.frames]


# ---- extend -----------------------------------------------------------------------------------------------


def extends(bench: Bench, scene: Scene, number: int) -> Row:
    shot = bench.shot(scene, number)
    made, given = shot.frames, bench.given
    whole = seen(raw_of(bench.scene(scene, made + given), format_of(shot).size, shot), shot)
    start, end = whole[:given], whole[-given:]
    other = plain(bench, shot)
    return {
        "after": Changes(extended(bench, start, shot, "after")).boundary(given),
        "before": Changes(extended(bench, end, shot, "before")).boundary(made),
        "after, scene": Changes(whole).boundary(given),
        "before, scene": Changes(whole).boundary(made),
        "after, cut": Changes([*start, *other]).boundary(given),
        "before, cut": Changes([*other, *end]).boundary(made),
    }


def extended(bench: Bench, given: Clip, shot: Shot, side: str) -> Clip:
    """A clip and what `extend` adds to it."""
    format = format_of(shot)
    with Screen(quiet=True) as screen:
        output = OutputJob(Target(name=media.STREAM), screen, shot.fps)
        source = media.Source("scene", format, iter(raw_of(given, format.size, shot)))
        passthrough = PassThrough(source, bench.engine.entry)
        raw = extension(Connector(bench.engine, format, output), passthrough, {side: shot}, None)
        return seen(raw, shot)


# ---- end images -------------------------------------------------------------------------------------------


def ends(bench: Bench, scene: Scene, number: int) -> Row:
    truth = bench.scene(scene, bench.settings.frames)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "end.png"
        media.write_image(path, truth[-1])
        shot = replace(bench.shot(scene, number), anchors=(Anchor(str(path), "-1"),))
        take = Take(shot, registry.entry(shot.model), anchors.place(shot))
        run, canvas, size = bench.made(shot, take.given), take.plan.canvas, format_of(shot).size
        shown = seen(raw_of(take.frames(run, size), size, shot), shot)
        image = np.stack(list(take.placed[0].frames(canvas.crop)))
    last = list(islice(run.frames(), run.span.lead, None))[-1]
    return {
        "shown": likeness(shown[-1], truth[-1]),
        "decoded": likeness(last, truth[-1]),
        "round trip": likeness(round_trip(bench.engine, image, canvas), truth[-1]),
        "boundary": Changes(shown).boundary(len(shown) - 1),
        "motion": late_motion(shown, shot.fps),
        "motion, scene": late_motion(truth, shot.fps),
    }


def round_trip(engine: Engine, image: np.ndarray, canvas: geometry.Canvas) -> np.ndarray:
    """One picture [1, h, w, 3] through the autoencoder and back, [h, w, 3]."""
    (latent,) = engine.pipeline.codec.encode(image, canvas)
    with torch.inference_mode():
        decoded = engine.pipeline.codec.vae.decode(latent[None].to(engine.pipeline.device, engine.pipeline.dtype))
    return pictures_of(decoded[0], canvas)[0]


def likeness(frame: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB at the truth's size, to which smaller pictures are enlarged as the commands do."""
    height, width = truth.shape[:2]
    one, other = (rearrange(torch.from_numpy(f.astype(np.float32)), "h w c -> 1 1 c h w") / 255
                  for f in (blend.enlarge(frame, (width, height)), truth))  # fmt: skip
    return psnr(one, other)


def late_motion(clip: Clip, fps: float) -> float:
    """Mean difference of neighbouring frames in the second before the last frame, over that before; the step
    into the last frame itself is left out, so that a freeze with a jump at its end is no motion."""
    steps = Changes(clip).steps[:-1]
    late = min(round(fps), len(steps) // 2)
    return float(np.mean(steps[-late:])) / max(1e-9, float(np.mean(steps[:-late])))


# ---- all of it --------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Bench, Scene, int], Row]] = {"loops": loops, "extends": extends, "ends": ends}


def report(part: str, rows: Sequence[Row]) -> Table:
    """Medians over the seeds, and how far the rows lie apart."""
    table = grid(f"{part}, {len(rows)} seeds", "", "median", "lowest", "highest", "promised", "kept by")
    for name in rows[0]:
        values = [row[name] for row in rows]
        table.add_row(name, *(f"{pick(values):.2f}" for pick in (np.median, min, max)), *verdict(part, name, values))
    return table


def verdict(part: str, name: str, values: Sequence[float]) -> tuple[str, str]:
    """What is promised of the median, and how many rows keep it by themselves."""
    if name not in PROMISED.get(part, {}):
        return "", ""
    sign, bound = PROMISED[part][name]
    keep = [value <= bound if sign == "<=" else value >= bound for value in values]
    held = np.median(values) <= bound if sign == "<=" else np.median(values) >= bound
    return f"{sign} {bound:g} {'yes' if held else 'NO'}", f"{sum(keep)}/{len(keep)}"


def parse() -> argparse.Namespace:
    options = with_ledger(parser(__doc__))
    options.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--seconds", type=float, default=4, help="of a loop, of a clip with an end image")
    options.add_argument("--added", type=float, default=2, help="seconds that extend adds")
    options.add_argument("--given", type=float, default=2, help="seconds that extend is given")
    options.add_argument("--res", default="320x180")
    options.add_argument("--fps", type=float, default=24)
    options.add_argument("--steps", type=int, default=8)
    return options.parse_args()


def bench_for(asked: argparse.Namespace, part: str) -> Bench:
    width, height = geometry.parse_res(asked.res)
    length = asked.added if part == "extends" else asked.seconds
    settings = Shot("", width=width, height=height, frames=geometry.frames_for(length, asked.fps), fps=asked.fps,
                    steps=asked.steps, model=asked.model)  # fmt: skip
    return Bench(settings, geometry.frames_for(asked.given, asked.fps))


def main() -> None:
    asked = parse()
    ledger = Ledger(asked.keep, asked.model)
    numbers = range(asked.first, asked.first + asked.seeds)
    scenes = held_out(asked.first + asked.seeds, 0)
    found: dict[str, list[Row]] = {}
    for part in asked.only:
        bench = bench_for(asked, part)
        found[part] = []
        for number in numbers:
            note(f"{part} {number}: {dense(scenes[number])}")
            what = {"part": part, "number": number, "given": bench.given, "settings": bench.settings.to_dict()}
            found[part].append(ledger.row(what, lambda: PARTS[part](bench, scenes[number], number)))  # noqa: B023
    medians = {part: {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
               for part, rows in found.items()}  # fmt: skip
    show({"medians": medians, "rows": found}, [report(part, rows) for part, rows in found.items()], asked.json)


if __name__ == "__main__":
    main()
