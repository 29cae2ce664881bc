"""How fast this machine multiplies: products of matrices and attention, measured for a moment."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MEASURED = 0.3  # seconds that something is repeated for
ROWS = {"cpu": 1024, "mps": 4096, "cuda": 16384}  # tokens that keep a device busy
MOST_ROWS = max(ROWS.values())  # more are no faster, and take memory
WIDTH, HEADS, HEAD_WIDTH = 1536, 4, 128


@dataclass(frozen=True)
class Rates:
    """FLOP/s of matrix products and attention in the transformer's numbers, and of products in float32."""

    products: float
    attention: float
    exact: float


@cache
def rates(device: "torch.device", dtype: "torch.dtype") -> Rates:
    """What the device reaches on matrices of the width of a Hub model."""
    import torch

    rows = ROWS[device.type]
    products = {numbers: product_rate(rows, WIDTH, device, numbers) for numbers in {dtype, torch.float32}}
    return Rates(products[dtype], attention_rate(rows, device, dtype), products[torch.float32])


@cache
def product_rate(rows: int, width: int, device: "torch.device", dtype: "torch.dtype") -> float:
    """FLOP/s of [rows, D] x [D, 4 D], the best of repeated products; measured once in a process."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, width, generator=generator).to(device, dtype)
    right = torch.randn(4 * width, width, generator=generator).to(device, dtype)
    return 2 * rows * width * 4 * width / best(lambda: torch.nn.functional.linear(left, right), device)


def attention_rate(tokens: int, device: "torch.device", dtype: "torch.dtype") -> float:
    """FLOP/s of attention among [heads, N, d]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, HEADS, tokens, HEAD_WIDTH, generator=generator).to(device, dtype)
    attend = torch.nn.functional.scaled_dot_product_attention
    return 4 * tokens**2 * HEADS * HEAD_WIDTH / best(lambda: attend(x, x, x), device)


def best(work: Callable[[], object], device: "torch.device") -> float:
    """Seconds that some work takes, undisturbed."""
    import torch

    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    fastest, end = float("inf"), time.perf_counter() + MEASURED
    while time.perf_counter() < end:
        started = time.perf_counter()
        work()
        wait()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest
