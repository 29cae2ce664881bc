"""Attention that never makes all scores at once: where no fused kernel takes a case, queries come some at a time.

Letters: n heads, N queries, L keys, d width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

UNFUSED = ("mps",)  # devices whose kernel makes all scores, but for a few queries
SCORES = 1 << 30  # bytes of scores in float32, and of their softmax, at a time


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: queries [B, n, N, d], keys and values [B, n, L, d] -> [B, n, N, d]. `bias`, which
    broadcasts to [B, n, N, L], is added to the scores. While gradients are kept, so are all scores."""
    part = max(1, SCORES // (2 * q.shape[:-2].numel() * k.shape[-2] * torch.float32.itemsize))
    if torch.is_grad_enabled() or part >= q.shape[-2] or fused(q, k, v, bias):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    gathered = torch.empty_like(q)
    for start in range(0, q.shape[-2], part):
        some = slice(start, start + part)
        near = bias[..., some, :] if bias is not None and bias.shape[-2] > 1 else bias
        gathered[..., some, :] = F.scaled_dot_product_attention(q[..., some, :], k, v, attn_mask=near)
    return gathered


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> bool:
    """Whether torch has a kernel here that makes no scores: it depends on the device, the numbers and the widths."""
    return q.device.type not in UNFUSED and torch._fused_sdp_choice(q, k, v, bias) != SDPBackend.MATH.value
