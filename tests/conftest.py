"""Fixtures of more than one file of tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))  # nobody looks how busy the machine is meanwhile

from hub_cases import folders, server, sora

__all__ = ["folders", "server", "sora"]
