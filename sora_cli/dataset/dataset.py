"""Samples at random, for training: latents with their captions, or crops of the frames that they were made of."""

import random
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli.dataset import footage, scan, shards
from sora_cli.dataset.shards import Row
from sora_cli.errors import Failed, SoraError, counted

SHARED = 4                       # crops that are taken of one piece of footage: opening it costs more than reading on
READERS = 4                      # pieces read at once


class Dataset:
    """A folder that `sora-cli data build` made. Latents are read when they are asked for; what is known of them is
    kept. `vae` and `text` are the identities of the networks that they and the features of captions are from."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        header, self.rows = shards.read_index(self.folder)
        self.vae: str = header["vae"]
        self.text: str = header["text"]
        self.channels: int = header["channels"]
        self.source = Path(header["source"])
        if not self.rows:
            raise SoraError(f"{folder} has no samples; {self.folder / shards.MANIFEST} says why")
        if bad := [f"{name} {what}" for name, what in shards.damage(self.folder, header).items()]:
            raise Failed(f"{self.folder} is not whole: {bad[0]}; {shards.AGAIN}")

    def check_vae(self, vae: str) -> None:
        """Refuse to learn from the latents of another autoencoder than this one, known by its `identity`."""
        if vae != self.vae:
            raise SoraError(f"the latents of {self.folder} are of another VAE; give theirs with --vae, or make them "
                            f"again: `sora-cli data build {self.source} -o {self.folder} --vae VAE`")  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(T, h, w) of every sample, in latents."""
        return [(row["shape"][1], row["shape"][2], row["shape"][3]) for row in self.rows]

    @property
    def captions(self) -> list[str]:
        return [row["caption"] for row in self.rows]

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, str]:
        """Latents [C, T, h, w] in float32, the times of their last frames [T] in seconds, the caption."""
        row = self.rows[i]
        latents = shards.load(self.folder, row)["latents"].float()
        return latents, torch.arange(latents.shape[1]) * row["seconds"], row["caption"]

    def features(self, i: int, text: str | None = None) -> Tensor | None:
        """Text features [L, D] of a caption in float32; None if `text`, the identity of a tower, is not theirs."""
        if text not in (None, self.text):
            return None
        return shards.load(self.folder, self.rows[i])["features"].float()

    # ---- footage ----------------------------------------------------------------------------------------------

    def check_frames(self, frames: int) -> None:
        """Refuse to begin what `frames` could not go on with: no shot is that long, or a source is gone or another."""
        longest = max(row["frames"] for row in self.rows)
        if longest < frames:
            raise SoraError(f"no shot of {self.folder} has {counted(frames, 'frame')}; the longest has {longest}")
        lines = scan.manifest_lines(self.folder / shards.MANIFEST)
        seen = {line["file"]: (line["bytes"], line["modified"]) for line in lines}
        for file in dict.fromkeys(row["file"] for row in self.rows):
            status = self.source_of(file).stat()
            if seen.get(file) != (status.st_size, status.st_mtime_ns):
                raise Failed(f"{self.source / file} has changed; {shards.AGAIN}")

    def source_of(self, file: str) -> Path:
        """A source file; Failed if it is gone."""
        path = self.source / file
        if not path.exists():
            raise Failed(f"{path} is gone; `sora-cli data build FOLDER -o {self.folder}` says where the clips are now, "
                         "and encodes nothing twice")  # fmt: skip
        return path

    def frames(self, rng: random.Random, clips: int, frames: int, height: int, width: int) -> Tensor:
        """Random crops of the source files: [B, 3, T, height, width] in [-1, 1], neighbouring frames of shots that are
        long enough. Failed if a source is gone; `check_frames` knows before."""
        fitting = [row for row in self.rows if row["frames"] >= frames]
        counts = [len(some) for some in np.array_split(range(clips), -(-clips // SHARED))]
        rows, seeds = [rng.choice(fitting) for _ in counts], [rng.getrandbits(62) for _ in counts]
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(partial(self.crops, frames=frames, size=(width, height)), rows, counts, seeds))
        return torch.from_numpy(np.stack([crop for crops in found for crop in crops])).float() / 127.5 - 1

    def crops(self, row: Row, count: int, seed: int, frames: int, size: tuple[int, int]) -> list[np.ndarray]:
        """So many crops [3, T, h, w] of one shot, at positions and times of their own."""
        rng = random.Random(seed)
        begin = rng.randint(0, row["frames"] - frames)
        run = self.read(row, begin, min(row["frames"] - begin, frames + 4 * (count - 1)), size)
        return [crop(run, frames, size, rng) for _ in range(count)]

    def read(self, row: Row, begin: int, frames: int, least: tuple[int, int] = (0, 0)) -> np.ndarray:
        """Frames [T, h, w, 3] of a sample's source from its frame `begin` on, on its canvas, or larger if that has to
        hold `least`. Those that the file turns out to lack are the last one."""
        path = self.source_of(row["file"])
        width, height = row["canvas"]
        canvas = footage.covering((width, height), (max(width, least[0]), max(height, least[1])))
        found = footage.read(path, row, row["first"] + begin, frames, canvas)
        return np.concatenate([found, *[found[-1:]] * (frames - len(found))])


def crop(run: np.ndarray, frames: int, size: tuple[int, int], rng: random.Random) -> np.ndarray:
    """A random part [3, T, h, w] of frames [N, H, W, 3]."""
    (width, height), (count, tall, wide) = size, run.shape[:3]
    t, y, x = rng.randint(0, count - frames), rng.randint(0, tall - height), rng.randint(0, wide - width)
    return rearrange(run[t : t + frames, y : y + height, x : x + width], "T h w C -> C T h w")
