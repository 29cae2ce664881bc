"""The rendered training world: a closed, captioned world of sprites in animated places. No torch here."""

from sora_cli.world.captions import Parsed, dense, parse, sparse, tokens, words
from sora_cli.world.scene import HELD_OUT, Scene, Split, sample_scene

__all__ = ["HELD_OUT", "Parsed", "Scene", "Split", "dense", "parse", "sample_scene", "sparse", "tokens", "words"]
