"""Wan 2.2 A14B on a tiny checkpoint of its layout, from words to pixels, against diffusers' pipelines on the same
folder: both transformers, the boundary, guidance by each, and the channels in which pictures are seen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wan_folders
from PIL import Image
from reference import reference
from test_engine_parity import WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel, parts
from test_solver_parity import UniPCMultistepScheduler
from torch import Tensor
from wan_cases import distance, told
from wan_tiny import SHOT, entry_of, locate

from sora_cli import registry
from sora_cli.generation.engine import Engine, Known
from sora_cli.placement import memory
from sora_cli.placement.memory import Placement
from sora_cli.registry import hub

pytestmark = pytest.mark.parity
FlowMatchEulerDiscreteScheduler = reference("diffusers", "FlowMatchEulerDiscreteScheduler")

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
    monkeypatch.setattr(memory, "place", lambda *words: Placement("cpu", "resident", "float32", 0, 0, True))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place


@torch.inference_mode()
def made(known: Sequence[Known] = ()) -> tuple[Tensor, Tensor, list[str]]:
    """The noise that the engine begins with, the frames [1, T, 3, H, W] in 0..1 that it ends with, and which
    transformer took each step."""
    run = Engine("tiny", "cpu", "float32").start(ASKED, known)
    noise = torch.randn(run.timeline.latents.shape, generator=torch.Generator().manual_seed(ASKED.seed))
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
    known = [Known(0, FIRST[None]), *([Known(16, LAST[None])] if last else [])]
    noise, frames, used = made(known)
    assert {"dit", "dit_low"} <= set(used)
    given = {"image": Image.fromarray(FIRST), "last_image": Image.fromarray(LAST) if last else None}
    expected = theirs(WanImageToVideoPipeline, folder, 5.0, 0.9)(**given, **CALL, latents=noise.clone()).frames
    other = made([Known(0, LAST[None]), *known[1:]])[1]
    assert distance(expected, other) > 1e-3, "the picture changes nothing"
    assert told(f"A14B, {'first and last' if last else 'first'} picture, pixels", distance(frames, expected)) <= 1e-5
