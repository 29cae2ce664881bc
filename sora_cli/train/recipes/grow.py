"""Smaller weights inside a larger network, which then begins by computing what the smaller one did.

Every tensor of the smaller network goes into the larger one's, by an index along each axis. What is new reads nothing
yet (its columns are zero) but already writes (its rows are drawn), so that it learns from the first step on; new
attention heads and hidden units write nothing yet (Net2Net, Chen et al. 2016). A norm over more features divides by
less, so its gain is smaller by the root of their ratio.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sora_cli.models.sora.dit import Dit, config_from, hidden_width, renamed
from sora_cli.models.sora.patches import PATCH
from sora_cli.models.sora.vae import Vae, VaeConfig

Positions = Sequence[Tensor | None]  # for each axis of a tensor, where the smaller one's entries go; None: first


def blocks(numbers: Tensor, old: int, new: int) -> Tensor:
    """Indices [N * old] of the first `old` entries in each of the blocks with these numbers [N], of `new` entries."""
    assert old <= new, f"{old} entries do not fit into {new}"
    return (numbers[:, None] * new + torch.arange(old)).flatten()


def channels_of(old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Where latent channels go: the space part grows at its end, the time part at its own."""
    return torch.cat([torch.arange(old[0]), new[0] + torch.arange(old[1])])


def copy_into(new: Tensor, old: Tensor, positions: Positions | None) -> Tensor:
    """`old` at its positions in a copy of `new`, by default before all that is new."""
    index = [torch.arange(n) if position is None else position
             for n, position in zip(old.shape, positions or [None] * old.ndim, strict=True)]  # fmt: skip
    whole = new.clone()
    whole[torch.meshgrid(*index, indexing="ij")] = old.to(new)
    return whole


# Matrices whose columns are features of the residual stream, hidden units or heads: new ones start unread
READING = ("qkv.", "out.", "into.", "t_embedder.", "cfg_embedder.2")
PAINTED = ("decoder.up.", "decoder.wide.", "decoder.up2.", "decoder.tail.", "decoder.up3.", "decoder.to_pixels.")


@torch.no_grad()
def grow_vae(vae: Vae, old: Mapping[str, Tensor], was: VaeConfig) -> None:
    """Details beside the space latent's channels, and a painter that begins anew where sizes differ."""
    now, state = vae.config, vae.state_dict()
    taps = blocks(torch.arange(9), was.space, now.space)
    channels = channels_of((was.space, was.time), (now.space, now.time))
    special: dict[str, Positions] = {"decoder.stem.weight": (None, taps), "mean": (channels,), "std": (channels,)}
    if now.space != was.space:
        state["decoder.stem.weight"].zero_()
    for key, value in old.items():
        if key.startswith(PAINTED) and (key not in state or state[key].shape != value.shape):
            continue
        state[key] = copy_into(state[key], value, special.get(key))
    vae.load_state_dict(state, strict=True)


@torch.no_grad()
def grow_dit(dit: Dit, old: Mapping[str, Tensor], metadata: Mapping[str, str], parts: tuple[int, int]) -> None:
    """Wider, deeper, with more channels, from the tensors and the header of a smaller one. `parts`: space and time
    channels of the latents now; the time part has not changed.

    Blocks that are new stay as they were drawn: they write nothing at first."""
    was = config_from(metadata)
    now = dit.config
    patch = blocks(channels_of((was.channels - parts[1], parts[1]), parts), PATCH**2, PATCH**2)  # (C p q)
    masks = now.channels * PATCH**2 + torch.arange(2)
    hidden = hidden_width(was.width), hidden_width(now.width)
    qkv = blocks(torch.arange(3), was.width, now.width)
    special: dict[str, Positions] = {
        "patch_in.weight": (None, torch.cat([patch, masks])), "patch_out.weight": (patch, None),
        "patch_out.bias": (patch,), "qkv.weight": (qkv, None),
        "into.weight": (blocks(torch.arange(2), *hidden), None),
    }  # fmt: skip
    state = dit.state_dict()
    for key, value in renamed(old).items():
        positions = next((p for suffix, p in special.items() if key.endswith(suffix)), None)
        new = state[key]
        if value.ndim == 2 and any(part in key for part in READING):
            new = new.clone()
            new[:, value.shape[1] :] = 0
        if key.endswith("patch_in.weight"):
            new = torch.zeros_like(new)
        if key.endswith("norm.weight") and value.shape[0] == was.width:
            value = value * (was.width / now.width) ** 0.5
        state[key] = copy_into(new, value, positions)
    dit.load_state_dict(state, strict=True)
