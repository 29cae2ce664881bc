"""A contact sheet: rows of five frames with their captions, to look at the world."""

import random
import textwrap
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont

from sora_cli import media
from sora_cli.world.captions import dense
from sora_cli.world.render import render
from sora_cli.world.scene import Split, sample_scene

_TEXT = 230


def sheet(path: Path | str, count: int = 16, seed: int = 0, split: Split = "train", height: int = 144,
          width: int = 240, seconds: float = 2.4) -> None:
    """Draw `count` random clips to a PNG at `path`, one a row, five frames spread over `seconds` each; the file appears
    when it is whole."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng, split) for _ in range(count)]
    times = torch.linspace(0, seconds, 5).expand(len(scenes), 5)
    pictures = rearrange(render(scenes, times, height, width), "b t c h w -> (b h) (t w) c")
    page = np.full((pictures.shape[0], pictures.shape[1] + _TEXT, 3), 255, np.uint8)
    page[:, _TEXT:] = (pictures * 255).round().byte().numpy()
    image = Image.fromarray(page)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    for i, scene in enumerate(scenes):
        pen.text((8, i * height + 10), textwrap.fill(dense(scene), 26), fill="black", font=font)
    media.write_image(Path(path), np.asarray(image))
