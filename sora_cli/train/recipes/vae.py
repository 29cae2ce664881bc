"""`sora-cli train vae`: the autoencoder, on world clips or those of a dataset, and on generic imagery."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sora_cli import registry
from sora_cli.dataset.dataset import Dataset
from sora_cli.models.sora.vae import FINE, STRIDE, Vae, VaeConfig, cells, config_from, fine
from sora_cli.train.frozen import Network
from sora_cli.train.options import WORLD, VaeOptions
from sora_cli.train.recipes.grow import grow_vae
from sora_cli.train.trainer import loop
from sora_cli.train.trainer.config import Losses, TrainerConfig, generator
from sora_cli.train.trainer.stage import Stage, save_half, save_sheet
from sora_cli.world.field import field
from sora_cli.world.render import render
from sora_cli.world.scene import sample_scene

PRESETS = {
    "nano": VaeConfig(space=16, details=0, time=8, deep=160, wide=64, paint=96, tail=48, blocks=2, memory=8, zoom=1),
    "mini": VaeConfig(space=16, details=0, time=8, deep=224, wide=96, paint=128, tail=64, blocks=3, memory=8, zoom=1),
    "base": VaeConfig(space=16, details=0, time=8, deep=320, wide=128, paint=160, tail=64, blocks=3, memory=8, zoom=1),
}
STEPS = {"nano": 3000, "mini": 12000, "base": 20000}
CANVASES = [(192, 320), (192, 192), (192, 256), (320, 192)]  # heights and widths that scenes are drawn at
CROP = (128, 160)
LONGEST = 9  # frames of a clip
KL, GRADIENT, NOISE = 1e-4, 0.5, 0.3
IMAGES, LATER_IMAGES = 0.5, 0.75  # share of the steps whose clips are single frames: at first, and of details
SHRUNKEN, MOVED = 0.15, 0.35  # shares of decodes from latents of half the size, and moved by fractions of a cell
MOTIONLESS = 0.1  # share of chunks without their motion
COARSE = 0.15  # share of decodes without the details
DETAILS = 16  # channels
FAINT = 0.4  # standard deviation of normalised details, where that of all other channels is 1
SUBJECT = 3.0  # how much more an error counts where a subject is


@dataclass(frozen=True)
class Footage:
    """What an autoencoder learns from: clips as they are read [B, 3, T, h, w] in [-1, 1], as they are to be painted,
    which may be larger, and what an error counts at every pixel of that [B, 1, T, H, W]."""

    read: Tensor
    painted: Tensor
    weight: Tensor


Draw = Callable[[random.Random, int, int], Footage]  # so many clips of so many frames


def world_clip(rng: random.Random, clips: int, frames: int, device: torch.device, zoom: int = 1) -> Footage:
    """Crops of freshly drawn scenes."""
    height, width = rng.choice(CANVASES)
    scenes = [sample_scene(rng) for _ in range(clips)]
    starts = torch.tensor([rng.uniform(0, 20) for _ in scenes])
    fps = rng.choice([12.0, 24.0, 24.0, 30.0])
    times = starts[:, None] + torch.arange(frames) / fps
    cover = field(scenes, times, height, width, device)[:, :, :, 0].amax(2)[:, None]  # (B, 1, T, h, w)
    y = rng.randint(0, max(0, height - CROP[0]) // STRIDE)
    x = rng.randint(0, max(0, width - CROP[1]) // STRIDE)
    rows, columns = slice(y, y + CROP[0] // STRIDE), slice(x, x + CROP[1] // STRIDE)

    def cut(size: int) -> Tensor:
        video = render(scenes, times, size * height, size * width, device).transpose(1, 2) * 2 - 1
        top, left = size * STRIDE * y, size * STRIDE * x
        return video[..., top : top + size * CROP[0], left : left + size * CROP[1]].contiguous()

    read = cut(1)
    counts = 1 + (SUBJECT - 1) * (cover[..., rows, columns] > 0.05).float()
    weight = counts.repeat_interleave(zoom * STRIDE, -1).repeat_interleave(zoom * STRIDE, -2)
    return Footage(read, read if zoom == 1 else cut(zoom), weight)


def plain(video: Tensor, zoom: int) -> Footage:
    """Footage all of which counts alike; where more is to be painted, what is read is shrunken."""
    read = video if zoom == 1 else F.avg_pool3d(video, (1, zoom, zoom))
    return Footage(read, video, torch.ones_like(video[:, :1]))


def dataset_clip(rng: random.Random, clips: int, frames: int, dataset: Dataset, device: torch.device,
                 zoom: int = 1) -> Footage:  # fmt: skip
    height, width = (zoom * size for size in CROP)
    return plain(dataset.frames(rng, clips, frames, height, width).to(device), zoom)


def batch(seed: int, step: int, clips: int, device: torch.device, images: float, draw: Draw, zoom: int = 1) -> Footage:
    """One step's videos: most of them images, as appearance is the hard part and images are all different; else clips
    of five frames, now and then of nine, now and then generic imagery."""
    rng = random.Random(seed * 1_000_003 + step)
    kind = rng.random()
    if kind > 1 - images:
        return draw(rng, 4 * clips // zoom, 1)
    if kind < 0.1:
        from sora_cli.world.textures import generic

        height, width = (zoom * side for side in CROP)
        return plain(generic(clips, 5, height, width, generator(seed, step)).to(device).transpose(1, 2) * 2 - 1, zoom)
    if kind < 0.13:
        return draw(rng, max(1, clips // 2), LONGEST)
    return draw(rng, clips, 5)


def losses(vae: Vae, footage: Footage, rng: torch.Generator, shrunken: float = SHRUNKEN, moved: float = MOVED,
           motionless: float = MOTIONLESS) -> Losses:  # fmt: skip
    """L1 + gradient L1 on a decode of noised posterior samples, now and then without their details, KL, and
    equivariance: the decode of a shrunken latent should be the shrunken picture, that of a moved one the moved
    picture."""
    mean, logvar = (x.float() for x in vae.moments(footage.read))
    logvar = logvar.clamp(-12, 4)
    noise = torch.randn(mean.shape, generator=rng).to(mean)
    level = NOISE * torch.rand(mean.shape[0], generator=rng).to(mean).square().view(-1, 1, 1, 1, 1)
    z = mean + noise * (torch.exp(logvar) + (level * channel_std(vae, mean)).square()).sqrt()
    z = drop_details(vae, z, rng, COARSE)
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)[:, :, -1].mean()
    chance, target = float(torch.rand((), generator=rng)), torch.cat([footage.painted, footage.weight], 1)
    if chance < shrunken:
        z, target = shrink(vae, z, target)
    elif chance > 1 - moved:
        z, target = move(vae, z, target, rng)
    z = drop_motion(vae, z, rng, motionless)
    decoded = vae.decode_raw(z)[0]
    target, weight = target.to(decoded.dtype).split([3, 1], 1)  # half precision: the loss is bound by memory
    error = decoded - target
    l1, gradient = (error * weight).abs().mean(), gradients(error, weight).float()
    mse = error.detach().square().mean(dtype=torch.float32)
    return {"loss": l1.float() + GRADIENT * gradient + KL * kl, "l1": l1.detach(), "kl": kl.detach(),
            "psnr": 10 * torch.log10(4 / mse)}  # fmt: skip


def channel_std(vae: Vae, z: Tensor) -> Tensor:
    """The standard deviation of each part of latents [B, C, K, h, w], over its channels: [C, 1, 1, 1]. Channels of one
    part keep their proportions, so that noise hides the faint ones first, which then carry what matters less."""
    found = []
    for part in z.detach().split(vae.config.parts, 1):
        apart = part - part.mean((0, 2, 3, 4), keepdim=True)
        found.append(apart.square().mean().sqrt().clamp_min(1e-3).expand(part.shape[1]))
    return torch.cat(found).view(-1, 1, 1, 1)


def units(vae: Vae, z: Tensor) -> Tensor:
    """What normalisation makes 1 [C, 1, 1, 1]: the standard deviation, but fainter on purpose for details."""
    coarse, details, motion = vae.config.parts
    size = torch.tensor([1.0] * coarse + [FAINT] * details + [1.0] * motion, device=z.device)
    return channel_std(vae, z) / size.view(-1, 1, 1, 1)


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
    rows, columns = ([vae.config.zoom * n for n in (first, first + size)]
                     for first, size in zip(by, (height, width), strict=True))  # fmt: skip
    shown = video[..., slice(*rows), slice(*columns)]
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


def drop_details(vae: Vae, z: Tensor, rng: torch.Generator, share: float) -> Tensor:
    """Now and then leave the details out, so that the other channels show as much as they can by themselves."""
    keep = (torch.rand(z.shape[0], 1, 1, 1, 1, generator=rng) >= share).to(z)
    coarse, details, tau = z.split(vae.config.parts, 1)
    return torch.cat([coarse, details * keep, tau], 1)


def drop_motion(vae: Vae, z: Tensor, rng: torch.Generator, share: float) -> Tensor:
    """Replace tau by the learned "unknown" now and then, so that single key frames decode."""
    dropped = (torch.rand(z.shape[0], 1, z.shape[2], 1, 1, generator=rng) < share).to(z.device)
    s, tau = z.split([vae.config.space, vae.config.time], 1)
    tau = torch.where(dropped, vae.decoder.unknown_motion.view(-1, 1, 1, 1).to(tau), tau)
    return torch.cat([s, tau], 1)


def gradients(error: Tensor, weight: Tensor) -> Tensor:
    """The mean difference of neighbouring errors, down and across: L1 between the pictures' gradients."""
    across, down = error.diff(dim=-1) * weight[..., 1:], error.diff(dim=-2) * weight[..., 1:, :]
    return across.abs().mean() + down.abs().mean()


@torch.no_grad()
def measure_latents(vae: Vae, clips: int, draw: Draw) -> None:
    """Set the mean of every channel and the unit of each part from clips; where only details are new, those of them."""
    rng = random.Random(7)
    coarse, details, _ = vae.config.parts
    new = slice(coarse, coarse + details) if not vae.encoder.to_space.weight.requires_grad else slice(None)
    vae.mean[new], vae.std[new] = 0, 1
    found = []
    for _ in range(max(1, clips // 4)):
        found.append(vae.encode(draw(rng, 4, LONGEST).read)[:, :, 1:].float())
    values = torch.cat([rearrange(x, "B C K h w -> C (B K h w)") for x in found], 1)
    vae.mean[new] = values.mean(1)[new]
    vae.std[new] = units(vae, values.t()[..., None, None, None]).flatten()[new]


def initial_vae(options: VaeOptions, start: Network | None) -> Vae:
    """The autoencoder before the first step: of a preset's sizes, grown from `start` if there is one. What must not
    change is frozen: with --details all of the encoder but the details, with --decoder-only all of it."""
    was, plain = config_from(start[1]) if start else None, PRESETS[options.preset]
    details = max(DETAILS if options.details else 0, was.details if was else 0)
    torch.manual_seed(options.seed)  # weight initialisation alone; data draws from its own generators
    vae = Vae(replace(plain, space=plain.space + details, details=details, zoom=options.zoom))
    if start and was:
        grow_vae(vae, start[0], was)
    if options.details or options.decoder_only:
        vae.encoder.requires_grad_(False)
    if options.details and vae.encoder.detail:
        vae.encoder.detail.requires_grad_(True)
    return vae


class VaeStage(Stage[VaeOptions]):
    """The autoencoder, from nothing or grown from these weights, on a dataset or the world."""

    def __init__(self, dataset: Dataset | None, start: Network | None, options: VaeOptions, device: torch.device,
                 dtype: torch.dtype) -> None:  # fmt: skip
        super().__init__(options, device, dtype)
        if dataset:
            dataset.check_frames(LONGEST)
        source = partial(dataset_clip, dataset=dataset) if dataset else world_clip
        self.model: Vae = initial_vae(options, start).to(device)
        self.draw: Draw = partial(source, device=device, zoom=options.zoom)
        self.config = TrainerConfig(steps=options.steps or STEPS[options.preset], batch=options.batch or 8, rate=2e-3,
                                    average=0.998, save_every=250, sample_every=500)  # fmt: skip
        fixed = options.details or options.decoder_only  # what makes latents learnable is settled
        self.images, self.shares = (LATER_IMAGES, (0.0, 0.0)) if fixed else (IMAGES, (SHRUNKEN, MOVED))
        self.shown = self.draw(random.Random(1), 4, 5)

    def loss(self, step: int) -> Losses:
        seed, zoom = self.options.seed, self.model.config.zoom
        footage = batch(seed, step, self.config.batch, self.device, self.images, self.draw, zoom)
        with self.autocast():
            return losses(self.model, footage, generator(seed, step), *self.shares)

    def sample(self, model: nn.Module, path: Path) -> None:  # type: ignore[override]
        assert isinstance(model, Vae)
        again = model.decode_raw(model.moments(self.shown.read)[0])[0].clamp(-1, 1)
        save_sheet(path, [row for pair in zip(self.shown.painted, again, strict=True) for row in pair])

    def export(self, averaged: dict[str, Tensor]) -> Path:
        """Measure the latents and write OUT/vae.safetensors in half precision."""
        vae = self.model
        vae.load_state_dict(averaged, strict=True)
        if any(p.requires_grad for p in vae.encoder.parameters()):
            measure_latents(vae.eval(), 64, self.draw)
        metadata = {"config": asdict(vae.config), "training": json.loads(self.options.record()), "stride": STRIDE}
        return save_half(self.options.folder / "vae.safetensors", vae.state_dict(), metadata)


def train(options: VaeOptions) -> Path:
    """Train an autoencoder on what the options name, which is opened here; returns its file."""
    dataset = None if options.data == WORLD else Dataset(options.data)
    start = registry.load_network("vae", options.init) if options.init else None
    return loop.train(partial(VaeStage, dataset, start), options)
