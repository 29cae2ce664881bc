"""Which footage every verb reads, and how well: the table of docs/footage.md.

    python benchmarks/footage.py                # all of it, some minutes
    python benchmarks/footage.py --only H.264

A clip is a bar that moves by four pixels a frame, so that a frame's number can be read off it, and a click in the
middle of its sound. `frames`: every one comes once and in order. `verbs`: extend on either side, reverse, loop, encode,
caption, generate with it as an anchor, and data build take it; given frames are those of the clip in the output.
`sound`: how far the click is from where it was drawn. `colours`: matrix, primaries and transfer of the output are those
of the clip. What is said of damaged clips is measured by benchmarks/damage.py.
"""

import argparse
import contextlib
import io
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sora_cli import cli, media
from sora_cli.dataset import scan

STEP, WIDTH, HEIGHT, COUNT = 4, 128, 96, 24
BAR = "geq=lum='if(between(X,4*mod(N,24),4*mod(N,24)+7),235,60)':cb=110:cr=140"
CLICKS = 0.5  # seconds of the pictures, however far a container lays sound and pictures apart
CLICK = f"aevalsrc='if(between(t,{CLICKS},0.53),0.8*sin(2*PI*1000*t),0)':s=48000:d=1"
QUICK = ("--device", "cpu", "--steps", "1")
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", "-pix_fmt", "yuv420p")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=0:crf=12")
HDR = ",setparams=color_primaries=bt2020:color_trc={}:colorspace=bt2020nc"
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")


@dataclass(frozen=True)
class Kind:
    name: str  # of the file
    words: tuple[str, ...]
    rate: str = "24"
    extra: str = ""  # filters
    sound: tuple[str, ...] = ()  # how it is encoded; () for none
    note: str = ""  # what has to be said of it
    exact: bool = True  # whether frames have the numbers that they were drawn with


KINDS: dict[str, Kind] = {
    "H.264, AAC, MP4": Kind("a.mp4", H264, sound=("aac",)),
    "H.264, AAC 5.1, MKV": Kind("a.mkv", (*H264, "-bf", "3"), sound=("aac", "-ac", "6")),
    "H.264, MP3, TS": Kind("a.ts", H264, sound=("libmp3lame",)),
    "H.264, AAC mono, FLV": Kind("a.flv", H264, sound=("aac", "-ac", "1", "-ar", "44100")),
    "H.264, PCM, MOV": Kind("a.mov", H264, sound=("pcm_s16le",)),
    "H.264, 3GP": Kind("a.3gp", H264, sound=("aac",)),
    "H.264, NUT": Kind("a.nut", H264),
    "H.264, raw": Kind("a.h264", H264),
    "H.265, 10 bit, MP4": Kind("a.mp4", (*X265, "-pix_fmt", "yuv420p10le"), sound=("ac3",)),
    "AV1, MP4": Kind("a.mp4", ("-c:v", "libsvtav1", "-preset", "12", "-crf", "20"), extra=",format=yuv420p"),
    "VP8, Vorbis, WebM": Kind("a.webm", ("-c:v", "libvpx", "-b:v", "2M", "-deadline", "realtime"),
                              extra=",format=yuv420p", sound=("libvorbis",)),
    "VP9, Opus, WebM": Kind("a.webm", VP9, extra=",format=yuv420p", sound=("libopus",)),
    "MPEG-1, MP2, MPG": Kind("a.mpg", ("-c:v", "mpeg1video", "-q:v", "2"), "25", sound=("mp2",)),
    "MPEG-2, AC-3, TS": Kind("a.ts", ("-c:v", "mpeg2video", "-q:v", "2"), "25", sound=("ac3",)),
    "MPEG-4, MP3, AVI": Kind("a.avi", ("-c:v", "mpeg4", "-q:v", "2"), sound=("libmp3lame",)),
    "WMV 2, WMA, ASF": Kind("a.wmv", ("-c:v", "wmv2", "-q:v", "2"), sound=("wmav2",)),
    "Sorenson, FLV": Kind("a.flv", ("-c:v", "flv1", "-q:v", "2")),
    "Motion JPEG, 4:2:2, MOV": Kind("a.mov", ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj422p"), sound=("alac",)),
    "ProRes 4:2:2, 10 bit, MOV": Kind("a.mov", ("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"), sound=("pcm_s24le",)),
    "DNxHR, MXF": Kind("a.mxf", ("-c:v", "dnxhd", "-profile:v", "dnxhr_hq", "-pix_fmt", "yuv422p", "-s", "256x192"),
                       "25"),
    "Theora, Vorbis, Ogg": Kind("a.ogv", ("-c:v", "libtheora", "-q:v", "9"), sound=("libvorbis",)),
    "FFV1, 4:4:4, 16 bit, FLAC, MKV": Kind("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "yuv444p16le"), sound=("flac",)),
    "FFV1, RGB, MKV": Kind("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "bgr0")),
    "FFV1, grey, MKV": Kind("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "gray")),
    "UT Video, alpha, AVI": Kind("a.avi", ("-c:v", "utvideo", "-pix_fmt", "gbrap"), note="transparent"),
    "HuffYUV, 4:2:2, AVI": Kind("a.avi", ("-c:v", "huffyuv", "-pix_fmt", "yuv422p"), sound=("pcm_s16le",)),
    "QuickTime Animation, MOV": Kind("a.mov", ("-c:v", "qtrle", "-pix_fmt", "argb"), note="transparent"),
    "GIF": Kind("a.gif", (), "25", note="transparent"),
    "APNG": Kind("a.apng", ("-plays", "0", "-f", "apng", "-pix_fmt", "rgb24")),
    "WebP": Kind("a.webp", ("-c:v", "libwebp_anim", "-lossless", "1"), "25", note="transparent"),
    "4:1:1, y4m": Kind("a.y4m", ("-pix_fmt", "yuv411p")),
    "23.976 a second": Kind("a.mp4", H264, "24000/1001", sound=("aac",)),
    "59.94 a second": Kind("a.mp4", H264, "60000/1001", sound=("aac",)),
    "1 a second": Kind("a.mkv", H264, "1"),
    "a varying rate": Kind("a.mp4", (*H264, "-fps_mode", "vfr"), extra=",select='lt(n,12)+not(mod(n,2))'",
                           note="varies", exact=False),
    "rotated by 180": Kind("a.mp4", H264, note=""),
    "pixels of 2 to 1": Kind("a.mp4", H264, extra=",setsar=2", sound=("aac",)),
    "pixels of 8 to 9": Kind("a.mkv", H264, extra=",setsar=8/9"),
    "interlaced, top first": Kind("a.mp4", (*H264, "-flags", "+ildct+ilme", "-x264-params", "tff=1"), "50",
                                  ",tinterlace=interleave_top,setfield=tff", note="interlaced", exact=False),
    "interlaced, bottom first": Kind("a.ts", ("-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ildct+ilme"), "50",
                                     ",tinterlace=interleave_bottom,setfield=bff", note="interlaced", exact=False),
    "HDR10": Kind("a.mp4", (*X265, "-pix_fmt", "yuv420p10le"), extra=HDR.format("smpte2084"), note="tone-mapped"),
    "HLG": Kind("a.webm", (*VP9, "-pix_fmt", "yuv420p10le"), extra=HDR.format("arib-std-b67"), note="tone-mapped"),
}  # fmt: skip


def drawn(kind: Kind, path: Path) -> Path:
    source = f"color=gray:s={WIDTH}x{HEIGHT}:r={kind.rate},format=yuv444p,{BAR}{kind.extra}"
    words: list[str | Path] = [media.ffmpeg(), "-v", "error", "-y", "-f", "lavfi", "-i", source]
    if kind.sound:
        words += ["-f", "lavfi", "-i", CLICK, "-c:a", *kind.sound, "-strict", "-2"]
    subprocess.run([*words, "-frames:v", str(COUNT), *kind.words, path], check=True, capture_output=True)
    return path


def read(path: Path, **wish: float) -> tuple[media.Format, list[np.ndarray], list[str]]:
    with media.open_source(str(path), **wish) as source:  # type: ignore[arg-type]
        return source.format, list(media.to_rgb(source, source.format, (WIDTH, HEIGHT))), source.notes


def numbers(frames: Sequence[np.ndarray]) -> list[int]:
    """Which frame each is, by where its bar lies."""
    found = []
    for frame in frames:
        row = frame.astype(float).mean((0, 2))
        light = np.clip(row - row.min() - 0.6 * (row.max() - row.min()), 0, None)
        found.append(round((np.average(np.arange(len(row)), weights=light + 1e-9) - 3.5) / STEP))
    return found


def click(path: Path) -> float | None:
    """The second at which a file's sound begins to be heard."""
    words = [media.ffmpeg(), "-v", "error", "-i", str(path), "-map", "0:a:0", "-ac", "1", "-ar", "48000"]
    sound = np.frombuffer(subprocess.run([*words, "-f", "f32le", "-"], capture_output=True).stdout, np.float32)
    loud = np.flatnonzero(np.abs(sound) > 0.1 * max(1e-6, np.abs(sound).max(initial=0)))
    return loud[0] / 48000 if len(loud) else None


def colours(path: Path) -> str:
    with media.open_source(str(path)) as source:
        return f"{source.format.matrix}/{source.format.primaries}/{source.format.transfer}"


def run(*words: object) -> int:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return cli.run([str(word) for word in words])


def by_verbs(path: Path, fps: float) -> tuple[str, str, str]:
    """How many verbs take it, whether its sound is in step, and whether its colours are told."""
    here, (format, shown, _) = path.parent, read(path)
    seen = "x".join(str(side + side % 2) for side in format.seen)
    given, fewest = numbers(shown), max(8, round(0.3 * fps))
    add, out = fewest / fps, here / "x.mp4"
    places: dict[str, Callable[[list[int], int], list[int]]] = {
        "after": lambda all, made: all[: len(given)], "before": lambda all, made: all[made:],
    }  # fmt: skip
    good, late, told = 0, [], []
    heard = None if click(path) is None else CLICKS
    verbs = {"extend": ("after", "--after"), "extend back": ("before", "--before"), "reverse": ("before", "--seconds"),
             "loop": ("after", "--seconds")}  # fmt: skip
    for verb, (side, option) in verbs.items():
        if run(verb.split()[0], path, "a cat", option, add, *QUICK, "--force", "-o", out):
            continue
        found = numbers(read(out)[1])
        good += places[side](found, len(found) - len(given)) == given
        if heard is not None and (now := click(out)) is not None:
            late.append(abs(now - heard - (len(found) - len(given)) / fps * (side == "before")))
        elif heard is not None:
            late.append(9.9)
        told.append(colours(out) == colours(path))
    good += not run("encode", path, "--device", "cpu", "--force", "-o", here / "x.safetensors")
    good += not run("caption", path)
    anchored = ("generate", "a cat", "--anchor", f"{path}@0", "--frames", len(given) + 8, "--fps", fps)
    code = run(*anchored, "--res", seen, *QUICK, "--force", "-o", out)
    good += not code and numbers(read(out)[1])[: len(given)] == given
    clips = here / "clips"
    clips.mkdir()
    path.rename(clips / path.name)
    good += scan.examine(clips, scan.outside(clips, path.name), 120).kind == "video"
    (clips / path.name).rename(path)
    sound = "" if heard is None else f"{max(late, default=9.9) * fps:.1f} frames"
    return f"{good} of 8", sound, "as they were" if all(told) else "other"


def row(name: str) -> list[str]:
    kind = KINDS[name]
    with tempfile.TemporaryDirectory(prefix="footage-") as folder:
        path = Path(folder) / kind.name
        try:
            drawn(kind, path)
        except subprocess.CalledProcessError as error:
            return [name, f"not written here: {error.stderr[-60:].decode(errors='replace')}", "", "", ""]
        if name.startswith("rotated"):
            turned = path.with_name("r.mp4")
            words = [media.ffmpeg(), "-v", "error", "-display_rotation", "180", "-i", str(path), "-c", "copy"]
            subprocess.run([*words, turned], check=True)
            turned.replace(path)
        format, frames, notes = read(path)
        found = numbers(frames)
        due = list(range(COUNT))
        exact = found == due or name.startswith("rotated") and found == [30 - n for n in due] or (
            not kind.exact and len(frames) >= COUNT)  # fmt: skip
        noted = any(kind.note in note for note in notes) if kind.note else not notes
        told = f"{len(frames)}" + ("" if exact else f" ({found})") + ("" if noted else f", notes {notes}")
        return [name, told + (f", with a note ({kind.note})" if kind.note and noted else ""),
                *by_verbs(path, format.fps)]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="kinds whose names start with this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep a line for each kind, and continue from them")
    told = parser.parse_args()
    known = {}
    if told.json and told.json.exists():
        known = {line[0]: line for line in map(json.loads, told.json.read_text().splitlines())}
    print("| footage | frames | verbs | sound off by | colours |\n|---|---|---|---|---|")
    for name in (name for name in KINDS if re.match(re.escape(told.only), name)):
        cells = known.get(name) or row(name)
        if told.json and name not in known:
            with told.json.open("a") as lines:
                lines.write(json.dumps(cells) + "\n")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
