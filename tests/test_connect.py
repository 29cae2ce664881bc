"""Where known frames lie around a connector, for any numbers of them."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sora_cli import geometry, media, registry
from sora_cli.cli.connect import Connector, context_of, whole
from sora_cli.cli.inputs import SidecarLatents
from sora_cli.generation.engine import GivenClip
from sora_cli.shot import Shot
from sora_cli.storage import latent_file
from sora_cli.storage.latent_file import Header

COUNTS = st.integers(0, 20)


class Planned(Connector):
    """One whose pictures are numbers."""

    def __init__(self) -> None:
        engine: Any = SimpleNamespace(entry=registry.entry("pocket"), start=lambda shot, known, span: (known, span))
        super().__init__(engine, media.Format(64, 64, Fraction(24)), None)  # type: ignore[arg-type]

    def pictures(self, raw: Any, shot: Shot, bars: Any) -> np.ndarray:
        return np.array(raw)


def planned(tail: int, head: int, frames: int, kept: GivenClip | None = None) -> tuple[list[GivenClip], geometry.Span]:
    """Known frames are numbered as they would be in the video: ..., -2, -1 and frames, frames + 1, ..."""
    raw: Any = list(range(-tail, 0)), list(range(frames, frames + head))
    planned: Any = Planned().run(Shot("", width=64, height=64, frames=frames), *raw, kept)
    return planned


@given(COUNTS, st.integers(0, 8))
def test_whole_chunks_of_the_context(frames: int, chunks: int) -> None:
    most = 1 + 4 * chunks
    assert whole(frames, most) == max((n for n in range(1, most + 1, 4) if n <= frames), default=0)


def test_the_context_is_the_models() -> None:
    assert tuple(context_of(registry.entry(name)) for name in ("pocket", "skyreels2-1.3b")) == (13, 17)


@given(COUNTS, COUNTS, st.integers(1, 60), st.booleans())
def test_known_frames_lie_where_they_are(tail: int, head: int, frames: int, loop: bool) -> None:
    if tail and head:  # a connector between two clips has this length
        frames = frames // 4 * 4 + 3
    known, span = planned(tail, head, frames)
    assert span.frames == frames and len(known) == bool(tail) + bool(head)
    for piece in known:
        assert piece.images is not None
        numbers = piece.images.tolist()
        assert numbers == list(range(piece.at, piece.at + len(numbers))), "not where they belong"
        assert len(numbers) % 4 == 1 and not set(numbers) & set(range(frames))
        first, count = geometry.key_frames(span.lead + piece.at, len(numbers))
        assert first * 4 == span.lead + piece.at, "does not begin with a key frame"
        assert geometry.frames_in(count) == len(numbers), "is not encoded as a whole"
        assert first >= 0 and first + count <= span.latents
    if tail:
        assert known[0].images is not None and known[0].images[-1] == -1 and span.lead >= 1
    if head:
        assert known[-1].images is not None and known[-1].at == frames


@given(st.integers(2, 4), st.integers(0, 3), st.integers(1, 60))
def test_kept_latents_lie_where_they_are(latents: int, hidden: int, frames: int) -> None:
    """The last shown frame of the kept ones, which decode to 1 + 4n with `hidden` behind it, is the one before."""
    header = Header("pocket", "0" * 64, 64, 64, 24, geometry.frames_in(latents) - hidden)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_file, "load", lambda path, first: (torch.zeros(6, latents - first, 4, 4), header))
        kept = SidecarLatents(Path("kept.safetensors"), header, latents).end()
    known, span = planned(9, 0, frames, kept)
    (piece,) = known
    assert piece.latents is not None and span.lead + piece.at == 0
    assert span.lead + hidden == geometry.frames_in(latents) and span.lead >= 1
    assert geometry.frames_in(span.latents) >= span.lead + frames > geometry.frames_in(span.latents - 1)
