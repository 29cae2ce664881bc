"""The frames that a captioner looks at. No torch."""

from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import TypeVar

from sora_cli import media
from sora_cli.media.contact_sheet import evenly
from sora_cli.media.convert import fitted

LONGEST = 60.0  # seconds: a caption is about the first minute of a longer video

Item = TypeVar("Item")


def sample_frames(name: str, fps: float, size: media.Size | None = None, max_side: int = 0,
                  say: Callable[[str], None] | None = None) -> list[media.Frame]:  # fmt: skip
    """Frames of the first minute of a video at a rate, or the one frame of a picture: stretched to `size`, or as large
    as fits into a square of `max_side` pixels. `say` gets the notes of the reader."""
    with media.open_source(name, size, fps) as source:
        if say:
            source.report_to(say)
        shape = size or fitted(source.format, (max_side, max_side), "contain")
        with closing(media.to_rgb(source, source.format, shape)) as frames:  # type: ignore[type-var]
            return list(islice(frames, round(LONGEST * fps)))


def evenly_spaced(items: list[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly from the first to the last."""
    return [items[n] for n in sorted(evenly(len(items), most))]
