"""The pipeline of the Wan family: UMT5, Wan's transformer and autoencoder, and the solvers that they were tuned for.

The networks are large, so that they are loaded when their turn comes and stay only where there is room for all. Of two
transformers, one for high noise and one for low, one is there at a time: they take turns once a window.
What a picture shows is one frame, while any latent but the first stands for four: a picture that is given later than
that is a slot of its own, behind the latent that it ends, as SkyReels-V2 was trained.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sora_cli import registry
from sora_cli.errors import SoraError, counted, no_op
from sora_cli.files import published, weights
from sora_cli.geometry import Canvas
from sora_cli.models.wan.configs import CHUNK, WanConfig
from sora_cli.models.wan.text import Umt5Tokenizer, clean, padded
from sora_cli.models.wan.tiles import WHOLE, Tiling
from sora_cli.models.wan.tiny_decoder import TinyDecoder
from sora_cli.models.wan.vae import WanVae
from sora_cli.pipelines import FULL, OnProgress, Velocity, WindowInputs, copies_of, loading, prompt_notes
from sora_cli.pipelines.codec import Codec, pictures_of
from sora_cli.pipelines.stages import Notify, Stages
from sora_cli.pipelines.wan_velocity import STEADY, Guided, generator, is_context, mask
from sora_cli.placement import memory
from sora_cli.placement.device import free_at_once, free_caches, pick_device, pick_dtype
from sora_cli.placement.machine import Free
from sora_cli.placement.memory import Placement, half_of
from sora_cli.placement.offload import ReportingBlocks, keep_on_host, replace
from sora_cli.placement.sizes import Needs
from sora_cli.prompts.cache import Embeddings, key_of
from sora_cli.registry import TINY, Entry, hub, lora
from sora_cli.registry.schema import EXPERTS, LORAS
from sora_cli.sampling.solvers import TRAINED, solve, steps_above, timestep_of
from sora_cli.shot import Lora, Shot

NAMES = {"text": "text encoder", "dit": "transformer", "vae": "autoencoder", TINY: "tiny decoder"}
BLOCKS = {"text": "encoder.block", "dit": "blocks", "dit_low": "blocks"}  # the lists of blocks that take long
PRIMER = 4  # latents decoded again so that a loop's first latent follows its last


class Wan:
    """The networks of one checkpoint, each on a device when it is used."""

    def __init__(self, entry: Entry, device: str = "auto", dtype: str = "auto", memory: str = "auto",
                 on_progress: OnProgress = no_op, roles: Sequence[str] = registry.ROLES,
                 loras: Sequence[Lora] = (), decoder: str = FULL) -> None:  # fmt: skip
        self.entry = entry
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device, large=True)
        self.paths = hub.locate(entry.only(*roles))
        own = [Lora(str(self.paths[role]), expert=expert if self.two else "") for role, expert in LORAS.items()
               if role in self.paths]  # fmt: skip
        self.memory, self.on_progress, self.asked, self.loras = memory, on_progress, tuple(loras), (*own, *loras)
        self.decoder = decoder
        loading.check(self.paths, self.loras)
        self.check_channels()
        if "tokenizer" in self.paths:
            self.tokenizer  # noqa: B018 (SoraError if it is none)
        self.networks: dict[str, nn.Module] = {}
        self.ahead: Sequence[str] = ()
        self.needs: Needs | None = None  # of what the networks are placed for
        self.stages = Stages()

    @property
    def latent_split(self) -> tuple[int, int]:
        return self.config.outputs, 0

    @cached_property
    def config(self) -> WanConfig:
        return loading.dit_config(self.paths["dit"])

    @property
    def two(self) -> bool:
        """Whether there is a transformer for high noise and one for low."""
        return self.entry.usage.boundary > 0

    def check_channels(self) -> None:
        """SoraError if a transformer takes other channels than the registry says, or the two are of different sizes."""
        name, conditioned = self.entry.name, self.entry.usage.conditioned
        for config in (loading.dit_config(self.paths[role]) for role in EXPERTS if role in self.paths):
            given, due = config.inputs - config.outputs, CHUNK + config.outputs if conditioned else 0
            if given != due:
                raise SoraError(f"the transformer of {name} takes {given} channels beside the latent; with "
                                f"conditioned = {str(conditioned).lower()} it must take {due}")  # fmt: skip
            if config != self.config:
                raise SoraError(f"the two transformers of {name} differ in size")

    @property
    def codec(self) -> Codec:
        return Codec(Autoencoder(self), self.device, getattr(torch, self.placement.vae), self.stages.autoencoder)

    @cached_property
    def tiny(self) -> TinyDecoder:
        """It stays loaded: it takes some 20 MB."""
        path, cell = self.paths[TINY], self.entry.cell
        network = loading.load_tiny(path, self.device, self.dtype, partial(self.on_progress, NAMES[TINY]))
        if network.config.stride != cell:
            raise SoraError(f"{path} is for latents of {network.config.stride} pixels a cell, but those of "
                            f"{self.entry.name} have {cell}")  # fmt: skip
        return network

    def sketches(self, latents: Tensor, canvas: Canvas) -> Iterator[np.ndarray]:
        if TINY in self.paths:
            videos = self.tiny.decode_stream([latents[None].to(self.device, self.dtype)], keys=True)
            yield from (pictures_of(video[0], canvas)[0] for video in videos)
        elif self.placement.keep:  # else it would send the transformer away
            videos = (self.codec.vae.decode(latent[None]) for latent in latents.split(1, 1))
            yield from (pictures_of(video[0], canvas)[0] for video in videos)

    def on_device(self, canvas: Canvas, window: int, latents: int, notify: Notify = no_op,
                  encodes: bool = True) -> Stages:  # fmt: skip
        draft, before = not (encodes or self.decoder == FULL), self.needs  # the whole network that decodes also encodes
        size = canvas.width, canvas.height
        if not before or (before.width, before.height) != size or before.window < window or before.draft != draft:
            self.release()  # what is loaded would be counted as taken
            self.needs = memory.needs_of(self.entry, canvas, window, latents or window, self.dtype.itemsize,
                                  half_of(self.dtype), self.asked, draft)  # fmt: skip
            self.take(memory.choose(self.needs, Free.on(self.device), self.memory))
        self.stages = Stages(self, notify, self.placement.why)
        return self.stages

    def lower(self, stage: str, short: str) -> str:
        """Take a placement that needs less where memory ran short; returns what is new, "" if there is none."""
        assert self.needs is not None, "on_device first"
        found = memory.lower(self.placement, stage, short, self.needs, Free.on(self.device))
        if found is None:
            return ""
        new = memory.difference(self.placement, found, self.entry.cell)
        self.take(found)
        return new

    def take(self, placement: Placement) -> None:
        self.placement = placement
        if placement.dit == "disk":
            free_at_once()  # whoever reads block by block has little memory

    def notes(self, shot: Shot) -> Iterator[str]:
        yield from prompt_notes.by_wan(self.entry, shot)
        for one in self.loras if self.entry.usage.conditioned else ():
            if count := lora.left_out(one):
                some = counted(count, "tensor")
                yield f"LoRA {one}: leaves out {some} for an image encoder, which {self.entry.name} does not have"
        yield from prompt_notes.unread_by_wan(self.entry, shot, self.tokenizer)

    @cached_property
    def tokenizer(self) -> Umt5Tokenizer:
        return Umt5Tokenizer(self.paths["tokenizer"] / "tokenizer.json")

    def use(self, role: str) -> Any:
        """A network, loaded; others go first where there is no room, and one of two transformers always."""
        if role not in self.networks:
            if role in EXPERTS and [self.networks.pop(other) for other in EXPERTS if other in self.networks]:
                free_caches(self.device)
            reads = "text" in (role, *self.networks)
            if self.placement.alone if reads else not self.placement.keep:
                self.release()
            self.networks[role] = self.load(role)
            if role in BLOCKS:
                self.report_blocks(self.networks[role], BLOCKS[role])
        return self.networks[role]

    def release(self) -> None:
        self.networks.clear()
        free_caches(self.device)

    def load(self, role: str) -> nn.Module:
        path, how, on_progress = self.paths[role], self.placement, partial(self.on_progress, self.called(role))
        if role == "text":
            return loading.load_text(path, self.reads_on, self.text_dtype, how.text == "streamed", on_progress)
        if role == "vae":
            return loading.load_vae(path, self.device, getattr(torch, how.vae), on_progress)
        expert, there = EXPERTS[role] if self.two else "", torch.device("cpu") if how.dit == "streamed" else self.device
        dit = loading.load_dit(path, there, self.dtype, how.dit == "disk", on_progress, self.loras, expert=expert)
        if how.dit == "streamed":
            keep_on_host(dit, "blocks", self.device)
        return dit

    def called(self, role: str) -> str:
        """A network, for whoever watches it being read."""
        return f"transformer for {EXPERTS[role]} noise" if self.two and role in EXPERTS else NAMES[role]

    def report_blocks(self, network: nn.Module, at: str) -> None:
        """Report the progress of each pass of a network."""
        replace(network, at, ReportingBlocks(network.get_submodule(at), partial(self.on_progress, "layers")))

    # ---- words --------------------------------------------------------------------------------------------

    def read(self, prompts: Sequence[str], negative: str | None) -> Tensor:
        texts = [clean(text) for text in (*prompts, *([] if negative is None else [negative]))]
        features = self.embedded(texts)
        return torch.cat([padded(features[text]) for text in texts]).to(self.device, self.dtype)

    def embedded(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Features [L, D] of texts; those that were read before come from the disk."""
        cache, encoder = Embeddings(), weights.fingerprint([*self.files("text"), *self.files("tokenizer")])
        ahead, self.ahead = [clean(text) for text in self.ahead], ()  # while the text encoder is there
        keys = {text: key_of(encoder, text, str(self.text_dtype)) for text in (*texts, *ahead)}
        read = {text: cache.get(key) for text, key in keys.items()}
        found = {text: features for text, features in read.items() if features is not None}
        new = [text for text in keys if text not in found]
        for number, text in enumerate(new):
            self.on_progress("read the prompt", number, len(new))
            found[text] = self.encoded(text)
            cache.put(keys[text], found[text])
            self.on_progress("read the prompt", number + 1, len(new))
        return found

    def encoded(self, text: str) -> Tensor:
        tokens = self.tokenizer.encode(text)
        features: Tensor = self.use("text")(tokens.to(self.reads_on))
        return features.cpu()

    @property
    def text_dtype(self) -> torch.dtype:
        """The features of UMT5 grow beyond the range of float16."""
        return torch.bfloat16 if self.dtype == torch.float16 else self.dtype

    @property
    def reads_on(self) -> torch.device:
        """Where the text encoder computes."""
        return self.device if self.placement.text in ("device", "first") else torch.device("cpu")

    # ---- frames -------------------------------------------------------------------------------------------

    def velocity(self, inputs: WindowInputs, text: Tensor) -> Velocity:
        return Guided(self, inputs, text)

    def sample(self, velocity: Velocity, inputs: WindowInputs) -> Iterator[Tensor]:
        """What is given stays as it is, to the bit, but for what is to be made again."""
        kept = is_context(inputs)
        if inputs.redone is not None:
            kept = kept & ~inputs.redone[:, None, None].to(kept.device)
        for x in self.solver(velocity, inputs):
            yield torch.where(kept, inputs.x, x)

    def solver(self, velocity: Velocity, inputs: WindowInputs) -> Iterator[Tensor]:
        usage, x = self.entry.usage, inputs.x
        if inputs.condition is not None:  # all begins as noise
            x = torch.where(is_context(inputs), inputs.noise.to(x), x)
        return solve(usage.solver, velocity, x, inputs.shot.steps, usage.shift or 1.0, generator(inputs))

    def expert(self, sigma: Tensor) -> str:
        """The transformer for a noise level, by its role."""
        usage = self.entry.usage
        high = not self.two or bool(timestep_of(usage.solver, sigma) >= usage.boundary * TRAINED)
        return "dit" if high else "dit_low"

    def condition(self, pictures: Sequence[np.ndarray | None], canvas: Canvas) -> Tensor:
        """[4 + C, 1 + n, h, w]: which frames are given, then the latents of them, grey between them."""
        latents = torch.cat(list(self.codec.encode(pictures, canvas)), 1)
        given = mask([picture is not None for picture in pictures])
        return torch.cat([given.expand(-1, -1, *latents.shape[2:]), latents])

    def work(self, inputs: WindowInputs, text: Tensor) -> float:
        c, shot, usage = self.config, inputs.shot, self.entry.usage
        high = steps_above(usage.boundary, usage.solver, shot.steps, usage.shift or 1.0) / shot.steps
        guided = sum(share for share, one in zip((high, 1 - high), shot.guidances, strict=True) if one != STEADY)
        copies = 1 + (copies_of(inputs, text) - 1) * guided
        T, h, w = (size // patch for size, patch in zip(inputs.x.shape[1:], (1, 2, 2), strict=True))
        N = (T + len(inputs.end_frames)) * h * w
        block = (8 * c.width**2 + 2 * c.width * c.hidden) * N + 2 * c.width * N * (N + text.shape[1])
        return 2.0 * c.layers * block * copies

    def identity(self) -> Mapping[str, str]:
        return {role: weights.fingerprint(self.files(role)) for role in self.paths if role != TINY}

    def files(self, role: str) -> list[Path]:
        """What is loaded in a role."""
        path = self.paths[role]
        return [path / "tokenizer.json"] if role == "tokenizer" else published.loaded(path)


class Autoencoder:
    """Wan's autoencoder as the codec and the engine know one."""

    zoom = 1
    independent = False  # every frame depends on all before it

    def __init__(self, pipeline: Wan) -> None:
        self.pipeline = pipeline

    @property
    def network(self) -> WanVae:
        return self.pipeline.use("vae")

    @property
    def decoder(self) -> WanVae | TinyDecoder:
        """The network that decodes: the tiny one for drafts."""
        return self.network if self.pipeline.decoder == FULL else self.pipeline.tiny

    @property
    def channels(self) -> int:
        return self.decoder.config.channels

    @property
    def tiling(self) -> Tiling:
        how = self.pipeline.placement
        return Tiling(how.tile, how.overlap, how.away) if how.tile else WHOLE

    def encode_stream(self, frames: Iterable[Tensor], group: int = 1) -> Iterator[Tensor]:
        """1 + 4n frames [B, 3, H, W] in [-1, 1] -> latents [B, C, 1, h, w], one by one."""
        like = next(self.network.parameters())
        return self.network.encode_stream(chunks(frame.to(like) for frame in frames), self.tiling)

    def decode_stream(self, pieces: Iterable[Tensor], previous: Tensor | None = None) -> Iterator[Tensor]:
        """Latents [B, C, k, h, w] -> videos [B, 3, t, H, W] in [-1, 1], one by one; `previous` latents come before."""
        before = previous.split(1, 2) if previous is not None else ()
        singles = (one for piece in pieces for one in piece.split(1, 2))
        network = self.decoder
        like = next(network.parameters())
        coming = (one.to(like) for one in chain(before, singles))
        if isinstance(network, TinyDecoder):  # it takes little memory, whatever the size
            videos = network.decode_stream(coming)
        else:
            videos = network.decode_stream(coming, self.tiling)
        return islice(videos, len(before), None)

    def key_features(self, latents: Tensor) -> Tensor:
        """What decoding goes on from after these latents: the last few of them."""
        return latents[:, :, -PRIMER:]

    def stream(self, latents: Tensor, group: int = 1, *, cyclic: bool = False) -> Iterator[Tensor]:
        return self.decode_stream([latents], self.key_features(latents) if cyclic else None)

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat(list(self.decode_stream([latents])), 2)


def chunks(frames: Iterator[Tensor]) -> Iterator[Tensor]:
    """Frames [B, C, H, W] -> the first alone, then four at a time, [B, C, T, H, W]."""
    some = list(islice(frames, 1))
    while some:
        yield torch.stack(some, 2)
        some = list(islice(frames, CHUNK))
