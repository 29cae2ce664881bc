"""The README's contact sheet: `python scripts/contact_sheet.py`, 24 held-out scenes, seeds 0 to 23, none picked.

Four frames in two seconds of each: above as they are made of the scene's caption (`sora-cli generate CAPTION --expand
off --seed N`), below as the scene itself is rendered, which the model has never seen.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont

from sora_cli import registry
from sora_cli.evaluate import clips
from sora_cli.generation.engine import Engine
from sora_cli.world.captions import dense
from sora_cli.world.scene import Scene

OUT = Path(__file__).parent.parent / "docs" / "contact-sheet.png"
SIZE, LABEL, GAP = (160, 96), 16, 4  # of a frame, of the caption below two rows, between
FRAMES = (0, 16, 32, 48)
COLUMNS = 3


def strip(engine: Engine, scene: Scene, seed: int) -> Image.Image:
    """Frames of a clip side by side, those of the scene itself below them, and its caption."""
    made = clips.generated(engine, clips.shot_of(scene, FRAMES[-1] + 1, seed, engine.entry))[list(FRAMES)]
    real = clips.rendered(scene, torch.tensor(FRAMES) / clips.FPS, *made.shape[-2:])
    page = Image.new("RGB", (len(FRAMES) * SIZE[0], 2 * SIZE[1] + LABEL), "white")
    for row, video in enumerate((made, real)):
        for column, frame in enumerate(video):
            page.paste(small(frame), (column * SIZE[0], row * SIZE[1]))
    text = f"{seed}: {dense(scene)}"
    ImageDraw.Draw(page).text((2, 2 * SIZE[1]), text, fill="black", font=ImageFont.load_default(11))
    return page


def small(frame: torch.Tensor) -> Image.Image:
    pixels = rearrange((255 * frame).round().byte(), "c h w -> h w c").numpy()
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(SIZE, Image.Resampling.LANCZOS)


def sheet(strips: Sequence[Image.Image]) -> Image.Image:
    wide, tall = strips[0].width + 2 * GAP, strips[0].height + GAP
    page = Image.new("RGB", (COLUMNS * wide, -(-len(strips) // COLUMNS) * tall), "white")
    for number, one in enumerate(strips):
        page.paste(one, (number % COLUMNS * wide, number // COLUMNS * tall))
    return page


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="pocket")
    options.add_argument("--count", type=int, default=24)
    options.add_argument("-o", "--output", type=Path, default=OUT)
    asked = options.parse_args()
    engine, scenes = Engine(registry.entry(asked.model)), clips.held_out(asked.count, 0)
    strips = [strip(engine, scene, seed) for seed, scene in enumerate(scenes)]
    sheet(strips).quantize(256, dither=Image.Dither.NONE).save(asked.output, optimize=True)


if __name__ == "__main__":
    main()
