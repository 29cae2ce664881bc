"""Packs of the world: what a training draws, in which phase of it."""

import json
import random
from bisect import bisect
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from sora_cli.files import weights
from sora_cli.models.sora.patches import Grid
from sora_cli.train.data.latent_cache import FIRST, Bucket, LatentBatch, LatentCache
from sora_cli.train.data.packing import Clip, Pack, pack_of
from sora_cli.train.frozen import CachedTextEncoder
from sora_cli.train.trainer import distributed
from sora_cli.train.trainer.config import generator

BUDGET = 60  # tokens of a pack, for each unit of the batch: one picture on the native canvas

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
        """This share of the run is over at this pack: phases that are due begin with the next packs to be asked for."""
        while len(self.starts) < len(self.phases) and self.phases[len(self.starts)].start <= share:
            self.starts.append(pack)
            if self.path and distributed.is_main():
                weights.write(self.path, json.dumps(self.starts).encode())

    def at(self, pack: int) -> Phase:
        return self.phases[max(bisect(self.starts, pack) - 1, 0)]


def bucket_of(phase: Phase, rng: random.Random) -> Bucket:
    """A shape to draw."""
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
            asked_first = int((number - FIRST) / self.window.fresh)  # the pack that first draws from this block
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
