"""How like the scene itself a transformer's pictures are, while it learns: caption and time say all of them."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sora_cli.models.sora.vae import Vae
from sora_cli.world.captions import dense
from sora_cli.world.field import STRIDE, field
from sora_cli.world.motion import BAR
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, sample_scene

HEIGHT, WIDTH = 192, 320
COVERED = 0.15  # of a cell, from which on it is the subject's
FILE = "likeness.jsonl"


@dataclass(frozen=True)
class Pictures:
    """Held-out scenes of one subject at moments of the first bar, and where the subject is."""

    scenes: list[Scene]
    seconds: Tensor  # [B, 1]
    real: Tensor  # [B, 3, H, W] in [0, 1]
    cells: Tensor  # [B, 1, H, W] 1 where the subject is

    @classmethod
    def drawn(cls, count: int, device: torch.device) -> "Pictures":
        rng = random.Random("likeness")
        scenes = list[Scene]()
        while len(scenes) < count:
            scenes += [scene for scene in [sample_scene(rng, "held-out")] if scene.second is None]
        seconds = torch.tensor([[rng.uniform(0, BAR)] for _ in scenes])
        cover = field(scenes, seconds, HEIGHT, WIDTH, device)[:, 0, :1, 0]
        cells = F.interpolate((cover > COVERED).float(), scale_factor=STRIDE)
        return cls(scenes, seconds, render(scenes, seconds, HEIGHT, WIDTH, device)[:, 0], cells)

    @property
    def told(self) -> Tensor:
        """The seconds of the bar, as the transformer is told [B, 1]."""
        return self.seconds + torch.tensor([[scene.begins] for scene in self.scenes])

    @property
    def captions(self) -> list[str]:
        return [dense(scene) for scene in self.scenes]

    def scores(self, made: Tensor) -> dict[str, float]:
        """PSNR in dB of pictures [B, 3, H, W] in [0, 1]: in the subject's cells, and of the whole."""
        error = (made - self.real).square().mean(1, keepdim=True)
        here = self.cells.sum((1, 2, 3)) > 0
        inside = (error * self.cells).sum((1, 2, 3))[here] / self.cells.sum((1, 2, 3))[here]
        return {name: round(float((-10 * of.clamp_min(1e-10).log10()).mean()), 2)
                for name, of in (("subject", inside), ("whole", error.mean((1, 2, 3))))}  # fmt: skip


def decoded(vae: Vae, latents: Tensor) -> Tensor:
    """Latents of pictures [B, C, 1, h, w] -> [B, 3, H, W] in [0, 1], as large as they are read."""
    found = torch.cat([vae.decode(part)[:, :, 0] for part in latents.split(16)]).float() / 2 + 0.5
    return found if vae.zoom == 1 else F.avg_pool2d(found, vae.zoom)


def note(folder: Path, step: int, found: dict[str, float]) -> None:
    """Write a line down, with those of the steps before."""
    path = folder / FILE
    old = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    lines = [line for line in old if line["step"] < step] + [{"step": step} | found]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
