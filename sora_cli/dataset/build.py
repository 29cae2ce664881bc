"""The folder -> shards, so that a kill costs one of them and a second run nothing.

What a sample is hangs on its file, its frames, its canvas and the autoencoder, and that is its key. Which samples, with
which captions, make a shard is planned before any is encoded, and is the shard's name: those that are there are left
alone, and what is in shards of an earlier plan is copied and not encoded again.
"""

import json
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli import geometry, registry
from sora_cli.dataset import footage, kept, scan, shards
from sora_cli.dataset.captions import Captions
from sora_cli.dataset.scan import ScannedFile
from sora_cli.dataset.shards import FORMAT, INDEX, MANIFEST, SCAN, Row
from sora_cli.errors import Failed, SoraError, be, counted
from sora_cli.files.owned import Owned, part_of
from sora_cli.models.sora import text as texts
from sora_cli.models.sora import vae as vaes
from sora_cli.placement import machine
from sora_cli.placement.device import pick_device, pick_dtype

SHARD_BYTES = 64_000_000
AHEAD = 2_000_000_000            # bytes of frames that wait to be encoded, or two samples
GROUP = 8                        # latents encoded at a time
OVERHEAD = 3_000                 # bytes of a sample beside its numbers
UNREAD = "broken: it could not be read a second time"
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class BuildConfig:
    """What a dataset is made of, and how."""

    source: Path
    out: Path
    tokens: int = geometry.TOKENS    # of a frame
    fps: float = 30.0                # at most
    seconds: float = 8.0             # of a sample, at most
    workers: int = 2                 # files read at once
    captions: Path | None = None
    vae: Path | None = None          # None: what is shipped
    text: Path | None = None
    prune: bool = False              # whether samples of files that are gone may go, however many

    @property
    def own(self) -> Owned:
        """The right to work on the dataset, which one process has."""
        return Owned(self.out)

    def check(self) -> None:
        """Refuse what cannot work; SoraError in one line."""
        if not self.source.is_dir():
            raise SoraError(f"there is no folder {self.source}")
        if self.source.resolve() == self.out.resolve():
            raise SoraError(f"-o {self.out} is the folder of the clips; give another one")
        if self.out.exists() and not self.out.is_dir():
            raise SoraError(f"-o {self.out} is a file; it must be a folder")
        for path in (self.vae, self.text, self.captions):
            if path is not None and not path.exists():
                raise SoraError(f"there is no file {path}")
        self.own.check_free()
        stored_source = self.stored_source()
        if stored_source is None and not self.own.empty and not any(self.out.glob(kept.SHARDS)):
            raise SoraError(f"-o {self.out} is neither empty nor a dataset; give another folder")
        if stored_source and Path(stored_source).is_dir() and not self.source.samefile(stored_source):
            raise SoraError(f"{self.out} is the dataset of {stored_source}; give another -o for {self.source}")

    def check_sources(self, there: Collection[str], why: str = "not in {}: is its disk there?") -> None:
        """Refuse, before anything is lost, to lose most of the dataset or all of a folder: a disk may not be mounted,
        the folder or an option may be the wrong one."""
        used = {row["file"]: None for row in kept.indexed(self.out)[1]}
        lines = scan.manifest_lines(self.out / MANIFEST) or scan.manifest_lines(self.out / SCAN)
        used |= {line["file"]: line["bytes"] for line in lines if not line["reason"]}
        same = self.stored_source() == str(self.source.resolve())
        gone = [file for file, size in used.items() if file not in there
                or not same and size not in (None, scan.outside(self.source, file).bytes)]  # fmt: skip
        folders = {above for file in there for above in PurePath(file).parents}
        away = {PurePath(file).parent for file in gone} - folders
        if (2 * len(gone) > len(used) or away) and not self.prune:
            raise SoraError(f"{len(gone)} of the {counted(len(used), 'file')} that {self.out} was made from "
                            f"{be(len(gone))} {why.format(self.source)} --prune removes their samples, "
                            "another -o keeps them")  # fmt: skip

    def stored_source(self) -> str | None:
        """The folder that a dataset in `out` is of; None if there is none."""
        lines = shards.read_lines(self.out / INDEX)[:1] or shards.read_lines(self.out / SCAN)[:1]
        return lines[0]["source"] if lines and shards.holds(lines[0], {"source": str}) else None


@dataclass(frozen=True)
class Sample:
    """Neighbouring frames of a shot, 1 + 4n of them, or a picture."""

    record: ScannedFile
    shot: int
    first: int
    frames: int
    canvas: tuple[int, int]
    caption: str

    @property
    def fps(self) -> float:
        return self.record.fps or 1.0

    def shape(self, channels: int) -> tuple[int, int, int, int]:
        """[C, T, h, w]"""
        width, height = (side // geometry.SPACE_STRIDE for side in self.canvas)
        return channels, geometry.latents_for(self.frames), height, width

    def key(self, vae: str) -> str:
        r = self.record
        content = [r.file, r.bytes, r.modified, r.fps, self.first, self.frames, self.canvas, vae]
        return shards.hash_of([*content, *([r.bars] if r.bars else [])])[:24]

    def read(self, source: Path) -> np.ndarray:
        """Its frames [T, h, w, 3], 1 + 4n of them."""
        path = source / self.record.file
        found = footage.read(path, sample_metadata(self), self.first, self.frames, self.canvas)
        return found[: whole(len(found))]


def whole(frames: int) -> int:
    """The most frames of so many that are 1 + 4n."""
    return 1 + (frames - 1) // geometry.TIME_STRIDE * geometry.TIME_STRIDE


@dataclass(frozen=True)
class Shard:
    number: int
    content_hash: str
    samples: tuple[tuple[str, Sample], ...]  # by their names

    @classmethod
    def of(cls, number: int, samples: Iterable[tuple[str, Sample]], networks: "Networks") -> "Shard":
        """The shard of these samples, whose name tells it from all others."""
        samples = tuple(samples)
        content = [(name, sample.key(networks.vae_id), sample.caption) for name, sample in samples]
        return cls(number, shards.hash_of([FORMAT, networks.text_id, content])[:12], samples)

    @property
    def name(self) -> str:
        return f"{self.number:05}-{self.content_hash}.tar"


@dataclass(frozen=True)
class Networks:
    """The frozen autoencoder and text tower, and which ones they are."""

    vae: vaes.Vae
    vae_id: str
    tower: texts.TextTower
    tokenizer: texts.Tokenizer
    text_id: str
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def load(cls, vae: Path | None, text: Path | None, device: str = "auto", dtype: str = "auto") -> "Networks":
        where = pick_device(device)
        coder, speaker = registry.load_network("vae", vae), registry.load_network("text", text)
        tokenizer, tower = texts.from_weights(*speaker)
        return cls(vaes.from_weights(*coder).to(where), shards.identity(*coder), tower.to(where), tokenizer,
                   shards.identity(*speaker), where, pick_dtype(dtype, where))  # fmt: skip

    @torch.inference_mode()
    def encode(self, frames: np.ndarray) -> Tensor:
        """Frames [T, h, w, 3] -> latents [C, T', h, w]."""
        coming = (rearrange(torch.tensor(frame, device=self.device), "h w C -> 1 C h w") / 127.5 - 1
                  for frame in frames)  # fmt: skip
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            pieces = [piece[0].half().cpu() for piece in self.vae.encode_stream(coming, GROUP)]
        return torch.cat(pieces, 1)

    @lru_cache(16)  # noqa: B019 (there is one)
    @torch.inference_mode()
    def features(self, caption: str) -> Tensor:
        """A caption -> text features [L, D]; the absence of one is zeros, as in training."""
        found = self.tower(self.tokenizer.encode([caption]).to(self.device))[0][0].half().cpu()
        return found if caption else torch.zeros_like(found)

    def oov_rate(self, captions: Iterable[str]) -> float:
        """The share of the words of captions that the text tower never learned."""
        said = [word for caption in captions for word in texts.words(caption)]
        return sum(word not in self.tokenizer.ids for word in said) / max(1, len(said))

    def cut(self, captions: dict[str, str]) -> list[str]:
        """The files whose captions have more words than the text tower reads."""
        return [file for file, caption in captions.items() if texts.longer(caption, self.tokenizer.most)]


def ahead(function: Callable[[Item], Made], items: Iterable[Item], workers: int) -> Generator[Made, None, None]:
    """function(item) for every item, in order, computed up to `workers` items ahead of the one that is asked for."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


# ---- scanning ---------------------------------------------------------------------------------------------


def scan_files(config: BuildConfig, files: Mapping[str, str]) -> Iterator[ScannedFile]:
    """Every file, known from an earlier run or examined now and recorded at once; broken ones are tried again. Those
    that cannot be looked at now are as they were."""
    config.out.mkdir(parents=True, exist_ok=True)
    kept.sweep(config.out)
    lines = scan.manifest_lines(config.out / MANIFEST) + scan.manifest_lines(config.out / SCAN)
    examined = {line["file"]: ScannedFile.read(line) for line in lines if line["kind"] and line["reason"] != UNREAD}

    def one(file: str) -> tuple[ScannedFile, bool]:
        record = scan.outside(config.source, file, files[file])
        if file in examined and (examined[file].fits(record, config.fps) or record.unseen):
            return examined[file], False
        return scan.examine(config.source, record, config.fps), True

    header = {"format": FORMAT, "source": str(config.source.resolve())}
    shards.write_lines(config.out / SCAN, [header, *map(asdict, examined.values())])
    with (config.out / SCAN).open("a", encoding="utf-8") as notes:
        for record, new in ahead(one, files, config.workers):
            if new:
                notes.write(json.dumps(asdict(record)) + "\n")
                notes.flush()
            yield record


# ---- planning ---------------------------------------------------------------------------------------------


def samples_of(record: ScannedFile, caption: str, config: BuildConfig) -> Iterator[Sample]:
    """The shots of a file in pieces of at most `config.seconds`, all about as long."""
    if record.reason:
        return
    canvas = geometry.canvas(*record.inner, tokens=config.tokens)
    most = whole(max(scan.FEWEST, round(config.seconds * record.fps)))
    for number, shot in enumerate(record.takes):
        if shot.reason:
            continue
        count = -(-shot.frames // most)
        bounds = [shot.first + shot.frames * i // count for i in range(count + 1)]
        for begin, end in zip(bounds, bounds[1:], strict=False):
            yield Sample(record, number, begin, whole(end - begin), (canvas.width, canvas.height), caption)


def plan(samples: list[Sample], networks: Networks) -> list[Shard]:
    """Samples in shards of about 64 MB."""
    channels, features = networks.vae.channels, networks.features("").nbytes
    groups: list[list[tuple[str, Sample]]] = []
    room = 0
    for number, sample in enumerate(samples):
        C, T, h, w = sample.shape(channels)
        size = 2 * C * T * h * w + features + OVERHEAD
        if room < size:
            groups.append([])
            room = SHARD_BYTES
        groups[-1].append((f"{number:08}", sample))
        room -= size
    return [Shard.of(number, group, networks) for number, group in enumerate(groups)]


# ---- encoding ---------------------------------------------------------------------------------------------


def encode(config: BuildConfig, plan: list[Shard], networks: Networks) -> Iterator[None]:
    """Write the shards that are not there, and say after each of their samples that it is done. Samples that cannot be
    read leave `plan`, so that their shard has another name and they are tried again next time."""
    out, old = config.out, {row["key"]: row for row in kept.rows(config.out) if shards.holds(row, {"key": str})}
    missing = missing_in(config.out, plan)
    new = [sample for shard in missing for _, sample in shard.samples if sample.key(networks.vae_id) not in old]
    largest = max((3 * sample.frames * math.prod(sample.canvas) for sample in new), default=1)
    workers = max(1, min(config.workers, AHEAD // largest))
    with closing(ahead(partial(attempt, source=config.source), new, workers)) as decoded:
        for shard in missing:
            part, made = part_of(out / shard.name), []
            with shards.writing(part) as put:
                for name, sample in shard.samples:
                    key = sample.key(networks.vae_id)
                    found = shards.load(out, old[key])["latents"] if key in old else None
                    frames = next(decoded) if found is None else None
                    latents = networks.encode(frames) if frames is not None else found
                    if latents is not None:
                        row = {"key": key, **sample_metadata(sample), "shape": list(latents.shape),
                               "vae": networks.vae_id}  # fmt: skip
                        put(name, {"latents": latents, "features": networks.features(sample.caption)}, row)
                        made.append((name, sample))
                    yield
            plan[shard.number] = Shard.of(shard.number, made, networks)
            os.replace(part, out / plan[shard.number].name)


def missing_in(folder: Path, plan: list[Shard]) -> list[Shard]:
    return [shard for shard in plan if not (folder / shard.name).exists()]


def attempt(sample: Sample, source: Path) -> np.ndarray | None:
    """The frames of a sample; None if they cannot be read any more."""
    with suppress(Failed, OSError):
        return sample.read(source)
    return None


def sample_metadata(sample: Sample) -> Row:
    """What is said of a sample beside its numbers. Times are seconds of the source."""
    step = geometry.TIME_STRIDE / sample.fps if sample.frames > 1 else 0.0
    begin = sample.first / sample.fps if sample.record.kind == "video" else 0.0
    end = (sample.first + sample.frames) / sample.fps if sample.record.kind == "video" else 0.0
    return {"caption": sample.caption, "file": sample.record.file, "kind": sample.record.kind,
            "begin": round(begin, 6), "end": round(end, 6), "first": sample.first, "frames": sample.frames,
            "fps": sample.record.fps, "seconds": step, "canvas": list(sample.canvas),
            "size": list(sample.record.size),
            **({"bars": list(sample.record.bars)} if sample.record.bars else {})}  # fmt: skip


# ---- finishing --------------------------------------------------------------------------------------------


def finish(config: BuildConfig, records: list[ScannedFile], captions: Captions, plan: list[Shard], networks: Networks,
           there: Mapping[str, Row]) -> bool:  # fmt: skip
    """Write the manifest and the index, and remove what is not part of the dataset; returns whether anything is new.
    `there` are the checksums of the shards that were there."""
    names = {shard.name for shard in plan}
    rows = sorted((row for row in kept.rows(config.out) if row["shard"] in names), key=lambda row: str(row["name"]))
    header = {"format": FORMAT, "source": str(config.source.resolve()), "samples": len(rows), "vae": networks.vae_id,
              "text": networks.text_id, "channels": networks.vae.channels, "tokens": config.tokens, "fps": config.fps,
              "max_seconds": config.seconds,
              "shards": {name: there.get(name) or shards.checksum(config.out / name) for name in sorted(names)
                         if (config.out / name).exists()}}  # fmt: skip
    header["crc32"] = shards.lines_checksum(header, rows)
    read = {row["name"] for row in rows}
    planned: dict[str, list[tuple[str, Sample]]] = {}
    for shard in plan:
        for name, sample in shard.samples:
            planned.setdefault(sample.record.file, []).append((name, sample))
    lines = [line_of(record, captions, planned.get(record.file, []), read) for record in records]
    changed = [shards.write_lines(config.out / MANIFEST, lines),
               shards.write_lines(config.out / INDEX, [header, *rows])]  # fmt: skip
    for path in config.out.glob(kept.SHARDS):
        if path.name not in names:
            path.unlink()
    (config.out / SCAN).unlink(missing_ok=True)
    return any(changed)


def line_of(record: ScannedFile, captions: Captions, planned: list[tuple[str, Sample]], read: set[str]) -> Row:
    """What the manifest says of a file: used, with its shots and their samples, or skipped, with a reason."""
    line: dict[str, Any] = {"file": record.file, "state": "skipped" if record.reason else "used", **asdict(record)}
    if owner := captions.owners.get(record.file):
        wrong = captions.wrong.get(record.file)
        line["reason"] = f"not a caption of {owner}: {wrong}" if wrong else f"beside {owner}"
    for number, shot in enumerate(line["takes"]):
        own = [name for name, sample in planned if sample.shot == number]
        shot["samples"] = [name for name in own if name in read]
        if record.kind == "video":
            shot |= {"begin": round(shot["first"] / record.fps, 3),
                     "end": round((shot["first"] + shot["frames"]) / record.fps, 3)}  # fmt: skip
    if not record.reason:
        said = captions.of(record.file)
        line |= {"caption": said.text, "caption_from": said.source}
        if not any(shot["samples"] for shot in line["takes"]):
            line |= {"state": "skipped", "reason": UNREAD}
    return line


def check_room(config: BuildConfig, plan: list[Shard]) -> None:
    """Refuse to start what the disk cannot hold."""
    needed = SHARD_BYTES * len(missing_in(config.out, plan))
    if (free := machine.disk_free(config.out)) < needed:
        raise Failed(f"the disk of {config.out} has {free / 1e9:.1f} GB free of about {needed / 1e9:.1f} needed")
