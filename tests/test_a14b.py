"""Models of two transformers on tiny random checkpoints: whose turn it is, what pictures become, what LoRAs change."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wan_folders
import wan_tiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from wan_tiny import SHOT, TWO, entry_of, locate

from sora_cli import registry
from sora_cli.errors import SoraError
from sora_cli.generation.engine import Engine, Generation, GivenClip
from sora_cli.generation.given import runs, seen
from sora_cli.pipelines import loading
from sora_cli.pipelines.wan_velocity import mask
from sora_cli.placement.memory import Placement
from sora_cli.registry import hub
from sora_cli.sampling.solvers import even_sigmas, levels_of, steps_above, timestep_of
from sora_cli.shot import Lora, Shot

T2V, I2V = wan_folders.A14B, wan_folders.A14B_I2V
ASKED = replace(SHOT, steps=8, guidance=4.0, guidance_low=3.0)
Tiny = Callable[..., Engine]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: wan_folders.write_two(tmp_path_factory.mktemp(kind), kind) for kind in TWO}


@pytest.fixture
def tiny(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """An engine on a tiny checkpoint of two transformers; keywords change how it is used and where its networks go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(kind: str = T2V, dit: str = "resident", keep: bool = True, loras: tuple[Lora, ...] = (),
             **usage: Any) -> Engine:  # fmt: skip
        entry = entry_of(kind, **usage)
        placement = Placement("cpu", dit, "float32", 0, 0, keep)  # type: ignore[arg-type]
        monkeypatch.setattr(registry, "registry", lambda: {"tiny": entry})
        monkeypatch.setattr(hub, "locate", lambda entry: locate(checkpoints[kind]))
        wan_tiny.place(monkeypatch, placement)
        return Engine(registry.entry("tiny"), "cpu", "float32", loras=loras)

    return make


def picture(seed: int = 0, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 96, 3), np.uint8)


def finished(engine: Engine, shot: Shot = ASKED, *known: GivenClip) -> Generation:
    run = engine.start(replace(shot, loras=engine.loras), known)
    list(run.denoise())
    return run


def latents(run: Generation) -> Tensor:
    assert run.latents is not None
    return run.latents


class Spy(nn.Module):
    """A transformer that keeps what it is shown."""

    def __init__(self, role: str, dit: Any, calls: list[dict[str, Any]]) -> None:
        super().__init__()
        self.role, self.dit, self.calls, self.config = role, dit, calls, dit.config
        self.blocks = dit.blocks

    def forward(self, x: Tensor, t: Tensor, text: Tensor, fps: float, places: Tensor) -> Tensor:
        self.calls.append({"role": self.role, "x": x[0].clone(), "t": t.clone(), "places": places.tolist()})
        return self.dit(x, t, text, fps, places)


def spied(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], list[str]]:
    """What both transformers are shown, call by call, and which networks were loaded, one after another."""
    calls: list[dict[str, Any]] = []
    loaded: list[str] = []
    load, pipeline = engine.pipeline.load, engine.pipeline

    def loading(role: str) -> nn.Module:
        assert not {"dit", "dit_low"} & set(pipeline.networks) or role in ("text", "vae"), "two are there"
        loaded.append(role)
        return Spy(role, load(role), calls) if role.startswith("dit") else load(role)

    monkeypatch.setattr(pipeline, "load", loading)
    monkeypatch.setattr(pipeline, "report_blocks", lambda network, at: None)
    return calls, loaded


# ---- taking turns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "steps", "shift"), [("unipc", 40, 12.0), ("unipc", 40, 5.0), ("unipc", 7, 3.0),
                                                        ("lightx2v", 4, 5.0), ("lightx2v", 8, 5.0)])  # fmt: skip
@pytest.mark.parametrize("boundary", [0.875, 0.9])
def test_the_boundary_is_a_timestep(solver: str, steps: int, shift: float, boundary: float) -> None:
    """`t >= boundary * 1000` is for the transformer for high noise, as in Wan's own sampler."""
    ends = [1 + i * (1 / 1000 - 1) / steps for i in range(steps)] if solver == "unipc" else []
    grid = [1e-6, *[0.0] * steps] if ends else [0.0] * steps
    even = ends or [1 - i / steps for i in range(steps)]
    times = [1000 * (shift * s / (1 + (shift - 1) * s) - less) for s, less in zip(even, grid, strict=False)]
    due = sum((int(t) if ends else t) >= 1000 * boundary for t in times)
    assert steps_above(boundary, solver, steps, shift) == due and 0 < due < steps


def test_four_steps_of_lightx2v_are_rows_of_the_shifted_table() -> None:
    table = torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1]
    table = 5 * table / (1 + 4 * table)
    due = torch.cat([table[[1000 - row for row in (1000, 750, 500, 250)]], torch.zeros(1, dtype=torch.float64)])
    assert torch.allclose(even_sigmas(4, 5.0), due, atol=1e-12, rtol=0)
    assert [round(float(sigma), 4) for sigma in due] == [1, 0.9375, 0.8333, 0.625, 0]
    assert timestep_of("lightx2v", due[1]) == 937.5, "they need not be whole"
    eight = [round(1000 * float(sigma), 4) for sigma in levels_of("lightx2v", 8, 5.0)]
    assert eight[1:4] == [972.2222, 937.5, 892.8571], "as its authors have them for eight"


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dit", ["resident", "streamed", "disk"])
def test_one_transformer_is_there_at_a_time_and_they_take_turns_once_a_window(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, keep: bool, dit: str
) -> None:
    engine = tiny(keep=keep, dit=dit)
    calls, loaded = spied(engine, monkeypatch)
    run = finished(engine, replace(ASKED, frames=29))
    assert len(run.plan.windows) == 2
    assert [role for role in loaded if role.startswith("dit")] == ["dit", "dit_low"] * 2
    high = steps_above(0.875, "unipc", 8, 5.0)
    assert [call["role"] for call in calls] == (["dit"] * 2 * high + ["dit_low"] * 2 * (8 - high)) * 2
    assert all((call["t"] >= 875).all() == (call["role"] == "dit") for call in calls)


@pytest.mark.parametrize("dit", ["streamed", "disk"])
def test_where_they_live_changes_nothing(tiny: Tiny, dit: str) -> None:
    assert torch.equal(latents(finished(tiny(dit=dit))), latents(finished(tiny())))


@torch.inference_mode()
def test_each_has_its_guidance(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it is 1 that transformer is asked once a step."""
    engine = tiny()
    calls, _ = spied(engine, monkeypatch)
    both = latents(finished(engine))
    high = steps_above(0.875, "unipc", 8, 5.0)
    for guidance, low, due in ((1.0, 3.0, high + 2 * (8 - high)), (4.0, 1.0, 2 * high + 8 - high), (1.0, 0.0, 8)):
        calls.clear()
        run = finished(engine, replace(ASKED, guidance=guidance, guidance_low=low))
        assert len(calls) == due and not torch.allclose(latents(run), both, atol=1e-3)
    same = finished(engine, replace(ASKED, guidance_low=4.0)), finished(engine, replace(ASKED, guidance_low=0.0))
    assert torch.equal(*map(latents, same)), "without a second number it is that of both"


@torch.inference_mode()
def test_a_sample_of_four_steps_is_that_of_the_equations(tiny: Tiny) -> None:
    """x += (s' - s) v, no guidance, the transformer for high noise for the first two of four."""
    engine = tiny(solver="lightx2v", shift=5.0)
    run = finished(engine, replace(ASKED, steps=4, guidance=1.0, guidance_low=0.0))
    (text,) = engine.pipeline.read([ASKED.prompt], None)
    x = torch.randn(latents(run).shape, generator=torch.Generator().manual_seed(ASKED.seed))
    sigmas = [1, 0.9375, 2.5 / 3, 0.625, 0]
    for step, (now, then) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        dit = engine.pipeline.use("dit" if step < 2 else "dit_low")
        v = dit(x[None], torch.tensor([[1000 * now]]), text[None], 24.0, torch.arange(x.shape[1]))[0]
        x = x + (then - now) * v
    torch.testing.assert_close(latents(run), x, rtol=1e-5, atol=1e-5)


def test_turbo_noises_afresh_at_its_four_levels(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny(solver="dmd", steps=4, shift=5.0)
    calls, _ = spied(engine, monkeypatch)
    finished(engine, replace(ASKED, steps=4, guidance=1.0, guidance_low=0.0))
    assert [int(call["t"].max()) for call in calls] == [1000, 937, 833, 625]
    with pytest.raises(SoraError, match="distilled to 4 steps"):
        finished(engine, replace(ASKED, steps=3))


# ---- what is given -----------------------------------------------------------------------------------------


def test_the_mask_counts_frames() -> None:
    """Channel c of latent k > 0 is frame 4k - 3 + c; the first frame stands in all four of its latent."""
    def given(*frames: int) -> list[list[int]]:
        return mask([frame in frames for frame in range(17)])[:, :, 0, 0].T.int().tolist()  # latents x channels

    none = [0, 0, 0, 0]
    assert given(0) == [[1, 1, 1, 1], none, none, none, none]
    assert given(0, 16) == [[1, 1, 1, 1], none, none, none, [0, 0, 0, 1]]
    assert given(5) == [none, none, [1, 0, 0, 0], none, none]
    assert given(*range(9)) == [[1, 1, 1, 1]] * 3 + [none] * 2


def test_pictures_find_their_frame_in_a_window() -> None:
    first, clip = picture(1)[0], picture(2, 5)
    found = seen((0, 1, 2), [(0, [first]), (4, clip)])
    assert [n for n, one in enumerate(found) if one is not None] == [0, 4, 5, 6, 7, 8]
    assert found[0] is first and np.array_equal(found[8], clip[4])
    found = seen((3, 4), [(0, [first] * 99)])  # the first latent of a window is one frame
    assert len(found) == 5 and all(one is first for one in found)
    assert [n for n, one in enumerate(seen((2, 5), [(8, clip), (17, clip)])) if one is not None] == [0, 1, 2, 3, 4]
    made = [True, True, False, False, True, True, True, False]
    assert list(runs(range(8), made)) == [range(0, 2), range(4, 7)]
    assert list(runs((6, 7), made)) == [range(4, 7)] and not list(runs((2, 3), made))


def test_pictures_are_seen_in_channels_of_their_own(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny(I2V)
    calls, _ = spied(engine, monkeypatch)
    first, last = picture(1), picture(2)
    run = finished(engine, ASKED, GivenClip(0, first), GivenClip(16, last))
    video = [first[0], *[None] * 15, last[0]]
    due = run.pipeline.condition(video, run.plan.canvas)
    assert due is not None and due.shape[0] == 4 + 4
    assert {call["x"].shape for call in calls} == {(12, 5, 8, 12)} and {call["t"].numel() for call in calls} == {5}
    assert all(torch.equal(call["x"][4:], due) for call in calls), "noise, mask, latent"
    assert all(call["t"].unique().numel() == 1 for call in calls), "one timestep for all"
    noise = torch.randn(latents(run).shape, generator=torch.Generator().manual_seed(ASKED.seed))
    assert torch.equal(calls[0]["x"][:4], noise), "all begins as noise"
    assert not torch.equal(latents(run)[:, 0], run.encode(first)[:, 0]), "it makes the first latent itself"
    assert len(list(run.frames())) == 17 and run.keyframes()[0][1].shape == (64, 96, 3)


def test_a_window_goes_on_from_the_last_frame(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny(I2V)
    calls, _ = spied(engine, monkeypatch)
    run = finished(engine, replace(ASKED, frames=33), GivenClip(0, picture(1)))
    assert [window.frames for window in run.plan.windows] == [(0, 1, 2, 3, 4), (4, 5, 6, 7, 8)]
    frames = list(run.frames())
    second = calls[-1]["x"][4:]
    assert second[:4, :, 0, 0].T.int().tolist() == [[1, 1, 1, 1], *[[0, 0, 0, 0]] * 4]
    due = run.pipeline.condition([frames[16], *[None] * 16], run.plan.canvas)
    assert due is not None
    torch.testing.assert_close(second, due)
    assert len(frames) == 33


def test_from_a_picture_at_the_end_the_way_is_backwards(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny(I2V)
    calls, _ = spied(engine, monkeypatch)
    run = finished(engine, replace(ASKED, frames=33), GivenClip(32, picture(1)))
    assert [window.frames for window in run.plan.windows] == [(4, 5, 6, 7, 8), (0, 1, 2, 3, 4)]
    for call in (calls[0], calls[-1]):
        assert call["x"][4:8, :, 0, 0].T.int().tolist() == [*[[0, 0, 0, 0]] * 4, [0, 0, 0, 1]]
    assert len(list(run.frames())) == 33


def test_given_clips_keep_the_latents_that_no_window_makes_again(tiny: Tiny) -> None:
    """Here seven latents are given, and the one window begins at the last of them."""
    run = finished(tiny(I2V), replace(ASKED, frames=29), GivenClip(0, picture(1, 25)))
    due = run.encode(picture(1, 25))
    assert torch.equal(latents(run)[:, :7], due) and len(list(run.frames())) == 29
    again = finished(tiny(I2V), replace(ASKED, frames=17), GivenClip(0, latents=due[:, :2]))
    assert torch.equal(latents(again)[:, :2], due[:, :2]), "latents stay as they are given"


def test_without_a_picture_it_makes_nothing(tiny: Tiny) -> None:
    for shot in (ASKED, replace(ASKED, loop=True, frames=16)):
        with pytest.raises(SoraError, match="tiny needs a picture to start from; give --image FILE, or"):
            tiny(I2V).start(shot)


def test_text_models_are_shown_what_is_known_as_noisy_as_the_rest(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timestep of 0 is nothing that a transformer for high noise has ever seen."""
    engine = tiny()
    calls, _ = spied(engine, monkeypatch)
    run = finished(engine, ASKED, GivenClip(0, picture(1, 5)), GivenClip(16, picture(2)))
    clean = run.encode(picture(1, 5))
    noise = torch.randn(latents(run).shape, generator=torch.Generator().manual_seed(ASKED.seed))
    sigmas = levels_of("unipc", 8, 5.0)
    for call, sigma in zip(calls[::2], sigmas[:-1], strict=True):
        assert call["t"].unique().tolist() == [int(1000 * sigma)] and call["x"].shape[1] == 6
        torch.testing.assert_close(call["x"][:, :2], torch.lerp(clean, noise[:, :2], float(sigma)))
    assert torch.equal(latents(run)[:, :2], clean)


@pytest.mark.parametrize(("kind", "usage", "line"), [
    (I2V, {"conditioned": False}, "takes 8 channels beside the latent; with conditioned = false it must take 0"),
    (T2V, {"conditioned": True}, "takes 0 channels beside the latent; with conditioned = true it must take 8"),
])  # fmt: skip
def test_a_model_that_is_used_as_another_is_refused(tiny: Tiny, kind: str, usage: dict[str, Any], line: str) -> None:
    with pytest.raises(SoraError, match=line):
        tiny(kind, **usage)


# ---- LoRA --------------------------------------------------------------------------------------------------

MODULE = "blocks.0.attn1.to_q"


def lora_file(path: Path, *prefixes: str, names: str = MODULE) -> Path:
    rng = torch.Generator().manual_seed(len(path.name))
    tensors = {}
    for prefix in prefixes:
        tensors[f"{prefix}{names}.lora_A.weight"] = torch.randn(2, 40, generator=rng)
        tensors[f"{prefix}{names}.lora_B.weight"] = torch.randn(40, 2, generator=rng)
    save_file(tensors, path)
    return path


def changed(checkpoint: Path, *loras: Lora) -> dict[str, bool]:
    """Which of two transformers LoRAs change."""
    found = {}
    for folder, expert in (("transformer", "high"), ("transformer_2", "low")):
        plain, with_it = (loading.load_dit(checkpoint / folder, torch.device("cpu"), torch.float32, loras=some,
                                           expert=expert) for some in ((), loras))  # fmt: skip
        weights = plain.state_dict(), with_it.state_dict()
        differ = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
        assert differ <= {f"{MODULE}.weight"}
        found[expert] = bool(differ)
    return found


@pytest.mark.parametrize(
    ("prefixes", "text", "due"),
    [
        (("diffusion_model.",), "FILE", "high low"),
        (("transformer.",), "FILE:0.5", "high low"),  # of one transformer, it says nothing of two
        (("",), "high:FILE:1", "high"),
        (("base_model.model.",), "low:FILE", "low"),
        (("transformer.", "transformer_2."), "FILE", "high low"),
        (("transformer_2.",), "FILE", "low"),
        (("transformer.", "transformer_2."), "high:FILE", "high"),
        (("transformer_2.",), "low:FILE:1", "low"),
    ],
)
def test_loras_are_for_one_or_for_both(
    checkpoints: dict[str, Path], tmp_path: Path, prefixes: tuple[str, ...], text: str, due: str
) -> None:
    path = lora_file(tmp_path / "a.safetensors", *prefixes)
    lora = Lora.parse(text.replace("FILE", str(path)))
    assert {expert for expert, differs in changed(checkpoints[T2V], lora).items() if differs} == set(due.split())


def test_both_halves_of_a_file_are_told_apart(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    both = lora_file(tmp_path / "a.safetensors", "transformer.", "transformer_2.")
    low = {key: value for key, value in load_file(both).items() if "_2" in key}
    save_file({key.replace("_2", ""): value for key, value in low.items()}, tmp_path / "low.safetensors")
    cpu, place = torch.device("cpu"), checkpoints[T2V] / "transformer_2"
    one, same = (loading.load_dit(place, cpu, torch.float32, loras=[Lora(str(path))], expert="low")
                 for path in (both, tmp_path / "low.safetensors"))  # fmt: skip
    assert torch.equal(one.state_dict()[f"{MODULE}.weight"], same.state_dict()[f"{MODULE}.weight"])


def test_loras_for_one_of_two_need_two(checkpoints: dict[str, Path], tmp_path: Path, tiny: Tiny) -> None:
    plain, second = (lora_file(tmp_path / f"{n}.safetensors", n) for n in ("transformer.", "transformer_2."))
    both = lora_file(tmp_path / "both.safetensors", "transformer.", "transformer_2.")
    cpu, place = torch.device("cpu"), checkpoints[T2V] / "transformer"
    with pytest.raises(SoraError, match="is for a model with two transformers"):
        loading.load_dit(place, cpu, torch.float32, loras=[Lora(str(both))])
    with pytest.raises(SoraError, match="has nothing for the transformer for high noise"):
        loading.load_dit(place, cpu, torch.float32, loras=[Lora(str(second), expert="high")], expert="high")
    with pytest.raises(SoraError, match=r"tiny has one transformer; write --lora \S+ without high:"):
        tiny(boundary=0.0, loras=(Lora(str(plain), expert="high"),))
    with pytest.raises(SoraError, match="unknown transformer of a LoRA 'mid'"):
        Shot("x", loras=(Lora(str(plain), expert="mid"),))


@pytest.mark.parametrize("extra", ["blocks.0.cross_attn.k_img.lora_down.weight", "img_emb.proj.1.diff",
                                   "blocks.1.attn2.add_v_proj.lora_B.weight"])  # fmt: skip
def test_loras_of_an_image_encoder_s_branch_fit_without_it(tiny: Tiny, tmp_path: Path, extra: str) -> None:
    """Wan 2.1 I2V had one, and its LoRAs are used with 2.2; a model of text alone refuses them."""
    path = lora_file(tmp_path / "a.safetensors", "diffusion_model.")
    save_file(load_file(path) | {f"diffusion_model.{extra}": torch.ones(2, 2)}, path)
    loras = (Lora(str(path)),)
    notes = tiny(I2V, loras=loras).start(replace(ASKED, loras=loras), [GivenClip(0, picture())]).notes
    assert f"LoRA {path}: leaves out 1 tensor for an image encoder, which tiny does not have" in notes
    with pytest.raises(SoraError, match="1 of its 3 tensors matches nothing"):
        tiny(T2V, loras=loras)


@pytest.mark.parametrize(("text", "due"), [
    ("a.safetensors", Lora("a.safetensors")), ("high:a.safetensors:0.5", Lora("a.safetensors", 0.5, "high")),
    ("low:dir/a:b.safetensors", Lora("dir/a:b.safetensors", 1.0, "low")), ("high:0.8", Lora("high", 0.8)),
    ("low:low:1", Lora("low", 1.0, "low")), ("higher:2", Lora("higher", 2.0)),
])  # fmt: skip
def test_the_transformer_stands_before_the_file(text: str, due: Lora) -> None:
    assert Lora.parse(text) == due
    assert Shot.from_json(Shot("x", loras=(due,)).to_json()).loras == (due,)


def test_shots_of_before_are_read() -> None:
    assert Shot.from_json('{"prompt": "x", "loras": [{"path": "a", "strength": 1.0}]}').loras == (Lora("a"),)


def test_a_model_may_bring_loras_of_its_own(tiny: Tiny, checkpoints: dict[str, Path], tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    high, low = (lora_file(tmp_path / f"{name}.safetensors", "diffusion_model.") for name in ("high", "low"))
    by_hand = latents(finished(tiny(loras=(Lora(str(high), expert="high"), Lora(str(low), expert="low")))))
    plain = tiny()
    there = locate(checkpoints[T2V]) | {"lora": high, "lora_low": low}
    monkeypatch.setattr(hub, "locate", lambda entry: there)
    own = Engine(registry.entry("tiny"), "cpu", "float32")
    assert torch.equal(latents(finished(own)), by_hand) and not torch.allclose(latents(finished(plain)), by_hand)
    assert set(own.pipeline.identity()) == set(there), "they are part of what the model is"
