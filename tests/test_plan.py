"""A plan says beforehand what the engine does: no network, no torch, and a model that is named once."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_engine import SHOT, engine  # noqa: F401

from sora_cli import registry
from sora_cli.errors import SoraError
from sora_cli.generation.engine import Engine, GivenClip
from sora_cli.generation.plan import Given, plan
from sora_cli.geometry import Span
from sora_cli.shot import Cue

PLACES = [(), ((0, 9),), ((0, 1),), ((8, 1),), ((21, 1),), ((5, 7),), ((13, 9),), ((0, 5), (17, 5)), ((3, 1), (9, 2))]


@pytest.mark.parametrize("given", PLACES)
def test_what_is_planned_as_given_is_what_the_engine_is_given(engine: Engine, given: tuple) -> None:  # noqa: F811
    width, height = engine.start(SHOT).source_size
    known = [GivenClip(at, np.zeros((count, height, width, 3), np.uint8)) for at, count in given]
    run = engine.start(SHOT, known)
    assert run.plan == plan(SHOT, registry.entry(SHOT.model), [Given(at, count) for at, count in given])
    assert run.plan.context == run.timeline.done() and run.plan.end_frames == set(run.timeline.end_frames) == set()
    made = [frame for window in run.plan.windows for frame in window.latent]
    assert sorted(made) == sorted(set(range(run.plan.latents)) - run.plan.context)


def test_latents_that_are_given_are_planned_as_well(engine: Engine) -> None:  # noqa: F811
    latents = engine.start(SHOT).timeline.latents[:, :3]
    run = engine.start(SHOT, [GivenClip(-9, latents=latents, clock=2.0)], Span(9, 22, 0))
    assert run.plan.context == run.timeline.done() == {0, 1, 2} and run.plan.clock == pytest.approx(2.0)


def test_a_plan_runs_no_network(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(Engine, "pipeline", engine.pipeline, raising=False)
    width, height = engine.start(SHOT).source_size
    monkeypatch.setattr(type(engine.pipeline.codec), "encode", lambda *_: pytest.fail("a constructor encodes"))
    engine.start(SHOT, [GivenClip(0, np.zeros((5, height, width, 3), np.uint8))])


def test_a_shot_of_another_model_does_not_meet_this_engine(engine: Engine,  # noqa: F811
                                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    entries = {"tiny": registry.entry("tiny"), "large": registry.Entry("large", "wan", "another")}
    monkeypatch.setattr(registry, "registry", lambda: entries)
    with pytest.raises(SoraError, match="the shot needs model large, but tiny is loaded"):
        engine.start(replace(SHOT, model="large"))


def test_prompts_hold_from_their_cue_on() -> None:
    shot = replace(SHOT, model="pocket", frames=33, cues=(Cue.parse("16=a dog"), Cue.parse("8=a fox")))
    assert plan(shot, registry.entry("pocket")).prompt_index(range(9)) == [0, 0, 2, 2, 1, 1, 1, 1, 1]


def test_plans_need_no_torch() -> None:
    script = ("import sys; from sora_cli.generation.plan import plan; from sora_cli.registry import entry\n"
              "from sora_cli.shot import Shot\n"
              "assert plan(Shot('a cat', frames=500), entry('pocket')).windows\n"
              "assert 'torch' not in sys.modules")  # fmt: skip
    subprocess.run([sys.executable, "-c", script], check=True)
