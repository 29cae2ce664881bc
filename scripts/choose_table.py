"""The table of docs/choose.md: what every Hub model takes on cards of some sizes, as sora_cli/placement/memory.py
predicts it for a native clip in bfloat16. It needs no GPU and no weights.

    python scripts/choose_table.py            # print it
    python scripts/choose_table.py --write    # put it into docs/choose.md
"""

from pages import ROOT, main

from sora_cli import registry
from sora_cli.errors import SoraError
from sora_cli.placement import memory
from sora_cli.placement.machine import Free
from sora_cli.placement.memory import needs_of
from sora_cli.registry import Entry

BEGIN, END = "<!-- cards: scripts/choose_table.py -->", "<!-- end of cards -->"
CARDS = (8, 12, 16, 24, 48)  # GB
TAKEN = 0.6e9  # bytes of a card that the driver and a desktop have
HOST = 32e9  # bytes of main memory that are free
WHERE = {"resident": "on the card", "streamed": "from main memory", "disk": "from disk"}  # the transformer is


def cell(model: Entry, gigabytes: int) -> str:
    """Memory at its peak and where the transformer's blocks come from, on a card of so many GB."""
    usage = model.usage
    needs = needs_of(model, model.canvas(usage.width, usage.height), usage.window, usage.window, 2)
    try:
        found = memory.choose(needs, Free("cuda", gigabytes * 1e9 - TAKEN, HOST), "auto")
    except SoraError:
        return "too small"
    return f"{found.on_device / 1e9:.1f} GB, {WHERE[found.dit]}"


def table() -> str:
    models = [model for model in registry.registry().values() if model.kind == "wan"]
    head = ["model", "download", *(f"{card} GB" for card in CARDS)]
    rows = [[f"`{model.name}`", f"{model.whole.bytes / 1e9:.0f} GB", *(cell(model, card) for card in CARDS)]
            for model in models]  # fmt: skip
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    main(table, ROOT / "docs" / "choose.md", BEGIN, END, __doc__)
