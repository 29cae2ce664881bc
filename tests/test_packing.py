"""Packs of clips of any size: full, the same everywhere, and good to learn from."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sora_cli.errors import SoraError
from sora_cli.models.sora.dit import Conditions, Dit, DitConfig
from sora_cli.models.sora.patches import Grid, grid_of, layout, patchify
from sora_cli.sampling.conditioning import NULL_TIME
from sora_cli.train.align import Learner
from sora_cli.train.data import packing
from sora_cli.train.data.noising import examples_of
from sora_cli.train.data.packing import Packs, Shape
from sora_cli.train.recipes import dit as training

CPU = torch.device("cpu")
CONFIG = DitConfig(channels=6, width=32, depth=1, heads=2, text_width=8, text_tokens=4, registers=1,
                   bins=(8, 4, 4), seconds=16.0, bar=8.0)  # fmt: skip


class Fake:
    """A dataset whose every frame says which it is: its number in the first channel, its clip's in the second."""

    def __init__(self, shapes: list[Shape], told: bool = False) -> None:
        self.shapes, self.told = shapes, told

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, str]:
        latents = torch.randn(6, *self.shapes[i], generator=torch.Generator().manual_seed(i))
        latents[0] = torch.arange(self.shapes[i][0])[:, None, None]
        latents[1] = i
        return latents, torch.arange(self.shapes[i][0]) / 6, f"clip {i}"

    def features(self, i: int, text: str | None = None) -> Tensor | None:
        return torch.full((5, 8), 1.0 + i) if self.told and text == "this tower" else None


def mixed(count: int = 200) -> list[Shape]:
    rng = random.Random(0)
    sizes = [(12, 20), (20, 12), (16, 16), (24, 40), (10, 18), (22, 14), (8, 8)]
    return [(rng.choice([1, 2, 5, 9, 17, 49]), *rng.choice(sizes)) for _ in range(count)]


def read(captions: list[str]) -> Tensor:
    return torch.stack([torch.full((5, 8), float(len(caption))) for caption in captions])


def packs(shapes: list[Shape], budget: int = 3840, **more: object) -> Packs:
    return Packs(Fake(shapes), read, 19, budget, seed=3, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("drop", [0.0, 0.25])
@pytest.mark.parametrize("budget", [2048, 3840, 20224])
def test_next_to_nothing_of_the_budget_is_wasted(budget: int, drop: float) -> None:
    made = packs(mixed(), budget, drop=drop)
    for number in range(10):
        pack = made.at(number)
        tokens = packing.tokens_of(pack.grids, 19)
        whole = layout(pack.grids, 19, CPU).tokens
        assert tokens <= budget and whole <= budget
        assert pack.padding_fraction == pytest.approx(1 - tokens / whole) and pack.padding_fraction < 0.02
        assert whole == (tokens if len({(g.frames, g.size) for g in pack.grids}) == 1 else budget)


@pytest.mark.parametrize("shapes", [[(9, 12, 20)], [(9, 12, 20), (3, 20, 12)], [(7, 30, 52), (9, 12, 20)]])
def test_few_shapes_waste_little_too(shapes: list[Shape]) -> None:
    for number in range(5):
        assert packs(shapes).at(number).padding_fraction < 0.02


@pytest.mark.parametrize("budget", [512, 3840])
def test_clips_are_drawn_alike_whatever_would_fill_a_pack_best(budget: int) -> None:
    """A frame of 82 tokens among those of 79 fills a budget to the brim where it comes again and again."""
    made = packs([(17, 12, 20)] * 19 + [(17, 18, 14)], budget)
    frames = Counter[int]()
    for number in range(300):
        for clip, count in made.plan(number):
            frames[clip] += count
    share = frames[19] / sum(frames.values())
    assert 0.02 < share < 0.12 and min(frames.values()) > 0.2 * max(frames.values())


def test_a_pack_depends_on_its_seed_and_number_alone() -> None:
    one, other = packs(mixed()), packs(mixed())
    other.at(1)
    first, again = one.at(7), other.at(7)
    assert first.grids == again.grids and torch.equal(first.text, again.text)
    assert all(torch.equal(a[0], b[0]) and a[2] == b[2] for a, b in zip(first.clips, again.clips, strict=True))
    assert first.rng.get_state().equal(again.rng.get_state())
    other.seed = 4
    assert one.plan(7) != one.plan(8) and one.plan(7) != other.plan(7)


def test_clips_are_whole_or_cut_in_time_and_none_is_left_out() -> None:
    shapes = mixed(60)
    made, seen, kinds, starts = packs(shapes), Counter[str](), set(), set[float]()
    for number in range(60):
        for latents, seconds, caption, *_ in made.at(number).clips:
            frames = latents[0, :, 0, 0].long().tolist()
            total = shapes[int(latents[1, 0, 0, 0])][0]
            assert frames == sorted(set(frames)) and max(frames) < total
            start = NULL_TIME if seconds[0] >= NULL_TIME else 0.0
            assert seconds.tolist() == pytest.approx([start + frame / 6 for frame in frames])
            starts.add(start)
            assert caption == f"clip {int(latents[1, 0, 0, 0])}"
            seen[caption] += 1
            gaps = {b - a for a, b in zip(frames, frames[1:], strict=False)}
            kinds.add("whole" if len(frames) == total else "strided" if gaps - {1} else "range")
    assert len(seen) == 60 and kinds == {"whole", "strided", "range"} and starts == {0.0, NULL_TIME}


def test_a_clip_longer_than_the_budget_is_cut() -> None:
    clips = packs([(400, 12, 20)]).at(0).clips
    assert sum(latents.shape[1] for latents, *_ in clips) == 3840 // 79


def test_a_frame_larger_than_the_budget_is_refused() -> None:
    with pytest.raises(SoraError, match=r"a frame of clip 1 has 979 tokens, but a batch 512; use a --batch that is 2"):
        packs([(1, 12, 20), (3, 48, 80)], 512)
    with pytest.raises(SoraError, match="clip 0: latents of 20x11 cells do not divide into patches of 2x2"):
        packs([(1, 11, 20)])


def test_packs_for_distilling_have_one_shape() -> None:
    made = packs(mixed(), uniform_shape=True)
    shapes = [{latents.shape for latents, *_ in made.at(number).clips} for number in range(20)]
    assert all(len(each) == 1 for each in shapes) and len({shape for each in shapes for shape in each}) > 5


def test_features_of_the_dataset_are_taken_where_they_are_of_the_same_tower() -> None:
    for tower, told in (("this tower", True), ("another", False)):
        made = Packs(Fake(mixed(), told=True), read, 19, 2048, 3, tower=tower)
        pack = made.at(0)
        for (_, _, caption, *_), row in zip(pack.clips, pack.text, strict=True):
            number = int(caption.split()[1])
            assert not row.any() or float(row[0, 0]) == (1 + number if told else len(caption))


# -- Dropped positions ------------------------------------------------------------------------------------


def test_dropped_positions_are_the_same_in_all_frames() -> None:
    video = torch.arange(5 * 4 * 6.0).view(1, 5, 4, 6)
    grid = replace(grid_of(video), keep=(0, 4))
    patches = patchify([video], [grid]).view(5, 2, 4)
    assert torch.equal(patches, patchify([video]).view(5, 6, 4)[:, [0, 4]])
    where = layout((grid,), 2, CPU)
    assert torch.allclose(where.position[:2], torch.tensor([[0.25, 1 / 6], [0.75, 0.5]]))
    assert [group.take(torch.arange(10)).numel() for group in where.temporal] == [10]


def test_a_share_of_positions_is_dropped() -> None:
    pack = packs(mixed(), drop=0.25).at(0)
    for grid in pack.grids:
        assert len(grid.keep) == round(0.75 * grid.height * grid.width) and list(grid.keep) == sorted(set(grid.keep))
    assert len({grid.keep for grid in pack.grids if (grid.height, grid.width) == (6, 10)}) > 1


@torch.no_grad()
def test_attention_among_kept_patches_is_that_of_a_video_of_them_alone() -> None:
    """Packed with others or alone, and patches that are dropped are seen by nobody."""
    torch.manual_seed(0)
    dit = Dit(CONFIG)
    for p in dit.parameters():
        torch.nn.init.normal_(p, std=0.2)
    video, other = torch.randn(6, 3, 4, 6), torch.randn(6, 2, 4, 4)
    grid, second = Grid(3, 2, 3, (0, 2, 4)), grid_of(other)

    def made(video: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        videos, frames = [video, other][: len(grids)], sum(g.frames for g in grids)
        t, V = torch.linspace(0.2, 0.8, 5)[:frames], len(grids)
        given = Conditions(t, torch.zeros(frames, 2), torch.arange(frames) / 6, torch.ones(frames),
                           torch.ones(V, 5, 8), torch.ones(V), torch.zeros(V))  # fmt: skip
        return dit(patchify(videos, grids), grids, given)[:9]

    changed = video.clone()
    changed[:, :, :2, 2:4] += 1  # position 1, which is dropped
    assert torch.allclose(made(video, (grid,)), made(changed, (grid,)))
    assert torch.allclose(made(video, (grid,)), made(video, (grid, second)), atol=1e-4)
    assert not torch.allclose(made(video, (grid,)), made(video, (replace(grid, keep=(0, 2, 5)),)), atol=1e-2)


# -- Learning ---------------------------------------------------------------------------------------------


class Flat:
    """Stands for an autoencoder whose latents have as many channels."""

    config = type("Config", (), {"channels": 6, "parts": (4, 0, 2)})


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_what_learns_from_mixed_sizes_makes_videos_of_others(drop: float) -> None:
    torch.manual_seed(0)
    dit, conditions = Dit(CONFIG), CONFIG.conditions
    made = Packs(Fake([(1, 4, 4), (3, 4, 8), (5, 8, 4), (2, 6, 6)]), read, conditions, 256, 3, drop)
    optimizer = torch.optim.AdamW(dit.parameters(), 3e-3)

    def loss(number: int) -> Tensor:
        pack = made.at(number)
        examples = examples_of(pack, (4, 2))
        return training.pack_loss(Learner(dit, None), examples, pack.text, pack.grids)["loss"]

    def others() -> float:
        with torch.no_grad():
            return sum(float(loss(number)) for number in range(100, 110))

    before = others()
    for number in range(12):
        optimizer.zero_grad()
        loss(number).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = others()
    assert after < 0.8 * before
    for frames, height, width in ((1, 6, 10), (4, 4, 6), (8, 12, 4), (2, 16, 16)):  # between them, and outside
        video = training.draw(dit.eval(), Flat(), read(["a cat"]), torch.arange(frames)[None] / 2, height, width, 3)  # type: ignore[arg-type]
        assert video.shape == (1, 6, frames, height, width) and video.isfinite().all()


@pytest.mark.parametrize("shapes", [[(1, 4, 4)], [(5, 8, 4)], [(1, 4, 4), (3, 4, 8)]])
def test_looking_on_changes_nothing(shapes: list[tuple[int, int, int]]) -> None:
    """What is drawn in inference mode leaves layouts behind, with which a training goes on."""
    layout.cache_clear()
    torch.manual_seed(0)
    model = Learner(Dit(CONFIG), None)
    pack = Packs(Fake(shapes), read, CONFIG.conditions, 256, 3, 0.0).at(0)
    examples = examples_of(pack, (4, 2))
    with torch.inference_mode():
        seen = training.pack_loss(model, examples, pack.text, pack.grids)["loss"]
    loss = training.pack_loss(model, examples, pack.text, pack.grids)["loss"]
    loss.backward()
    assert float(loss) == float(seen) and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
