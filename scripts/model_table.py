"""The README's table of Hub models: from weights.toml, and from what memory.py predicts for them on a GPU.

    python scripts/model_table.py            # print it
    python scripts/model_table.py --write    # put it into README.md
"""

from pages import ROOT, main

from sora_cli import registry
from sora_cli.placement import memory
from sora_cli.placement.machine import Free
from sora_cli.placement.memory import needs_of
from sora_cli.registry import Entry

BEGIN, END = "<!-- models: scripts/model_table.py -->", "<!-- end of models -->"
LARGE, HOST = 80e9, 64e9  # bytes of a GPU that holds everything, and of main memory
COLUMNS = (
    "model", "makes", "trained to begin from", "download", "GPU memory: all, least", "its authors' figures", "licence",
)  # fmt: skip


def row(model: Entry) -> list[str]:
    usage = model.usage
    everything, least = (taken(model, mode) for mode in ("high", "low"))
    told = ", ".join(filter(None, [f"{model.memory / 1e9:.1f} GB" if model.memory else "", model.speed]))
    return [
        f"`{model.name}`",
        f"{usage.frames / usage.fps:.0f} s of {usage.width}x{usage.height} at {usage.fps:g} fps",
        ", ".join((*(() if usage.conditioned else ("text",)), *usage.trained)),
        f"{model.bytes / 1e9:.0f} GB",
        f"{everything / 1e9:.0f} GB, {least / 1e9:.1f} GB",
        told,
        f"[{model.licence}]({model.licence_url})",
    ]


def taken(model: Entry, mode: str) -> float:
    """Bytes on the GPU that a native clip takes, as predicted, in bfloat16."""
    usage = model.usage
    needs = needs_of(model, model.canvas(usage.width, usage.height), usage.window, usage.window, 2)
    return memory.choose(needs, Free("cuda", LARGE, HOST), mode).on_device


def table() -> str:
    """A row for every model; those that differ in their files alone have one."""
    models: list[Entry] = []
    for model in (one for one in registry.registry().values() if one.kind == "wan"):
        if all((model.usage, model.network, model.accept) != (one.usage, one.network, one.accept) for one in models):
            models.append(model)
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *(row(model) for model in models)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    main(table, ROOT / "README.md", BEGIN, END, __doc__)
