"""`sora-cli train lora`: low-rank changes of a frozen transformer (Hu et al. 2021), ours or one of the Wan family.

    y = W x + B (A x)

for every matrix of attention and of the MLPs. B starts at zero, so that nothing is changed at first, and A and B alone
are kept. Ours learns by its own recipe, on the rendered world or on latents of footage; Wan by the flow matching of its
paper, on latents of footage. What generate makes of the file is in `sora_cli/registry/lora.py`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sora_cli import geometry, registry
from sora_cli.dataset import beside
from sora_cli.dataset.dataset import Dataset, identity, is_dataset
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.models.sora import dit as dits
from sora_cli.models.sora import text as texts
from sora_cli.models.sora import vae as vaes
from sora_cli.models.wan.text import clean, padded
from sora_cli.pipelines import loading
from sora_cli.pipelines.wan import Wan
from sora_cli.placement.offload import replace as put_in_place
from sora_cli.prompts.grammar import expand
from sora_cli.registry import Entry
from sora_cli.registry.lora_settings import ADAPTER
from sora_cli.sampling import flow
from sora_cli.sampling.solvers import DISTILLED, TRAINED
from sora_cli.shot import Shot
from sora_cli.storage import latent_file
from sora_cli.train.align import Learner
from sora_cli.train.data.latent_cache import LatentCache
from sora_cli.train.data.noising import examples_of, to_device
from sora_cli.train.data.packing import Clip, Pack, pack_of
from sora_cli.train.data.text_cache import CachedTextEncoder
from sora_cli.train.data.world_packs import GROWN, Schedule, WorldPacks
from sora_cli.train.options import WORLD, LoraOptions
from sora_cli.train.recipes import dit as dit_training
from sora_cli.train.trainer import loop
from sora_cli.train.trainer.checkpoint import checkpoints, shapes_of
from sora_cli.train.trainer.config import Losses, TrainerConfig, generator
from sora_cli.train.trainer.stage import Stage

FILE = "lora.safetensors"
STEPS = {"sora": 1000, "wan": 2000}
BATCH = {"sora": 8, "wan": 1}
RATES = {"sora": 1e-3, "wan": 1e-4}
DROP_TEXT = 0.1
SHIFT = 3.0  # of Wan's noise levels: what is learned of few clips are looks and motions, which smaller ones hide less

Loss = Callable[[int], Losses]


# ---- the factors ------------------------------------------------------------------------------------------


class Factors(nn.Module):
    """A and B of one matrix; A is drawn as PEFT draws it."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def beside(self, linear: nn.Module, given: tuple[Tensor], made: Tensor) -> Tensor:
        """What the matrix makes of its input, and what A and B do."""
        (x,) = given
        return made + F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))


class Adapter(nn.Module):
    """The factors of all matrices in a network's blocks, beside which they work from now on."""

    def __init__(self, network: nn.Module, rank: int) -> None:
        super().__init__()
        found = {name: part for name, part in network.named_modules() if isinstance(part, nn.Linear)}
        linears = {name: linear for name, linear in found.items() if name.startswith("blocks.")}
        most = min(min(linear.weight.shape) for linear in linears.values())
        if not 1 <= rank <= most:
            raise SoraError(f"--rank is {rank}; the matrices of this model have from 1 to {most}")
        self.rank, self.names = rank, list(linears)
        self.factors = nn.ModuleList(Factors(linear, rank) for linear in linears.values())
        for linear, factors in zip(linears.values(), self.factors, strict=True):
            linear.register_forward_hook(cast(Factors, factors).beside)

    def file(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state of the factors by the names that diffusers reads."""
        parts = {f"transformer.{name}.lora_{half}.weight": state[f"factors.{number}.{key}"]
                 for number, name in enumerate(self.names) for half, key in (("A", "down"), ("B", "up"))}  # fmt: skip
        return {name: part.bfloat16() for name, part in parts.items()}

    def header(self, options: LoraOptions) -> dict[str, str]:
        """What the file says of itself; alpha is the rank, so that who does not read it is right as well."""
        base = options.model if options.model in registry.names() else Path(options.model).name
        plain = replace(options, model=base, data=Path(options.data).name)
        config = {"r": self.rank, "lora_alpha": self.rank, "target_modules": self.names}
        return {
            "format": "pt", "base_model": base, "rank": str(self.rank), "alpha": str(self.rank),
            "training": plain.record(),
            ADAPTER: json.dumps({f"transformer.{key}": value for key, value in config.items()}),
        }  # fmt: skip


# ---- clips ------------------------------------------------------------------------------------------------


class Clips(Protocol):
    """Latents with captions, one after another or at random."""

    @property
    def captions(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        """Latents, the seconds of their frames, caption."""


class Encoded:
    """A folder of latents of `sora-cli encode`, each with its caption in NAME.txt, or else its own prompt."""

    def __init__(self, folder: Path, entry: Entry) -> None:
        self.paths = sorted(folder.glob("*.safetensors"))
        if not self.paths:
            raise SoraError(f"{folder} has no latents; make some: sora-cli encode CLIP --model {entry.name} -o "
                            f"{folder / 'NAME.safetensors'}, with the caption in NAME.txt")  # fmt: skip
        for path in self.paths:
            latent_file.check_vae(path, latent_file.read_header(path), entry)
        self.captions = [caption_of(path, sides) for path, sides in beside.around(self.paths)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Clip:
        found, header = latent_file.load(self.paths[number])
        seconds = torch.arange(found.shape[1]) * geometry.TIME_STRIDE / header.fps
        return Clip(found.float(), seconds, self.captions[number])


def caption_of(path: Path, sides: list[Path]) -> str:
    shot = latent_file.read_header(path).shot
    said = [(side, beside.read(side)) for side in sides if side.suffix.lower() != ".json"]  # which are records
    if wrong := [f"{side} is no caption: {one.wrong}" for side, one in said if one.wrong]:
        raise SoraError(wrong[0])
    caption = next((one.text for _, one in said if one.text), "") or (Shot.from_json(shot).prompt if shot else "")
    if not caption:
        raise SoraError(f"{path} has no caption; write it into {path.with_suffix('.txt').name} beside it")
    return caption


def clips_of(options: LoraOptions) -> Clips:
    """What is to be learned from: a dataset, or a folder of latents, of the model's own autoencoder."""
    folder, entry = Path(options.data), registry.entry(options.model)
    if not is_dataset(folder):
        return Encoded(folder, entry)
    if entry.kind != "sora":
        raise SoraError(f"{folder} has latents of another model; encode the clips for {options.model}, each by itself: "
                        f"sora-cli encode CLIP --model {options.model}")  # fmt: skip
    return Dataset(folder, identity(*registry.load_model_files(entry, "vae")))


@dataclass(frozen=True)
class Drawn:
    """Clips at random, cut to what a model sees at once; Wan's begin at the start, where latent 0 is a frame."""

    clips: Clips
    count: int
    most: int  # latent frames
    anywhere: bool

    def at(self, rng: torch.Generator) -> Iterator[Clip]:
        for number in torch.randint(len(self.clips), (self.count,), generator=rng).tolist():
            found, seconds, caption, *_ = self.clips[number]
            room = max(0, found.shape[1] - self.most)
            start = int(torch.randint(room + 1, (), generator=rng)) if self.anywhere else 0
            part = slice(start, start + self.most)
            yield Clip(found[:, part], seconds[part], caption, first=start == 0)


# ---- ours -------------------------------------------------------------------------------------------------


def of_ours(options: LoraOptions, config: TrainerConfig, device: torch.device,
            dtype: torch.dtype) -> tuple[nn.Module, Loss]:  # fmt: skip
    """The transformer of a model of ours, and its loss."""
    load = partial(registry.load_model_files, registry.entry(options.model))
    tokenizer, tower = texts.from_weights(*load("text"))
    vae, dit = vaes.from_weights(*load("vae")).to(device), dits.from_weights(*load("dit")).to(device)
    read = CachedTextEncoder(tower, tokenizer, device)
    parts = dit_training.parts_of(dit.config, vae.config)
    model = Learner(dit, None)
    drawn = options.data == WORLD
    batch = world(options, config, vae, read, device, dtype) if drawn else footage(options, config, read)

    def loss(number: int) -> Losses:
        pack = batch(number)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            examples = [to_device(one, device) for one in examples_of(pack, parts)]
            return dit_training.pack_loss(model, examples, pack.text, pack.grids)

    return dit, loss


Batch = Callable[[int], Pack]


def world(options: LoraOptions, config: TrainerConfig, vae: vaes.Vae, read: CachedTextEncoder, device: torch.device,
          dtype: torch.dtype) -> Batch:  # fmt: skip
    """Freshly drawn scenes, as the transformer's own training has them when it goes on from weights."""
    fresh = 0.75 if device.type == "cpu" else config.batch / dit_training.SAMPLES
    samples, size = dit_training.SAMPLES, dit_training.WINDOW
    cache = LatentCache(vae, options.seed, samples, size, fresh, device, dtype, options.folder)
    schedule = Schedule(GROWN[-1:], None)  # whole videos of all kinds
    return WorldPacks(cache, read, config.batch, options.seed, schedule).at


def footage(options: LoraOptions, config: TrainerConfig, read: CachedTextEncoder) -> Batch:
    """Clips of a folder; their captions are read as generate reads prompts."""
    entry = registry.entry(options.model)
    drawn = Drawn(clips_of(options), config.batch, entry.usage.window, anywhere=True)

    def batch(number: int) -> Pack:
        rng = generator(options.seed, number)
        clips = list(drawn.at(rng))
        captions = [clip.caption for clip in clips]
        if entry.usage.grammar:      # what they leave open is chosen anew each time, so that it comes to mean nothing
            captions = [expand(one, seed).caption for seed, one in enumerate(captions, number * config.batch)]
        return pack_of(clips, read(captions), rng)

    return batch


# ---- Wan --------------------------------------------------------------------------------------------------


class Recomputed(nn.Module):
    """Stands for a list of blocks that keep their input alone for the way back, and compute the rest again."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        for block in self.blocks.children():
            yield partial(checkpoint, block, use_reentrant=False)


def of_wan(options: LoraOptions, config: TrainerConfig, device: torch.device,
           dtype: torch.dtype) -> tuple[nn.Module, Loss]:  # fmt: skip
    """The transformer of a Wan model, and the loss of its velocity. Text is read once, before it is loaded."""
    pipeline = Wan(registry.entry(options.model), options.device, options.dtype)
    entry = pipeline.entry
    if entry.usage.solver in DISTILLED:
        raise SoraError(f"{entry.name} is distilled to a few steps, which training would undo; train on the model that "
                        "it was distilled from, whose LoRAs it takes")  # fmt: skip
    if entry.usage.boundary or entry.usage.conditioned:
        raise SoraError(f"{entry.name} is made of two transformers, which are not trained here; train on wan2.1-14b, "
                        "whose LoRAs fit both")  # fmt: skip
    clips = clips_of(options)
    features = read_once(pipeline, clips)
    drawn = Drawn(clips, config.batch, entry.usage.window, anywhere=False)
    dit = loading.load_dit(pipeline.paths["dit"], device, dtype, unpacked=True)

    def loss(number: int) -> Losses:
        rng = generator(options.seed, number)
        errors = []
        for clean_one, seconds, caption, *_ in drawn.at(rng):
            x, noise = (one.to(device) for one in (clean_one, torch.randn(clean_one.shape, generator=rng)))
            t = flow.shifted(flow.logit_normal(1, rng), SHIFT).to(device)
            text = features["" if torch.rand((), generator=rng) < DROP_TEXT else clean(caption)]
            given = flow.noised(x, noise, t)[None].to(dtype), TRAINED * t[None], padded(text).to(device, dtype)
            made = dit(*given, rate(seconds, entry))[0].float()
            errors.append((made - (noise - x)).square().mean())
        return {"loss": torch.stack(errors).mean()}

    return dit, loss


def read_once(pipeline: Wan, clips: Clips) -> dict[str, Tensor]:
    """Features [L, D] of all captions, and of no words at all; the text encoder is gone afterwards."""
    found = clips[0][0]
    cell = pipeline.entry.cell
    canvas = geometry.fit(found.shape[3] * cell, found.shape[2] * cell, found.shape[3] / found.shape[2])
    pipeline.on_device(canvas, min(found.shape[1], pipeline.entry.usage.window), found.shape[1])
    with torch.no_grad():
        features = pipeline.embedded(["", *dict.fromkeys(clean(caption) for caption in clips.captions)])
    pipeline.release()
    return features


def rate(seconds: Tensor, entry: Entry) -> float:
    """Frames a second, of latents that stand so far apart."""
    if len(seconds) < 2:
        return entry.usage.fps
    return float(round(geometry.TIME_STRIDE / float(seconds[1] - seconds[0])))


# ---- both -------------------------------------------------------------------------------------------------


class LoraStage(Stage[LoraOptions]):
    """Factors beside the frozen weights of a transformer, of our own kind or Wan's."""

    def __init__(self, options: LoraOptions, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(options, device, dtype)
        kind = registry.entry(options.model).kind
        self.config = TrainerConfig(steps=options.steps or STEPS[kind], batch=options.batch or BATCH[kind],
                                    rate=RATES[kind], warmup=20, average=0.99, save_every=100)  # fmt: skip
        network, self.loss_of = (of_ours if kind == "sora" else of_wan)(options, self.config, device, dtype)
        torch.manual_seed(options.seed)  # of what is drawn for A
        self.model: Adapter = Adapter(network.requires_grad_(False), options.rank).to(device)
        check_resumed(options, self.model)
        if kind != "sora":
            put_in_place(network, "blocks", Recomputed(network.get_submodule("blocks")))

    def loss(self, number: int) -> Losses:
        return self.loss_of(number)

    def export(self, averaged: dict[str, Tensor]) -> Path:
        """Write OUT/lora.safetensors."""
        weights.save(self.options.folder / FILE, self.model.file(averaged), self.model.header(self.options))
        return self.options.folder / FILE


def check_resumed(options: LoraOptions, adapter: Adapter) -> None:
    """Refuse to go on with a run whose factors are of other shapes."""
    if not options.resume or not checkpoints(options.folder):
        return
    shapes = shapes_of(options.folder)
    if any(shapes.get(f"model.{name}") != tuple(value.shape) for name, value in adapter.state_dict().items()):
        raise SoraError(f"{options.folder} holds a training of another rank or model; --fresh starts over, "
                        "--out goes elsewhere")  # fmt: skip


train = partial(loop.train, LoraStage)
