"""How good a model is, in numbers that need no download: `evaluate` measures, `table` shows."""

from sora_cli.evaluate.measure import evaluate
from sora_cli.evaluate.report import table

__all__ = ["evaluate", "table"]
