"""A batch as a whole: what it would take, and a picture of everything in it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import typer

from sora_cli import media
from sora_cli.cli.asking import Item
from sora_cli.cli.batching import in_order
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError, be
from sora_cli.media.contact_sheet import Gallery
from sora_cli.placement.estimate import duration, quantity
from sora_cli.placement.estimate.cost import by_size


@dataclass
class Bill:
    """The total cost of jobs: seconds, bytes on disk, and peak bytes of memory."""

    jobs: int
    made: int  # that take nothing any more
    unknown: int = 0  # encoding and decoding, which nobody estimates
    seconds: float = 0.0
    disk: float = 0.0
    memory: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)  # of the seconds

    def add(self, item: Item, loads: bool) -> None:
        """Add a job, which loads its networks or finds them loaded."""
        if item.job.cost is None:
            self.unknown += 1
            return
        cost = item.job.cost()
        for part, seconds in cost.seconds.items():
            if loads or part != "start":
                self.parts[part] = self.parts.get(part, 0.0) + seconds
        self.seconds = sum(self.parts.values())
        self.disk += sum(cost.disk.values())
        self.memory = max(self.memory, cost.peak)


def show_cost(left: Sequence[Item], total: int, as_json: bool) -> None:
    """Print what the rest of a batch would take."""
    bill, loaded = Bill(total, total - len(left)), None
    for item in in_order(left):
        bill.add(item, loads=item.job.networks != loaded)
        loaded = item.job.networks
    if as_json:
        typer.echo(json.dumps(vars(bill)))
        return
    uncounted = f", {bill.unknown} not counted below" if bill.unknown else ""
    typer.echo(f"jobs    {bill.jobs}, of which {bill.made} {be(bill.made)} already done{uncounted}")
    spent = ", ".join(f"{part} {duration(seconds)}" for part, seconds in by_size(bill.parts))
    typer.echo(f"time    {duration(bill.seconds)}" + (f" ({spent})" if spent else ""))
    typer.echo(f"disk    {quantity(bill.disk, 'B')}")
    typer.echo(f"memory  {quantity(bill.memory, 'B')}, at the most")


def draw(items: Sequence[Item], sheet: Path) -> None:
    """Draw a sheet with the middle frame of every finished video of the list."""
    there = [item for item in items if item.job.target.there and item.job.target.path.suffix != ".safetensors"]
    page = Gallery([item.name for item in there])
    for index, item in enumerate(there):
        page.add(index, middle(item.job.target))
    if there:
        page.save(sheet)


def middle(target: Target) -> Any:
    """The frame in the middle of a video, uint8 [h, w, 3]; a grey one where it cannot be read."""
    grey = np.full((180, 320, 3), 128, np.uint8)
    try:
        with media.open_source(target.name) as source:
            half = (frames_of(target) or source.frames or 1) // 2
            return next(media.to_rgb(islice(source, half, None), source.format, source.format.size), grey)
    except SoraError:
        return grey


def frames_of(target: Target) -> int | None:
    """How many frames the file of a finished video has, as the record beside it says; None if there is none."""
    record = target.recorded
    frames = record.get("written", record).get("frames")
    return frames if isinstance(frames, int) else None
