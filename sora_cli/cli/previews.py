"""What is shown of a video while it is made: small pictures in the terminal, and a moving one beside the output."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sora_cli import media
from sora_cli.cli.screen import Screen
from sora_cli.errors import Failed
from sora_cli.media.contact_sheet import evenly

if TYPE_CHECKING:
    from sora_cli.generation.engine import Generation

MOST, IN_A_ROW = 32, 8  # pictures in the file, and in the terminal
SHARE = 0.1  # of the time, that previews take at most
FASTEST, SLOWEST = 0.08, 0.25  # seconds that a picture is shown: the pace of the video, or more of it at once


@dataclass
class Previews:
    """Shows pictures of a run after each step; skips steps where previews would cost too much time."""

    path: Path | None
    screen: Screen
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self.began, self.spent = self.clock(), 0.0

    def show(self, run: "Generation") -> None:
        """Show the current pictures; if they cannot be written, warn once and continue without them."""
        now = self.clock()
        if self.spent > SHARE * (now - self.began):
            return
        if pictures := run.preview_frames(MOST):
            self.screen.picture([pictures[n] for n in sorted(evenly(len(pictures), IN_A_ROW))])
            self.write(pictures, run.shot.seconds / min(MOST, run.plan.latents))
        self.spent += self.clock() - now

    def write(self, pictures: list[np.ndarray], seconds: float) -> None:
        if self.path is None:
            return
        try:
            media.write_moving(self.path, pictures, min(SLOWEST, max(FASTEST, seconds)))
        except Failed as error:
            self.screen.warn(f"{error}; the video continues without the preview")
            self.path = None
