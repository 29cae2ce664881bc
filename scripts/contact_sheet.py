"""The README's contact sheet: `python scripts/contact_sheet.py`, 24 held-out prompts, seeds 0 to 23, none picked.

Each row of four frames is two seconds of one prompt, made as `sora-cli generate PROMPT --seed N` makes it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sora_cli import registry
from sora_cli.engine import Engine
from sora_cli.evaluate.measure import held_out
from sora_cli.shot import Shot
from sora_cli.world.scene import Scene

OUT = Path(__file__).parent.parent / "docs" / "contact-sheet.png"
SIZE, LABEL, GAP = (160, 90), 16, 4  # of a frame, of the prompt below a row, between
FRAMES = (0, 16, 32, 48)
COLUMNS = 3


def prompt_of(scene: Scene) -> str:
    """What someone would type."""
    article = "an" if scene.subject[0] in "aeio" else "a"
    return f"{article} {scene.subject} {scene.action}, {scene.place}"


def strip(engine: Engine, prompt: str, seed: int, model: str) -> Image.Image:
    """Four frames of a clip side by side, with its prompt."""
    usage = registry.entry(model).usage
    shot = Shot(prompt, width=1280, height=720, frames=FRAMES[-1] + 1, fps=24.0, seed=seed, steps=usage.steps,
                guidance=usage.guidance, model=model)  # fmt: skip
    run = engine.start(shot)
    for _ in run.denoise():
        pass
    page = Image.new("RGB", (len(FRAMES) * SIZE[0], SIZE[1] + LABEL), "white")
    for number, frame in enumerate(run.frames()):
        if number in FRAMES:
            small = Image.fromarray(np.asarray(frame)).resize(SIZE, Image.Resampling.LANCZOS)
            page.paste(small, (FRAMES.index(number) * SIZE[0], 0))
    ImageDraw.Draw(page).text((2, SIZE[1]), f"{seed}: {prompt}", fill="black", font=ImageFont.load_default(12))
    return page


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
    engine, scenes = Engine(asked.model), held_out(asked.count, 0)
    strips = [strip(engine, prompt_of(scene), seed, asked.model) for seed, scene in enumerate(scenes)]
    sheet(strips).quantize(256, dither=Image.Dither.NONE).save(asked.output, optimize=True)


if __name__ == "__main__":
    main()
