"""What is in a dataset, in numbers and as a picture. No torch."""

import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sora_cli import media
from sora_cli.dataset import footage, shards
from sora_cli.dataset.scan import manifest_lines
from sora_cli.dataset.shards import Row
from sora_cli.errors import Failed, SoraError
from sora_cli.media.contact_sheet import INK, MARGIN, PAPER, evenly

SHOWN, COLUMNS, WIDE, LINES = 24, 4, 240, 3      # pictures of a sheet, a row of them, pixels, lines of a caption
KINDS = {"beside ": "beside a clip", "not a caption of ": "not a caption"}  # how reasons begin, and their kinds
LINE, LETTERS = 16, 36                           # pixels and letters of a line


def summary(folder: Path) -> dict[str, Any]:
    """Counts, durations, sizes, lengths, captions, and why files were skipped."""
    header, rows = shards.read_index(folder)
    files = manifest_lines(folder / shards.MANIFEST)
    if {row["file"] for row in rows} - {line["file"] for line in files}:
        raise Failed(f"{folder / shards.MANIFEST} is missing or damaged; {shards.AGAIN}")
    bad = shards.damage(folder, header)
    used = [line for line in files if not line["reason"] and shards.holds(line, {"caption": str})]
    shots = [shot for line in files for shot in line["takes"]]
    words = [len(line["caption"].split()) for line in used]
    return {
        "source": header["source"],
        "files": len(files),
        "used": len(used),
        "videos": sum(line["kind"] == "video" for line in used),
        "images": sum(line["kind"] == "image" for line in used),
        "shots": sum(not shot["reason"] for shot in shots),
        "samples": len(rows),
        "seconds": round(sum(row["end"] - row["begin"] for row in rows), 2),
        "latents": sum(row["shape"][1] for row in rows),
        "bytes": sum((folder / name).stat().st_size for name in {row["shard"] for row in rows} - bad.keys()),
        "damaged": [f"{name} {what}" for name, what in bad.items()],
        "sizes": counted(f"{line['width']}x{line['height']}" for line in used),
        "canvases": counted("x".join(map(str, row["canvas"])) for row in rows),
        "lengths": counted(str(row["shape"][1]) for row in rows),
        "captions": {"none": words.count(0), "different": len({line["caption"] for line in used} - {""}),
                     "words": [min(words, default=0), round(float(np.mean(words or [0])), 1), max(words, default=0)]},
        "skipped": counted(kind_of(line["reason"]) for line in files if line["reason"]),
        "skipped_shots": counted(kind_of(shot["reason"]) for shot in shots if shot["reason"]),
        "vae": header["vae"][:12],
        "text": header["text"][:12],
    }  # fmt: skip


def counted(names: Any) -> dict[str, int]:
    """How often each of them, the most frequent first."""
    return dict(Counter(names).most_common())


def kind_of(reason: str) -> str:
    """A reason without what is particular to one file."""
    before = reason.partition(":")[0]
    return next((kind for start, kind in KINDS.items() if before.startswith(start)), before)


def sheet(folder: Path, path: Path) -> None:
    """Middle frames of up to 24 samples, evenly spaced through the dataset, with their captions, as a PNG."""
    header, rows = shards.read_index(folder)
    if not rows:
        raise SoraError(f"{folder} has no samples to show")
    chosen = [rows[i] for i in sorted(evenly(len(rows), SHOWN))]
    shown = [(small(picture_of(Path(header["source"]), row)), row) for row in chosen]
    tall = max(picture.height for picture, _ in shown) + LINES * LINE + MARGIN
    across = min(COLUMNS, len(shown))
    page = Image.new("RGB", (MARGIN + across * (WIDE + MARGIN), MARGIN + -(-len(shown) // across) * tall), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, (picture, row) in enumerate(shown):
        x, y = MARGIN + number % across * (WIDE + MARGIN), MARGIN + number // across * tall
        page.paste(picture, (x, y))
        for number, line in enumerate(label(row)):
            pen.text((x, y + picture.height + 2 + number * LINE), line, fill=INK, font=font)
    media.write_image(path, np.asarray(page))


def small(frame: media.Frame) -> Image.Image:
    """A picture as wide as its column, or if it is upright, as high as a square."""
    picture = Image.fromarray(frame)
    picture.thumbnail((WIDE, WIDE), Image.Resampling.LANCZOS)
    return picture


def label(row: Row) -> list[str]:
    """Two lines of its caption, and its file with the times."""
    said = textwrap.wrap(row["caption"], LETTERS, max_lines=LINES - 1, placeholder="...") or ["(no caption)"]
    name = Path(row["file"]).name
    times = f" {row['begin']:.1f}-{row['end']:.1f} s" if row["kind"] == "video" else ""
    return [*said, (name if len(name) <= 24 else f"{name[:21]}...") + times]


def picture_of(source: Path, row: Row) -> media.Frame:
    """The frame in the middle of a sample, as it was encoded."""
    path, (width, height) = source / row["file"], row["canvas"]
    if not path.exists():
        raise Failed(f"{path} is missing; `sora-cli data build` on the folder where it is now repairs the dataset")
    first = row["first"] + row["frames"] // 2
    return footage.read(path, row, first, 1, (width, height))[0]
