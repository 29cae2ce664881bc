"""Generated tables, between two marks of the page that shows them: printed, or written there with --write."""

import argparse
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent


def put(table: str, page: Path, begin: str, end: str) -> None:
    """Put a table between the lines `begin` and `end` of a page."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(f"{begin}\n")
    _, close, after = rest.partition(f"{end}\n")
    assert mark and close, f"{page} lacks {begin} or {end}"
    page.write_text(f"{before}{mark}{table}{close}{after}", encoding="utf-8")


def main(table: Callable[[], str], page: Path, begin: str, end: str, doc: str | None) -> None:
    """A script that prints a table, or puts it into a page; `doc` is its help text."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put it into {page.relative_to(ROOT)}")
    if parser.parse_args().write:
        put(table(), page, begin, end)
    else:
        print(table(), end="")
