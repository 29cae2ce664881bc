"""What the captioner gets right on held-out combinations: on clips as they are rendered, and on the same as files.

    python benchmarks/captions.py                                 # the shipped captioner
    python benchmarks/captions.py --model ./runs/captioner --clips 128 --json

Files are H.264 at 320x180, three seconds long, read and captioned as `sora-cli caption` does.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from measuring import grid, note, parser, show
from rich.table import Table

from sora_cli import media
from sora_cli.captioning.pocket import Own
from sora_cli.train.recipes.captioner import examine, marks, shares
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, sample_scene

WIDTH, HEIGHT, FPS, SECONDS = 320, 180, 24, 3
TARGETS = {"subject": 0.95, "action": 0.85, "place": 0.95}


def written(scene: Scene, path: Path) -> Path:
    """A clip of a scene as a video file."""
    format = media.Format(WIDTH, HEIGHT, Fraction(FPS), "420mpeg2", tags=("COLORRANGE=LIMITED",))
    frames = render([scene], torch.arange(FPS * SECONDS)[None] / FPS, HEIGHT, WIDTH)[0]
    pixels = rearrange((255 * frames).round().byte(), "t c h w -> t h w c").numpy()
    with media.open_sink(str(path), format) as sink:
        for raw in media.from_rgb(iter(pixels), (WIDTH, HEIGHT), format):
            sink.write(raw)
    return path


def files(own: Own, scenes: list[Scene]) -> tuple[dict[str, float], float]:
    """What is said rightly of scenes as files, and seconds a caption takes."""
    spent = 0.0

    def rows(folder: Path) -> Iterator[dict[str, bool]]:
        nonlocal spent
        for scene in scenes:
            path = written(scene, folder / "clip.mp4")
            begun = time.perf_counter()
            caption = own.caption(own.sample_frames(str(path))).text
            spent += time.perf_counter() - begun
            yield marks(caption, scene)
            path.unlink()

    with tempfile.TemporaryDirectory() as folder:
        return shares(rows(Path(folder))), spent / len(scenes)


def report(found: dict[str, Any]) -> Table:
    table = grid("named correctly on held-out combinations", "", "rendered", "as files", "target")
    for name, share in found["rendered"].items():
        again = f"{found['files'][name]:.1%}" if name in found["files"] else ""
        table.add_row(name, f"{share:.1%}", again, f">= {TARGETS[name]:.0%}" if name in TARGETS else "")
    table.add_row("seconds a file", "", f"{found['seconds']:.2f}", "")
    return table


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clips", type=int, default=512)
    asked = options.parse_args()
    own = Own.load(asked.model, "cpu")
    note("rendered ...")
    rendered, _ = examine(own, asked.clips)
    note("as files ...")
    rng = random.Random(1)
    scenes = [sample_scene(rng, "held-out") for _ in range(max(1, asked.clips // 4))]
    again, seconds = files(own, scenes)
    found = {"clips": asked.clips, "rendered": rendered, "files": again, "seconds": seconds}
    show(found, [report(found)], asked.json)


if __name__ == "__main__":
    main()
