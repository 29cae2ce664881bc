"""The Video DiT: the order of generation, packing, and learning something small."""

from dataclasses import replace

import pytest
import torch

from sora_cli.models.sora.dit import Conditions, Dit, DitConfig, RMSNorm, apply_rope, renamed
from sora_cli.models.sora.patches import Grid, attention, layout, patchify, unpatchify

CONFIG = DitConfig(channels=3, width=32, depth=2, heads=2, text_width=8, text_tokens=4, registers=1,
                   bins=(8, 4, 4), seconds=16.0, bar=8.0)  # fmt: skip


@pytest.fixture
def dit() -> Dit:
    torch.manual_seed(0)
    dit = Dit(CONFIG).eval()
    for p in dit.parameters():  # zero-initialised projections would hide every path
        torch.nn.init.normal_(p, std=0.2)
    return dit


def conditions(grids: tuple[Grid, ...], order: list[int]) -> Conditions:
    frames = sum(g.frames for g in grids)
    rng = torch.Generator().manual_seed(1)
    return Conditions(
        t=torch.rand(frames, generator=rng), cond_mask=torch.zeros(frames, 2),
        seconds=torch.cat([torch.arange(g.frames) / 3 for g in grids]), order=torch.tensor(order),
        text=torch.randn(len(grids), 6, 8, generator=rng), guidance=torch.ones(len(grids)),
        step=torch.zeros(len(grids)),
    )  # fmt: skip


# Frame i is influenced by frame j: by hand, for the orders that the verbs use.
TABLES = {
    "forward": ([1, 2, 3], [[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
    "reverse": ([3, 2, 1], [[1, 1, 1], [0, 1, 1], [0, 0, 1]]),
    "key frames first": ([1, 2, 1], [[1, 0, 1], [1, 1, 1], [1, 0, 1]]),
    "end anchor": ([1, 1, 0], [[1, 1, 1], [1, 1, 1], [0, 0, 1]]),
}


@torch.no_grad()
@pytest.mark.parametrize("name", TABLES)
def test_frames_are_influenced_by_what_exists_already(dit: Dit, name: str) -> None:
    order, table = TABLES[name]
    grid = (Grid(3, 2, 2),)
    given = conditions(grid, order)
    video = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    before = unpatchify(dit(patchify([video]), grid, given), grid)[0]
    for j in range(3):
        changed = video.clone()
        changed[:, j] += 1
        after = unpatchify(dit(patchify([changed]), grid, given), grid)[0]
        moved = (after - before).abs().amax((0, 2, 3)) > 1e-5
        assert moved.tolist() == [bool(row[j]) for row in table], f"column {j}"


@torch.no_grad()
def test_a_pack_of_different_videos_equals_each_alone(dit: Dit) -> None:
    grids = (Grid(1, 2, 3), Grid(3, 2, 2), Grid(2, 1, 2), Grid(3, 3, 1))
    given = conditions(grids, [1, 1, 2, 3, 1, 1, 2, 1, 2])
    rng = torch.Generator().manual_seed(3)
    videos = [torch.randn(3, g.frames, 2 * g.height, 2 * g.width, generator=rng) for g in grids]
    together = unpatchify(dit(patchify(videos), grids, given), grids)
    at = 0
    for number, (g, video) in enumerate(zip(grids, videos, strict=True)):
        mine, of = slice(at, at + g.frames), slice(number, number + 1)
        alone = Conditions(given.t[mine], given.cond_mask[mine], given.seconds[mine], given.order[mine],
                           given.text[of], given.guidance[of], given.step[of])  # fmt: skip
        assert torch.allclose(unpatchify(dit(patchify([video]), (g,), alone), (g,))[0], together[number], atol=1e-4)
        at += g.frames


@torch.no_grad()
@pytest.mark.parametrize("field", ["t", "cond_mask", "seconds", "text", "guidance", "step"])
def test_every_condition_is_heard(dit: Dit, field: str) -> None:
    grid = (Grid(2, 2, 2),)
    given = conditions(grid, [1, 1])
    video = [torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(4))]
    other = Conditions(**vars(given) | {field: getattr(given, field) + 0.37})
    assert not torch.allclose(dit(patchify(video), grid, given), dit(patchify(video), grid, other), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_the_same_with_and_without_gradients(dtype: torch.dtype) -> None:
    norm = RMSNorm(24).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(5, 3, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        fast = norm(x)
        assert not norm(0 * x).any()
    assert torch.allclose(fast, norm(x), rtol=2e-5 if dtype == torch.float32 else 2e-2)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [3, 40])
def test_attention_while_sampling_is_that_while_training(tokens: int) -> None:
    q, k, v = torch.randn(3, 2, 5, 4, tokens, 8, generator=torch.Generator().manual_seed(0))
    bias = torch.randn(2, 1, 4, tokens, tokens, generator=torch.Generator().manual_seed(1))
    sampled = attention(q, k, v, bias)
    with torch.enable_grad():
        trained = attention(q, k, v, bias)
    expected = ((q @ k.transpose(-1, -2)) * 8**-0.5 + bias).softmax(-1) @ v
    assert torch.allclose(sampled, expected, atol=1e-5) and torch.allclose(trained, expected, atol=1e-5)


@torch.no_grad()
def test_attention_in_space_goes_by_how_far_patches_are_apart(dit: Dit) -> None:
    """Equal queries and equal keys everywhere: scores between patches depend on their offset alone."""
    where = layout((Grid(1, 5, 7),), CONFIG.conditions, torch.device("cpu"))
    query, key = torch.randn(2, 1, CONFIG.heads, 16, generator=torch.Generator().manual_seed(1))
    rope = dit.rope(where, torch.float32)
    q, k = (apply_rope(x.expand(where.tokens, -1, -1), rope)[where.patches] for x in (query, key))
    scores = torch.einsum("q H d, k H d -> H q k", q, k)
    offsets = where.cell[None] - where.cell[:, None]  # (q, k, 2)
    groups = [scores[:, (offsets == torch.tensor(offset)).all(-1)] for offset in [(0, 0), (0, 1), (1, 0), (-2, 3)]]
    assert all(group.std(1).max() < 1e-5 for group in groups)
    assert torch.stack([group[:, 0] for group in groups]).std(0).min() > 0.05
    alone = apply_rope(query, tuple(angle[where.conditions[0, :1]] for angle in rope))
    assert torch.allclose(alone, query)  # conditions are turned by nothing


@torch.no_grad()
def test_from_the_last_bin_on_times_are_no_more_than_distances(dit: Dit) -> None:
    grid = (Grid(3, 2, 2),)
    given, patches = conditions(grid, [1, 1, 1]), torch.randn(12, 12, generator=torch.Generator().manual_seed(2))
    at = {start: dit(patches, grid, replace(given, seconds=given.seconds + start)) for start in (0.0, 5.0, 16.0, 40.0)}
    assert torch.allclose(at[16.0], at[40.0], atol=1e-4)
    assert (at[0.0] - at[5.0]).abs().max() > 1e-2 and (at[0.0] - at[16.0]).abs().max() > 1e-2


def test_starts_as_zero_and_as_an_image_model() -> None:
    dit = Dit(CONFIG)
    grid = (Grid(2, 2, 2),)
    out = dit(torch.randn(8, 12), grid, conditions(grid, [1, 2]))
    assert not out.any()
    assert all(not block.time.out.weight.any() for block in dit.blocks)


def test_width_must_divide_by_heads() -> None:
    with pytest.raises(ValueError, match="32 is not a multiple of 8 for each of 5 heads"):
        DitConfig(3, 32, 1, 5, 8, 4, 1, (8, 4, 4), 16.0, 8.0)
    with pytest.raises(ValueError, match="is not a multiple of 8 for each of"):
        DitConfig(3, 32, 1, 8, 8, 4, 1, (8, 4, 4), 16.0, 8.0)


def test_older_files_are_read_under_the_names_of_now(dit: Dit) -> None:
    old = {"t_embedder": "time_in", "cfg_embedder": "pace_in", "time_embed": "clock", "temporal_bias": "distance"}
    state = dit.state_dict()
    before = {".".join(old.get(part, part) for part in key.split(".")): value for key, value in state.items()}
    assert before.keys() != state.keys() and renamed(before).keys() == state.keys() == renamed(state).keys()
    assert all(renamed(before)[key] is value for key, value in state.items())
