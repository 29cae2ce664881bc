"""How well the shots of a dataset are found: ours beside PySceneDetect's, on clips whose transitions are known.

    python benchmarks/cuts.py                 # ours
    python benchmarks/cuts.py --others        # and PySceneDetect (pip install scenedetect opencv-python-headless)
    python benchmarks/cuts.py --seed 1 --clips 4

A clip is three pieces, rendered worlds and ffmpeg's test sources, joined by one kind of transition. Clips that hold
none are a flash, a fast pan, a zoom, a shaking camera and a change of light. All are compressed with H.264. A
transition is found if a cut lies in it, or up to three frames beside it; a cut that lies in none is false.
"""

import argparse
import random
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from rich.console import Console
from rich.table import Table

from sora_cli import media
from sora_cli.dataset import shot_detection
from sora_cli.world.render import render
from sora_cli.world.scene import sample_scene

FPS, WIDTH, HEIGHT = 24, 160, 96
PIECE = 60  # frames between two transitions
NEAR = 3  # frames beside a transition
SOURCES = ("testsrc2=s=160x96:r=24", "mandelbrot=s=160x96:r=24", "life=s=160x96:r=24:mold=10:ratio=0.2",
           "gradients=s=160x96:r=24:speed=0.02:n=4", "cellauto=s=160x96:r=24:rule=110")  # fmt: skip
SECONDS = {"dissolve 0.3 s": 0.3, "dissolve 0.5 s": 0.5, "dissolve 1 s": 1.0, "dissolve 2 s": 2.0}

Frames = np.ndarray  # [T, h, w, 3] of 8 bits
Span = tuple[int, int]  # the first frame of a transition, and the first behind it


@dataclass(frozen=True)
class Clip:
    kind: str
    path: Path
    spans: tuple[Span, ...]


# ---- what is shown ----------------------------------------------------------------------------------------


def pieces(rng: np.random.Generator) -> Iterator[Frames]:
    """Pieces that move, each of another scene."""
    while True:
        if rng.random() < 0.6:
            yield world(int(rng.integers(1 << 30)))
        else:
            start = int(rng.integers(0, 200))
            yield source(SOURCES[int(rng.integers(len(SOURCES)))])[start : start + 3 * PIECE]


def world(seed: int) -> Frames:
    scene = sample_scene(random.Random(seed))
    times = torch.arange(3 * PIECE, dtype=torch.float64)[None] / FPS
    found = render([scene], times, HEIGHT, WIDTH)[0]
    return (rearrange(found, "T C h w -> T h w C") * 255).round().byte().numpy()


@cache
def source(words: str) -> Frames:
    command = [media.ffmpeg(), "-v", "error", "-f", "lavfi", "-i", words, "-frames:v", "400", "-f", "rawvideo"]
    raw = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)


# ---- transitions ------------------------------------------------------------------------------------------


def joined(parts: list[Frames], length: int, mix: Callable[[Frames, Frames, np.ndarray], Frames]
           ) -> tuple[Frames, list[Span]]:  # fmt: skip
    """Parts one after another, each led over to the next in `length` frames."""
    whole, spans = parts[0][:PIECE], []
    for part in parts[1:]:
        tail, position = parts[0][PIECE : PIECE + length], len(whole)
        share = (np.arange(1, length + 1, dtype=np.float32) / (length + 1))[:, None, None, None]
        between = mix(tail, part[:length], share).round().clip(0, 255).astype(np.uint8)
        whole = np.concatenate([whole, between, part[length : length + PIECE]])
        spans.append((position, position + length))
        parts = [part[length:], *parts[1:]]
    return whole, spans


def dissolve(before: Frames, after: Frames, share: np.ndarray) -> Frames:
    return before * (1 - share) + after * share


def through(level: int) -> Callable[[Frames, Frames, np.ndarray], Frames]:
    def mix(before: Frames, after: Frames, share: np.ndarray) -> Frames:
        plain = np.float32(level)
        out, into = np.clip(1 - 2.4 * share, 0, 1), np.clip(2.4 * share - 1.4, 0, 1)
        return plain * (1 - out - into) + before * out + after * into

    return mix


def flash(part: Frames, rng: np.random.Generator) -> Frames:
    part = part[: 2 * PIECE].copy()
    at = int(rng.integers(20, 90))
    part[at : at + int(rng.integers(1, 4))] = 250
    return part


def pan(part: Frames, rng: np.random.Generator) -> Frames:
    """A picture that rushes by: up to an eighth of its width from frame to frame."""
    wide = np.concatenate([part[0], part[0][:, ::-1], part[PIECE], part[PIECE][:, ::-1]], 1)
    speed = int(rng.integers(6, 20))
    return np.stack([np.roll(wide, -speed * t, 1)[:, :WIDTH] for t in range(2 * PIECE)])


def zoom(part: Frames, rng: np.random.Generator) -> Frames:
    from PIL import Image

    found = []
    for t in range(2 * PIECE):
        cut = 36 * t / (2 * PIECE)
        box = cut * 5 / 3, cut, WIDTH - cut * 5 / 3, HEIGHT - cut
        found.append(np.asarray(Image.fromarray(part[t]).resize((WIDTH, HEIGHT), box=box)))
    return np.stack(found)


def shake(part: Frames, rng: np.random.Generator) -> Frames:
    moves = rng.integers(-6, 7, (2 * PIECE, 2))
    return np.stack([np.roll(frame, move, (0, 1)) for frame, move in zip(part, moves, strict=False)])


def light(part: Frames, rng: np.random.Generator) -> Frames:
    """It grows darker, and light again, as where a cloud passes."""
    gain = 0.65 + 0.35 * np.cos(np.arange(2 * PIECE) * 2 * np.pi / (1.6 * PIECE))
    return (part[: 2 * PIECE] * gain[:, None, None, None]).astype(np.uint8)


NONE = {"a flash": flash, "a fast pan": pan, "a zoom": zoom, "a shaking camera": shake, "a cloud": light}


def clips(folder: Path, count: int, seed: int) -> Iterator[Clip]:
    rng = np.random.default_rng(seed)
    coming = pieces(rng)
    for kind in ("cut", *SECONDS, "through black", "through white", *NONE):
        for number in range(count):
            parts = [next(coming) for _ in range(3)]
            if kind in NONE:
                shown, spans = NONE[kind](parts[0], rng), list[Span]()
            elif kind == "cut":
                shown, spans = joined(parts, 0, dissolve)
            elif kind in SECONDS:
                shown, spans = joined(parts, round(SECONDS[kind] * FPS), dissolve)
            else:
                shown, spans = joined(parts, int(rng.integers(12, 36)), through(0 if "black" in kind else 255))
            path = folder / f"{kind.replace(' ', '-')}-{number}.mp4"
            write(path, shown)
            yield Clip(kind, path, tuple(spans))


def write(path: Path, frames: Frames) -> None:
    command = [media.ffmpeg(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}"]
    command += ["-r", str(FPS), "-i", "-", "-c:v", "libx264", "-preset", "veryfast", "-crf", "23"]
    subprocess.run([*command, "-pix_fmt", "yuv420p", path], input=frames.tobytes(), check=True, capture_output=True)


# ---- who finds them ---------------------------------------------------------------------------------------


def ours(path: Path) -> list[int]:
    return [first for first, _ in shot_detection.shots(shot_detection.measure_frames(path, FPS)) if first]


def scenedetect(name: str, **how: object) -> Callable[[Path], list[int]]:
    def find(path: Path) -> list[int]:
        import scenedetect as others  # type: ignore[import-untyped]

        found = others.detect(str(path), getattr(others, name)(**how))
        return [begin.frame_num for begin, _ in found[1:]]

    return find


def both(path: Path) -> list[int]:
    """Hard cuts and fades, as its authors advise to find both."""
    return sorted({*scenedetect("AdaptiveDetector")(path), *scenedetect("ThresholdDetector")(path)})


FINDERS: dict[str, Callable[[Path], list[int]]] = {
    "ours": ours, "Content": scenedetect("ContentDetector"), "Adaptive": scenedetect("AdaptiveDetector"),
    "Adaptive + Threshold": both, "Histogram": scenedetect("HistogramDetector"), "Hash": scenedetect("HashDetector"),
}  # fmt: skip


def score(found: list[int], spans: tuple[Span, ...]) -> tuple[int, int]:
    """How many transitions are found, and how many cuts are false."""
    inside = [any(begin - NEAR <= cut <= end + NEAR for begin, end in spans) for cut in found]
    hit = sum(any(begin - NEAR <= cut <= end + NEAR for cut in found) for begin, end in spans)
    return hit, len(found) - sum(inside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=6, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--others", action="store_true", help="PySceneDetect, too")
    told = parser.parse_args()
    finders = FINDERS if told.others else {"ours": ours}
    hits: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(3, int))  # found, of, false
    with tempfile.TemporaryDirectory() as folder:
        for clip in clips(Path(folder), told.clips, told.seed):
            for name, find in finders.items():
                found, false = score(find(clip.path), clip.spans)
                hits[name, clip.kind] += (found, len(clip.spans), false)
    table = Table("transition", *finders)
    kinds = list(dict.fromkeys(kind for _, kind in hits))
    for kind in kinds:
        cells = (hits[name, kind] for name in finders)
        table.add_row(kind, *(f"{found} of {of}, {false} false" for found, of, false in cells))
    sums = {name: np.sum([hits[name, kind] for kind in kinds], 0) for name in finders}
    table.add_row("precision, recall", *(
        f"{found / max(1, found + false):.2f}, {found / of:.2f}" for found, of, false in sums.values()))  # fmt: skip
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
