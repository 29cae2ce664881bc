"""The measurements, each beside the same on real renders. Everything random follows from the seed.

Generated and real clips are compared at the judge's size, 120x72, so that a score does not depend on the
canvas; reconstruction is measured at full size.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from sora_cli import geometry, registry
from sora_cli.engine import Engine
from sora_cli.evaluate import metrics
from sora_cli.evaluate.network import SPAN, Evaluator, Named, from_weights, name, shrink
from sora_cli.models.sora import vae as autoencoder
from sora_cli.shot import Shot
from sora_cli.world.captions import dense
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, sample_scene

FPS = 24.0
CANVAS = geometry.canvas(1280, 720)                     # what pocket makes videos on
WIDTH, HEIGHT = CANVAS.width, CANVAS.height
SHORT, LONG = 49, 241                                   # frames of a clip for adherence, and for drift
SLICES = 5                                              # of a long clip
CLIPS_PER_LONG_CLIP = 16
SIZES = ((320, 192), (192, 320), (256, 256), (640, 384))    # pixels at which reconstruction is measured
MOST_RECONSTRUCTED, RECONSTRUCTED_FRAMES = 16, 17
JUDGE = "pocket"                                        # the registered model whose files hold the judge

Track = Callable[[Sequence[Scene], str], Iterator[Scene]]


@dataclass(frozen=True)
class Exam:
    """A model in front of its judge; `track` shows progress over scenes."""

    model: str
    engine: Engine
    vae: autoencoder.Vae
    judge: Evaluator
    seed: int
    track: Track


def evaluate(model: str, clips: int, seed: int, device: str) -> dict[str, Any]:
    """Measure `model` on `clips` held-out combinations; a JSON-ready dictionary, see `report.table`.

    Progress goes to stderr. SoraError and Failed as from the engine and the weights."""
    judge = from_weights(*registry.load_model_files(JUDGE, "evaluator"))
    vae = autoencoder.from_weights(*registry.load_model_files(model, "vae"))
    scenes = held_out(clips, seed)
    with progress() as bar:
        def track(of: Sequence[Scene], what: str) -> Iterator[Scene]:
            yield from bar.track(of, description=what)

        exam = Exam(model, Engine(model, device=device), vae, judge, seed, track)
        return {
            "model": model, "clips": clips, "seed": seed,
            "reconstruction": reconstruction(vae, scenes[:MOST_RECONSTRUCTED], track),
            **steering(exam, scenes),
            "drift": drifting(exam, scenes[: max(1, clips // CLIPS_PER_LONG_CLIP)]),
        }  # fmt: skip


def progress() -> Progress:
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def held_out(count: int, seed: int) -> list[Scene]:
    """Combinations of subject, action and place that no training saw, asked for as people do: one subject,
    and nothing said about size, speed and camera (large, normal, still)."""
    rng = random.Random(f"evaluate/{seed}")
    drawn = [sample_scene(rng, "held-out") for _ in range(count)]
    return [Scene(scene.subject, scene.action, scene.place, seed=scene.seed) for scene in drawn]


def reconstruction(vae: autoencoder.Vae, scenes: Sequence[Scene], track: Track) -> list[dict[str, Any]]:
    """PSNR (dB), SSIM and flicker of encode -> decode by size, on real clips of 17 frames."""
    rows = []
    for width, height in SIZES:
        what = f"VAE {width}x{height}"
        scores = [reconstruct(vae, scene, height, width) for scene in track(scenes, what)]
        means = {key: sum(score[key] for score in scores) / len(scores) for key in scores[0]}
        rows.append({"size": f"{width}x{height}", "clips": len(scenes)} | means)
    return rows


def reconstruct(vae: autoencoder.Vae, scene: Scene, height: int, width: int) -> dict[str, float]:
    return likeness(vae, render([scene], seconds(RECONSTRUCTED_FRAMES)[None], height, width))


@torch.inference_mode()
def likeness(vae: autoencoder.Vae, real: Tensor) -> dict[str, float]:
    """How much of a video [1, T, 3, H, W] survives the autoencoder."""
    again = through(vae, real)
    measures = {"psnr": metrics.psnr, "ssim": metrics.ssim, "flicker": metrics.flicker}
    return {key: measure(again, real) for key, measure in measures.items()}


def through(vae: autoencoder.Vae, video: Tensor) -> Tensor:
    """Videos [B, 1+4n, 3, H, W] in [0, 1], encoded and decoded."""
    latents = vae.encode(rearrange(video, "b t c h w -> b c t h w") * 2 - 1)
    return rearrange(vae.decode(latents), "b c t h w -> b t c h w").float() / 2 + 0.5


def steering(exam: Exam, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Prompt adherence and motion of short clips, beside real renders of the same scenes: as they are, and
    through the VAE, which is the best that any latents can do."""
    named: dict[str, list[Named]] = {"generated": [], "decoded": [], "real": []}
    motion: dict[str, list[float]] = {"generated": [], "decoded": [], "real": []}
    for i, scene in enumerate(exam.track(scenes, "adherence")):
        for source, video in (*both(exam, scene, SHORT, i), ("decoded", decoded(exam.vae, scene))):
            named[source].append(name(exam.judge, video, FPS))
            motion[source].append(metrics.motion(video[None]))
    others = [*scenes[1:], scenes[0]]
    return {
        "adherence": {
            **{source: adherence(found, scenes) for source, found in named.items()},
            "shuffled": adherence(named["generated"], others),
        },
        "motion": {source: sum(values) / len(values) for source, values in motion.items()},
    }


def adherence(named: Sequence[Named], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of clips that show the asked subject, action, place, and all three."""
    hits = [[n.subject == s.subject, n.action == s.action, n.place == s.place]
            for n, s in zip(named, scenes, strict=True)]  # fmt: skip
    shares = [sum(column) / len(hits) for column in zip(*hits, strict=True)]
    return dict(zip((*Named._fields, "all"), [*shares, sum(map(all, hits)) / len(hits)], strict=True))


def drifting(exam: Exam, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Long clips in slices: colour drift from the first slice, and whether subject and place stay right."""
    found: dict[str, list[dict[str, list[float]]]] = {"generated": [], "real": []}
    for i, scene in enumerate(exam.track(scenes, "drift")):
        for source, video in both(exam, scene, LONG, i):
            colour = {"colour": metrics.drift(video[None], SLICES)}
            found[source].append(colour | staying(exam.judge, video, scene))
    average = {
        source: {key: np.mean([clip[key] for clip in clips], axis=0).tolist() for key in clips[0]}
        for source, clips in found.items()
    }
    return {"clips": len(scenes), "seconds_per_slice": LONG / FPS / SLICES} | average


def staying(judge: Evaluator, video: Tensor, scene: Scene) -> dict[str, list[float]]:
    """By slice: the share of its looks (at its start and at its end) that name the subject, and the place."""
    length = (len(video) - 1) / FPS / SLICES
    looks = [[name(judge, video, FPS, start) for start in (i * length, (i + 1) * length - SPAN)]
             for i in range(SLICES)]  # fmt: skip
    return {
        "subject": [sum(look.subject == scene.subject for look in pair) / 2 for pair in looks],
        "place": [sum(look.place == scene.place for look in pair) / 2 for pair in looks],
    }


def both(exam: Exam, scene: Scene, frames: int, number: int) -> Iterator[tuple[str, Tensor]]:
    """The scene as generated from its caption, and as it is: shrunken videos [T, 3, 72, 120]."""
    shot = Shot(dense(scene), width=WIDTH, height=HEIGHT, frames=frames, fps=FPS, seed=exam.seed + number,
                model=exam.model)  # fmt: skip
    yield "generated", generated(exam.engine, shot)
    yield "real", real(scene, frames)


def generated(engine: Engine, shot: Shot) -> Tensor:
    run = engine.start(shot)
    for _ in run.denoise():
        pass
    return torch.cat([shrink(as_picture(frame)) for frame in run.frames()])


def as_picture(frame: np.ndarray) -> Tensor:
    return rearrange(torch.from_numpy(np.ascontiguousarray(frame)), "h w c -> 1 c h w") / 255


@torch.inference_mode()
def decoded(vae: autoencoder.Vae, scene: Scene) -> Tensor:
    return shrink(through(vae, render([scene], seconds(SHORT)[None], HEIGHT, WIDTH))[0])


@torch.inference_mode()
def real(scene: Scene, frames: int) -> Tensor:
    """A scene as it is, a few frames at a time: shrunken [T, 3, 72, 120]."""
    return torch.cat([shrink(render([scene], part[None], HEIGHT, WIDTH)[0]) for part in seconds(frames).split(48)])


def seconds(frames: int) -> Tensor:
    """The times of the first frames of a clip."""
    return torch.arange(frames) / FPS
