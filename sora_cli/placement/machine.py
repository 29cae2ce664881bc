"""What a machine has free: memory of a device, main memory within its control groups, disk. No torch until a device is
asked."""

import errno
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SAMPLED = 0.15  # seconds that the processor is looked at
MAIN, GPU = "main memory", "GPU memory"
SHORT = {  # of memory: what torch's RuntimeErrors say, and of which
    "DefaultCPUAllocator": MAIN,
    "DefaultMPSAllocator": GPU,
    "out of memory": GPU,  # of CUDA, ROCm and MPS
    "Invalid buffer size": GPU,  # Metal
    "MTLBuffer": GPU,
    "STATUS_ALLOC_FAILED": GPU,  # cuBLAS and cuDNN
}


def short_of(error: BaseException | None) -> str:
    """The memory that ran out, in words; "" of any other error. torch has no error of its own for most devices."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return MAIN
    if not isinstance(error, RuntimeError):
        return ""
    otherwise = GPU if type(error).__name__ == "OutOfMemoryError" else ""
    return next((memory for said, memory in SHORT.items() if said in str(error)), otherwise)


@dataclass(frozen=True)
class Free:
    """Bytes that a machine has free: of the device, of main memory, on the disk of the downloads."""

    kind: str  # of device: cuda, mps or cpu
    device: float
    host: float
    disk: float = math.inf

    @property
    def shared(self) -> bool:
        """Whether the device's memory is main memory."""
        return self.kind != "cuda"

    @classmethod
    def on(cls, device: "torch.device") -> "Free":
        """What is free now."""
        return cls(device.type, device_free(device), host_free(), disk_free(downloads()))


def device_free(device: "torch.device") -> float:
    """Bytes that new tensors can take on a device, those that torch keeps ready among them."""
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return min(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory(), host_free())
    return host_free()


def host_free(root: Path = Path("/")) -> float:
    """Bytes of main memory that are free within the control groups; half of what is built in if unknown."""
    limits = [meminfo(root), *(room(folder) for folder in groups(root, "memory"))]
    built_in = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min((free for free in limits if free is not None), default=built_in / 2)


def meminfo(root: Path) -> float | None:
    lines = (line.split() for line in lines_of(root / "proc/meminfo"))
    return next((float(words[1]) * 1024 for words in lines if words[:1] == ["MemAvailable:"]), None)


def groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups, of either version, that limit this process, and of their parents."""
    for line in lines_of(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controllers
            own = top / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder == top or top in folder.parents)


def room(group: Path) -> float | None:
    """Bytes that are left of a control group's limit; pages of files that were read give way."""
    limit = number(group / "memory.max") or number(group / "memory.limit_in_bytes")
    used = number(group / "memory.current") or number(group / "memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    statistics = dict(line.split()[:2] for line in lines_of(group / "memory.stat"))
    files = statistics.get("total_inactive_file", statistics.get("inactive_file", "0"))
    return max(0.0, limit - used + float(files))


# ---- processors -------------------------------------------------------------------------------------------


def cores(root: Path = Path("/")) -> float:
    """Processors that this process may use: those it is bound to, within the quotas of its control groups."""
    quotas = [found for folder in groups(root, "cpu") if (found := quota(folder)) is not None]
    return max(1.0, min([float(len(bound())), *quotas]))


def bound() -> list[int]:
    """The numbers of the processors that this process may run on; all of them where the system does not bind any."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def quota(group: Path) -> float | None:
    """Processors that a control group of either version may keep busy."""
    words = " ".join(lines_of(group / "cpu.max")).split()
    if len(words) == 2 and words[0].isdigit():
        return int(words[0]) / int(words[1])
    longest, period = number(group / "cpu.cfs_quota_us"), number(group / "cpu.cfs_period_us")
    return longest / period if longest and period else None


def busy(root: Path = Path("/")) -> float:
    """How many of its processors others keep busy at this moment, while this process sleeps; 0 where the system does
    not say (all but Linux). The load average is of no use: it holds what was before, our own last run among it."""
    before = ticks(root)
    time.sleep(SAMPLED if before else 0)
    spent = [(after[0] - was[0], after[1] - was[1]) for was, after in zip(before, ticks(root), strict=False)]
    return sum(1 - idle / total for idle, total in spent if total > 0)


def ticks(root: Path) -> list[tuple[int, int]]:
    """The idle and all ticks of every processor that this process may run on, so far."""
    named = {f"cpu{number}" for number in bound()}
    rows = (line.split() for line in lines_of(root / "proc/stat"))
    counts = [list(map(int, row[1:9])) for row in rows if row[:1] and row[0] in named]
    return [(sum(count[3:5]), sum(count)) for count in counts]  # idle and waiting for disks


def number(path: Path) -> float | None:
    """The number in a file; None if there is no file, or no limit."""
    text = " ".join(lines_of(path))
    return float(text) if text.isdigit() else None


def lines_of(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def downloads() -> Path:
    """Where what is fetched from the Hub lies."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def disk_free(folder: Path) -> float:
    """Bytes free on the disk of a folder that need not be there yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
