"""Every figure that pocket is held to, beside its target: `make evaluate`.

    python benchmarks/bar.py                         # all of it, about a quarter of an hour on two cores
    python benchmarks/bar.py --only speed picture
    python benchmarks/bar.py --clips 8 --json
    python benchmarks/bar.py --write                 # and into README.md and the model card

prompts  held-out combinations of subject, action and place, and pairs of subjects, named by the judge
picture  the autoencoder alone, on held-out scenes at the native size, and on a photograph that is panned over
length   the judge's subject in the first and the last five seconds of a minute; joins and loops
steps    Fréchet distance to real renders, in the judge's features, with 4 steps and with 32
speed    20 s at 1280x720 as a command of its own, beside what the machine could do
"""

import argparse
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import joins
import numpy as np
import torch
from measuring import grid, measure, note, parser, show
from PIL import Image
from rich.table import Table

from sora_cli import media, registry
from sora_cli.engine import Engine
from sora_cli.estimate import Model, product_rate
from sora_cli.evaluate import measure as exam
from sora_cli.evaluate import metrics, network
from sora_cli.media.writer import H264
from sora_cli.models.sora import vae as autoencoder
from sora_cli.shot import Shot
from sora_cli.world.captions import dense
from sora_cli.world.scene import Scene, sample_scene
from sora_cli.world.vocabulary import SUBJECTS

FPS, SHORT = exam.FPS, exam.SHORT
LONG = 60 * 24
FIRST_LOOKS, LAST_LOOKS = (0.0, 1.5, 3.0), (55.0, 56.5, 57.9)
FEW, MANY = 4, 32
ROOT, MARKS = Path(__file__).parent.parent, ("<!-- figures: make evaluate -->", "<!-- end of figures -->")


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured, what it should be, and what it could be at best."""

    name: str
    value: float
    sign: str  # ">=" or "<=", "" where nothing is asked
    target: float = 0.0
    unit: str = ""
    best: float | None = None  # the same of real renders, or the machine's own limit

    @property
    def reached(self) -> bool:
        return {">=": self.value >= self.target, "<=": self.value <= self.target, "": True}[self.sign]


@dataclass(frozen=True)
class Bench:
    model: str
    clips: int
    seed: int

    @property
    def engine(self) -> Engine:
        return joins.engine_of(self.model)

    @property
    def steps(self) -> int:
        return registry.entry(self.model).usage.steps

    def shot(self, scene: Scene, number: int, frames: int = SHORT) -> Shot:
        usage = registry.entry(self.model).usage
        return Shot(dense(scene), width=exam.WIDTH, height=exam.HEIGHT, frames=frames, fps=FPS,
                    seed=self.seed + number, steps=usage.steps, guidance=usage.guidance, model=self.model)  # fmt: skip


@cache
def judge() -> network.Evaluator:
    return network.from_weights(*registry.load_model_files(exam.JUDGE, "evaluator"))


# ---- prompts ----------------------------------------------------------------------------------------------


def prompts(bench: Bench) -> Iterator[Figure]:
    scenes = exam.held_out(bench.clips, bench.seed)
    named = [network.name(judge(), exam.generated(bench.engine, bench.shot(s, i)), FPS) for i, s in enumerate(scenes)]
    ceiling = [network.name(judge(), exam.real(s, SHORT), FPS) for s in scenes]
    made, real = exam.adherence(named, scenes), exam.adherence(ceiling, scenes)
    for what, target in (("place", 98), ("subject", 95), ("action", 90), ("all", 85)):
        yield Figure(f"{what} follows the prompt", 100 * made[what], ">=", target, " %", 100 * real[what])
    pairs = two_subjects(bench.clips // 2, bench.seed)
    found = [both(exam.generated(bench.engine, bench.shot(s, i)), s) for i, s in enumerate(pairs)]
    best = [both(exam.real(s, SHORT), s) for s in pairs]
    yield Figure("two subjects", 100 * float(np.mean(found)), ">=", 75, " %", 100 * float(np.mean(best)))


def two_subjects(count: int, seed: int) -> list[Scene]:
    """Held-out combinations with a second subject."""
    rng, found = random.Random(f"pairs/{seed}"), list[Scene]()
    while len(found) < count:
        scene = sample_scene(rng, "held-out")
        second = rng.choice([subject for subject in SUBJECTS if subject != scene.subject])
        found.append(Scene(scene.subject, scene.action, scene.place, second=second, seed=scene.seed))
    return found


def both(video: torch.Tensor, scene: Scene) -> bool:
    """Whether the judge, who learned from single subjects, finds the two asked for the likeliest."""
    return network.subjects(judge(), video, FPS, 2) == frozenset(scene.subjects)


# ---- picture ----------------------------------------------------------------------------------------------


def picture(bench: Bench) -> Iterator[Figure]:
    vae = autoencoder.from_weights(*registry.load_model_files(bench.model, "vae"))
    scenes = exam.held_out(min(bench.clips, exam.MOST_RECONSTRUCTED), bench.seed)
    rows = [exam.reconstruct(vae, scene, exam.HEIGHT, exam.WIDTH) for scene in scenes]
    yield Figure("VAE on held-out scenes", mean(rows, "psnr"), ">=", 36, " dB")
    yield Figure("VAE on held-out scenes, SSIM", mean(rows, "ssim"), ">=", 0.97)
    yield Figure("VAE on a photograph", exam.likeness(vae, photograph())["psnr"], ">=", 27, " dB")
    yield Figure("flicker of what stands still", flicker_at_rest(vae, scenes), "<=", 0.002)


def mean(rows: Sequence[dict[str, float]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def photograph() -> torch.Tensor:
    """17 frames [1, T, 3, H, W] of matplotlib's sample photograph, panned over; it was in no training."""
    from matplotlib import cbook

    with Image.open(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
        whole = torch.from_numpy(np.array(image.convert("RGB").resize((512, 600)))).permute(2, 0, 1) / 255
    corners = [(40 + 2 * t, 60 + 4 * t) for t in range(exam.RECONSTRUCTED_FRAMES)]
    return torch.stack([whole[:, y : y + exam.HEIGHT, x : x + exam.WIDTH] for y, x in corners])[None]


def flicker_at_rest(vae: autoencoder.Vae, scenes: Sequence[Scene]) -> float:
    """Mean change a frame, of 0 to 1, that the autoencoder adds to one frame shown again and again."""
    stills = [exam.render([scene], torch.zeros(1, 1), exam.HEIGHT, exam.WIDTH) for scene in scenes]
    return float(np.mean([exam.likeness(vae, still.repeat(1, 9, 1, 1, 1))["flicker"] for still in stills]))


# ---- length -----------------------------------------------------------------------------------------------


def length(bench: Bench) -> Iterator[Figure]:
    long = exam.held_out(max(2, bench.clips // 12), bench.seed + 1)
    videos = [exam.generated(bench.engine, bench.shot(s, i, LONG)) for i, s in enumerate(long)]
    first, last = (subject_at(videos, long, looks) for looks in (FIRST_LOOKS, LAST_LOOKS))
    yield Figure("subject in the first 5 s of 60", first, "", unit=" %")
    yield Figure("subject lost by the last 5 s, points", first - last, "<=", 3)
    for part, name, asked, target in (("loops", "ours", "seam of loops", 1.15),
                                      ("extends", "after", "boundary of extend --after", 1.2),
                                      ("extends", "before", "boundary of extend --before", 1.2)):  # fmt: skip
        rows = join_rows(part, bench)
        yield Figure(asked, float(np.median([row[name] for row in rows])), "<=", target)


def subject_at(videos: Sequence[torch.Tensor], scenes: Sequence[Scene], looks: Sequence[float]) -> float:
    hits = [network.name(judge(), video, FPS, at).subject == scene.subject
            for video, scene in zip(videos, scenes, strict=True) for at in looks]  # fmt: skip
    return 100 * float(np.mean(hits))


@cache
def join_rows(part: str, bench: Bench) -> list[dict[str, Any]]:
    frames = 48 if part == "extends" else 96
    plain = bench.shot(exam.held_out(1, 0)[0], 0, frames)
    settings = joins.Bench(replace(plain, width=320, height=180, seed=0), 49)
    scenes = exam.held_out(max(2, bench.clips // 8), bench.seed)
    return [joins.PARTS[part](settings, scene, number) for number, scene in enumerate(scenes)]


# ---- steps ------------------------------------------------------------------------------------------------


def steps(bench: Bench) -> Iterator[Figure]:
    scenes = exam.held_out(bench.clips, bench.seed + 2)
    real = features(exam.real(scene, SHORT) for scene in scenes)
    few, many = (
        metrics.frechet(features(exam.generated(bench.engine, replace(bench.shot(s, i), steps=n))
                                 for i, s in enumerate(scenes)), real)
        for n in (FEW, MANY)
    )  # fmt: skip
    yield Figure(f"Fréchet distance, {MANY} steps", many, "")
    yield Figure(f"Fréchet distance, {FEW} steps over {MANY}", few / many, "<=", 1.2)


@torch.inference_mode()
def features(videos: Iterator[torch.Tensor]) -> torch.Tensor:
    """The judge's features [N, D] of shrunken videos."""
    return torch.cat([judge().features(network.looked_at(video, FPS)) for video in videos])


# ---- speed ------------------------------------------------------------------------------------------------


def speed(bench: Bench) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "cat.mp4"
        made = measure(["generate", "a cat surfing", "--seconds", "20", "--res", "1280x720", "--model", bench.model,
                        "-o", str(video), "--json", "--quiet"])  # fmt: skip
        said = json.loads(made.said)
        width, cpu = Model.registered(bench.model).config.width, torch.device("cpu")
        rate = max(product_rate(1920, width, cpu, dtype) for dtype in (torch.float32, torch.bfloat16))
        floor = encode_alone(video, Path(folder))
    yield Figure("20 s at 1280x720", made.wall, "<=", 20, " s")
    yield Figure("peak memory", made.peak / 1e9, "<=", 2, " GB")
    for stage, seconds in said["timings"].items():
        best = {"dit": said["flops"] / rate, "encode": floor}.get(stage)
        yield Figure(f"of that: {stage}", seconds, "", unit=" s", best=best)
    yield Figure("of that: start-up and the rest", made.wall - sum(said["timings"].values()), "", unit=" s")


def encode_alone(video: Path, folder: Path) -> float:
    """Seconds that ffmpeg needs by itself for these frames at the size of the canvas, scaled and encoded as here."""
    small, again = folder / "small.y4m", folder / "again.mp4"
    size = f"{exam.CANVAS.crop_width}:{exam.CANVAS.crop_height}"
    run = [media.ffmpeg(), "-v", "error", "-y", "-i"]
    subprocess.run([*run, str(video), "-vf", f"scale={size}", str(small)], check=True)
    begun = time.perf_counter()
    subprocess.run([*run, str(small), "-vf", "scale=1280:720:flags=lanczos", *H264, str(again)], check=True)
    return time.perf_counter() - begun


PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "prompts": prompts, "picture": picture, "length": length, "steps": steps, "speed": speed,
}  # fmt: skip


COLUMNS = ("", "measured", "target", "reached", "at best")


def cells(f: Figure) -> tuple[str, ...]:
    digits = 0 if f.unit == " %" else 4 if 0 < abs(f.value) < 0.01 else 2
    asked = f"{f.sign} {f.target:g}{f.unit}" if f.sign else ""
    best = "" if f.best is None else f"{f.best:.{digits}f}{f.unit}"
    return f.name, f"{f.value:.{digits}f}{f.unit}", asked, ("yes" if f.reached else "NO") if f.sign else "", best


def report(figures: Sequence[Figure]) -> Table:
    table = grid("pocket against its targets", *COLUMNS)
    for figure in figures:
        table.add_row(*cells(figure))
    return table


def write(figures: Sequence[Figure]) -> None:
    """The table in Markdown, between the marks in the README and in the model card."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(cells, figures)]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    for path in (ROOT / "README.md", ROOT / "docs" / "pocket.md"):
        before, mark, rest = path.read_text().partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        assert mark and end, f"{path} lacks {MARKS}"
        path.write_text(f"{before}{mark}\n{text}\n{end}{after}")


def main() -> None:
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options.add_argument("--clips", type=int, default=64, help="for the prompts; the other parts take shares of it")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--write", action="store_true", help="put the table into README.md and docs/pocket.md")
    asked = options.parse_args()
    bench, figures = Bench(asked.model, asked.clips, asked.seed), list[Figure]()
    for part in asked.only:
        note(f"{part} ...")
        figures += PARTS[part](bench)
    if asked.write:
        write(figures)
    found = [vars(f) | {"reached": f.reached} for f in figures]
    show({"figures": found}, [report(figures)], asked.json)


if __name__ == "__main__":
    main()
