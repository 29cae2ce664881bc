"""What is in a folder from earlier runs, as far as it is whole. No torch."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sora_cli.dataset import shards
from sora_cli.dataset.shards import Row
from sora_cli.errors import Failed, SoraError

PARTS = re.compile(r"(\d{5}-[0-9a-f]{12}\.tar|(index|manifest|scan)\.jsonl)(\.\d+\.part)+")
SHARDS = f"{5 * '[0-9]'}-{12 * '[0-9a-f]'}.tar"


def sweep(folder: Path) -> None:
    """Remove what a process that is gone was writing: this one has the folder."""
    for path in folder.iterdir():
        if PARTS.fullmatch(path.name):
            path.unlink()


def sound(folder: Path) -> tuple[dict[str, Row], list[str]]:
    """The whole shards of a folder with their checksums; damaged ones are removed and reported."""
    header, _ = indexed(folder)
    bad = shards.damage_inside(folder, header)
    checksums = {name: due for name, due in header.get("shards", {}).items() if name not in bad}
    for path in sorted(folder.glob(SHARDS)):
        if path.name not in checksums and path.name not in bad:
            try:
                list(shards.rows_of(path))
                checksums[path.name] = shards.checksum(path)
            except Failed:
                bad[path.name] = "is damaged"
        if path.name in bad:  # not every name in it: an index may be a stranger's
            path.unlink()
    return checksums, [f"{name} {what}" for name, what in bad.items()]


def indexed(folder: Path) -> tuple[Row, list[Row]]:
    """What the index of a folder says; nothing if there is none, or it is damaged."""
    with suppress(SoraError):
        return shards.read_index(folder)
    return {}, []


def rows(folder: Path) -> Iterator[Row]:
    """All samples that lie in a folder: as its index says, and of shards that were written after it."""
    rows = indexed(folder)[1]
    there = {path.name: path for path in sorted(folder.glob(SHARDS))}
    yield from (row for row in rows if row["shard"] in there)
    for name in there.keys() - {row["shard"] for row in rows}:
        yield from shards.rows_of(there[name])
