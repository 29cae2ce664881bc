"""`sora-cli train dit`: the Video DiT, on latents of freshly drawn scenes, or of a dataset.

Of the world, images come first, then clips (a clip costs as much as ten images and teaches shapes no better). A pack is
as many samples of one shape as make its budget of tokens, so that there are few kernels to compile and no index in
attention; shapes change from step to step. Packs of a dataset have clips of all its shapes at once (see `packing`).
Every sample has its own task from the mask mix of `timeline.sample_task`.
"""

import copy
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sora_cli import flow, registry, weights
from sora_cli.data import summary
from sora_cli.data.dataset import Dataset, identity
from sora_cli.errors import SoraError
from sora_cli.models.sora.dit import Conditions, Dit, DitConfig, config_from
from sora_cli.models.sora.patches import PATCH, ROUND, Grid, grid_of, patchify, unpatchify
from sora_cli.models.sora.text import TextConfig, TextTower, Tokenizer
from sora_cli.models.sora.text import from_weights as text_from_weights
from sora_cli.models.sora.vae import Vae, VaeConfig
from sora_cli.models.sora.vae import from_weights as vae_from_weights
from sora_cli.sampler import euler
from sora_cli.timeline import ADRIFT, Task, sample_task, spread
from sora_cli.train import distil, ranks
from sora_cli.train.grow import grow_dit
from sora_cli.train.latents import Block, Bucket, Window
from sora_cli.train.loop import Losses, Recipe, batches_of, fit, generator
from sora_cli.train.options import TrainOptions
from sora_cli.train.packing import Clip, Pack, Packs, pack_of, tokens_of
from sora_cli.train.sheets import save_sheet

NAMES = {"vae": "VAE", "text": "text tower"}
WIDTHS = {"nano": (192, 6, 3), "mini": (384, 10, 6), "base": (512, 12, 8)}  # width, depth, heads
STEPS = {"nano": 6000, "mini": 8000, "base": 12000}
BATCH = {"nano": 48, "mini": 256, "base": 256}
BUDGET = 60  # tokens of a pack, for each unit of the batch: one picture on the native canvas
SAMPLES = 8  # images in a block; clips are fewer
WINDOW = 600  # blocks that may be drawn from
REMEMBERED = 4096  # captions whose features are kept
RATE, DISTIL_RATE = 2e-3, 5e-4
CLEAN_CONTEXT = 0.7
# The noise levels, in logits: latents are pictures, whose outlines survive much noise; and what a caption and a time
# say of a subject's pose has to be learned from what shows next to nothing.
NOISY, WIDE_APART = 1.2, 1.4


@dataclass(frozen=True)
class Phase:
    """From a share of the run on: shapes to draw from, with their weights."""

    start: float
    buckets: tuple[tuple[Bucket, float], ...]


SQUARE, WIDE, TALL = (6, 6), (6, 10), (10, 6)
PHASES = (
    Phase(0.0, ((Bucket(1, *SQUARE), 0.6), (Bucket(1, *WIDE), 0.3), (Bucket(1, *TALL), 0.1))),
    Phase(0.25, ((Bucket(1, *SQUARE), 0.3), (Bucket(1, *WIDE), 0.35), (Bucket(1, *TALL), 0.15),
                 (Bucket(4, *SQUARE), 0.2))),
    Phase(0.5, ((Bucket(1, *WIDE), 0.35), (Bucket(1, *TALL), 0.1), (Bucket(4, *SQUARE), 0.2),
                (Bucket(4, *WIDE), 0.35))),
    Phase(0.75, ((Bucket(1, *WIDE), 0.2), (Bucket(4, *WIDE), 0.3), (Bucket(4, *TALL), 0.1), (Bucket(8, *WIDE), 0.4))),
)
GROWN = (  # for weights that know pictures already
    Phase(0.0, ((Bucket(1, *SQUARE), 0.45), (Bucket(1, *WIDE), 0.4), (Bucket(4, *SQUARE), 0.15))),
    Phase(0.55, ((Bucket(1, *SQUARE), 0.1), (Bucket(1, *WIDE), 0.4), (Bucket(4, *SQUARE), 0.2), (Bucket(4, *WIDE), 0.1),
                 (Bucket(8, *SQUARE), 0.2))),
    Phase(0.8, ((Bucket(1, *WIDE), 0.25), (Bucket(4, *SQUARE), 0.15), (Bucket(4, *WIDE), 0.2),
                (Bucket(8, *SQUARE), 0.2), (Bucket(8, *WIDE), 0.2))),
)
DISTILLED = (Phase(0.0, GROWN[-1].buckets),)


def bucket_of(share: float, rng: random.Random, phases: tuple[Phase, ...] = PHASES) -> Bucket:
    """The shape of a block made at this share of the run."""
    phase = [p for p in phases if p.start <= share][-1]
    buckets, chances = zip(*phase.buckets, strict=True)
    bucket: Bucket = rng.choices(buckets, chances)[0]
    return bucket


class Conditioner:
    """Captions -> text features [V, L, width] by the frozen tower, which reads none twice soon."""

    def __init__(self, tower: TextTower, tokenizer: Tokenizer, device: torch.device) -> None:
        self.tower, self.tokenizer, self.device = tower.to(device).eval(), tokenizer, device
        self.kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        read = {caption: self.kept[caption] for caption in captions if caption in self.kept}
        if new := [caption for caption in dict.fromkeys(captions) if caption not in read]:
            features = self.tower(self.tokenizer.encode(new).to(self.device))[0]
            read |= zip(new, features.unbind(), strict=True)
        older = [item for item in self.kept.items() if item[0] not in read]
        self.kept = dict([*older, *read.items()][-REMEMBERED:])  # anew: threads may share this
        return torch.stack([read[caption] for caption in captions])


@dataclass(frozen=True)
class Example:
    """One video of a pack: noisy input, target, what counts in the loss, and its frame conditions."""

    noisy: Tensor  # [C, T, h, w]
    clean: Tensor
    weight: Tensor  # [C, T, 1, 1]
    t: Tensor  # [T]
    known: Tensor  # [T, 2]
    order: Tensor  # [T]
    seconds: Tensor  # [T]


def example(clean: Tensor, seconds: Tensor, parts: tuple[int, int], rng: torch.Generator,
            asked: Callable[[int], Task] | None = None) -> Example:  # fmt: skip
    """Noise a clip [C, T, h, w] for a task drawn from the mix, or `asked` for T frames. Known parts are clean, or
    now and then slightly noised with the level given, which keeps long rollouts from drifting."""
    C, T, h, w = clean.shape
    task = asked(T) if asked else sample_task(rng, T)
    known = rearrange(task.known, "p T -> T p").float()
    shift = flow.shift_for(h * w // 4)
    stages = flow.shifted(flow.logit_normal(int(task.order.max()) + 1, rng, NOISY, WIDE_APART), shift)
    t = stages[task.order]
    soiled = torch.rand((), generator=rng) > CLEAN_CONTEXT
    context = torch.rand((), generator=rng) * 0.3 * soiled
    whole = known.amin(1)  # 1 where nothing is to be made
    t = torch.where(whole.bool(), context, t)
    per_part = torch.where(known.bool(), context, t[:, None])  # (T, 2)
    level, counts = spread(per_part.T, parts), spread(1 - known.T, parts)
    noise = torch.randn(clean.shape, generator=rng).to(clean)
    noisy = flow.noised(clean, noise, level.to(clean))
    weight = (counts * flow.weight(level)).to(clean)
    return Example(noisy, clean, weight, t, known, task.order, seconds)


def pack_loss(dit: Dit, examples: list[Example], text: Tensor, grids: tuple[Grid, ...] = ()) -> Losses:
    """The v-space loss of one pack, the mean over everything that had to be made, where the grids keep it."""
    grids = grids or tuple(grid_of(e.clean) for e in examples)
    one = torch.ones(len(examples), device=text.device)
    t, known, seconds, order = (torch.cat([getattr(e, name) for e in examples])
                                for name in ("t", "known", "seconds", "order"))  # fmt: skip
    given = Conditions(t, known, seconds, order, text, guidance=one, step=0 * one)
    predicted = dit(patchify([e.noisy for e in examples], grids), grids, given).float()
    target = patchify([e.clean for e in examples], grids)
    weight = patchify([e.weight.expand_as(e.clean) for e in examples], grids)
    error = (predicted - target).square()
    return {"loss": (weight * error).sum() / (weight > 0).sum(), "mse": error.detach().mean()}


class Data:
    """Packs of the world: blocks of one shape out of the window, as many as make the budget of tokens."""

    def __init__(self, window: Window, conditioner: Conditioner, batch: int, packs: int, seed: int,
                 phases: tuple[Phase, ...] = PHASES, drop: float = 0.0) -> None:  # fmt: skip
        self.window, self.conditioner, self.batch, self.packs = window, conditioner, batch, packs
        self.seed, self.phases, self.drop = seed, phases, drop

    def bucket(self, number: int) -> Bucket:
        share = number / (self.window.fresh * self.packs)
        return bucket_of(share, random.Random(self.seed * 15_485_863 + number), self.phases)

    def block(self, number: int) -> Block:
        return self.window.block(number, self.bucket(number))

    def at(self, pack: int) -> Pack:
        rng = random.Random(self.seed * 32_452_843 + pack)
        torch_rng = generator(self.seed, pack)
        numbers = self.window.range_at(pack)
        for number in range(self.window.range_at(pack - 1).stop, numbers.stop):
            self.block(number)  # every block is made once, in its turn
        bucket = self.bucket(rng.choice(numbers))
        alike = [number for number in numbers if self.bucket(number) == bucket]
        samples = max(1, round(self.batch * BUDGET / bucket.tokens))
        clips: list[Clip] = []
        while len(clips) < samples:
            block = self.block(rng.choice(alike))
            clips += zip(block.latents.float(), block.seconds, block.captions, strict=True)
        clips = clips[:samples]
        return pack_of(clips, self.conditioner([caption for *_, caption in clips]), torch_rng, self.drop)

    def shown(self) -> tuple[Tensor, Grid]:
        """What sheets show: features of captions, and the shape of each video."""
        return self.conditioner(list(SHOWN)), Grid(3, *WIDE)


class Clips(Packs):
    """Packs of a dataset."""

    def shown(self) -> tuple[Tensor, Grid]:
        """The same: the first captions, in the shape of the first clip."""
        numbers = list(range(min(len(SHOWN), len(self.source))))
        T, h, w = self.source.shapes[0]
        text = self.text(numbers, [self.source[number] for number in numbers])
        return text, Grid(min(T, 3), h // PATCH, w // PATCH)


SHOWN = (
    "a large cat surfing normal, ocean, camera still",
    "a large rocket rising fast, space, camera still",
    "a large penguin bouncing normal, snow, camera still",
    "a large car moving right normal, city at night, camera still",
    "a large octopus circling normal, underwater, camera still",
    "a large elephant standing still normal, desert, camera still",
)


@torch.no_grad()
def draw(dit: Dit, vae: Vae, text: Tensor, frames: int, height: int, width: int, steps: int = 12,
         guidance: float = 3.0, spacing: float = 0.5) -> Tensor:  # fmt: skip
    """Sample videos, one a row of text [V, L, D] -> latents [V, C, frames, height, width]; a quick look."""
    V, device = len(text), text.device
    noise = torch.randn(V, vae.config.channels, frames, height, width, generator=generator(0, 0)).to(device)
    grids = (Grid(frames, height // 2, width // 2),) * (2 * V)
    seconds = (torch.arange(frames) * spacing).repeat(2 * V).to(device)
    pair, one = torch.cat([text, torch.zeros_like(text)]), torch.ones(2 * V, device=device)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        F_ = len(seconds)
        given = Conditions(t.to(device).expand(F_), torch.zeros(F_, 2, device=device), seconds,
                           torch.ones(F_, device=device), pair, one, 0 * one)  # fmt: skip
        clean = torch.stack(unpatchify(dit(patchify([*x, *x]), grids, given).float(), grids))
        told, untold = clean.chunk(2)
        return flow.velocity(x, untold + guidance * (told - untold), t.to(device))

    times = flow.schedule(steps, flow.shift_for(height * width // 4))
    *_, x = euler(velocity, noise, times)
    return x


def load_stages(options: TrainOptions, device: torch.device) -> tuple[Vae, Conditioner]:
    """The frozen VAE and text tower."""
    tokenizer, tower = text_from_weights(*registry.load_network("text", options.text))
    vae = vae_from_weights(*registry.load_network("vae", options.vae))
    return vae.to(device), Conditioner(tower, tokenizer, device)


def frozen(options: TrainOptions) -> dict[str, str]:
    """Which autoencoder and which text tower the transformer learns with."""
    return {stem: identity(*registry.load_network(stem, path)) for stem, path in
            (("vae", options.vae), ("text", options.text))}  # fmt: skip


def check_frozen(metadata: Mapping[str, str], given: Mapping[str, str]) -> None:
    """SoraError naming the first of these networks that is not the one a transformer was trained with; files from
    before that was written down are taken as they are."""
    for stem, theirs in json.loads(metadata.get("frozen", "{}")).items():
        if theirs != given[stem]:
            raise SoraError(f"the transformer was trained with another {NAMES[stem]}; give the one of its run with "
                            f"--{stem}")  # fmt: skip


def config_of(preset: str, vae: VaeConfig, text: TextConfig) -> DitConfig:
    """The sizes of a preset for latents and text features of these kinds."""
    width, depth, heads = WIDTHS[preset]
    return DitConfig(channels=vae.channels, width=width, depth=depth, heads=heads, text_width=text.width,
                     text_tokens=text.context - 4, registers=1, bins=(64, 16, 16), seconds=ADRIFT)  # fmt: skip


def begin(options: TrainOptions, vae: Vae, text: TextConfig) -> Dit:
    """The transformer before the first step: as it is drawn, or grown from weights; distilling keeps their size."""
    config = config_of(options.preset, vae.config, text)
    if not options.init:
        return Dit(config)
    tensors, metadata = registry.load_network("dit", options.init)
    if options.distil:
        check_frozen(metadata, frozen(options))
    dit = Dit(config_from(metadata) if options.distil else config)
    grow_dit(dit, tensors, metadata, (vae.config.space, vae.config.time))
    return dit


def data_of(options: TrainOptions, recipe: Recipe, vae: Vae, conditioner: Conditioner, conditions: int,
            dtype: torch.dtype) -> Data | Clips:  # fmt: skip
    """Packs of what was asked for: of one shape each where blocks are fused or steps distilled."""
    if options.data == "world":
        device = conditioner.device
        fresh = 0.75 if device.type == "cpu" else recipe.batch / SAMPLES
        window = Window(vae, options.seed, SAMPLES, WINDOW, fresh, device, dtype, options.out)
        phases = DISTILLED if options.distil else GROWN if options.init else PHASES
        packs = recipe.steps * batches_of(options)
        return Data(window, conditioner, recipe.batch, packs, options.seed, phases, options.drop_tokens)
    networks = frozen(options)
    dataset = Dataset(options.data, networks["vae"])
    budget = ROUND * max(1, round(recipe.batch * (BUDGET + conditions) / ROUND))
    return Clips(dataset, conditioner, conditions, budget, options.seed, options.drop_tokens, options.distil,
                 networks["text"])  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """A pack with its noise, on the device: all that can be done before the network is there."""

    asked: list[Example] | distil.Task
    text: Tensor
    grids: tuple[Grid, ...]
    waste: float


def train(options: TrainOptions) -> Path:
    """Train and write the DiT as `options.out`/dit-*.safetensors; returns the folder."""
    device, dtype = ranks.join(options)
    vae, conditioner = load_stages(options, device)
    torch.manual_seed(options.seed)  # weight initialisation alone
    dit = begin(options, vae, conditioner.tower.config).to(device)
    config, size = dit.config, sum(p.numel() for p in dit.parameters())
    rate, warmup = (DISTIL_RATE, 50) if options.distil else (RATE, 200)
    recipe = Recipe(steps=options.steps or STEPS[options.preset], batch=options.batch or BATCH[options.preset],
                    rate=rate, average=0.999, warmup=warmup, save_every=250, sample_every=500)  # fmt: skip
    data = data_of(options, recipe, vae, conditioner, config.conditions, dtype)
    metadata = {"config": json.dumps(asdict(dit.config)), "training": options.record(),
                "frozen": json.dumps(frozen(options)), "data": json.dumps(told_of(options.data))}  # fmt: skip
    if options.distil:
        metadata |= {"distilled": "guidance, steps"}
    parts = (vae.config.space, vae.config.time)
    teacher = copy.deepcopy(dit).eval().requires_grad_(False) if options.distil else None
    passes = 3 if teacher is None else 7  # forward and back; and two of the teacher, two of the student
    prepare_blocks(options, dit, *([teacher] if teacher else []))

    def ready(number: int) -> Batch:
        pack = data.at(number)
        asked: list[Example] | distil.Task
        if teacher:
            latents, seconds, _ = zip(*pack.clips, strict=True)
            asked = to_device(distil.draw(torch.stack(latents), torch.stack(seconds), parts, pack.rng), device)
        else:
            asked = [to_device(example(*clip[:2], parts, pack.rng), device) for clip in pack.clips]
        return Batch(asked, pack.text.to(device), pack.grids, pack.waste)

    def loss(batch: Batch) -> Losses:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if isinstance(batch.asked, distil.Task):
                assert teacher
                losses = distil.loss(dit, teacher, batch.asked, batch.text)
            else:
                losses = pack_loss(dit, batch.asked, batch.text, batch.grids)
        told = {"samples": len(batch.grids), "tokens": tokens_of(batch.grids, config.conditions),
                "flops": passes * flops_of(config, size, batch.grids)}  # fmt: skip
        told |= {"waste": batch.waste} if isinstance(data, Packs) else {}
        return losses | {name: torch.tensor(float(value), device=device) for name, value in told.items()}

    def sample(model: nn.Module, path: Path) -> None:
        assert isinstance(model, Dit)
        text, grid = data.shown()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            latents = draw(model, vae, text.to(device), grid.frames, PATCH * grid.height, PATCH * grid.width)
            rows = [vae.decode(latents[:, :, i : i + 1])[:, :, 0] for i in range(latents.shape[2])]
        save_sheet(path, [torch.stack(row, 1) for row in zip(*rows, strict=True)])

    averaged = fit(dit, loss, recipe, options, sample, ready)
    if ranks.leads():
        weights.save_part(options.out, "dit", {k: v.bfloat16() for k, v in averaged.items()}, metadata)
    return options.out


def told_of(data: str) -> dict[str, Any]:
    """What a model card says of a dataset."""
    if data == "world":
        return {}
    found = summary.summary(Path(data))
    example = next(filter(None, Dataset(data).captions), "")
    return {key: found[key] for key in ("videos", "images", "shots", "seconds", "captions")} | {"example": example}


def flops_of(config: DitConfig, size: int, grids: tuple[Grid, ...]) -> float:
    """FLOP of a forward pass through a transformer of `size` weights: every weight once a token, but those across time,
    which condition tokens, and packs of pictures, do not see; and 4 D for every pair in attention."""
    tokens, moving = tokens_of(grids, config.conditions), any(g.frames > 1 for g in grids)
    unseen = sum(g.frames for g in grids) * config.conditions if moving else tokens
    pairs = sum(g.frames * (g.size + config.conditions) ** 2 + moving * g.size * g.frames**2 for g in grids)
    wide = 4.0 * config.width * config.depth
    return 2.0 * size * tokens + wide * (pairs - 2 * config.width * unseen)


def prepare_blocks(options: TrainOptions, *dits: Dit) -> None:
    """Blocks that are computed again on the way back, and fused, where that is asked for. Fusing makes one program a
    shape of pack, when it is first met: it is left out where every pack has another, and in shards."""
    for block in (block for dit in dits for block in dit.blocks):
        if options.checkpoint_activations:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    alike = options.data == "world" or options.distil
    if options.compile and alike and not options.drop_tokens and not options.shard:
        compile_blocks(*dits)


def compile_blocks(*dits: Dit) -> None:
    """Fuse what surrounds the products. Blocks share one program a shape of pack, made when it is first met."""
    torch._dynamo.config.recompile_limit = 64
    for block in (block for dit in dits for block in dit.blocks):
        block.compile(dynamic=False)


Tensors = TypeVar("Tensors", Example, distil.Task)


def to_device(e: Tensors, device: torch.device) -> Tensors:
    return type(e)(**{field.name: getattr(e, field.name).to(device) for field in fields(e)})
