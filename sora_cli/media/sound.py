"""The sound of given pictures: where it lies, and how it gets to where its pictures went.

A video is written without sound, since nobody knows its length before its end. Then its sound is laid beside it: every
stretch of given frames has its own, faded in and out where made frames begin, and there is silence elsewhere.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

from sora_cli.media.probing import parse_listing
from sora_cli.media.process import LOCAL, QUIET, as_file, ffmpeg, finished

FADE = 0.02                      # seconds: what it takes to have no click where sound begins or ends
# samples at a steady rate from the first of the file on; what is missing in between is silence
STEADY = "aresample={rate}:async=1:min_hard_comp=0.01:first_pts=0"
# channels that encoders have an order for; others are mixed into the nearest of these
OPUS = "mono|stereo|3.0|quad|5.0|5.1|6.1|7.1"
AAC = (f"{OPUS}|2.1|3.0(back)|3.1|4.0|4.1|quad(side)|5.0(side)|5.1(side)|5.1.2(back)|6.0|6.0(front)|6.1(back)|"
       "6.1(front)|hexagonal|7.0|7.0(front)|7.1(wide)|7.1(wide-side)|octagonal")  # fmt: skip
# of a file, as ffmpeg lists it; at the clock's own rate, and sound as it is
FIRST_PICTURE = ("-map", "0:V:0", "-frames:v", "1", "-fps_mode", "passthrough", "-enc_time_base", "demux",
                 "-f", "framecrc", "pipe:1")  # fmt: skip
FIRST_SOUND = ("-map", "0:a:0", "-c", "copy", "-frames:a", "1", "-f", "framecrc", "pipe:2")
AUDIO = {**dict.fromkeys((".mp4", ".mov", ".mkv"), ("aac", AAC)), ".webm": ("libopus", OPUS)}


@dataclass(frozen=True)
class Sound:
    """The first sound track of a file. `start`: seconds of the file at which its pictures begin, if that is known."""

    path: str
    rate: int
    start: float | None = None

    @cached_property
    def begins(self) -> float:
        """Where its first picture lies, in seconds of the sound as it comes alone, and before it if that is negative:
        some containers (transport streams) have no beginning but that of the streams that are read."""
        if self.start is not None:
            return self.start
        picture, beside = self.firsts(*FIRST_PICTURE, *FIRST_SOUND)
        return picture + self.firsts(*FIRST_SOUND)[1] - beside

    def firsts(self, *wanted: str) -> tuple[float, float]:
        """When the first picture and the first sound come, where what is wanted is all that is read; 0 if it is not."""
        found = finished([ffmpeg(), *QUIET, "-loglevel", "quiet", *LOCAL, "-i", as_file(self.path), *wanted])
        return first(found.stdout), first(found.stderr)


def first(listing: str) -> float:
    """The first time that framecrc tells, in seconds."""
    tick, frames = parse_listing(listing)
    return float(frames[0].shown * tick) if frames else 0.0


@dataclass(frozen=True)
class Clip:
    """Frames of an output, `count` from number `start` on, that have a source's sound from its first picture on. They
    need not be whole ones where it is shown at another rate than it was made at."""

    sound: Sound
    start: Fraction | int
    count: Fraction | int


@dataclass
class Soundtrack:
    """The sound of an output, which may be added to until its last frame is written; `times` it is repeated."""

    clips: list[Clip] = field(default_factory=list)
    times: int = 1
    notes: list[str] = field(default_factory=list)  # what was wrong with it, after it was laid

    def add(self, sound: Sound | None, start: Fraction | int, count: Fraction | int) -> None:
        if sound and count:
            self.clips.append(Clip(sound, start, count))

    @property
    def frames(self) -> list[list[int]]:
        """First and end of every stretch of one turn."""
        return [[round(clip.start), round(clip.start + clip.count)] for clip in self.clips]

    def words(self, frames: int, fps: Fraction, suffix: str) -> list[str]:
        """ffmpeg's words for this sound beside a file of so many pictures, from its further inputs to its codec."""
        inputs = [word for clip in self.clips for word in (*LOCAL, "-i", as_file(clip.sound.path))]
        graph = self.filters(frames // self.times, fps, suffix)
        return [*inputs, "-filter_complex", graph, "-map", "0:v", "-map", "[out]", "-c:a", AUDIO[suffix][0]]

    def filters(self, frames: int, fps: Fraction, suffix: str) -> str:
        """The graph from the inputs 1, 2, ... to `out`, which is as long as the pictures of one turn, so many times."""
        rate = self.clips[0].sound.rate
        chains = [f"[{n}:a:0]{stretch(clip, frames, fps, rate)}[s{n}]" for n, clip in enumerate(self.clips, 1)]
        mixed = "".join(f"[s{n}]" for n in range(1, len(chains) + 1)) + f"amix={len(chains)}:normalize=0"
        samples = round(frames / fps * rate)
        whole = [mixed, f"apad=whole_len={samples}", f"atrim=end_sample={samples}"]
        whole += [f"aloop={self.times - 1}:{samples}"] * (self.times > 1)
        whole += [f"aformat=channel_layouts={AUDIO[suffix][1]}"]
        return ";".join([*chains, ",".join(whole) + "[out]"])


def stretch(clip: Clip, frames: int, fps: Fraction, rate: int) -> str:
    """The filters that cut one source's sound, fade it where made frames are next to it, and put it in its place."""
    length = float(clip.count / fps)
    short = min(FADE, length / 2)
    begins = clip.sound.begins
    chain = [STEADY.format(rate=rate), f"adelay={max(0, round(-begins * rate))}S:all=1"]
    chain += [f"atrim=start={max(0.0, begins):.6f}:duration={length:.6f}"]
    chain += ["asetpts=PTS-STARTPTS", f"apad=whole_dur={length:.6f}"]
    if clip.start:
        chain.append(f"afade=in:d={short:.6f}")
    if clip.start + clip.count < frames:
        chain.append(f"afade=out:st={length - short:.6f}:d={short:.6f}")
    # adelay loses the times of what it delays where the first samples were cut off
    return ",".join([*chain, f"adelay={round(clip.start / fps * rate)}S:all=1", "asetpts=N/SR/TB"])
