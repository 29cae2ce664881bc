"""`sora-cli train dit`: the Video DiT, on latents of freshly drawn scenes, or of a dataset.

Of the world, images come first, then clips (a clip costs as much as ten images and teaches shapes no better). A pack is
as many samples of one shape as make its budget of tokens, so that there are few kernels to compile and no index in
attention; shapes change from step to step. Packs of a dataset have clips of all its shapes at once (see `packing`).
Every sample has its own task from the mask mix of `timeline.sample_task`.
"""

import copy
import json
import random
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sora_cli import registry
from sora_cli.dataset import summary
from sora_cli.dataset.dataset import Dataset, identity
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.models.sora.dit import Conditions, Dit, DitConfig, config_from
from sora_cli.models.sora.patches import PATCH, ROUND, Grid, grid_of, patchify, unpatchify
from sora_cli.models.sora.text import TextConfig, TextTower, Tokenizer
from sora_cli.models.sora.text import from_weights as text_from_weights
from sora_cli.models.sora.vae import STRIDE, Vae, VaeConfig
from sora_cli.models.sora.vae import from_weights as vae_from_weights
from sora_cli.sampling import flow
from sora_cli.sampling.conditioning import ADRIFT, Task, sample_task
from sora_cli.sampling.solvers import euler
from sora_cli.train.data.latent_cache import FIRST, Block, Bucket, Window
from sora_cli.train.data.packing import Clip, Pack, Packs, pack_of, tokens_of
from sora_cli.train.options import WORLD, DitOptions
from sora_cli.train.recipes import distil, likeness, pretrained, tower
from sora_cli.train.recipes.align import Aim, Encoder, Features, Geometry, Learner, aims_of, transformer
from sora_cli.train.recipes.grow import grow_dit
from sora_cli.train.trainer import distributed
from sora_cli.train.trainer.loop import Losses, Recipe, fit, generator
from sora_cli.train.trainer.sheets import save_sheet
from sora_cli.world.motion import BAR

NAMES = {"vae": "VAE", "text": "text tower"}
WIDTHS = {"nano": (192, 6, 3), "mini": (384, 10, 6), "base": (512, 12, 8)}  # width, depth, heads
COARSE_WIDTHS = {"nano": (192, 6, 3), "mini": (256, 8, 4), "base": (384, 10, 6)}  # of latents without details
STEPS = {"nano": 20_000, "mini": 20_000, "base": 30_000}
BATCH = {"nano": 48, "mini": 256, "base": 256}
BUDGET = 60  # tokens of a pack, for each unit of the batch: one picture on the native canvas
SAMPLES = 8  # images in a block; clips are fewer
WINDOW = 600  # blocks that may be drawn from
SCORED = 48  # pictures that are compared with their scenes when sheets are drawn
REMEMBERED = 4096  # captions whose features are kept
RATE, DISTIL_RATE = 2e-3, 5e-4
CLEAN_CONTEXT = 0.7
# The noise levels, in logits: latents are pictures, whose outlines survive much noise; and what a caption and a time
# say of a subject's pose has to be learned from what shows next to nothing.
NOISY, WIDE_APART = 1.2, 1.4


@dataclass(frozen=True)
class Phase:
    """From a share of the run on: shapes to draw from, with their weights; the share of positions that are left out,
    background first, and how much more an error counts where a subject is."""

    start: float
    buckets: tuple[tuple[Bucket, float], ...]
    drop: float = 0.0
    subject: float = 1.0


SQUARE, WIDE, TALL = (6, 6), (6, 10), (10, 6)
PICTURES = ((Bucket(1, *WIDE), 0.7), (Bucket(1, *SQUARE), 0.15), (Bucket(1, *TALL), 0.15))
CHUNKS = ((Bucket(1, *WIDE, moving=True), 0.7), (Bucket(1, *SQUARE, moving=True), 0.15),
          (Bucket(1, *TALL, moving=True), 0.15))  # fmt: skip
CLIPS = ((Bucket(4, *WIDE), 0.4), (Bucket(4, *SQUARE), 0.2), (Bucket(8, *WIDE), 0.25), (Bucket(4, *TALL), 0.15))


def mixed(*shares: tuple[float, tuple[tuple[Bucket, float], ...]]) -> tuple[tuple[Bucket, float], ...]:
    """Several lists of buckets, each with its share of the whole."""
    return tuple((bucket, share * weight) for share, buckets in shares for bucket, weight in buckets)


# Learn where it matters: the background takes minutes, so most of it is left out until the end.
PHASES = (Phase(0.0, PICTURES, drop=0.4, subject=3.0), Phase(0.8, PICTURES, subject=2.0))
GROWN = (  # for weights that know pictures already
    Phase(0.0, mixed((0.85, PICTURES), (0.15, CHUNKS)), drop=0.4, subject=3.0),
    Phase(0.7, mixed((0.5, PICTURES), (0.5, CHUNKS)), drop=0.4, subject=3.0),
    Phase(0.88, mixed((0.35, PICTURES), (0.4, CHUNKS), (0.25, CLIPS)), subject=2.0),
)
DISTILLED = (Phase(0.0, GROWN[-1].buckets),)


class Schedule:
    """Which phase holds when. Phases begin by the share of the run that is over, of its steps or of its minutes, so
    that nobody knows the pack beforehand: it is written down, and a run that goes on reads it."""

    def __init__(self, phases: tuple[Phase, ...], path: Path | None) -> None:
        self.phases, self.path = phases, path
        self.starts = json.loads(path.read_text()) if path and path.exists() else [0]

    def reached(self, pack: int, share: float) -> None:
        """At this pack, such a share of the run is over: what begins with it does so with the next packs that nobody
        has asked for yet."""
        while len(self.starts) < len(self.phases) and self.phases[len(self.starts)].start <= share:
            self.starts.append(pack)
            if self.path and distributed.leads():
                weights.write(self.path, json.dumps(self.starts).encode())

    def at(self, pack: int) -> Phase:
        return self.phases[max(bisect(self.starts, pack) - 1, 0)]


def bucket_of(phase: Phase, rng: random.Random) -> Bucket:
    """A shape to draw."""
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
    """V videos of one shape: noisy input, target, what counts in the loss, frame conditions, and what is known
    besides."""

    noisy: Tensor  # [V, C, T, h, w]
    clean: Tensor
    weight: Tensor  # [V, C, T, h, w]
    t: Tensor  # [V, T]
    known: Tensor  # [V, T, 2]
    order: Tensor  # [V, T]
    seconds: Tensor  # [V, T]
    aim: Tensor | None = None  # [V, K, T, h, w], of cells or of patches


Chosen = Callable[[int], Task]


def example(clips: Sequence[Clip], parts: tuple[int, int], rng: torch.Generator, subject: float = 1.0,
            asked: Chosen | None = None) -> Example:  # fmt: skip
    """Noise clips of one shape, each for a task drawn from the mix, or `asked` for T frames. Known parts are clean, or
    now and then slightly noised with the level given, which keeps long rollouts from drifting. An error counts
    `subject` times where one is; the motion of a frame that stands alone does not count."""
    clean = torch.stack([clip.latents for clip in clips])
    V, C, T, h, w = clean.shape
    drawn = [levels(T, rng, flow.shift_for(h * w // 4), asked) for _ in clips]
    t, each, known, order = (torch.stack(x) for x in zip(*drawn, strict=True))
    each, counts = (torch.repeat_interleave(x, torch.tensor(parts), -1) for x in (each, 1 - known))  # (V, T, C)
    for number, clip in enumerate(clips):
        if clip.first:
            counts[number, 0, parts[0] :] = 0
    level, counts = (rearrange(x, "V T C -> V C T 1 1") for x in (each, counts))
    noise = torch.randn(clean.shape, generator=rng)
    weight = (counts * flow.weight(level)).expand_as(clean)
    if subject != 1 and all(clip.cover is not None for clip in clips):
        here = torch.stack([patch_cover(clip.cover) for clip in clips if clip.cover is not None])
        weight = weight * (1 + (subject - 1) * here[:, None])
    aims = aims_of([clip.aim for clip in clips])
    return Example(flow.noised(clean, noise, level), clean, weight, t, known, order,
                   torch.stack([clip.seconds for clip in clips]), torch.stack(aims) if aims else None)  # fmt: skip


def levels(T: int, rng: torch.Generator, shift: float, asked: Chosen | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a task: the noise of its frames [T] and of their parts [T, 2], which are known [T, 2], and their order [T]."""
    task = asked(T) if asked else sample_task(rng, T)
    known = rearrange(task.known, "p T -> T p").float()
    stages = flow.shifted(flow.logit_normal(int(task.order.max()) + 1, rng, NOISY, WIDE_APART), shift)
    t = stages[task.order]
    soiled = torch.rand((), generator=rng) > CLEAN_CONTEXT
    context = torch.rand((), generator=rng) * 0.3 * soiled
    t = torch.where(known.amin(1).bool(), context, t)  # where nothing is to be made
    return t, torch.where(known.bool(), context, t[:, None]), known, task.order


def patch_cover(cover: Tensor) -> Tensor:
    """1 in all cells of the patches in which there is a subject: [T, h, w] -> [T, h, w]."""
    seen = (reduce(cover, "T (h p) (w q) -> T h w", "mean", p=PATCH, q=PATCH) > 0.05).float()
    return repeat(seen, "T h w -> T (h p) (w q)", p=PATCH, q=PATCH)


def examples_of(pack: Pack, parts: tuple[int, int], subject: float = 1.0) -> list[Example]:
    """The clips of a pack: in one example where they are alike, else each in one of its own."""
    alike = len({clip.latents.shape for clip in pack.clips}) == 1
    groups = [pack.clips] if alike else [[clip] for clip in pack.clips]
    return [example(group, parts, pack.rng, subject) for group in groups]


def pack_loss(model: Learner, examples: Sequence[Example], text: Tensor, grids: tuple[Grid, ...] = ()) -> Losses:
    """The v-space loss of one pack, the mean over everything that had to be made, where the grids keep it; and how far
    what a middle block tells is from what is known."""
    grids = grids or tuple(grid_of(video) for e in examples for video in e.clean)
    one = torch.ones(len(grids), device=text.device)
    t, known, seconds, order = (torch.cat([getattr(e, name).flatten(0, 1) for e in examples])
                                for name in ("t", "known", "seconds", "order"))  # fmt: skip
    given = Conditions(t, known, seconds, order, text, guidance=one, step=0 * one)
    noisy, target, weight = (patches_of(examples, name, grids) for name in ("noisy", "clean", "weight"))
    predicted, told = model(noisy, grids, given)
    error = (predicted.float() - target).square()
    loss = (weight * error).sum() / (weight > 0).sum()
    losses = {"mse": error.detach().mean()}
    if model.aim and told is not None and all(e.aim is not None for e in examples):
        apart = model.aim.loss(told.float(), patches_of(examples, "aim", grids, model.aim.side))
        losses |= {"aim": apart.detach()}
        loss = loss + model.aim.weight * apart
    return {"loss": loss} | losses


def patches_of(examples: Sequence[Example], name: str, grids: tuple[Grid, ...], side: int = PATCH) -> Tensor:
    """One field of examples, of which `side` x `side` cells are a patch, in patches [P, side^2 C]."""
    if len(examples) == 1:
        return patchify(getattr(examples[0], name), grids, side)
    return patchify([video for e in examples for video in getattr(e, name)], grids, side)


class Data:
    """Packs of the world: blocks of one shape out of the window, as many as make the budget of tokens."""

    def __init__(self, window: Window, conditioner: Conditioner, batch: int, seed: int, schedule: Schedule,
                 drop: float = 0.0) -> None:  # fmt: skip
        self.window, self.conditioner, self.batch = window, conditioner, batch
        self.seed, self.schedule, self.drop = seed, schedule, drop
        self.buckets: dict[int, Bucket] = {}  # of the blocks so far

    def bucket(self, number: int) -> Bucket:
        if number not in self.buckets:
            asked_first = int((number - FIRST) / self.window.fresh)  # the pack that first draws from this block
            rng = random.Random(self.seed * 15_485_863 + number)
            self.buckets[number] = bucket_of(self.schedule.at(asked_first), rng)
        return self.buckets[number]

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
            clips += self.block(rng.choice(alike)).clips()
        clips = clips[:samples]
        phase = self.schedule.at(pack)
        text = self.conditioner([clip.caption for clip in clips])
        return replace(pack_of(clips, text, torch_rng, max(phase.drop, self.drop)), subject=phase.subject)

    def shown(self) -> tuple[Tensor, Grid]:
        """What sheets show: features of captions, and the shape of each video."""
        return self.conditioner(list(SHOWN)), Grid(3, *WIDE)


class Clips(Packs):
    """Packs of a dataset."""

    def shown(self) -> tuple[Tensor, Grid]:
        """The same: the first captions, in the shape of the first clip."""
        numbers = list(range(min(len(SHOWN), len(self.source))))
        T, h, w = self.source.shapes[0]
        text = self.text(numbers, [self.clip(number, 1, generator(0, number)) for number in numbers])
        return text, Grid(min(T, 3), h // PATCH, w // PATCH)


SHOWN = (
    "a large cat surfing normal, ocean, camera still, middle, low, beat one",
    "a large rocket rising fast, space, camera still, middle, low, beat one",
    "a large penguin bouncing normal, snow, camera still, middle, low, beat one",
    "a large car moving right normal, city at night, camera still, middle, low, beat one",
    "a large octopus circling normal, underwater, camera still, middle, low, beat one",
    "a large elephant standing still normal, desert, camera still, middle, low, beat one",
)


@torch.no_grad()
def draw(dit: Dit, vae: Vae, text: Tensor, seconds: Tensor, height: int, width: int, steps: int = 5) -> Tensor:
    """Sample videos of frames at seconds [V, T], one a row of text [V, L, D] -> latents [V, C, T, height, width]; a
    quick look. Of latents without details these are nothing."""
    V, device, parts = len(text), text.device, vae.config.parts
    T = seconds.shape[1]
    noise = torch.randn(V, dit.config.channels, T, height, width, generator=generator(0, 0)).to(device)
    grids = (Grid(T, height // 2, width // 2),) * V
    times_of_frames = seconds.flatten().to(device)
    one, frame = torch.ones(V, device=device), torch.ones(V * T, device=device)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        given = Conditions(t.to(device) * frame, torch.zeros(V * T, 2, device=device), times_of_frames, frame, text,
                           one, 0 * one)  # fmt: skip
        clean = torch.stack(unpatchify(dit(patchify(x), grids, given).float(), grids))
        return flow.velocity(x, clean, t.to(device))

    times = flow.schedule(steps, flow.shift_for(height * width // 4))
    *_, x = euler(velocity, noise, times)
    return with_details(x, parts)


def with_details(latents: Tensor, parts: tuple[int, int, int]) -> Tensor:
    """Latents [V, C, T, h, w] that may lack the channels of details, with zeros for them."""
    coarse, details, motion = parts
    if latents.shape[1] == sum(parts):
        return latents
    one, other = latents.split([coarse, motion], 1)
    return torch.cat([one, torch.zeros_like(one[:, :1]).expand(-1, details, -1, -1, -1), other], 1)


def without_details(pack: Pack, parts: tuple[int, int, int]) -> Pack:
    """The same clips, as a transformer sees them that does not make details."""
    coarse, details, _ = parts
    clips = [clip._replace(latents=torch.cat([clip.latents[:coarse], clip.latents[coarse + details :]]))
             for clip in pack.clips]  # fmt: skip
    return replace(pack, clips=clips)


def load_stages(options: DitOptions, device: torch.device) -> tuple[Vae, Conditioner]:
    """The frozen VAE and text tower."""
    tokenizer, tower = text_from_weights(*registry.load_network("text", options.text))
    vae = vae_from_weights(*registry.load_network("vae", options.vae))
    return vae.to(device), Conditioner(tower, tokenizer, device)


def frozen(options: DitOptions) -> dict[str, str]:
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


def config_of(options: DitOptions, vae: VaeConfig, text: TextConfig) -> DitConfig:
    """The sizes of a preset for latents and text features of these kinds."""
    width, depth, heads = (COARSE_WIDTHS if options.coarse else WIDTHS)[options.preset]
    channels = vae.channels - vae.details * options.coarse
    return DitConfig(channels=channels, width=width, depth=depth, heads=heads, text_width=text.width,
                     text_tokens=text.context - 4, registers=1, bins=(64, 16, 16), seconds=ADRIFT, bar=BAR)  # fmt: skip


def begin(options: DitOptions, vae: Vae, text: TextConfig) -> Dit:
    """The transformer before the first step: as it is drawn, or grown from weights; distilling keeps their size."""
    config = config_of(options, vae.config, text)
    if not options.init:
        return Dit(config)
    tensors, metadata = registry.load_network("dit", options.init)
    if options.distil:
        check_frozen(metadata, frozen(options))
    dit = Dit(config_from(metadata) if options.distil else config)
    grow_dit(dit, tensors, metadata, parts_of(dit.config, vae.config))
    return dit


def parts_of(dit: DitConfig, vae: VaeConfig) -> tuple[int, int]:
    """Channels of space and of time that a transformer makes."""
    return dit.channels - vae.time, vae.time


def encoder_of(options: DitOptions, vae: Vae) -> Encoder | None:
    """What a middle block is aligned with where no renderer knows the geometry, if it is with anything."""
    if options.aim in ("off", "geometry"):
        return None
    if options.aim != "clip":
        return pretrained.Pretrained(options.aim, vae)
    assert options.tower
    return tower.load(options.tower, frozen(options)["vae"]).to(vae.mean.device)


def aim_of(options: DitOptions, encoder: Encoder | None) -> Aim | None:
    """What a middle block is to tell."""
    if encoder:
        return Features(encoder.numbers)
    return Geometry() if options.aim == "geometry" else None


def data_of(options: DitOptions, recipe: Recipe, vae: Vae, conditioner: Conditioner, conditions: int,
            dtype: torch.dtype, encoder: Encoder | None) -> Data | Clips:  # fmt: skip
    """Packs of what was asked for: of one shape each where blocks are fused or steps distilled."""
    if options.data == WORLD:
        device = conditioner.device
        fresh = 0.5 if device.type == "cpu" else recipe.batch / SAMPLES
        window = Window(vae, options.seed, SAMPLES, WINDOW, fresh, device, dtype, options.folder)
        phases = DISTILLED if options.distil else GROWN if options.init else PHASES
        schedule = Schedule(phases, options.folder / "phases.json")
        return Data(window, conditioner, recipe.batch, options.seed, schedule, options.drop_tokens)
    networks = frozen(options)
    dataset = Dataset(options.data, networks["vae"])
    budget = ROUND * max(1, round(recipe.batch * (BUDGET + conditions) / ROUND))
    return Clips(dataset, conditioner, conditions, budget, options.seed, options.drop_tokens, options.distil,
                 networks["text"], encoder)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """A pack with its noise, on the device: all that can be done before the network is there."""

    asked: list[Example] | distil.Task
    text: Tensor
    grids: tuple[Grid, ...]
    waste: float


def train(options: DitOptions) -> Path:
    """Train and write the DiT as `options.folder`/dit-*.safetensors; returns the folder."""
    device, dtype = distributed.join(options)
    vae, conditioner = load_stages(options, device)
    torch.manual_seed(options.seed)  # weight initialisation alone
    dit = begin(options, vae, conditioner.tower.config).to(device)
    config, size = dit.config, sum(p.numel() for p in dit.parameters())
    rate, warmup = (DISTIL_RATE, 50) if options.distil else (RATE, 200)
    recipe = Recipe(steps=options.steps or STEPS[options.preset], batch=options.batch or BATCH[options.preset],
                    rate=rate, average=0.999, warmup=warmup, save_every=250, sample_every=500)  # fmt: skip
    encoder = encoder_of(options, vae)
    data = data_of(options, recipe, vae, conditioner, config.conditions, dtype, encoder)
    metadata = {"config": json.dumps(asdict(dit.config)), "training": options.record(),
                "frozen": json.dumps(frozen(options)), "data": json.dumps(told_of(options.data))}  # fmt: skip
    if options.distil:
        metadata |= {"distilled": "guidance, steps"}
    parts = parts_of(config, vae.config)
    model = Learner(dit, aim_of(options, encoder)).to(device)
    teacher = copy.deepcopy(dit).eval().requires_grad_(False) if options.distil else None
    passes = 3 if teacher is None else 7  # forward and back; and two of the teacher, two of the student
    prepare_blocks(options, dit, *([teacher] if teacher else []))

    def ready(number: int) -> Batch:
        pack = without_details(data.at(number), vae.config.parts) if options.coarse else data.at(number)
        asked: list[Example] | distil.Task
        if teacher:
            latents, seconds, *_ = zip(*pack.clips, strict=True)
            asked = to_device(distil.draw(torch.stack(latents), torch.stack(seconds), parts, pack.rng), device)
        else:
            asked = [to_device(one, device) for one in examples_of(pack, parts, pack.subject)]
        return Batch(asked, pack.text.to(device), pack.grids, pack.waste)

    def loss(batch: Batch) -> Losses:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if isinstance(batch.asked, distil.Task):
                assert teacher
                losses = distil.loss(dit, teacher, batch.asked, batch.text)
            else:
                losses = pack_loss(model, batch.asked, batch.text, batch.grids)
        told = {"samples": len(batch.grids), "tokens": tokens_of(batch.grids, config.conditions),
                "flops": passes * flops_of(config, size, batch.grids)}  # fmt: skip
        told |= {"waste": batch.waste} if isinstance(data, Packs) else {}
        return losses | {name: torch.tensor(float(value), device=device) for name, value in told.items()}

    def sample(model: nn.Module, path: Path) -> None:
        assert isinstance(model, Learner)
        text, grid = data.shown()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            seconds = (torch.arange(grid.frames) / 2).expand(len(text), -1)
            latents = draw(model.dit, vae, text.to(device), seconds, PATCH * grid.height, PATCH * grid.width)
            rows = [vae.decode(latents[:, :, i : i + 1])[:, :, 0] for i in range(latents.shape[2])]
        save_sheet(path, [torch.stack(row, 1) for row in zip(*rows, strict=True)])
        if pictures:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                made = likeness.decoded(vae, draw(model.dit, vae, conditioner(pictures.captions), pictures.told,
                                                  pictures.real.shape[-2] // STRIDE, pictures.real.shape[-1] // STRIDE))
            likeness.note(options.folder, int(path.stem), pictures.scores(made))

    pictures = likeness.Pictures.drawn(SCORED, device) if options.data == WORLD and not options.distil else None
    reached = data.schedule.reached if isinstance(data, Data) else None
    averaged = transformer(fit(model, loss, recipe, options, sample, ready, reached))
    if distributed.leads():
        weights.save_part(options.folder, "dit", {k: v.bfloat16() for k, v in averaged.items()}, metadata)
    return options.folder


def told_of(data: str) -> dict[str, Any]:
    """What a model card says of a dataset."""
    if data == WORLD:
        return {}
    found = summary.summary(Path(data))
    example = next(filter(None, Dataset(data).captions), "")
    return {key: found[key] for key in ("videos", "images", "shots", "seconds", "captions")} | {"example": example}


def flops_of(config: DitConfig, size: int, grids: tuple[Grid, ...]) -> float:
    """FLOP of a forward pass through a transformer of `size` weights: every weight once a token, but those across time,
    which condition tokens, and packs of pictures, do not see; and 4 D for every pair in attention."""
    tokens, moving = tokens_of(grids, config.conditions), any(g.frames > 1 for g in grids)
    frames = sum(g.frames for g in grids)
    once = config.width * (2 * config.width + 5 * 64 + 2)  # weights of time and pace, which see every frame once
    unseen = frames * config.conditions if moving else tokens
    pairs = sum(g.frames * (g.size + config.conditions) ** 2 + moving * g.size * g.frames**2 for g in grids)
    wide = 4.0 * config.width * config.depth
    return 2.0 * ((size - once) * tokens + once * frames) + wide * (pairs - 2 * config.width * unseen)


def prepare_blocks(options: DitOptions, *dits: Dit) -> None:
    """Blocks that are computed again on the way back, and fused, where that is asked for. Fusing makes one program a
    shape of pack, when it is first met: it is left out where every pack has another, and in shards."""
    for block in (block for dit in dits for block in dit.blocks):
        if options.checkpoint_activations:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    alike = options.data == WORLD or options.distil
    if options.compile and alike and not options.shard:
        compile_blocks(*dits)


def compile_blocks(*dits: Dit) -> None:
    """Fuse what surrounds the products. Blocks share one program a shape of pack, made when it is first met."""
    torch._dynamo.config.recompile_limit = 64
    for block in (block for dit in dits for block in dit.blocks):
        block.compile(dynamic=False)


Tensors = TypeVar("Tensors", Example, distil.Task)


def to_device(e: Tensors, device: torch.device) -> Tensors:
    found = {field.name: getattr(e, field.name) for field in fields(e)}
    return replace(e, **{name: value.to(device) for name, value in found.items() if value is not None})
