"""The judge: two small convolutional networks that name the subjects, the action and the place of a clip.

One knows what there is, from a few frames; the other, with few channels, how it moves, from all of them (as SlowFast,
Feichtenhofer et al. 2019). Both say it for every cell of a frame, so that two subjects are no harder than one.

They share nothing with the text tower or its training (other architecture, other seed, labels instead of captions), so
that they can judge what the text tower steers.
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

from sora_cli.models.sora.conv import ShiftedConv

HEIGHT, WIDTH = 72, 120
FRAMES, GAP = 10, 5 / 24              # what it looks at: frames, and seconds between them; no motion repeats so soon
SPAN = (FRAMES - 1) * GAP             # seconds of one look
STILLS = 3                            # every so many frames, what there is is looked at
CELL = 8                              # pixels of a cell
LAST = torch.channels_last


@dataclass(frozen=True)
class EvaluatorConfig:
    """Class names in the order of the outputs, and the width of every stage of both networks."""

    subjects: tuple[str, ...]
    actions: tuple[str, ...]
    places: tuple[str, ...]
    what: tuple[int, ...]
    how: tuple[int, ...]


class Labels(NamedTuple):
    """Scores or class numbers of the three things that are judged: of subject and action in every cell of a frame,
    where one class more is nobody's; of the place once a clip."""

    subject: Tensor
    action: Tensor
    place: Tensor


def stages(channels: tuple[int, ...], strides: tuple[int, ...], frames: int) -> nn.Sequential:
    """Convolutions, the first of them with a larger kernel and in every frame for itself."""
    first = ShiftedConv(3, channels[0], 0, kernel=5, stride=strides[0])
    sizes = zip(pairwise(channels), strides[1:], strict=True)
    return nn.Sequential(first, *(ShiftedConv(i, o, frames, stride=stride) for (i, o), stride in sizes))


class Evaluator(nn.Module):
    """Clips [B, 10, 3, 72, 120] in [0, 1], frames 5/24 s apart -> scores of all subjects, actions, places."""

    def __init__(self, config: EvaluatorConfig) -> None:
        super().__init__()
        self.config = config
        self.what = stages(config.what, (2, 2, 2, 1), frames=0)
        self.how = stages(config.how, (2, 2, 1, 1), frames=FRAMES)
        self.subject = nn.Linear(config.what[-1], len(config.subjects) + 1)
        self.action = nn.Linear(config.how[-1], len(config.actions) + 1)
        self.place = nn.Linear(config.what[-1], len(config.places))

    def seen(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """What there is in every cell of some frames, and how it moves in every cell of all: [B, T, C, h, w] each."""
        stills, half = frames_of(video[:, ::STILLS]), F.avg_pool2d(frames_of(video), 2)
        what, how = self.what(stills.contiguous(memory_format=LAST)), self.how(half.contiguous(memory_format=LAST))
        return what.unflatten(0, (len(video), -1)), how.unflatten(0, (len(video), -1))

    def features(self, video: Tensor) -> Tensor:
        """What is seen, before it is named: [B, features]."""
        return torch.cat([reduce(x, "b t c h w -> b c", "mean") for x in self.seen(video)], -1)

    def forward(self, video: Tensor) -> Labels:
        what, how = self.seen(video)
        return Labels(
            self.subject(rearrange(what, "b t c h w -> b t h w c")),
            self.action(rearrange(how, "b t c h w -> b t h w c")),
            self.place(reduce(what, "b t c h w -> b c", "mean")),
        )


def frames_of(video: Tensor) -> Tensor:
    return rearrange(video, "b t c h w -> (b t) c h w")


def filled(scores: Tensor) -> Tensor:
    """How many cells each class fills, but for nobody: [B, T, h, w, classes + 1] -> [B, classes]."""
    return reduce(scores.float().softmax(-1)[..., :-1], "b t h w k -> b k", "sum")


class Named(NamedTuple):
    """What the network says that a clip shows, in the words of the world."""

    subjects: frozenset[str]
    action: str
    place: str


def shrink(frames: Tensor) -> Tensor:
    """Frames [T, 3, H, W] at the size that the network looks at."""
    return F.interpolate(frames, (HEIGHT, WIDTH), mode="bilinear", antialias=True)


def moments(start: float = 0.0) -> Tensor:
    """The seconds of the frames that it looks at, from `start` on."""
    return start + GAP * torch.arange(FRAMES)


def looked_at(video: Tensor, fps: float, start: float = 0.0) -> Tensor:
    """These frames [1, 10, 3, 72, 120] of a shrunken video."""
    index = (moments(start) * fps).round().long()
    assert index[-1] < len(video), f"{len(video)} frames at {fps} fps end before {start + SPAN} s"
    return video[None, index]


def name(network: Evaluator, video: Tensor, fps: float, start: float = 0.0, count: int = 1) -> Named:
    """Name one shrunken video [T, 3, 72, 120] in [0, 1] by the two seconds that begin at `start`."""
    return classify(network, looked_at(video, fps, start), count)


@torch.inference_mode()
def classify(network: Evaluator, clip: Tensor, count: int = 1) -> Named:
    """Name the `count` subjects of a clip [1, 10, 3, 72, 120] that there are most of, its action and its place."""
    scores, config = network(clip), network.config
    subjects = filled(scores.subject)[0].topk(count).indices.tolist()
    return Named(
        frozenset(config.subjects[number] for number in subjects),
        config.actions[int(filled(scores.action).argmax())],
        config.places[int(scores.place.argmax())],
    )


def from_weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Evaluator:
    """The frozen network that `sora_cli.train.recipes.evaluator` exported."""
    fields = {name: tuple(value) for name, value in json.loads(metadata["config"]).items()}
    network = Evaluator(EvaluatorConfig(**fields))
    network.load_state_dict(dict(tensors), strict=True)      # half-precision weights become float32 in here
    return network.eval().requires_grad_(False)
