"""The measurements, each beside the same on real renders. Everything random follows from the seed.

What a clip shows is judged at the judge's size, 120x72, so that it does not depend on the canvas. How like the scene
itself a clip is, and what the autoencoder leaves of it, is measured at the size that it is painted in.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from sora_cli import registry
from sora_cli.evaluate import clips as shown
from sora_cli.evaluate.clips import FPS, SHORT, covered, rendered, seconds
from sora_cli.generation.engine import Engine
from sora_cli.models.sora import vae as autoencoder
from sora_cli.models.sora.evaluator import Evaluator, Named, classify, from_weights, moments, name, shrink
from sora_cli.world import metrics
from sora_cli.world.metrics import estimate
from sora_cli.world.scene import Scene

SLICES, SLICE = 5, 48                                   # of a long clip: how many, and frames of each
CLIPS_PER_LONG_CLIP = 16
SIZES = ((320, 192), (192, 320), (256, 256), (640, 384))    # pixels at which reconstruction is measured
MOST_RECONSTRUCTED, RECONSTRUCTED_FRAMES = 16, 17
JUDGE = "pocket"                                        # the registered model whose files hold the judge
KINDS = ("subject", "action", "place")                  # of what is judged
TRUSTED = 0.95                                          # of real renders must be named right, or nothing is judged

Track = Callable[[Sequence[Scene], str], Iterable[Scene]]
Estimates = dict[str, dict[str, float]]                 # means by name, with their standard errors


@dataclass(frozen=True)
class Exam:
    """A model in front of its judge; `track` shows progress over scenes."""

    engine: Engine
    vae: autoencoder.Vae
    judge: Evaluator
    seed: int
    track: Track


def evaluate(model: registry.Entry, clips: int, seed: int, device: str) -> dict[str, Any]:
    """Measure a model on `clips` held-out combinations; a JSON-ready dictionary, see `report.table`.

    Progress goes to stderr. SoraError and Failed as from the engine and the weights."""
    judge = from_weights(*registry.load_model_files(registry.entry(JUDGE), "evaluator"))
    vae = autoencoder.from_weights(*registry.load_model_files(model, "vae"))
    scenes = shown.held_out(clips, seed)
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        track: Track = lambda of, what: bar.track(of, description=what)
        exam = Exam(Engine(model, device=device), vae, judge, seed, track)
        return {
            "model": model.name, "clips": clips, "seed": seed,
            "judge": gate(judge, scenes, shown.pairs(clips, seed), track),
            "reconstruction": reconstruction(vae, scenes[:MOST_RECONSTRUCTED], track),
            **steering(exam, scenes),
            "drift": drifting(exam, scenes[: max(1, clips // CLIPS_PER_LONG_CLIP)]),
        }  # fmt: skip


# ---- the judge --------------------------------------------------------------------------------------------


def gate(judge: Evaluator, scenes: Sequence[Scene], pairs: Sequence[Scene], track: Track) -> Estimates:
    """How often the judge is right on real renders; `pairs` counts those of which it names both subjects."""
    alone = adherence([judge_scene(judge, scene) for scene in track(scenes, "judge")], scenes)
    together = adherence([judge_scene(judge, scene) for scene in track(pairs, "judge, pairs")], pairs)
    return {kind: alone[kind] for kind in KINDS} | {"pairs": together["subject"]}


def judge_scene(judge: Evaluator, scene: Scene) -> Named:
    """What the judge makes of the first seconds of a scene as it is."""
    return classify(judge, shrink(rendered(scene, moments()))[None], len(scene.subjects))


def trusted(judged: Estimates) -> frozenset[str]:
    """What the judge is right about on real renders, and may judge."""
    right = {kind for kind, share in judged.items() if share["mean"] >= TRUSTED}
    return frozenset(right | ({"all"} if right.issuperset(KINDS) else set()))


def adherence(named: Sequence[Named], scenes: Sequence[Scene]) -> Estimates:
    """The share of clips that show the asked subjects, action, place, and all of it."""
    return estimates([right(*pair) for pair in zip(named, scenes, strict=True)])


def right(named: Named, scene: Scene) -> dict[str, bool]:
    found = {
        "subject": named.subjects == frozenset(scene.subjects),
        "action": named.action == scene.action,
        "place": named.place == scene.place,
    }
    return found | {"all": all(found.values())}


# ---- the autoencoder --------------------------------------------------------------------------------------


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
    """How much of a scene survives the autoencoder, in all and in the cells of its subject."""
    times = seconds(RECONSTRUCTED_FRAMES)
    again = shown.through(vae, rendered(scene, times, height, width))
    real = rendered(scene, times, *again.shape[-2:])
    inside = metrics.psnr_in(again[None], real[None], covered(scene, times, height, width)[None])
    measures = {"psnr": metrics.psnr, "ssim": metrics.ssim, "flicker": metrics.flicker}
    return {key: measure(again[None], real[None]) for key, measure in measures.items()} | {"subject": inside}


# ---- short clips ------------------------------------------------------------------------------------------


def steering(exam: Exam, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Short clips beside real renders of the same scenes, as they are, and through the VAE, which is the best that any
    latents can do: what the judge names, how much moves, and how like the scene itself they are. The floor of the first
    are shuffled captions, that of the last is the same clip against the scene with another subject."""
    named: dict[str, list[Named]] = {"generated": [], "decoded": [], "real": []}
    motion: dict[str, list[float]] = {"generated": [], "decoded": [], "real": []}
    like: dict[str, list[dict[str, float]]] = {"generated": [], "decoded": [], "another": []}
    for number, scene in enumerate(exam.track(scenes, "adherence")):
        clips = clips_of(exam, scene, number)
        for source, clip in clips.items():
            small = shrink(clip)
            named[source].append(name(exam.judge, small, FPS, count=len(scene.subjects)))
            motion[source].append(metrics.motion(small[None]))
        for source in ("generated", "decoded"):
            like[source].append(alike(clips[source], scene))
        like["another"].append(alike(clips["generated"], shown.another(scene)))
    others = [*scenes[1:], scenes[0]]
    return {
        "adherence": {
            **{source: adherence(found, scenes) for source, found in named.items()},
            "shuffled": adherence(named["generated"], others),
        },
        "motion": {source: sum(values) / len(values) for source, values in motion.items()},
        "alike": {source: estimates(found) for source, found in like.items()},
    }


def clips_of(exam: Exam, scene: Scene, number: int) -> dict[str, Tensor]:
    """A scene as generated from its caption, through the autoencoder, and as it is."""
    real = rendered(scene, seconds(SHORT))
    shot = shown.shot_of(scene, SHORT, exam.seed + number, exam.engine.entry)
    return {"generated": shown.generated(exam.engine, shot), "decoded": shown.through(exam.vae, real), "real": real}


def alike(clip: Tensor, scene: Scene) -> dict[str, float]:
    """How like the scene itself a clip of it is: PSNR (dB) in the cells of the subject and of whole pictures, and how
    sharp the subject is, over how sharp it should be (PSNR alone rewards blur)."""
    times = seconds(len(clip))
    real, cells = rendered(scene, times, *clip.shape[-2:])[None], covered(scene, times)[None]
    return {
        "subject": metrics.psnr_in(clip[None], real, cells),
        "whole": metrics.psnr(clip[None], real),
        "sharpness": metrics.sharpness(clip[None], real, cells),
    }


def estimates(found: Sequence[Mapping[str, float]]) -> Estimates:
    return {key: estimate([one[key] for one in found]) for key in found[0]}


# ---- long clips -------------------------------------------------------------------------------------------


def drifting(exam: Exam, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Long clips in slices: colour drift from the first, whether what is seen stays right, likeness to the scene."""
    found: dict[str, list[dict[str, list[float]]]] = {"generated": [], "real": []}
    length = SLICES * SLICE
    for number, scene in enumerate(exam.track(scenes, "drift")):
        shot = shown.shot_of(scene, length, exam.seed + number, exam.engine.entry)
        made = sliced(shown.pictures(exam.engine, shot))
        real = (rendered(scene, times) for times in seconds(length).split(SLICE))
        found["generated"].append(followed(exam.judge, made, scene))
        found["real"].append(followed(exam.judge, real, scene))
    average = {
        source: {key: torch.tensor([clip[key] for clip in clips]).mean(0).tolist() for key in clips[0]}
        for source, clips in found.items()
    }
    return {"clips": len(scenes), "seconds_per_slice": SLICE / FPS} | average


def sliced(pictures: Iterator[Tensor]) -> Iterator[Tensor]:
    while some := list(islice(pictures, SLICE)):
        yield torch.cat(some)


def followed(judge: Evaluator, slices: Iterable[Tensor], scene: Scene) -> dict[str, list[float]]:
    """A long clip by slice: colour, what the judge names, and PSNR (dB) in the subject's cells to the scene."""
    small, found = [], []
    for number, part in enumerate(slices):
        times = seconds(SLICE) + number * SLICE / FPS
        small.append(shrink(part))
        real, cells = rendered(scene, times, *part.shape[-2:])[None], covered(scene, times)[None]
        seen: dict[str, float] = dict(right(name(judge, small[-1], FPS), scene))
        found.append({kind: float(seen[kind]) for kind in KINDS} | {"like": metrics.psnr_in(part[None], real, cells)})
    colour = metrics.drift(torch.cat(small)[None], len(small))
    return {key: [one[key] for one in found] for key in found[0]} | {"colour": colour}
