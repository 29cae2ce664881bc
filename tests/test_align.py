"""What a middle block is to tell: against the renderer's pictures, and closed forms."""

import math

import pytest
import torch
from torch import nn

from sora_cli.models.sora.dit import Conditions, Dit, DitConfig
from sora_cli.models.sora.patches import Grid, patchify
from sora_cli.train.align import TURNS, Features, Geometry, Learner, transformer
from sora_cli.world import Scene
from sora_cli.world.field import field

CONFIG = DitConfig(channels=3, width=32, depth=4, heads=2, text_width=8, text_tokens=4, registers=1, bins=(8, 4, 4),
                   seconds=16.0, bar=8.0)  # fmt: skip


def geometry_of(scene: Scene) -> torch.Tensor:
    """The field of one picture in patches, as training has it."""
    known = field([scene], torch.zeros(1, 1), 192, 320).flatten(2, 3)[0]
    return patchify(known[None].transpose(1, 2))


def right_answer(aim: torch.Tensor) -> torch.Tensor:
    """What a head that knows everything tells."""
    subjects = []
    for first in (0, 12):
        cover, u, v = (aim[:, first + 4 * part : first + 4 * part + 4] for part in range(3))
        told = [cover]
        for place in (u, v):
            told += [wave(2 * math.pi * turns * place) for turns in TURNS for wave in (torch.sin, torch.cos)]
        subjects += told
    return torch.cat(subjects, 1)


def test_geometry_asks_for_cover_everywhere_and_for_places_where_subjects_are() -> None:
    aim, geometry = geometry_of(Scene("cat", "standing still", "meadow", second="owl")), Geometry()
    right = right_answer(aim)
    assert right.shape == (60, geometry.numbers)
    assert float(geometry.loss(right, aim)) == pytest.approx(0, abs=1e-6)
    empty = aim[:, :4].amax(1) == 0
    elsewhere = right.clone()
    elsewhere[empty, 4:68] += 5  # u and v of the first subject, where it is not
    assert float(geometry.loss(elsewhere, aim)) == pytest.approx(0, abs=1e-6)
    number = torch.arange(geometry.numbers)
    for chosen, part in ((number < 4, "cover"), (number == 4, "u of the first"), (number == 72, "u of the second")):
        assert float(geometry.loss(right + 0.3 * chosen, aim)) > 1e-4, part


def test_features_are_told_up_to_their_length() -> None:
    aim = torch.randn(7, 5)
    assert float(Features(5).loss(3 * aim, aim)) == pytest.approx(0, abs=1e-6)
    assert float(Features(5).loss(-aim, aim)) == pytest.approx(2, abs=1e-6)


def test_a_learner_is_its_transformer_and_a_head_that_goes() -> None:
    torch.manual_seed(0)
    dit = Dit(CONFIG)
    for p in dit.parameters():
        nn.init.normal_(p, std=0.2)
    learner, grids = Learner(dit, Geometry()), (Grid(1, 2, 2),) * 2
    given = Conditions(torch.rand(2), torch.zeros(2, 2), torch.zeros(2), torch.ones(2), torch.randn(2, 6, 8),
                       torch.ones(2), torch.zeros(2))  # fmt: skip
    clean, told = learner(torch.randn(8, 12, generator=torch.Generator().manual_seed(1)), grids, given)
    assert told is not None and told.shape == (8, Geometry.numbers)
    again = dit(torch.randn(8, 12, generator=torch.Generator().manual_seed(1)), grids, given)
    assert torch.equal(clean, again)
    told.square().sum().backward()
    reached = [number for number, block in enumerate(dit.blocks, 1) if block.mlp.out.weight.grad is not None]
    assert reached == [1, 2, 3]  # the middle block and those before it
    kept = transformer(learner.state_dict())
    assert kept.keys() == dit.state_dict().keys()
    assert Learner(dit, None)(torch.randn(8, 12), grids, given)[1] is None
