"""Training data of the world: packs of a sliding window of blocks of freshly drawn and encoded scenes.

Block number b is a pure function of (seed, b), so a resumed run draws what an uninterrupted one would have.
On a CPU, where drawing and encoding cost as much as learning, a block stays in the window for a while and is
used several times; on a GPU `refresh_rate` can be raised until nothing is seen twice. The blocks of the window lie on
disk as well, so that a run that goes on need not draw them again. What is drawn depends on the phase of the training.
"""

import json
import math
import random
import zlib
from bisect import bisect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from sora_cli import geometry
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.models.sora.patches import Grid
from sora_cli.models.sora.vae import CHUNK, Vae
from sora_cli.sampling.conditioning import NULL_TIME
from sora_cli.train.data.packing import TIMED, Clip, Pack, pack_of
from sora_cli.train.data.tasks import sample_strides
from sora_cli.train.frozen import CachedTextEncoder
from sora_cli.train.trainer import distributed
from sora_cli.train.trainer.config import generator
from sora_cli.world.captions import dense
from sora_cli.world.field import field
from sora_cli.world.motion import BAR
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, sample_scene

FIRST = 48  # blocks that the first step may draw from
TOKEN = 32  # pixels per token and side
LED = 0.5  # the share of clips whose first latent has motion, too, as in the middle of a video
BUDGET = 60  # tokens of a pack, for each unit of the batch: one picture on the native canvas
TOTALS = (8, 16, 31, 61, 121)  # lengths of whole videos, in latent frames, that samples are subsets of


@dataclass(frozen=True)
class Bucket:
    """A shape of sample: latent frames and the token grid. One frame is a picture, or the end of a chunk with its
    motion: that teaches how things move at the price of a picture."""

    frames: int
    height: int
    width: int
    moving: bool = False

    @property
    def tokens(self) -> int:
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class LatentBatch:
    """Samples of one shape: latents [n, C, T, h, w], their times [n, T] and captions, and the field of each [n, T, 6,
    h, w] (see `world.field`)."""

    latents: Tensor
    seconds: Tensor  # since the scene began; from NULL_TIME on where that is not given
    captions: tuple[str, ...]
    field: Tensor
    first: bool  # whether the first latent is a frame alone

    def fits(self, bucket: Bucket) -> bool:
        """Whether these are samples of such a shape."""
        whole = bucket.frames > 1 or self.first != bucket.moving
        return whole and self.latents.shape[2:] == (bucket.frames, bucket.height * 2, bucket.width * 2)

    def clips(self) -> Iterator[Clip]:
        for latents, seconds, caption, truth in zip(self.latents, self.seconds, self.captions, self.field, strict=True):
            yield Clip(latents.float(), seconds, caption, self.first, truth.float(), truth[:, ::3].float().amax(1))


class LatentCache:
    """The blocks that a step may use: the `size` newest of those made so far, `refresh_rate` more every step."""

    def __init__(self, vae: Vae, seed: int, samples: int, size: int, refresh_rate: float, device: torch.device,
                 dtype: torch.dtype, folder: Path | None = None) -> None:  # fmt: skip
        self.vae, self.seed, self.samples = vae, seed, samples
        self.size, self.refresh_rate, self.device, self.dtype = size, refresh_rate, device, dtype
        self.blocks: dict[int, LatentBatch] = {}
        self.folder = folder and folder / f"latents-{seed}-{zlib.crc32(vae.mean.cpu().numpy().tobytes()):08x}"

    def range_at(self, step: int) -> range:
        end = math.ceil(self.refresh_rate * step) + min(FIRST, self.size)
        return range(max(0, end - self.size), end)

    def block(self, number: int, bucket: Bucket) -> LatentBatch:
        """Block `number` in the shape that its number was first drawn with."""
        if number in self.blocks:
            return self.blocks[number]
        block = self.blocks[number] = self.load_or_draw(number, bucket)
        oldest = max(self.blocks) - self.size + 1  # blocks come in any order: some were drawn by other processes
        for gone in [old for old in self.blocks if old < oldest]:
            del self.blocks[gone]
            if self.folder:
                self.path(gone).unlink(missing_ok=True)
        return block

    def path(self, number: int) -> Path:
        assert self.folder
        return self.folder / f"{number:08d}.safetensors"

    def load_or_draw(self, number: int, bucket: Bucket) -> LatentBatch:
        """A block from disk, where it is there in this shape, else drawn and put there."""
        if not self.folder:
            return self.draw(number, bucket)
        with suppress(SoraError, LookupError, ValueError):  # none there, damaged, or gone just now by another process
            tensors, metadata = weights.load(self.path(number))
            block = LatentBatch(tensors["latents"], tensors["seconds"], tuple(json.loads(metadata["captions"])),
                                tensors["field"], json.loads(metadata["first"]))  # fmt: skip
            if block.fits(bucket):
                return block
        block = self.draw(number, bucket)
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {"latents": block.latents, "seconds": block.seconds, "field": block.field}
        weights.save(self.path(number), tensors,
                     {"captions": json.dumps(block.captions), "first": json.dumps(block.first)})  # fmt: skip
        return block

    @torch.no_grad()
    def draw(self, number: int, bucket: Bucket) -> LatentBatch:
        rng = random.Random(self.seed * 7_368_787 + number)
        count = max(1, self.samples // bucket.frames)  # blocks of about equal cost
        scenes = [sample_scene(rng) for _ in range(count)]
        torch_rng = torch.Generator().manual_seed(rng.getrandbits(40))
        index = (0,) if bucket.frames == 1 else sample_strides(torch_rng, bucket.frames, rng.choice(TOTALS))
        fps = 24.0 if rng.random() < 0.7 else rng.choice([8.0, 12.0, 16.0, 30.0])
        starts, seconds = torch.tensor([begin(rng, bucket.frames) for _ in scenes]).T
        size = (bucket.height * TOKEN, bucket.width * TOKEN)
        led = bucket.moving or (bucket.frames > 1 and rng.random() < LED)
        chunk = CHUNK / fps
        read = tuple(i + led for i in index)  # what leads to a first latent is drawn, too
        latents = encode_at(self.vae, scenes, starts - led * chunk, read, fps, size, self.dtype)
        passed = torch.tensor(index) * chunk
        truth = field(scenes, starts[:, None] + passed, *size, self.device).flatten(2, 3).half()
        seconds = seconds + torch.tensor([scene.begins for scene in scenes])  # a beat is a time at which scenes begin
        captions, first = tuple(dense(scene) for scene in scenes), not led and index[0] == 0
        return LatentBatch(latents.half(), seconds[:, None] + passed, captions, truth.cpu(), first)


def begin(rng: random.Random, frames: int) -> tuple[float, float]:
    """When a sample begins, in seconds of its scene, and the time that the transformer gets: NULL_TIME, or the same.
    The world repeats itself, so that most samples are from its first bar."""
    if frames > 1 and rng.random() >= TIMED:
        return rng.uniform(0, BAR), NULL_TIME
    start = rng.uniform(0, BAR if rng.random() < 0.8 else NULL_TIME - 1)
    return start, start


def encode_at(vae: Vae, scenes: list[Scene], starts: Tensor, index: tuple[int, ...], fps: float,
              size: tuple[int, int], dtype: torch.dtype) -> Tensor:  # fmt: skip
    """Latents [B, C, T, h, w] of scenes at chosen latent frames; runs of neighbours are encoded together."""
    found, device = [], vae.mean.device
    for run in geometry.runs(index):
        first = max(0, run[0] - 1) * CHUNK  # a chunk is read together with the key frame before it
        frames = torch.arange(first, run[-1] * CHUNK + 1)
        video = render(scenes, starts[:, None] + frames / fps, *size, device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            latents = vae.encode(rearrange(video, "B T C H W -> B C T H W") * 2 - 1)
        found.append(latents[:, :, -len(run) :].float())
    return torch.cat(found, 2)


# ---- phases, and the packs of each -------------------------------------------------------------------------


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
CHUNKS = tuple((replace(bucket, moving=True), weight) for bucket, weight in PICTURES)
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


def begun(path: Path, most: int) -> list[int]:
    """The packs that phases began with, at most so many; SoraError if the file does not say so."""
    with suppress(ValueError, RecursionError):
        found: list[int] = json.loads(path.read_text())
        whole = isinstance(found, list) and found[:1] == [0] and all(type(pack) is int for pack in found)
        if whole and len(found) <= most:
            return found
    raise SoraError(f"{path} is damaged; start over with --fresh")


class Schedule:
    """Which phase holds when. Phases begin by the share of the run that is over, of its steps or of its minutes, so
    that nobody knows the pack beforehand: it is written down, and a run that goes on reads it."""

    def __init__(self, phases: tuple[Phase, ...], path: Path | None) -> None:
        self.phases, self.path = phases, path
        self.starts = begun(path, len(phases)) if path and path.exists() else [0]

    def reached(self, pack: int, share: float) -> None:
        """This share of the run is over at this pack: phases that are due begin with the next packs to be asked for."""
        while len(self.starts) < len(self.phases) and self.phases[len(self.starts)].start <= share:
            self.starts.append(pack)
            if self.path and distributed.is_main():
                weights.write(self.path, json.dumps(self.starts).encode())

    def at(self, pack: int) -> Phase:
        return self.phases[max(bisect(self.starts, pack) - 1, 0)]


def bucket_of(phase: Phase, rng: random.Random) -> Bucket:
    buckets, chances = zip(*phase.buckets, strict=True)
    bucket: Bucket = rng.choices(buckets, chances)[0]
    return bucket

SHOWN = (
    "a large cat surfing normal, ocean, camera still, middle, low, beat one",
    "a large rocket rising fast, space, camera still, middle, low, beat one",
    "a large penguin bouncing normal, snow, camera still, middle, low, beat one",
    "a large car moving right normal, city at night, camera still, middle, low, beat one",
    "a large octopus circling normal, underwater, camera still, middle, low, beat one",
    "a large elephant standing still normal, desert, camera still, middle, low, beat one",
)


class WorldPacks:
    """Packs of the world: blocks of one shape out of the window, as many as make the budget of tokens."""

    def __init__(self, window: LatentCache, conditioner: CachedTextEncoder, batch: int, seed: int, schedule: Schedule,
                 drop: float = 0.0) -> None:  # fmt: skip
        self.window, self.conditioner, self.batch = window, conditioner, batch
        self.seed, self.schedule, self.drop = seed, schedule, drop
        self.buckets: dict[int, Bucket] = {}  # of the blocks so far

    def bucket(self, number: int) -> Bucket:
        if number not in self.buckets:
            asked_first = int((number - FIRST) / self.window.refresh_rate)  # the pack that first draws from this block
            rng = random.Random(self.seed * 15_485_863 + number)
            self.buckets[number] = bucket_of(self.schedule.at(asked_first), rng)
        return self.buckets[number]

    def block(self, number: int) -> LatentBatch:
        return self.window.block(number, self.bucket(number))

    def at(self, pack: int) -> Pack:
        rng = random.Random(self.seed * 32_452_843 + pack)
        torch_rng = generator(self.seed, pack)
        numbers = self.window.range_at(pack)
        for number in range(self.window.range_at(pack - 1).stop, numbers.stop):
            self.block(number)  # every block is made once, in its turn
        bucket = self.bucket(rng.choice(numbers))
        same_shape = [number for number in numbers if self.bucket(number) == bucket]
        samples = max(1, round(self.batch * BUDGET / bucket.tokens))
        clips: list[Clip] = []
        while len(clips) < samples:
            clips += self.block(rng.choice(same_shape)).clips()
        clips = clips[:samples]
        phase = self.schedule.at(pack)
        text = self.conditioner([clip.caption for clip in clips])
        return replace(pack_of(clips, text, torch_rng, max(phase.drop, self.drop)), subject=phase.subject)

    def shown(self) -> tuple[Tensor, Grid]:
        """What sheets show: features of captions, and the shape of each video."""
        return self.conditioner(list(SHOWN)), Grid(3, *WIDE)
