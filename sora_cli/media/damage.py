"""Damage that ffmpeg reads over without a word."""

from pathlib import Path
from typing import BinaryIO

from sora_cli.media.probing import Picture

TS_PACKETS = (188, 192, 204)  # bytes
CUT = "its end is cut off"
GIF_PICTURE, GIF_MORE, GIF_END, GIF_NOTHING = b",", b"!", b";", b"\0"  # how its blocks begin (GIF89a, appendix A)


def unsaid(words: list[str], picture: Picture) -> str:
    """What is wrong with a file beside what ffmpeg says of it; "" for nothing."""
    path = Path(words[-1].removeprefix("file:"))
    if not path.is_file():
        return ""
    if picture.container == "mpegts":
        return CUT if all(path.stat().st_size % n for n in TS_PACKETS) else ""
    if picture.container == "gif":
        with path.open("rb") as file:
            return of_gif(file)
    return ""


def of_gif(file: BinaryIO) -> str:
    """The blocks of a GIF up to its end; ffmpeg passes over what is none."""
    file.seek(10)
    file.seek(2 + colours(file.read(1)), 1)
    while True:
        kind = file.read(1)
        if kind == GIF_END:
            return ""
        if kind == GIF_MORE:
            file.seek(1, 1)
        elif kind == GIF_PICTURE:
            file.seek(8, 1)
            file.seek(colours(file.read(1)) + 1, 1)
        elif kind == GIF_NOTHING:
            continue
        else:
            return CUT if not kind else f"there is no block at byte {file.tell() - 1}"
        while length := file.read(1):
            if length == b"\0":
                break
            file.seek(length[0], 1)


def colours(flags: bytes) -> int:
    """Bytes of the table that a block's flags tell of."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0
