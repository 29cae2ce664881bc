"""Packed numbers: unpacked as diffusers does it in torch, to the bit."""

import sys
from pathlib import Path

import pytest
import torch
from reference import reference

from sora_cli.files import blocks, headers

sys.path.append(str(Path(__file__).parent.parent.parent / "benchmarks"))
from random_weights import Random, drawn

pytestmark = pytest.mark.parity
gguf = pytest.importorskip("gguf")
THEIRS = reference("diffusers.quantizers.gguf.utils", "dequantize_functions")


def test_every_type_of_theirs_is_read() -> None:
    assert {kind.name for kind in THEIRS} - {"BF16"} == headers.PACKED.keys()


@pytest.mark.parametrize("kind", headers.PACKED)
def test_blocks_are_unpacked_alike(kind: str) -> None:
    numbers, size = headers.PACKED[kind]
    raw = torch.cat(list(drawn(Random("weight", (64, 1024), kind), torch.Generator().manual_seed(0)))).view(-1, size)
    due = THEIRS[gguf.GGMLQuantizationType[kind]](raw, numbers, size, dtype=torch.float32)
    assert torch.equal(blocks.unpacked(kind, raw), due.reshape(len(raw), numbers))
