"""The native text tower against open_clip's, the tokenizer, and prompt expansion."""

import json
import random
from dataclasses import asdict

import pytest
import torch

from sora_cli.models.sora.text import TextConfig, TextTower, Tokenizer, from_weights, text_weights, words
from sora_cli.prompts.grammar import expand
from sora_cli.train.recipes.clip import CONTEXT
from sora_cli.world.captions import dense, sparse
from sora_cli.world.captions import words as known_words
from sora_cli.world.scene import sample_scene

VOCABULARY = ["a", "cat", "surfing", "ocean", "in", "the"]
CONFIG = TextConfig(vocab_size=len(VOCABULARY) + 4, context=12, width=32, heads=4, layers=2, embed_dim=24)
TEXTS = ["A cat, surfing in the ocean!", "", "a zeppelin", "a cat " * 9]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCABULARY, CONFIG.context)


def test_native_tower_equals_open_clip(tokenizer: Tokenizer) -> None:
    from open_clip.transformer import TextTransformer

    torch.manual_seed(0)
    theirs = TextTransformer(context_length=CONFIG.context, vocab_size=CONFIG.vocab_size, width=CONFIG.width,
                             heads=CONFIG.heads, layers=CONFIG.layers, output_dim=CONFIG.embed_dim,
                             output_tokens=True).eval()  # fmt: skip
    ours = TextTower(CONFIG)
    ours.load_state_dict(text_weights(theirs), strict=True)
    tokens = tokenizer.encode(TEXTS)
    with torch.no_grad():
        features, (pooled, _) = ours(tokens), theirs(tokens)
        hidden = theirs.transformer(theirs.token_embedding(tokens) + theirs.positional_embedding,
                                    attn_mask=theirs.attn_mask)  # fmt: skip
    pooled = pooled / pooled.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(features.pooled, pooled, atol=1e-5, rtol=1e-5)
    expected = theirs.ln_final(hidden) * features.mask[..., None]
    torch.testing.assert_close(features.tokens, expected, atol=1e-5, rtol=1e-5)


def test_features_behind_the_end_are_zero_and_do_not_matter(tokenizer: Tokenizer) -> None:
    tower = TextTower(CONFIG).eval()
    tokens = tokenizer.encode(["a cat"])
    dirty = tokens.clone()
    dirty[0, 4:] = 3                                                 # start a cat end | anything
    assert tower(tokens).mask.sum() == 4
    assert not tower(tokens).tokens[0, 4:].any()
    torch.testing.assert_close(tower(tokens).pooled, tower(dirty).pooled)


def test_tokenizer_numbers(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(TEXTS[:3]).tolist() == [
        [1, 3, 4, 5, 7, 8, 6, 9, 0, 0, 0, 0],
        [1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 3, 2, 9, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert tokenizer.encode(TEXTS[3:])[0, -1] == tokenizer.end == tokenizer.vocab_size - 1


def test_unknown_words_once_and_in_order(tokenizer: Tokenizer) -> None:
    assert tokenizer.oov_words("The zebra's cat in the ZEBRA'S Ångström café") == ["zebras", "ångström", "café"]
    assert words("It's — 2 cats; a_b") == ["its", "2", "cats", "a", "b"]


def test_weights_describe_themselves(tokenizer: Tokenizer) -> None:
    tower = TextTower(CONFIG)
    metadata = {"config": json.dumps(asdict(CONFIG)), "vocabulary": json.dumps(VOCABULARY)}
    again, loaded = from_weights(text_weights(tower), metadata)
    tokens = again.encode(TEXTS)
    torch.testing.assert_close(loaded(tokens).tokens, tower(tokens).tokens)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_config_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="32 is not a multiple of 5"):
        TextConfig(10, 12, 32, 5, 2, 24)


def test_expansion_keeps_what_is_said_and_fills_the_rest() -> None:
    found = expand("Two tiny puppies dancing slowly at night, camera zooming in")
    assert found.caption == "a small dog dancing slow, city at night, camera zoom in, middle, low, beat one"
    assert expand("a cat surfing").caption == "a large cat surfing normal, ocean, camera still, middle, low, beat one"
    assert expand("a rocket").scene.place == "space"
    assert (found.unknown, found.left_out) == ([], [])


def test_expansion_names_what_it_cannot_show() -> None:
    found = expand("a walrus, a WALRUS in the snow")
    assert found.unknown == ["walrus"]
    assert (found.scene.place, found.scene.subject) == ("snow", "penguin")      # who lives there stands in
    assert expand("a cat and a dog and a horse").left_out == ["horse"]


def test_every_caption_fits_the_context_in_known_words() -> None:
    rng = random.Random(0)
    tokenizer = Tokenizer(known_words(), CONTEXT)
    scenes = [sample_scene(rng, "train") for _ in range(300)]
    captions = [text for scene in scenes for text in (dense(scene), sparse(scene, rng))]
    assert [tokenizer.oov_words(caption) for caption in captions] == [[]] * len(captions)
    assert max(len(words(caption)) for caption in captions) <= CONTEXT - 2


@pytest.mark.parametrize("seed", range(20))
def test_expanding_a_dense_caption_changes_nothing(seed: int) -> None:
    scene = sample_scene(random.Random(seed), "held-out")
    assert all(expand(dense(scene), other).caption == dense(scene) for other in range(4))
