from collections import Counter

import pytest
import torch
from torch import Generator, Tensor

from sora_cli.errors import SoraError
from sora_cli.models.sora.dit import relative_time_features
from sora_cli.sampling.conditioning import Timeline
from sora_cli.train.data.tasks import MIX, sample_strides, sample_task


def visible(order: Tensor) -> Tensor:
    """What the transformer's mask lets each frame see: [T] or [V, T] -> bool [..., T, T]."""
    batch = order if order.ndim > 1 else order[None]
    _, mask = relative_time_features(torch.zeros(batch.shape), batch)
    return (mask == 0)[:, 0].reshape(*order.shape, -1)


def table(drawing: str) -> Tensor:
    return torch.tensor([[cell == "x" for cell in row] for row in drawing.split()])


@pytest.mark.parametrize(
    ("order", "drawing"),
    [
        ([1, 2, 3, 4], "x... xx.. xxx. xxxx"),        # forward: the causal mask
        ([1, 1, 2, 2], "xx.. xx.. xxxx xxxx"),        # forward in chunks: lower-triangular blocks
        ([4, 3, 2, 1], "xxxx .xxx ..xx ...x"),        # reverse
        ([-1, -2, -3, -4], "xxxx .xxx ..xx ...x"),    # reverse as o = -t
        ([1, 2, 2, 1], "x..x xxxx xxxx x..x"),        # key frames first
        ([1, 2, 3, 0], "x..x xx.x xxxx ...x"),        # forward with a known end: all see it
        ([0, 1, 1, 0], "x..x xxxx xxxx x..x"),        # in-between
        ([1, 1, 1, 1], "xxxx xxxx xxxx xxxx"),        # all at once
    ],
)
def test_visible(order: list[int], drawing: str) -> None:
    assert torch.equal(visible(torch.tensor(order)), table(drawing))


def test_visible_takes_batches() -> None:
    order = torch.tensor([[1, 2, 3], [3, 2, 1]])
    assert torch.equal(visible(order)[1], visible(order[1])) and visible(order).shape == (2, 3, 3)


def test_forward_order_is_torchs_causal_mask() -> None:
    assert torch.equal(visible(torch.arange(7)), torch.ones(7, 7).tril().bool())


# ---- timelines --------------------------------------------------------------------------------------------


def test_nothing_known() -> None:
    line = Timeline.empty(parts=(3, 2), frames=4, height=2, width=5)
    assert line.latents.shape == (5, 4, 2, 5) and not line.latents.any() and not line.cond_mask.any()
    assert line.done() == frozenset()


def test_anchors_keep_what_they_know() -> None:
    empty = Timeline.empty(parts=(3, 2), frames=6, height=2, width=5)
    clip, image = torch.randn(5, 2, 2, 5), torch.randn(3, 2, 5)
    line = empty.with_clip(0, clip).with_image(-1, image)
    assert line.cond_mask.tolist() == [[1, 1, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0]]
    assert torch.equal(line.latents[:, :2], clip) and torch.equal(line.latents[:3, -1], image)
    assert not line.latents[3:, -1].any() and not line.latents[:, 2:5].any()
    assert line.done() == {0, 1}
    assert not empty.cond_mask.any()  # the first timeline is as it was


def test_mask_is_one_exactly_where_latents_are_known() -> None:
    line = Timeline.empty(parts=(3, 2), frames=3, height=1, width=1)
    line = line.with_clip(0, torch.ones(5, 1, 1, 1)).with_image(2, torch.ones(3, 1, 1))
    assert line.mask().shape == (5, 3, 1, 1) and torch.equal(line.mask(), line.latents)


@pytest.mark.parametrize("at", [5, -1, -7])
def test_clips_must_fit(at: int) -> None:
    with pytest.raises(SoraError, match="do not fit"):
        Timeline.empty((3, 2), frames=6, height=1, width=1).with_clip(at, torch.zeros(5, 2, 1, 1))


# ---- training tasks ---------------------------------------------------------------------------------------


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 16])
def test_tasks_are_sound(frames: int) -> None:
    draw = rng(frames)
    for _ in range(300):
        known, order, kind = sample_task(draw, frames)
        assert known.shape == (2, frames) and order.shape == (frames,) and order.dtype == torch.long
        assert set(known.unique().tolist()) <= {0.0, 1.0}
        assert (known[1] <= known[0]).all(), "motion known without the frame it leads to"
        assert torch.equal(order == 0, known[0] == 1), "anchors, and nothing else, are stage 0"
        assert not known.all(), kind


def test_mix() -> None:
    draw, n = rng(), 4000
    kinds = [sample_task(draw, 8).kind for _ in range(n)]
    families = Counter(kind.split("/")[0] for kind in kinds)
    assert sum(share for _, share in MIX.values()) == pytest.approx(1)
    for family, share in {"plain": 0.35, "subset": 0.30, "anchor": 0.25, "random": 0.10}.items():
        deviation = (share * (1 - share) / n) ** 0.5
        assert abs(families[family] / n - share) < 4 * deviation, family
    anchors = [kind.removeprefix("anchor/").split("-") for kind in kinds if kind.startswith("anchor")]
    assert {where for where, _ in anchors} == {"head", "tail", "both", "wrap", "second", "image"}
    assert {way for _, way in anchors} == {"once", "forward", "backward"}


def test_tasks_follow_their_generator_alone() -> None:
    first, second = ([sample_task(draw, 9).order.tolist() for _ in range(20)] for draw in (rng(3), rng(3)))
    assert first == second
    state = torch.get_rng_state()
    sample_task(rng(), 9)
    assert torch.equal(state, torch.get_rng_state())


def test_plain_tasks_go_forward_or_at_once() -> None:
    tasks = [sample_task(draw, 8) for draw in map(rng, range(200))]
    orders = [task.order for task in tasks if task.kind.startswith("plain")]
    assert all((order.diff() >= 0).all() for order in orders)
    assert {int(order.max()) for order in orders} >= {1, 2, 4, 8}


@pytest.mark.parametrize(("frames", "total"), [(1, 1), (1, 9), (2, 2), (5, 5), (5, 31), (16, 121)])
def test_strides(frames: int, total: int) -> None:
    draw = rng()
    for _ in range(200):
        indices = sample_strides(draw, frames, total)
        assert len(indices) == frames and list(indices) == sorted(set(indices))
        assert set(indices) <= set(range(total))


def test_strides_are_log_uniform() -> None:
    """Of the single groups, as many have a stride below the geometric middle as above it."""
    draw = rng()
    spans = [torch.tensor(sample_strides(draw, 5, 101)).diff() for _ in range(2000)]
    even = [float(span.float().mean()) for span in spans if span.max() - span.min() <= 1]
    assert min(even) == 1 and max(even) > 24
    assert 0.45 < sum(stride < 5 for stride in even) / len(even) < 0.62  # some united groups are even too
