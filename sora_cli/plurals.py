"""Counts in English: `1 frame is`, `2 frames are`."""


def counted(count: float, one: str, many: str = "") -> str:
    """`1 frame`, `2 frames`, `0.5 hours`; `many` is the plural where that is not `one` and an s."""
    number = f"{count:g}" if isinstance(count, float) else str(count)
    return f"{number} {one if number == '1' else many or one + 's'}"


def among(count: int, total: int, one: str, many: str = "") -> str:
    """`1 of 3 files`, `1 of 1 file`"""
    return f"{count} of {counted(total, one, many)}"


def be(count: float) -> str:
    """`is` of one, `are` of none or many."""
    return "is" if count == 1 else "are"


def have(count: float) -> str:
    return "has" if count == 1 else "have"
