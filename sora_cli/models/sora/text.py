"""The conditioning text tower: open_clip's CLIP text transformer, in torch alone.

It reads the weights that `sora-cli train clip` learned through open_clip (same names, same numbers;
a test holds the two together), so that `generate` never pays for importing open_clip.
"""

import json
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import LongTensor, Tensor, nn

PAD, START, UNKNOWN = 0, 1, 2
RESERVED = 4                                  # the three above and end-of-text, which comes last


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the tower; every one is stored with its weights."""

    vocab_size: int      # words of the vocabulary + 4
    context: int         # L: tokens of one text, start and end included
    width: int           # D
    heads: int
    layers: int
    embed_dim: int       # of the pooled embedding that is compared with videos

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.context < 3 or self.vocab_size <= RESERVED:
            raise ValueError(f"context {self.context} or vocabulary {self.vocab_size} is too small")


class Tokenizer:
    """Words to numbers: 0 pad, 1 start, 2 unknown, the vocabulary, and end-of-text as the highest."""

    def __init__(self, vocabulary: Sequence[str], context: int) -> None:
        self.vocabulary, self.context = list(vocabulary), context
        self.ids = {word: UNKNOWN + 1 + i for i, word in enumerate(self.vocabulary)}
        self.end = len(self.vocabulary) + RESERVED - 1
        assert len(self.ids) == len(self.vocabulary), "a word is twice in the vocabulary"
        assert all(words(word) == [word] for word in self.ids), "the vocabulary holds more than plain words"

    @property
    def vocab_size(self) -> int:
        return self.end + 1

    @property
    def most(self) -> int:
        """Words of a text that are read."""
        return self.context - 2

    def encode(self, texts: Sequence[str]) -> LongTensor:
        """Token numbers [B, L]; what does not fit the context is cut off before the end-of-text token."""
        rows = torch.full((len(texts), self.context), PAD)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.ids.get(word, UNKNOWN) for word in words(text)][: self.most]
            row[: len(ids) + 2] = torch.tensor([START, *ids, self.end])
        return rows                                                                 # type: ignore[return-value]

    def oov_words(self, text: str) -> list[str]:
        """The words of `text` that the model never learned, each once, in order."""
        return list(dict.fromkeys(word for word in words(text) if word not in self.ids))


def longer(text: str, most: int) -> bool:
    """Whether a text has more words than so many that are read of one."""
    return len(words(text)) > most


def words(text: str) -> list[str]:
    """Lower-case words without punctuation: "The cat's ball!" is the, cats, ball."""
    return re.findall(r"[^\W_]+", re.sub(r"['’]", "", unicodedata.normalize("NFC", text).lower()))


class Attention(nn.Module):
    """Causal self-attention under the parameter names of nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)                   # B L 3D
        q, k, v = rearrange(qkv, "b l (n h d) -> n b h l d", n=3, h=self.heads)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)                 # B h L d
        return self.out_proj(rearrange(x, "b h l d -> b l (h d)"))                  # B L D


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        widen, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=widen, gelu=nn.GELU(), c_proj=narrow))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TextFeatures(NamedTuple):
    tokens: Tensor       # B L D, after the last norm, zero behind the end-of-text token
    pooled: Tensor       # B embed_dim, of length 1
    mask: Tensor        # B L bool: which tokens are text and not padding


class TextTower(nn.Module):
    """CLIP's text transformer (Radford et al. 2021, as in open_clip): causal, pre-norm, pooled at the end."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.context, config.width))
        blocks = (Block(config.width, config.heads) for _ in range(config.layers))
        self.transformer = nn.Sequential(OrderedDict(resblocks=nn.Sequential(*blocks)))
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(config.width**-0.5 * torch.randn(config.width, config.embed_dim))

    def forward(self, tokens: Tensor) -> TextFeatures:
        end = tokens.argmax(-1, keepdim=True)                                       # B 1
        mask = torch.arange(tokens.shape[1], device=tokens.device) <= end          # B L
        x = self.token_embedding(tokens) + self.positional_embedding                # B L D
        x = self.ln_final(self.transformer(x))                                      # B L D
        pooled = x.take_along_dim(end[..., None], dim=1)[:, 0]                      # B D
        pooled = F.normalize(pooled @ self.text_projection, dim=-1)                 # B embed_dim
        return TextFeatures(x * mask[..., None], pooled, mask)


def from_weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[Tokenizer, TextTower]:
    """The tokenizer and the frozen tower that a file written by `sora-cli train clip` holds."""
    config = TextConfig(**json.loads(metadata["config"]))
    tower = TextTower(config)
    tower.load_state_dict(tensors, strict=True)
    return tokenizer_of(metadata), tower.eval().requires_grad_(False)


def tokenizer_of(metadata: Mapping[str, str]) -> Tokenizer:
    """The tokenizer alone, which is in the header of such a file."""
    return Tokenizer(json.loads(metadata["vocabulary"]), json.loads(metadata["config"])["context"])


def text_weights(clip: nn.Module) -> dict[str, Tensor]:
    """The text tower's part of an open_clip CLIP (or TextTransformer), under the names used here."""
    parts = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
    return {name: value.detach().cpu() for name, value in clip.state_dict().items() if name.startswith(parts)}
