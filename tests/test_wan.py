"""The Wan networks and solvers against stored answers of diffusers and transformers (see tests/parity), and against
the names and shapes of the published checkpoints."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from wan_cases import (
    SKYREELS,
    START,
    UMT5,
    VAE21,
    VAE22,
    WAN,
    clip,
    distance,
    dit_inputs,
    fill,
    latents,
    network,
    scaled,
    tokens,
)  # fmt: skip
from wan_folders import write_tokenizer

from sora_cli.errors import SoraError
from sora_cli.models import attention
from sora_cli.models.sora.patches import Grid, layout
from sora_cli.models.sora.patches import attend as segments
from sora_cli.models.wan.configs import Umt5Config, WanConfig, WanVaeConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.text import Umt5, Umt5Tokenizer, clean, padded
from sora_cli.models.wan.tiles import Tiling, blended
from sora_cli.models.wan.vae import Stream, WanVae
from sora_cli.sampling.solvers import (
    DMD,
    dmd,
    euler,
    euler_sigmas,
    levels_of,
    timesteps,
    trained_level,
    unipc,
    unipc_sigmas,
)

DATA = Path(__file__).parent / "data"
GOLDEN = load_file(DATA / "wan_golden.safetensors")
CHECKPOINTS: dict[str, Any] = json.loads((DATA / "wan_keys.json").read_text())


# -- Published checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_published_weights_fit(name: str) -> None:
    """Same names and shapes, at the real sizes; nothing is allocated."""
    known = CHECKPOINTS[name]
    with torch.device("meta"):
        network = {"dit": dit, "vae": vae, "text": text}[known["kind"]](known["config"])
    shapes = {key: "x".join(map(str, value.shape)) for key, value in network.state_dict().items()}
    assert shapes == dict(spread(known["keys"], known["repeats"]))


def spread(keys: dict[str, str], repeats: int) -> list[tuple[str, str]]:
    """One entry for every one of the blocks, which are stored once, as block *."""
    times = {key: repeats if "*" in key else 1 for key in keys}
    return [(key.replace("*", str(i)), shape) for key, shape in keys.items() for i in range(times[key])]


def dit(config: dict[str, Any]) -> nn.Module:
    return WanDit(WanConfig.from_hub(config))


def vae(config: dict[str, Any]) -> nn.Module:
    return WanVae(WanVaeConfig.from_hub(config))


def text(config: dict[str, Any]) -> nn.Module:
    return Umt5(Umt5Config.from_hub(config))


@pytest.mark.parametrize("strange", [{"image_dim": 1280}, {"patch_size": [2, 2, 2]}, {"qk_norm": None}])
def test_other_transformers_are_refused(strange: dict[str, Any]) -> None:
    with pytest.raises(SoraError, match=next(iter(strange))):
        WanConfig.from_hub(WAN | strange)


# -- Stored answers ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_transformer_answers_like_the_reference() -> None:
    x, t, words = dit_inputs().values()
    network = fill(dit(WAN))
    assert distance(network(x, t, words), GOLDEN["wan"]) <= 1e-5
    assert distance(network(x, t[..., None, None].expand(-1, -1, 3, 5), words), GOLDEN["wan"]) <= 1e-5
    assert distance(network(x, t + 1, words), GOLDEN["wan"]) > 1e-3
    assert distance(fill(dit(SKYREELS))(x[:1], t[:1], words[:1], 24), GOLDEN["skyreels"]) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("queries", [1, 3, 16])
def test_attention_in_parts_is_the_whole(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a device makes all scores, as the CPU is made to here, it is given some queries at a time."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, count, 3, 4, generator=rng).transpose(1, 2) for count in (16, 9, 9))
    hidden = torch.randn(2, 1, 16, 9, generator=rng).where(torch.arange(9) < 7, -torch.inf)
    biases = [None, hidden, hidden[:, :, :1], hidden.expand(-1, 3, -1, -1)]
    wholes = [attention.attend(q, k, v, bias) for bias in biases]
    exact = (q.double() @ k.double().mT / 2 + hidden).softmax(-1) @ v.double()
    seen = listened(monkeypatch)
    monkeypatch.setattr(attention, "UNFUSED", ("cpu",))
    monkeypatch.setattr(attention, "SCORES", queries * 2 * 2 * 3 * 9 * 4)
    for bias, whole in zip(biases, wholes, strict=True):
        seen.clear()
        assert distance(attention.attend(q, k, v, bias), whole) <= 1e-6
        assert max(seen) == queries and sum(seen) == 16
    assert distance(attention.attend(q, k, v, hidden).double(), exact) <= 1e-6


@pytest.mark.parametrize(("kernel", "parts"), [(SDPBackend.MATH, 16), (SDPBackend.FLASH_ATTENTION, 1),
                                               (SDPBackend.EFFICIENT_ATTENTION, 1)])  # fmt: skip
def test_a_fused_kernel_is_given_everything(
    kernel: SDPBackend, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """An old card has none for bfloat16, say; and where gradients are kept, nothing is gained by parts."""
    q = torch.randn(1, 1, 16, 8, generator=torch.Generator().manual_seed(0))
    seen = listened(monkeypatch)
    monkeypatch.setattr(attention, "SCORES", 1)
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *words: kernel.value)
    with torch.no_grad():
        attention.attend(q, q, q)
    assert len(seen) == parts
    attention.attend(q.requires_grad_(), q, q).sum().backward()
    assert len(seen) == parts + 1


@torch.no_grad()
def test_our_own_attention_comes_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    where = layout((Grid(3, 8, 8),), 4, torch.device("cpu"))
    q, k, v = (torch.randn(where.tokens, 2, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
    bias = where.temporal[0].each(torch.randn(1, 2, 3, 3))
    whole = segments(q, k, v, where.spatial)
    seen = listened(monkeypatch)
    monkeypatch.setattr(attention, "UNFUSED", ("cpu",))
    monkeypatch.setattr(attention, "SCORES", 2 * 3 * 2 * 68 * 4 * 5)  # five queries of 68 tokens in three frames
    assert distance(segments(q, k, v, where.spatial), whole) <= 1e-6 and max(seen) == 5
    patches = [x[where.patches] for x in (q, k, v)]
    parted = segments(*patches, where.temporal, [bias])
    monkeypatch.setattr(attention, "SCORES", 1 << 30)
    assert distance(parted, segments(*patches, where.temporal, [bias])) <= 1e-6


def listened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries torch is given at a time."""
    seen, kernel = list[int](), F.scaled_dot_product_attention

    def heard(q: Tensor, *known: Any, **how: Any) -> Tensor:
        seen.append(q.shape[2])
        return kernel(q, *known, **how)

    monkeypatch.setattr(F, kernel.__name__, heard)
    return seen


def test_latents_that_make_no_whole_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="5x6 cells"):
        dit(WAN)(torch.zeros(1, 4, 1, 6, 5), torch.zeros(1, 1), torch.zeros(1, 1, WAN["text_dim"]))


@torch.no_grad()
def test_one_timestep_a_clip_is_the_same_for_every_frame() -> None:
    x, _, words = dit_inputs().values()
    network, t = fill(dit(WAN)), torch.tensor([[700], [3]])
    assert distance(network(x, t, words), network(x, t.expand(-1, 3), words)) <= 1e-5


@torch.no_grad()
def test_the_text_encoder_answers_like_the_reference() -> None:
    assert distance(fill(text(UMT5))(tokens(40)), GOLDEN["umt5"]) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("name", "config"), [("vae21", VAE21), ("vae22", VAE22)])
def test_the_autoencoder_answers_like_the_reference(name: str, config: dict[str, Any]) -> None:
    network = fill(vae(config))
    assert distance(network.encode(clip(5)), GOLDEN[f"{name}.encode"]) <= 1e-5
    found = network.decode(latents(config["z_dim"], 2))
    assert distance(found[..., ::4, ::4], GOLDEN[f"{name}.decode"]) <= 1e-5


def test_the_solvers_walk_like_the_reference() -> None:
    sigmas = unipc_sigmas(6, 5.0)
    found = list(unipc(lambda x, sigma: network(x, timesteps(sigma)), START, sigmas))
    assert distance(torch.stack(found), GOLDEN["unipc"]) <= 1e-6
    assert distance(torch.stack(list(euler(scaled, START, euler_sigmas(6, 3.0)))), GOLDEN["euler"]) <= 1e-6


# -- Solvers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_straight_flow_is_solved_exactly(steps: int) -> None:
    """Where the data is one point the velocity is (x - data) / sigma, and every solver ends at the data."""
    data = torch.linspace(-2, 2, START.numel()).reshape(START.shape)
    flow = lambda x, sigma: (x - data) / float(sigma)
    *_, end = unipc(flow, START, unipc_sigmas(steps, 5.0))
    assert distance(end, data) <= 1e-5
    looked_up = lambda x, sigma: flow(x, trained_level(round(float(sigma) * 1000)))
    assert distance([*dmd(looked_up, START, torch.Generator().manual_seed(0))][-1], data) <= 1e-5


def test_dmd_noises_afresh_between_its_three_jumps() -> None:
    told = []

    def flow(x: Tensor, sigma: Tensor) -> Tensor:  # the data is nothing, so that only the noise is left
        told.append(int(timesteps(sigma)))
        return x / trained_level(told[-1])

    first, second, last = dmd(flow, START, torch.Generator().manual_seed(5))
    assert told == list(DMD)
    rng = torch.Generator().manual_seed(5)
    for found, t in ((first, DMD[1]), (second, DMD[2])):
        assert distance(found, t / 1000 * torch.randn(START.shape, generator=rng)) <= 3e-3
    assert distance(last, torch.zeros_like(last)) <= 1e-6


def test_no_steps_are_refused() -> None:
    with pytest.raises(SoraError, match="at least one step"):
        levels_of("unipc", 0, 3.0)


# -- Text -------------------------------------------------------------------------------------------------


def test_prompts_are_cleaned() -> None:
    assert clean("  a cat\n\t&amp;amp; a   dog&#39;s ‘ball’ cafÃ© ") == "a cat & a dog's 'ball' café"


def test_the_tokenizer_ends_every_text_and_cuts_it(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(word_tokenizer(["<pad>", "</s>", "<unk>", "a", "cat", "surfing"])))
    tokenizer = Umt5Tokenizer(file, context=4)
    assert tokenizer.encode(" a  cat").tolist() == [3, 4, 1]
    assert tokenizer.encode("a cat surfing a cat").tolist() == [3, 4, 5, 1]
    with pytest.raises(SoraError, match=r"tokenizer\.json"):
        Umt5Tokenizer(tmp_path / "nothing")


def test_what_lies_behind_the_context_is_told(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Umt5Tokenizer(tmp_path / "tokenizer.json")
    text = "xyz vbk " * 60
    assert tokenizer.unread(text) == "" and len(tokenizer.encode(text)) < 512
    for more in ("the end", "the end, and the rest of it " * 9):
        unread, read = tokenizer.unread(text * 3 + more), tokenizer.encode(text * 3)
        assert unread and clean(text * 3 + more).endswith(unread) and len(read) == 512
        kept = clean(text * 3 + more).removesuffix(unread)
        assert tokenizer.encode(kept).tolist() == read.tolist() and tokenizer.unread(kept) == ""


def word_tokenizer(words: list[str]) -> dict[str, Any]:
    """A tokenizer.json of whole words that appends the end-of-text token, as UMT5's does."""
    end = {"id": "</s>", "ids": [1], "tokens": ["</s>"]}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0", "truncation": None, "padding": {"strategy": "BatchLongest", "direction": "Right",
        "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "decoder": None,
        "post_processor": {"type": "TemplateProcessing", "special_tokens": {"</s>": end},
                           "single": [first, {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [first, second]},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }  # fmt: skip


def test_text_is_padded_with_zeros() -> None:
    found = padded(torch.ones(3, 2), context=5)
    assert found.tolist() == [[[1, 1], [1, 1], [1, 1], [0, 0], [0, 0]]]
    with pytest.raises(ValueError, match="6 tokens"):
        padded(torch.ones(6, 2), context=5)


# -- Streams ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("config", [VAE21, VAE22])
@pytest.mark.parametrize("cuts", [[13], [1, 12], [5, 4, 4], [1, 4, 8]])
def test_chunks_of_any_length_encode_to_the_same(config: dict[str, Any], cuts: list[int]) -> None:
    network = fill(vae(config))
    found = torch.cat(list(network.encode_stream(clip(13).split(cuts, 2))), 2)
    assert found.shape[2] == 4
    assert distance(found, network.encode(clip(13))) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("config", [VAE21, VAE22])
@pytest.mark.parametrize("cuts", [[4], [1, 3], [2, 1, 1]])
def test_chunks_of_any_length_decode_to_the_same(config: dict[str, Any], cuts: list[int]) -> None:
    network = fill(vae(config))
    z = latents(config["z_dim"], 4)
    pieces = list(network.decode_stream(z.split(cuts, 2)))
    assert [piece.shape[2] for piece in pieces] == [4 * cut - 3 * (i == 0) for i, cut in enumerate(cuts)]
    assert distance(torch.cat(pieces, 2), network.decode(z)) <= 1e-5


@torch.no_grad()
def test_a_stream_is_lazy_and_remembers_two_frames_a_layer() -> None:
    network, taken = fill(vae(VAE21)), []

    def latents_one_by_one() -> Any:
        for i, piece in enumerate(latents(4, 6).split(1, 2)):
            taken.append(i)
            yield piece

    frames = network.decode_stream(latents_one_by_one())
    next(frames)
    assert taken == [0]
    stream = Stream()
    for piece in latents(4, 6).split(1, 2):
        network.decode_chunk(piece, stream)
    assert {len(tail) for tail in stream.tails.values()} == {2}
    assert all(x.untyped_storage().nbytes() == x.nbytes for tail in stream.tails.values() for x in tail)


# -- Tiles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cells", "expected"), [(3, [0]), (4, [0]), (5, [0, 1]), (7, [0, 3]), (10, [0, 3, 6])])
def test_tiles_cover_everything_and_overlap(cells: int, expected: list[int]) -> None:
    assert Tiling(4, 1).starts(cells) == expected


@torch.no_grad()
def test_idle_tiles_remember_in_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a tile is at work, its stream alone was moved to the device last."""
    network, where = fill(vae(VAE21)), {}
    monkeypatch.setattr(Stream, "move", lambda stream, device: where.__setitem__(id(stream), str(device)))
    decode = network.decode_chunk

    def watched(z: Tensor, stream: Stream) -> Tensor:
        there = [place for place, device in where.items() if device != "cpu"]
        assert there in ([], [id(stream)])
        return decode(z, stream)

    monkeypatch.setattr(network, "decode_chunk", watched)
    z = latents(VAE21["z_dim"], 3).to("cpu")
    moved = list(network.decode_stream(z.split(1, 2), Tiling(2, 1)))
    assert len(moved) == 3 and len(where) > 1
    where.clear()
    stayed = list(network.decode_stream(z.split(1, 2), Tiling(2, 1, away=False)))
    assert not where and all(map(torch.equal, moved, stayed)), "with room for all, nothing has to move"


def test_what_is_remembered_moves() -> None:
    stream, layer = Stream(), nn.Identity()
    for _ in range(3):
        stream.after(layer, torch.ones(1, 2, 4, 4), 2)
    stream.move("meta")
    assert [tail.device.type for tail in stream.tails[layer]] == ["meta", "meta"]


def test_what_does_not_mix_cells_is_the_same_in_tiles() -> None:
    x = torch.randn(2, 3, 9 * 2, 7 * 2)
    seen = []

    def enlarge(place: tuple[int, int], tile: Tensor) -> Tensor:
        seen.append(tuple(tile.shape[-2:]))
        return F.interpolate(tile, scale_factor=2) ** 2

    assert distance(blended(enlarge, x, Tiling(4, 2), unit=2), F.interpolate(x, scale_factor=2) ** 2) <= 1e-5
    assert seen == [(8, 8)] * 12
    with pytest.raises(ValueError, match="share 4"):
        Tiling(4, 4)


@torch.no_grad()
@pytest.mark.parametrize("config", [VAE21, VAE22])
def test_tiles_of_a_video_are_streams_of_their_own(config: dict[str, Any]) -> None:
    """Beyond the overlap a tiled video is that of the tile alone, in all its chunks."""
    network, tiling = fill(vae(config)), Tiling(4, 2)
    z = torch.randn(1, config["z_dim"], 3, 2, 6, generator=torch.Generator().manual_seed(0))
    found, side = network.decode(z, tiling), 2 * network.config.stride
    assert distance(found[..., :side], network.decode(z[..., :4])[..., :side]) <= 1e-5
    assert distance(found[..., -side:], network.decode(z[..., 2:])[..., -side:]) <= 1e-5
    again, alone = network.encode(found, tiling), network.encode(found[..., : 2 * side])
    assert distance(again[..., :2], alone[..., :2]) <= 1e-5
    assert again.shape == z.shape


def test_frames_that_make_no_whole_latent_are_refused() -> None:
    with pytest.raises(ValueError, match="6 frames"):
        vae(VAE21).encode(clip(5)[:, :, [0, 0, 1, 2, 3, 4]])
    with pytest.raises(ValueError, match="40x32 are not whole"):
        vae(VAE22).encode(clip(5)[..., :40])


def test_this_test_can_fail() -> None:
    assert re.fullmatch(r"\d+(x\d+)*", next(iter(CHECKPOINTS.values()))["keys"]["proj_out.bias"])
    assert all(isinstance(value, Tensor) and value.abs().max() > 0.1 for value in GOLDEN.values())
