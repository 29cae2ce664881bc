"""Where the tensors live and in which precision, the same for using and for training models."""

import ctypes
import os
from contextlib import suppress

import torch

from sora_cli.errors import SoraError, be, counted
from sora_cli.placement import machine

AMPERE = 8  # CUDA's compute capability from which on cards multiply in bfloat16
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGE, LARGEST, KEPT = 1 << 20, 32 << 20, 256 << 20  # bytes; the largest threshold that glibc takes is LARGEST


def pick_device(name: str) -> torch.device:
    """"auto" is CUDA, then Apple's MPS, then the CPU; a SoraError for a device that is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if there[n])
    if not there.get(name, False):
        found = ", ".join(n for n, ok in there.items() if ok)
        raise SoraError(f"device {name} is not available here; available: {found}")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device, large: bool = False) -> torch.dtype:
    """"auto" is bfloat16 where the processor multiplies in it, and for large networks on MPS; for these, which bear it,
    float16 on older CUDA cards; else float32. A SoraError for bfloat16 where MPS does not have it."""
    if name == "auto":
        return suited(device, large)
    if name == "bfloat16" and not has_bfloat16(device):
        raise SoraError("bfloat16 needs macOS 14 or later on this device; use --dtype float32")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def suited(device: torch.device, large: bool) -> torch.dtype:
    """The number format that a device is fast in."""
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    if device.type == "mps":
        return torch.bfloat16 if large and has_bfloat16(device) else torch.float32
    if torch.cuda.get_device_capability(device)[0] >= AMPERE:
        return torch.bfloat16
    return torch.float16 if large else torch.float32


def take_threads(asked: int | None = None) -> str:
    """Compute on as many threads as `asked`, or as OMP_NUM_THREADS says, or as processors are free now; a note where
    that is fewer than there are, and why. What is computed is the same, bit for bit."""
    if asked or os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(asked or torch.get_num_threads())
        return ""
    default, most, taken = torch.get_num_threads(), machine.cores(), machine.busy()
    fitting = max(1, min(default, round(most - taken)))
    torch.set_num_threads(fitting)
    if fitting == default:
        return ""
    here, others = counted(round(most, 1), "processor"), round(taken)
    why = f"{others} of {here} {be(others)} busy" if others else f"{here} may be used"
    return f"{why}: computing on {counted(fitting, 'thread')}; --threads N sets another number"


def has_bfloat16(device: torch.device) -> bool:
    """Older CUDA cards have it as well, slowly."""
    return device.type != "mps" or torch.backends.mps.is_macos_or_newer(14, 0)


def free_caches(device: torch.device) -> None:
    """Have what torch keeps for later go back to a GPU, and pinned main memory to the system."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = getattr(torch._C, "_host_emptyCache", None)  # torch 2.9 has no public name for it
        if empty := getattr(torch.accelerator, "empty_host_cache", before):
            empty()
    elif device.type == "mps":
        torch.mps.empty_cache()


def free_at_once() -> None:
    """Have freed blocks of a megabyte and more go back to the system at once, where the C library can be told (glibc).

    By itself it keeps those below 32 MB for later, in holes of many sizes: with a network that is read block by block,
    twice the memory that it takes. The price is a tenth of the time on small videos, where layers make such blocks."""
    tune((M_MMAP_THRESHOLD, LARGE))


def keep_freed() -> None:
    """Have freed memory stay with the process for the next layer, at most 256 MB of it, instead of being cleared by the
    system a page at a time whenever it comes back: a tenth of the time of a small video."""
    tune((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, KEPT))


def tune(*settings: tuple[int, int]) -> None:
    """Set parameters of the C library's malloc, where it has such (glibc)."""
    with suppress(OSError, AttributeError, TypeError):
        for parameter, value in settings:
            ctypes.CDLL(None).mallopt(parameter, value)
