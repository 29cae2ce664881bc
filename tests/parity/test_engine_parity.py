"""The engine on a checkpoint folder, from words to pixels, against diffusers' pipelines on the same folder: reading of
shards, tokens, text encoder, transformer, solver, guidance, the known first frame, autoencoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wan_folders
from PIL import Image
from reference import reference
from test_solver_parity import UniPCMultistepScheduler
from torch import Tensor
from wan_cases import distance, told

from sora_cli import hub, memory, registry
from sora_cli.engine import Engine, Known
from sora_cli.memory import Placement
from sora_cli.shot import Shot

pytestmark = pytest.mark.parity
WanPipeline = reference("diffusers", "WanPipeline")
WanImageToVideoPipeline = reference("diffusers", "WanImageToVideoPipeline")
WanTransformer3DModel = reference("diffusers", "WanTransformer3DModel")
AutoencoderKLWan = reference("diffusers", "AutoencoderKLWan")
UMT5EncoderModel = reference("transformers", "UMT5EncoderModel")
PreTrainedTokenizerFast = reference("transformers", "PreTrainedTokenizerFast")

USAGE = registry.Usage(96, 64, 24.0, 17, 6, 5.0, "bad", "sliding", "unipc", 5.0, window=5, context=2)
SHOT = Shot("a cat  &amp; a boat", "bad", 96, 64, 17, 24.0, seed=3, steps=6, guidance=5.0, model="tiny", plan="sliding")
CALL: dict[str, Any] = {
    "prompt": SHOT.prompt, "negative_prompt": "bad", "height": 64, "width": 96, "num_frames": 17, "guidance_scale": 5.0,
    "num_inference_steps": 6, "output_type": "pt",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny Wan 2.2, which the engine knows as `tiny`. Its embeddings are cached nowhere."""
    place = wan_folders.write(tmp_path / "checkpoint", wan_folders.WAN22)
    roles = {"dit": "transformer", "vae": "vae", "text": "text_encoder", "tokenizer": "tokenizer"}
    tiny = registry.Entry("tiny", "wan", "a test", usage=USAGE)
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": tiny})
    monkeypatch.setattr(hub, "locate", lambda entry: {role: place / name for role, name in roles.items()})
    placement = Placement("cpu", "resident", "float32", 0, 0, True)
    monkeypatch.setattr(memory, "place", lambda *words: placement)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place


def parts(folder: Path) -> dict[str, Any]:
    return {
        "tokenizer": PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer" / "tokenizer.json"),
                                             pad_token="<pad>", eos_token="</s>", unk_token="<unk>"),
        "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        "transformer": WanTransformer3DModel.from_pretrained(folder / "transformer"),
        "vae": AutoencoderKLWan.from_pretrained(folder / "vae"),
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
    }  # fmt: skip


@torch.inference_mode()
def made(known: Sequence[Known] = ()) -> tuple[Tensor, Tensor]:
    """The noise that the engine begins with and the frames it ends with, [1, T, 3, H, W] in 0..1."""
    run = Engine("tiny", "cpu", "float32").start(SHOT, known)
    noise = torch.randn(run.timeline.latents.shape, generator=torch.Generator().manual_seed(SHOT.seed))
    list(run.denoise())
    assert run.latents is not None
    return noise[None], (run.pipeline.codec.vae.decode(run.latents[None]) / 2 + 0.5).transpose(1, 2)


def test_words_to_pixels(folder: Path) -> None:
    noise, frames = made()
    pipeline = WanPipeline(**parts(folder))
    pipeline.set_progress_bar_config(disable=True)
    assert told("engine, text to video, pixels", distance(frames, pipeline(**CALL, latents=noise).frames)) <= 1e-5


def test_a_picture_that_moves(folder: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    noise, frames = made([Known(0, picture[None])])
    pipeline = WanImageToVideoPipeline(**parts(folder), expand_timesteps=True)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(image=Image.fromarray(picture), **CALL, latents=noise).frames
    assert distance(expected, made()[1]) > 1e-2, "the picture changes nothing"
    assert told("engine, image to video, pixels", distance(frames, expected)) <= 1e-5
