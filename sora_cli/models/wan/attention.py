"""Attention that needs little memory where a device has no fused kernel for it and makes all scores.

Letters: B batch, n heads, N queries, L keys, d width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

UNFUSED = ("mps",)  # devices that make all scores, but for a few queries
SCORES = 1 << 30  # bytes of scores in float32, and of their softmax, at a time there


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention: queries [B, n, N, d], keys and values [B, n, L, d] -> [B, n, N, d]."""
    B, n, N, _ = q.shape
    part = max(1, SCORES // (2 * B * n * k.shape[2] * torch.float32.itemsize))
    if q.device.type not in UNFUSED or part >= N:
        return F.scaled_dot_product_attention(q, k, v)
    gathered = torch.empty_like(q)
    for queries, place in zip(q.split(part, 2), gathered.split(part, 2), strict=True):
        place.copy_(F.scaled_dot_product_attention(queries, k, v))
    return gathered
