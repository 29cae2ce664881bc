"""Rewrite the pocket entry of weights.toml from the files in sora_cli/pocket: names, bytes, sha256.

    python scripts/register_weights.py            # rewrite
    python scripts/register_weights.py --check    # exit 1 if it is out of date
"""

import argparse
import re
import sys
from pathlib import Path

from sora_cli.files.weights import hash_of

ROOT = Path(__file__).parent.parent
LARGEST_TOTAL = 60_000_000


def row(path: Path) -> str:
    return f'  {{ name = "{path.name}", bytes = {path.stat().st_size}, sha256 = "{hash_of(path)}" }},\n'


def rewritten(registry: str, files: list[Path]) -> str:
    rows = "".join(map(row, files))
    files_of_pocket = re.compile(r"(\[pocket\].*?^files = \[\n).*?(^\]$)", re.MULTILINE | re.DOTALL)
    return files_of_pocket.sub(rf"\g<1>{rows}\g<2>", registry, count=1)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is out of date")
    check, path = options.parse_args().check, ROOT / "weights.toml"
    files = sorted((ROOT / "sora_cli" / "pocket").glob("*.safetensors"))
    total = sum(file.stat().st_size for file in files)
    if total > LARGEST_TOTAL:
        print(f"{total} bytes of weights; the package may have at most {LARGEST_TOTAL}", file=sys.stderr)
        return 1
    before = path.read_text(encoding="utf-8")
    after = rewritten(before, files)
    if check:
        return int(after != before)
    path.write_text(after, encoding="utf-8")
    print(f"{len(files)} files, {total / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
