"""Videos and pictures in words: by pocket's own captioner, by a pretrained CoCa, or by a server that can see.

A captioner samples the frames of a file and then captions them, so that a file that is broken stops no other.
"""

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from sora_cli import registry
from sora_cli.errors import Failed, SoraError
from sora_cli.media import Frame
from sora_cli.prompts import llm

POCKET, COCA = "pocket", "coca"
STEM = "captioner"  # of the weights of our own


class Caption(NamedTuple):
    text: str  # one line of what is to be seen
    warning: str = ""  # why it may be wrong


class Captioner(Protocol):
    def sample_frames(self, name: str, say: Callable[[str], None] | None = None) -> list[Frame]:
        """The frames of a file that the captioner looks at; SoraError if it cannot be read."""

    def caption(self, frames: list[Frame]) -> Caption:
        """The caption of sampled frames."""


def is_server(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def is_path(model: str) -> bool:
    return "/" in model or model.startswith((".", "~")) or model.endswith(".safetensors")


def file_of(model: str) -> Path:
    """The weights in a folder of a run, or the file itself."""
    path = Path(os.path.expanduser(model))
    return path / f"{STEM}.safetensors" if path.is_dir() else path


def check_model(model: str) -> None:
    """Refuse a missing captioner before torch is imported; servers and the Hub are checked later."""
    if model == COCA or is_server(model):
        return
    if is_path(model):
        if not file_of(model).is_file():
            raise SoraError(f"there is no captioner {file_of(model)}; `sora-cli train captioner` makes one")
    elif model not in registry.registry():
        raise SoraError(f"unknown captioner {model!r}; use pocket, coca, weights of your own, or http://SERVER")
    elif not registry.entry(model).part(STEM):
        raise Failed(f"{model} came without a captioner; `sora-cli train captioner --out runs/captioner` makes one, "
                     "then --model ./runs/captioner")  # fmt: skip


def open_captioner(model: str, device: str = "auto", served: str | None = None, timeout: float = 120) -> Captioner:
    """The captioner called `model`: pocket, coca, a file or a folder of weights, or a server by its address.

    `served` and `timeout` in seconds are of a server: which of its models to ask, by default its first, and how long
    to wait for an answer.
    """
    if is_server(model):
        from sora_cli.captioning.server import Server

        return Server(llm.Server.at(model, served, timeout).first())
    if model == COCA:
        from sora_cli.captioning.coca import Coca

        return Coca.load(device)
    from sora_cli.captioning.pocket import Own

    return Own.load(model, device)


def is_human(name: str, share: float, seed: int = 0) -> bool:
    """Whether the human caption of a file is the one to keep. That depends on its name, the share and the seed alone:
    other files change nothing, and a larger share keeps all that a smaller one kept."""
    return random.Random(f"{seed}/{name}").random() < share


def mixed(human: Mapping[str, str], synthetic: Mapping[str, str], share: float, seed: int = 0) -> dict[str, str]:
    """One caption for every file that has any, in the order of their names. Where a file has both, the human one is
    taken for about this share of the files; SoraError for no share between 0 and 1.

    Mostly synthetic ones make a model follow prompts, a share of human ones keeps it used to how people write
    (Betker et al. 2023 found 95 % synthetic best)."""
    if not 0 <= share <= 1:
        raise SoraError(f"the share of human captions must be between 0 and 1, not {share:g}")

    def pick(name: str) -> str:
        both = name in human and name in synthetic
        return human[name] if name not in synthetic or both and is_human(name, share, seed) else synthetic[name]

    return {name: pick(name) for name in sorted({*human, *synthetic})}
