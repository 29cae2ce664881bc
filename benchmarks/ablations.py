"""What the choices of the recipe are worth: short trainings that differ in one thing, compared on held-out scenes.

    python benchmarks/ablations.py                     # all of it, about half an hour on two cores
    python benchmarks/ablations.py --only optimiser --steps 50

Every transformer is small (128 wide, 4 blocks) and sees the same packs in the same order, half pictures and half clips
of four latents; its loss, of averaged weights in v-space, is that of packs of held-out scenes. `to an end` is the same
where the last frames of a clip are known and the rest is made. Autoencoders are small too: PSNR of held-out clips, and
how well a transformer denoises their latents: its loss, and the PSNR of what it predicts from 70 % noise, decoded.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from einops import rearrange
from learning import learn
from measuring import Row, grid, note, parser, show
from torch import Tensor, nn

from sora_cli import registry
from sora_cli.evaluate.clips import held_out
from sora_cli.models.sora import vae as autoencoder
from sora_cli.models.sora.dit import (
    Block,
    Conditions,
    Dit,
    DitConfig,
    RotaryAngles,
    TimeRelations,
    sinusoidal_embedding,
)
from sora_cli.models.sora.patches import Grid, Layout, patchify, unpatchify
from sora_cli.models.sora.text import from_weights as text_from_weights
from sora_cli.placement.device import pick_dtype
from sora_cli.sampling import flow
from sora_cli.sampling.conditioning import NULL_TIME
from sora_cli.train.align import Learner
from sora_cli.train.data.noising import example
from sora_cli.train.data.packing import Clip
from sora_cli.train.data.tasks import Task
from sora_cli.train.data.world_packs import Bucket, begin, encode_at
from sora_cli.train.frozen import CachedTextEncoder
from sora_cli.train.recipes import dit as recipe
from sora_cli.train.recipes import vae as vae_recipe
from sora_cli.train.trainer.config import TrainerConfig, generator
from sora_cli.world import metrics
from sora_cli.world.captions import dense
from sora_cli.world.render import render
from sora_cli.world.scene import Split, sample_scene

CPU = torch.device("cpu")
WIDTH, DEPTH, HEADS = 128, 4, 2
SHAPES = ((Bucket(1, 6, 6), 24), (Bucket(4, 6, 6), 8))  # and how many make a pack
PACKS, HELD_OUT = 24, 6  # of each shape: to learn from, and to be measured on
VAE = autoencoder.VaeConfig(space=16, details=0, time=8, deep=96, wide=48, paint=48, tail=24, blocks=1, memory=8,
                            zoom=1)  # fmt: skip

Pack = list[Clip]


# ---- variants of the transformer --------------------------------------------------------------------------


class PredictsVelocity(Dit):
    """The output is the velocity; what it means for the clean latents goes into the loss."""

    def forward(self, patches: Tensor, grids: tuple[Grid, ...], given: Conditions) -> Tensor:
        sizes = torch.tensor([g.height * g.width for g in grids for _ in range(g.frames)])
        t = given.t.repeat_interleave(sizes)[:, None]
        return patches - t.clamp_min(flow.SMALLEST) * super().forward(patches, grids, given)


class LearnedPositionsAlone(Dit):
    """No rotary angles: attention in space goes by learned tables of positions."""

    def rope(self, where: Layout, dtype: torch.dtype) -> RotaryAngles:
        cos, sin = super().rope(where, dtype)
        return torch.ones_like(cos), torch.zeros_like(sin)


class Timeless(Dit):
    """Nobody knows when a scene began: there are distances between frames, and no more."""

    def forward(self, patches: Tensor, grids: tuple[Grid, ...], given: Conditions) -> Tensor:
        return super().forward(patches, grids, replace(given, seconds=given.seconds + NULL_TIME))


class AdaptiveNorms(Dit):
    """Noise level and pace scale and shift the norms and gate the branches instead of being tokens: adaLN-single, one
    projection for all blocks and a learned table for each (Chen et al. 2023, PixArt-alpha)."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__(config)
        self.modulation = nn.Linear(66, 9 * config.width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.blocks = nn.ModuleList([ModulatedBlock(config) for _ in range(config.depth)])
        self.initialise()

    def forward(self, patches: Tensor, grids: tuple[Grid, ...], given: Conditions) -> Tensor:
        level = torch.cat([sinusoidal_embedding(given.t, 64), given.cond_mask], 1)
        modulation = self.modulation(level).unflatten(1, (9, -1))  # (F, 9, D)
        for block in self.blocks:
            assert isinstance(block, ModulatedBlock)
            block.modulation = modulation + block.table
        return super().forward(patches, grids, replace(given, t=0 * given.t))


class ModulatedBlock(Block):
    def __init__(self, config: DitConfig) -> None:
        super().__init__(config)
        table = torch.zeros(9, config.width)
        table[2::3] = 1  # gates
        self.table, self.modulation = nn.Parameter(table), torch.zeros(0)

    def forward(self, x: Tensor, where: Layout, rope: RotaryAngles, between: TimeRelations) -> Tensor:
        frames, heads = where.conditions.shape
        every = self.modulation.repeat_interleave(len(x) // frames, 0)  # (N, 9, D)

        def branch(y: Tensor, norm: nn.Module, part: int, of: Callable[[Tensor], Tensor]) -> Tensor:
            modulation = every if len(y) == len(every) else where.take(every.flatten(1)).unflatten(1, (9, -1))
            shift, scale, gate = modulation[:, 3 * part : 3 * part + 3].unbind(1)
            return gate * of(norm(y) * (1 + scale) + shift)

        within = partial(self.across_space, where=where, rope=rope)
        x = x + branch(x, self.space_norm, 0, within)
        if where.temporal:
            late = partial(self.across_time, where=where, between=between)
            x = where.add(x, branch(where.take(x), self.time_norm, 1, late))
        return x + branch(x, self.mlp_norm, 2, self.mlp)


# ---- data -------------------------------------------------------------------------------------------------


def packs(vae: autoencoder.Vae, split: Split, count: int) -> list[Pack]:
    """Packs of clips, shapes taking turns."""
    rng = random.Random(f"ablations/{split}")
    return [draw(vae, rng, split, bucket, size) for _ in range(count) for bucket, size in SHAPES]


def draw(vae: autoencoder.Vae, rng: random.Random, split: Split, bucket: Bucket, size: int) -> Pack:
    scenes = [sample_scene(rng, split) for _ in range(size)]
    index = tuple(range(0, 2 * bucket.frames, 2))
    starts, own = torch.tensor([begin(rng, bucket.frames) for _ in scenes]).T
    pixels = (bucket.height * 32, bucket.width * 32)
    latents = encode_at(vae, scenes, starts, index, 24.0, pixels, pick_dtype("auto", CPU))
    seconds = own[:, None] + torch.tensor(index) / 6
    samples = zip(latents, seconds, scenes, strict=True)
    return [Clip(clean, times, dense(scene)) for clean, times, scene in samples]


@dataclass(frozen=True)
class Latents:
    """Packs of one autoencoder's latents, to learn from and to be measured on."""

    train: list[Pack]
    test: list[Pack]
    parts: tuple[int, int]  # channels of space and of time


def latents_of(vae: autoencoder.Vae) -> Latents:
    return Latents(packs(vae, "train", PACKS), packs(vae, "held-out", HELD_OUT), (vae.config.space, vae.config.time))


@cache
def usual_latents() -> Latents:
    return latents_of(autoencoder.from_weights(*registry.load_network("vae", None)))


@cache
def conditioner() -> CachedTextEncoder:
    tokenizer, tower = text_from_weights(*registry.load_network("text", None))
    return CachedTextEncoder(tower, tokenizer, CPU)


# ---- transformers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    network: type[Dit] = Dit
    causal: bool = False  # frame i sees j <= i, whatever is known
    muon: bool = True


def compared(variant: Variant, steps: int) -> Row:
    """Train a variant on the shipped latents; its losses on held-out packs, and seconds a step."""
    latents = usual_latents()
    begun = time.perf_counter()
    dit = taught(variant, steps, latents)
    seconds = (time.perf_counter() - begun) / steps
    clips = [p for p in latents.test if len(p[0][1]) > 1]
    return {"loss": measured(dit, latents.test, latents.parts, variant, None),
            "to an end": measured(dit, clips, latents.parts, variant, ending), "s a step": seconds}  # fmt: skip


def taught(variant: Variant, steps: int, latents: Latents) -> Dit:
    torch.manual_seed(0)
    parts, train = latents.parts, latents.train
    text = conditioner().tower.config
    config = DitConfig(sum(parts), WIDTH, DEPTH, HEADS, text.width, 16, 1, (64, 16, 16), 64.0, 8.0)
    dit = variant.network(config)
    if not variant.muon:
        dit.hidden_weights = list  # type: ignore[method-assign]
    learn(dit, plan_of(steps), lambda step: loss_of(dit, train[step % len(train)], parts, generator(0, step), variant))
    return dit.eval()


def plan_of(steps: int) -> TrainerConfig:
    return TrainerConfig(steps=steps, batch=1, rate=2e-3, warmup=20, average=0.99)


@torch.no_grad()
def measured(dit: Dit, test: list[Pack], parts: tuple[int, int], variant: Variant,
             task: Callable[[int], Task] | None) -> float:  # fmt: skip
    draws = [(pack, generator(1, 100 * i + n)) for i, pack in enumerate(test) for n in range(4)]
    return float(torch.stack([loss_of(dit, pack, parts, rng, variant, task) for pack, rng in draws]).mean())


def ending(frames: int) -> Task:
    """The last quarter is known."""
    known = torch.zeros(2, frames)
    known[:, -max(1, frames // 4) :] = 1
    return Task(known, (1 - known[0]).long(), "ending")


def loss_of(dit: Dit, pack: Pack, parts: tuple[int, int], rng: torch.Generator, variant: Variant,
            task: Callable[[int], Task] | None = None) -> Tensor:  # fmt: skip
    examples = [example([clip], parts, rng, asked=task) for clip in pack]
    if variant.causal:
        examples = [replace(e, order=torch.arange(e.order.shape[1])[None] + 1) for e in examples]
    text = conditioner()([clip.caption for clip in pack])
    with torch.autocast("cpu", pick_dtype("auto", CPU)):
        return recipe.pack_loss(Learner(dit, None), examples, text)["loss"]


# ---- autoencoders -----------------------------------------------------------------------------------------


def reconstruct(steps: int, shrunken: float = vae_recipe.SHRUNKEN, moved: float = 0.0, time_channels: int = 8) -> Row:
    """A small autoencoder: PSNR on held-out clips, how alike neighbouring cells are, and what a transformer reaches on
    the latents."""
    torch.manual_seed(0)
    vae = autoencoder.Vae(replace(VAE, time=max(1, time_channels)))
    motionless = vae_recipe.MOTIONLESS if time_channels else 1.0
    world = partial(vae_recipe.world_clip, device=CPU)

    def loss_at(step: int) -> Tensor:
        footage = vae_recipe.batch(0, step, 4, CPU, vae_recipe.IMAGES, world)
        with torch.autocast("cpu", pick_dtype("auto", CPU)):
            return vae_recipe.losses(vae, footage, generator(0, step), shrunken, moved, motionless)["loss"]

    learn(vae, plan_of(steps), loss_at)
    vae_recipe.measure_latents(vae.eval(), 16, world)
    psnr = whole_clips(vae, moving=bool(time_channels))
    latents = latents_of(vae.requires_grad_(False))
    cells = torch.cat([clip[: VAE.space, 0].unsqueeze(0) for pack in latents.test[::2] for clip, *_ in pack])
    alike = (cells[..., 1:] * cells[..., :-1]).mean() / cells.square().mean()
    dit = taught(Variant(), steps, latents)
    loss = measured(dit, latents.test, latents.parts, Variant(), None)
    return {"PSNR": psnr, "neighbours alike": float(alike), "loss": loss, "from noise": denoised(vae, dit, latents)}


@torch.no_grad()
def denoised(vae: autoencoder.Vae, dit: Dit, latents: Latents, level: float = 0.7) -> float:
    """What the transformer sees in much noise, as pictures: PSNR of its decoded prediction to the decoded truth, which
    can be compared between latents of any kind."""
    found = []
    for i, pack in enumerate(latents.test[::2]):  # pictures
        clean = torch.stack([clip for clip, *_ in pack])
        noisy = flow.noised(clean, torch.randn(clean.shape, generator=generator(2, i)), torch.tensor(level))
        V, (h, w) = len(clean), clean.shape[-2:]
        one, grids = torch.ones(V), (Grid(1, h // 2, w // 2),) * V
        text = conditioner()([clip.caption for clip in pack])
        seconds = torch.cat([clip.seconds for clip in pack])
        given = Conditions(level * one, torch.zeros(V, 2), seconds, one, text, one, 0 * one)
        guess = torch.stack(unpatchify(dit(patchify(list(noisy)), grids, given), grids))
        found.append(metrics.psnr(*(vae.decode(z).transpose(1, 2) / 2 + 0.5 for z in (guess, clean))))
    return sum(found) / len(found)


@torch.no_grad()
def whole_clips(vae: autoencoder.Vae, moving: bool) -> float:
    found = []
    for scene in held_out(8, 3):
        real = render([scene], torch.arange(9)[None] / 12, 192, 320)
        latents = vae.moments(rearrange(real, "b t c h w -> b c t h w") * 2 - 1)[0]
        if not moving:
            latents[:, vae.config.space :] = vae.decoder.unknown_motion.view(-1, 1, 1, 1)
        again = vae.decode_raw(latents)[0].clamp(-1, 1) / 2 + 0.5
        found.append(metrics.psnr(rearrange(again, "b c t h w -> b t c h w"), real))
    return sum(found) / len(found)


# ---- questions --------------------------------------------------------------------------------------------

QUESTIONS: dict[str, dict[str, Callable[[int], Row]]] = {
    "order": {
        "order of generation": partial(compared, Variant()),
        "plain causal": partial(compared, Variant(causal=True)),
    },
    "conditions": {"tokens": partial(compared, Variant()), "adaLN-single": partial(compared, Variant(AdaptiveNorms))},
    "prediction": {"x": partial(compared, Variant()), "v": partial(compared, Variant(PredictsVelocity))},
    "positions": {
        "learned and rotary": partial(compared, Variant()),
        "learned alone": partial(compared, Variant(LearnedPositionsAlone)),
    },
    "times": {
        "since the scene began": partial(compared, Variant()),
        "between frames alone": partial(compared, Variant(Timeless)),
    },
    "optimiser": {"Muon": partial(compared, Variant()), "AdamW": partial(compared, Variant(muon=False))},
    "equivariance": {
        "to scale (EQ-VAE)": reconstruct,
        "none": partial(reconstruct, shrunken=0.0),
        "to shifts": partial(reconstruct, shrunken=0.0, moved=0.4),
        "to both": partial(reconstruct, moved=0.4),
    },
    "time channels": {str(n): partial(reconstruct, time_channels=n) for n in (0, 4, 8)},
}


def answers(asked: argparse.Namespace) -> Iterator[tuple[str, dict[str, Row]]]:
    known: dict[str, Row] = {}  # several questions share their first variant
    for question in asked.only:
        rows = {}
        for name, train in QUESTIONS[question].items():
            note(f"{question}: {name}")
            key = repr(train)
            if key not in known:
                known[key] = train(asked.steps)
            rows[name] = known[key]
            note(f"    {', '.join(f'{column} {value:.3f}' for column, value in rows[name].items())}")
        yield question, rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    options.add_argument("--steps", type=int, default=400)
    asked = options.parse_args()
    registry.verify(registry.entry("pocket"))
    found, tables = dict(answers(asked)), []
    for question, rows in found.items():
        columns = list(next(iter(rows.values())))
        table = grid(question, "", *columns)
        for name, row in rows.items():
            table.add_row(name, *(f"{row[column]:.3f}" for column in columns))
        tables.append(table)
    show(found, tables, asked.json)


if __name__ == "__main__":
    main()
