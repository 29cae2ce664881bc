"""Models of the Hub on this machine: fetched, found, verified and removed. No torch."""

from sora_cli.hub.held import Freed, Status, gigabytes, locate, others, remove, status, verify
from sora_cli.hub.lock import lock_path
from sora_cli.hub.pulling import Screen, ensure, pull

__all__ = [
    "Freed", "Screen", "Status", "ensure", "gigabytes", "locate", "lock_path", "others", "pull", "remove", "status",
    "verify",
]  # fmt: skip
