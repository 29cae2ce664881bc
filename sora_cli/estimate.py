"""What a shot will cost, before it is made: work, time, memory, disk. No weights are loaded.

The work is counted from the windows and the headers of the weights, and how fast this machine does it is
measured with a matrix product. The shares and sizes in capitals below were measured with pocket on two virtual
cores; time on a GPU, which is seldom busy with so little, is a rougher guess.

Letters: N tokens of a window, K conditions a frame, P patches a frame, T latent frames of a window, D width.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sora_cli import geometry, registry, weights
from sora_cli.errors import SoraError
from sora_cli.planner import Window
from sora_cli.shot import Shot
from sora_cli.weights import Header

if TYPE_CHECKING:
    import torch

    from sora_cli.models.sora.dit import DitConfig

MEASURED = 0.3                              # seconds that the matrix product is repeated for
DIT_SHARE, DECODE_SHARE = 0.28, 0.09        # of that product's rate, reached by transformer and decoder
START = 3.0                                 # seconds to import, load and read
ENCODE = 2.6e-9                             # seconds a pixel, waiting for the encoder
PROGRAM = 350e6                             # bytes of Python with torch
ENCODER, ENCODER_PIXEL = 52e6, 105          # bytes of ffmpeg: at rest, and a pixel of a frame
BITS = 0.15                                 # of H.264 a pixel
DECODED = 4                                 # latents decoded at a time, as in the engine
FLOAT32 = 4                                 # bytes


@dataclass(frozen=True)
class Estimate:
    """Counts are exact; `memory` and `disk` in bytes and `seconds` are by part and approximate."""

    windows: int
    latents: int
    tokens: int                    # of the largest window, for all copies of guidance
    products: float                # FLOP of the transformer's matrices
    attention: float               # FLOP of its attention
    decoding: float                # FLOP of the decoder
    memory: dict[str, float]
    disk: dict[str, float]
    seconds: dict[str, float]

    @property
    def flops(self) -> float:
        return self.products + self.attention + self.decoding

    @property
    def peak(self) -> float:
        """Bytes: denoising and decoding do not happen at once, and the encoder runs beside the latter."""
        making, decoding, encoder = (self.memory[part] for part in ("denoising", "decoding", "encoder"))
        always = sum(self.memory[part] for part in ("program", "weights", "latents"))
        return always + max(making, decoding + encoder)

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return asdict(self) | {"flops": self.flops, "peak": self.peak}

    def table(self) -> Table:
        table = Table("", "about", "of which")
        windows = f"up to {self.tokens} tokens each, {self.latents} latent frames"
        table.add_row("windows", f"{self.windows}", windows)
        work = {"transformer": self.products, "attention": self.attention, "decoder": self.decoding}
        table.add_row("work", f"{self.flops / 1e9:.0f} GFLOP", parts(work, 1e9, "GFLOP"))
        table.add_row("time", f"{sum(self.seconds.values()):.0f} s", parts(self.seconds, 1, "s"))
        table.add_row("memory", f"{self.peak / 1e6:.0f} MB", parts(self.memory, 1e6, "MB"))
        table.add_row("disk", f"{sum(self.disk.values()) / 1e6:.1f} MB", parts(self.disk, 1e6, "MB"))
        return table


def parts(values: dict[str, float], unit: float, name: str) -> str:
    """{"a": 2e6} -> "a 2 MB", the largest first."""
    largest = sorted(values.items(), key=lambda item: -item[1])
    return ", ".join(f"{part} {shown(value / unit)} {name}" for part, value in largest)


def shown(value: float) -> str:
    """Two digits at the least, and no more behind the point than tell something."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def dry_run(shot: Shot, windows: Sequence[Window], device: str = "auto", dtype: str = "auto") -> Estimate:
    """The cost of a shot that is made in these windows, on this machine; takes about a second.

    SoraError for a model or a device that is not there, Failed for damaged weights."""
    from sora_cli.device import pick_device, pick_dtype

    model = Model.registered(shot.model)
    where = pick_device(device)
    numbers = pick_dtype(dtype, where)
    tokens = largest(model, shot, windows)
    rate = product_rate(max(tokens, 1), model.config.width, where, numbers)
    return estimate(shot, windows, model, rate, numbers.itemsize)


@dataclass(frozen=True)
class Model:
    """What the headers of a checkpoint say of its networks."""

    text: Header
    vae: Header
    dit: Header

    @classmethod
    def registered(cls, name: str) -> "Model":
        entry = registry.entry(name)
        if entry.kind != "sora":
            raise SoraError(f"there are estimates for models of kind sora, and {name} is of kind {entry.kind}")
        files = (entry.part(stem) for stem in ("text", "vae", "dit"))
        return cls(*(weights.read_header(*(file.path for file in part)) for part in files))

    @property
    def config(self) -> "DitConfig":
        from sora_cli.models.sora.dit import DitConfig

        config = json.loads(self.dit.metadata["config"])
        return DitConfig(**config | {"bins": tuple(config["bins"])})


def product_rate(rows: int, width: int, device: "torch.device", dtype: "torch.dtype") -> float:
    """FLOP/s of [rows, D] x [D, 4 D], the best of repeated products."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, width, generator=generator).to(device, dtype)
    right = torch.randn(4 * width, width, generator=generator).to(device, dtype)
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    best, end = float("inf"), time.perf_counter() + MEASURED
    while time.perf_counter() < end:
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        wait()
        best = min(best, time.perf_counter() - started)
    return 2 * rows * width * 4 * width / best


def estimate(shot: Shot, windows: Sequence[Window], model: Model, rate: float, size: int) -> Estimate:
    """The cost where products run at `rate` FLOP/s on numbers of `size` bytes."""
    runs = shot.steps * copies(shot)
    patches, config = patches_of(shot), model.config
    products = runs * sum(2 * model.dit.count() * tokens_of(config, patches, window) for window in windows)
    attention = runs * sum(attention_of(config, patches, window) for window in windows)
    decoding = shot.frames * decoding_of(model.vae, patches)
    pixels = shot.frames * shot.width * shot.height
    return Estimate(
        len(windows), geometry.latents_for(shot.frames), largest(model, shot, windows), products, attention, decoding,
        memory=memory_of(shot, windows, model, size),
        disk={"latents": FLOAT32 * latents_of(shot, config), "video": BITS * pixels / 8},
        seconds={
            "start": START,
            "denoising": (products + attention) / (DIT_SHARE * rate),
            "decoding": decoding / (DECODE_SHARE * rate),
            "encoder": ENCODE * pixels,
        },
    )  # fmt: skip


# ---- counts -----------------------------------------------------------------------------------------------


def copies(shot: Shot) -> int:
    """Guidance asks the transformer twice."""
    return 1 if shot.guidance == 1 else 2


def patches_of(shot: Shot) -> int:
    """P, patches of a frame on the shot's canvas."""
    canvas, side = geometry.canvas(shot.width, shot.height), geometry.SPACE_STRIDE * geometry.PATCH
    return geometry.divide(canvas.width, side) * geometry.divide(canvas.height, side)


def latents_of(shot: Shot, config: "DitConfig") -> int:
    """Numbers in all latents of the shot."""
    return geometry.latents_for(shot.frames) * config.channels * patches_of(shot) * geometry.PATCH**2


def tokens_of(config: "DitConfig", patches: int, window: Window) -> int:
    """N = T (P + K)"""
    return len(window.frames) * (patches + config.conditions)


def largest(model: Model, shot: Shot, windows: Sequence[Window]) -> int:
    """Tokens that the transformer sees at once at most, for all copies of guidance."""
    return copies(shot) * max((tokens_of(model.config, patches_of(shot), w) for w in windows), default=0)


def attention_of(config: "DitConfig", patches: int, window: Window) -> float:
    """FLOP of all blocks: T frames of (P + K)^2 pairs in space, P places of T^2 pairs in time, 4 D a pair."""
    frames = len(window.frames)
    pairs = frames * (patches + config.conditions) ** 2 + (patches * frames**2 if frames > 1 else 0)
    return config.depth * 4 * config.width * pairs


def decoding_of(vae: Header, patches: int) -> float:
    """FLOP to decode one frame of a long video. A convolution costs its weights once a cell of the size it
    runs at; what makes key frames and motion runs once in four frames."""
    def cells(stride: int) -> float:
        return patches * (geometry.PATCH * geometry.SPACE_STRIDE / stride) ** 2

    def products(*layers: str) -> int:
        return sum(vae.count(f"decoder.{layer}.") for layer in layers)

    once_in_four = products("stem", "deep", "fuse") / geometry.TIME_STRIDE
    return 2 * (cells(16) * (once_in_four + products("up"))
                + cells(8) * products("wide", "up2") + cells(4) * products("tail", "to_pixels"))  # fmt: skip


# ---- bytes ------------------------------------------------------------------------------------------------


def memory_of(shot: Shot, windows: Sequence[Window], model: Model, size: int) -> dict[str, float]:
    """Bytes by part; `size` is that of one number of the transformer and the decoder."""
    latents = latents_of(shot, model.config)
    return {
        "program": PROGRAM,
        "weights": size * (model.dit.count() + model.vae.count()) + FLOAT32 * model.text.count(),
        "denoising": size * max((activations(model.config, shot, window) for window in windows), default=0),
        "decoding": decoder_buffers(model.vae, shot, size),
        "latents": (2 * FLOAT32 + size) * latents,         # the timeline, what is made, what is decoded
        "encoder": ENCODER + ENCODER_PIXEL * shot.width * shot.height,
    }


def activations(config: "DitConfig", shot: Shot, window: Window) -> float:
    """Numbers alive inside a block: about 14 D a token, and per head the scores in space (before and after the
    softmax) and in time (with their bias too), which grow with the square of a window's length."""
    patches, frames = patches_of(shot), len(window.frames)
    scores = 2 * frames * (patches + config.conditions) ** 2 + 3 * patches * frames**2
    each = 14 * config.width * tokens_of(config, patches, window) + config.heads * scores
    return copies(shot) * each


def decoder_buffers(vae: Header, shot: Shot, size: int) -> float:
    """Bytes of the frames decoded at a time: features at 1/4 and pixels in `size`, then pixels in float32."""
    canvas, tail = geometry.canvas(shot.width, shot.height), json.loads(vae.metadata["config"])["tail"]
    frames = min(shot.frames, DECODED * geometry.TIME_STRIDE)
    numbers = 3 * tail / 16 + 2 * 3
    return frames * canvas.width * canvas.height * (size * numbers + 2 * 3 * FLOAT32)
