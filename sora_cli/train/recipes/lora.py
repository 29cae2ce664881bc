"""`sora-cli train lora`: low-rank changes of a frozen transformer (Hu et al. 2021), ours or one of the Wan family.

    y = W x + B (A x)

for every matrix of attention and of the MLPs. B starts at zero, so that nothing is changed at first, and A and B alone
are kept. Ours learns by its own recipe, on the rendered world or on latents of footage; Wan by the flow matching of its
paper, on latents of footage. What generate makes of the file is in `sora_cli/registry/lora.py`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sora_cli import geometry, registry
from sora_cli.dataset import beside
from sora_cli.dataset.dataset import Dataset
from sora_cli.dataset.shards import is_dataset
from sora_cli.errors import SoraError
from sora_cli.files import published, weights
from sora_cli.models.sora import dit as dits
from sora_cli.models.wan.text import clean, padded
from sora_cli.pipelines import loading
from sora_cli.pipelines.wan import Wan
from sora_cli.prompts.grammar import expand
from sora_cli.registry import Entry
from sora_cli.registry.lora_settings import ADAPTER
from sora_cli.sampling import flow
from sora_cli.sampling.solvers import TRAINED
from sora_cli.storage import latent_file
from sora_cli.train.align import Learner
from sora_cli.train.data.noising import examples_of, to_device
from sora_cli.train.data.packing import DROP_TEXT, Clip, Pack, pack_of
from sora_cli.train.data.world_packs import GROWN, Schedule
from sora_cli.train.frozen import CachedTextEncoder, Frozen
from sora_cli.train.options import WORLD, LoraOptions
from sora_cli.train.recipes import dit as dit_training
from sora_cli.train.trainer import loop
from sora_cli.train.trainer.config import Losses, TrainerConfig, generator
from sora_cli.train.trainer.stage import Stage

FILE = "lora.safetensors"
STEPS = {"sora": 1000, "wan": 2000}
BATCH = {"sora": 8, "wan": 1}
RATES = {"sora": 1e-3, "wan": 1e-4}
SHIFT = 3.0  # of Wan's noise levels: what is learned of few clips are looks and motions, which smaller ones hide less


# ---- the factors ------------------------------------------------------------------------------------------


class LoraLayer(nn.Module):
    """A and B of one matrix; A is drawn as PEFT draws it."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward_hook(self, linear: nn.Module, given: tuple[Tensor], made: Tensor) -> Tensor:
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
            raise SoraError(f"--rank is {rank}; it must be 1 to {most} for this model")
        self.rank, self.names = rank, list(linears)
        self.factors = nn.ModuleList(LoraLayer(linear, rank) for linear in linears.values())
        for linear, factors in zip(linears.values(), self.factors, strict=True):
            linear.register_forward_hook(cast(LoraLayer, factors).forward_hook)

    def file(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state of the factors by the names that diffusers reads."""
        parts = {f"transformer.{name}.lora_{half}.weight": state[f"factors.{number}.{key}"]
                 for number, name in enumerate(self.names) for half, key in (("A", "down"), ("B", "up"))}  # fmt: skip
        return {name: part.bfloat16() for name, part in parts.items()}

    def header(self, options: LoraOptions, entry: Entry) -> dict[str, str]:
        """What the file says of itself; alpha is the rank, so that who does not read it is right as well."""
        base = entry.name if entry.name in registry.names() else Path(entry.name).name
        config = {"r": self.rank, "lora_alpha": self.rank, "target_modules": self.names}
        return {
            "format": "pt", "base_model": base, "rank": str(self.rank), "alpha": str(self.rank),
            "training": json.dumps(json.loads(options.record()) | {"model": base}),
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
        self.captions = [self.caption_of(path, sides, entry) for path, sides in beside.around(self.paths)]

    def caption_of(self, path: Path, sides: list[Path], entry: Entry) -> str:
        header = latent_file.read_header(path)
        latent_file.check_vae(path, header, entry)
        said = [(side, beside.read(side)) for side in sides if side.suffix.lower() != ".json"]  # which are records
        if wrong := [f"{side} is not a caption: {one.wrong}" for side, one in said if one.wrong]:
            raise SoraError(wrong[0])
        caption = next((one.text for _, one in said if one.text), "") or header.prompt
        if not caption:
            raise SoraError(f"{path} has no caption; write it into {path.with_suffix('.txt').name} beside it")
        return caption

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, str]:
        """Latents, the seconds of their frames, caption."""
        found, header = latent_file.load(self.paths[number])
        seconds = torch.arange(found.shape[1]) * geometry.TIME_STRIDE / header.fps
        return found.float(), seconds, self.captions[number]


Clips = Encoded | Dataset


def clips_of(folder: Path, entry: Entry) -> Clips:
    """What is to be learned from: latents of this model's own autoencoder, or a dataset, for a model of ours."""
    if not is_dataset(folder):
        return Encoded(folder, entry)
    if entry.kind != "sora":
        raise SoraError(f"{folder} has latents of another model; encode the clips for {entry.name}, each by itself: "
                        f"sora-cli encode CLIP --model {entry.name}")  # fmt: skip
    return Dataset(folder)


# ---- what is learned --------------------------------------------------------------------------------------


class LoraStage(Stage[LoraOptions]):
    """Factors beside the frozen weights of a model's transformer, which lie in these files. `frozen_ids` say which
    other networks are learned with."""

    frozen_ids: Mapping[str, str]

    def __init__(self, entry: Entry, network: nn.Module, files: Sequence[Path], options: LoraOptions,
                 device: torch.device, dtype: torch.dtype) -> None:  # fmt: skip
        super().__init__(options, device, dtype)
        kind, self.entry, self.files = entry.kind, entry, files
        self.config = TrainerConfig(steps=options.steps or STEPS[kind], batch=options.batch or BATCH[kind],
                                    rate=RATES[kind], warmup=20, average=0.99, save_every=100)  # fmt: skip
        torch.manual_seed(options.seed)  # of what is drawn for A
        self.model: Adapter = Adapter(network.requires_grad_(False), options.rank).to(device)

    def drawn(self, clips: Clips, rng: torch.Generator, anywhere: bool) -> Iterator[Clip]:
        """A batch at random, cut to what the model sees at once: from anywhere in the clips, or from their start."""
        most = self.entry.usage.window
        for number in torch.randint(len(clips), (self.config.batch,), generator=rng).tolist():
            found, seconds, caption = clips[number]
            room = max(0, found.shape[1] - most)
            start = int(torch.randint(room + 1, (), generator=rng)) if anywhere else 0
            part = slice(start, start + most)
            yield Clip(found[:, part], seconds[part], caption, first=start == 0)

    def identity(self) -> dict[str, Any]:
        return {"model": self.entry.name, "weights": weights.fingerprint(self.files)[:16], **self.frozen_ids}

    def export(self, averaged: dict[str, Tensor]) -> Path:
        path = self.options.folder / FILE
        weights.save(path, self.model.file(averaged), self.model.header(self.options, self.entry))
        return path


class OwnStage(LoraStage):
    """Of a model of ours: on clips, or on freshly drawn scenes, as its own training has them when it goes on."""

    def __init__(self, entry: Entry, clips: Clips | None, options: LoraOptions, device: torch.device,
                 dtype: torch.dtype) -> None:  # fmt: skip
        networks = {stem: registry.load_model_files(entry, stem) for stem in ("text", "vae", "dit")}
        frozen, dit = Frozen.of(networks, device), dits.from_weights(*networks["dit"]).to(device)
        if isinstance(clips, Dataset):
            clips.check_vae(frozen.ids["vae"])
        super().__init__(entry, dit, [file.path for file in entry.part("dit")], options, device, dtype)
        self.frozen_ids = frozen.ids
        self.learner, self.parts = Learner(dit, None), dit_training.parts_of(dit.config, frozen.vae.config)
        schedule = Schedule(GROWN[-1:], None)  # whole videos of all kinds
        self.pack = (
            dit_training.world_packs(self, frozen, schedule, on_cpu=0.75).at if clips is None else
            partial(self.footage, clips, frozen.encoder)
        )  # fmt: skip

    def footage(self, clips: Clips, read: CachedTextEncoder, number: int) -> Pack:
        """A pack of clips; their captions are read as generate reads prompts."""
        rng = generator(self.options.seed, number)
        drawn = list(self.drawn(clips, rng, anywhere=True))
        captions = [clip.caption for clip in drawn]
        if self.entry.usage.grammar:  # what they leave open is chosen anew each time, so that it comes to mean nothing
            captions = [expand(one, seed).caption for seed, one in enumerate(captions, number * len(drawn))]
        return pack_of(drawn, read(captions), rng)

    def loss(self, number: int) -> Losses:
        pack = self.pack(number)
        with self.autocast():
            examples = [to_device(one, self.device) for one in examples_of(pack, self.parts)]
            return dit_training.pack_loss(self.learner, examples, pack.text, pack.grids)


class WanStage(LoraStage):
    """Of a Wan model, by the loss of its velocity; `features` [L, D] are those of all captions and of no words."""

    def __init__(self, entry: Entry, clips: Clips, options: LoraOptions, device: torch.device,
                 dtype: torch.dtype) -> None:  # fmt: skip
        pipeline = Wan(entry, device.type, str(dtype).removeprefix("torch."))
        path = pipeline.paths["dit"]
        self.features = features_of(clips, pipeline)  # before the transformer is loaded
        dit = loading.load_dit(path, device, dtype, unpacked=True)
        super().__init__(entry, dit, published.loaded(path), options, device, dtype)
        self.frozen_ids = {"text": weights.fingerprint(published.loaded(pipeline.paths["text"]))[:16]}
        dit_training.recompute(dit.blocks)
        self.dit, self.clips = dit, clips

    def loss(self, number: int) -> Losses:
        rng, device = generator(self.options.seed, number), self.device
        errors = []
        for clean_one, seconds, caption, *_ in self.drawn(self.clips, rng, anywhere=False):  # latent 0 is a frame
            x, noise = (one.to(device) for one in (clean_one, torch.randn(clean_one.shape, generator=rng)))
            t = flow.shifted(flow.logit_normal(1, rng), SHIFT).to(device)
            text = padded(self.features["" if torch.rand((), generator=rng) < DROP_TEXT else clean(caption)])
            given = flow.noised(x, noise, t)[None].to(self.dtype), TRAINED * t[None], text.to(device, self.dtype)
            made = self.dit(*given, fps_of(seconds, self.entry.usage.fps))[0].float()
            errors.append((made - (noise - x)).square().mean())
        return {"loss": torch.stack(errors).mean()}


def fps_of(seconds: Tensor, default: float) -> float:
    """Frames a second, of latents that stand so far apart."""
    return default if len(seconds) < 2 else float(round(geometry.TIME_STRIDE / float(seconds[1] - seconds[0])))


def features_of(clips: Clips, pipeline: Wan) -> dict[str, Tensor]:
    """Features [L, D] of all captions, and of no words at all; the text encoder is gone afterwards."""
    found = clips[0][0]
    cell = pipeline.entry.cell
    canvas = geometry.fit(found.shape[3] * cell, found.shape[2] * cell, found.shape[3] / found.shape[2])
    pipeline.on_device(canvas, min(found.shape[1], pipeline.entry.usage.window), found.shape[1])
    with torch.no_grad():
        features = pipeline.embedded(["", *dict.fromkeys(clean(caption) for caption in clips.captions)])
    pipeline.release()
    return features


def train(options: LoraOptions, entry: Entry) -> Path:
    """Train a LoRA of this model on what the options name, which is opened here; returns its file."""
    clips = None if options.data == WORLD else clips_of(Path(options.data), entry)
    if entry.kind == "sora":
        return loop.train(partial(OwnStage, entry, clips), options)
    assert clips, "the command refuses to teach these the rendered world"
    return loop.train(partial(WanStage, entry, clips), options)
