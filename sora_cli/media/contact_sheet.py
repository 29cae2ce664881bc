"""A contact sheet of a video: frames evenly spaced over it with their times, given ones in a border. No torch."""

import math
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sora_cli import media

PAPER, INK, GIVEN = "white", "black", "#d95f02"
BORDER, MARGIN, LABEL = 4, 10, 22        # pixels: around a given frame, between frames, for the time below


class Sheet:
    """Fed every frame of a clip in any order, it keeps the `count` frames it shows, small; `save` writes the page.

    `frames` and `fps` are the clip's, `given` are the numbers of frames that were given and not made.
    """

    def __init__(
        self, frames: int, fps: float, count: int = 12, given: Container[int] = (), columns: int = 4, width: int = 320
    ) -> None:
        self.fps, self.given, self.columns, self.width = fps, given, columns, width
        self.chosen = evenly(frames, count)
        self.kept: dict[int, Image.Image] = {}

    def add(self, index: int, frame: np.ndarray) -> None:
        """Add frame number `index`, uint8 [h, w, 3]; it is kept only if the sheet shows it."""
        if index in self.chosen:
            height = max(1, round(frame.shape[0] * self.width / frame.shape[1]))
            self.kept[index] = Image.fromarray(frame).resize((self.width, height), Image.Resampling.LANCZOS)

    def page(self) -> Image.Image:
        """The frames that came so far, row by row."""
        assert self.kept, "a sheet needs at least one frame"
        across = min(self.columns, len(self.kept))
        down = -(-len(self.kept) // across)
        tallest = max(picture.height for picture in self.kept.values())
        wide, tall = self.width + MARGIN, tallest + LABEL + MARGIN
        page = Image.new("RGB", (MARGIN + across * wide, MARGIN + down * tall), PAPER)
        for position, index in enumerate(sorted(self.kept)):
            self.paste(page, index, MARGIN + position % across * wide, MARGIN + position // across * tall)
        return page

    def paste(self, page: Image.Image, index: int, x: int, y: int) -> None:
        """One frame at (x, y) with its time; a given one has a border and is called so."""
        picture, pen = self.kept[index], ImageDraw.Draw(page)
        given = index in self.given
        page.paste(picture, (x, y))
        if given:
            pen.rectangle((x, y, x + picture.width - 1, y + picture.height - 1), outline=GIVEN, width=BORDER)
        font = ImageFont.load_default(15)
        pen.text((x, y + picture.height + 2), self.label(index), fill=GIVEN if given else INK, font=font)

    def label(self, index: int) -> str:
        """The text below a frame."""
        return f"{index / self.fps:.2f} s{', given' if index in self.given else ''}"

    def save(self, path: Path | str) -> None:
        """The page as a PNG, written whole or not at all; Failed if it cannot be."""
        media.write_image(path, np.asarray(self.page()))


class Gallery(Sheet):
    """A page with one frame of each of many videos and their names, no wider than it is tall."""

    WIDEST = 8000  # pixels

    def __init__(self, names: Sequence[str]) -> None:
        columns = max(1, math.isqrt(len(names)))
        super().__init__(len(names), 1.0, len(names), columns=columns, width=min(320, self.WIDEST // columns))
        self.names = names

    def label(self, index: int) -> str:
        name, most = self.names[index], self.width // 8
        return name if len(name) <= most else f"...{name[3 - most :]}"


def evenly(frames: int, count: int) -> frozenset[int]:
    """At most `count` of range(frames), evenly spaced, with the first and the last among them."""
    return frozenset(np.linspace(0, frames - 1, min(count, frames)).round().astype(int).tolist())
