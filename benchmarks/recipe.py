"""What each part of the recipe is worth on the whole world: geometry, dropping and weights, left out one at a time.

    python benchmarks/recipe.py                        # five trainings of 12 minutes of a core each
    python benchmarks/recipe.py --minutes 3 --only everything "no geometry"

All of them train the network that is shipped (192 x 6), on the coarse latents of the same pictures of all subjects,
motions, places and sizes, for the same processor time: what drops tokens takes more steps. The last fifth is on whole
pictures, as in `train dit`. Squared error of clean latents on held-out pictures, in the patches of the subject, by how
much noise there is; at 1.0 there is nothing but noise, and all is said by the caption and the time.
"""

import argparse
import random
import time
from dataclasses import dataclass, replace
from functools import partial

import torch
from learning import Learning
from measuring import Row, grid, note, parser, show
from torch import Tensor

from sora_cli import registry
from sora_cli.models.sora.dit import Conditions, Dit
from sora_cli.models.sora.patches import grid_of, patchify
from sora_cli.sampling import flow
from sora_cli.train.align import Geometry, Learner
from sora_cli.train.data.noising import patch_cover
from sora_cli.train.data.packing import Clip, Pack, pack_of
from sora_cli.train.data.world_packs import PHASES, PICTURES, Bucket, LatentCache, begin, bucket_of, encode_at
from sora_cli.train.frozen import Frozen
from sora_cli.train.options import DitOptions
from sora_cli.train.recipes import dit as recipe
from sora_cli.train.trainer.config import TrainerConfig, generator
from sora_cli.world.captions import dense
from sora_cli.world.field import field
from sora_cli.world.scene import sample_scene

CPU = torch.device("cpu")
LEVELS = (0.6, 0.8, 0.9, 1.0)
BATCH, SAMPLES, HELD_OUT = 48, 8, 96


@dataclass(frozen=True)
class Variant:
    """A recipe: whether a middle block predicts the geometry, and the phases' dropping and weights."""

    geometry: bool = True
    drop: bool = True
    weigh: bool = True


VARIANTS = {
    "everything": Variant(),
    "no geometry": Variant(geometry=False),
    "no dropping": Variant(drop=False),
    "no weights": Variant(weigh=False),
    "none of them": Variant(False, False, False),
}


class Pictures:
    """Coarse latents of pictures, drawn once for all variants, and those of held-out scenes."""

    def __init__(self, count: int) -> None:
        self.options = DitOptions(coarse=True)
        frozen = Frozen.load(None, None, CPU)
        self.vae, self.conditioner = frozen.vae, frozen.encoder
        cache = LatentCache(self.vae, 0, SAMPLES, count, 1.0, CPU, torch.float32)
        rng, self.blocks = random.Random(0), dict[Bucket, list[list[Clip]]]()
        for number in range(count // SAMPLES):
            bucket = bucket_of(PHASES[0], rng)
            self.blocks.setdefault(bucket, []).append(list(cache.draw(number, bucket).clips()))
        self.held_out = self.draw_held_out()

    def pack(self, number: int, drop: float, subject: float) -> Pack:
        rng, bucket = random.Random(number), bucket_of(PHASES[0], random.Random(number))
        clips = [clip for block in rng.choices(self.blocks[bucket], k=BATCH // SAMPLES) for clip in block]
        text = self.conditioner([clip.caption for clip in clips])
        pack = replace(pack_of(clips, text, generator(0, number), drop), subject=subject)
        return recipe.without_details(pack, self.vae.config.parts)

    def draw_held_out(self) -> Pack:
        rng = random.Random("recipe")
        scenes = [sample_scene(rng, "held-out") for _ in range(HELD_OUT)]
        starts = torch.tensor([begin(rng, 1)[0] for _ in scenes])
        bucket = PICTURES[0][0]
        size = (bucket.height * 32, bucket.width * 32)
        latents = torch.cat([encode_at(self.vae, scenes[i : i + 8], starts[i : i + 8], (0,), 24.0, size, torch.float32)
                             for i in range(0, HELD_OUT, 8)])  # fmt: skip
        cover = field(scenes, starts[:, None], *size, CPU)[:, :, :, 0].amax(2)
        seconds = starts + torch.tensor([scene.begins for scene in scenes])
        clips = [Clip(one, at[None], dense(scene), cover=seen)
                 for one, at, scene, seen in zip(latents, seconds, scenes, cover, strict=True)]  # fmt: skip
        text = self.conditioner([clip.caption for clip in clips])
        pack = replace(pack_of(clips, text, generator(1, 0)), text=text)
        return recipe.without_details(pack, self.vae.config.parts)


def train(pictures: Pictures, variant: Variant, minutes: float) -> tuple[Learner, int]:
    """Learn for so many minutes of processor time; the averaged weights and the steps taken."""
    torch.manual_seed(0)
    vae, text = pictures.vae.config, pictures.conditioner.tower.config
    dit = Dit(recipe.config_of(pictures.options, vae, text))
    model = Learner(dit, Geometry() if variant.geometry else None)
    parts = recipe.parts_of(dit.config, vae)
    plan = TrainerConfig(steps=10**9, batch=BATCH, rate=recipe.LR, warmup=200, average=0.998)
    recipe.prepare_blocks(DitOptions(compiled=True), dit)
    learning, step, spent = Learning(model, plan), 0, 0.0

    def loss(pack: Pack, _: int) -> Tensor:
        examples = recipe.examples_of(pack, parts, pack.subject)
        with torch.autocast("cpu", torch.bfloat16):
            return recipe.pack_loss(model, examples, pack.text, pack.grids)["loss"]

    while spent < 60 * minutes:
        phase = PHASES[spent >= PHASES[1].start * 60 * minutes]
        pack = pictures.pack(step, phase.drop * variant.drop, phase.subject if variant.weigh else 1.0)
        begun = time.process_time()
        learning.step(step, partial(loss, pack), spent / (60 * minutes))
        # Compiling is not learning: the first steps of each shape do not count.
        spent, step = spent + (time.process_time() - begun) * (step > 20), step + 1
        if step % 500 == 0:
            note(f"    {step} steps, {spent / 60:.1f} minutes")
    learning.end()
    return model.eval(), step


@torch.no_grad()
def errors(pictures: Pictures, model: Learner) -> Row:
    """Squared errors in the subject's patches by noise level, and that of the background in nothing but noise."""
    pack = pictures.held_out
    clean = torch.stack([clip.latents for clip in pack.clips])
    seconds = torch.cat([clip.seconds for clip in pack.clips])
    covers = [patch_cover(clip.cover) for clip in pack.clips if clip.cover is not None]
    grids, V = tuple(map(grid_of, clean)), len(clean)
    here = patchify([cover.expand_as(one[:1]) for cover, one in zip(covers, clean, strict=True)], grids)[:, 0] > 0
    space, one, found = pictures.vae.config.parts[0], torch.ones(V), Row()

    def error(level: float) -> Tensor:
        noise = torch.randn(clean.shape, generator=generator(2, round(100 * level)))
        given = Conditions(level * one, torch.zeros(V, 2), seconds, one, pack.text, one, 0 * one)
        with torch.autocast("cpu", torch.bfloat16):
            guess = model.dit(patchify(list(flow.noised(clean, noise, torch.tensor(level)))), grids, given).float()
        apart = (guess - patchify(list(clean), grids)).square()
        return apart.unflatten(1, (clean.shape[1], -1))[:, :space].mean((1, 2))

    for level in LEVELS:
        apart = error(level)
        found[str(level)] = float(apart[here].mean())
    return found | {"background": float(apart[~here].mean())}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options.add_argument("--minutes", type=float, default=12, help="of processor time, for each")
    options.add_argument("--pictures", type=int, default=40_000)
    asked: argparse.Namespace = options.parse_args()
    registry.verify(registry.entry("pocket"))
    pictures, found = Pictures(asked.pictures), Row()
    for name in asked.only:
        note(name)
        model, steps = train(pictures, VARIANTS[name], asked.minutes)
        found[name] = {"steps": steps} | errors(pictures, model)
        note(f"    {found[name]}")
    table = grid(f"{asked.minutes:g} minutes each", "", "steps", *map(str, LEVELS), "background")
    for name, row in found.items():
        table.add_row(name, str(row["steps"]), *(f"{value:.3f}" for value in list(row.values())[1:]))
    show(found, [table], asked.json)


if __name__ == "__main__":
    main()
