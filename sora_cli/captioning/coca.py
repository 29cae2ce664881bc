"""open_clip's CoCa, tuned on the captions of COCO, from the Hub: for real footage. Its `generate` wants transformers;
the few lines that say the likeliest words do without."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from PIL import Image

from sora_cli.captioning import Caption
from sora_cli.captioning.constrained_decoding import Said, likeliest
from sora_cli.captioning.frames import evenly_spaced, sample_frames
from sora_cli.media import Frame
from sora_cli.placement.device import pick_device
from sora_cli.registry import hub_client

if TYPE_CHECKING:
    from open_clip.coca_model import CoCa
    from torch import Tensor

NAME, TAG = "coca_ViT-L-14", "mscoco_finetuned_laion2b_s13b_b90k"
REPO = "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k"
PAD, START, END = 0, 49406, 49407  # of CLIP's vocabulary
WORDS = [*range(PAD + 1, START), END]
MOST = 30  # tokens of a caption
FRAMES, FPS, MAX_SIDE = 3, 2.0, 512  # that it looks at, of how many a second, in pixels


class Coca:
    """CoCa captions pictures: several of a video agree on one text."""

    def __init__(self, network: "CoCa", prepare: "Callable[[Image.Image], Tensor]") -> None:
        self.network, self.prepare = network.eval().requires_grad_(False), prepare
        self.device = next(network.parameters()).device

    @classmethod
    def load(cls, device: str = "auto") -> "Coca":
        """Downloaded on first use, 2.6 GB; Failed in one line where it cannot be."""
        where = pick_device(device)
        import open_clip
        from huggingface_hub.utils import enable_progress_bars

        with hub_client.hub_errors(REPO, "main"):
            if sys.stderr.isatty():
                enable_progress_bars()  # which `hub_errors` disables; it is a large file
            path = open_clip.download_pretrained(open_clip.get_pretrained_cfg(NAME, TAG))
        network, _, prepare = open_clip.create_model_and_transforms(NAME, pretrained=path, device=where)
        return cls(network, prepare)

    def sample_frames(self, name: str, say: Callable[[str], None] | None = None) -> list[Frame]:
        return evenly_spaced(sample_frames(name, FPS, max_side=MAX_SIDE, say=say), FRAMES)

    @torch.inference_mode()
    def caption(self, frames: list[Frame]) -> Caption:
        from open_clip.tokenizer import decode

        pictures = torch.stack([self.prepare(Image.fromarray(frame)) for frame in frames]).to(self.device)
        whole, seen = self.network._encode_image(pictures)

        def scores(said: Said) -> "Tensor":
            tokens = torch.tensor([START, *said], device=self.device).expand(len(frames), -1)
            found = self.network(None, tokens, image_latent=whole, image_embs=seen, output_labels=False)
            return found["logits"][:, -1]

        text: str = decode(torch.tensor(likeliest(scores, lambda said: WORDS, END, MOST)))
        return Caption(" ".join(text.split()).removesuffix(" ."))
