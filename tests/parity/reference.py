"""The reference implementations: diffusers and transformers, or the tests are skipped."""

import importlib
import sys
from typing import Any
from unittest import mock

import pytest


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
