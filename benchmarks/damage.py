"""How many clips with visible damage are reported: the second table of docs/footage.md.

    python benchmarks/damage.py                 # all kinds, three clips each, about eight minutes
    python benchmarks/damage.py --only H.264

Every clip of 48 frames is overwritten with 16, 64, 512 and 4000 bytes of noise or zeros in its head, middle and tail,
and cut off at three places. `said`: of those whose frames are then others, or fewer, how many are noted or refused.
`alarms`: undamaged clips that are called damaged; there may be none.
"""

import argparse
import random
import re
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

from sora_cli import media
from sora_cli.errors import SoraError

SCENES = ("testsrc2", "mandelbrot", "testsrc2,noise=alls=20:allf=t")
SIZES, PLACES, CUTS = (16, 64, 512, 4000), (0.02, 0.5, 0.93), (0.05, 0.5, 0.9)
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params")
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "18", "-pix_fmt", "yuv420p", "-g", "12")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p")
Words = tuple[str, ...]
KINDS: dict[str, tuple[str, Words, Words]] = {  # the file, how its pictures are encoded, and its sound
    "MPEG-1, MPG": ("a.mpg", ("-c:v", "mpeg1video", "-q:v", "3"), ("-c:a", "mp2")),
    "MPEG-2, VOB": ("a.vob", ("-c:v", "mpeg2video", "-q:v", "3"), ("-c:a", "ac3")),
    "MPEG-2, TS": ("a.ts", ("-c:v", "mpeg2video", "-q:v", "3"), ("-c:a", "ac3")),
    "MPEG-2, M2TS": ("a.m2ts", ("-c:v", "mpeg2video", "-q:v", "3"), ("-c:a", "ac3")),
    "H.264, TS": ("a.ts", H264, ("-c:a", "libmp3lame")),
    "H.264, M2TS": ("a.m2ts", (*H264, "-bf", "2"), ("-c:a", "ac3")),
    "H.264, MP4": ("a.mp4", H264, ("-c:a", "aac")),
    "H.264, MKV": ("a.mkv", (*H264, "-bf", "2"), ("-c:a", "aac")),
    "H.264, FLV": ("a.flv", H264, ("-c:a", "aac")),
    "H.265, TS": ("a.ts", (*X265, "log-level=0:crf=18"), ()),
    "H.265, MP4": ("a.mp4", (*X265, "log-level=0:crf=18"), ()),
    "H.265 with hashes, MP4": ("a.mp4", (*X265, "log-level=0:crf=18:hash=1"), ()),
    "AV1, MP4": ("a.mp4", ("-c:v", "libsvtav1", "-preset", "12", "-crf", "30", "-pix_fmt", "yuv420p"), ()),
    "VP8, WebM": ("a.webm", ("-c:v", "libvpx", "-b:v", "2M", "-deadline", "realtime", "-pix_fmt", "yuv420p"), ()),
    "VP9, WebM": ("a.webm", VP9, ("-c:a", "libopus")),
    "VP9, MKV": ("a.mkv", VP9, ()),
    "MPEG-4, AVI": ("a.avi", ("-c:v", "mpeg4", "-q:v", "3"), ("-c:a", "libmp3lame")),
    "Xvid, AVI": ("a.avi", ("-c:v", "libxvid", "-q:v", "3", "-bf", "2"), ("-c:a", "libmp3lame")),
    "MS MPEG-4 2, AVI": ("a.avi", ("-c:v", "msmpeg4v2", "-q:v", "3"), ()),
    "WMV 1, ASF": ("a.wmv", ("-c:v", "wmv1", "-q:v", "3"), ()),
    "WMV 2, ASF": ("a.wmv", ("-c:v", "wmv2", "-q:v", "3"), ("-c:a", "wmav2")),
    "Theora, Ogg": ("a.ogv", ("-c:v", "libtheora", "-q:v", "8", "-pix_fmt", "yuv420p"), ("-c:a", "libvorbis")),
    "Motion JPEG, AVI": ("a.avi", ("-c:v", "mjpeg", "-q:v", "3"), ("-c:a", "pcm_s16le")),
    "ProRes, MOV": ("a.mov", ("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"), ()),
    "DNxHR, MXF": ("a.mxf", ("-c:v", "dnxhd", "-profile:v", "dnxhr_hq", "-pix_fmt", "yuv422p"), ()),
    "DV, AVI": ("a.avi", ("-c:v", "dvvideo", "-pix_fmt", "yuv420p", "-s", "720x576"), ()),
    "FFV1, MKV": ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "yuv420p"), ()),
    "HuffYUV, AVI": ("a.avi", ("-c:v", "huffyuv", "-pix_fmt", "yuv422p"), ("-c:a", "pcm_s16le")),
    "HuffYUV, MKV": ("a.mkv", ("-c:v", "ffvhuff", "-pix_fmt", "yuv420p"), ()),
    "UT Video, AVI": ("a.avi", ("-c:v", "utvideo", "-pix_fmt", "yuv420p"), ()),
    "uncompressed, AVI": ("a.avi", ("-c:v", "rawvideo", "-pix_fmt", "yuv420p"), ()),
    "GIF": ("a.gif", (), ()),
    "APNG": ("a.apng", ("-plays", "0", "-f", "apng", "-pix_fmt", "rgb24"), ()),
    "WebP": ("a.webp", ("-c:v", "libwebp_anim", "-lossless", "1"), ()),
}  # fmt: skip


def drawn(name: str, scene: str, folder: Path) -> Path:
    file, words, sound = KINDS[name]
    path = folder / file
    source = scene.replace(",", "=s=256x192:r=25,", 1) if "," in scene else f"{scene}=s=256x192:r=25"
    command: list[str | Path] = [media.ffmpeg(), "-v", "error", "-y", "-f", "lavfi", "-i", source]
    if sound:
        command += ["-f", "lavfi", "-i", "sine=440:r=44100:d=2", *sound]
    subprocess.run([*command, "-frames:v", "48", *words, path], check=True, capture_output=True)
    return path


def read(path: Path) -> tuple[list[bytes], bool]:
    """The frames of a clip by their hashes, and whether it is said to be damaged."""
    try:
        with media.open_source(str(path)) as source:
            frames = [sha256(frame).digest() for frame in source]
            return frames, any("damaged" in note for note in source.notes)
    except SoraError:
        return [], True


def overwritten(data: bytes, size: int, place: float, rng: random.Random) -> bytes:
    size = min(size, len(data) // 4)
    at = min(int((place + 0.04 * rng.random()) * len(data)), len(data) - size)
    return data[:at] + rng.choice((bytes(size), rng.randbytes(size))) + data[at + size :]


def row(name: str) -> tuple[str, str, int]:
    """Of the overwritten and of the cut ones, how many say so, and how many alarms there are."""
    counts = {"overwritten": [0, 0], "cut": [0, 0]}
    alarms = 0
    for seed, scene in enumerate(SCENES):
        with tempfile.TemporaryDirectory(prefix="damage-") as folder:
            rng = random.Random(f"{name} {seed}")
            path = drawn(name, scene, Path(folder))
            data = path.read_bytes()
            whole, said = read(path)
            alarms += said
            tries = [("overwritten", overwritten(data, size, place, rng)) for size in SIZES for place in PLACES]
            tries += [("cut", data[: int((place + 0.05 * rng.random()) * len(data))]) for place in CUTS]
            for how, damaged in tries:
                path.write_bytes(damaged)
                frames, said = read(path)
                if frames != whole:
                    counts[how] = [counts[how][0] + said, counts[how][1] + 1]
    found = [f"{said} of {changed}" for said, changed in counts.values()]
    return found[0], found[1], alarms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="kinds whose names start with this")
    only = parser.parse_args().only
    print("| footage | overwritten, said | cut off, said | alarms |\n|---|---|---|---|")
    for name in (name for name in KINDS if re.match(re.escape(only), name)):
        print(f"| {name} | {' | '.join(map(str, row(name)))} |", flush=True)


if __name__ == "__main__":
    main()
