"""The Wan networks of this project and of diffusers behind one interface, for `wan.py`: what is measured, at which
sizes, and each side's own way to do it."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from sora_cli.models.wan.configs import CHUNK, PATCH, WanConfig, WanVaeConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.vae import WanVae
from sora_cli.sampling.solvers import timesteps, unipc, unipc_sigmas

Config = dict[str, Any]
Size = tuple[int, int, int]  # latent frames, rows and columns

TEXT = 512  # tokens
REAL_STEPS = 2  # of the pipelines at full size, for their memory and to compare the whole
GUIDANCE, SHIFT = 5.0, 5.0
IN_FLOAT = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")  # as the published weights are loaded


# ---- cases ------------------------------------------------------------------------------------------------


def dit(heads: int, layers: int, hidden: int, channels: int, text: int = 4096) -> Config:
    return {
        "patch_size": [1, PATCH, PATCH], "num_attention_heads": heads, "attention_head_dim": 128,
        "in_channels": channels, "out_channels": channels, "text_dim": text, "freq_dim": 256, "ffn_dim": hidden,
        "num_layers": layers, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": 1e-6,
    }  # fmt: skip


def vae21(width: int, channels: int = 16) -> Config:
    return {
        "base_dim": width, "z_dim": channels, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [],
        "temperal_downsample": [False, True, True], "latents_mean": [0.1] * channels, "latents_std": [1.5] * channels,
    }  # fmt: skip


def vae22(width: int, decoder: int, channels: int = 48) -> Config:
    return vae21(width, channels) | {
        "decoder_base_dim": decoder, "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2,
        "scale_factor_spatial": 16,
    }  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    task: str  # a method of Side
    size: Size
    dit: Config | None = None
    vae: Config | None = None
    steps: int = 0


def cases(scale: str) -> list[Case]:
    """What is measured at a scale: `tiny` for a test, `reduced` for a CPU, `real` for a GPU."""
    if scale == "real":
        small, large = dit(12, 30, 8960, 16), dit(24, 30, 14336, 48)
        return [
            *rows_of("1.3B, 832x480, 81 frames", small, (21, 60, 104), vae21(96)),
            *rows_of("5B, 1280x704, 121 frames", large, (31, 44, 80), vae22(160, 256)),
        ]
    tiny = scale == "tiny"
    heads, hidden, text = (1, 256, 64) if tiny else (6, 4480, 4096)
    old, new = (vae21(4), vae22(4, 8)) if tiny else (vae21(32), vae22(40, 64))
    clip, short, wide = ((2, 2, 4), (3, 2, 2), (3, 2, 2)) if tiny else ((4, 32, 48), (3, 16, 24), (3, 8, 12))
    network, pair = dit(heads, 2, hidden, 16, text), dit(1 if tiny else 4, 2, hidden, 16, text)
    return [
        Case("velocity", "velocity", clip, network),
        Case("velocity, a time a frame", "velocity_by_frame", clip, network),
        Case("decode 2.1", "decode", short, vae=old),
        Case("encode 2.1", "encode", short, vae=old),
        Case("decode 2.2", "decode", wide, vae=new),
        Case("encode 2.2", "encode", wide, vae=new),
        Case("text to video", "video", short, pair, old, 4),
    ]


def rows_of(name: str, network: Config, size: Size, vae: Config) -> list[Case]:
    """All that is measured of a published pair of networks."""
    return [
        Case(f"{name}: velocity", "velocity", size, network),
        Case(f"{name}: velocity, a time a frame", "velocity_by_frame", size, network),
        Case(f"{name}: decode", "decode", size, vae=vae),
        Case(f"{name}: encode", "encode", size, vae=vae),
        Case(f"{name}: text to video, {REAL_STEPS} steps", "video", size, network, vae, REAL_STEPS),
    ]


def width_of(config: Config) -> int:
    return config["num_attention_heads"] * config["attention_head_dim"]


def products(case: Case) -> float:
    """Floating-point operations of the matrix products and the attention of a velocity."""
    assert case.dit
    c, (T, h, w) = WanConfig.from_hub(case.dit), case.size
    N, D = T * h * w // PATCH**2, c.width
    around = N * PATCH**2 * (c.inputs + c.outputs) * D + TEXT * (c.text_width + D) * D
    block = N * (6 * D + 2 * c.hidden) * D + TEXT * 2 * D**2 + 2 * N * (N + TEXT) * D
    return 2 * (around + c.layers * block)


# ---- both sides -------------------------------------------------------------------------------------------


class Side:
    """One implementation of a case's networks, and the inputs, which are the same for both."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype, empty: bool = False) -> None:
        """empty: without memory for weights, which are to be adopted."""
        self.case, self.device, self.dtype = case, device, dtype
        with built_on(torch.device("meta") if empty else device, dtype):
            self.dit = self.make_dit(case.dit) if case.dit else None
            self.vae = self.make_vae(case.vae) if case.vae else None
        for network in (self.dit, self.vae):
            if network is not None:
                network.eval().requires_grad_(False)
        if self.dit is not None:
            for name, value in self.dit.named_parameters():
                if set(IN_FLOAT) & set(name.split(".")):
                    value.data = value.data.float()
        self.give(case.size)

    def make_dit(self, config: Config) -> nn.Module:
        raise NotImplementedError

    def make_vae(self, config: Config) -> nn.Module:
        raise NotImplementedError

    def give(self, size: Size) -> None:
        """Take inputs of so many latent frames, rows and columns; the numbers come from one seed."""
        rng, (K, h, w) = torch.Generator().manual_seed(0), size
        at_random = lambda *shape: torch.randn(*shape, generator=rng).to(self.device)
        channels = self.case.dit["in_channels"] if self.case.dit else self.case.vae["z_dim"]  # type: ignore[index]
        self.latents = at_random(1, channels, K, h, w)
        if self.case.dit:
            self.text, self.negative = at_random(2, 1, TEXT, self.case.dit["text_dim"]).to(self.dtype)
        if self.case.vae:
            stride = self.case.vae.get("scale_factor_spatial", 8)
            self.pixels = (h * stride, w * stride)
        if self.case.task == "encode":
            self.clip = at_random(1, 3, 1 + CHUNK * (K - 1), *self.pixels).to(self.dtype).clamp_(-1, 1)
        self.times = torch.full((1, K), 731)
        self.times[:, 0] = 0

    def run(self) -> Tensor:
        with torch.no_grad():
            return getattr(self, self.case.task)()


class Ours(Side):
    def make_dit(self, config: Config) -> nn.Module:
        return WanDit(WanConfig.from_hub(config))

    def make_vae(self, config: Config) -> nn.Module:
        return WanVae(WanVaeConfig.from_hub(config))

    def adopt(self, other: Side) -> None:
        """Take the other's weights."""
        for own, theirs in ((self.dit, other.dit), (self.vae, other.vae)):
            if own is not None and theirs is not None:
                own.load_state_dict(theirs.state_dict(), strict=True, assign=True)

    def velocity(self) -> Tensor:
        assert self.dit is not None
        return self.dit(self.latents.to(self.dtype), self.times[:, -1:], self.text)

    def velocity_by_frame(self) -> Tensor:
        assert self.dit is not None
        return self.dit(self.latents.to(self.dtype), self.times, self.text)

    def decode(self) -> Tensor:
        return self.vae.decode(self.latents.to(self.dtype))  # type: ignore[union-attr, operator]

    def encode(self) -> Tensor:
        return self.vae.encode(self.clip)  # type: ignore[union-attr, operator]

    def video(self) -> Tensor:
        """Frames in 0..1, as the pipeline gives them."""
        network = self.dit
        assert network is not None

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            x, t = x.to(self.dtype), timesteps(sigma)[None, None]
            towards, away = network(x, t, self.text), network(x, t, self.negative)
            return away + GUIDANCE * (towards - away)

        *_, x = unipc(velocity, self.latents, unipc_sigmas(self.case.steps, SHIFT))
        video: Tensor = self.vae.decode(x.to(self.dtype))  # type: ignore[union-attr, operator]
        return (video / 2 + 0.5).transpose(1, 2)


class Theirs(Side):
    def make_dit(self, config: Config) -> nn.Module:
        return reference("WanTransformer3DModel")(**config)

    def make_vae(self, config: Config) -> nn.Module:
        return reference("AutoencoderKLWan")(**config)

    def statistics(self) -> tuple[Tensor, Tensor]:
        c = self.vae.config  # type: ignore[union-attr]
        mean, std = (torch.tensor(numbers, device=self.device, dtype=self.dtype)[:, None, None, None]
                     for numbers in (c.latents_mean, c.latents_std))  # type: ignore[union-attr]  # fmt: skip
        return mean, std

    def velocity(self) -> Tensor:
        assert self.dit is not None
        return self.dit(self.latents.to(self.dtype), self.times[:, -1].to(self.device), self.text, return_dict=False)[0]

    def velocity_by_frame(self) -> Tensor:
        """The reference is told the time of every token."""
        assert self.dit is not None
        tokens = self.latents[0, 0, 0].numel() // PATCH**2
        times = self.times.repeat_interleave(tokens, 1).to(self.device)
        return self.dit(self.latents.to(self.dtype), times, self.text, return_dict=False)[0]

    def decode(self) -> Tensor:
        mean, std = self.statistics()
        return self.vae.decode(self.latents.to(self.dtype) * std + mean, return_dict=False)[0]  # type: ignore

    def encode(self) -> Tensor:
        mean, std = self.statistics()
        return (self.vae.encode(self.clip).latent_dist.mode() - mean) / std  # type: ignore

    def video(self) -> Tensor:
        scheduler = reference("UniPCMultistepScheduler")(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
        )
        pipeline = reference("WanPipeline")(None, None, self.vae, scheduler, self.dit)
        pipeline.set_progress_bar_config(disable=True)
        height, width = self.pixels
        return pipeline(
            prompt_embeds=self.text, negative_prompt_embeds=self.negative, latents=self.latents, height=height,
            width=width, num_frames=1 + CHUNK * (self.latents.shape[2] - 1), num_inference_steps=self.case.steps,
            guidance_scale=GUIDANCE, output_type="pt",
        ).frames  # fmt: skip


def reference(name: str) -> Any:
    """A class of diffusers, imported as if there were no torchvision, unless that is imported already: it is not
    needed, and one built for another torch breaks the import."""
    absent: dict[str, Any] = {} if "torchvision" in sys.modules else {"torchvision": None}
    try:
        with mock.patch.dict(sys.modules, absent):
            found = getattr(importlib.import_module("diffusers"), name)
            loaded = {key: module for key, module in sys.modules.items() if module is not None}
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error.name} is missing: pip install 'sora-cli[parity]' to compare with diffusers") from None
    sys.modules.update(loaded)
    return found


@contextmanager
def built_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Parameters are made there and in that type, never larger."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)
