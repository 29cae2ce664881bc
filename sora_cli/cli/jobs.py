"""What a command line asks for, apart from its making: a verb says what is wanted, and one command line, or a batch of
them, is checked and carried out here. No torch until networks are loaded."""

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sora_cli import geometry, registry
from sora_cli.cli import models
from sora_cli.cli.options import Compute, Showing
from sora_cli.cli.outputs import check_room
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError
from sora_cli.generation.plan import Plan
from sora_cli.media import Retiming
from sora_cli.placement.estimate import Estimate, Pictures, dry_run
from sora_cli.registry import Entry
from sora_cli.shot import Lora

if TYPE_CHECKING:
    from sora_cli.generation.engine import Engine
    from sora_cli.pipelines.codec import Codec

Loaded = TypeVar("Loaded")
FULL = "full"  # decoder, as against the tiny one of drafts


@dataclass
class Networks:
    """The networks of the last job, kept while the next job needs the same ones."""

    wanted: Any = None
    loaded: Any = None
    texts: dict[str, list[str]] = field(default_factory=dict)  # by model, what later jobs have it read, too

    def cached(self, wanted: Any, load: Callable[[], Loaded]) -> Loaded:
        """The networks for `wanted`: those cached from the last job, or newly loaded by `load`."""
        if self.loaded is None or self.wanted != wanted:
            self.release()  # both may not fit
            self.loaded, self.wanted = load(), wanted
        return self.loaded

    def release(self) -> None:
        if self.loaded is not None:
            self.loaded = None
            gc.collect()


@dataclass(frozen=True)
class Loader:
    """Loads the networks of one job when its work comes to them, unless those of the job before will do."""

    job: "Job"
    networks: Networks
    screen: Screen

    def engine(self) -> "Engine":
        job, screen = self.job, self.screen
        with screen.doing("starting"):
            from sora_cli.generation.engine import Engine

        words, how = (job.entry, *job.compute.words), (job.compute.decoder, screen.preview)

        def load() -> Engine:
            settle(job.compute, job.entry, screen)
            return Engine(*words, screen.read, job.loras, *how)

        with screen.doing(f"loading {job.entry.name}"):
            engine = self.networks.cached((words, job.loras, how), load)
        if texts := self.networks.texts.pop(job.entry.name, None):
            engine.pipeline.ahead = texts
        return engine

    def codec(self, canvas: geometry.Canvas) -> "Codec":
        from sora_cli.pipelines import load_codec

        entry, compute, screen = self.job.entry, self.job.compute, self.screen

        def load() -> "Codec":
            settle(compute, entry, screen)
            return load_codec(entry, canvas, *compute.words, screen.read, screen.warn, compute.decoder)

        with screen.doing(f"loading {entry.name}"):
            return self.networks.cached((entry, canvas, compute), load)


def settle(compute: Compute, entry: Entry, screen: Screen) -> None:
    """On a CPU, set the number of threads to the requested number, or to the free processors. Notes what has no
    effect."""
    from sora_cli.placement.device import pick_device, take_threads

    on_cpu = compute.device == "cpu" or (compute.device == "auto" and pick_device("auto").type == "cpu")
    if (compute.threads or on_cpu) and (note := take_threads(compute.threads)):
        screen.note(note)
    if compute.memory != "auto" and not entry.parts:
        screen.note(f"--memory does nothing for {entry.name}, which is loaded at once")


@dataclass(frozen=True)
class Job:
    """One output, and how it is made. `check` finds errors before torch is loaded; `make` does the work."""

    target: Target
    entry: Entry
    compute: Compute
    showing: Showing
    check: Callable[[Target], None]
    make: Callable[[Target, Loader, Screen], None]
    loras: tuple[Lora, ...] = ()
    roles: Sequence[str] = registry.ROLES  # of the networks that it takes
    room: int = 0  # bytes on the disk, as far as they are known
    cost: Callable[[], Estimate] | None = None  # what it takes, if anybody can say

    @property
    def needs(self) -> tuple[str, ...]:
        """The roles of the networks that must be on disk: those of the job, and a tiny decoder for drafts and, if the
        model has one, for previews. SoraError for a draft with a model that has none."""
        draft = self.compute.decoder != FULL
        if not (draft or self.showing.preview):
            return tuple(self.roles)
        tiny = self.entry.tiny
        if draft and not tiny:
            raise SoraError(f"{self.entry.name} has no tiny decoder; leave out --decoder tiny, or use --decoder {FULL}")
        return (*self.roles, *((registry.TINY,) if tiny and registry.TINY not in self.roles else ()))

    def check_output(self) -> None:
        """Refuse a job that cannot be made, or whose preview would overwrite another file."""
        self.check(self.target)
        if self.showing.preview:
            self.target.check_preview()

    def carry_out(self, networks: Networks, screen: Screen, target: Target | None = None) -> None:
        """Make it, where it is to go or at another place."""
        self.make(target or self.target, Loader(self, networks, screen), screen)

    @property
    def networks(self) -> tuple[Any, ...]:
        """What identifies the networks that the job needs."""
        return self.entry, self.needs, self.compute.words, self.loras


def check_models(jobs: Sequence[Job], quiet: bool) -> None:
    """Refuse damaged or missing models; each is checked once."""
    for entry, roles in dict.fromkeys((job.entry, job.needs) for job in jobs):
        models.check_model(entry, quiet, roles)


def check_rooms(jobs: Sequence[Job]) -> None:
    """Failed if the disks have no room for all of them."""
    rooms: Counter[Any] = Counter()
    for job in jobs:
        if job.room and not job.target.stream:
            rooms[job.target.path.parent] += job.room
    for folder, needed in rooms.items():
        check_room(folder, needed)


def cost_of(plan: Plan, compute: Compute, given: bool = False, retiming: Retiming | None = None,
            around: int = 0) -> Estimate:  # fmt: skip
    """A plan's cost here, whatever its prompt; a `retiming` also converts the `around` given frames."""
    shot = replace(plan.shot, prompt="as long as it is", seed=0, captions=(), cues=())
    shown = retiming.count(shot.frames + around) if retiming else 0
    pictures = Pictures(given or bool(plan.given), compute.decoder != FULL, shown, bool(retiming and retiming.raises))
    return measured(replace(plan, shot=shot, captions=()), *compute.words, pictures)


measured = cache(dry_run)  # many jobs cost the same


def carry_out(jobs: Sequence[Job] | None, **_: object) -> None:
    """Make the jobs of one command line, except those that `--resume` finds done."""
    if not jobs:
        return
    networks, showing = Networks(), jobs[0].showing
    screen = Screen(showing.quiet, showing.preview)
    with screen.doing("checking what is given"):
        done = [job.target.resume and job.target.done for job in jobs]
        left = [job for job, there in zip(jobs, done, strict=True) if not there]
        for job in left:
            job.check_output()
        check_rooms(left)
    check_models(left, showing.quiet)
    with screen:
        for job, there in zip(jobs, done, strict=True):
            if there:
                screen.note(f"{job.target.name} is already done")
                job.target.settle()
                screen.made(job.target.recorded, job.target.as_json)
            else:
                job.carry_out(networks, screen)
