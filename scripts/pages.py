"""Generated tables, between two marks of the page that shows them: printed, or written there with --write."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def put(table: str, page: Path, begin: str, end: str) -> None:
    """Put a table between the lines `begin` and `end` of a page, or print it unless --write is asked for."""
    if "--write" not in sys.argv:
        print(table, end="")
        return
    before, mark, rest = page.read_text(encoding="utf-8").partition(f"{begin}\n")
    _, close, after = rest.partition(f"{end}\n")
    assert mark and close, f"{page} lacks {begin} or {end}"
    page.write_text(f"{before}{mark}{table}{close}{after}", encoding="utf-8")
