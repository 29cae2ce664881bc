"""The two stills of the README: `make demo && python scripts/stills.py demo.mp4`."""

import sys
from itertools import islice
from pathlib import Path

from PIL import Image

from sora_cli.media import probe, read_frames

DOCS = Path(__file__).parent.parent / "docs"


def main(video: Path) -> None:
    total = probe(video).frames
    wanted = {total // 4: "still-1.png", 3 * total // 4: "still-2.png"}
    for number, frame in enumerate(islice(read_frames(video), max(wanted) + 1)):
        if number in wanted:
            Image.fromarray(frame).resize((640, 360), Image.Resampling.LANCZOS).save(DOCS / wanted[number])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
