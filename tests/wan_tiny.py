"""What tests of the engine on tiny Wan checkpoints share."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wan_folders

from sora_cli import registry
from sora_cli.geometry import Canvas
from sora_cli.placement import memory
from sora_cli.placement.memory import Placement
from sora_cli.registry import SamplingDefaults
from sora_cli.registry.networks import Network
from sora_cli.shot import Shot

USAGE = SamplingDefaults(96, 64, 24.0, 17, 3, 5.0, "", "sliding", "unipc", 5.0, window=5, context=2, trained=("start",))
SHOT = Shot("a cat on a boat", "bad", 96, 64, 17, 24.0, seed=3, steps=3, guidance=5.0, model="tiny", plan="sliding")
ROLES = {"dit": "transformer", "vae": "vae", "text": "text_encoder", "tokenizer": "tokenizer"}
CELLS = {wan_folders.WAN22: 16, wan_folders.WAN21: 8, wan_folders.SKYREELS2: 8}
TWO: dict[str, dict[str, Any]] = {  # how models of two transformers are used otherwise
    wan_folders.A14B: {"boundary": 0.875, "guidance_low": 3.0, "known_noise": 1000},
    wan_folders.A14B_I2V: {"boundary": 0.9, "conditioned": True, "context": 1},
}


def entry_of(kind: str, network: Network | None = None, **usage: Any) -> registry.Entry:
    """The registry's entry of a tiny checkpoint, which may be told to be as large as another; keywords change how it is
    used."""
    usage = TWO.get(kind, {}) | usage
    return registry.Entry("tiny", "wan", "a test", cell=CELLS.get(kind, 8), usage=replace(USAGE, **usage),
                          network=network)  # fmt: skip


def place(monkeypatch: pytest.MonkeyPatch, placement: Placement) -> None:
    """Networks lie like this, whatever is free: of tiny ones nobody says how large they are."""
    def needs(entry: registry.Entry, canvas: Canvas, window: int, latents: int, size: int, half: str, loras: Any,
              draft: bool) -> SimpleNamespace:  # fmt: skip
        return SimpleNamespace(width=canvas.width, height=canvas.height, window=window, draft=draft)

    monkeypatch.setattr(memory, "needs_of", needs)
    monkeypatch.setattr(memory, "choose", lambda *words: placement)


def locate(folder: Path) -> dict[str, Path]:
    """Where the parts of a checkpoint are."""
    there = folder / "transformer_2"
    return {role: folder / name for role, name in ROLES.items()} | ({"dit_low": there} if there.is_dir() else {})
