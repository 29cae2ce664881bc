"""The engine on a checkpoint folder, from words to pixels, against diffusers' pipelines on the same folder: reading of
shards, tokens, text encoder, transformer, solver, guidance, the known first frame, autoencoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wan_folders
import wan_tiny
from PIL import Image
from reference import reference
from test_solver_parity import UniPCMultistepScheduler
from torch import Tensor
from wan_cases import distance, told

from sora_cli import registry
from sora_cli.generation.engine import Engine, GivenClip
from sora_cli.placement.memory import Placement
from sora_cli.registry import hub
from sora_cli.shot import Shot

pytestmark = pytest.mark.parity
WanPipeline = reference("diffusers", "WanPipeline")
WanImageToVideoPipeline = reference("diffusers", "WanImageToVideoPipeline")
WanTransformer3DModel = reference("diffusers", "WanTransformer3DModel")
AutoencoderKLWan = reference("diffusers", "AutoencoderKLWan")
UMT5EncoderModel = reference("transformers", "UMT5EncoderModel")
SkyReelsV2Transformer3DModel = reference("diffusers", "SkyReelsV2Transformer3DModel")
SkyReelsPipeline = reference("diffusers", "SkyReelsV2DiffusionForcingImageToVideoPipeline")
PreTrainedTokenizerFast = reference("transformers", "PreTrainedTokenizerFast")

USAGE = registry.SamplingDefaults(96, 64, 24.0, 17, 6, 5.0, "bad", "sliding", "unipc", 5.0, window=5, context=2)
SHOT = Shot("a cat  &amp; a boat", "bad", 96, 64, 17, 24.0, seed=3, steps=6, guidance=5.0, model="tiny", plan="sliding")
CALL: dict[str, Any] = {
    "prompt": SHOT.prompt, "negative_prompt": "bad", "height": 64, "width": 96, "num_frames": 17, "guidance_scale": 5.0,
    "num_inference_steps": 6, "output_type": "pt",
}  # fmt: skip


@pytest.fixture(params=[wan_folders.WAN22])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint, which the engine knows as `tiny`. Its embeddings are cached nowhere."""
    place = wan_folders.write(tmp_path / "checkpoint", request.param)
    roles = {"dit": "transformer", "vae": "vae", "text": "text_encoder", "tokenizer": "tokenizer"}
    tiny = registry.Entry("tiny", "wan", "a test", cell=16 if request.param == wan_folders.WAN22 else 8, usage=USAGE)
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": tiny})
    monkeypatch.setattr(hub, "locate", lambda entry: {role: place / name for role, name in roles.items()})
    placement = Placement("cpu", "resident", "float32", 0, 0, True)
    wan_tiny.place(monkeypatch, placement)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place


def parts(folder: Path, transformer: Any = WanTransformer3DModel) -> dict[str, Any]:
    return {
        "tokenizer": PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer" / "tokenizer.json"),
                                             pad_token="<pad>", eos_token="</s>", unk_token="<unk>"),
        "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        "transformer": transformer.from_pretrained(folder / "transformer"),
        "vae": AutoencoderKLWan.from_pretrained(folder / "vae"),
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
    }  # fmt: skip


class Remembering(UniPCMultistepScheduler):
    """The reference's solver, given a sample of its own: the pipeline of SkyReels-V2 overwrites the one it hands over,
    which the solver keeps a view of, so that its corrector works on another step than it should."""

    def step(self, output: Tensor, t: Tensor, sample: Tensor, **more: Any) -> Any:
        return super().step(output, t, sample.clone(), **more)


@torch.inference_mode()
def made(known: Sequence[GivenClip] = ()) -> tuple[Tensor, Tensor, Tensor]:
    """The noise that the engine begins with, the latents [1, C, T, h, w] and the frames [1, T, 3, H, W] in 0..1 that it
    ends with."""
    run = Engine(registry.entry("tiny"), "cpu", "float32").start(SHOT, known)
    noise = torch.randn(run.timeline.latents.shape, generator=torch.Generator().manual_seed(SHOT.seed))
    list(run.denoise())
    assert run.latents is not None
    frames = (run.pipeline.codec.vae.decode(run.latents[None]) / 2 + 0.5).transpose(1, 2)
    return noise[None], run.latents[None], frames


def test_words_to_pixels(folder: Path) -> None:
    noise, _, frames = made()
    pipeline = WanPipeline(**parts(folder))
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(**CALL, latents=noise.clone()).frames
    assert told("engine, text to video, pixels", distance(frames, expected)) <= 1e-5


def test_a_picture_that_moves(folder: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    noise, _, frames = made([GivenClip(0, picture[None])])
    pipeline = WanImageToVideoPipeline(**parts(folder), expand_timesteps=True)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(image=Image.fromarray(picture), **CALL, latents=noise.clone()).frames
    assert distance(expected, made()[2]) > 1e-2, "the picture changes nothing"
    assert told("engine, image to video, pixels", distance(frames, expected)) <= 1e-5


@pytest.mark.parametrize("folder", [wan_folders.SKYREELS2], indirect=True)
def test_from_one_picture_to_another(folder: Path) -> None:
    """SkyReels-V2's start and end: the first latent in place, the last one in a slot that is dropped."""
    first, last = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    noise, latents, _ = made([GivenClip(0, first[None]), GivenClip(16, last[None])])
    scheduler = Remembering(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    pipeline = SkyReelsPipeline(**parts(folder, SkyReelsV2Transformer3DModel) | {"scheduler": scheduler})
    pipeline.set_progress_bar_config(disable=True)
    given = {"image": Image.fromarray(first), "last_image": Image.fromarray(last), "base_num_frames": 17}
    call = CALL | {"output_type": "latent", "fps": 24, "ar_step": 0, "addnoise_condition": 0}
    expected = pipeline(**given, **call, latents=noise.clone()).frames[:, :, :-1]  # without the slot
    assert distance(latents, made([GivenClip(0, first[None])])[1]) > 1e-2, "the last picture changes nothing"
    assert told("engine, start and end, latents", distance(latents, expected)) <= 1e-5
