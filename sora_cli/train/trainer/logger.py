"""What a training says of itself: progress on stderr, JSON lines, curves as a picture, and TensorBoard's files."""

import io
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sora_cli.dataset.shards import NUMBER, Kinds, holds, read_lines
from sora_cli.errors import among, be, readable
from sora_cli.files import weights
from sora_cli.models.sora.text import longer
from sora_cli.placement.device import pick_dtype
from sora_cli.placement.estimate.throughput import ROWS, WIDTH, product_rate
from sora_cli.train.options import TrainOptions
from sora_cli.train.trainer import distributed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from sora_cli.train.trainer.config import TrainerConfig

EVERY = 10  # steps a line
COUNTED = ("samples", "tokens", "flops")  # of a batch, if its losses tell them: logged by the second
LINE: Kinds = {"step": NUMBER, "seconds": NUMBER}  # of every line but the first
APART = ("step", "seconds", "speed", "lr", "tokens")  # of a line: not worth a curve


class Log:
    """Progress, and a line every ten steps: means of losses, `speed` in samples a second, `tokens` a second, `mfu`, the
    share of the rate of matrix products that the device was measured to have, and `data_wait`, the share of the time
    that went into waiting for data. Sheets and checkpoints are not counted as time."""

    def __init__(self, options: TrainOptions, config: "TrainerConfig", start: int, batches: int,
                 device: torch.device) -> None:  # fmt: skip
        self.path, self.config, self.batches = options.folder / "log.jsonl", config, batches
        self.device, self.dtype = device, pick_dtype(options.dtype, device)
        self.seconds, self.steps = 0.0, 0
        self.sums: dict[str, float] = defaultdict(float)
        self.board = board(options.folder / "tensorboard", start) if distributed.is_main() else None
        if distributed.is_main():
            self.begin(options, start)
        self.progress = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"),
                                 TimeRemainingColumn(), console=Console(stderr=True),
                                 disable=not distributed.is_main())  # fmt: skip
        self.task = self.progress.add_task(options.folder.name, total=config.steps, completed=start, note="")

    def begin(self, options: TrainOptions, start: int) -> None:
        """A new file, or the old one without the steps that are taken again."""
        header = json.dumps({"options": asdict(options), "recipe": asdict(self.config)}, default=str)
        old = self.lines() if start else []
        kept = [line for line in old if line.get("step", start + 1) <= start]
        self.seconds = kept[-1]["seconds"] if kept else 0.0
        first = [json.dumps(line) for line in old[:1] if "options" in line] or [header]
        weights.write(self.path, "".join(f"{line}\n" for line in (*first, *map(json.dumps, kept))).encode())

    def lines(self) -> list[dict[str, Any]]:
        """What the file says, without what a kill cut or something else damaged."""
        return [line for line in read_lines(self.path) if "options" in line or holds(line, LINE)]

    def add(self, step: int, losses: dict[str, float], took: float, waited: float) -> None:
        """The losses of a step, and how many seconds it took, of which it waited."""
        for name, value in (losses | {"took": took, "waited": waited}).items():
            self.sums[name] += value
        self.steps += 1
        self.progress.update(self.task, completed=step + 1)
        if (step + 1) % EVERY or not distributed.is_main():
            return
        self.seconds += self.sums["took"]
        line = self.line()
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step + 1, "seconds": round(self.seconds, 1)} | line) + "\n")
        self.progress.update(self.task, note=f"loss {line['loss']:.4f}  {line['speed']:.1f} samples/s")
        if self.board:
            for name, value in line.items():
                self.board.add_scalar(name, value, step + 1)
        self.sums, self.steps = defaultdict(float), 0

    def line(self) -> dict[str, float]:
        """What is known of the steps since the last line."""
        took, waited = self.sums.pop("took"), self.sums.pop("waited")
        counts = {name: self.sums.pop(name) * self.batches / took for name in COUNTED if name in self.sums}
        means = {name: round(total / self.steps, 6) for name, total in self.sums.items()}
        nominal = self.config.batch * self.batches * self.steps / took
        found = means | {"speed": round(counts.get("samples", nominal), 2), "data_wait": round(waited / took, 4)}
        if "tokens" in counts:
            found["tokens"] = round(counts["tokens"], 1)
        if "flops" in counts:
            rate = product_rate(ROWS[self.device.type], WIDTH, self.device, self.dtype)
            found["mfu"] = round(counts["flops"] / (rate * distributed.world_size()), 4)
        return found

    def warn(self, text: str) -> None:
        if not distributed.is_main():
            return
        self.progress.console.print(f"[yellow]warning:[/] {escape(readable(text))}", highlight=False, soft_wrap=True)

    def sheet(self, path: Path, step: int) -> None:
        self.plot()
        if self.board:
            from matplotlib.image import imread

            self.board.add_image("samples", imread(path), step, dataformats="HWC")
            self.board.flush()

    def plot(self) -> None:
        """Draw every logged loss over the steps."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        rows = [line for line in self.lines() if "step" in line]
        names = [k for k in rows[-1] if k not in APART] if rows else []
        if not names:
            return
        figure, axes = plt.subplots(len(names), 1, figsize=(8, 2 * len(names)), sharex=True, squeeze=False)
        for axis, name in zip(axes[:, 0], names, strict=True):
            axis.plot([r["step"] for r in rows if name in r], [r[name] for r in rows if name in r])
            axis.set_ylabel(name)
        picture = io.BytesIO()
        figure.savefig(picture)
        plt.close(figure)
        weights.write(self.path.with_name("curves.png"), picture.getvalue())

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.board:
            self.board.close()


def board(folder: Path, start: int) -> "SummaryWriter | None":
    """A writer of TensorBoard's files, where TensorBoard is installed; steps from `start` on are taken again."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)


def note_unread(captions: Sequence[str], most: int) -> None:
    """Say on stderr how many captions are longer than the words that a text tower reads of one."""
    if cut := sum(longer(caption, most) for caption in captions):
        note(f"{among(cut, len(captions), 'caption')} {be(cut)} longer than the {most} words that are read")


def note(text: str) -> None:
    """Say something on stderr, once for all processes."""
    if distributed.is_main():
        print(readable(text), file=sys.stderr)
