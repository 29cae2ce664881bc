"""What a shot costs that a Hub model makes, counted from the sizes in weights.toml, before anything is downloaded.

How fast this machine multiplies is measured, and so is on a CPU which share of that the networks reach. The shares of
a GPU are what the published times of Wan 2.1 and 2.2 on an H200 come to; how fast disks and buses are is a guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sora_cli.models.wan.configs import CONTEXT
from sora_cli.placement import memory, sizes
from sora_cli.placement.estimate.cost import PLAIN, START, Estimate, Pictures, Plan, writing_of
from sora_cli.placement.estimate.throughput import Rates
from sora_cli.placement.machine import Free
from sora_cli.placement.memory import Placement
from sora_cli.placement.sizes import BFLOAT16, FLOAT32, Needs, blocks_of
from sora_cli.registry import Entry
from sora_cli.registry.hub.cache import arrived, expected
from sora_cli.registry.hub.pins import read as read_lock
from sora_cli.sampling.planner import Window
from sora_cli.shot import Shot

DISK, BUS = 1e9, 20e9  # bytes a second from a disk, and from main memory to a GPU
PROCESSOR = 3e11  # FLOP/s of a CPU beside a GPU, in the text encoder
UNPACKED = {"cpu": 3e8, "gpu": 3e10}  # packed numbers a second; that of a thread, and a guess
BYTES_A_TOKEN = 3  # of a prompt
GUESSES = {
    "cpu": "reading weights at 1 GB/s",
    "gpu": "the shares of the GPU's speed that the networks reach; reading weights at 1 GB/s",
}


@dataclass(frozen=True)
class Shares:
    """The shares of a measured rate that the networks reach."""

    products: float
    attention: float
    decoding: float


MEASURED_SHARES = Shares(0.95, 0.6, 0.65)  # layers of both transformers, and both decoders at 256 x 256, on a CPU
PUBLISHED_SHARES = Shares(0.6, 0.6, 0.4)


def estimate(plan: Plan, rates: Rates, free: Free, size: int, mode: str = "auto", half: memory.Decoder = "bfloat16",
             pictures: Pictures = PLAIN) -> Estimate:  # fmt: skip
    """The cost on a machine that multiplies at `rates` and has so much `free`; `size` is of a number of the
    transformer, `half` the decoder's shorter ones. SoraError where the model does not fit."""
    shot, entry, windows, canvas = plan.shot, plan.entry, plan.windows, plan.canvas
    experts = steps_of(entry, shot)
    draft = pictures.draft and not pictures.given
    needs = memory.needs_of(entry, canvas, plan.longest, plan.latents, size, half, shot.loras, draft)
    placement = memory.choose(needs, free, mode)
    work = Work(shot, windows, needs, placement, experts, entry.usage.conditioned, pictures.draft)
    writing, peak = writing_of(shot, pictures, canvas.crop_width * canvas.crop_height), dict(placement.peak)
    peak["decoding" if free.shared else "host"] += writing.memory
    host = peak.pop("host")
    stored = float(next((part.bytes for part in entry.parts if part.role == "dit"), 0))  # 0: it is not said how large
    return Estimate(
        entry.name, free.kind, len(windows), plan.latents, needs.tokens, shot.steps * len(windows),
        work.products, work.attention, work.decoding,
        memory=peak,
        peak=max(peak.values()),
        host=0 if free.shared else host,
        disk={"latents": FLOAT32 * plan.latents * needs.numbers, "video": writing.disk},
        seconds=seconds_of(work, rates, free, stored) | {"start": START} | writing.seconds,
        reading=work.reading,
        experts=experts if len(experts) > 1 else (),
        switches=work.loads - 1 if len(experts) > 1 else 0,
        download=missing(entry.whole if pictures.draft else entry),
        placement=placement,
        guesses=GUESSES["cpu" if free.kind == "cpu" else "gpu"],
    )  # fmt: skip


def steps_of(entry: Entry, shot: Shot) -> tuple[int, ...]:
    """The solver's steps in a window: of the only transformer, or of that for high noise and of that for low."""
    from sora_cli.sampling.solvers import steps_above  # which brings torch

    usage = entry.usage
    if not usage.boundary:
        return (shot.steps,)
    high = steps_above(usage.boundary, usage.solver, shot.steps, usage.shift or 1.0)
    return high, shot.steps - high


# ---- work -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """FLOP of everything that a shot needs."""

    shot: Shot
    windows: Sequence[Window]
    needs: Needs
    placement: Placement
    experts: tuple[int, ...]  # steps of the only transformer, or of each of two
    conditioned: bool  # whether what is given is encoded for every window
    draft: bool  # whether the tiny decoder decodes

    @property
    def passes(self) -> int:
        """Of the transformers through a window; guidance takes two a step."""
        pairs = zip(self.experts, self.shot.guidances, strict=False)
        return sum(count * (1 if one == 1 else 2) for count, one in pairs)

    @property
    def loads(self) -> int:
        """How often a transformer is read: one stays for all windows, two take turns in each of them."""
        used = sum(count > 0 for count in self.experts)
        return used * len(self.windows) if used > 1 else 1

    @property
    def encoding(self) -> float:
        """Of what is given, with grey in between, for every window; the first one's pictures are few beside that."""
        latents = sum(len(window) for window in self.windows) if self.conditioned else 0
        return latents * sizes.encoding(self.needs.network.vae).work * self.needs.width * self.needs.height

    def tokens(self) -> list[int]:
        """N, of every window."""
        a_frame = self.needs.tokens // max(self.needs.window, 1)
        return [a_frame * len(window) for window in self.windows]

    @property
    def products(self) -> float:
        return self.passes * sum(sizes.products(self.needs.network.dit, N) for N in self.tokens())

    @property
    def attention(self) -> float:
        return self.passes * sum(sizes.attention(self.needs.network.dit, N) for N in self.tokens())

    @property
    def decoding(self) -> float:
        """All latents as if they had as many frames as the later ones; overlapping tiles are decoded twice."""
        needs = self.needs
        if self.draft:
            return needs.latents * sizes.decoding(needs.network.vae.tiny).work * needs.width * needs.height
        count, pixels = needs.tiled(self.placement.tile)
        return needs.latents * sizes.decoding(needs.network.vae).work * count * pixels

    def texts(self) -> list[str]:
        """What is read: the prompts, and what not to show."""
        prompts = [self.shot.prompt, *(cue.prompt for cue in self.shot.cues)]
        guided = any(one != 1 for one in self.shot.guidances)
        return [*prompts, self.shot.negative] if guided else prompts

    @property
    def reading(self) -> float:
        """As far as bytes tell how many tokens a text has."""
        lengths = (1 + len(text.encode()) // BYTES_A_TOKEN for text in self.texts())
        return sum(sizes.reading(self.needs.network.text, min(length, CONTEXT)) for length in lengths)


def seconds_of(work: Work, rates: Rates, free: Free, stored: float = 0) -> dict[str, float]:
    """By stage. Blocks of the transformer come while others compute, so that the slower of the two counts; files are
    in float32, but for the text encoder's and packed ones, whose numbers are unpacked in every pass, unless it is said
    how many bytes are `stored` of a transformer."""
    shares = MEASURED_SHARES if free.kind == "cpu" else PUBLISHED_SHARES
    needs, placement = work.needs, work.placement
    numbers = blocks_of(needs.network.dit).weights
    dit, vae = stored or FLOAT32 * numbers, needs.vae(FLOAT32)
    text = float(BFLOAT16 * blocks_of(needs.network.text).weights)
    packed = {role: held.whole.packed for role, held in needs.held.items()}
    dit, text = packed.get("dit", dit), packed.get("text", text)
    unpacking = numbers / UNPACKED["cpu" if free.kind == "cpu" else "gpu"] if "dit" in packed else 0.0
    products = work.products / (shares.products * rates.products)
    attention = work.attention / (shares.attention * rates.attention)
    fetching = {"resident": 0.0, "streamed": needs.dit / BUS, "disk": dit / DISK}[placement.dit]
    times_read = len(work.texts()) if placement.text == "streamed" else 1
    passes = work.passes * len(work.windows)
    exact = needs.size == FLOAT32 if work.draft else placement.vae == "float32"  # a tiny one has the transformer's
    decoder = rates.exact if exact else rates.products
    reader = PROCESSOR if placement.text == "cpu" and free.kind != "cpu" else shares.products * rates.products
    encoding = {"encoding": work.encoding / (shares.decoding * decoder)} if work.conditioned else {}
    return encoding | {
        "loading": (work.loads * dit * (placement.dit != "disk") + vae) / DISK,
        "text": times_read * text / DISK + work.reading / reader,
        "denoising": max(products + attention + passes * unpacking, passes * fetching),
        "decoding": work.decoding / (shares.decoding * decoder),
    }


def missing(entry: Entry) -> dict[str, float]:
    """Bytes by part that are to be downloaded still, as far as it is known how large parts are."""
    lock = read_lock()
    lacking = {part.role: expected(part, lock) - arrived(part, lock) for part in entry.parts}
    return {role: float(bytes) for role, bytes in lacking.items() if bytes > 0}
