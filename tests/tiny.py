"""A command line on tiny random weights, for tests and for the processes that they kill; and raw clips."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

import numpy as np
from test_engine import tiny_part

from sora_cli import geometry, media, registry
from sora_cli.media import y4m

QUICK = ("--steps", "1", "--guidance", "1", "--device", "cpu")
CANVAS = partial(geometry.canvas, tokens=4)  # 64x64 where it is square
random_part = cache(partial(tiny_part, "tiny"))


def install(replace: Callable[[object, str, object], None]) -> None:
    """Have `sora-cli` run on tiny models and canvases, four latents a window; `replace` is setattr or undoes it."""
    replace(registry, "load_model_files", lambda model, stem: random_part(stem))
    replace(registry, "verify", lambda model: None)
    replace(geometry, "canvas", CANVAS)
    pocket = registry.entry("pocket")
    small = dataclasses.replace(pocket, usage=dataclasses.replace(pocket.usage, window=4, context=2))
    replace(registry, "registry", lambda: {"pocket": small})


def y4m_format(width: int = 64, height: int = 64, fps: float = 24.0, chroma: str = "420mpeg2") -> media.Format:
    return media.Format(width, height, Fraction(media.rational(fps)), chroma)


def noise(format: media.Format, count: int, seed: int = 0) -> list[bytes]:
    """Raw frames of random samples, 8 bits deep."""
    samples = np.random.default_rng(seed).integers(16, 236, (count, format.frame_bytes), np.uint8)
    return [frame.tobytes() for frame in samples]


def write(name: Path | str, format: media.Format, frames: list[bytes], tags: dict[str, object] | None = None) -> str:
    """A file of raw frames, by the ending of its name."""
    with media.open_sink(str(name), format, tags or {}) as sink:
        for raw in frames:
            sink.write(raw)
    return str(name)


def read(name: Path | str) -> tuple[media.Format, list[bytes]]:
    with media.open_source(str(name)) as source:
        return source.format, list(source)


def stream(format: media.Format, frames: list[bytes]) -> bytes:
    return b"".join(y4m.stream(frames, format))


def everything(folder: Path | str = ".") -> list[str]:
    """All files and folders, however deep."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def kept(*names: str) -> list[str]:
    """Finished videos with what lies beside them: a record, and latents."""
    beside = (str(Path(name).with_suffix(suffix)) for name in names for suffix in (".json", ".safetensors"))
    return sorted([*names, *beside])
