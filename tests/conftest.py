"""Fixtures of more than one file of tests."""

import gc
import os
from functools import cache

import typer
import typer.testing

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))  # nobody looks how busy the machine is meanwhile

from hub_cases import folders, server, sora

__all__ = ["folders", "server", "sora"]

# a tree of commands is built for every command line, of which only tests have more than one in a process
typer.main.get_command = typer.testing._get_command = cache(typer.main.get_command)  # type: ignore[attr-defined]
os.fsync = lambda number: None  # a disk takes its time, and nobody pulls the plug


def pytest_collection_finish() -> None:
    """All that is imported stays; looking through it took every collection of garbage a quarter of a second."""
    gc.freeze()
