"""The autoencoder's promises: what a latent may depend on, and that streaming changes nothing."""

import pytest
import torch

from sora_cli.models.sora.vae import Vae, VaeConfig, fold_channels

CONFIG = VaeConfig(space=4, details=0, time=2, deep=16, wide=8, paint=8, tail=8, blocks=1, memory=2, zoom=1)


@pytest.fixture(scope="module")
def vae() -> Vae:
    torch.manual_seed(0)
    vae = Vae(CONFIG).eval()
    for p in vae.parameters():  # also what starts at zero must play its part
        torch.nn.init.normal_(p, std=0.1)
    vae.mean.normal_()
    vae.std.uniform_(0.5, 2)
    return vae


def video(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, frames, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_shapes(vae: Vae) -> None:
    latents = vae.encode(video(9))
    assert latents.shape == (1, 6, 3, 2, 3)
    assert vae.decode(latents).shape == (1, 3, 9, 32, 48)
    assert vae.decode(vae.encode(video(1))).shape == (1, 3, 1, 32, 48)


@torch.no_grad()
@pytest.mark.parametrize("group", [1, 2, 3, 9])
def test_streamed_decode_is_the_whole_clip_decode(vae: Vae, group: int) -> None:
    latents = torch.randn(1, 6, 6, 2, 3, generator=torch.Generator().manual_seed(1))
    pieces = list(vae.stream(latents, group))
    assert torch.allclose(torch.cat(pieces, 2), vae.decode(latents), atol=1e-5)
    assert max(p.shape[2] for p in pieces) <= 4 * group


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5, 9, 41])
@pytest.mark.parametrize("group", [1, 2, 5])
def test_streamed_encode_is_the_whole_clip_encode(vae: Vae, frames: int, group: int) -> None:
    clip = video(frames)
    pieces = list(vae.encode_stream(clip.unbind(2), group))
    assert max(p.shape[2] for p in pieces) <= group
    assert torch.allclose(torch.cat(pieces, 2), vae.encode(clip), atol=1e-5)


@torch.no_grad()
def test_streamed_encode_reads_no_further_than_its_group(vae: Vae) -> None:
    coming = iter(video(41).unbind(2))
    pieces = vae.encode_stream(coming, 2)
    assert [next(pieces).shape[2] for _ in range(3)] == [1, 2, 2]
    assert len(list(coming)) == 41 - 1 - 16


@torch.no_grad()
def test_decoding_starts_in_the_middle(vae: Vae) -> None:
    latents = torch.randn(1, 6, 6, 2, 3, generator=torch.Generator().manual_seed(3))
    previous = vae.key_features(latents[:, :, :2])
    rest = torch.cat(list(vae.stream(latents[:, :, 2:], 3, previous)), 2)
    assert torch.allclose(rest, vae.decode(latents)[:, :, 5:], atol=1e-5)


@torch.no_grad()
def test_a_loop_decodes_alike_wherever_it_starts(vae: Vae) -> None:
    latents = torch.randn(1, 6, 5, 2, 3, generator=torch.Generator().manual_seed(4))
    here = torch.cat(list(vae.stream(latents, cyclic=True)), 2)
    there = torch.cat(list(vae.stream(latents.roll(2, 2), cyclic=True)), 2)
    assert here.shape[2] == 4 * 5
    assert torch.allclose(here.roll(8, 2), there, atol=1e-5)
    assert torch.allclose(here[:, :, 3:], vae.decode(latents), atol=1e-5)


@torch.no_grad()
def test_a_space_latent_sees_its_key_frame_alone(vae: Vae) -> None:
    one, other = video(9), video(9, seed=1)
    other[:, :, 8] = one[:, :, 8]
    space = slice(0, CONFIG.space)
    assert torch.allclose(vae.encode(one)[:, space, 2], vae.encode(other)[:, space, 2], atol=1e-5)
    image = vae.encode(one[:, :, 8:9])
    assert torch.allclose(image[:, space, 0], vae.encode(one)[:, space, 2], atol=1e-5)


@torch.no_grad()
def test_latents_are_causal(vae: Vae) -> None:
    one, other = video(9), video(9)
    other[:, :, 5:] = video(9, seed=1)[:, :, 5:]
    assert torch.allclose(vae.encode(one)[:, :, :2], vae.encode(other)[:, :, :2], atol=1e-5)
    assert not torch.allclose(vae.encode(one)[:, :, 2], vae.encode(other)[:, :, 2], atol=1e-3)


@torch.no_grad()
def test_time_latents_remember_earlier_key_frames_within_the_window(vae: Vae) -> None:
    def time_of_last(changed: int) -> torch.Tensor:
        clip = video(17)
        clip[:, :, changed] = video(17, seed=1)[:, :, changed]
        return vae.encode(clip)[:, CONFIG.space :, 4]

    assert not torch.allclose(time_of_last(8), vae.encode(video(17))[:, CONFIG.space :, 4], atol=1e-5)
    assert torch.allclose(time_of_last(4), vae.encode(video(17))[:, CONFIG.space :, 4], atol=1e-5)


@torch.no_grad()
def test_key_frames_decode_from_space_latents_alone(vae: Vae) -> None:
    latents = torch.randn(1, 6, 3, 2, 3, generator=torch.Generator().manual_seed(2))
    moved = latents.clone()
    moved[:, CONFIG.space :] += 1
    assert torch.allclose(vae.decode(latents)[:, :, ::4], vae.decode(moved)[:, :, ::4], atol=1e-5)
    assert not torch.allclose(vae.decode(latents)[:, :, 1:4], vae.decode(moved)[:, :, 1:4], atol=1e-3)


def test_fold_channels_keeps_the_mean() -> None:
    x = torch.randn(1, 8, 2, 2)
    assert torch.allclose(fold_channels(x, 2).mean(1), x.mean(1), atol=1e-6)
    assert torch.equal(fold_channels(x, 16)[:, ::2], x)
