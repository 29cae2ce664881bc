"""What the training of a network has of its own; what all trainings share is in `loop`.

A recipe is a `Stage`: it builds the network, makes batches, computes the loss, draws a sheet, and exports the averaged
weights.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn

from sora_cli import media
from sora_cli.files import weights
from sora_cli.train.options import TrainOptions
from sora_cli.train.trainer.config import Losses, TrainerConfig

Options = TypeVar("Options", bound=TrainOptions)


class Stage(Generic[Options]):
    """A recipe. What is built in `__init__`: `model`, whose weights are learned, on the device, and `config`."""

    model: nn.Module
    config: TrainerConfig
    sample: Callable[[nn.Module, Path], None] | None = None  # draws a sheet with averaged weights, now and then

    def __init__(self, options: Options, device: torch.device, dtype: torch.dtype) -> None:
        self.options, self.device, self.dtype = options, device, dtype

    def batch(self, number: int) -> Any:
        """What a step learns from, a function of (seed, number); may be made in a thread, ahead of the step."""
        return number

    def loss(self, batch: Any) -> Losses:
        """Named losses of a batch; "loss" is differentiated, those named in `logger.COUNTED` are counts."""
        raise NotImplementedError

    def reached(self, batch: int, share: float) -> None:
        """Called when this share of the run is over, with the first batch that nobody has asked for yet."""

    def identity(self) -> dict[str, Any]:
        """What a run must keep from its first step to its last, beside its options."""
        return {}

    def export(self, averaged: dict[str, Tensor]) -> Path:
        """Write what was learned; returns where. Only the main process calls this."""
        raise NotImplementedError

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def save_half(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
    """Write matrices and kernels in half precision, the rest as it is, with JSON in the header."""
    halves = {k: (v.half() if v.ndim > 1 else v).contiguous() for k, v in tensors.items()}
    weights.save(path, halves, {k: json.dumps(v) for k, v in metadata.items()})
    return path


def save_sheet(path: Path, rows: list[Tensor]) -> None:
    """A PNG of rows of frames [3, T, H, W] in [-1, 1], one above the other; written whole or not at all."""
    lines = [rearrange(row.float().cpu(), "C T H W -> H (T W) C") for row in rows]
    width = max(line.shape[1] for line in lines)
    lines = [torch.nn.functional.pad(line, (0, 0, 0, width - line.shape[1]), value=-1) for line in lines]
    pixels = ((torch.cat(lines) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    media.write_image(path, pixels)
