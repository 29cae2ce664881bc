"""The reference implementations: diffusers and transformers, or the tests are skipped."""

import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def reference(package: str, name: str) -> Any:
    """A class of a reference package, imported as if there were no torchvision.

    Neither needs it for the classes compared here, and a torchvision built for another torch breaks their import."""
    with mock.patch.dict(sys.modules):
        if "torchvision" not in sys.modules:
            sys.modules["torchvision"] = None  # type: ignore[assignment]
        pytest.importorskip(package)
        found = getattr(importlib.import_module(package), name)
        loaded = {key: module for key, module in sys.modules.items() if module is not None}
    sys.modules.update(loaded)
    return found


def read_as_published(theirs: Any, load: Callable[[Path, torch.device, torch.dtype], N]) -> N:
    """Our network with the reference's weights: saved by the reference in small shards with its configuration, and read
    as a published checkpoint is."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder, safe_serialization=True, max_shard_size="20KB")
        assert len(list(Path(folder).glob("*.safetensors"))) > 1, "there is one shard only"
        return load(Path(folder), torch.device("cpu"), torch.float32)
