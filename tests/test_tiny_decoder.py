"""The tiny decoders against their description, written once more: all frames at once, layer by layer, on the published
file's names."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import wan_folders
from safetensors.torch import load_file, save_file
from test_memory import Living
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sora_cli import registry
from sora_cli.errors import SoraError
from sora_cli.models.wan.configs import TinyConfig
from sora_cli.models.wan.tiny_decoder import TinyDecoder, needed
from sora_cli.pipelines import loading
from sora_cli.placement import sizes
from sora_cli.placement.sizes import FLOAT32

CASES = [("taew2_1", 16, 1), ("taew2_2", 48, 2)]
CPU = torch.device("cpu")


def described(tensors: dict[str, Tensor], latents: Tensor, patch: int, growth: tuple[int, ...] = (1, 2, 2)) -> Tensor:
    """What TAEHV makes of latents [T, C, h, w]: frames [T', 3, H, W] in 0..1. Three stages of three memory blocks, each
    of which sees the frame before next to its own, black before the first; then pixels doubled, frames grown, and a
    convolution; frames before the first latent's last are dropped."""

    def conv(x: Tensor, name: str, padding: int = 1) -> Tensor:
        return F.conv2d(x, tensors[f"decoder.{name}.weight"], tensors.get(f"decoder.{name}.bias"), padding=padding)

    x = F.relu(conv(3 * torch.tanh(latents / 3), "1"))
    for first, grown in zip((3, 9, 15), growth, strict=True):
        for block in range(first, first + 3):
            past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
            y = F.relu(conv(torch.cat([x, past], 1), f"{block}.conv.0"))
            x = F.relu(conv(F.relu(conv(y, f"{block}.conv.2")), f"{block}.conv.4") + x)
        x = F.interpolate(x, scale_factor=2.0)
        x = F.conv2d(x, tensors[f"decoder.{first + 4}.conv.weight"][-grown * x.shape[1] :])
        x = conv(x.reshape(-1, x.shape[1] // grown, *x.shape[2:]), str(first + 5))
    frames = F.pixel_shuffle(conv(F.relu(x), "22"), patch).clamp(0, 1)
    return frames[growth[1] * growth[2] - 1 :]


def decoder(channels: int, patch: int) -> TinyDecoder:
    torch.manual_seed(1)
    return TinyDecoder(TinyConfig(channels, patch)).eval()


@pytest.mark.parametrize(("name", "channels", "patch"), CASES)
@torch.inference_mode()
def test_it_is_what_is_described(name: str, channels: int, patch: int) -> None:
    network, latents = decoder(channels, patch), torch.randn(1, channels, 3, 3, 4)
    state = network.state_dict()
    assert len(state) == 64 and sum(value.numel() for value in state.values()) in range(9_800_000, 9_960_000)
    for keys, growth in ((False, (1, 2, 2)), (True, (1, 1, 1))):
        made = torch.cat(list(network.decode_stream(latents.split(1, 2), keys)), 2)
        expected = described(state, latents[0].transpose(0, 1), patch, growth).transpose(0, 1)
        assert made.shape == (1, 3, 3 if keys else 9, 24 * patch, 32 * patch)
        torch.testing.assert_close((made[0] + 1) / 2, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "channels", "patch"), CASES)
@torch.inference_mode()
def test_it_costs_what_is_predicted(name: str, channels: int, patch: int) -> None:
    """Weights, FLOP of a later latent by torch's own count, and the bytes that it remembers and needs."""
    network, told = decoder(channels, patch), TinyConfig(channels, patch)
    assert sizes.weights(told) == pytest.approx(sum(value.numel() for value in network.state_dict().values()), rel=1e-3)
    counts = []
    for length in (2, 3):
        with FlopCounterMode(display=False) as counter:
            list(network.decode_stream([torch.zeros(1, channels, length, 4, 6)]))
        counts.append(counter.get_total_flops())
    pixels = 4 * 6 * (8 * patch) ** 2
    assert sizes.decoding(told).work * pixels == pytest.approx(counts[1] - counts[0], rel=0.01)
    with torch.device("meta"):
        latents, large = torch.zeros(1, channels, 2, 32, 48), TinyDecoder(TinyConfig(channels, patch))
    with Living() as living:
        for video in large.decode_stream([latents]):
            del video
    pixels = 32 * 48 * (8 * patch) ** 2
    frames = 2 * 3 * 4 * FLOAT32 * pixels  # of a latent, apart and together
    needed = FLOAT32 * sizes.decoding(told).tails * pixels + frames
    needed += sizes.decoding_buffers(told, pixels, FLOAT32, gpu=False)
    assert living.most == pytest.approx(needed, rel=0.05)


@torch.inference_mode()
def test_pieces_make_no_difference() -> None:
    network, latents = decoder(16, 1), torch.randn(2, 16, 4, 2, 3)
    whole = list(network.decode_stream([latents]))
    assert [video.shape[2] for video in whole] == [1, 4, 4, 4]
    pieces = list(network.decode_stream(latents.split(3, 2)))
    assert all(torch.equal(one, same) for one, same in zip(whole, pieces, strict=True))
    assert {key.shape for key in network.decode_stream([latents], keys=True)} == {whole[0].shape}


@pytest.mark.parametrize(("name", "channels", "patch"), CASES)
def test_published_files_are_read_without_their_encoder(tmp_path: Path, name: str, channels: int, patch: int) -> None:
    path = wan_folders.write_tiny(tmp_path / f"{name}.safetensors", channels, patch)
    network = loading.load_tiny(path, CPU, torch.float32)
    assert network.config == TinyConfig(channels, patch)
    tensors = load_file(path)
    for key, value in network.state_dict().items():
        assert torch.equal(value, tensors[key].float())


def test_other_files_are_refused_in_a_line(tmp_path: Path) -> None:
    path = wan_folders.write_tiny(tmp_path / "a.safetensors", 16, 1)
    tensors = load_file(path)
    wrong = {
        "for a different network": tensors | {"decoder.23.weight": torch.zeros(1)},
        "lacks": {key: value for key, value in tensors.items() if key != "decoder.5.conv.2.bias"},
        "is not a Wan tiny decoder": {key: value for key, value in tensors.items() if key.startswith("encoder")},
        "needs 64x128x3x3": tensors | {"decoder.15.conv.0.weight": torch.zeros(64, 64, 3, 3)},
    }
    for said, changed in wrong.items():
        save_file(changed, path)
        with pytest.raises(SoraError, match=said) as caught:
            loading.load_tiny(path, CPU, torch.float32)
        assert "\n" not in str(caught.value)


def test_every_model_has_the_one_of_its_latents() -> None:
    known = {name: config for name, (config, _) in loading.TINY.presets.items()}
    for entry in registry.registry().values():
        if entry.kind != "wan":
            continue
        part = entry.tiny
        assert part and part.role == registry.TINY and entry.whole.parts == (*entry.parts, part)
        config = known[part.names[0].removesuffix(".safetensors")]
        assert entry.network and (config.channels, config.stride) == (entry.network.vae.channels, entry.cell)
        assert registry.registry()[part.names[0].removesuffix(".safetensors")].licence == "MIT"
    assert registry.entry("pocket").tiny is None and needed("encoder.1.bias") is None
