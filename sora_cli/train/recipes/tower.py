"""What `train dit --align` aligns a middle block with (see `align`), where no renderer knows what is where.

`--align clip`: the video tower that `train clip` learns beside its words, a small convolutional network on two moments
of a clip. It looks at pictures of the rendered world, or at the latents of a dataset. What its second stage tells of
latents is what sort of thing is where, as far as captions tell things apart. `--align MODEL:WEIGHTS`: an image tower.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.models.sora.patches import PATCH
from sora_cli.models.sora.vae import Vae
from sora_cli.registry import hub_client

MOMENTS, GAP = 2, 0.5  # frames that the tower sees at once, seconds between them
GRID = (12, 20)  # rows and columns that latents of any canvas are seen in


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of the tower; every one is stored with its weights."""

    seen: int  # channels of a moment
    channels: tuple[int, ...]  # of the stages, of which every one halves the picture
    embed_dim: int  # of the embedding that is compared with captions


class VideoTower(nn.Module):
    """Moments stacked as channels, in stages of which every one halves the picture."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config, channels = config, config.channels
        self.numbers = channels[1]  # that `look` tells of a patch
        self.stages = nn.Sequential()
        for inside, outside in pairwise([config.seen * MOMENTS, *channels]):
            conv = nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False)
            self.stages.append(nn.Sequential(conv, nn.BatchNorm2d(outside), nn.GELU()))
        self.head = nn.Linear(2 * channels[-1], config.embed_dim)

    def forward(self, video: Tensor) -> Tensor:
        x = rearrange(video, "b t c h w -> b (t c) h w")
        x = self.stages(x.contiguous(memory_format=torch.channels_last))  # B C h w
        mean, peak = reduce(x, "b c h w -> b c", "mean"), reduce(x, "b c h w -> b c", "max")
        return self.head(torch.cat([mean, peak], dim=-1))  # B embed_dim

    @torch.no_grad()
    def look(self, latents: Tensor, seconds: Tensor, frames: Sequence[int]) -> Tensor:
        """What the second stage tells of these frames of a clip [C, T, h, w]: [N, numbers, h / 2, w / 2]."""
        seen = moments(latents, seconds, frames).to(self.head.weight)
        _, _, h, w = latents.shape
        return F.interpolate(self.dense(seen), (h // PATCH, w // PATCH), mode="bilinear")

    def dense(self, video: Tensor) -> Tensor:
        """What the second stage tells [B, numbers, h / 2, w / 2], of every place, where halving keeps every other one.
        Over all that the tower has learned from, its features are 0 in the mean and 1 in size."""
        x = self.stages[0](rearrange(video, "b t c h w -> b (t c) h w"))
        conv, norm, *_ = self.stages.get_submodule("1").children()
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        return F.batch_norm(F.conv2d(x, conv.weight, padding=1), norm.running_mean, norm.running_var)


def stride(seconds: Tensor) -> int:
    """Latents between two moments, of a clip of frames at these seconds."""
    return max(1, round(GAP / float(seconds[1]))) if len(seconds) > 1 else 0


def moments(latents: Tensor, seconds: Tensor, frames: Sequence[int]) -> Tensor:
    """Of a clip [C, T, h, w] these frames, each with those that follow in steps of about GAP: [N, MOMENTS, C, *GRID].
    What would come after the last one is the last one."""
    index = torch.tensor(frames)[:, None] + stride(seconds) * torch.arange(MOMENTS)
    found = rearrange(latents[:, index.clamp_max(len(seconds) - 1)], "C N t h w -> (N t) C h w")
    return rearrange(F.interpolate(found, GRID, mode="area"), "(N t) C h w -> N t C h w", t=MOMENTS)


def save(path: Path, tower: VideoTower, latents: str, training: Mapping[str, object]) -> None:
    """Write a tower; `latents` is the identity of the autoencoder whose latents it saw, "" if it saw pictures."""
    metadata = {"config": json.dumps(asdict(tower.config)), "latents": latents, "training": json.dumps(training)}
    weights.save(path, tower.state_dict(), metadata)


def load(path: Path, latents: str) -> VideoTower:
    """The frozen tower of a file, for latents of the autoencoder of this identity; SoraError if it saw others."""
    tensors, metadata = weights.load(path)
    if metadata["latents"] != latents:
        saw = "the latents of another VAE" if metadata["latents"] else "pictures of the rendered world"
        raise SoraError(f"{path} was trained on {saw}; `sora-cli train clip` with the dataset of `train dit` "
                        "makes one for --align clip")  # fmt: skip
    config = json.loads(metadata["config"])
    tower = VideoTower(TowerConfig(**config | {"channels": tuple(config["channels"])}))
    tower.load_state_dict(tensors, strict=True)
    return tower.eval().requires_grad_(False)


class Pretrained:
    """The features of all patches after the last layer and its norm of an image tower of open_clip, which looks at the
    pictures that latents show."""

    def __init__(self, asked: str, vae: Vae) -> None:
        import open_clip

        model, _, tag = asked.partition(":")
        network = open_clip.create_model(model, pretrained=pretrained_file(model, tag), device=vae.mean.device)
        self.vae, self.tower = vae, network.visual.eval().requires_grad_(False)
        settings = open_clip.get_model_preprocess_cfg(network)
        self.size = settings["size"]
        self.mean, self.std = (rearrange(torch.tensor(settings[key], device=vae.mean.device), "c -> c 1 1")
                               for key in ("mean", "std"))  # fmt: skip
        self.numbers = self.look(torch.zeros(vae.config.channels, 1, PATCH, PATCH), torch.zeros(1), [0]).shape[1]

    @torch.no_grad()
    def look(self, latents: Tensor, seconds: Tensor, frames: Sequence[int]) -> Tensor:
        """Features of these frames of a clip [C, T, h, w]: [N, numbers, h / 2, w / 2]."""
        alone = rearrange(latents[:, list(frames)], "C N h w -> N C 1 h w").to(self.vae.mean)
        pictures = F.interpolate(self.vae.decode(alone)[:, :, 0], self.size, mode="bilinear", antialias=True)
        found = self.tower.forward_intermediates((pictures / 2 + 0.5 - self.mean) / self.std, indices=1,
                                                 normalize_intermediates=True, intermediates_only=True)  # fmt: skip
        h, w = latents.shape[-2:]
        return F.interpolate(found["image_intermediates"][-1], (h // PATCH, w // PATCH), mode="bilinear")


def pretrained_file(model: str, tag: str) -> str:
    """The file of these weights, which are downloaded on first use; a tag may be a file."""
    import open_clip

    if model not in open_clip.list_models():
        raise SoraError(f"open_clip has no {model}; --align must be clip, geometry, off, or MODEL:WEIGHTS of open_clip")
    if Path(tag).is_file():
        return tag
    config = open_clip.get_pretrained_cfg(model, tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise SoraError(f"open_clip has no weights {tag!r} of {model}; its weights: {tags}")
    with hub_client.hub_errors(config.get("hf_hub", "").strip("/") or model, "main"):
        return str(open_clip.download_pretrained(config))
