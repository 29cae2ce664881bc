"""Fixtures of more than one file of tests."""

from hub_cases import folders, server, sora

__all__ = ["folders", "server", "sora"]
