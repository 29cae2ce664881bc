"""`sora-cli train vae`: the autoencoder, on world clips or those of a dataset, and on generic imagery."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sora_cli import registry, weights
from sora_cli.data.dataset import Dataset
from sora_cli.models.sora.vae import FINE, STRIDE, Vae, VaeConfig, cells, fine
from sora_cli.train import ranks
from sora_cli.train.grow import grow_vae
from sora_cli.train.loop import Losses, Recipe, fit, generator
from sora_cli.train.options import TrainOptions
from sora_cli.train.sheets import save_sheet
from sora_cli.world.render import render
from sora_cli.world.scene import sample_scene

PRESETS = {
    "nano": VaeConfig(space=16, time=8, deep=160, wide=64, tail=32, blocks=2, memory=8),
    "mini": VaeConfig(space=16, time=8, deep=224, wide=96, tail=48, blocks=3, memory=8),
    "base": VaeConfig(space=24, time=8, deep=320, wide=128, tail=64, blocks=3, memory=8),
}
STEPS = {"nano": 3000, "mini": 12000, "base": 20000}
CANVASES = [(192, 320), (192, 192), (192, 256), (320, 192)]  # heights and widths that scenes are drawn at
CROP = (128, 160)
LONGEST = 9  # frames of a clip
KL, GRADIENT, NOISE = 1e-4, 0.5, 0.3
SHRUNKEN, MOVED = 0.15, 0.35  # shares of decodes from latents of half the size, and moved by fractions of a cell
MOTIONLESS = 0.1  # share of chunks without their motion

Draw = Callable[[random.Random, int, int], Tensor]  # so many clips of so many frames: [B, 3, T, h, w] in [-1, 1]


def world_clip(rng: random.Random, clips: int, frames: int, device: torch.device) -> Tensor:
    """Crops of freshly drawn scenes: [B, 3, T, h, w] in [-1, 1]."""
    height, width = rng.choice(CANVASES)
    scenes = [sample_scene(rng) for _ in range(clips)]
    starts = torch.tensor([rng.uniform(0, 20) for _ in scenes])
    fps = rng.choice([12.0, 24.0, 24.0, 30.0])
    times = starts[:, None] + torch.arange(frames) / fps
    video = render(scenes, times, height, width, device).transpose(1, 2) * 2 - 1
    y = rng.randint(0, max(0, height - CROP[0]) // 16) * 16
    x = rng.randint(0, max(0, width - CROP[1]) // 16) * 16
    return video[..., y : y + CROP[0], x : x + CROP[1]].contiguous()


def footage_of(data: str, device: torch.device) -> Draw:
    """Where clips come from: the world, or the source files of a dataset."""
    if data == "world":
        return partial(world_clip, device=device)
    dataset = Dataset(data)
    dataset.check_frames(LONGEST)
    return lambda rng, clips, frames: dataset.frames(rng, clips, frames, *CROP).to(device)


def batch(seed: int, step: int, clips: int, device: torch.device, images: float = 0.5,
          draw: Draw | None = None) -> Tensor:  # fmt: skip
    """One step's videos: half the time images, as appearance is the hard part and images are all different;
    else clips of five frames, now and then of nine, now and then generic imagery."""
    rng = random.Random(seed * 1_000_003 + step)
    draw = draw or footage_of("world", device)
    kind = rng.random()
    if kind > 1 - images:
        return torch.cat([draw(rng, clips, 1) for _ in range(4)])
    if kind < 0.1:
        from sora_cli.world.textures import generic

        return generic(clips, 5, *CROP, generator(seed, step)).to(device).transpose(1, 2) * 2 - 1
    if kind < 0.15:
        return draw(rng, max(1, clips // 2), LONGEST)
    return draw(rng, clips, 5)


def losses(vae: Vae, video: Tensor, rng: torch.Generator, shrunken: float = SHRUNKEN, moved: float = MOVED,
           motionless: float = MOTIONLESS) -> Losses:  # fmt: skip
    """L1 + gradient L1 on a decode of noised posterior samples, KL, and equivariance: the decode of a shrunken
    latent should be the shrunken picture, that of a moved one the moved picture."""
    mean, logvar = (x.float() for x in vae.moments(video))
    logvar = logvar.clamp(-12, 4)
    noise = torch.randn(mean.shape, generator=rng).to(mean)
    level = NOISE * torch.rand(mean.shape[0], generator=rng).to(mean).square().view(-1, 1, 1, 1, 1)
    z = mean + noise * (torch.exp(logvar) + (level * spreads(vae, mean)).square()).sqrt()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)[:, :, -1].mean()
    chance, target = float(torch.rand((), generator=rng)), video
    if chance < shrunken:
        z, target = shrink(vae, z, video)
    elif chance > 1 - moved:
        z, target = move(vae, z, video, rng)
    z = drop_motion(vae, z, rng, motionless)
    decoded = vae.decode_raw(z)[0]
    error = decoded - target.to(decoded.dtype)  # in half precision: at these sizes the loss is bound by memory
    l1, gradient = error.abs().mean(), gradients(error).float()
    mse = error.detach().square().mean(dtype=torch.float32)
    return {"loss": l1.float() + GRADIENT * gradient + KL * kl, "l1": l1.detach(), "kl": kl.detach(),
            "psnr": 10 * torch.log10(4 / mse)}  # fmt: skip


def spreads(vae: Vae, z: Tensor) -> Tensor:
    """The standard deviation of each part of latents [B, C, K, h, w], over its channels: [C, 1, 1, 1]. Channels of one
    part keep their proportions, so that noise hides the faint ones first, which then carry what matters less."""
    parts = z.detach().split([vae.config.space, vae.config.time], 1)
    return torch.cat([(p - p.mean((0, 2, 3, 4), keepdim=True)).square().mean().sqrt().clamp_min(1e-3).expand(p.shape[1])
                      for p in parts]).view(-1, 1, 1, 1)  # fmt: skip


def shrink(vae: Vae, z: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and pictures at half size (EQ-VAE, Kouzelis et al. 2025)."""
    small, tau = pictures(vae, z)
    half = (1, 2, 2)
    return latents(F.avg_pool3d(small, half), F.avg_pool3d(tau, half)), F.avg_pool3d(video, half)


def move(vae: Vae, z: Tensor, video: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents between the cells, interpolated, and the pictures that begin as many pixels later (after AF-LDM, Zhou
    et al. 2025): numbers that interpolate change slowly while something moves."""
    by = torch.randint(STRIDE, (2,), generator=rng).tolist()
    height, width = ((size - 1) * STRIDE for size in z.shape[-2:])
    small, tau = pictures(vae, z)
    small, tau = slide(small, by, FINE), slide(tau, by, STRIDE)
    shown = video[..., by[0] : by[0] + height, by[1] : by[1] + width]
    return latents(small[..., : height // FINE, : width // FINE], tau), shown


def slide(x: Tensor, by: list[int], cell: int) -> Tensor:
    """Rows and columns of `cell` pixels, from so many pixels on: linear between neighbours."""
    for axis, pixels in zip((-2, -1), by, strict=True):
        first, share = divmod(pixels, cell)
        length = x.shape[axis] - first - 1
        x = torch.lerp(x.narrow(axis, first, length), x.narrow(axis, first + 1, length), share / cell)
    return x


def pictures(vae: Vae, z: Tensor) -> tuple[Tensor, Tensor]:
    """Latents [B, c + t, K, h, w] -> the small pictures [B, c/4, K, 2h, 2w] and the motion [B, t, K, h, w]."""
    s, tau = z.split([vae.config.space, vae.config.time], 1)
    return fine(s.transpose(1, 2)).transpose(1, 2), tau


def latents(small: Tensor, tau: Tensor) -> Tensor:
    """The inverse of `pictures`."""
    return torch.cat([cells(small.transpose(1, 2)).transpose(1, 2), tau], 1)


def drop_motion(vae: Vae, z: Tensor, rng: torch.Generator, share: float) -> Tensor:
    """Replace tau by the learned "unknown" now and then, so that single key frames decode."""
    dropped = (torch.rand(z.shape[0], 1, z.shape[2], 1, 1, generator=rng) < share).to(z.device)
    s, tau = z.split([vae.config.space, vae.config.time], 1)
    tau = torch.where(dropped, vae.decoder.unknown_motion.view(-1, 1, 1, 1).to(tau), tau)
    return torch.cat([s, tau], 1)


def gradients(error: Tensor) -> Tensor:
    """The mean difference of neighbouring errors, down and across: L1 between the pictures' gradients."""
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


@torch.no_grad()
def measure_latents(vae: Vae, clips: int, draw: Draw) -> None:
    """Set the mean of every channel and the standard deviation of each part from clips."""
    rng = random.Random(7)
    vae.mean.zero_()
    vae.std.fill_(1)
    found = []
    for _ in range(max(1, clips // 4)):
        video = draw(rng, 4, LONGEST)
        found.append(vae.encode(video)[:, :, 1:].float())
    values = torch.cat([rearrange(x, "B C K h w -> C (B K h w)") for x in found], 1)
    vae.mean.copy_(values.mean(1))
    vae.std.copy_(spreads(vae, values.t()[..., None, None, None]).flatten())


def train(options: TrainOptions) -> Path:
    """Train, measure the latents, and write `options.out`/vae.safetensors; returns its path."""
    device, dtype = ranks.join(options)
    draw = footage_of(options.data, device)
    torch.manual_seed(options.seed)  # weight initialisation alone; data draws from its own generators
    vae = Vae(PRESETS[options.preset]).to(device)
    if options.init:
        tensors, metadata = registry.load_network("vae", options.init)
        grow_vae(vae, tensors, VaeConfig(**json.loads(metadata["config"])))
    vae.encoder.requires_grad_(not options.decoder_only)
    clips = options.batch or 8
    recipe = Recipe(steps=options.steps or STEPS[options.preset], batch=clips, rate=2e-3, average=0.998,
                    save_every=250, sample_every=500)  # fmt: skip

    def loss(step: int) -> Losses:
        video = batch(options.seed, step, clips, device, 0.2 if options.decoder_only else 0.5, draw)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return losses(vae, video, generator(options.seed, step))

    shown = draw(random.Random(1), 4, 5)

    def sample(model: nn.Module, path: Path) -> None:
        assert isinstance(model, Vae)
        again = model.decode_raw(model.moments(shown)[0])[0].clamp(-1, 1)
        save_sheet(path, [row for pair in zip(shown, again, strict=True) for row in pair])

    averaged = fit(vae, loss, recipe, options, sample)
    vae.load_state_dict(averaged, strict=True)
    if not options.decoder_only:
        measure_latents(vae.eval(), 64, draw)
    return export(vae, options) if ranks.leads() else options.out


def export(vae: Vae, options: TrainOptions) -> Path:
    """Write the weights in half precision with all that is needed to use them in the header."""
    path = options.out / "vae.safetensors"
    tensors = {k: v.half() if v.ndim > 1 else v for k, v in vae.state_dict().items()}
    metadata = {"config": json.dumps(asdict(vae.config)), "training": options.record(), "stride": str(STRIDE)}
    weights.save(path, {k: v.contiguous() for k, v in tensors.items()}, metadata)
    return path
