from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sora_cli.errors import SoraError
from sora_cli.sampling import planner
from sora_cli.sampling.planner import SCHEMES, Window, circle, evenly_spaced, mirrored, plan


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    total = draw(st.integers(1, 200))
    size = draw(st.integers(2, 24))
    known = draw(st.frozensets(st.integers(0, total - 1), max_size=20))
    if draw(st.booleans()):  # a known run, as in extend and reverse
        start = draw(st.integers(0, total - 1))
        known |= frozenset(range(start, draw(st.integers(start, total))))
    return dict(total=total, size=size, step=draw(st.integers(1, size - 1)), given=known)


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=60, deadline=None)
@given(request=requests())
def test_every_plan_is_sound(scheme: str, request: dict[str, Any]) -> None:
    exists = set(request["given"])
    for window in plan(scheme=scheme, **request):
        assert set(window.observed) <= exists, "observes what does not exist yet"
        assert not set(window.latent) & exists, "makes a frame twice"
        if scheme == "sliding":
            assert list(window.frames) == list(range(window.frames[0], window.frames[-1] + 1)), "has a gap"
        else:
            assert 0 not in exists or 0 in window.observed, "lost sight of frame 0"
        assert len(window.frames) <= request["size"] or scheme == "full"
        exists |= set(window.latent)
    assert exists == set(range(request["total"]))


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("full", [((), (0, 1, 2, 3)), ((0, 1, 2, 3), (4, 5)), ((0, 1, 2, 3, 4, 5), (6, 7)),
                  ((0, 1, 2, 3, 4, 5, 6, 7), (8,))]),
        ("autoregressive", [((), (0, 1, 2, 3)), ((0, 3), (4, 5)), ((0, 5), (6, 7)), ((0, 6, 7), (8,))]),
        ("sliding", [((), (0, 1, 2, 3)), ((2, 3), (4, 5)), ((4, 5), (6, 7)), ((5, 6, 7), (8,))]),
        ("long-range", [((), (0, 1, 2, 3)), ((0, 3), (4, 5)), ((0, 5), (6, 7)), ((0, 6, 7), (8,))]),
        ("hierarchy", [((), (0, 3, 5, 8)), ((0, 3), (1, 2)), ((0, 3, 5), (4,)), ((0, 5), (6, 7))]),
    ],
)
def test_nine_frames_by_hand(scheme: str, expected: list[Any]) -> None:
    windows = [(window.observed, window.latent) for window in plan(9, scheme, size=4, step=2)]
    assert windows == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_fits_is_one_window(scheme: str) -> None:
    assert plan(16, scheme) == [Window((), tuple(range(16)))]
    assert plan(1, scheme) == [Window((), (0,))]
    assert plan(10, scheme, given=frozenset({0, 9})) == [Window((0, 9), tuple(range(1, 9)))]
    assert plan(3, scheme, given=frozenset(range(3))) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_known_end_grows_backwards(scheme: str) -> None:
    made = [frame for window in plan(41, scheme, given=frozenset(range(33, 41))) for frame in window.latent]
    first = plan(41, scheme, given=frozenset(range(33, 41)))[0]
    assert set(first.observed) & set(range(33, 41)) and sorted(made) == list(range(33))
    if scheme != "hierarchy":
        assert first.latent == tuple(range(25, 33))


def test_sliding_windows_fill_a_gap_from_both_sides() -> None:
    windows = plan(20, "sliding", given=frozenset({0, 1, 2, 18, 19}), size=12, step=8)
    told = [(window.observed, window.latent) for window in windows]
    assert told == [((0, 1, 2), tuple(range(3, 11))), ((8, 9, 10, 18, 19), tuple(range(11, 18)))]


def test_a_mirrored_plan_goes_from_the_end_to_the_beginning() -> None:
    told = [(window.observed, window.latent) for window in mirrored(plan(6, "sliding", size=4, step=2), 6)]
    assert told == [((), (2, 3, 4, 5)), ((2, 3), (0, 1))]


@pytest.mark.parametrize("total", [31, 121, 361, 1081])
def test_hierarchy_fills_gaps_between_their_borders(total: int) -> None:
    """The first window spans the video; in all others, every new frame has done frames on both sides."""
    first, *rest = plan(total, "hierarchy")
    assert first.latent[0] == 0 and first.latent[-1] == total - 1 and len(first.latent) == 16
    exists = set(first.latent)
    for window in rest:
        assert len(window.latent) <= 8
        for frame in window.latent:
            assert max(done for done in exists if done < frame) in window.observed
            assert min(done for done in exists if done > frame) in window.observed
        exists |= set(window.latent)
    assert len(rest) <= total / 6  # windows are well filled


def test_hierarchy_sees_a_lone_end_beyond_many_nearer_frames() -> None:
    first = plan(361, "hierarchy", given=frozenset({*range(90), 360}))[0]
    assert {0, 89, 360} <= set(first.observed)


def test_long_range_sees_far_and_near() -> None:
    window = plan(121, "long-range")[8]
    assert window.latent == tuple(range(72, 80))
    assert window.observed == (0, 22, 45, 67, 68, 69, 70, 71)


def test_evenly_spaced() -> None:
    assert evenly_spaced(range(121), 16) == list(range(0, 121, 8))
    assert evenly_spaced(range(10), 2) == [0, 9]
    assert evenly_spaced(range(10), 1) == [0]
    assert evenly_spaced(range(3), 5) == [0, 1, 2]
    assert evenly_spaced(range(3), 0) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(total=9, scheme="spiral"), "full, autoregressive, sliding, long-range, hierarchy"),
        (dict(total=0, scheme="full"), "at least 1"),
        (dict(total=9, scheme="full", size=8, step=8), "between 1 and 7"),
        (dict(total=9, scheme="full", given=frozenset({9})), r"\[9\]"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(SoraError, match=says):
        plan(**arguments)


def test_windows_check_themselves() -> None:
    assert Window((0, 5), (2, 3)).frames == (0, 2, 3, 5)
    for observed, latent in [((0, 1), (1, 2)), ((1, 0), (2,)), ((0,), ())]:
        with pytest.raises(AssertionError):
            Window(observed, latent)


# ---- circles ----------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 150), st.integers(2, 24), st.data())
def test_every_circle_is_sound(total: int, size: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, size - 1))
    exists: set[int] = set()
    for number, window in enumerate(circle(total, size, step)):
        seen, made = ([frame % total for frame in part] for part in (window.observed, window.latent))
        assert set(seen) <= exists, "observes what does not exist yet"
        assert not set(made) & exists, "makes a frame twice"
        assert len(set(seen + made)) == len(window.frames) <= size, "has a frame twice, or too many"
        assert len(made) <= step or number == 0
        assert window.frames[-1] - window.frames[0] < total, "goes around more than once"
        exists |= set(made)
    assert exists == set(range(total))


@pytest.mark.parametrize(("total", "size", "step"), [(8, 8, 4), (24, 8, 4), (121, 16, 8)])
def test_frames_of_a_circle_are_made_between_their_neighbours(total: int, size: int, step: int) -> None:
    first, *rest = circle(total, size, step)
    assert first.observed == () and len(first.latent) == size
    exists = set(first.latent)
    for window in rest:
        around = {frame + turn for frame in exists for turn in (-total, 0, total)}
        for frame in window.latent:
            assert max(done for done in around if done < frame) in window.observed
            assert min(done for done in around if done > frame) in window.observed
        exists |= {frame % total for frame in window.latent}


@settings(deadline=None)
@given(st.integers(1, 150), st.integers(2, 24), st.data())
def test_a_window_of_a_circle_sees_what_a_look_at_every_frame_finds(total: int, size: int, data: st.DataObject) -> None:
    first, *rest = circle(total, size, data.draw(st.integers(1, size - 1)))
    done = set(first.latent)
    for window in rest:
        middle = (window.latent[0] + window.latent[-1]) / 2
        nearest = (frame + total * round((middle - frame) / total) for frame in done)
        ranked = sorted(nearest, key=lambda frame: (abs(frame - middle), frame))
        assert window.observed == tuple(sorted(ranked[: size - len(window.latent)]))
        done |= set(window.latent)


def test_a_loop_of_an_hour_is_planned_like_one_of_a_minute() -> None:
    """The levels are the same, so that the last windows of both lie in gaps of as many frames; ranking all that is
    finished for each of the windows would take a minute."""
    windows = circle(21_600, 16, 14)
    assert sorted(frame for window in windows for frame in window.latent) == list(range(21_600))
    assert all(len(window) <= 16 for window in windows)


@given(done=st.sets(st.integers(0, 60), min_size=1), budget=st.integers(1, 9), data=st.data())
def test_a_window_sees_what_a_look_at_every_frame_finds(done: set[int], budget: int, data: st.DataObject) -> None:
    """The planner looks at a few frames around the new ones; here every frame is ranked."""
    start = data.draw(st.integers(0, 60).filter(lambda frame: frame not in done))
    latent = [frame for frame in range(start, start + data.draw(st.integers(1, 6))) if frame not in done]
    past = sorted(done)
    borders = {near for new in latent for near in (max((f for f in past if f < new), default=-1),
                                                   min((f for f in past if f > new), default=-1))}  # fmt: skip

    def rank(frame: int) -> tuple[bool, bool, int, int]:
        return frame != 0, frame not in borders, min(abs(frame - new) for new in latent), frame

    assert planner._nearest(latent, planner.Done(done), budget) == sorted(past, key=rank)[:budget]
    near = [frame for frame in sorted(set(past) - {0}, key=rank)][: budget - max(budget // 2, 1)]
    spread = planner.evenly_spaced([frame for frame in past if frame not in near], max(budget // 2, 1))
    assert sorted(planner._near_and_far(latent, planner.Done(done), budget)) == sorted(near + spread)


@pytest.mark.parametrize("scheme", ["autoregressive", "sliding", "long-range", "hierarchy"])
def test_an_hour_is_planned_by_looking_at_a_few_frames_a_window(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    around = planner.Done.around
    monkeypatch.setattr(planner.Done, "around", lambda *a: looked.append(len(found := around(*a))) or found)
    windows = planner.plan(21_601, scheme, size=8, step=6)
    assert sorted(frame for window in windows for frame in window.latent) == list(range(21_601))
    assert max(looked, default=0) <= 2 * 8 + 6
