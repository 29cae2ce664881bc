"""The judge: a small convolutional network that names the subject, the action and the place of a clip.

It shares nothing with the text tower or its training (other architecture, other seed, labels instead of
captions), so that it can judge what the text tower steers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

HEIGHT, WIDTH = 72, 120
FRAMES, GAP = 9, 0.25                 # what it looks at: frames, seconds between them
SPAN = (FRAMES - 1) * GAP             # seconds of one look


@dataclass(frozen=True)
class EvaluatorConfig:
    """Class names in the order of the outputs, and the width of every stage."""

    subjects: tuple[str, ...]
    actions: tuple[str, ...]
    places: tuple[str, ...]
    channels: tuple[int, ...]


class Labels(NamedTuple):
    """Scores or class numbers of the three things that are judged."""

    subject: Tensor
    action: Tensor
    place: Tensor


class ShiftedConv(nn.Module):
    """A 3x3 convolution that sees a quarter of its channels one frame early and a quarter one frame late:
    motion at the price of a picture (temporal shift, Lin et al. 2019)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(shift(x))))


def shift(x: Tensor) -> Tensor:
    """The first quarter of the channels of [(B T), C, H, W] one frame later, the second one earlier."""
    clip = rearrange(x, "(b t) c h w -> b t h w c", t=FRAMES)  # channels last, as they lie in memory
    early, late, here = clip.tensor_split((x.shape[1] // 4, x.shape[1] // 2), dim=-1)
    early, late = F.pad(early, (0, 0) * 3 + (1, 0))[:, :-1], F.pad(late, (0, 0) * 3 + (0, 1))[:, 1:]
    return rearrange(torch.cat([early, late, here], dim=-1), "b t h w c -> (b t) c h w")


class Evaluator(nn.Module):
    """Clips [B, 9, 3, 72, 120] in [0, 1], frames 0.25 s apart -> scores of all subjects, actions, places."""

    def __init__(self, config: EvaluatorConfig) -> None:
        super().__init__()
        self.config = config
        stem, *channels = config.channels
        self.stem = nn.Conv2d(3, stem, 7, stride=4, padding=3)
        self.stages = nn.Sequential(
            *(ShiftedConv(i, o, 1 if i == stem else 2) for i, o in pairwise(config.channels))
        )
        self.subject = nn.Linear(2 * channels[-1], len(config.subjects))
        self.action = nn.Linear(2 * channels[-1], len(config.actions))
        self.place = nn.Linear(2 * channels[-1], len(config.places))

    def features(self, video: Tensor) -> Tensor:
        """What is seen, before it is named: [B, features]."""
        x = rearrange(video, "b t c h w -> (b t) c h w") * 2 - 1
        x = F.relu(self.stem(x.contiguous(memory_format=torch.channels_last)))      # (B T) C H/4 W/4
        x = self.stages(x)                                                          # (B T) C h w
        mean, peak = reduce(x, "n c h w -> n c", "mean"), reduce(x, "n c h w -> n c", "max")
        return reduce(torch.cat([mean, peak], -1), "(b t) c -> b c", "mean", b=len(video))

    def forward(self, video: Tensor) -> Labels:
        x = self.features(video)
        return Labels(self.subject(x), self.action(x), self.place(x))


class Named(NamedTuple):
    """What the network says that a clip shows, in the words of the world."""

    subject: str
    action: str
    place: str


def shrink(frames: Tensor) -> Tensor:
    """Frames [T, 3, H, W] at the size that the network looks at."""
    return F.interpolate(frames, (HEIGHT, WIDTH), mode="bilinear", antialias=True)


def looked_at(video: Tensor, fps: float, start: float = 0.0) -> Tensor:
    """The frames [1, 9, 3, 72, 120] of a shrunken video that the network looks at from second `start` on."""
    index = [round((start + i * GAP) * fps) for i in range(FRAMES)]
    assert index[-1] < len(video), f"{len(video)} frames at {fps} fps end before {start + SPAN} s"
    return video[None, index]


@torch.inference_mode()
def name(network: Evaluator, video: Tensor, fps: float, start: float = 0.0) -> Named:
    """Name one shrunken video [T, 3, 72, 120] in [0, 1] by the two seconds that begin at `start`."""
    numbers = [int(scores.argmax()) for scores in network(looked_at(video, fps, start))]
    config = network.config
    return Named(config.subjects[numbers[0]], config.actions[numbers[1]], config.places[numbers[2]])


@torch.inference_mode()
def subjects(network: Evaluator, video: Tensor, fps: float, count: int) -> frozenset[str]:
    """The likeliest subjects of a shrunken video."""
    best = network(looked_at(video, fps)).subject[0].topk(count).indices.tolist()
    return frozenset(network.config.subjects[number] for number in best)


def from_weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Evaluator:
    """The frozen network that `sora_cli.train.evaluator` exported."""
    fields = {name: tuple(value) for name, value in json.loads(metadata["config"]).items()}
    network = Evaluator(EvaluatorConfig(**fields))
    network.load_state_dict(dict(tensors), strict=True)      # half-precision weights become float32 in here
    return network.eval().requires_grad_(False)
