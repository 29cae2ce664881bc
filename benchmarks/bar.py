"""Every figure that pocket is held to, beside its target: `make evaluate`.

    python benchmarks/bar.py                         # all of it, an hour on two cores
    python benchmarks/bar.py --only speed picture
    python benchmarks/bar.py --clips 8 --json
    python benchmarks/bar.py --write                 # and into README.md and the model card

judge    whether the judge is right on real renders: a kind that it misses in more than one of twenty is judged nowhere
prompts  held-out combinations of subject, action and place, and pairs of subjects, named by the judge; and how like the
         scene itself they are, beside what the autoencoder leaves of it
picture  the autoencoder alone, on held-out scenes at the native size, and on a photograph that is panned over
length   what the judge says of the first and the last five seconds of a minute; joins and loops
steps    Fréchet distance to real renders, in the judge's features, with 4 steps and with 32
speed    20 and 60 s at 1280x720 as commands of their own, beside what the machine could do; the start of a program
"""

import argparse
import json
import subprocess
import sys
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
import torch.nn.functional as F
from measuring import grid, measure, note, parser, show
from PIL import Image
from rich.table import Table

from sora_cli import media, registry
from sora_cli.evaluate import clips
from sora_cli.evaluate import measure as exam
from sora_cli.evaluate.clips import FPS, HEIGHT, SHORT, WIDTH
from sora_cli.generation.engine import Engine
from sora_cli.media.writer import H264
from sora_cli.models.sora import evaluator
from sora_cli.models.sora import vae as autoencoder
from sora_cli.placement.estimate import Model, product_rate
from sora_cli.shot import Shot
from sora_cli.world import metrics
from sora_cli.world.scene import Scene

LONG = 60 * 24
FIRST_LOOKS, LAST_LOOKS = (0.0, 1.5, 3.0), (55.0, 56.5, 57.9)
FEW, MANY = 4, 32
MOST = 64  # clips of the parts that take many of each
ROOT, MARKS = Path(__file__).parent.parent, ("<!-- figures: make evaluate -->", "<!-- end of figures -->")


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured, between what it should be, and what it could be at best."""

    name: str
    value: float | None  # None: the judge may not say
    low: float | None = None
    high: float | None = None
    unit: str = ""
    best: float | None = None  # the same of real renders, or the machine's own limit
    error: float | None = None  # standard error of the value

    @property
    def reached(self) -> bool:
        if self.low is None and self.high is None:
            return True
        low, high = (-np.inf if self.low is None else self.low), (np.inf if self.high is None else self.high)
        return self.value is not None and bool(low <= self.value <= high)

    @property
    def asked(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}{self.unit}"
        ends = ((">=", self.low), ("<=", self.high))
        return "".join(f"{sign} {end:.3g}{self.unit}" for sign, end in ends if end is not None)


@dataclass(frozen=True)
class Bench:
    model: str
    clips: int
    seed: int

    @property
    def engine(self) -> Engine:
        return joins.engine_of(self.model)

    @property
    def candidate(self) -> exam.Exam:
        vae = autoencoder.from_weights(*registry.load_model_files(registry.entry(self.model), "vae"))
        return exam.Exam(self.engine, vae, judge(), self.seed, lambda scenes, _: iter(scenes))

    def shot(self, scene: Scene, number: int, frames: int = SHORT) -> Shot:
        return clips.shot_of(scene, frames, self.seed + number, registry.entry(self.model))


# ---- judge ------------------------------------------------------------------------------------------------


@cache
def judge() -> evaluator.Evaluator:
    return evaluator.from_weights(*registry.load_model_files(registry.entry(exam.JUDGE), "evaluator"))


def glimpsed(engine: Engine, shot: Shot) -> torch.Tensor:
    """A generated video at the judge's size, for those that are long."""
    return torch.cat([evaluator.shrink(picture) for picture in clips.pictures(engine, shot)])


@cache
def judged(bench: Bench) -> exam.Estimates:
    """How often the judge is right on as many real renders as are to be judged."""
    scenes, pairs = clips.held_out(bench.clips, bench.seed), clips.pairs(bench.clips, bench.seed)
    return exam.gate(judge(), scenes, pairs, lambda scenes, _: iter(scenes))


def trial(bench: Bench) -> Iterator[Figure]:
    for kind, share in judged(bench).items():
        yield percent(f"judge on real renders: {kind}", share, low=100 * exam.TRUSTED)


def known(bench: Bench, kind: str) -> bool:
    return kind in exam.trusted(judged(bench))


def percent(name: str, share: dict[str, float], low: float | None = None, best: float | None = None,
            known: bool = True) -> Figure:  # fmt: skip
    value, error = (100 * share[key] if known else None for key in ("mean", "error"))
    return Figure(name, value, low=low, unit=" %", best=best, error=error)


# ---- prompts ----------------------------------------------------------------------------------------------


def prompts(bench: Bench) -> Iterator[Figure]:
    found = exam.steering(bench.candidate, clips.held_out(bench.clips, bench.seed))
    made, real = found["adherence"]["generated"], found["adherence"]["real"]
    for what, target in (("subject", 98), ("action", 95), ("place", 99), ("all", 92)):
        best = 100 * real[what]["mean"]
        yield percent(f"{what} follows the prompt", made[what], target, best, known(bench, what))
    both = exam.steering(bench.candidate, clips.pairs(bench.clips // 2, bench.seed))["adherence"]
    best = 100 * both["real"]["subject"]["mean"]
    yield percent("two subjects", both["generated"]["subject"], 0.85 * best, best, known(bench, "pairs"))
    yield from like_the_scene(found["alike"])


def like_the_scene(alike: dict[str, exam.Estimates]) -> Iterator[Figure]:
    """Generated clips against the scene itself: the ceiling is the autoencoder's, the floor another subject's."""
    made, best, floor = alike["generated"], alike["decoded"], alike["another"]
    for key, what in (("subject", "subject's cells"), ("whole", "whole picture")):
        ceiling = best[key]["mean"]
        yield Figure(f"like the scene itself, {what}", made[key]["mean"], unit=" dB", best=ceiling,
                     low=ceiling - 3 if key == "subject" else None, error=made[key]["error"])  # fmt: skip
    low, sharp = floor["subject"], made["sharpness"]
    yield Figure("the same against another subject's scene", low["mean"], unit=" dB", error=low["error"])
    yield Figure("sharpness of the subject, over the scene's", sharp["mean"], 0.85, 1.1, error=sharp["error"],
                 best=best["sharpness"]["mean"])  # fmt: skip


# ---- picture ----------------------------------------------------------------------------------------------


def picture(bench: Bench) -> Iterator[Figure]:
    vae = autoencoder.from_weights(*registry.load_model_files(registry.entry(bench.model), "vae"))
    scenes = clips.held_out(min(bench.clips, exam.MOST_RECONSTRUCTED), bench.seed)
    rows = [exam.reconstruct(vae, scene, HEIGHT, WIDTH) for scene in scenes]
    yield Figure("VAE on held-out scenes", mean(rows, "psnr"), low=34, unit=" dB")
    yield Figure("VAE on held-out scenes, subject's cells", mean(rows, "subject"), low=27, unit=" dB")
    yield Figure("VAE on held-out scenes, SSIM", mean(rows, "ssim"), low=0.97)
    yield Figure("VAE on a photograph", on_photograph(vae), low=24, unit=" dB")
    yield Figure("flicker of what stands still", flicker_at_rest(vae, scenes), high=0.002)


def mean(rows: Sequence[dict[str, float]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def on_photograph(vae: autoencoder.Vae) -> float:
    """PSNR of a photograph, which an autoencoder that paints larger than it reads has to leave as it is."""
    real = photograph()
    again = F.interpolate(clips.through(vae, real), (HEIGHT, WIDTH), mode="area")
    return metrics.psnr(again[None], real[None])


def photograph() -> torch.Tensor:
    """17 frames [T, 3, H, W] of matplotlib's sample photograph, panned over; it was in no training."""
    from matplotlib import cbook

    with Image.open(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
        whole = torch.from_numpy(np.array(image.convert("RGB").resize((512, 600)))).permute(2, 0, 1) / 255
    corners = [(40 + 2 * t, 60 + 4 * t) for t in range(exam.RECONSTRUCTED_FRAMES)]
    return torch.stack([whole[:, y : y + HEIGHT, x : x + WIDTH] for y, x in corners])


def flicker_at_rest(vae: autoencoder.Vae, scenes: Sequence[Scene]) -> float:
    """Mean change a frame, of 0 to 1, that the autoencoder adds to one frame shown again and again."""
    stills = [clips.rendered(scene, torch.zeros(9)) for scene in scenes]
    return float(np.mean([clips.through(vae, still).diff(dim=0).abs().mean() for still in stills]))


# ---- length -----------------------------------------------------------------------------------------------


def length(bench: Bench) -> Iterator[Figure]:
    long = clips.held_out(max(2, bench.clips // 12), bench.seed + 1)
    videos = [glimpsed(bench.engine, bench.shot(s, i, LONG)) for i, s in enumerate(long)]
    first, last = (looked_at(videos, long, looks) for looks in (FIRST_LOOKS, LAST_LOOKS))
    for what in ("subject", "action"):
        sure = known(bench, what)
        yield percent(f"{what} in the first 5 s of 60", first[what], known=sure)
        lost = 100 * (first[what]["mean"] - last[what]["mean"])
        yield Figure(f"{what} lost by the last 5 s, points", lost if sure else None, high=3)
    for part, name, asked in (("loops", "ours", "seam of loops"), ("extends", "after", "boundary of extend --after"),
                              ("extends", "before", "boundary of extend --before")):  # fmt: skip
        rows = join_rows(part, bench)
        yield Figure(asked, float(np.median([row[name] for row in rows])), high=1.1)


def looked_at(videos: Sequence[torch.Tensor], scenes: Sequence[Scene], looks: Sequence[float]) -> exam.Estimates:
    """How often the judge names what was asked for, looking at these seconds of each video."""
    pairs = [(video, scene, at) for video, scene in zip(videos, scenes, strict=True) for at in looks]
    return exam.adherence([evaluator.name(judge(), video, FPS, at) for video, _, at in pairs],
                          [scene for _, scene, _ in pairs])  # fmt: skip


@cache
def join_rows(part: str, bench: Bench) -> list[dict[str, Any]]:
    frames = 48 if part == "extends" else 96
    plain = bench.shot(clips.held_out(1, 0)[0], 0, frames)
    settings = joins.Bench(replace(plain, width=320, height=180, seed=0), 49)
    scenes = clips.held_out(max(2, min(bench.clips, MOST) // 8), bench.seed)
    return [joins.PARTS[part](settings, scene, number) for number, scene in enumerate(scenes)]


# ---- steps ------------------------------------------------------------------------------------------------


def steps(bench: Bench) -> Iterator[Figure]:
    scenes = clips.held_out(min(bench.clips, MOST), bench.seed + 2)
    real = features(clips.rendered(scene, clips.seconds(SHORT)) for scene in scenes)
    few, many = (
        frechet(features(clips.generated(bench.engine, replace(bench.shot(s, i), steps=n))
                         for i, s in enumerate(scenes)), real)
        for n in (FEW, MANY)
    )  # fmt: skip
    yield Figure(f"Fréchet distance, {MANY} steps", many)
    yield Figure(f"Fréchet distance, {FEW} steps over {MANY}", few / many, high=1.2)


@torch.inference_mode()
def features(videos: Iterator[torch.Tensor]) -> torch.Tensor:
    """The judge's features [N, D] of videos."""
    return torch.cat([judge().features(evaluator.looked_at(evaluator.shrink(video), FPS)) for video in videos])


def frechet(x: torch.Tensor, y: torch.Tensor, dimensions: int = 24) -> float:
    """Fréchet distance of two clouds of features [N, D] as Gaussians (Heusel et al. 2017), in the leading principal
    directions of the second, so that fewer samples than features will do."""
    x, y = x.double(), y.double()
    centre = y.mean(0)
    _, _, directions = torch.linalg.svd(y - centre, full_matrices=False)
    one, other = (((v - centre) @ directions[:dimensions].T) for v in (x, y))
    covariances = [v.T.cov().reshape(v.shape[1], v.shape[1]) for v in (one, other)]
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp_min(0).sqrt().sum()
    apart = (one.mean(0) - other.mean(0)).square().sum()
    return float(apart + sum(c.trace() for c in covariances) - 2 * root)


# ---- speed ------------------------------------------------------------------------------------------------

FIRST_STEP = """
import sys
from sora_cli import registry
from sora_cli.cli import app
from sora_cli.generation.engine import Engine
from sora_cli.shot import Shot
next(Engine(registry.entry(sys.argv[1])).start(Shot("a cat surfing", frames=480, model=sys.argv[1])).denoise())
print("here", flush=True)
"""


def speed(bench: Bench) -> Iterator[Figure]:
    yield Figure("start-up: from import to the first step", start_up(bench.model), high=2, unit=" s")
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "cat.mp4"
        asked = ["generate", "a cat surfing", "--res", "1280x720", "--model", bench.model, "-o", str(video), "--json",
                 "--quiet", "--force"]  # fmt: skip
        minute = measure([*asked, "--seconds", "60"])
        made = measure([*asked, "--seconds", "20"])
        said = json.loads(made.said)
        width, cpu = Model.of(registry.entry(bench.model)).config.width, torch.device("cpu")
        rate = max(product_rate(1920, width, cpu, dtype) for dtype in (torch.float32, torch.bfloat16))
        floor = encode_alone(video, Path(folder))
    yield Figure("20 s at 1280x720", made.wall, high=15, unit=" s")
    yield Figure("60 s at 1280x720", minute.wall, high=36, unit=" s")
    yield Figure("peak memory", max(made.peak, minute.peak) / 1e9, high=1, unit=" GB")
    for stage, seconds in said["timings"].items():
        best = {"dit": said["flops"] / rate, "encode": floor}.get(stage)
        yield Figure(f"of the 20 s: {stage}", seconds, unit=" s", best=best)
    yield Figure("of the 20 s: start-up and the rest", made.wall - sum(said["timings"].values()), unit=" s")


def start_up(model: str) -> float:
    """Seconds from the start of a process to the first step of its solver."""
    begun = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", FIRST_STEP, model], stdout=subprocess.PIPE) as process:
        assert process.stdout
        if not process.stdout.readline():
            raise SystemExit("the first step was not reached")
        return time.perf_counter() - begun


def encode_alone(video: Path, folder: Path) -> float:
    """Seconds that ffmpeg needs by itself for these frames at the size of the canvas, scaled and encoded as here."""
    small, again = folder / "small.y4m", folder / "again.mp4"
    size = f"{clips.CANVAS.crop_width}:{clips.CANVAS.crop_height}"
    run = [media.ffmpeg(), "-v", "error", "-y", "-i"]
    subprocess.run([*run, str(video), "-vf", f"scale={size}", str(small)], check=True)
    begun = time.perf_counter()
    subprocess.run([*run, str(small), "-vf", "scale=1280:720:flags=lanczos", *H264, str(again)], check=True)
    return time.perf_counter() - begun


PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "judge": trial, "prompts": prompts, "picture": picture, "length": length, "steps": steps, "speed": speed,
}  # fmt: skip


COLUMNS = ("", "measured", "target", "reached", "at best")


def cells(f: Figure) -> tuple[str, ...]:
    digits = 0 if f.unit == " %" else 4 if 0 < abs(f.value or 0) < 0.01 else 2
    error = f" ± {f.error:.{digits}f}" if f.error is not None else ""
    value = f"{f.value:.{digits}f}{error}{f.unit}" if f.value is not None else "not judged"
    best = "" if f.best is None else f"{f.best:.{digits}f}{f.unit}"
    return f.name, value, f.asked, ("yes" if f.reached else "NO") if f.asked else "", best


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
    options.add_argument("--clips", type=int, default=200, help="for the prompts; the other parts take shares of it")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--write", action="store_true", help="put the table into README.md and docs/pocket.md")
    asked = options.parse_args()
    bench, figures = Bench(asked.model, asked.clips, asked.seed), list[Figure]()
    for part in asked.only:
        note(f"{part} ...")
        figures += PARTS[part](bench)
        if part == "judge" and not all(figure.reached for figure in figures):
            note("the judge is not right often enough: what it says of those kinds is left out")
    if asked.write:
        write(figures)
    found = [vars(f) | {"reached": f.reached} for f in figures]
    show({"figures": found}, [report(figures)], asked.json)


if __name__ == "__main__":
    main()
