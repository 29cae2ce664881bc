"""A cost in numbers and in words, the same for every kind of model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from rich.table import Table

from sora_cli import geometry
from sora_cli.placement.memory import Placement
from sora_cli.registry import Entry
from sora_cli.sampling.planner import Window
from sora_cli.shot import Shot

START = 3.0                                 # seconds to import and read
ENCODE = 2.6e-9                             # seconds a pixel, waiting for the encoder
BITS = 0.15                                 # of H.264 a pixel
INTERPOLATE = 1.2e-7                        # seconds a pixel of minterpolate, and bytes that one takes: 0.75 to 2.1e-7
INTERPOLATED = 345.0                        # and 330 to 350, from 320x180 to 1280x704
PATIENCE = 600                              # seconds that need no warning
LEAST = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


class Plan(Protocol):
    """What is to be made, as `generation.plan` has it."""

    @property
    def shot(self) -> Shot: ...

    @property
    def entry(self) -> Entry: ...

    @property
    def canvas(self) -> geometry.Canvas: ...

    @property
    def windows(self) -> Sequence[Window]: ...

    @property
    def latents(self) -> int: ...  # latent frames of the whole video

    @property
    def longest(self) -> int: ...  # latent frames that the model sees at once at the most, end pictures among them


@dataclass(frozen=True)
class Pictures:
    """How pictures come into a shot, and how they leave it."""

    given: bool = False            # whether some are encoded
    draft: bool = False            # whether a tiny decoder decodes
    shown: int = 0                 # frames of the file, where they are not those that are made
    interpolates: bool = False     # whether those between are interpolated


PLAIN = Pictures()


@dataclass(frozen=True)
class Writing:
    """What it takes to write the frames of a shot."""

    seconds: dict[str, float]      # by part
    memory: float                  # bytes of the interpolation, which runs beside the decoder
    disk: float                    # bytes of the file


def writing_of(shot: Shot, pictures: Pictures, decoded: int) -> Writing:
    """Where a frame has so many pixels as it is decoded. Interpolated frames have full size beside given ones."""
    frames, size = pictures.shown or shot.frames, shot.width * shot.height
    pixels, interpolated = frames * size, 0
    seconds = {"encoder": ENCODE * pixels}
    if pictures.interpolates:
        interpolated = size if pictures.given else decoded
        seconds = {"interpolation": INTERPOLATE * frames * interpolated} | seconds
    return Writing(seconds, INTERPOLATED * interpolated, BITS * pixels / 8)


@dataclass(frozen=True)
class Estimate:
    """What a shot takes. Counts are exact; `memory` and `disk` in bytes and `seconds` are by part and approximate."""

    model: str
    device: str                    # its type
    windows: int
    latents: int
    tokens: int                    # that the transformer sees at once at most
    steps: int                     # of the solver, in all windows
    products: float                # FLOP of the transformer's matrices
    attention: float               # FLOP of its attention
    decoding: float                # FLOP of the decoder
    memory: dict[str, float]
    peak: float                    # bytes on the device, at the most
    disk: dict[str, float]
    seconds: dict[str, float]
    host: float = 0                # bytes of main memory, where that is another than the device's
    reading: float = 0             # FLOP of the text encoder, where that is worth counting
    download: dict[str, float] = field(default_factory=dict)   # bytes that are not here yet
    placement: Placement | None = None   # where the networks lie
    guesses: str = ""              # what of all this was not measured
    experts: tuple[int, ...] = ()  # steps in a window of the transformer for high noise, and of that for low
    switches: int = 0              # between the two, each of which reads one from the disk

    @property
    def flops(self) -> float:
        return self.products + self.attention + self.decoding + self.reading

    @property
    def step(self) -> float:
        """FLOP of a solver's step."""
        return (self.products + self.attention) / max(self.steps, 1)

    @property
    def time(self) -> float:
        """Seconds in all, once everything is downloaded."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return asdict(self) | {"flops": self.flops, "step": self.step}

    def table(self) -> Table:
        table = Table("", "about", "of which")
        windows = f"up to {self.tokens} tokens each, {self.latents} latent frames"
        table.add_row("windows", f"{self.windows}", windows)
        work = {"transformer": self.products, "attention": self.attention, "decoder": self.decoding,
                "text": self.reading}  # fmt: skip
        table.add_row("work", quantity(self.flops, "FLOP"), breakdown(work, "FLOP"))
        table.add_row("a step", quantity(self.step, "FLOP"), f"{self.steps} of them")
        if self.experts:
            high, low = self.experts
            table.add_row("experts", "2", f"of a window's steps {high} for high noise, {low} for low; one at a time, "
                                          f"{self.switches} switch{'es' * (self.switches != 1)}")  # fmt: skip
        spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in by_size(self.seconds))
        table.add_row("time", duration(self.time), spent)
        table.add_row("memory", quantity(self.peak, "B"), breakdown(self.memory, "B"))
        if self.host:
            table.add_row("main memory", quantity(self.host, "B"), "")
        table.add_row("disk", quantity(sum(self.disk.values()), "B"), breakdown(self.disk, "B"))
        if self.download:
            table.add_row("download", quantity(sum(self.download.values()), "B"), breakdown(self.download, "B"))
        why = self.placement.why if self.placement else ""
        for name, words in (("placement", why), ("guesses", self.guesses)):
            if words:
                table.add_row(name, "", words)
        return table


def slowness(cost: Estimate) -> str | None:
    """A line for whoever is about to wait for a CPU; None where the wait is short."""
    if cost.device != "cpu" or cost.time < PATIENCE or not cost.placement:
        return None
    return (f"{cost.model} takes about {duration(cost.time)} for this on a CPU, where a GPU takes minutes; "
            "--model pocket is quick here")  # fmt: skip


def by_size(values: dict[str, float]) -> list[tuple[str, float]]:
    """The largest first, and nothing that is not there."""
    return sorted(((name, value) for name, value in values.items() if value), key=lambda item: -item[1])


def breakdown(values: dict[str, float], unit: str) -> str:
    """{"a": 2e6} -> "a 2.0 MB", the largest first."""
    return ", ".join(f"{name} {quantity(value, unit)}" for name, value in by_size(values))


def quantity(value: float, unit: str) -> str:
    """2.84e9 bytes -> "2.8 GB": two digits at the least."""
    prefix = max((name for name in LEAST if value >= LEAST[name]), key=LEAST.__getitem__, default="")
    return f"{digits(value / LEAST[prefix])} {prefix}{unit}"


def digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """8.2 -> "8.2 s", 50000 -> "14 hours"."""
    for unit, length, longest in (("s", 1, 120), ("minutes", 60, 7200), ("hours", 3600, 172800)):
        if seconds < longest:
            return f"{digits(seconds / length)} {unit}"
    return f"{digits(seconds / 86400)} days"
