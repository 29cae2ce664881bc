"""A video on its way to a file or a pipe: windows kept as they are made, frames watched as they are written,
and what there is to know about it in a record beside it. No torch until a run is handed in."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora_cli import media
from sora_cli.cli.outputs import check_output
from sora_cli.cli.screen import Screen
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.files.owned import LOCK, Owned, differences
from sora_cli.media.contact_sheet import Sheet
from sora_cli.media.names import sequence_of
from sora_cli.media.seams import Drift, verdict
from sora_cli.plurals import counted
from sora_cli.shot import Shot, check_text
from sora_cli.storage import latent_file

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sora_cli.generation.engine import Generation


IMAGES = (".png", ".gif", ".webp", ".apng")


@dataclass(frozen=True)
class Target:
    """Where a video goes (`-` is standard output) and what is kept beside it."""

    name: str
    force: bool = False
    resume: bool = False
    metadata: bool = True
    sheet: Path | None = None
    as_json: bool = False
    audio: bool = True
    lossless: bool = False
    sized: bool = False  # whether its size was asked for, ...
    timed: bool = False  # ... and its rate, so that a GIF or WebP has them, too
    asked: Mapping[str, Any] = field(default_factory=dict)  # in JSON, what determines the video ...
    sources: tuple[str, ...] = ()  # ... beside the content of these files
    called: str = ""  # its name in the record, where it is made under another one

    @property
    def stream(self) -> bool:
        return self.name == media.STREAM

    @cached_property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def begun(self) -> Path:
        """The folder of what is finished of an unfinished video."""
        return self.path.with_name(self.path.name + ".resume")

    @property
    def own(self) -> Owned:
        """The right to make the video, which one process has."""
        return Owned(self.begun, kind="video", name=self.name)

    @property
    def replaces(self) -> bool:
        """Whether what is there may go: asked for, or from the end of an unfinished run that is gone on with."""
        return self.force or (self.resume and not self.own.empty)

    @property
    def record(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def latents(self) -> Path:
        return self.path.with_suffix(".safetensors")

    @property
    def numbered(self) -> bool:
        """Whether it is many images, `a%05d.png`."""
        return sequence_of(self.name) is not None

    @property
    def images(self) -> bool:
        """Whether it is of pictures that keep every bit of a given one."""
        return self.path.suffix.lower() in IMAGES

    def shared(self, format: media.Format) -> media.Shared:
        """The frames of the file, where a GIF or WebP is smaller and slower than what is made."""
        return media.Shared.of(self.name, format, self.sized, self.timed, self.lossless)

    @property
    def keeps(self) -> bool:
        """Whether there are files beside the video: not beside a pipe, images, or where nobody wants them."""
        return self.metadata and not self.stream and self.path.suffix.lower() != ".png"

    @property
    def identity(self) -> Any:
        """All that determines the video, as the record beside it has it."""
        files = {name: content_of(name) for name in self.sources}
        lossless = {"lossless": True} if self.lossless else {}
        return json.loads(json.dumps({**self.asked, "audio": self.audio, **lossless, "files": files}))

    @property
    def there(self) -> bool:
        """Whether something of its name is there."""
        sequence = sequence_of(self.name)
        return (sequence.path(1) if sequence else self.path).exists()

    @property
    def recorded(self) -> dict[str, Any]:
        """The record beside a video that is there; empty if there is none that can be read."""
        with suppress(OSError, ValueError, RecursionError):
            found = json.loads(self.record.read_text(encoding="utf-8")) if self.path.exists() else {}
            return found if isinstance(found, dict) else {}
        return {}

    @property
    def done(self) -> bool:
        """Whether the very video that is asked for is there, and not just one of its name."""
        if not self.keeps or not (made := self.recorded.get("asked")):
            return False
        newest = max((path.stat().st_mtime_ns for path in self.begun.rglob("*") if path.name != LOCK), default=0)
        return newest <= self.record.stat().st_mtime_ns and made == self.identity

    def settle(self) -> None:
        """Remove what a killed process left of a video that is done."""
        with suppress(SoraError), self.own:
            self.forget()

    def check(self) -> None:
        """Refuse, before any work, what could not be written or would be lost."""
        check_text("name of the output", self.name)
        media.check_name(self.name)
        if self.sheet and self.stream:
            raise SoraError("--sheet reads the finished video, which a pipe does not keep; give -o a name")
        if self.sheet:
            check_output(self.sheet, (".png",), self.replaces)
        if self.stream:
            return
        self.own.check_free()
        check_output(self.path, media.SUFFIXES, self.replaces, self.difference)
        for beside in (self.record, self.latents) if self.keeps else ():
            if beside.exists() and not self.replaces:
                raise SoraError(f"{beside} is in the way of what is kept beside {self.path}; "
                                "--force overwrites it, --no-metadata keeps nothing")  # fmt: skip
        if not (self.own.empty or self.resume or self.force):
            raise SoraError(f"{self.path} was begun before; --resume goes on with it, --force starts over")

    def difference(self) -> str:
        """In what the video that is there differs from what is asked, as far as it says so."""
        made = self.recorded.get("asked") if self.asked and self.keeps else None
        found = differences(made, self.identity) if made else []
        if not found:
            return ""
        line = min(found, key=len)
        name = line.partition(" was ")[0].removeprefix("shot.").partition(".")[0]
        return f", made with other {name}" if "null" in line or "..." in line else f": its {line}"

    def check_format(self, format: media.Format) -> None:
        """Refuse frames that the output cannot hold, and numbered images that are there already."""
        shared = self.shared(format)
        if self.stream or self.path.suffix.lower() == ".png":
            media.open_sink(self.name, format, force=self.replaces)
        else:
            media.check_format(self.path, shared.format)

    def forget(self) -> None:
        """Remove all finished windows of the video."""
        from sora_cli.storage.resume import clear

        for folder in (*self.begun.glob("*/"), self.begun):
            clear(folder)


@dataclass
class Making:
    """One output being made: what it shares between its runs and its frames."""

    target: Target
    screen: Screen
    fps: float
    frames: int | None = None  # None: as many as come
    started: float = field(default_factory=time.perf_counter)
    runs: list["Generation"] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.own = self.target.own
        if not self.target.stream:
            self.screen.hold(self.own)
        self.drift = Drift(self.fps)
        self.sound: media.Soundtrack | None = None

    def denoise(self, run: "Generation", part: str = "") -> "Generation":
        """Make a run's latents, window by window, each kept on the disk as soon as it is finished."""
        for lora in run.shot.loras:
            if self.target.keeps and media.same_file(lora.path, str(self.target.latents)):
                raise SoraError(f"the latents beside {self.target.name} would overwrite the LoRA {lora.path}; "
                                "give another -o, or --no-metadata")  # fmt: skip
        for note in (*run.notes, *run.warnings()):
            self.screen.note(note)
        self.runs.append(run)
        run.say = self.screen.warn
        store = self.store(run, part)
        for progress in run.denoise(store):
            self.screen.show(progress.stage, progress.done, progress.total)
            if self.screen.preview and progress.done and progress.done % run.shot.steps == 0:
                self.screen.picture(run.glance())
        return run

    def store(self, run: "Generation", part: str) -> Any:
        from sora_cli.storage.resume import Windows

        if self.target.stream:
            return None
        if len(self.runs) == 1 and not self.target.resume:
            self.target.forget()
        try:
            return Windows(self.target.begun / part, run.identity())
        except SoraError:  # windows of another video
            if not self.target.force:
                raise
            self.target.forget()
            return Windows(self.target.begun / part, run.identity())

    def watched(self, frames: Iterable["np.ndarray"]) -> Iterator["np.ndarray"]:
        """New frames on their way through, looked at for the drift."""
        for frame in frames:
            self.drift.add(frame)
            yield frame

    def hear(self, name: str, sound: media.Sound | None, left_out: Iterable[str] = ()) -> None:
        """Expect a given video's sound, or say in a line what of the video beside its pictures is left out."""
        holds = media.holds_sound(self.target.name)
        if sound and self.target.audio and holds:
            self.sound = self.sound or media.Soundtrack()
        lost = ["sound"] if sound and self.target.audio and not holds else []
        if lost or (left_out := list(left_out)):
            into = "a y4m stream" if self.target.stream else self.target.path.suffix
            why = f" ({into} holds none)" if lost else ""
            self.screen.note(f"{name}: left out: {', '.join([*lost, *left_out])}{why}")

    def heard(self, sound: media.Sound | None, start: int, count: int, times: int = 1) -> None:
        """Say where the frames of a given video lie, so that its sound is there, too; all of it is repeated."""
        if self.sound:
            self.sound.times = times
            self.sound.add(sound, start, count)

    def write(self, raw: Iterable[bytes], format: media.Format, tags: Mapping[str, object], loops: int = 0) -> int:
        """Write raw frames to the target; returns how many."""
        count, self.shared = 0, self.target.shared(format)
        if reduced := self.shared.note(self.target.name, format):
            self.screen.note(reduced)
        with media.open_sink(self.target.name, format, tags if self.target.metadata else {}, loops,
                             self.target.replaces, self.sound, self.shared) as sink:  # fmt: skip
            for count, frame in enumerate(raw, 1):
                sink.write(frame)
                self.screen.show("write", count, self.frames or count)
        self.waited = sink.waited
        for note in self.sound.notes if self.sound else ():
            self.screen.note(note)
        return count

    def finish(self, told: dict[str, Any], known: Iterable[range] = ()) -> None:
        """When the video is there: the sheet, the record beside it, and nothing left of the windows."""
        if self.target.sheet:
            draw(self.target, self.shared, told["frames"], list(known))
        found = self.report(told)
        if self.target.keeps:
            text = json.dumps(found, ensure_ascii=False, indent=1) + "\n"
            weights.write(self.target.record, text.encode(errors="backslashreplace"))  # names need not be UTF-8
        if not self.target.stream:
            self.target.forget()
            self.own.leave()
        self.screen.clear()
        for name, score in self.scores.items():
            self.screen.note(f"{name} {score:.1f}: {verdict(score)}")
        self.screen.note(f"{counted(found['frames'], 'frame')} in {found['wall']:.1f} s")
        self.screen.made(found, self.target.as_json)

    @property
    def latents(self) -> "Tensor":
        """Those of the newest run."""
        made = self.runs[-1].latents
        assert made is not None
        return made

    def report(self, told: dict[str, Any]) -> dict[str, Any]:
        timings: dict[str, float] = {}
        for run in self.runs:
            for stage, spent in run.timings.items():
                timings[stage] = timings.get(stage, 0.0) + spent
        return {
            "output": self.target.called or self.target.name,
            **told,
            "written": written(self.shared, told["frames"]),
            "asked": self.target.identity,
            "shot": self.runs[-1].shot.to_dict(),
            "wall": round(time.perf_counter() - self.started, 3),
            "timings": {stage: round(spent, 3) for stage, spent in {**timings, "encode": self.waited}.items()},
            "flops": sum(run.flops for run in self.runs),
            "notes": [note for run in self.runs for note in run.notes],
            "sound": self.sound.frames if self.sound else [],
            "scores": self.scores,
            "drift": self.drift.curve(),
        }


def content_of(name: str) -> str:
    """A hash of a file, or of numbered images one after another; "" of a stream, which is known by nothing."""
    sequence = sequence_of(name)
    if name == media.STREAM or not (sequence or Path(name).is_file()):
        return ""
    if sequence is None or Path(name).is_file():
        return weights.hash_of(Path(name))
    hashes = (weights.hash_of(sequence.path(number)) for number in sequence.numbers())
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def format_of(shot: Shot, name: str = "") -> media.Format:
    """The raw frames of a new video. Images are RGB in the end, and y4m keeps what is given: all colours are there."""
    suffix = Path(name).suffix.lower()
    full = suffix in IMAGES or (suffix == ".y4m" and bool(shot.anchors))
    tags = media.RGB if suffix in IMAGES else ("COLORRANGE=LIMITED",)
    return media.Format(shot.width, shot.height, rate_of(shot.fps), "444" if full else "420mpeg2", tags=tags)


@cache
def rate_of(fps: float) -> Fraction:
    """Frames a second as videos have them; a long list asks for the same again and again."""
    return Fraction(media.rational(fps))


def written(shared: media.Shared, made: int) -> dict[str, Any]:
    """What is in the file of so many frames, of which a GIF or WebP may have fewer and smaller ones."""
    format = shared.format
    return {"frames": shared.count(made), "width": format.width, "height": format.height, "fps": format.fps}


def header_of(run: "Generation") -> latent_file.Header:
    """What the latents of a run say of themselves."""
    shot = run.shot
    return latent_file.Header.of(shot.model, shot.width, shot.height, shot.fps, shot.frames,
                             lead=0 if shot.loop else run.span.lead, cyclic=shot.loop, shot=shot.to_json(),
                             clock=-1.0 if run.plan.clock is None else run.plan.clock)  # fmt: skip


def keep_latents(target: Target, header: latent_file.Header, made: "Tensor") -> None:
    """Latents beside a finished video, tied to it by its hash."""
    if target.keeps:
        latent_file.save(target.latents, made, replace(header, video=weights.hash_of(target.path)))


def draw(target: Target, shared: media.Shared, made: int, known: Sequence[range]) -> None:
    """A contact sheet of the finished video, of whose frames `shared` says which are there."""
    assert target.sheet
    given = frozenset(int(frame * shared.keep) for frame in chain.from_iterable(known))
    page = Sheet(shared.count(made), shared.format.fps, known=given)
    with media.open_source(target.name) as source:
        for index, frame in enumerate(media.to_rgb(source, source.format, source.format.seen)):
            page.add(index, frame)
    page.save(target.sheet)
