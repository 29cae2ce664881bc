"""Small pictures in the terminal: two pixels a character, `▀` in the upper one's colour on the lower one's."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

HALF = "▀"

Line = list[Segment]


class Row:
    """A rich renderable: pictures of one size, uint8 [h, w, 3], side by side with a column between them.

    They take at most the width of the terminal and half of its height. Where colours or half blocks cannot
    be shown, nothing is.
    """

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self.pictures = list(pictures)
        self.drawn: dict[tuple[int, int], list[Line]] = {}       # by room: drawn once, shown many times

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width, min(12, console.height // 2)  # what is drawn four times a second must be cheap
        if not self.pictures or min(room) < 1 or not shows_pictures(console):
            return
        if room not in self.drawn:
            self.drawn = {room: self.draw(*room)}
        for line in self.drawn[room]:
            yield from line
            yield Segment.line()

    def draw(self, columns: int, lines: int) -> list[Line]:
        """The lines of text for the first pictures, as many as fit."""
        widest = max(1, (columns + 1) // len(self.pictures) - 1)
        shown = self.pictures[: (columns + 1) // (widest + 1)]
        blocks = (half_blocks(fitted(picture, widest, lines)) for picture in shown)
        return [beside(parts) for parts in zip(*blocks, strict=True)]


def shows_pictures(console: Console) -> bool:
    """A terminal with enough colours, no NO_COLOR, and an encoding that has half blocks."""
    colours = console.is_terminal and console.color_system in ("256", "truecolor") and not console.no_color
    return colours and not console.options.ascii_only


def fitted(picture: np.ndarray, columns: int, lines: int) -> np.ndarray:
    """uint8 [h, w, 3] scaled to fit characters of 1 x 2 pixels; as many rows as whole lines have."""
    height, width, _ = picture.shape
    scale = min(columns / width, 2 * lines / height)
    size = max(1, round(width * scale)), 2 * max(1, round(height * scale / 2))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def half_blocks(pixels: np.ndarray) -> list[Line]:
    """Pixels [2n, w, 3] -> n lines of w characters."""
    return [
        [Segment(HALF, Style(color=Color.from_rgb(*top), bgcolor=Color.from_rgb(*bottom)))
         for top, bottom in zip(upper, lower, strict=True)]
        for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True)
    ]  # fmt: skip


def beside(parts: Sequence[Line]) -> Line:
    """Lines next to one another, with a space between them."""
    first, *others = parts
    return [*first, *(segment for part in others for segment in (Segment(" "), *part))]
