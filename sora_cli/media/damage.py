"""Damage that ffmpeg reads over without a word."""

from os import SEEK_CUR, SEEK_END
from pathlib import Path
from typing import BinaryIO

from sora_cli.media.probing import Picture

TS_PACKETS = (188, 192, 204)  # bytes
CUT = "its end is cut off"
OPEN = (0, 2**32 - 1)  # lengths of a RIFF that nobody knew
MXF_KEY = b"\x06\x0e\x2b\x34"
GIF_PICTURE, GIF_MORE, GIF_END, GIF_NOTHING = b",", b"!", b";", b"\0"  # how its blocks begin (GIF89a, appendix A)


def unsaid(words: list[str], picture: Picture) -> str:
    """What is wrong with a file beside what ffmpeg says of it; "" for nothing."""
    path = Path(words[-1].removeprefix("file:"))
    if not path.is_file():
        return ""
    if picture.container == "mpegts":
        return CUT if all(path.stat().st_size % n for n in TS_PACKETS) else ""
    look = {"gif": of_gif, "avi": of_riff, "mxf": of_mxf}.get(picture.container)
    if look is None:
        return ""
    with path.open("rb") as file:
        return look(file)


def of_riff(file: BinaryIO) -> str:
    """The chunks of an AVI up to its end; programs that write into a pipe leave their lengths open."""
    end = file.seek(0, SEEK_END)
    file.seek(0)
    while (head := file.read(8))[:4] == b"RIFF":
        length = int.from_bytes(head[4:], "little")
        if length in OPEN:
            return ""
        if file.seek(length + length % 2, SEEK_CUR) > end + 1:
            return CUT
    return ""


def of_mxf(file: BinaryIO) -> str:
    """Keys, lengths and values up to the end of an MXF (SMPTE 377-1); ffmpeg looks for the next key if one is gone."""
    end = file.seek(0, SEEK_END)
    file.seek(0)
    while key := file.read(16):
        if not key.startswith(MXF_KEY[: len(key)]):
            return f"there is no key at byte {file.tell() - len(key)}"
        first = (file.read(1) or b"\x80")[0]
        length = int.from_bytes(file.read(first & 0x7F), "big") if first & 0x80 else first
        if len(key) < 16 or first == 0x80 or file.tell() + length > end:
            return CUT
        file.seek(length, SEEK_CUR)
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
