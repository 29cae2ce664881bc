"""Models of the Hub on this machine: fetched, found, verified and removed. No torch."""

from sora_cli.registry.hub.cache import Status, gigabytes, locate, others, remove, status, verify
from sora_cli.registry.hub.download import Screen, ensure, pull
from sora_cli.registry.hub.pins import lock_path

__all__ = [
    "Screen", "Status", "ensure", "gigabytes", "locate", "lock_path", "others", "pull", "remove", "status",
    "verify",
]  # fmt: skip
