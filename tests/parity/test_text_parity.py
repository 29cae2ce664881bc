"""UMT5's encoder against transformers', in float32 on the CPU."""

from typing import Any

import pytest
import torch
from reference import read_as_published, reference
from wan_cases import UMT5, distance, fill, tokens, told

from sora_cli.models.wan.text import Umt5, padded
from sora_cli.pipelines.loading import load_text

pytestmark = pytest.mark.parity
UMT5EncoderModel = reference("transformers", "UMT5EncoderModel")
UMT5Config = reference("transformers", "UMT5Config")


def pair() -> tuple[Any, Umt5]:
    """The reference and ours with the same weights, through the reference's own files."""
    theirs = fill(UMT5EncoderModel(UMT5Config(**UMT5)))
    theirs.encoder.embed_tokens.weight = theirs.shared.weight  # one table under two names
    return theirs, read_as_published(theirs, load_text)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 7, 200])
def test_umt5_at_the_length_of_the_text(length: int) -> None:
    theirs, ours = pair()
    text = tokens(length)
    expected = theirs(text[None]).last_hidden_state[0]
    assert told(f"umt5, {length} tokens", distance(ours(text), expected)) <= 1e-5


@torch.no_grad()
def test_padding_and_mask_change_nothing() -> None:
    """The reference pipeline pads to 512 with a mask, then writes zeros over the padding."""
    theirs, ours = pair()
    text = torch.cat([tokens(7), torch.zeros(505, dtype=torch.long)])
    mask = (torch.arange(512) < 7)[None].long()
    expected = theirs(text[None], mask).last_hidden_state * mask[..., None]
    assert told("umt5, padded", distance(padded(ours(tokens(7))), expected)) <= 1e-5


@torch.no_grad()
def test_bfloat16_differs_by_its_rounding() -> None:
    theirs, ours = pair()
    exact, rounded = ours(tokens(40)), ours.to(torch.bfloat16)(tokens(40))
    assert rounded.dtype == torch.bfloat16
    assert told("umt5, bfloat16", distance(rounded.float(), exact) / float(exact.abs().max())) <= 5e-2
