"""Wan 2.2 A14B on a tiny checkpoint of its layout, from words to pixels, against diffusers' pipelines on the same
folder: both transformers, the boundary, guidance by each, and the channels in which pictures are seen."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wan_folders
import wan_tiny
from PIL import Image
from safetensors.torch import save_file
from test_engine_parity import WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel, parts
from test_solver_parity import UniPCMultistepScheduler
from torch import Tensor
from wan_cases import distance, told
from wan_tiny import SHOT, entry_of, locate

from sora_cli import registry
from sora_cli.generation.engine import Engine, GivenClip
from sora_cli.placement.memory import Placement
from sora_cli.registry import hub
from sora_cli.shot import Lora, Shot

pytestmark = pytest.mark.parity
FIRST, LAST = np.random.default_rng(0).integers(0, 128, (2, 64, 96, 3), np.uint8) + np.uint8([[[[0]]], [[[127]]]])
ASKED = replace(SHOT, steps=8, guidance=4.0, guidance_low=3.0)
CALL: dict[str, Any] = {
    "prompt": ASKED.prompt, "negative_prompt": "bad", "height": 64, "width": 96, "num_frames": 17,
    "num_inference_steps": 8, "guidance_scale": 4.0, "guidance_scale_2": 3.0, "output_type": "pt",
}  # fmt: skip


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint, which the engine knows as `tiny`, with the shift of its authors."""
    kind = request.param
    place = wan_folders.write_two(tmp_path / "checkpoint", kind, narrower=1)  # norms of two numbers magnify rounding
    tiny = entry_of(kind, shift=12.0 if kind == wan_folders.A14B else 5.0)
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": tiny})
    monkeypatch.setattr(hub, "locate", lambda entry: locate(place))
    wan_tiny.place(monkeypatch, Placement("cpu", "resident", "float32", 0, 0, True))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place


@torch.inference_mode()
def made(known: Sequence[GivenClip] = (), loras: tuple[Lora, ...] = (), asked: Shot = ASKED
         ) -> tuple[Tensor, Tensor, list[str]]:  # fmt: skip
    """The noise that the engine begins with, the frames [1, T, 3, H, W] in 0..1 that it ends with, and which
    transformer took each step."""
    run = Engine(registry.entry("tiny"), "cpu", "float32", loras=loras).start(replace(asked, loras=loras), known)
    noise = torch.randn(run.timeline.latents.shape, generator=torch.Generator().manual_seed(asked.seed))
    used = []
    for _ in run.denoise():
        used += [role for role in ("dit", "dit_low") if role in run.pipeline.networks]
    assert run.latents is not None
    frames = (run.pipeline.codec.vae.decode(run.latents[None]) / 2 + 0.5).transpose(1, 2)
    return noise[None], frames, used


def theirs(kind: Any, folder: Path, shift: float, boundary: float) -> Any:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    second = WanTransformer3DModel.from_pretrained(folder / "transformer_2")
    found = kind(**parts(folder) | {"scheduler": scheduler}, transformer_2=second, boundary_ratio=boundary)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.mark.parametrize("folder", [wan_folders.A14B], indirect=True)
def test_text_to_video(folder: Path) -> None:
    noise, frames, used = made()
    assert {"dit", "dit_low"} <= set(used)
    expected = theirs(WanPipeline, folder, 12.0, 0.875)(**CALL, latents=noise.clone()).frames
    assert told("A14B, text to video, pixels", distance(frames, expected)) <= 1e-5


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("folder", [wan_folders.A14B_I2V], indirect=True)
def test_pictures_to_video(folder: Path, last: bool) -> None:
    known = [GivenClip(0, FIRST[None]), *([GivenClip(16, LAST[None])] if last else [])]
    noise, frames, used = made(known)
    assert {"dit", "dit_low"} <= set(used)
    given = {"image": Image.fromarray(FIRST), "last_image": Image.fromarray(LAST) if last else None}
    expected = theirs(WanImageToVideoPipeline, folder, 5.0, 0.9)(**given, **CALL, latents=noise.clone()).frames
    other = made([GivenClip(0, LAST[None]), *known[1:]])[1]
    assert distance(expected, other) > 1e-3, "the picture changes nothing"
    assert told(f"A14B, {'first and last' if last else 'first'} picture, pixels", distance(frames, expected)) <= 1e-5


# ---- few steps, and LoRAs ----------------------------------------------------------------------------------


def lora_of(seed: int, scale: float) -> dict[str, Tensor]:
    """Changes of every matrix of attention and MLPs, as diffusers names them, with alphas that are not the rank."""
    rng, found = torch.Generator().manual_seed(seed), {}
    sizes = {"attn1.to_q": (40, 40), "attn2.to_v": (40, 40), "attn1.to_out.0": (40, 40), "ffn.net.0.proj": (40, 48),
             "ffn.net.2": (48, 40)}  # fmt: skip
    for block, (name, (inner, outer)) in product(range(2), sizes.items()):
        found[f"blocks.{block}.{name}.lora_A.weight"] = scale * torch.randn(4, inner, generator=rng)
        found[f"blocks.{block}.{name}.lora_B.weight"] = scale * torch.randn(outer, 4, generator=rng)
    return found


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("folder", [wan_folders.A14B], indirect=True)
def test_loras_of_each_transformer(folder: Path, tmp_path: Path, together: bool) -> None:
    """Against diffusers' own fusing: two files, or one in which both have their prefix."""
    pytest.importorskip("peft")
    halves = {"high": lora_of(1, 0.3), "low": lora_of(2, 0.3)}
    pipeline = theirs(WanPipeline, folder, 12.0, 0.875)
    for expert, tensors in halves.items():
        named = {f"transformer.{key}": value for key, value in tensors.items()}
        pipeline.load_lora_weights(named, adapter_name=expert, load_into_transformer_2=expert == "low")
        save_file(named, tmp_path / f"{expert}.safetensors")
    pipeline.fuse_lora(components=["transformer", "transformer_2"], lora_scale=0.7)
    second = {f"transformer_2.{key}": value for key, value in halves["low"].items()}
    first = {f"transformer.{key}": value for key, value in halves["high"].items()}
    save_file(first | second, tmp_path / "both.safetensors")
    loras = tuple(Lora(str(tmp_path / f"{expert}.safetensors"), 0.7, expert) for expert in halves)
    if together:
        loras = (Lora(str(tmp_path / "both.safetensors"), 0.7),)
    noise, frames, _ = made(loras=loras)
    expected = pipeline(**CALL, latents=noise.clone()).frames
    assert distance(frames, made()[1]) > 1e-2, "the LoRAs change nothing"
    assert told("A14B, LoRAs of each, pixels", distance(frames, expected)) <= 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("folder", [wan_folders.A14B], indirect=True)
def test_four_steps_of_lightx2v(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole sample, by diffusers' networks in a loop of the equations: rows 1000, 750, 500 and 250 of the table
    that is shifted by 5, x += (s' - s) v, the transformer for high noise for the first two."""
    tiny = entry_of(wan_folders.A14B, solver="lightx2v", shift=5.0)
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": tiny})
    asked = replace(ASKED, steps=4, guidance=1.0, guidance_low=0.0)
    noise, frames, used = made(asked=asked)
    pipeline = theirs(WanPipeline, folder, 5.0, 0.875)
    text, _ = pipeline.encode_prompt(asked.prompt, do_classifier_free_guidance=False, max_sequence_length=512)
    table = torch.linspace(1, 0, 1001)[:-1]
    table = 5 * table / (1 + 4 * table)
    sigmas, x = [*table[[0, 250, 500, 750]], torch.tensor(0.0)], noise.clone()
    assert [round(float(sigma), 4) for sigma in sigmas] == [1, 0.9375, 0.8333, 0.625, 0]
    for step, (now, then) in enumerate(pairwise(sigmas)):
        network = pipeline.transformer if step < 2 else pipeline.transformer_2
        x = x + (then - now) * network(x, 1000 * now[None], text, return_dict=False)[0]
    vae, shape = pipeline.vae, (1, -1, 1, 1, 1)
    mean, std = (torch.tensor(told).view(shape) for told in (vae.config.latents_mean, vae.config.latents_std))
    expected = (vae.decode(x * std + mean, return_dict=False)[0] / 2 + 0.5).clamp(0, 1).transpose(1, 2)
    assert used[-1] == "dit_low"
    assert told("A14B, four steps, pixels", distance(frames.clamp(0, 1), expected)) <= 1e-5
