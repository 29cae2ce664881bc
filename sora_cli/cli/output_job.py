"""A video on its way to a file or a pipe: windows kept as they are made, frames watched as they are written,
and what there is to know about it in a record beside it. No torch until a run is handed in."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sora_cli import media
from sora_cli.cli.previews import Previews
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import IMAGES, Target
from sora_cli.errors import SoraError, counted
from sora_cli.files import weights
from sora_cli.media.contact_sheet import Sheet
from sora_cli.media.seams import Changes, Drift, verdict
from sora_cli.shot import Shot
from sora_cli.storage import latent_file
from sora_cli.storage.resume import Windows

if TYPE_CHECKING:
    from torch import Tensor

    from sora_cli.generation.engine import Generation


@dataclass
class OutputJob:
    """One output being made, and what its runs and frames have in common."""

    target: Target
    screen: Screen
    fps: float
    frames: int | None = None  # None: as many as come
    retiming: media.Retiming | None = None  # where it is shown at another rate than it is made at
    turn: int = 0  # frames of a loop, whose last is to lead to its first
    started: float = field(default_factory=time.perf_counter)
    runs: list["Generation"] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.own = self.screen.held.enter_context(self.target.held())
        self.drift, self.changes = Drift(self.fps), Changes()
        self.previews = Previews(self.target.preview, self.screen) if self.screen.preview else None
        self.sound: media.Soundtrack | None = None

    def denoise(self, run: "Generation", part: str = "") -> None:
        """Make a run's latents window by window, and save each window as soon as it is finished."""
        for lora in run.shot.loras:
            if self.target.keeps and media.same_file(lora.path, str(self.target.latents)):
                raise SoraError(f"the latents beside {self.target.name} would overwrite the LoRA {lora.path}; "
                                "give another -o, or --no-metadata")  # fmt: skip
        rates = [self.retiming.note()] if self.retiming and not self.runs else []
        for note in (*rates, *run.notes, *run.warnings):
            self.screen.note(note)
        self.runs.append(run)
        run.say = self.screen.warn
        store = self.store(run, part)
        with self.screen.doing("reading the prompt and what is given"):
            steps = run.denoise(store)
            first = next(steps, None)
        with self.screen.doing("denoising"):
            for progress in chain([first] if first else [], steps):
                self.screen.show(progress.stage, progress.done, progress.total)
                if self.previews and progress.done:
                    self.previews.show(run)

    def store(self, run: "Generation", part: str) -> Windows | None:
        if self.target.stream:
            return None
        try:
            return Windows(self.target.resume_folder / part, run.identity())
        except SoraError:  # windows of another video
            if not self.target.force:
                raise
            self.target.clear_resume()
            return Windows(self.target.resume_folder / part, run.identity())

    def watched(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield new frames unchanged, and measure their drift, and the seam of a loop."""
        for number, frame in enumerate(frames):
            self.drift.add(frame)
            if number < self.turn:
                self.changes.add(frame)
            yield frame

    def expect_sound(self, name: str, sound: media.Sound | None, left_out: Iterable[str] = ()) -> None:
        """Prepare for a given video's sound, and note which streams of the video are left out."""
        holds = media.holds_sound(self.target.name)
        if sound and self.target.audio and holds:
            self.sound = self.sound or media.Soundtrack()
        lost = ["sound"] if sound and self.target.audio and not holds else []
        if lost or (left_out := list(left_out)):
            into = "a y4m stream" if self.target.stream else self.target.path.suffix
            why = f" ({into} holds none)" if lost else ""
            self.screen.note(f"{name}: left out: {', '.join([*lost, *left_out])}{why}")

    def place_sound(self, sound: media.Sound | None, start: int, count: int, times: int = 1) -> None:
        """Place a given video's sound at its frames; the whole soundtrack plays `times` times."""
        if self.sound:
            self.sound.times = times
            self.sound.add(sound, *(self.shown(frames) for frames in (start, count)))

    def shown(self, made: int) -> Fraction | int:
        """A number of generated frames, converted to frames of the output."""
        return self.retiming.at(made) if self.retiming else made

    def given(self, made: range) -> range:
        """A range of given frames, converted to frames of the output."""
        return range(round(self.shown(made.start)), round(self.shown(made.stop)))

    def check_format(self, format: media.Format) -> None:
        """Refuse frames that the output cannot hold, at the rate that is asked."""
        self.target.check_format(replace(format, rate=self.retiming.shown if self.retiming else format.rate))

    def write_given(self, raw: Iterable[bytes], format: media.Format, tags: Mapping[str, object]) -> int:
        """Write given and made frames in one format, at the rate that is asked; returns how many are shown."""
        rate = self.retiming.shown if self.retiming else format.rate
        return self.write(media.retimed(raw, format, self.retiming), replace(format, rate=rate), tags)

    def write(self, raw: Iterable[bytes], format: media.Format, tags: Mapping[str, object], loops: int = 0) -> int:
        """Write raw frames to the target; returns how many."""
        count, self.shared = 0, self.target.shared(format)
        if reduced := self.shared.note(self.target.name, format):
            self.screen.note(reduced)
        if (kept := media.depth_held(self.target.name, format)) < format.depth:
            self.screen.note(f"{self.target.name}: {kept} bits per colour instead of {format.depth}; "
                             ".y4m, .apng and numbered .png keep all")  # fmt: skip
        sink = media.open_sink(self.target.name, format, tags if self.target.metadata else {}, loops,
                               self.target.replaces, self.sound, self.shared)  # fmt: skip
        with ExitStack() as closing, sink:
            with self.screen.doing("making frames and writing them"):
                for count, frame in enumerate(raw, 1):
                    sink.write(frame)
                    self.screen.show("write", count, self.frames or count)
            self.target.check_files()  # what has come meanwhile
            closing.enter_context(self.screen.doing("finishing the file"))
        self.waited = sink.waited
        for note in (*sink.notes, *(self.sound.notes if self.sound else ())):
            self.screen.note(note)
        return count

    def keep_latents(self, header: latent_file.Header | None = None, latents: "Tensor | None" = None) -> None:
        """Put latents beside a finished video, tied to it by its hash: by default those of the newest run."""
        if self.target.keeps:
            header = replace(header or header_of(self.runs[-1]), video=weights.hash_of(self.target.path))
            latent_file.save(self.target.latents, self.latents if latents is None else latents, header)

    def finish(self, facts: dict[str, Any], given: Iterable[range] = ()) -> None:
        """After the video is complete: write the sheet and the record, and remove the saved windows."""
        if self.target.sheet:
            draw(self.target, self.shared, facts["frames"], list(map(self.given, given)))
        if self.turn:
            seam = self.changes.seam()
            self.scores |= {"seam": seam.position, "seam in motion": seam.velocity}
        found = self.report(facts)
        if self.target.keeps:
            text = json.dumps(found, ensure_ascii=False, indent=1) + "\n"
            weights.write(self.target.record, text.encode(errors="backslashreplace"))  # names need not be UTF-8
        if not self.target.stream:
            self.target.clear_resume()
            self.target.clear_preview()
            self.own.leave()
        self.screen.clear()
        for name, score in self.scores.items():
            self.screen.note(f"{name} {score:.1f}: {verdict(score)}")
        self.screen.note(f"{counted(found['frames'], 'frame')} in {found['wall']:.1f} s")
        self.screen.made(found, self.target.as_json)

    @property
    def latents(self) -> "Tensor":
        """The latents of the last run."""
        made = self.runs[-1].latents
        assert made is not None
        return made

    def report(self, facts: dict[str, Any]) -> dict[str, Any]:
        timings: dict[str, float] = {}
        for run in self.runs:
            for stage, spent in run.timings.items():
                timings[stage] = timings.get(stage, 0.0) + spent
        return {
            "output": self.target.called or self.target.name,
            "shot": self.runs[-1].shot.to_dict(),
            **facts,
            "written": written(self.shared, facts["frames"]),
            "asked": self.target.identity,
            "wall": round(time.perf_counter() - self.started, 3),
            "timings": {stage: round(spent, 3) for stage, spent in {**timings, "encode": self.waited}.items()},
            "flops": sum(run.flops for run in self.runs),
            "notes": [note for run in self.runs for note in run.notes],
            "sound": self.sound.frames if self.sound else [],
            **({"decoder": self.target.asked["decoder"]} if "decoder" in self.target.asked else {}),
            **({"rate": self.retiming.record()} if self.retiming else {}),
            "scores": self.scores,
            "drift": self.drift.curve(),
        }


def format_of(shot: Shot, name: str = "") -> media.Format:
    """The raw frames of a new video; y4m keeps all colours of what is given."""
    given = bool(shot.anchors) and Path(name).suffix.lower() == ".y4m"
    return raw_format(name, (shot.width, shot.height), shot.fps, full=given)


def raw_format(name: str, size: media.Size, fps: float, full: bool = False) -> media.Format:
    """The raw frames of an output of this name. Images are RGB in the end, so that all their colours are there."""
    images = Path(name).suffix.lower() in IMAGES
    tags = media.RGB if images else ("COLORRANGE=LIMITED",)
    return media.Format(*size, Fraction(media.rational(fps)), "444" if full or images else "420mpeg2", tags=tags)


def written(shared: media.Shared, made: int) -> dict[str, Any]:
    """The frames, size and rate in the file, which are reduced in a GIF or WebP for sharing."""
    format = shared.format
    return {"frames": shared.count(made), "width": format.width, "height": format.height, "fps": format.fps}


def header_of(run: "Generation") -> latent_file.Header:
    """The header for the latents of a run."""
    shot = run.shot
    return latent_file.Header.of(run.plan.entry, shot.width, shot.height, shot.fps, shot.frames,
                             lead=0 if shot.loop else run.span.lead, cyclic=shot.loop, shot=shot.to_json(),
                             clock=-1.0 if run.plan.clock is None else run.plan.clock)  # fmt: skip


def draw(target: Target, shared: media.Shared, made: int, ranges: Sequence[range]) -> None:
    """Draw a contact sheet of the finished video; `made` and `ranges` count frames before the reduction of `shared`."""
    assert target.sheet
    given = frozenset(int(frame * shared.keep) for frame in chain.from_iterable(ranges))
    page = Sheet(shared.count(made), shared.format.fps, given=given)
    with media.open_source(target.name) as source:
        for index, frame in enumerate(media.to_rgb(source, source.format, source.format.seen)):
            page.add(index, frame)
    page.save(target.sheet)
