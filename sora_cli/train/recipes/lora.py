"""`sora-cli train lora`: low-rank changes of a frozen transformer (Hu et al. 2021), ours or one of the Wan family.

    y = W x + B (A x)

for every matrix of attention and of the MLPs. B starts at zero, so that nothing is changed at first, and A and B alone
are kept. Ours learns by its own recipe, on the rendered world or on latents of footage; Wan by the flow matching of its
paper, on latents of footage. What generate makes of the file is in `sora_cli/registry/lora.py`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

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
from sora_cli.models.wan.dit import WanDit
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
from sora_cli.train.data.noising import examples_of, to_device
from sora_cli.train.data.packing import Clip, Pack, pack_of
from sora_cli.train.data.world_packs import GROWN, Schedule
from sora_cli.train.frozen import CachedTextEncoder, Frozen
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

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, str]:
        """Latents, the seconds of their frames, caption."""
        found, header = latent_file.load(self.paths[number])
        seconds = torch.arange(found.shape[1]) * geometry.TIME_STRIDE / header.fps
        return found.float(), seconds, self.captions[number]


def caption_of(path: Path, sides: list[Path]) -> str:
    shot = latent_file.read_header(path).shot
    said = [(side, beside.read(side)) for side in sides if side.suffix.lower() != ".json"]  # which are records
    if wrong := [f"{side} is no caption: {one.wrong}" for side, one in said if one.wrong]:
        raise SoraError(wrong[0])
    caption = next((one.text for _, one in said if one.text), "") or (Shot.from_json(shot).prompt if shot else "")
    if not caption:
        raise SoraError(f"{path} has no caption; write it into {path.with_suffix('.txt').name} beside it")
    return caption


Clips = Encoded | Dataset


@dataclass(frozen=True)
class Drawn:
    """Clips at random, cut to what a model sees at once; Wan's begin at the start, where latent 0 is a frame."""

    clips: Clips
    count: int
    most: int  # latent frames
    anywhere: bool

    def at(self, rng: torch.Generator) -> Iterator[Clip]:
        for number in torch.randint(len(self.clips), (self.count,), generator=rng).tolist():
            found, seconds, caption = self.clips[number]
            room = max(0, found.shape[1] - self.most)
            start = int(torch.randint(room + 1, (), generator=rng)) if self.anywhere else 0
            part = slice(start, start + self.most)
            yield Clip(found[:, part], seconds[part], caption, first=start == 0)


# ---- what is learned --------------------------------------------------------------------------------------


class LoraStage(Stage[LoraOptions]):
    """Factors beside the frozen weights of a transformer."""

    networks: Mapping[str, str]  # the identities of the model's, by role

    def __init__(self, options: LoraOptions, device: torch.device, dtype: torch.dtype, config: TrainerConfig,
                 network: nn.Module) -> None:  # fmt: skip
        super().__init__(options, device, dtype)
        self.config = config
        torch.manual_seed(options.seed)  # of what is drawn for A
        self.model: Adapter = Adapter(network.requires_grad_(False), options.rank).to(device)
        if options.resume and checkpoints(options.folder):
            check_resumed(options.folder, self.model)

    def identity(self) -> dict[str, Any]:
        return {"weights": dict(self.networks)}

    def export(self, averaged: dict[str, Tensor]) -> Path:
        """Write OUT/lora.safetensors."""
        weights.save(self.options.folder / FILE, self.model.file(averaged), self.model.header(self.options))
        return self.options.folder / FILE


def check_resumed(folder: Path, adapter: Adapter) -> None:
    """Refuse to go on with a run whose factors are of other shapes."""
    shapes = shapes_of(folder)
    if any(shapes.get(f"model.{name}") != tuple(value.shape) for name, value in adapter.state_dict().items()):
        raise SoraError(f"{folder} holds a training of another rank or model; --fresh starts over, "
                        "--out goes elsewhere")  # fmt: skip


@dataclass(frozen=True)
class Footage:
    """Packs of clips; their captions are read as generate reads prompts."""

    drawn: Drawn
    read: CachedTextEncoder
    grammar: bool
    seed: int

    def at(self, number: int) -> Pack:
        rng = generator(self.seed, number)
        clips = list(self.drawn.at(rng))
        captions = [clip.caption for clip in clips]
        if self.grammar:      # what they leave open is chosen anew each time, so that it comes to mean nothing
            captions = [expand(one, seed).caption for seed, one in enumerate(captions, number * self.drawn.count)]
        return pack_of(clips, self.read(captions), rng)


class OwnStage(LoraStage):
    """Of a model of ours: on clips, or on freshly drawn scenes, as its own training has them when it goes on."""

    def __init__(self, options: LoraOptions, device: torch.device, dtype: torch.dtype, config: TrainerConfig,
                 dit: dits.Dit, frozen: Frozen, footage: Footage | None) -> None:  # fmt: skip
        super().__init__(options, device, dtype, config, dit)
        self.learner, self.parts = Learner(dit, None), dit_training.parts_of(dit.config, frozen.vae.config)
        schedule = Schedule(GROWN[-1:], None)  # whole videos of all kinds
        self.packs = footage or dit_training.world_packs(self, frozen, schedule, on_cpu=0.75)

    def loss(self, number: int) -> Losses:
        pack = self.packs.at(number)
        with self.autocast():
            examples = [to_device(one, self.device) for one in examples_of(pack, self.parts)]
            return dit_training.pack_loss(self.learner, examples, pack.text, pack.grids)


class Recomputed(nn.Module):
    """Stands for a list of blocks that keep their input alone for the way back, and compute the rest again."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        for block in self.blocks.children():
            yield partial(checkpoint, block, use_reentrant=False)


class WanStage(LoraStage):
    """Of a Wan model, by the loss of its velocity; `features` [L, D] are those of all captions and of no words."""

    def __init__(self, options: LoraOptions, device: torch.device, dtype: torch.dtype, config: TrainerConfig,
                 dit: WanDit, drawn: Drawn, features: dict[str, Tensor], fps: float) -> None:  # fmt: skip
        super().__init__(options, device, dtype, config, dit)
        put_in_place(dit, "blocks", Recomputed(dit.blocks))
        self.dit, self.drawn, self.features, self.fps = dit, drawn, features, fps

    def loss(self, number: int) -> Losses:
        rng, device = generator(self.options.seed, number), self.device
        errors = []
        for clean_one, seconds, caption, *_ in self.drawn.at(rng):
            x, noise = (one.to(device) for one in (clean_one, torch.randn(clean_one.shape, generator=rng)))
            t = flow.shifted(flow.logit_normal(1, rng), SHIFT).to(device)
            text = padded(self.features["" if torch.rand((), generator=rng) < DROP_TEXT else clean(caption)])
            given = flow.noised(x, noise, t)[None].to(self.dtype), TRAINED * t[None], text.to(device, self.dtype)
            made = self.dit(*given, rate(seconds, self.fps))[0].float()
            errors.append((made - (noise - x)).square().mean())
        return {"loss": torch.stack(errors).mean()}


def rate(seconds: Tensor, usual: float) -> float:
    """Frames a second, of latents that stand so far apart."""
    return usual if len(seconds) < 2 else float(round(geometry.TIME_STRIDE / float(seconds[1] - seconds[0])))


# ---- what it is built of ----------------------------------------------------------------------------------


def train(options: LoraOptions, entry: Entry) -> Path:
    """Train a LoRA of this model; returns its file."""
    return loop.train(partial(build, entry), options)


def build(entry: Entry, options: LoraOptions, device: torch.device, dtype: torch.dtype) -> LoraStage:
    """The stage of a model's kind. What the options name is found and loaded here: the model's networks, the clips."""
    kind, usage = entry.kind, entry.usage
    config = TrainerConfig(steps=options.steps or STEPS[kind], batch=options.batch or BATCH[kind], rate=RATES[kind],
                           warmup=20, average=0.99, save_every=100)  # fmt: skip
    if kind != "sora":
        pipeline = Wan(entry, options.device, options.dtype)
        check_trained(entry)
        clips = clips_of(Path(options.data), entry)
        features = read_once(pipeline, clips)  # before the transformer is loaded
        dit = loading.load_dit(pipeline.paths["dit"], device, dtype, unpacked=True)
        drawn = Drawn(clips, config.batch, usage.window, anywhere=False)
        stage: LoraStage = WanStage(options, device, dtype, config, dit, drawn, features, usage.fps)
        stage.networks = pipeline.identity()
        return stage
    networks = {stem: registry.load_model_files(entry, stem) for stem in ("text", "vae", "dit")}
    frozen, own = Frozen.of(networks, device), dits.from_weights(*networks["dit"]).to(device)
    footage = None
    if options.data != WORLD:
        clips = clips_of(Path(options.data), entry, frozen.ids["vae"])
        drawn = Drawn(clips, config.batch, usage.window, anywhere=True)
        footage = Footage(drawn, frozen.encoder, usage.grammar, options.seed)
    stage = OwnStage(options, device, dtype, config, own, frozen, footage)
    stage.networks = frozen.ids | {"dit": identity(*networks["dit"])}
    return stage


def clips_of(folder: Path, entry: Entry, vae: str | None = None) -> Clips:
    """What is to be learned from: latents of this model's own autoencoder, or a dataset by that of ours, which is known
    by its identity."""
    if not is_dataset(folder):
        return Encoded(folder, entry)
    if vae is None:
        raise SoraError(f"{folder} has latents of another model; encode the clips for {entry.name}, each by itself: "
                        f"sora-cli encode CLIP --model {entry.name}")  # fmt: skip
    return Dataset(folder, vae)


def check_trained(entry: Entry) -> None:
    """Refuse a model that cannot be trained on."""
    if entry.usage.solver in DISTILLED:
        raise SoraError(f"{entry.name} is distilled to a few steps, which training would undo; train on the model that "
                        "it was distilled from, whose LoRAs it takes")  # fmt: skip
    if entry.usage.boundary or entry.usage.conditioned:
        raise SoraError(f"{entry.name} is made of two transformers, which are not trained here; train on wan2.1-14b, "
                        "whose LoRAs fit both")  # fmt: skip


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

