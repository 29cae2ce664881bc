"""What of a dataset's captions a text tower never sees."""

import sys
from collections.abc import Sequence

from sora_cli.errors import among, be
from sora_cli.models.sora.text import longer
from sora_cli.train.trainer import distributed


def note_unread(captions: Sequence[str], most: int) -> None:
    """Say on stderr how many captions are longer than the words that are read of one."""
    cut = sum(longer(caption, most) for caption in captions)
    if cut and distributed.is_main():
        cut_off = f"{among(cut, len(captions), 'caption')} {be(cut)}"
        print(f"{cut_off} longer than the {most} words that are read", file=sys.stderr)
