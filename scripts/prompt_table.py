"""The table of docs/prompts.md: short prompts and what becomes of them, from tests/data/expansions.tsv.

    python scripts/prompt_table.py            # print it
    python scripts/prompt_table.py --write    # put it into docs/prompts.md
"""

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA, PAGE = ROOT / "tests" / "data" / "expansions.tsv", ROOT / "docs" / "prompts.md"
BEGIN, END = "<!-- prompts: scripts/prompt_table.py -->\n", "<!-- end of prompts -->\n"


def table() -> str:
    with DATA.open(encoding="utf-8") as file:
        _, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    lines = ["| prompt | caption | noted |\n", "| --- | --- | --- |\n"]
    for _, prompt, caption, read_as, unknown, left_out in rows:
        noted = {"read ": read_as, "unknown: ": unknown, "left out: ": left_out}
        lines.append(f"| {prompt} | {caption} | {'; '.join(name + text for name, text in noted.items() if text)} |\n")
    return "".join(lines)


def rewritten(text: str) -> str:
    return re.sub(f"({re.escape(BEGIN)}).*?({re.escape(END)})", lambda m: m[1] + table() + m[2], text, flags=re.DOTALL)


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table(), end="")
