"""Small videos for tests, written by the sinks and read by the sources that the commands use."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np

from sora_cli import media


def format_of(size: media.Size, fps: float = 24.0) -> media.Format:
    return media.Format(*size, Fraction(media.rational(fps)), "420mpeg2", tags=("COLORRANGE=LIMITED",))


def write_frames(path: Path, frames: Iterable[np.ndarray], source_size: media.Size, size: media.Size | None = None,
                 fps: float = 24.0, metadata: Mapping[str, object] | None = None) -> Path:  # fmt: skip
    """RGB frames of `source_size` as a video of `size`."""
    format = format_of(size or source_size, fps)
    with media.open_sink(str(path), format, metadata) as sink:
        for raw in media.from_rgb(frames, source_size, format):
            sink.write(raw)
    return path


def read_frames(path: Path | str) -> list[np.ndarray]:
    """The frames of a video in RGB, uint8 [h, w, 3], at its own size."""
    with media.open_source(str(path)) as source:
        return list(media.to_rgb(source, source.format, source.format.size))
