"""Cut the world's sprites out of NotoColorEmoji.ttf:  python scripts/build_atlas.py NotoColorEmoji.ttf

Writes sora_cli/world/sprites.png: one 128x128 RGBA cell a subject in vocabulary order, eight a row, each
sprite trimmed, centred and scaled to the same longest side; the last cell is a surfboard drawn here.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sora_cli.world.sprites import CELL, COLUMNS, PATH
from sora_cli.world.vocabulary import SUBJECTS

MARGIN = 4


def sprite(font: ImageFont.FreeTypeFont, emoji: str) -> Image.Image:
    big = Image.new("RGBA", (192, 192))
    ImageDraw.Draw(big).text((16, 16), emoji, font=font, embedded_color=True)
    return centred(big)


def centred(image: Image.Image) -> Image.Image:
    """Trim, scale the longest side to the cell less its margins, and centre (premultiplied while scaling)."""
    box = image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    assert box, "an empty glyph: does the font have this emoji?"
    cut = image.crop(box).convert("RGBa")
    scale = (CELL - 2 * MARGIN) / max(cut.size)
    cut = cut.resize((round(cut.width * scale), round(cut.height * scale)), Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(cut.convert("RGBA"), ((CELL - cut.width) // 2, (CELL - cut.height) // 2))
    return cell


def surfboard() -> Image.Image:
    image = Image.new("RGBA", (960, 960))
    draw = ImageDraw.Draw(image)
    draw.ellipse((0, 400, 959, 590), fill="#c8281e")
    draw.ellipse((30, 400, 929, 560), fill="#ffb43c")
    draw.ellipse((110, 425, 849, 535), fill="#ffe696")
    draw.rectangle((180, 468, 780, 490), fill="#e6461e")
    return centred(image)


def main(font_path: str) -> None:
    font = ImageFont.truetype(font_path, 109)
    cells = [*(sprite(font, s.emoji) for s in SUBJECTS.values()), surfboard()]
    atlas = Image.new("RGBA", (COLUMNS * CELL, -(-len(cells) // COLUMNS) * CELL))
    for i, cell in enumerate(cells):
        atlas.paste(cell, (i % COLUMNS * CELL, i // COLUMNS * CELL))
    part = PATH.with_suffix(".part")
    atlas.save(part, format="PNG", optimize=True)
    part.replace(PATH)
    print(f"{len(cells)} sprites, {Path(PATH).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("font", help="NotoColorEmoji.ttf")
    main(options.parse_args().font)
