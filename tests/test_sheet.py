"""Contact sheets: which frames, where, how they are marked, and what is on the disk."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image, ImageColor

from sora_cli.errors import Failed
from sora_cli.media.contact_sheet import BORDER, GIVEN, LABEL, MARGIN, Sheet, evenly


def filled(sheet: Sheet, frames: int, size: tuple[int, int] = (36, 64)) -> np.ndarray:
    """The page of a clip whose frame number i is the grey 2 i."""
    for index in range(frames):
        sheet.add(index, np.full((*size, 3), 2 * index, np.uint8))
    return np.asarray(sheet.page())


def corner(place: int, columns: int = 4, width: int = 64, height: int = 36) -> tuple[int, int]:
    """(y, x) of the top left pixel of the picture at a place of the page."""
    return MARGIN + place // columns * (height + LABEL + MARGIN), MARGIN + place % columns * (width + MARGIN)


def test_frames_are_evenly_spaced_and_in_order() -> None:
    page = filled(Sheet(100, 24, count=10, width=64), 100)
    assert page.shape == (MARGIN + 3 * (36 + LABEL + MARGIN), MARGIN + 4 * (64 + MARGIN), 3)
    tops = [page[tuple(np.add(corner(place), 18))] for place in range(10)]
    assert [int(top[0]) for top in tops] == [2 * index for index in range(0, 100, 11)]


def test_evenly() -> None:
    assert sorted(evenly(480, 4)) == [0, 160, 319, 479]
    assert sorted(evenly(3, 12)) == [0, 1, 2]
    assert sorted(evenly(1, 12)) == [0]
    assert sorted(evenly(10, 1)) == [0]


def test_known_frames_have_a_border_and_others_have_none() -> None:
    page = filled(Sheet(8, 4, count=8, given=range(3), width=64), 8)
    for place in range(8):
        y, x = corner(place)
        picture = page[y : y + 36, x : x + 64]
        ring, inside = picture[:BORDER], picture[BORDER:-BORDER, BORDER:-BORDER]
        assert (inside == 2 * place).all()
        assert (ring == (ImageColor.getrgb(GIVEN) if place < 3 else 2 * place)).all()


def test_times_are_written_below() -> None:
    """The same picture has another label at another time, and the same one at the same time."""

    def label(index: int, fps: float) -> np.ndarray:
        sheet = Sheet(100, fps, count=100, width=64)
        sheet.add(index, np.zeros((36, 64, 3), np.uint8))
        y, x = corner(0)
        return np.asarray(sheet.page())[y + 36 : y + 36 + LABEL, x : x + 64]

    assert (label(24, 24) < 128).any(), "nothing is written"
    assert np.array_equal(label(24, 24), label(30, 30)) and not np.array_equal(label(24, 24), label(48, 24))


def test_only_the_chosen_frames_are_kept_and_small() -> None:
    sheet = Sheet(50, 24, count=3, width=32)
    filled(sheet, 50, (90, 160))
    assert sorted(sheet.kept) == [0, 24, 49]
    assert {picture.size for picture in sheet.kept.values()} == {(32, 18)}


def test_a_clip_cut_short_has_a_page_too() -> None:
    assert filled(Sheet(100, 24, count=4, width=64), 40).shape[1] == MARGIN + 2 * (64 + MARGIN)


def test_the_file_is_a_png_and_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = Sheet(4, 24, width=64)
    page = filled(sheet, 4)
    sheet.save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG" and np.array_equal(np.asarray(image), page)

    def full(self: Image.Image, file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(Failed, match="No space left"):
        sheet.save(tmp_path / "second.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
