"""`sora-cli train dit`: the Video DiT, on latents of freshly drawn scenes, or of a dataset.

Of the world, images come first, then clips (a clip costs as much as ten images and teaches shapes no better). A pack is
as many samples of one shape as make its budget of tokens, so that there are few kernels to compile and no index in
attention; shapes change from step to step. Packs of a dataset have clips of all its shapes at once (see `packing`).
Every sample has its own task from the mask mix of `tasks.sample_task`.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sora_cli import registry
from sora_cli.dataset import summary
from sora_cli.dataset.dataset import Dataset
from sora_cli.files import weights
from sora_cli.models.sora.dit import Conditions, Dit, DitConfig, config_from
from sora_cli.models.sora.patches import PATCH, ROUND, Grid, grid_of
from sora_cli.models.sora.text import TextConfig
from sora_cli.models.sora.vae import STRIDE, Vae, VaeConfig
from sora_cli.sampling import flow
from sora_cli.sampling.conditioning import NULL_TIME
from sora_cli.sampling.solvers import euler
from sora_cli.train.align import Encoder, Features, Geometry, Learner, transformer
from sora_cli.train.data.noising import NoisedSample, examples_of, patches_of, to_device
from sora_cli.train.data.packing import Pack, Packs, tokens_of
from sora_cli.train.data.world_packs import BUDGET, DISTILLED, GROWN, PHASES, LatentCache, Schedule, WorldPacks
from sora_cli.train.frozen import NAMES, Frozen, check_frozen, others
from sora_cli.train.options import WORLD, DitOptions
from sora_cli.train.recipes import distil, likeness, tower
from sora_cli.train.recipes.grow import grow_dit
from sora_cli.train.trainer import loop, run_folder
from sora_cli.train.trainer.config import Losses, TrainerConfig, generator
from sora_cli.train.trainer.logger import note, note_unread
from sora_cli.train.trainer.stage import Stage, save_sheet
from sora_cli.world.motion import BAR

WIDTHS = {"nano": (192, 6, 3), "mini": (384, 10, 6), "base": (512, 12, 8)}  # width, depth, heads
COARSE_WIDTHS = {"nano": (192, 6, 3), "mini": (256, 8, 4), "base": (384, 10, 6)}  # of latents without details
STEPS = {"nano": 20_000, "mini": 20_000, "base": 30_000}
BATCH = {"nano": 48, "mini": 256, "base": 256}
SAMPLES = 8  # images in a block; clips are fewer
WINDOW = 600  # blocks that may be drawn from
SCORED = 48  # pictures that are compared with their scenes when sheets are drawn
LR, DISTIL_LR = 2e-3, 5e-4


def pack_loss(model: Learner, examples: Sequence[NoisedSample], text: Tensor, grids: tuple[Grid, ...] = ()) -> Losses:
    """The v-space loss of a pack over what is to be made and kept, and that of what a middle block predicts."""
    grids = grids or tuple(grid_of(video) for e in examples for video in e.clean)
    one = torch.ones(len(grids), device=text.device)
    t, cond_mask, seconds, order = (torch.cat([getattr(e, name).flatten(0, 1) for e in examples])
                                for name in ("t", "cond_mask", "seconds", "order"))  # fmt: skip
    given = Conditions(t, cond_mask, seconds, order, text, guidance=one, step=0 * one)
    noisy, target, weight = (patches_of(examples, name, grids) for name in ("noisy", "clean", "weight"))
    predicted, geometry = model(noisy, grids, given)
    error = (predicted.float() - target).square()
    loss = (weight * error).sum() / (weight > 0).sum()
    losses = {"mse": error.detach().mean()}
    if model.aim and geometry is not None and all(e.aim is not None for e in examples):
        apart = model.aim.loss(geometry.float(), patches_of(examples, "aim", grids, model.aim.side))
        losses |= {"aim": apart.detach()}
        loss = loss + model.aim.weight * apart
    return {"loss": loss} | losses


@torch.no_grad()
def draw(dit: Dit, vae: Vae, text: Tensor, seconds: Tensor, height: int, width: int, steps: int = 5) -> Tensor:
    """Sample videos of frames at seconds [V, T], one a row of text [V, L, D] -> latents [V, C, T, height, width]; a
    quick look. Of latents without details these are nothing."""
    V, T = seconds.shape
    noise, one = torch.randn(V, dit.config.channels, T, height, width, generator=generator(0, 0)), torch.ones(V)
    whole = distil.Task(noise, torch.ones(V, 1, T, 1, 1), torch.zeros(V, T, 2), seconds, one, 0 * one, one)
    task = to_device(whole, text.device)
    student = distil.Student(dit, task, text)
    times = flow.schedule(steps, flow.shift_for(height * width // 4)).to(text.device)
    *_, x = euler(lambda x, t: student.velocity(x, t * task.t, task.step), task.noisy, times)
    return with_details(x, vae.config.parts)


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


def config_of(options: DitOptions, vae: VaeConfig, text: TextConfig) -> DitConfig:
    """The sizes of a preset for latents and text features of these kinds."""
    width, depth, heads = (COARSE_WIDTHS if options.coarse else WIDTHS)[options.preset]
    channels = vae.channels - vae.details * options.coarse
    return DitConfig(channels=channels, width=width, depth=depth, heads=heads, text_width=text.width,
                     text_tokens=text.context - 4, registers=1, bins=(64, 16, 16), seconds=NULL_TIME,
                     bar=BAR)  # fmt: skip


def parts_of(dit: DitConfig, vae: VaeConfig) -> tuple[int, int]:
    """Channels of space and of time that a transformer makes."""
    return dit.channels - vae.time, vae.time


@dataclass(frozen=True)
class Batch:
    """A pack with its noise, on the device: all that can be done before the network is there."""

    asked: list[NoisedSample] | distil.Task
    text: Tensor
    grids: tuple[Grid, ...]
    padding_fraction: float


def world_packs(stage: Stage[Any], frozen: Frozen, schedule: Schedule, on_cpu: float, drop: float = 0.0) -> WorldPacks:
    """Packs of the world, of one shape each; on a CPU, so many blocks are new at each."""
    options, batch = stage.options, stage.config.batch
    refresh_rate = on_cpu if stage.device.type == "cpu" else batch / SAMPLES
    cache = LatentCache(frozen.vae, options.seed, SAMPLES, WINDOW, refresh_rate, stage.device, stage.dtype,
                        options.folder)  # fmt: skip
    return WorldPacks(cache, frozen.encoder, batch, options.seed, schedule, drop)


class DitStage(Stage[DitOptions]):
    """The transformer with its head, the frozen networks, the packs, and for distilling the teacher."""

    def __init__(self, options: DitOptions, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(options, device, dtype)
        self.frozen = Frozen.load(options.vae, options.text, device)
        self.vae, self.conditioner = self.frozen.vae, self.frozen.encoder
        lr, warmup = (DISTIL_LR, 50) if options.distil else (LR, 200)
        self.config = TrainerConfig(steps=options.steps or STEPS[options.preset], rate=lr, warmup=warmup,
                                    batch=options.batch or BATCH[options.preset], save_every=250,
                                    sample_every=500)  # fmt: skip
        torch.manual_seed(options.seed)  # weight initialisation alone
        self.dit = self.initial_dit().to(device)
        self.size = sum(p.numel() for p in self.dit.parameters())
        self.parts = parts_of(self.dit.config, self.vae.config)
        self.teacher = copy.deepcopy(self.dit).eval().requires_grad_(False) if options.distil else None
        prepare_blocks(options, self.dit, *([self.teacher] if self.teacher else []))
        encoder = self.aligned_with()
        self.data: WorldPacks | Packs = self.world() if options.data == WORLD else self.dataset(encoder)
        aim = Features(encoder.numbers) if encoder else Geometry() if options.aim == "geometry" else None
        self.model: Learner = Learner(self.dit, aim).to(device)
        drawn = options.data == WORLD and not options.distil
        self.pictures = likeness.Pictures.drawn(SCORED, device) if drawn else None

    # ---- what it is built of ------------------------------------------------------------------------------

    def initial_dit(self) -> Dit:
        """The transformer before the first step: as it is drawn, or grown from weights; distilling keeps their size."""
        options, config = self.options, config_of(self.options, self.vae.config, self.conditioner.tower.config)
        if not options.init:
            return Dit(config)
        tensors, metadata = registry.load_network("dit", options.init)
        if options.distil:
            check_frozen(metadata, self.frozen.ids)
        for stem in others(metadata, self.frozen.ids):
            said = f"{options.init} was trained with a different {NAMES[stem]} and gets used to this one"
            note(f"{said}; --{stem} takes its own")
        dit = Dit(config_from(metadata) if options.distil else config)
        grow_dit(dit, tensors, metadata, parts_of(dit.config, self.vae.config))
        return dit

    def aligned_with(self) -> Encoder | None:
        """The encoder that a middle block is aligned with where no renderer knows the geometry, if it is with any."""
        options = self.options
        if options.aim in ("off", "geometry"):
            return None
        if options.aim != "clip":
            return tower.Pretrained(options.aim, self.vae)
        assert options.tower
        return tower.load(options.tower, self.frozen.ids["vae"]).to(self.device)

    def world(self) -> WorldPacks:
        options = self.options
        phases = DISTILLED if options.distil else GROWN if options.init else PHASES
        schedule = Schedule(phases, options.folder / run_folder.PHASES)
        return world_packs(self, self.frozen, schedule, 0.5, options.drop_tokens)

    def dataset(self, encoder: Encoder | None) -> Packs:
        """Packs of a dataset, of one shape each where steps are distilled."""
        options, conditions = self.options, self.dit.config.conditions
        dataset = Dataset(options.data)
        dataset.check_vae(self.frozen.ids["vae"])
        note_unread(dataset.captions, self.conditioner.tokenizer.most)
        budget = ROUND * max(1, round(self.config.batch * (BUDGET + conditions) / ROUND))
        return Packs(dataset, self.conditioner, conditions, budget, options.seed, options.drop_tokens,
                     options.distil, self.frozen.ids["text"], encoder)  # fmt: skip

    def identity(self) -> dict[str, Any]:
        aim = self.options.aim
        path = self.options.tower if aim == "clip" else Path(aim.partition(":")[2])  # weights may be a file
        seen = {"tower": weights.fingerprint([path])} if path and path.is_file() else {}
        return {"aim": aim} | seen | self.frozen.ids

    # ---- a step -------------------------------------------------------------------------------------------

    def batch(self, number: int) -> Batch:
        pack = self.data.at(number)
        pack = without_details(pack, self.vae.config.parts) if self.options.coarse else pack
        asked: list[NoisedSample] | distil.Task
        if self.teacher:
            latents, seconds, *_ = zip(*pack.clips, strict=True)
            task = distil.draw(torch.stack(latents), torch.stack(seconds), self.parts, pack.rng)
            asked = to_device(task, self.device)
        else:
            asked = [to_device(one, self.device) for one in examples_of(pack, self.parts, pack.subject)]
        return Batch(asked, pack.text.to(self.device), pack.grids, pack.padding_fraction)

    def loss(self, batch: Batch) -> Losses:
        with self.autocast():
            if isinstance(batch.asked, distil.Task):
                assert self.teacher
                losses = distil.loss(self.dit, self.teacher, batch.asked, batch.text)
            else:
                losses = pack_loss(self.model, batch.asked, batch.text, batch.grids)
        config, passes = self.dit.config, 7 if self.teacher else 3  # forward and back; with a teacher's two, twice ours
        counts = {"samples": len(batch.grids), "tokens": tokens_of(batch.grids, config.conditions),
                "flops": passes * flops_of(config, self.size, batch.grids)}  # fmt: skip
        counts |= {"waste": batch.padding_fraction} if isinstance(self.data, Packs) else {}
        return losses | {name: torch.tensor(float(value), device=self.device) for name, value in counts.items()}

    def reached(self, batch: int, share: float) -> None:
        if isinstance(self.data, WorldPacks):
            self.data.schedule.reached(batch, share)

    def sample(self, model: nn.Module, path: Path) -> None:
        """A sheet of videos, and of the world how like the scenes they are."""
        assert isinstance(model, Learner)
        text, grid = self.data.shown()
        seconds = (torch.arange(grid.frames) / 2).expand(len(text), -1)
        with self.autocast():
            latents = draw(model.dit, self.vae, text.to(self.device), seconds, PATCH * grid.height, PATCH * grid.width)
            rows = [self.vae.decode(latents[:, :, i : i + 1])[:, :, 0] for i in range(latents.shape[2])]
        save_sheet(path, [torch.stack(row, 1) for row in zip(*rows, strict=True)])
        if self.pictures:
            likeness.note(self.options.folder, int(path.stem), self.likeness(model.dit, self.pictures))

    def likeness(self, dit: Dit, pictures: likeness.Pictures) -> dict[str, float]:
        height, width = (side // STRIDE for side in pictures.real.shape[-2:])
        with self.autocast():
            text = self.conditioner(pictures.captions)
            made = likeness.decoded(self.vae, draw(dit, self.vae, text, pictures.moments, height, width))
        return pictures.scores(made)

    def export(self, averaged: dict[str, Tensor]) -> Path:
        """Write OUT/dit-*.safetensors without the head; returns OUT."""
        options = self.options
        metadata = {"config": json.dumps(asdict(self.dit.config)), "training": options.record(),
                    "frozen": json.dumps(self.frozen.ids), "data": json.dumps(data_record(options.data))}  # fmt: skip
        metadata |= {"distilled": "guidance, steps"} if options.distil else {}
        tensors = {k: v.bfloat16() for k, v in transformer(averaged).items()}
        weights.save_part(options.folder, "dit", tensors, metadata)
        return options.folder


train = partial(loop.train, DitStage)


def data_record(data: str) -> dict[str, Any]:
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
    once = config.width * (2 * config.width + 5 * 64 + 2)  # of the embedders of t and guidance: once a frame
    unseen = frames * config.conditions if moving else tokens
    pairs = sum(g.frames * (g.size + config.conditions) ** 2 + moving * g.size * g.frames**2 for g in grids)
    wide = 4.0 * config.width * config.depth
    return 2.0 * ((size - once) * tokens + once * frames) + wide * (pairs - 2 * config.width * unseen)


def prepare_blocks(options: DitOptions, *dits: Dit) -> None:
    """Blocks that are computed again on the way back, and fused around their products, where that is asked for. Fusing
    makes one program a shape of pack, which blocks share, when it is first met."""
    if options.compile:
        torch._dynamo.config.recompile_limit = 64
    for blocks in (dit.blocks for dit in dits):
        if options.checkpoint_activations:
            recompute(blocks)
        for block in blocks if options.compile else ():
            block.compile(dynamic=False)


def recompute(blocks: nn.ModuleList) -> None:
    """Have blocks keep their input alone for the way back, and compute the rest again."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
