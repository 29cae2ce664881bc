"""The Hugging Face Hub: stub."""

from pathlib import Path

from sora_cli.errors import Failed
from sora_cli.registry import Entry


def locate(entry: Entry) -> dict[str, Path]:
    raise Failed(entry.name)


def ensure(entry: Entry) -> None:
    raise Failed(entry.name)
