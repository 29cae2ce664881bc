"""Image towers of open_clip, for `train dit --align MODEL:WEIGHTS`, which look at the pictures that latents show."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from sora_cli.errors import SoraError
from sora_cli.models.sora.patches import PATCH
from sora_cli.models.sora.vae import Vae
from sora_cli.registry import hub_client


class Pretrained:
    """The features of all patches after the last layer and its norm."""

    def __init__(self, asked: str, vae: Vae) -> None:
        import open_clip

        model, _, tag = asked.partition(":")
        network = open_clip.create_model(model, pretrained=found(model, tag), device=vae.mean.device)
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


def found(model: str, tag: str) -> str:
    """The file of these weights, which are downloaded on first use; a tag may be a file."""
    import open_clip

    if model not in open_clip.list_models():
        raise SoraError(f"open_clip has no {model}; --align is clip, geometry, off, or MODEL:WEIGHTS of open_clip")
    if Path(tag).is_file():
        return tag
    config = open_clip.get_pretrained_cfg(model, tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise SoraError(f"open_clip has no weights {tag!r} of {model}; there are {tags}")
    with hub_client.hub_errors(config.get("hf_hub", "").strip("/") or model, "main"):
        return str(open_clip.download_pretrained(config))
