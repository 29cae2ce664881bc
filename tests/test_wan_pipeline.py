"""The engine on tiny random Wan checkpoints: what is known, what is made together, and where the networks live."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wan_folders
import wan_tiny
from torch import Tensor, nn
from wan_tiny import ROLES, SHOT, entry_of, locate

from sora_cli import registry
from sora_cli.errors import SoraError
from sora_cli.generation.engine import Engine, Generation, GivenClip
from sora_cli.geometry import Span
from sora_cli.models.wan.text import padded
from sora_cli.placement import memory
from sora_cli.placement.memory import Placement
from sora_cli.registry import hub
from sora_cli.sampling.solvers import timesteps, unipc, unipc_sigmas
from sora_cli.shot import Cue, Shot
from sora_cli.storage.latent_file import Header, save, vae_of

Tiny = Callable[..., Engine]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: wan_folders.write(tmp_path_factory.mktemp(kind), kind) for kind in wan_folders.KINDS}


@pytest.fixture
def tiny(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """An engine on a tiny checkpoint; keywords change how the registry says it is used, and where its networks go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(kind: str = wan_folders.WAN22, text: str = "cpu", dit: str = "resident", keep: bool = True,
             tile: int = 0, **usage: Any) -> Engine:  # fmt: skip
        entry = entry_of(kind, **usage)
        placement = Placement(text, dit, "float32", tile, 1 if tile else 0, keep)  # type: ignore[arg-type]
        monkeypatch.setattr(registry, "registry", lambda: {"tiny": entry})
        monkeypatch.setattr(hub, "locate", lambda entry: locate(checkpoints[kind]))
        wan_tiny.place(monkeypatch, placement)
        return Engine(registry.entry("tiny"), "cpu", "float32")

    return make


def pictures(count: int, run: Generation, seed: int = 0) -> np.ndarray:
    width, height = run.source_size
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def finished(engine: Engine, shot: Shot = SHOT, *known: GivenClip, span: Span | None = None) -> Generation:
    run = engine.start(shot, known, span)
    list(run.denoise())
    return run


def latents(run: Generation) -> Tensor:
    assert run.latents is not None
    return run.latents


# ---- one window ---------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_the_engine_is_networks_solver_and_guidance(tiny: Tiny) -> None:
    run = finished(tiny())
    pipeline = run.pipeline
    towards, away = pipeline.read([SHOT.prompt], SHOT.negative)[:, None]
    dit = pipeline.use("dit")

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        told, untold = (dit(x[None], timesteps(sigma)[None, None], text)[0] for text in (towards, away))
        return untold + 5 * (told - untold)

    noise = torch.randn(latents(run).shape, generator=torch.Generator().manual_seed(3))
    *_, expected = unipc(velocity, noise, unipc_sigmas(3, 5.0))
    torch.testing.assert_close(latents(run), expected, rtol=1e-5, atol=1e-5)


def test_frames_are_as_many_and_as_large_as_asked(tiny: Tiny) -> None:
    for kind in wan_folders.KINDS:
        for frames in (1, 16, 17):
            run = finished(tiny(kind), replace(SHOT, frames=frames))
            shown = list(run.frames())
            assert len(shown) == frames and {frame.shape for frame in shown} == {(64, 96, 3)}


def test_what_lies_beside_the_networks_makes_no_other_model(
    tiny: Tiny, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for windows that are gone on with, nor for latents that are decoded."""
    mine = shutil.copytree(checkpoints[wan_folders.WAN22], tmp_path / "mine")
    monkeypatch.setitem(checkpoints, wan_folders.WAN22, mine)
    before = tiny().pipeline.identity(), vae_of(registry.entry("tiny"))
    assert list(before[0]) == list(ROLES)
    for folder in ROLES.values():
        (mine / folder / ".DS_Store").write_bytes(b"a")
    assert (tiny().pipeline.identity(), vae_of(registry.entry("tiny"))) == before
    told = (mine / "tokenizer" / "tokenizer.json").read_text()
    (mine / "tokenizer" / "tokenizer.json").write_text(told + " ")
    changed = {role for role, hash in tiny().pipeline.identity().items() if hash != before[0][role]}
    assert changed == {"tokenizer"}


def test_the_seed_decides(tiny: Tiny) -> None:
    engine = tiny()
    assert torch.equal(latents(finished(engine)), latents(finished(engine)))
    assert not torch.allclose(latents(finished(engine)), latents(finished(engine, replace(SHOT, seed=4))), atol=1e-2)


def test_prompt_guidance_and_negative_matter(tiny: Tiny) -> None:
    engine = tiny()
    plain = latents(finished(engine))
    for change in ({"prompt": "a rocket"}, {"guidance": 1.0}, {"negative": "rain"}):
        assert not torch.allclose(plain, latents(finished(engine, replace(SHOT, **change))), atol=1e-4), change


def test_without_guidance_the_transformer_is_asked_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny()
    asked = spied(engine, monkeypatch)
    finished(engine)
    assert len(asked) == 3 * 2
    finished(engine, replace(SHOT, guidance=1.0))
    assert len(asked) == 3 * 2 + 3


def spied(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the transformer is told, call by call."""
    run = engine.start(SHOT)
    run = engine.start(SHOT, [GivenClip(16, pictures(1, run))])  # with room for a slot
    dit, asked = run.pipeline.use("dit"), []

    class Spy(nn.Module):
        def forward(self, x: Tensor, t: Tensor, text: Tensor, fps: float, places: Tensor) -> Tensor:
            asked.append({"x": x, "t": t, "text": text, "fps": fps, "places": places.tolist()})
            return dit(x, t, text, fps, places)

    monkeypatch.setitem(run.pipeline.networks, "dit", Spy())
    return asked


# ---- what is known ------------------------------------------------------------------------------------------


def test_a_start_is_known_to_the_bit_and_told_at_timestep_0(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny()
    asked = spied(engine, monkeypatch)
    clip = pictures(5, engine.start(SHOT))
    run = finished(engine, SHOT, GivenClip(0, clip))
    known = run.encode(clip)
    assert torch.equal(latents(run)[:, :2], known) and run.timeline.done() == {0, 1}
    assert all(torch.equal(call["x"][0, :, :2], known) for call in asked)
    assert all(call["t"][0, :2].tolist() == [0, 0] and call["t"][0, 2:].min() > 0 for call in asked)


def test_an_end_is_a_slot_of_its_own_that_nobody_sees(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny()
    asked = spied(engine, monkeypatch)
    end = pictures(1, engine.start(SHOT))
    run = finished(engine, SHOT, GivenClip(16, end))
    assert {len(call["places"]) for call in asked} == {6} and asked[0]["places"] == [0, 1, 2, 3, 4, 5]
    assert all(torch.equal(call["x"][0, :, 5], run.encode(end)[:, 0]) and call["t"][0, 5] == 0 for call in asked)
    assert latents(run).shape[1] == 5 and len(list(run.frames())) == 17
    assert not torch.allclose(latents(run)[:, -1], latents(finished(engine))[:, -1], atol=1e-3)
    ((_, still),) = run.keyframes()
    assert np.array_equal(still, run.key_frame(run.encode(end)[:, 0]))


def test_a_clip_at_the_end_is_known_but_for_the_latent_before_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first frame ends a latent that has three more frames, which are to be made; what follows shows it."""
    engine = tiny()
    asked = spied(engine, monkeypatch)
    clip = pictures(5, engine.start(SHOT))
    run = finished(engine, replace(SHOT, frames=12), GivenClip(12, clip), span=Span(0, 12, 5))
    assert run.timeline.done() == {4} and set(run.timeline.end_frames) == {3}
    assert torch.equal(latents(run)[:, 4], run.encode(clip)[:, 1])
    assert {tuple(call["places"]) for call in asked} == {(0, 1, 2, 3, 4)}
    assert len(list(run.frames())) == 12


def test_known_frames_may_be_told_with_a_little_noise(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny(wan_folders.SKYREELS2, known_noise=20)
    asked = spied(engine, monkeypatch)
    clip = pictures(5, engine.start(SHOT))
    run = finished(engine, SHOT, GivenClip(0, clip))
    known = run.encode(clip)
    assert all(call["t"][0, :2].tolist() == [20, 20] and call["fps"] == 24.0 for call in asked)
    assert 0.005 < (asked[0]["x"][0, :, :2] - known).abs().mean() < 0.1
    assert torch.equal(latents(run)[:, :2], known)


def test_what_a_model_was_not_trained_for_is_said(tiny: Tiny) -> None:
    engine = tiny()
    one, clip = (pictures(count, engine.start(SHOT)) for count in (1, 5))
    cases: list[tuple[Shot, list[GivenClip], str]] = [
        (SHOT, [GivenClip(0, one)], ""),
        (SHOT, [GivenClip(16, one)], "a given end picture"),
        (SHOT, [GivenClip(0, clip)], "continuing given frames"),
        (SHOT, [GivenClip(8, one)], "in the middle"),
        (replace(SHOT, frames=33), [], "continuing given frames"),
        (replace(SHOT, frames=33, plan="hierarchy"), [], "gaps"),
        (replace(SHOT, frames=16, loop=True), [], "loop"),
        (replace(SHOT, fps=12.0), [], "frame rate"),
        (replace(SHOT, cues=(Cue("8", "a dog"),)), [], "prompt that changes"),
    ]
    for shot, known, word in cases:
        lines = [note for note in engine.start(shot, known).notes if note.startswith("experimental")]
        assert [word in line for line in lines] == ([True] if word else []), (word, lines)


# ---- long videos --------------------------------------------------------------------------------------------


def test_windows_go_on_from_the_last_latents(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny(guidance=1.0)
    asked = spied(engine, monkeypatch)
    run = finished(engine, replace(SHOT, frames=41, guidance=1.0))
    assert [window.frames for window in run.plan.windows] == [(0, 1, 2, 3, 4), (3, 4, 5, 6, 7), (6, 7, 8, 9, 10)]
    assert all(call["places"] == [0, 1, 2, 3, 4] for call in asked)
    assert all(torch.equal(call["x"][0, :, :2], latents(run)[:, 3:5]) for call in asked[3:6])
    assert len(list(run.frames())) == 41


@pytest.mark.parametrize("plan", ["sliding", "hierarchy", "full"])
@pytest.mark.parametrize("at", [(), (0, 16), (40,), (8, 16, 24, 32), tuple(range(0, 41, 4))])
def test_a_plan_tells_how_much_the_model_sees_at_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, plan: str,
                                                      at: tuple[int, ...]) -> None:  # fmt: skip
    """Memory is planned for that: of many end pictures, only those of one window count."""
    engine, shot = tiny(), replace(SHOT, frames=41, steps=1, guidance=1.0, plan=plan)
    given = [GivenClip(one, pictures(1, engine.start(SHOT))) for one in at]
    engine.start(shot, given)  # for longer windows all networks are placed anew
    asked = spied(engine, monkeypatch)
    run = finished(engine, shot, *given)
    assert max(len(call["places"]) for call in asked) == run.plan.longest


def test_from_a_picture_the_way_is_backwards(tiny: Tiny) -> None:
    engine = tiny()
    run = finished(engine, replace(SHOT, frames=29), GivenClip(28, pictures(1, engine.start(SHOT))))
    assert [window.latent for window in run.plan.windows] == [(3, 4, 5, 6, 7), (0, 1, 2)]


def test_the_prompt_of_a_windows_middle_holds(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny()
    asked = spied(engine, monkeypatch)
    finished(engine, replace(SHOT, frames=41, guidance=1.0, cues=(Cue("20", "a dog"),)))
    first, *_, last = (call["text"] for call in asked)
    told = engine.pipeline.read([SHOT.prompt, "a dog"], None)
    assert torch.equal(first[0], told[0]) and torch.equal(last[0], told[1])


def test_a_loop_closes_in_latents_and_in_frames(tiny: Tiny, tmp_path: Path) -> None:
    engine, shot = tiny(), replace(SHOT, frames=16, loop=True)
    run = finished(engine, shot)
    frames = list(run.frames())
    assert latents(run).shape[1] == 4 and len(frames) == 16
    path = tmp_path / "loop.safetensors"
    save(path, latents(run), Header("tiny", "0" * 64, 96, 64, 24.0, 16, cyclic=True, cell=16, pixels=96 * 64))
    assert all(np.array_equal(one, same) for one, same in zip(frames, run.pipeline.codec.decode(path), strict=True))


def test_a_part_of_the_latents_decodes_to_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    run = finished(tiny(wan_folders.WAN21), replace(SHOT, frames=33))
    path = tmp_path / "a.safetensors"
    save(path, latents(run), Header("tiny", "0" * 64, 96, 64, 24.0, 33, cell=8, pixels=96 * 64))
    part = list(run.pipeline.codec.decode(path, range(20, 25)))
    assert len(part) == 5
    assert all(np.array_equal(one, same) for one, same in zip(part, list(run.frames())[20:25], strict=True))


@dataclass
class Kept:
    """A store of windows that forgets all but the first few."""

    count: int
    windows: list[Tensor]

    def finished(self) -> Iterator[Tensor]:
        return iter(self.windows[: self.count])

    def put(self, number: int, made: Tensor) -> None:
        self.windows[number:] = [made]


@pytest.mark.parametrize("usage", [{}, {"solver": "dmd"}])  # the latter adds noise in every step
def test_finished_windows_are_not_made_again(tiny: Tiny, usage: dict[str, Any]) -> None:
    engine, shot, windows = tiny(**usage), replace(SHOT, frames=41), list[Tensor]()
    whole, again = engine.start(shot), engine.start(shot)
    list(whole.denoise(Kept(0, windows)))
    list(again.denoise(Kept(1, windows)))
    assert torch.equal(latents(whole), latents(again)) and again.flops < whole.flops


# ---- solvers ------------------------------------------------------------------------------------------------


def test_the_distilled_sampler_takes_its_own_steps(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny(solver="dmd", guidance=1.0, steps=3)
    asked = spied(engine, monkeypatch)
    shot = replace(SHOT, guidance=1.0)
    one, same, other = (latents(finished(engine, replace(shot, seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.allclose(one, other, atol=1e-2)
    assert [int(call["t"].max()) for call in asked[:3]] == [1000, 757, 522]
    with pytest.raises(SoraError, match="distilled to 3 steps"):
        finished(engine, replace(shot, steps=8))


def test_euler_ends_where_unipc_does(tiny: Tiny) -> None:
    shot = replace(SHOT, steps=60, guidance=1.0)
    near = latents(finished(tiny(solver="euler"), shot)), latents(finished(tiny(), shot))
    assert (near[0] - near[1]).abs().mean() < 0.2 * near[1].abs().mean()


# ---- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"dit": "streamed"}, {"dit": "disk"}, {"text": "streamed"}, {"keep": False},
                                 {"text": "first"}])
def test_where_the_networks_live_changes_nothing(tiny: Tiny, how: dict[str, Any], tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    resident = finished(tiny())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    elsewhere = finished(tiny(**how))
    assert torch.equal(latents(resident), latents(elsewhere))
    frames = zip(resident.frames(), elsewhere.frames(), strict=True)
    assert all(np.array_equal(one, same) for one, same in frames)


def test_in_float16_the_text_is_read_in_bfloat16(tiny: Tiny, checkpoints: dict[str, Path]) -> None:
    """UMT5 was trained in bfloat16, and its features overflow in float16; all else is nearer to float32 in float16."""
    exact, told = tiny(), {}
    for dtype in ("float16", "bfloat16"):
        tiny()
        run = finished(Engine(registry.entry("tiny"), "cpu", dtype))
        parts = {role: {p.dtype for p in run.pipeline.use(role).parameters()} for role in ("text", "dit")}
        assert parts["text"] == {torch.bfloat16} and getattr(torch, dtype) in parts["dit"]
        told[dtype] = float((latents(run) - latents(finished(exact))).abs().mean())
    assert 0 < 3 * told["float16"] < told["bfloat16"]


def test_one_network_at_a_time(tiny: Tiny) -> None:
    engine, seen = tiny(keep=False), []
    networks = engine.pipeline.networks
    run = engine.start(SHOT, [GivenClip(0, pictures(1, engine.start(SHOT)))])
    seen.append(set(networks))
    for _ in run.denoise():
        seen.append(set(networks))
    next(run.frames())
    assert [*seen, set(networks)] == [set(), {"text"}, *[{"dit"}] * (len(seen) - 2), {"vae"}]
    assert run.preview_frames() == []  # it would send the transformer away


def test_text_is_first_and_leaves_room_for_the_rest(tiny: Tiny) -> None:
    """The transformer and the autoencoder then stay together."""
    engine, seen = tiny(text="first"), []
    networks = engine.pipeline.networks
    run = engine.start(SHOT, [GivenClip(0, pictures(1, engine.start(SHOT)))])
    for _ in run.denoise():
        seen.append(set(networks))
    next(run.frames())
    assert [seen[0], seen[1], seen[-1], set(networks)] == [{"text"}, {"dit"}, {"dit"}, {"dit", "vae"}]
    run = engine.start(replace(SHOT, prompt="a dog"))
    next(run.denoise())
    assert set(networks) == {"text"}


def test_a_prompt_is_read_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny().pipeline
    first.placement = memory.choose()
    told = first.read(["a  cat", "a cat"], None)
    assert set(first.networks) == {"text"} and torch.equal(told[0], told[1])
    again = tiny().pipeline
    again.placement = memory.choose()
    assert torch.equal(again.read(["a cat"], None)[0], told[0]) and not again.networks, "it was read again"
    assert told.shape == padded(torch.zeros(3, told.shape[-1])).expand(2, -1, -1).shape


def test_what_is_loaded_is_told(tiny: Tiny) -> None:
    engine, heard = tiny(), []
    engine.pipeline.on_progress = lambda what, done, total: heard.append((what, done / total))
    list(finished(engine).frames())
    assert {what for what, _ in heard} == {"text encoder", "read the prompt", "transformer", "layers", "autoencoder"}
    last = dict(heard)
    assert set(last.values()) == {1.0}, f"some of the bars stay: {last}"


def test_a_second_video_of_a_kind_loads_nothing_again(tiny: Tiny) -> None:
    engine, heard = tiny(), []
    list(finished(engine).frames())
    engine.pipeline.on_progress = lambda what, done, total: heard.append(what)
    list(finished(engine, replace(SHOT, seed=9)).frames())
    assert not heard and set(engine.pipeline.networks) == {"text", "dit", "vae"}
    engine.start(replace(SHOT, width=64))
    assert not engine.pipeline.networks, "for another size there has to be a new placement"
