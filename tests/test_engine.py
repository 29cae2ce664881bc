"""The engine on tiny random weights: exact sizes and lengths, seeds, known frames, every plan."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sora_cli import geometry, registry
from sora_cli.errors import Failed, SoraError
from sora_cli.generation.engine import Engine, Generation, GivenClip, folded
from sora_cli.geometry import Span
from sora_cli.models.sora.dit import Dit, DitConfig
from sora_cli.models.sora.text import TextConfig, TextTower
from sora_cli.models.sora.vae import Vae, VaeConfig
from sora_cli.pipelines.codec import pictures_of
from sora_cli.placement.device import pick_device
from sora_cli.sampling.conditioning import NULL_TIME
from sora_cli.shot import PLANS, Cue, Shot
from sora_cli.storage.latent_file import Header, save
from sora_cli.world.captions import words

TINY = registry.Entry("tiny", "sora", "a test", usage=registry.SamplingDefaults(window=4, context=2, grammar=True))
SHOT = Shot("a cat surfing", width=128, height=96, frames=22, steps=2, seed=5, model="tiny")


def tiny_part(model: object, stem: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Random weights of each stage with the header that training writes, whatever the model."""
    torch.manual_seed(0)
    vocabulary = sorted(set(words()))
    text = TextConfig(len(vocabulary) + 4, 20, 16, 2, 1, 8)
    parts = {
        "text": (TextTower(text), text),
        "vae": (Vae(v := VaeConfig(4, 0, 2, 8, 8, 8, 8, 1, 2, 1)), v),
        "dit": (Dit(d := DitConfig(6, 16, 1, 2, 16, 16, 1, (8, 4, 4), 16.0, 8.0)), d),
    }
    module, config = parts[stem]
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.2 if stem == "dit" else 0.1)
    return module.state_dict(), {"config": json.dumps(asdict(config)), "vocabulary": json.dumps(vocabulary)}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(registry, "load_model_files", tiny_part)
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": TINY})
    yield Engine(registry.entry("tiny"), "cpu", "float32")


def finished(engine: Engine, shot: Shot) -> Generation:
    run = engine.start(shot)
    steps = list(run.denoise())
    assert [p.done for p in steps] == list(range(steps[-1].total + 1))
    return run


def test_frames_are_as_many_and_as_large_as_asked(engine: Engine) -> None:
    run = finished(engine, SHOT)
    frames = list(run.frames())
    width, height = run.source_size
    assert len(frames) == 22 and width / height == pytest.approx(128 / 96, rel=0.01)
    assert all(f.shape == (height, width, 3) and f.dtype == np.uint8 for f in frames)


def test_one_frame(engine: Engine) -> None:
    assert len(list(finished(engine, replace(SHOT, frames=1)).frames())) == 1


def test_the_seed_decides(engine: Engine) -> None:
    one, same, other = (finished(engine, replace(SHOT, seed=s)).latents for s in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=1e-2)


def test_prompt_guidance_and_negative_matter(engine: Engine) -> None:
    plain = finished(engine, SHOT).latents
    for change in ({"prompt": "a rocket in space"}, {"guidance": 1.0}, {"negative": "a dog in the snow"}):
        assert not torch.allclose(plain, finished(engine, replace(SHOT, **change)).latents, atol=1e-6), change


@pytest.mark.parametrize("plan", PLANS)
def test_known_frames_come_back_untouched(engine: Engine, plan: str) -> None:
    rng = np.random.default_rng(0)
    width, height = engine.start(SHOT).source_size
    clip, image = (rng.integers(0, 256, (n, height, width, 3), np.uint8) for n in (5, 1))
    run = engine.start(replace(SHOT, plan=plan), [GivenClip(0, clip), GivenClip(20, image)])
    assert run.timeline.cond_mask.tolist() == [[1, 1, 0, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0, 0]]
    list(run.denoise())
    assert run.latents is not None
    assert torch.equal(run.latents[:, :2], run.encode(clip))
    assert torch.equal(run.latents[:4, 5], run.encode(image)[:4, 0])
    assert run.latents[:, 2:5].abs().amin() > 0 and run.latents[4:, 5].abs().amin() > 0


def test_context_before_and_behind_is_not_shown(engine: Engine) -> None:
    """A connector between two clips: only its own frames come out, however much is known around it."""
    rng = np.random.default_rng(1)
    width, height = engine.start(SHOT).source_size
    tail, head = (rng.integers(0, 256, (5, height, width, 3), np.uint8) for _ in range(2))
    shot = replace(SHOT, frames=11)
    run = engine.start(shot, [GivenClip(-5, tail), GivenClip(11, head)], Span(5, 11, 5))
    assert run.timeline.cond_mask[0].tolist() == [1, 1, 0, 0, 1, 1]
    assert run.timeline.cond_mask[1].tolist() == [1, 1, 0, 0, 0, 1]  # the motion to the head is to be made
    list(run.denoise())
    assert len(list(run.frames())) == 5 + 11
    (_, (number, still)), (_, (again, same)) = run.keyframes(), run.keyframes()
    assert np.array_equal(still, same) and still.shape == (height, width, 3) and number == again == 0


def test_times_are_those_of_the_scene_unless_something_is_given(engine: Engine) -> None:
    image = np.zeros((1, *engine.start(SHOT).source_size[::-1], 3), np.uint8)
    plain, begun, looped = (engine.start(SHOT), engine.start(SHOT, [GivenClip(0, image)]),
                            engine.start(replace(SHOT, frames=24, loop=True)))  # fmt: skip
    for window in plain.plan.windows:
        times = [plain.plan.begins + frame / 6 for frame in window.frames]
        assert plain.seconds(window).tolist() == pytest.approx(times)
    for run in (begun, looped):
        assert run.plan.clock is None and all(run.seconds(window).min() >= NULL_TIME for window in run.plan.windows)


def test_what_a_model_of_the_world_made_goes_on_with_its_clock(engine: Engine,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """A beat is a time at which the scene begins; latents of its own know theirs; loops of whole bars have one, too."""
    world = replace(engine.pipeline.entry, usage=replace(engine.pipeline.entry.usage, grammar=True, bar=8.0))
    monkeypatch.setattr(engine.pipeline, "entry", world)
    later = replace(SHOT, captions=("a large cat surfing normal, ocean, camera still, middle, low, beat three",))
    run = engine.start(later)
    assert run.plan.clock == 1.25 and float(run.seconds(run.plan.windows[0]).min()) == pytest.approx(1.25)
    latents = run.timeline.latents[:, :2]
    own = engine.start(later, [GivenClip(-5, latents=latents, clock=3.0)], Span(5, 21, 0))
    assert own.plan.clock == pytest.approx(3.0)
    stranger = engine.start(later, [GivenClip(-5, latents=latents)], Span(5, 21, 0))
    assert stranger.plan.clock is None
    for seconds, bars in ((8, 1), (7, 1), (9.5, 0), (16, 2), (4, 0)):
        looped = engine.start(replace(later, frames=int(seconds * 24) // 4 * 4, loop=True))
        assert looped.plan.bars == bars, seconds
        times = torch.cat([looped.seconds(window) for window in looped.plan.windows])
        assert (times.max() < 1.25 + 8 * bars) if bars else (times.min() >= NULL_TIME)


@pytest.mark.parametrize(("first", "last"), [(0.0, 60.0), (62.0, 66.0), (500.0, 507.0), (3.0, 90.0)])
def test_a_clock_tells_late_times_some_bars_earlier(first: float, last: float) -> None:
    times = torch.linspace(first, last, 9)
    told = folded(times, 8.0)
    assert told.min() >= 0 and told.max() < NULL_TIME
    assert torch.allclose((told - times) % 8, torch.zeros(9), atol=1e-3) or torch.allclose(
        ((told - times) % 8 - 8).abs().minimum((told - times) % 8), torch.zeros(9), atol=1e-3)  # fmt: skip
    if last - first < 56:
        assert torch.allclose(told.diff(), times.diff(), atol=1e-4)
    assert torch.equal(folded(times, 0.0), times)


def test_a_single_image_is_brought_onto_a_key_frame(engine: Engine) -> None:
    width, height = engine.start(SHOT).source_size
    run = engine.start(SHOT, [GivenClip(21, np.zeros((1, height, width, 3), np.uint8))])
    assert run.span.lead == 3 and run.timeline.cond_mask[0].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert not any("key frame" in note for note in run.notes)


def test_a_loop_is_as_long_as_asked_and_has_no_first_frame(engine: Engine) -> None:
    run = finished(engine, replace(SHOT, frames=24, loop=True))
    assert run.latents is not None and run.latents.shape[1] == 6
    assert len(list(run.frames())) == 24
    with pytest.raises(SoraError, match="multiple of 4"):
        engine.start(replace(SHOT, frames=22, loop=True))


def test_a_loop_is_decoded_from_its_file_to_the_same_bits(engine: Engine, tmp_path: Path) -> None:
    shot = replace(SHOT, frames=24, loop=True)
    run = finished(engine, shot)
    assert run.latents is not None
    path = tmp_path / "loop.safetensors"
    header = Header("tiny", "0" * 64, shot.width, shot.height, shot.fps, shot.frames, cyclic=True)
    save(path, run.latents, header)
    again = list(engine.pipeline.codec.decode(path))
    assert all(np.array_equal(one, same) for one, same in zip(run.frames(), again, strict=True))


def test_every_frame_follows_the_prompt_of_its_time(engine: Engine) -> None:
    shot = replace(SHOT, cues=(Cue("16", "a dog in the snow"), Cue("8", "a rocket in space")))
    run = engine.start(shot)
    assert run.plan.prompt_index(range(7)) == [0, 0, 2, 2, 1, 1, 1]
    same, other = finished(engine, SHOT).latents, finished(engine, shot).latents
    assert same is not None and other is not None and not torch.allclose(same, other, atol=1e-4)


def test_finished_windows_are_not_made_again(engine: Engine) -> None:
    kept: list[torch.Tensor] = []

    class Kept:
        def finished(self) -> Iterator[torch.Tensor]:
            return iter(kept[:1])

        def put(self, number: int, latents: torch.Tensor) -> None:
            kept[number:] = [latents]

    whole, again = engine.start(SHOT), engine.start(SHOT)
    list(whole.denoise(Kept()))
    assert len(kept) == len(whole.plan.windows) > 1
    list(again.denoise(Kept()))
    assert torch.equal(whole.latents, again.latents) and again.flops < whole.flops


def test_stages_are_timed_and_counted(engine: Engine) -> None:
    run = finished(engine, SHOT)
    list(run.frames())
    assert set(run.timings) == {"text", "dit", "decode"} and min(run.timings.values()) > 0
    assert run.flops > 0


def test_unknown_words_are_named(engine: Engine) -> None:
    notes = " ".join(engine.start(replace(SHOT, prompt="a cat and a zeppelin")).notes)
    assert "zeppelin" in notes and "--model" in notes
    assert "know" not in " ".join(engine.start(SHOT).notes)


def test_a_missing_device_is_refused() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SoraError, match="cuda is not available"):
            pick_device("cuda")


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_that_are_no_numbers_are_no_pictures(broken: float, dtype: torch.dtype) -> None:
    video = torch.zeros(3, 2, 64, 64, dtype=dtype)
    assert pictures_of(video, geometry.canvas(64, 64, tokens=4)).shape == (2, 64, 64, 3)
    video[1, 1, 30, 30] = broken
    with pytest.raises(Failed, match="decoded frames are not finite"):
        pictures_of(video, geometry.canvas(64, 64, tokens=4))


@pytest.mark.parametrize("weights", [torch.nan, 1e20])
def test_weights_that_explode_end_a_video_in_one_line(engine: Engine, weights: float) -> None:
    run = finished(engine, SHOT)
    decoder = engine.pipeline.codec.vae.decoder
    for p in decoder.parameters():
        p.data *= weights
    with pytest.raises(Failed, match="not finite"):
        list(run.frames())
