"""Where the networks of a Hub model lie: what is free, and what follows from what each stage takes. No torch at import.

A video is made in three stages, text, denoising and decoding, and only the networks of one stage have to be there at
a time. What does not fit waits: the text encoder on disk, the transformer's blocks in main memory or on disk, and
frames are decoded in tiles.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Literal, get_args

from sora_cli import geometry, registry
from sora_cli.errors import SoraError
from sora_cli.placement.held import held
from sora_cli.placement.machine import MAIN, Free
from sora_cli.placement.sizes import BFLOAT16, FLOAT32, Decoder, Needs, blocks_of
from sora_cli.registry import Entry
from sora_cli.shot import Lora

if TYPE_CHECKING:
    import torch

Text = Literal["device", "first", "cpu", "streamed"]
Transformer = Literal["resident", "streamed", "disk"]

PROGRAM = 350e6  # bytes of Python with torch for a CPU
DRIVER = 1.5e9  # and of main memory that the CUDA libraries take on top; a guess
MARGIN = 0.1  # of what is free, for others and for holes between blocks
TEXTS: dict[str, tuple[Text, ...]] = {  # of every device, the fastest first
    "cuda": ("device", "first", "cpu", "streamed"),
    "mps": ("device", "first", "streamed"),
    "cpu": ("cpu", "streamed"),
}
SIZES: dict[Decoder, int] = {"float32": FLOAT32, "bfloat16": BFLOAT16, "float16": BFLOAT16}


def needs_of(entry: Entry, canvas: geometry.Canvas, window: int, latents: int, size: int,
             half: Decoder = "bfloat16", loras: Sequence[Lora] = (), draft: bool = False) -> Needs:  # fmt: skip
    """What a video takes: `window` latent frames at once, `latents` in all, numbers of `size` bytes. A model of unknown
    sizes is counted as the smallest with the same latents. SoraError if there is none."""
    others = (model.network for model in registry.registry().values() if model.cell == entry.cell)
    networks = [network for network in (entry.network, *others) if network is not None]
    if not networks or entry.kind != "wan":
        raise SoraError(f"the sizes of the networks of {entry.name} are unknown")
    network = networks[0] if entry.network else min(networks, key=lambda network: blocks_of(network.dit).weights)
    return Needs(entry.name, network, canvas.width, canvas.height, window, latents, size, half,
                 held(entry, loras), draft)  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """Where the networks are while a video is made."""

    text: Text  # on the device, there before the others come, in main memory, or block by block from disk
    dit: Transformer  # on the device, or block by block from (pinned) main memory or from disk
    vae: Decoder  # numbers of the decoder
    tile: int  # latent cells along a tile of the decoder; 0 for whole frames
    overlap: int  # cells that neighbouring tiles share
    keep: bool  # whether the networks of other stages stay, but for a text encoder that was there first
    away: bool = True  # whether what idle tiles remember waits in main memory
    why: str = ""
    peak: dict[str, float] = field(default_factory=dict)  # bytes on the device by stage, and in main memory as `host`

    @property
    def short(self) -> str:
        """Where the transformer is, in a word or two."""
        return {"resident": "in memory", "streamed": "from main memory", "disk": "from disk"}[self.dit]

    @property
    def alone(self) -> bool:
        """Whether the text encoder takes the device while nothing else is there."""
        return self.text == "first" or not self.keep

    @property
    def on_device(self) -> float:
        """Bytes, at the most in any stage."""
        return max(bytes for stage, bytes in self.peak.items() if stage != "host")


def half_of(dtype: "torch.dtype") -> Decoder:
    """The shorter numbers of an autoencoder beside a transformer in such numbers."""
    return "float16" if str(dtype) == "torch.float16" else "bfloat16"


def choose(needs: Needs, free: Free, mode: str = "auto") -> Placement:
    """The best placement that fits (`auto`, with a margin), the one that takes least of the device (`low`), or
    everything on the device (`high`). SoraError with the numbers where nothing fits."""
    options = [explained(option, needs, free) for option in placements(needs, free)]
    share = 1 - MARGIN if mode == "auto" else 1.0
    if mode == "low":
        options.sort(key=lambda option: option.on_device)  # stable: what is read from disk comes last
    elif mode == "high":
        options = options[:1]
    for option in options:
        if all(taken <= share * there(stage, free) for stage, taken in option.peak.items()):
            return option
    least = min(options, key=lambda option: option.on_device)
    raise SoraError(refusal(needs, free, least, share) + smaller(needs, halved(needs, free, mode)))


def lower(now: Placement, stage: str, memory: str, needs: Needs, free: Free) -> Placement | None:
    """The best placement that takes less where memory ran out in a stage (text, denoising, decoding), and elsewhere no
    more than is there; None if nothing does."""
    short, taken = "host" if memory == MAIN and not free.shared else stage, peaks(now, needs, free)
    for option in (explained(option, needs, free) for option in placements(needs, free)):
        elsewhere = ((bytes, max(taken[at], there(at, free))) for at, bytes in option.peak.items() if at != short)
        if option.peak[short] < taken[short] and all(bytes <= room for bytes, room in elsewhere):
            return option
    return None


def halved(needs: Needs, free: Free, mode: str) -> bool:
    """Whether bfloat16 would fit where float32 does not."""
    with suppress(SoraError):
        return needs.size > BFLOAT16 and bool(choose(replace(needs, size=BFLOAT16), free, mode))
    return False


def placements(needs: Needs, free: Free) -> Iterator[Placement]:
    """All placements, best first: disk costs most, then a coarser decoder, then tiles, then reloading."""
    dits: tuple[Transformer, ...] = ("resident", "disk") if free.shared else get_args(Transformer)
    texts = TEXTS[free.kind]
    decoders = [(*one, away) for one in needs.decoders(free.shared) for away in ((False, True) if one[1] else (True,))]
    for dit, (vae, tile, away), keep, text in product(dits, decoders, (True, False), texts):
        if keep or text != "first":  # it always is, where one network is loaded at a time
            yield Placement(text, dit, vae, tile, needs.overlap if tile else 0, keep, away)


def explained(option: Placement, needs: Needs, free: Free) -> Placement:
    """A placement with what it takes, and why."""
    why = f"{shown(free.device)} of {memory_of(free)} free: {', '.join(reasons(option, needs.network.vae.stride))}"
    return replace(option, why=why, peak=peaks(option, needs, free))


def peaks(option: Placement, needs: Needs, free: Free) -> dict[str, float]:
    """The most bytes on the device by stage, and in main memory; where both are one memory, all by stage."""
    size, gpu = SIZES[option.vae], free.kind != "cpu"
    near = option.text in ("device", "first")
    weights = {
        "text": needs.text if near else 0.0,
        "denoising": needs.dit if option.dit == "resident" else needs.dit_ahead(),
        "decoding": needs.vae(size),
    }
    waiting = {
        "text": {"cpu": needs.text, "streamed": needs.text_ahead()}.get(option.text, 0.0),
        "denoising": {"resident": 0.0, "streamed": needs.dit, "disk": needs.dit_ahead()}[option.dit],
        "decoding": needs.waiting(size, option.tile) if option.away else 0.0,
    }
    buffers = {
        "text": needs.reading() if near else 0.0,
        "denoising": needs.denoising(gpu, scored=free.kind == "mps"),
        "decoding": needs.decoding(size, option.tile, gpu) + (0.0 if option.away else needs.waiting(size, option.tile)),
    }
    always = PROGRAM + needs.whole_video() + (0 if free.shared else DRIVER)
    together = {stage: sum(weights.values()) if option.keep else weights[stage] for stage in weights}
    if option.text == "first":
        rest = weights["denoising"] + weights["decoding"]
        together = {"text": weights["text"], "denoising": rest, "decoding": rest}
    device = {stage: buffers[stage] + together[stage] for stage in weights}
    host = {stage: always + (sum(waiting.values()) if option.keep else waiting[stage]) for stage in weights}
    host["text"] += 0 if near else needs.reading()
    if free.shared:
        device = host = {stage: device[stage] + host[stage] for stage in weights}
    if not needs.window:
        device, host = ({"decoding": stages["decoding"]} for stages in (device, host))
    return device | {"host": max(host.values())}


def there(stage: str, free: Free) -> float:
    """Bytes that are free for one of the peaks."""
    return free.host if stage == "host" else free.device


# ---- in words ---------------------------------------------------------------------------------------------


def memory_of(free: Free) -> str:
    return {"cuda": "GPU memory", "mps": "the GPU's memory"}.get(free.kind, "main memory")


def reasons(option: Placement, stride: int) -> Iterator[str]:
    yield {
        "resident": "the transformer fits",
        "streamed": "the transformer is read from main memory block by block",
        "disk": "the transformer is read from disk block by block, at every step",
    }[option.dit]
    yield {
        "device": "text is read on the GPU",
        "first": "text is read on the GPU before the rest is loaded",
        "cpu": "text is read on the CPU",
        "streamed": "the text encoder is read from disk block by block",
    }[option.text]
    tiles = f"in tiles of {option.tile * stride} pixels" if option.tile else "whole"
    tiles += ", which wait in main memory," if option.tile and option.away else ""
    yield f"frames are decoded {tiles} in {option.vae}"


def difference(before: Placement, after: Placement, stride: int) -> str:
    """What is new in a placement, for a line of text."""
    new = [words for words in reasons(after, stride) if words not in reasons(before, stride)]
    one = ["one network is loaded at a time"] if before.keep and not after.keep else []
    return ", ".join([*new, *one])


def refusal(needs: Needs, free: Free, least: Placement, share: float) -> str:
    """What is short even in this placement."""
    stage = max(least.peak, key=lambda stage: least.peak[stage] / there(stage, free))
    memory = "main memory" if stage == "host" else memory_of(free)
    doing = {"text": " to read the prompt", "denoising": " to denoise", "decoding": " to decode"}.get(stage, "")
    what, need = f"{needs.name} at {needs.width}x{needs.height}", shown(least.peak[stage] / share)
    return f"{what} needs {need} of {memory}{doing}, but {shown(there(stage, free))} is free"


def smaller(needs: Needs, halved: bool) -> str:
    """What takes less than this: shorter numbers, fewer pixels, fewer frames, the smallest model."""
    models = registry.registry().items()
    numbers = {name: blocks_of(model.network.dit).weights for name, model in models if model.network}
    less = {name: count for name, count in numbers.items() if count < numbers.get(needs.name, 0) / 2}
    model, dtype = min(less, key=less.__getitem__, default="pocket"), "--dtype bfloat16, " if halved else ""
    return f"; try {dtype}a smaller --res, fewer --frames, or --model {model}"


def shown(bytes: float) -> str:
    """2.84e9 -> "2.8 GB"."""
    return f"{bytes / 1e9:.1f} GB" if bytes < 1e10 else f"{bytes / 1e9:.0f} GB"
