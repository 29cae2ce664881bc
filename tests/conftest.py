"""Fixtures of more than one file of tests."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))  # nobody looks how busy the machine is meanwhile

import command_tree
from hub_cases import folders, server, sora

__all__ = ["command_tree", "folders", "server", "sora"]

gc.disable()  # all that is imported stays
os.fsync = lambda number: None  # a disk takes its time, and nobody pulls the plug


def pytest_collection_finish() -> None:
    """Looking through all that is imported took every collection of garbage a quarter of a second."""
    gc.freeze()
    gc.enable()
