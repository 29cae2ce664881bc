"""What a shot costs that a shipped model makes, counted from the windows and the headers of its weights.

The shares in capitals were measured with pocket on two virtual cores; time on a GPU, which is seldom busy with so
little, is a rougher guess.

Letters: N tokens of a window, K conditions a frame, P patches a frame, T latent frames of a window, D width.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sora_cli import geometry
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.files.weights import Header
from sora_cli.placement.estimate.cost import PLAIN, START, Estimate, Pictures, Plan, writing_of
from sora_cli.placement.memory import PROGRAM
from sora_cli.placement.sizes import ENCODER, ENCODER_PIXEL, FLOAT32
from sora_cli.registry import Entry
from sora_cli.sampling.planner import Window
from sora_cli.shot import Shot

if TYPE_CHECKING:
    from sora_cli.models.sora.dit import DitConfig

DIT_SHARE, DECODE_SHARE = 0.28, 0.09        # of the products' rate, reached by transformer and decoder
DECODED = 2                                 # latents decoded at a time, as in the engine


@dataclass(frozen=True)
class Model:
    """What the headers of a checkpoint say of its networks."""

    text: Header
    vae: Header
    dit: Header

    @classmethod
    def of(cls, entry: Entry) -> "Model":
        if entry.kind != "sora":
            raise SoraError(f"estimates are for models of kind sora; {entry.name} is of kind {entry.kind}")
        files = (entry.part(stem) for stem in ("text", "vae", "dit"))
        return cls(*(weights.read_header(*(file.path for file in part)) for part in files))

    @property
    def config(self) -> "DitConfig":
        from sora_cli.models.sora.dit import DitConfig

        config = json.loads(self.dit.metadata["config"])
        return DitConfig(**{"bar": 8.0} | config | {"bins": tuple(config["bins"])})


def estimate(plan: Plan, model: Model, rate: float, size: int, device: str = "cpu",
             pictures: Pictures = PLAIN) -> Estimate:  # fmt: skip
    """The cost where products run at `rate` FLOP/s on numbers of `size` bytes."""
    shot, windows, canvas = plan.shot, plan.windows, plan.canvas
    runs = shot.steps * copies(model, shot)
    patches, config = patches_of(canvas), model.config
    products = runs * sum(products_of(model.dit, config, patches, window) for window in windows)
    attention = runs * sum(attention_of(config, patches, window) for window in windows)
    decoding = shot.frames * decoding_of(model.vae, patches)
    writing = writing_of(shot, pictures, zoom_of(model.vae) ** 2 * canvas.crop_width * canvas.crop_height)
    memory = memory_of(plan, model, size) | {"interpolation": writing.memory}
    return Estimate(
        shot.model, device, len(windows), plan.latents, largest(model, plan),
        shot.steps * len(windows), products, attention, decoding,
        memory=memory,
        peak=peak_of(memory),
        disk={"latents": FLOAT32 * latents_of(plan, config), "video": writing.disk},
        seconds={
            "start": START,
            "denoising": (products + attention) / (DIT_SHARE * rate),
            "decoding": decoding / (DECODE_SHARE * rate),
        } | writing.seconds,
    )  # fmt: skip


# ---- counts -----------------------------------------------------------------------------------------------


def copies(model: Model, shot: Shot) -> int:
    """Guidance asks the transformer twice, unless it is baked into the weights."""
    baked = "distilled" in model.dit.metadata and not shot.negative
    return 1 if shot.guidance == 1 or baked else 2


def patches_of(canvas: geometry.Canvas) -> int:
    """P, patches of a frame."""
    side = geometry.SPACE_STRIDE * geometry.PATCH
    return geometry.divide(canvas.width, side) * geometry.divide(canvas.height, side)


def latents_of(plan: Plan, config: "DitConfig") -> int:
    """Numbers in all latents of the shot."""
    return plan.latents * config.channels * patches_of(plan.canvas) * geometry.PATCH**2


def tokens_of(config: "DitConfig", patches: int, window: Window) -> int:
    """N = T (P + K)"""
    return len(window) * (patches + config.conditions)


def products_of(dit: Header, config: "DitConfig", patches: int, window: Window) -> float:
    """FLOP of all layers: every weight once a token, but those across time, which see no condition tokens."""
    skipped = 4 * config.width**2 * config.depth * len(window) * config.conditions
    return 2.0 * (dit.count() * tokens_of(config, patches, window) - skipped)


def largest(model: Model, plan: Plan) -> int:
    """Tokens that the transformer sees at once at most, for all copies of guidance."""
    patches = patches_of(plan.canvas)
    return copies(model, plan.shot) * max((tokens_of(model.config, patches, one) for one in plan.windows), default=0)


def attention_of(config: "DitConfig", patches: int, window: Window) -> float:
    """FLOP of all blocks: T frames of (P + K)^2 pairs in space, P places of T^2 pairs in time, 4 D a pair."""
    frames = len(window)
    pairs = frames * (patches + config.conditions) ** 2 + (patches * frames**2 if frames > 1 else 0)
    return config.depth * 4 * config.width * pairs


def decoding_of(vae: Header, patches: int) -> float:
    """FLOP to decode one frame of a long video. A convolution costs its weights once a cell of the size it
    runs at; what makes key frames and motion runs once in four frames."""
    def cells(stride: float) -> float:
        return patches * (geometry.PATCH * geometry.SPACE_STRIDE / stride) ** 2

    def products(*layers: str) -> int:
        return sum(vae.count(f"decoder.{layer}.") for layer in layers)

    once_in_four = products("stem", "deep", "fuse") / geometry.TIME_STRIDE
    return 2 * (cells(16) * (once_in_four + products("up"))
                + cells(8) * products("wide", "up2") + cells(4) * products("tail", "up3")
                + cells(4 / zoom_of(vae)) * products("to_pixels"))  # fmt: skip


def zoom_of(vae: Header) -> int:
    """Pixels painted, a side, for each that is read."""
    return 2 if vae.count("decoder.up3.") else 1


# ---- bytes ------------------------------------------------------------------------------------------------


def peak_of(memory: dict[str, float]) -> float:
    """Bytes: denoising and decoding do not happen at once, and ffmpeg runs beside the latter."""
    always = sum(memory[part] for part in ("program", "weights", "latents"))
    return always + max(memory["denoising"], memory["decoding"] + memory["encoder"] + memory["interpolation"])


def memory_of(plan: Plan, model: Model, size: int) -> dict[str, float]:
    """Bytes by part; `size` is that of one number of the transformer and the decoder."""
    shot, latents = plan.shot, latents_of(plan, model.config)
    return {
        "program": PROGRAM,
        "weights": size * (model.dit.count() + model.vae.count()) + FLOAT32 * model.text.count(),
        "denoising": size * max((activations(model, plan, window) for window in plan.windows), default=0),
        "decoding": decoder_buffers(model.vae, plan, size),
        "latents": (2 * FLOAT32 + size) * latents,         # the timeline, what is made, what is decoded
        "encoder": ENCODER + ENCODER_PIXEL * shot.width * shot.height,
    }


def activations(model: Model, plan: Plan, window: Window) -> float:
    """Numbers alive inside a block: about 14 D a token, and per head the scores in space (before and after the
    softmax) and in time (with their bias too), which grow with the square of a window's length."""
    patches, frames, config = patches_of(plan.canvas), len(window), model.config
    scores = 2 * frames * (patches + config.conditions) ** 2 + 3 * patches * frames**2
    each = 14 * config.width * tokens_of(config, patches, window) + config.heads * scores
    return copies(model, plan.shot) * each


def decoder_buffers(vae: Header, plan: Plan, size: int) -> float:
    """Bytes of the frames decoded at a time: features at 1/4, where more is painted those at 1/2 before and after a
    convolution, and pixels in `size`; then pixels in float32."""
    canvas, tail = plan.canvas, json.loads(vae.metadata["config"])["tail"]
    frames = min(plan.shot.frames, DECODED * geometry.TIME_STRIDE)
    zoom = zoom_of(vae)
    larger = tail / 4 + 12 if zoom == 2 else 0
    numbers = 3 * tail / 16 + larger + 2 * 3 * zoom**2
    return frames * canvas.width * canvas.height * (size * numbers + zoom * 3 * FLOAT32 * zoom**2)
