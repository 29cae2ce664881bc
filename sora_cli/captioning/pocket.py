"""Pocket's captioner: the network that `sora-cli train captioner` makes, which knows the rendered world alone."""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sora_cli import registry
from sora_cli.captioning import STEM, Caption, check_model, file_of, is_path
from sora_cli.captioning.constrained_decoding import Grammar, Said, likeliest
from sora_cli.captioning.frames import evenly_spaced, sample_frames
from sora_cli.errors import Failed
from sora_cli.files import weights
from sora_cli.media import Frame
from sora_cli.models.sora.captioner import FRAMES, HEIGHT, RATE, WIDTH, Captioner, from_weights
from sora_cli.models.sora.text import START, Tokenizer
from sora_cli.placement.device import pick_device

OUT_OF_DOMAIN = "unlike the world that pocket was trained on; for real footage, use --model coca or a server"
CLIPS = 4  # of a video longer than the network looks at once


class Own:
    """The network with its words and its grammars: one of clips, and one of stills, which show no motion.

    `threshold` is how alike, at least, almost all videos of its world and their captions are."""

    def __init__(self, network: Captioner, tokenizer: Tokenizer, grammars: Mapping[str, Sequence[Sequence[str]]],
                 threshold: float = -1.0) -> None:  # fmt: skip
        self.network, self.tokenizer, self.threshold = network, tokenizer, threshold
        self.clip, self.still = (Grammar(grammars[kind], tokenizer) for kind in ("clip", "still"))
        self.device = next(network.parameters()).device

    @classmethod
    def load(cls, model: str, device: str = "auto") -> "Own":
        """The captioner of a shipped model, or of a file or folder of weights."""
        where = pick_device(device)
        check_model(model)
        tensors, metadata = (weights.load(file_of(model)) if is_path(model)
                             else registry.load_model_files(registry.entry(model), STEM))  # fmt: skip
        try:
            network = from_weights(tensors, metadata).to(where)
            vocabulary, grammars, threshold = (json.loads(metadata[key]) for key in ("vocabulary", "grammar", "usual"))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise Failed(f"{model} does not contain a captioner; `sora-cli train captioner` makes one") from error
        return cls(network, Tokenizer(vocabulary, network.config.context), grammars, threshold)

    def sample_frames(self, name: str, say: Callable[[str], None] | None = None) -> list[Frame]:
        return sample_frames(name, RATE, (WIDTH, HEIGHT), say=say)

    @torch.inference_mode()
    def caption(self, frames: list[Frame]) -> Caption:
        video = torch.from_numpy(np.stack(clips(frames))).to(self.device)
        video = rearrange(video, "b t h w c -> b t c h w").float() / 255
        seen = self.network.video(video)
        text = self.say(seen, self.still if len(frames) == 1 else self.clip)
        return Caption(text, "" if self.alike(seen, text) >= self.threshold else OUT_OF_DOMAIN)

    def say(self, seen: Tensor, grammar: Grammar) -> str:
        """The likeliest sentence about the tokens [clips, N, D] of one video."""

        def scores(said: Said) -> Tensor:
            tokens = torch.tensor([START, *said], device=seen.device).expand(len(seen), -1)
            return self.network.decode(self.network.encode_text(tokens), seen)[:, -1]

        most = self.network.config.context - 2
        return grammar.written(likeliest(scores, lambda said: sorted(grammar.next(said)), grammar.end, most))

    def alike(self, seen: Tensor, text: str) -> float:
        """The cosine between the tokens [clips, N, D] of one video and a text, each as a whole."""
        tokens = self.tokenizer.encode([text]).to(seen.device)
        whole = self.network.pool_text(self.network.encode_text(tokens), tokens)
        return float((self.network.pool_video(seen) * whole).sum(-1).mean())


def clips(frames: list[Frame]) -> list[np.ndarray]:
    """What the network looks at, [9, h, w, 3] each: a few times two seconds, evenly over all frames, or once at the
    beginning, which captions tell of. The last frame of a short video stays."""
    starts = evenly_spaced(list(range(len(frames) - FRAMES + 1)), CLIPS) if len(frames) >= 2 * FRAMES else [0]
    last = len(frames) - 1
    return [np.stack([frames[min(start + i, last)] for i in range(FRAMES)]) for start in starts]
