"""Damage that ffmpeg reads over without a word: units of a container that are not where, or not what, they should be.

What is known of a file without decoding it: that each unit (chunk, packet, page) begins where the one before ends, that
none of those that are counted is missing, that checksums hold, and that the last one is whole.
"""

import zlib
from collections.abc import Callable
from os import SEEK_CUR, SEEK_END
from pathlib import Path
from typing import BinaryIO

import numpy as np

CUT = "its end is cut off"
BLOCK = 1 << 20  # bytes that are read at a time
OPEN = (0, 2**32 - 1)  # lengths of a RIFF that nobody knew
MXF_KEY = b"\x06\x0e\x2b\x34"
GIF_PICTURE, GIF_MORE, GIF_END, GIF_NOTHING = b",", b"!", b";", b"\0"  # how its blocks begin (GIF89a, appendix A)
TS_PACKETS = (188, 192, 204)  # bytes
TS_SYNC, TS_STUFFING, TS_TABLES = 0x47, 0x1FFF, 0x20  # first byte; PID of stuffing; PIDs below are of tables
TS_ERROR, TS_START, TS_EXTENDED, TS_PAYLOAD, TS_BREAK = 0x80, 0x40, 0x20, 0x10, 0x80  # bits of a packet's head
LOOK = 200  # packets by which their size is known
PS_END, PS_PACK, PS_ZEROS = 0xB9, 0xBA, 20  # start codes, of which all above have a length; bytes between packets
ASF_FILE, ASF_PACKET = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"), b"\x82"  # the size of packets is told there
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
MATROSKA_SEGMENT, MATROSKA_CRC = bytes.fromhex("18538067"), bytes.fromhex("bf84")  # a checksum of 4 bytes


def unsaid(path: Path, container: str) -> str:
    """Damage in a file's structure that ffmpeg does not report; "" for none."""
    walk = WALKS.get(container)
    if walk is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return walk(file)


def length_of(file: BinaryIO) -> int:
    end = file.seek(0, SEEK_END)
    file.seek(0)
    return end


def missing(unit: str, offset: int) -> str:
    return f"there is no {unit} at byte {offset}"


# ---- units with a name and a length -----------------------------------------------------------------------


def of_avi(file: BinaryIO) -> str:
    """The chunks of an AVI (RIFF); programs that write into a pipe leave lengths open."""
    end, offset = length_of(file), 0
    while (head := at(file, offset, 12))[:4] == b"RIFF":
        length = int.from_bytes(head[4:8], "little")
        if length in OPEN:
            return ""
        if offset + 8 + length > end:
            return CUT
        if wrong := of_chunks(file, offset + 12, offset + 8 + length):
            return wrong
        offset += 8 + length + length % 2
    return ""


def of_chunks(file: BinaryIO, offset: int, end: int) -> str:
    """Those of a RIFF; what is in its lists of pictures comes as if it were beside them."""
    while offset + 8 <= end:
        head = at(file, offset, 12)
        length = int.from_bytes(head[4:8], "little")
        if not all(32 <= letter < 127 for letter in head[:4]) or offset + 8 + length > end:
            return missing("chunk", offset)
        inside = head[:4] == b"LIST" and head[8:] in (b"movi", b"rec ")
        offset += 12 if inside else 8 + length + length % 2
    return ""


def of_mxf(file: BinaryIO) -> str:
    """Keys, lengths and values up to the end of an MXF (SMPTE 377-1); ffmpeg looks for the next key if one is gone."""
    end = length_of(file)
    while key := file.read(16):
        if not key.startswith(MXF_KEY[: len(key)]):
            return missing("key", file.tell() - len(key))
        first = (file.read(1) or b"\x80")[0]
        length = int.from_bytes(file.read(first & 0x7F), "big") if first & 0x80 else first
        if len(key) < 16 or first == 0x80 or file.tell() + length > end:
            return CUT
        file.seek(length, SEEK_CUR)
    return ""


def of_asf(file: BinaryIO) -> str:
    """The objects of an ASF up to that of its packets, which has no length where it was written into a pipe; packets
    all have one length, and usually one first byte."""
    end, offset, begin, name = length_of(file), 0, 0, b""
    while name != ASF_DATA and len(head := at(file, offset, 24)) == 24:
        name, begin, length = head[:16], offset, int.from_bytes(head[16:], "little")
        if begin + length > end:
            return CUT
        if length < 24:
            return ""
        offset += length
    found = at(file, 0, begin).find(ASF_FILE) if name == ASF_DATA else -1
    size = int.from_bytes(at(file, found + 92, 4), "little") if found > 0 else 0
    offsets = range(begin + 50, offset - size + 1, size) if size > 50 else range(0)
    wrong = [offset for offset in offsets if at(file, offset, 1) != ASF_PACKET]
    return missing("packet", wrong[0]) if 0 < len(wrong) < len(offsets) / 2 else ""


def of_matroska(file: BinaryIO) -> str:
    """The elements of a Matroska segment, held against the checksums that begin them (RFC 9559)."""
    end, offset = length_of(file), 0
    while offset < end:
        head = at(file, offset, 12)
        first, second = vint(head), vint(head[vint(head) :])
        begin = offset + first + second
        length = int.from_bytes(head[first : first + second], "big") - (1 << 7 * second)
        if not 1 <= first <= 4 or not second:
            return missing("element", offset)
        if len(head) < first + second:
            return CUT
        if head[:first] == MATROSKA_SEGMENT:
            end, offset = min(end, begin + length), begin
            continue
        if begin + length > end:
            return ""  # nobody knew how long it would be, or ffmpeg says that there is no more
        if length > 6 and at(file, begin, 2) == MATROSKA_CRC:
            stated = int.from_bytes(file.read(4), "little")
            if crc32_of(file, length - 6) != stated:
                return f"a checksum is wrong between the bytes {offset} and {begin + length}"
        offset = begin + length
    return ""


def vint(data: bytes) -> int:
    """How many bytes a number of EBML takes (RFC 8794); 0 for none."""
    return 9 - data[0].bit_length() if data and data[0] else 0


def crc32_of(file: BinaryIO, length: int) -> int:
    found = 0
    while block := file.read(min(length, BLOCK)):
        found, length = zlib.crc32(block, found), length - len(block)
    return found


def at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


# ---- blocks of a GIF --------------------------------------------------------------------------------------


def of_gif(file: BinaryIO) -> str:
    """The blocks of a GIF up to its end; ffmpeg passes over what is none."""
    file.seek(10)
    file.seek(2 + colours(file.read(1)), SEEK_CUR)
    while (kind := file.read(1)) != GIF_END:
        if kind == GIF_MORE:
            file.seek(1, SEEK_CUR)
        elif kind == GIF_PICTURE:
            file.seek(8, SEEK_CUR)
            file.seek(colours(file.read(1)) + 1, SEEK_CUR)
        elif kind == GIF_NOTHING:
            continue
        else:
            return CUT if not kind else missing("block", file.tell() - 1)
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], SEEK_CUR)
    return ""


def colours(flags: bytes) -> int:
    """Bytes of the table that a block's flags tell of."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


# ---- streams ----------------------------------------------------------------------------------------------


def of_program_stream(file: BinaryIO) -> str:
    """The packs and packets of an MPEG program stream (ISO 11172-1 and 13818-1); on a Video CD, zeros follow some."""
    end, offset = length_of(file), 0
    while head := at(file, offset, 14 + PS_ZEROS):
        zeros = len(head) - len(head.lstrip(b"\0")) - 2
        if 0 < zeros <= PS_ZEROS:
            head, offset = head[zeros:], offset + zeros
        head = head[:14]
        code = head[3] if len(head) > 3 else 0
        if not head.startswith(b"\0\0\1"[: len(head)]) or len(head) > 3 and code < PS_END:
            return missing("packet", offset) if offset and not stuffed(file, offset) else ""
        if len(head) < 6:
            return "" if code == PS_END or stuffed(file, offset) else CUT
        if code == PS_END:
            offset += 4
        elif code == PS_PACK:
            offset += 14 + (head[-1] & 7) if head[4] >> 6 == 1 else 12
        elif length := int.from_bytes(head[4:6], "big"):
            offset += 6 + length
        else:
            return ""
        if offset > end:
            return CUT
    return ""


def stuffed(file: BinaryIO, offset: int) -> bool:
    """Whether there is nothing but zeros from here on."""
    file.seek(offset)
    return not any(any(block) for block in iter(lambda: file.read(BLOCK), b""))


def of_ogg(file: BinaryIO) -> str:
    """The pages of an Ogg (RFC 3533): counted, and marked at the end of every stream."""
    end, offset = length_of(file), 0
    counts: dict[bytes, int] = {}
    while head := at(file, offset, 27 + 255):
        if not head.startswith(b"OggS"[: len(head)]):
            return missing("page", offset)
        if len(head) < 27 or len(head) < 27 + head[26]:
            return CUT
        flags, serial, count = head[5], head[14:18], int.from_bytes(head[18:22], "little")
        if not flags & 2 and counts.get(serial, count - 1) != count - 1:
            return f"pages are missing before byte {offset}"
        counts[serial] = count
        if flags & 4:
            del counts[serial]
        offset += 27 + head[26] + sum(head[27 : 27 + head[26]])
        if offset > end:
            return CUT
    return CUT if counts else ""


def of_transport_stream(file: BinaryIO) -> str:
    """The packets of an MPEG transport stream (ISO 13818-1): each begins with its mark, those of each stream are
    counted, and the last ones hold all that they say is to come."""
    offset, size = framing(np.frombuffer(file.read(BLOCK), np.uint8))
    if not size:
        return ""
    if 0 < (length_of(file) - offset) % size < TS_PACKETS[0]:
        return CUT
    counts = Counts()
    while block := at(file, offset, size * (BLOCK // size)):
        packets = np.frombuffer(block + bytes(-len(block) % size), np.uint8).reshape(-1, size)[:, : TS_PACKETS[0]]
        bad = np.flatnonzero((packets[:, 0] != TS_SYNC) | (packets[:, 1] & TS_ERROR > 0))
        if len(bad):
            return missing("packet", offset + size * int(bad[0]))
        if (lost := counts.lost(packets)) is not None:
            return f"packets are missing before byte {offset + size * lost}"
        offset += len(block)
    return CUT if (counts.due > 0).any() else ""


def framing(head: np.ndarray) -> tuple[int, int]:
    """Where the first packet begins, and how many bytes each takes; 0 if there are none."""
    framings = [(offset, size) for size in TS_PACKETS for offset in range(size) if offset + size < len(head)]
    shares = [float((head[offset::size][:LOOK] == TS_SYNC).mean()) for offset, size in framings]
    return framings[int(np.argmax(shares))] if max(shares, default=0) > 0.5 else (0, 0)


class Counts:
    """What is known of every stream of a transport stream, by its PID: the number of its last packet, where that was,
    and how many bytes of what it began are to come."""

    def __init__(self) -> None:
        self.number, self.position, self.due = (np.full(TS_STUFFING, what) for what in (-1, -1, 0))
        self.packets = 0

    def lost(self, packets: np.ndarray) -> int | None:
        """The first of some packets before which others are missing. Where the table of programs and a stream both
        begin at 0, so does a file, behind another."""
        flags = packets[:, 3].astype(int)
        pids = (packets[:, 1] & 0x1F).astype(int) << 8 | packets[:, 2]
        extended = flags & TS_EXTENDED > 0
        sizes = 184 - np.where(extended, 1 + packets[:, 4].astype(int), 0)
        announced = extended & (packets[:, 4] > 0) & (packets[:, 5] & TS_BREAK > 0)
        holds, found = flags & TS_PAYLOAD > 0, []
        begins = np.flatnonzero((pids == 0) & (flags & 15 == 0)) + self.packets
        for pid in np.unique(pids[holds & (pids >= TS_TABLES) & (pids < TS_STUFFING)]).tolist():
            where = np.flatnonzero(holds & (pids == pid))
            numbers = flags[where] & 15
            before = np.r_[self.number[pid] if self.number[pid] >= 0 else numbers[0], numbers[:-1]]
            positions = np.r_[self.position[pid], where + self.packets]
            anew = (numbers == 0) & (np.diff(np.searchsorted(begins, positions)) > 0)
            found += where[((numbers - before) & 15 > 1) & ~announced[where] & ~anew].tolist()
            self.number[pid], self.position[pid] = numbers[-1], positions[-1]
            self.follow(pid, packets[where], sizes[where])
        self.packets += len(packets)
        return min(found, default=None)

    def follow(self, pid: int, packets: np.ndarray, sizes: np.ndarray) -> None:
        """How much of the last elementary packet that began is to come; often nobody says so of pictures."""
        starts = np.flatnonzero(packets[:, 1] & TS_START)
        last = int(starts[-1]) if len(starts) else 0
        if len(starts):
            head = packets[last, TS_PACKETS[0] - max(0, int(sizes[last])) :][:6].tobytes()
            length = int.from_bytes(head[4:], "big") if head.startswith(b"\0\0\1") else 0
            self.due[pid] = 6 + length if length else 0
        self.due[pid] -= sizes[last:].sum()


WALKS: dict[str, Callable[[BinaryIO], str]] = {
    "asf": of_asf,
    "avi": of_avi,
    "gif": of_gif,
    "matroska,webm": of_matroska,
    "mpeg": of_program_stream,
    "mpegts": of_transport_stream,
    "mxf": of_mxf,
    "ogg": of_ogg,
}  # by ffmpeg's names of containers
