"""Joins: given frames come out as they are, generated ones meet them, and nothing is lost or doubled."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sora_cli.media.blend import COARSE, Difference, Piece, fill, joined

SIZE = (32, 16)


def flat(level: int) -> np.ndarray:
    return np.full((SIZE[1], SIZE[0], 3), level, np.uint8)


@st.composite
def timelines(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A length, and pieces (start, count) that do not overlap, in any order."""
    total = draw(st.integers(1, 40))
    edges = sorted(draw(st.sets(st.integers(0, total), max_size=8)))
    pairs = [(a, b - a) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    return total, draw(st.permutations(pairs))


@settings(max_examples=60, deadline=None)
@given(timelines(), st.integers(0, 3))
def test_known_frames_are_themselves_and_all_others_are_generated(
    timeline: tuple[int, list[tuple[int, int]]], shown: int
) -> None:
    total, places = timeline
    rng = np.random.default_rng(total)
    known = {start: rng.integers(0, 256, (count, SIZE[1], SIZE[0], 3), np.uint8) for start, count in places}
    pieces = [
        Piece(start, count, lambda start=start: iter(known[start]), flat(99), min(shown, count - 1))
        for start, count in places
    ]
    taken: list[int] = []

    def decoded() -> Iterator[np.ndarray]:
        for number in range(total):
            taken.append(number)
            yield flat(100 + number)

    found = list(joined(decoded(), total, pieces, SIZE))
    assert len(found) == total and taken == list(range(total))
    given_at = {start + n: frame for start, frames in known.items() for n, frame in enumerate(frames)}
    for number, frame in enumerate(found):
        if number in given_at:
            assert np.array_equal(frame, given_at[number])
        elif not any(abs(number - at) <= COARSE for at in given_at):
            assert np.array_equal(frame, flat(100 + number))  # out of reach of every difference


@pytest.mark.parametrize("gap", [1, 3, 7, 24, 60])
def test_a_shade_is_made_up_for_once(gap: int) -> None:
    """The decoder is 10 levels too dark on both sides of a gap: next to them, and all along a short one, exactly
    those 10 are added, however close the other side is."""
    side = Difference.between(flat(110), flat(100))
    found = [int(frame[0, 0, 0]) for frame in fill(iter([flat(100)] * gap), gap, SIZE, side, side)]
    assert len(found) == gap and found == found[::-1]
    assert found[0] == 110 and max(found) == 110
    assert min(found) == (100 if gap > 2 * COARSE else 110)


def test_a_piece_may_show_its_difference_later() -> None:
    """The decoder can only make the third given frame: what is 10 levels off is that one, not the first."""
    clip = [flat(10), flat(20), flat(130), flat(140)]
    piece = Piece(5, 4, lambda: iter(clip), flat(120), shown=2)
    found = [int(frame[0, 0, 0]) for frame in joined(iter([flat(100)] * 9), 9, [piece], SIZE)]
    assert found[5:] == [10, 20, 130, 140] and 105 < found[0] <= found[4] == 110
