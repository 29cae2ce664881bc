"""What is footage: which files are pictures and videos by their names, and what nobody put into a folder as such."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from sora_cli.errors import counted

VIDEOS = (
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc",
    ".ivf", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv",
    ".mts", ".mxf", ".nut", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
IMAGES = (
    ".apng", ".avif", ".bmp", ".dib", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
UNREADABLE = (  # here; what they are converted to is for people to choose
    ".arw", ".braw", ".cr2", ".cr3", ".dng", ".exr", ".heic", ".heif", ".hif", ".jxl", ".nef", ".orf", ".psd", ".r3d",
    ".raf", ".rw2", ".svg", ".xcf",
)  # fmt: skip
BINS = (  # folders of systems, in lower case
    "@eadir", "@recycle", "@recently-snapshot", "@tmp", "@__thumb", "#recycle", "#snapshot", "__macosx", "$recycle.bin",
    "recycler", "recycled", "system volume information", "lost+found", "__pycache__", "lost.dir",
)  # fmt: skip
LINK = "linked folder: not followed; give the folder itself"
UNREAD = "cannot be read here"


def ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def is_footage(name: str) -> bool:
    """Whether a file is a picture or a video that can be read, by its name."""
    return ending(name) in VIDEOS + IMAGES


def unread(name: str) -> str:
    """Why a picture or video cannot be read, by its extension; "" for all other files."""
    return f"{ending(name)} {UNREAD}: convert it to .jpg or .mp4" if ending(name) in UNREADABLE else ""


def foreign(name: str) -> str:
    """Why a path below a folder is not footage (hidden, or another program's); "" if it may be."""
    for part in PurePosixPath(name).parts:
        if part.lower() in BINS:
            return f"of another program: {part}"
        if part.startswith("."):
            return f"hidden: {part}"
    return ""


def left_out(reasons: Iterable[str]) -> Iterator[str]:
    """Notes on the files that are left out: one per unreadable extension, and one for all others."""
    counts = Counter(reason.partition(":")[0] for reason in reasons)
    for kind in sorted(kind for kind in counts if kind.endswith(UNREAD)):
        count, them = counts.pop(kind), f"{kind.removesuffix(UNREAD)}file"
        yield f"{counted(count, them)} {UNREAD}; convert {'it' if count == 1 else 'them'} to .jpg or .mp4"
    if counts:
        yield "left out: " + ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def walk(folder: Path, leave_out: Path | None = None) -> Iterator[tuple[str, str]]:
    """Every file below a folder with / between the parts of its name, sorted, and why it is left out ("" if it is not).
    Folders that are links, or cannot be entered, come as files do; `leave_out` does not come at all."""
    found: list[tuple[str, str]] = []

    def below(path: str | Path) -> str:
        return Path(path).relative_to(folder).as_posix()

    def barred(error: OSError) -> None:
        found.append((below(error.filename), f"broken: {(error.strerror or 'unreadable').lower()}"))

    for where, folders, names in os.walk(folder, onerror=barred):
        here = Path(where)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [name for name in folders if leave_out is None or (here / name).resolve() != leave_out.resolve()]
        found += [(below(here / name), foreign(below(here / name)) or LINK) for name in links if name in folders]
        found += [(file, foreign(file)) for file in (below(here / name) for name in names)]
    yield from sorted(found)
