"""UMT5's encoder, the text tower of the Wan models, and its tokenizer.

T5 (Raffel et al. 2020) with GELU gates, in the multilingual form (Chung et al. 2023) where every layer learns its
own biases for relative positions. Parameter names are those of the published checkpoints. A text is encoded at
its own length; Wan wants it followed by zeros up to 512 tokens, and attends to all of them. Tables begin with uniform
numbers, which a checkpoint replaces: normal ones on the meta device would have torch import its compiler, for seconds.

Letters: L tokens of a text, D width, n heads, d width of a head.
"""

import html
import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from tokenizers import Encoding, Tokenizer
from torch import LongTensor, Tensor, nn

from sora_cli.errors import SoraError
from sora_cli.models.wan.configs import CONTEXT, Umt5Config

END, TRIAL = "</s>", "a cat \u732b \U0001f408"  # the token that ends a text, and one that has known and unknown letters


# -- Words to numbers -------------------------------------------------------------------------------------


def clean(prompt: str) -> str:
    """A prompt as the Wan models were trained to see it: mended characters, no entities, single spaces."""
    import ftfy  # slow to import; open_clip, which the project's own text tower is trained with, brings it along

    prompt = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", prompt).strip()


class Umt5Tokenizer:
    """Reads a checkpoint's tokenizer.json. Every text ends in the end-of-text token, even one cut to the context."""

    def __init__(self, path: Path, context: int = CONTEXT) -> None:
        if not path.is_file():
            raise SoraError(f"{path} is missing: the text encoder's tokenizer.json belongs there")
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the only class that the library raises
            raise SoraError(f"{path} is not a tokenizer ({ascii(str(error))[1:-1][:100]}); fetch it again") from error
        self.path = path
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(context)
        tried = self.tokens(TRIAL).tokens
        if len(tried) < 2 or tried[-1] != END:
            raise SoraError(f"{path} is not the tokenizer of UMT5: it reads {TRIAL!r} as {ascii(tried)[:100]}")

    def tokens(self, prompt: str) -> Encoding:
        """A cleaned prompt in tokens; SoraError where the file does not know how."""
        try:
            return self.tokenizer.encode(clean(prompt))
        except Exception as error:  # the only class that the library raises
            raise SoraError(f"{self.path} cannot read a prompt ({ascii(str(error))[1:-1][:100]}); fetch it again"
                            ) from error  # fmt: skip

    def encode(self, prompt: str) -> LongTensor:
        """Token numbers [L]; L is at most the context."""
        return torch.tensor(self.tokens(prompt).ids)  # type: ignore[return-value]

    def unread(self, prompt: str) -> str:
        """What of a prompt lies behind the context; "" if it is read as a whole."""
        found = self.tokens(prompt)
        return clean(prompt)[max(end for _, end in found.offsets) :].strip() if found.overflowing else ""


# -- The encoder ------------------------------------------------------------------------------------------


class Norm(nn.Module):
    """A root-mean-square norm that is computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        size = x.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(size + self.eps)).to(self.weight.dtype)


class Attention(nn.Module):
    def __init__(self, c: Umt5Config) -> None:
        super().__init__()
        self.config, inner = c, c.heads * c.head_width
        self.q, self.k, self.v = (nn.Linear(c.width, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, c.width, bias=False)
        self.relative_attention_bias = nn.Embedding.from_pretrained(torch.rand(c.buckets, c.heads), freeze=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (rearrange(part(x), "L (n d) -> 1 n L d", d=self.config.head_width)
                   for part in (self.q, self.k, self.v))  # fmt: skip
        bias = self.relative_attention_bias(distances(len(x), self.config, x.device))  # (L, L, n)
        bias = rearrange(bias, "q k n -> 1 n q k")
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)  # (1, n, L, d)
        return self.o(rearrange(x, "1 n L d -> L (n d)"))  # (L, D)


class GatedMlp(nn.Module):
    def __init__(self, c: Umt5Config) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(c.width, c.hidden, bias=False) for _ in range(2))
        self.wo = nn.Linear(c.hidden, c.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class Layer(nn.Module):
    """One half of a block, x + part(norm(x)); checkpoints call the part by what it is."""

    def __init__(self, c: Umt5Config, name: str, part: nn.Module) -> None:
        super().__init__()
        self.name, self.layer_norm = name, Norm(c.width, c.eps)
        self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.get_submodule(self.name)(self.layer_norm(x))


class Block(nn.Module):
    def __init__(self, c: Umt5Config) -> None:
        super().__init__()
        self.layer = nn.Sequential(Layer(c, "SelfAttention", Attention(c)), Layer(c, "DenseReluDense", GatedMlp(c)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Stack(nn.Module):
    def __init__(self, c: Umt5Config) -> None:
        super().__init__()
        self.block = nn.Sequential(*(Block(c) for _ in range(c.layers)))
        self.final_layer_norm = Norm(c.width, c.eps)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.final_layer_norm(x)


class Umt5(nn.Module):
    """Text features for Wan, of one text at a time."""

    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding.from_pretrained(torch.rand(config.vocabulary, config.width), freeze=False)
        self.encoder = Stack(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers [L] -> features [L, D]."""
        return self.encoder(self.shared(tokens))


def distances(length: int, config: Umt5Config, device: torch.device) -> Tensor:
    """Every pair's bucket [L, L]: half for later keys; near ones one by one, then logarithmic up to `reach`."""
    positions = torch.arange(length, device=device)
    gap = positions[None, :] - positions[:, None]  # (query, key)
    half, exact = config.buckets // 2, config.buckets // 4
    far = torch.log(gap.abs().clamp_min(1).float() / exact) / math.log(config.reach / exact) * (half - exact)
    far = (exact + far.long()).clamp_max(half - 1)
    return half * (gap > 0) + torch.where(gap.abs() < exact, gap.abs(), far)


def padded(features: Tensor, context: int = CONTEXT) -> Tensor:
    """Features [L, D] with zeros behind them: [1, context, D], as the transformer takes them."""
    if len(features) > context:
        raise ValueError(f"{len(features)} tokens do not fit a context of {context}")
    return F.pad(features, (0, 0, 0, context - len(features)))[None]
