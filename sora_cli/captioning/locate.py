"""Where captioners of our own are: with a shipped model, or in a file or folder of somebody's. No torch."""

from pathlib import Path

from sora_cli import registry
from sora_cli.errors import Failed, SoraError

STEM = "captioner"


def is_path(model: str) -> bool:
    return "/" in model or model.startswith((".", "~")) or model.endswith(".safetensors")


def file_of(model: str) -> Path:
    """The weights in a folder of a run, or the file itself."""
    path = Path(model).expanduser()
    return path / f"{STEM}.safetensors" if path.is_dir() else path


def check_own(model: str) -> None:
    """Refuse a captioner that is not there."""
    if is_path(model):
        if not file_of(model).is_file():
            raise SoraError(f"there is no captioner {file_of(model)}; `sora-cli train captioner` makes one")
    elif model not in registry.registry():
        raise SoraError(f"unknown captioner {model!r}; there are pocket, coca, weights of your own, or http://SERVER")
    elif not registry.entry(model).part(STEM):
        raise Failed(f"{model} came without a captioner; `sora-cli train captioner --out runs/captioner` makes one, "
                     "then --model ./runs/captioner")  # fmt: skip
