"""Packs against the dense mask that they replace, and patchify against its inverse."""

import pytest
import torch
import torch.nn.functional as F

from sora_cli.models.sora.patches import (
    EvenLayout,
    Grid,
    Layout,
    attend,
    grid_of,
    interpolate,
    layout,
    patchify,
    unpatchify,
)

GRIDS = (Grid(1, 2, 3), Grid(3, 2, 2), Grid(3, 1, 4), Grid(2, 2, 3))
CPU = torch.device("cpu")


def videos() -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(5, g.frames, 2 * g.height, 2 * g.width, generator=rng) for g in GRIDS]


def test_patchify_is_exactly_undone() -> None:
    patches = patchify(videos())
    assert patches.shape == (sum(g.frames * g.height * g.width for g in GRIDS), 20)
    assert tuple(grid_of(v) for v in videos()) == GRIDS
    for before, after in zip(videos(), unpatchify(patches, GRIDS), strict=True):
        assert torch.equal(before, after)


def test_a_patch_holds_a_square_of_cells() -> None:
    video = torch.arange(16.0).view(1, 1, 4, 4)
    assert patchify([video])[1].tolist() == [2, 3, 6, 7]


def owners(conditions: int) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
    """By hand: (video, frame) of every token, and (video, place, is patch) of every token."""
    frames, slots = [], []
    for number, g in enumerate(GRIDS):
        for frame in range(g.frames):
            for i in range(conditions + g.height * g.width):
                frames.append((number, frame))
                slots.append((number, i - conditions, int(i >= conditions)))
    return frames, slots


@pytest.mark.parametrize("axis", ["space", "time"])
def test_grouped_attention_equals_the_dense_mask(axis: str) -> None:
    where = layout(GRIDS, 2, CPU)
    frames, slots = owners(2)
    keys: list[tuple[int, ...]] = [*(frames if axis == "space" else slots)]
    keys += [(-1, i) for i in range(where.tokens - len(keys))]  # padding is in nobody's segment
    mask = torch.tensor([[a == b for b in keys] for a in keys])
    rng = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, where.tokens, 2, 8, generator=rng)
    dense = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)), attn_mask=mask).transpose(0, 1)
    if axis == "space":
        grouped = attend(q, k, v, where.spatial)
        assert torch.allclose(grouped[: len(frames)], dense[: len(frames)], atol=1e-6)
        assert not grouped[len(frames) :].any()
        return
    grouped = attend(q[where.patches], k[where.patches], v[where.patches], where.temporal)
    moving = torch.tensor([GRIDS[video].frames > 1 for video, _, patch in slots if patch == 1])
    assert torch.allclose(grouped[moving], dense[where.patches][moving], atol=1e-6)
    assert not grouped[~moving].any()


@pytest.mark.parametrize("grid", [Grid(1, 2, 3), Grid(3, 2, 2)])
def test_videos_that_are_all_alike_need_no_indices_and_give_the_same(grid: Grid) -> None:
    even, ragged = layout((grid,) * 4, 2, CPU), layout((grid,) * 4 + (Grid(2, 1, 1),), 2, CPU)
    assert isinstance(even, EvenLayout) and not isinstance(ragged, EvenLayout)
    rng = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, even.tokens, 2, 8, generator=rng)
    padded = [F.pad(x, (0, 0, 0, 0, 0, ragged.tokens - even.tokens)) for x in (q, k, v)]
    assert torch.allclose(attend(q, k, v, even.spatial), attend(*padded, ragged.spatial)[: even.tokens], atol=1e-6)
    patches = [even.take(x.flatten(1)).unflatten(1, (2, 8)) for x in (q, k, v)]
    more = [torch.cat([x, torch.zeros(2, 2, 8)]) for x in patches]
    bias = torch.randn(5, 2, grid.frames, grid.frames, generator=rng)
    biases = [group.each(bias if group.frames == grid.frames else torch.zeros(5, 2, 2, 2)) for group in ragged.temporal]
    if even.temporal:
        one = attend(*patches, even.temporal, [even.temporal[0].each(bias[:4])])
        assert torch.allclose(one, attend(*more, ragged.temporal, biases)[: len(one)], atol=1e-6)
    x, y = q.flatten(1), patches[1].flatten(1)
    assert torch.equal(even.take(x), x[even.patches])
    assert torch.allclose(even.add(x, y), Layout.add(even, x, y))
    assert torch.equal(even.join(x[even.conditions], even.take(x)), x)


def test_layout_places_every_token_once() -> None:
    where = layout(GRIDS, 2, CPU)
    everything = torch.cat([where.patches, where.conditions.flatten()])
    assert sorted(everything.tolist()) == list(range(len(owners(2)[0])))
    assert where.tokens % 256 == 0 and 0 <= where.tokens - len(everything) < 256
    assert where.position.min() > 0 and where.position.max() < 1


def test_positions_interpolate_linearly_between_bin_centres() -> None:
    table = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    at = torch.tensor([0.125, 0.25, 0.5, 0.875, 1.0])  # centres lie at 1/8, 3/8, 5/8, 7/8
    assert interpolate(table, at).flatten().tolist() == [0, 5, 15, 30, 30]
