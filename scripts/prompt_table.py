"""The table of docs/prompts.md: short prompts and what becomes of them, from tests/data/expansions.tsv.

    python scripts/prompt_table.py            # print it
    python scripts/prompt_table.py --write    # put it into docs/prompts.md
"""

import csv

from pages import ROOT, main

DATA, PAGE = ROOT / "tests" / "data" / "expansions.tsv", ROOT / "docs" / "prompts.md"
BEGIN, END = "<!-- prompts: scripts/prompt_table.py -->", "<!-- end of prompts -->"


def table() -> str:
    with DATA.open(encoding="utf-8") as file:
        _, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    lines = ["| prompt | caption | noted |\n", "| --- | --- | --- |\n"]
    for _, prompt, caption, read_as, unknown, left_out in rows:
        noted = {"read ": read_as, "unknown: ": unknown, "left out: ": left_out}
        lines.append(f"| {prompt} | {caption} | {'; '.join(name + text for name, text in noted.items() if text)} |\n")
    return "".join(lines)


if __name__ == "__main__":
    main(table, PAGE, BEGIN, END, __doc__)
