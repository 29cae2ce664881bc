"""What a command does with `--model`: see that its weights are there, and fill in how it is best used. No torch."""

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from sora_cli import geometry, registry
from sora_cli.cli import seeds
from sora_cli.cli.options import Sampling
from sora_cli.cli.screen import Transfers
from sora_cli.errors import SoraError
from sora_cli.registry import Entry, hub, lora
from sora_cli.shot import Lora, Shot, check_range


def check_model(entry: Entry, quiet: bool = False, roles: Sequence[str] = registry.ROLES) -> None:
    """Refuse a damaged or missing model; a Hub model may be downloaded after asking."""
    if entry.parts:
        hub.ensure(entry.only(*roles), screen=Transfers(quiet))
    else:
        registry.verify(entry)


def default_shot(entry: Entry, prompt: str = "") -> Shot:
    """A shot of the size, length and settings that suit a model."""
    u = entry.usage
    return Shot(prompt, u.negative, u.width, u.height, u.frames, u.fps, steps=u.steps, guidance=u.guidance,
                model=entry.name, plan=u.plan, guidance_low=u.guidance_low)  # fmt: skip


def weights_of(entry: Entry) -> dict[str, list[str]]:
    """Hashes that tell two local models of the same name apart; empty for registered models."""
    own = entry.name not in registry.registry()
    return {"weights": [file.sha256 for file in entry.files]} if own and entry.files else {}


def frames_at(fps: float, shot: Shot, usage: registry.SamplingDefaults) -> int:
    """The frames of a shot of equal length at another rate. A model with one fixed rate makes no more frames than
    before: one more would need another window."""
    check_range("fps", fps, 1, 120)
    if "fps" in usage.trained or shot.fps != usage.fps:
        return geometry.frames_for(shot.seconds, fps)
    ratio = Fraction(fps).limit_denominator(1000) / Fraction(shot.fps).limit_denominator(1000)
    return int((shot.frames - 1) * ratio) + 1


def shot_of(entry: Entry, sampling: Sampling, prompt: str, plan: str | None = None) -> Shot:
    """The default shot of a model, changed by the user's options."""
    chosen = {"steps": sampling.steps, "negative": sampling.negative, "plan": plan}
    said: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    said |= {"seed": seeds.number(sampling.seed), "loras": loras_of(sampling.lora)} | guidance_of(sampling.guidance)
    return fitting(replace(default_shot(entry, prompt), **said), entry)


def guidance_of(text: str | None) -> dict[str, float]:
    """The fields of a shot that `--guidance` sets: one number for all, or one for each of two transformers."""
    if text is None:
        return {}
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(map(math.isfinite, numbers)):
        raise SoraError(f"--guidance is {text!r}; write a number like 4, or two of them like 4,3")
    if numbers[1:] == [0.0]:
        raise SoraError(f"--guidance is {text!r}; the second number, for low noise, must be above 0")
    return {"guidance": numbers[0], "guidance_low": numbers[1] if numbers[1:] else 0.0}


def fitting(shot: Shot, entry: Entry) -> Shot:
    """The shot; SoraError if it has settings for two transformers and its model has only one."""
    if not entry.usage.boundary:
        lora.check_alone(shot.loras, entry.name)
        if shot.guidance_low:
            raise SoraError(f"{entry.name} has only one transformer; give --guidance one number")
    return shot


def loras_of(texts: Sequence[str] | None) -> tuple[Lora, ...]:
    """The LoRAs that `--lora` names; SoraError or Failed if a file is missing or damaged."""
    loras = tuple(Lora.parse(text) for text in texts or ())
    lora.check(loras)
    return loras
