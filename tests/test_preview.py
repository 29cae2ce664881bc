"""Pictures in the terminal: which characters in which colours, and nothing where they cannot be shown."""

import io
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sora_cli.cli.preview import Row
from sora_cli.cli.screen import Screen

NOISE = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)


def terminal(width: int = 40, height: int = 24, **options: Any) -> Console:
    wanted: dict[str, Any] = {"file": io.StringIO(), "width": width, "height": height, "_environ": {}}
    wanted |= {"force_terminal": True, "color_system": "truecolor", "legacy_windows": False}
    return Console(**wanted | options)


def shown(console: Console, pictures: list[np.ndarray]) -> str:
    console.print(Row(pictures), end="")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text).splitlines()


def pixels(text: str) -> np.ndarray:
    """What a terminal with true colours shows: [2 lines, columns, 3]."""
    rows = []
    for line in text.splitlines():
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", line)
        numbers = np.array(cells, int).reshape(-1, 2, 3)
        rows += [numbers[:, 0], numbers[:, 1]]
    return np.array(rows)


def test_a_character_is_two_pixels() -> None:
    assert np.array_equal(pixels(shown(terminal(width=4, height=6), [NOISE])), NOISE)


def test_pictures_stand_side_by_side() -> None:
    text = shown(terminal(width=9, height=6), [NOISE, 255 - NOISE])
    assert plain(text) == ["▀▀▀▀ ▀▀▀▀"] * 3
    assert np.array_equal(pixels(text), np.concatenate([NOISE, 255 - NOISE], 1))


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (64, 64), (1, 300)])
@pytest.mark.parametrize("room", [(80, 24), (40, 10), (20, 60), (5, 3)])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_at_most_the_width_and_half_the_height(size: tuple[int, int], room: tuple[int, int], count: int) -> None:
    lines = plain(shown(terminal(*room), [np.zeros((*size, 3), np.uint8)] * count))
    assert 1 <= len(lines) <= room[1] // 2
    assert 1 <= max(map(len, lines)) <= room[0] and len(set(lines)) == 1


def test_the_aspect_is_kept() -> None:
    lines = plain(shown(terminal(80, 48), [np.zeros((180, 320, 3), np.uint8)]))
    assert len(lines[0]) / (2 * len(lines)) == pytest.approx(16 / 9, rel=0.1)


def test_many_pictures_in_a_narrow_terminal_are_fewer() -> None:
    assert plain(shown(terminal(width=5), [NOISE] * 8))[0] == "▀ ▀ ▀"


@pytest.mark.parametrize(
    "options",
    [
        {"color_system": None},
        {"color_system": "standard"},
        {"_environ": {"NO_COLOR": "1"}},
        {"force_terminal": False},
        {"height": 1},
    ],
)
def test_nothing_where_it_cannot_be_shown(options: dict[str, Any]) -> None:
    assert shown(terminal(**options), [NOISE]) == ""
    assert shown(terminal(), []) == ""


def test_nothing_without_half_blocks() -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = terminal(file=ascii_only)
    console.print(Row([NOISE]), end="")
    ascii_only.flush()
    assert ascii_only.buffer.getvalue() == b""  # type: ignore[attr-defined]


def screen(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Screen, io.StringIO]:
    """A Screen on a stand-in for stderr that is a terminal."""
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", stream)
    for name, value in {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "40", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Screen(**options), stream


def test_the_screen_shows_pictures_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, stream = screen(monkeypatch, preview=True)
    with seen:
        seen.show("decode", 1, 2)
        seen.picture([NOISE])
        seen.progress.refresh()
        drawn = stream.getvalue()
        seen.clear()
        assert seen.progress.row is None
    assert "▀" in drawn and drawn.index("▀") < drawn.rindex("decode")


def test_what_is_read_is_told_in_bytes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, stream = screen(monkeypatch)
    seen.console.width = 80
    with seen:
        seen.read("transformer", 1_500_000_000, 11_400_000_000)
        seen.read("layers", 3, 30)
        seen.progress.refresh()
        drawn = stream.getvalue()
        seen.read("transformer", 11_400_000_000, 11_400_000_000)
        seen.read("layers", 30, 30)
        assert not seen.progress.tasks
    assert "1.5/11.4 GB" in drawn and " 3/30 " in drawn


@pytest.mark.parametrize("options", [{}, {"preview": True, "quiet": True}])
def test_no_pictures_unless_asked(monkeypatch: pytest.MonkeyPatch, options: dict[str, bool]) -> None:
    seen, stream = screen(monkeypatch, **options)
    with seen:
        seen.picture([NOISE])
        seen.progress.refresh()
    assert "▀" not in stream.getvalue()


def test_no_pictures_in_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    with Screen(preview=True) as seen:
        seen.picture([NOISE])
        seen.progress.refresh()
        seen.note("done")
    assert capfd.readouterr().err == "done\n"
