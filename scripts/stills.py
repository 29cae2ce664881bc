"""The two stills of the README: `make demo && python scripts/stills.py demo.mp4`."""

import argparse
from itertools import islice
from pathlib import Path

from PIL import Image

from sora_cli import media

DOCS = Path(__file__).parent.parent / "docs"


def main(video: Path) -> None:
    total = media.probe(video).frames
    wanted = {total // 4: "still-1.png", 3 * total // 4: "still-2.png"}
    with media.open_source(str(video)) as source:
        frames = media.to_rgb(source, source.format, source.format.size)
        for number, frame in enumerate(islice(frames, max(wanted) + 1)):
            if number in wanted:
                Image.fromarray(frame).resize((640, 360), Image.Resampling.LANCZOS).save(DOCS / wanted[number])


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("video", type=Path)
    main(options.parse_args().video)
