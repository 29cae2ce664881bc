"""How like the scene itself a transformer's pictures are, while it learns: caption and time say all of them."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sora_cli.dataset.shards import read_lines, write_lines
from sora_cli.models.sora.vae import Vae
from sora_cli.world import metrics
from sora_cli.world.captions import dense
from sora_cli.world.field import COVERED, field
from sora_cli.world.motion import BAR
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, sample_scene

HEIGHT, WIDTH = 192, 320
FILE = "likeness.jsonl"


@dataclass(frozen=True)
class Pictures:
    """Held-out scenes of one subject at moments of the first bar, and where the subject is."""

    scenes: list[Scene]
    seconds: Tensor  # [B, 1]
    real: Tensor  # [B, 3, H, W] in [0, 1]
    cells: Tensor  # [B, H / 16, W / 16] whether the subject is there

    @classmethod
    def drawn(cls, count: int, device: torch.device) -> "Pictures":
        rng = random.Random("likeness")
        scenes = list[Scene]()
        while len(scenes) < count:
            scenes += [scene for scene in [sample_scene(rng, "held-out")] if scene.second is None]
        seconds = torch.tensor([[rng.uniform(0, BAR)] for _ in scenes])
        cells = field(scenes, seconds, HEIGHT, WIDTH, device)[:, 0, 0, 0] > COVERED
        return cls(scenes, seconds, render(scenes, seconds, HEIGHT, WIDTH, device)[:, 0], cells)

    @property
    def moments(self) -> Tensor:
        """The seconds of the bar, as the transformer gets them [B, 1]."""
        return self.seconds + torch.tensor([[scene.begins] for scene in self.scenes])

    @property
    def captions(self) -> list[str]:
        return [dense(scene) for scene in self.scenes]

    def scores(self, made: Tensor) -> dict[str, float]:
        """PSNR in dB of pictures [B, 3, H, W] in [0, 1]: in the subject's cells, and of the whole."""
        one, other, cells = made[:, None], self.real[:, None], self.cells[:, None]
        return {"subject": round(metrics.psnr_in(one, other, cells), 2), "whole": round(metrics.psnr(one, other), 2)}


def decoded(vae: Vae, latents: Tensor) -> Tensor:
    """Latents of pictures [B, C, 1, h, w] -> [B, 3, H, W] in [0, 1], as large as they are read."""
    found = torch.cat([vae.decode(part)[:, :, 0] for part in latents.split(16)]).float() / 2 + 0.5
    return found if vae.zoom == 1 else F.avg_pool2d(found, vae.zoom)


def note(folder: Path, step: int, found: dict[str, float]) -> None:
    """Write a line down, with those of the steps before."""
    before = [line for line in read_lines(folder / FILE) if line.get("step", step) < step]
    write_lines(folder / FILE, [*before, {"step": step} | found])
