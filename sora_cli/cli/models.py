"""What a command does with `--model`: see that its weights are there, and fill in how it is best used. No torch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sora_cli import registry
from sora_cli.cli import seeds
from sora_cli.cli.options import Sampling
from sora_cli.cli.screen import Transfers
from sora_cli.registry import hub, lora
from sora_cli.shot import Lora, Shot


def check_model(model: str, quiet: bool = False, roles: Sequence[str] = registry.ROLES) -> None:
    """Refuse, before any work, a model that is unknown, damaged or not here; a Hub model may be fetched if the user
    agrees, in silence if `quiet`."""
    entry = registry.entry(model)
    if entry.kind == "sora":
        registry.verify(entry)
    else:
        hub.ensure(entry.only(*roles), screen=Transfers(quiet))


def usual(model: str, prompt: str = "") -> Shot:
    """A shot of the size, length and settings that suit a model."""
    u = registry.entry(model).usage
    return Shot(prompt, u.negative, u.width, u.height, u.frames, u.fps, steps=u.steps, guidance=u.guidance, model=model,
                plan=u.plan)  # fmt: skip


def asked(sampling: Sampling, prompt: str, plan: str | None = None) -> Shot:
    """The same with what the user says about it."""
    told = {"steps": sampling.steps, "guidance": sampling.guidance, "negative": sampling.negative, "plan": plan}
    said: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    said |= {"seed": seeds.number(sampling.seed), "loras": loras_of(sampling.lora)}
    return replace(usual(sampling.model, prompt), **said)


def loras_of(texts: Sequence[str] | None) -> tuple[Lora, ...]:
    """What `--lora` names, the files being there and whole."""
    loras = tuple(Lora.parse(text) for text in texts or ())
    lora.check(loras)
    return loras
