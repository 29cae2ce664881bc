"""What the authors of Wan call the parameters that diffusers, and this package, call otherwise.

Repackaged single files keep the authors' names. A table has one row for a module: theirs, then ours, in which every
# is a number that both have; the parameter's own name (weight, bias, gamma) stays. Facts of the checkpoints, as
diffusers' conversion scripts have them.
"""

import re
from dataclasses import dataclass
from functools import cached_property

PREFIX = "model.diffusion_model."  # of files that were saved together with their sampler
VAE_PREFIX = "model."  # of some autoencoders


def bare(key: str) -> str:
    """A tensor's name without what some programs put before it."""
    return key.removeprefix(PREFIX).removeprefix(VAE_PREFIX)


@dataclass(frozen=True)
class Names:
    """Both directions of a table. A key that is in no row stays as it is, so that the network can refuse it."""

    rows: dict[str, str]

    @cached_property
    def to_ours(self) -> "Patterns":
        return patterns(self.rows)

    @cached_property
    def to_original(self) -> "Patterns":
        return patterns({ours: theirs for theirs, ours in self.rows.items()})

    def original_to_ours(self, key: str) -> str:
        return translated(bare(key), self.to_ours)

    def ours_to_original(self, key: str) -> str:
        return translated(key, self.to_original)


Patterns = list[tuple[re.Pattern[str], str]]  # of keys, and what to format with the numbers that were found


def patterns(rows: dict[str, str]) -> Patterns:
    sources = (re.escape(source).replace(r"\#", r"(\d+)") for source in rows)
    made = (re.compile(source + r"(\.(?:weight|bias|gamma))?") for source in sources)
    return list(zip(made, (target.replace("#", "{}") for target in rows.values()), strict=True))


def translated(key: str, table: Patterns) -> str:
    for pattern, target in table:
        if found := pattern.fullmatch(key):
            *numbers, leaf = found.groups(default="")
            return target.format(*numbers) + leaf
    return key


def under(theirs: str, ours: str, rows: dict[str, str]) -> dict[str, str]:
    """Rows of what is inside a module."""
    return {f"{theirs}.{source}": f"{ours}.{target}" for source, target in rows.items()}


# -- Transformers -----------------------------------------------------------------------------------------

ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
BLOCK = {
    **under("self_attn", "attn1", ATTENTION),
    **under("cross_attn", "attn2", ATTENTION),
    "norm3": "norm2",  # they count the norms by when they were written, diffusers by when they are met
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
DIT = Names(
    {
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "head.head": "proj_out",
        "head.modulation": "scale_shift_table",
        "fps_projection.0": "fps_projection.net.0.proj",  # SkyReels
        "fps_projection.2": "fps_projection.net.2",
        **under("blocks.#", "blocks.#", BLOCK),
    }
)

# -- Autoencoders -----------------------------------------------------------------------------------------

RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
RESAMPLE = {"resample.1": "resample.1", "time_conv": "time_conv"}
ATTEND = {"norm": "norm", "to_qkv": "to_qkv", "proj": "proj"}
ENDS = {
    "conv1": "conv_in",
    **under("middle.0", "mid_block.resnets.0", RESIDUAL),
    **under("middle.1", "mid_block.attentions.0", ATTEND),
    **under("middle.2", "mid_block.resnets.1", RESIDUAL),
    "head.0": "norm_out",
    "head.2": "conv_out",
}
BOTH = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    **under("encoder", "encoder", ENDS),
    **under("decoder", "decoder", ENDS),
}
STAGES = 4
RESIDUALS = 3  # residual blocks in a stage of a decoder; an encoder has one less


def flat_decoder() -> dict[str, str]:
    """Wan 2.1 counts the residual blocks of all stages and what enlarges between them in one line."""
    rows: dict[str, str] = {}
    for stage in range(STAGES):
        first, ours = stage * (RESIDUALS + 1), f"decoder.up_blocks.{stage}"
        for i in range(RESIDUALS):
            rows |= under(f"decoder.upsamples.{first + i}", f"{ours}.resnets.{i}", RESIDUAL)
        rows |= under(f"decoder.upsamples.{first + RESIDUALS}", f"{ours}.upsamplers.0", RESAMPLE)
    return rows


VAE21 = Names(
    {
        **BOTH,
        **under("encoder.downsamples.#", "encoder.down_blocks.#", RESIDUAL | RESAMPLE),
        **flat_decoder(),
    }
)
VAE22 = Names(
    {
        **BOTH,
        **under(f"encoder.downsamples.#.downsamples.{RESIDUALS - 1}", "encoder.down_blocks.#.downsampler", RESAMPLE),
        **under("encoder.downsamples.#.downsamples.#", "encoder.down_blocks.#.resnets.#", RESIDUAL),
        **under(f"decoder.upsamples.#.upsamples.{RESIDUALS}", "decoder.up_blocks.#.upsampler", RESAMPLE),
        **under("decoder.upsamples.#.upsamples.#", "decoder.up_blocks.#.resnets.#", RESIDUAL),
    }
)

# -- Text -------------------------------------------------------------------------------------------------

TABLE = "shared.weight"
TIED = "encoder.embed_tokens.weight"  # the same table, by another name
TOKENIZER = "spiece_model"  # bytes of a tokenizer that some files carry along
SELF, MLP = "layer.0.SelfAttention", "layer.1.DenseReluDense"
UMT5 = Names(
    {
        "token_embedding": "shared",  # the authors
        "norm": "encoder.final_layer_norm",
        **under("blocks.#", "encoder.block.#", {
            "norm1": "layer.0.layer_norm", "norm2": "layer.1.layer_norm",
            **{f"attn.{n}": f"{SELF}.{n}" for n in "qkvo"},
            "pos_embedding.embedding": f"{SELF}.relative_attention_bias",
            "ffn.gate.0": f"{MLP}.wi_0", "ffn.fc1": f"{MLP}.wi_1", "ffn.fc2": f"{MLP}.wo",
        }),
        "token_embd": "shared",  # llama.cpp
        "enc.output_norm": "encoder.final_layer_norm",
        **under("enc.blk.#", "encoder.block.#", {
            "attn_norm": "layer.0.layer_norm", "ffn_norm": "layer.1.layer_norm",
            **{f"attn_{n}": f"{SELF}.{n}" for n in "qkvo"}, "attn_rel_b": f"{SELF}.relative_attention_bias",
            "ffn_gate": f"{MLP}.wi_0", "ffn_up": f"{MLP}.wi_1", "ffn_down": f"{MLP}.wo",
        }),
    }
)  # fmt: skip


def text_to_ours(key: str, tied: bool) -> str | None:
    """UMT5's keys of any program as ours; None for one that is left out, as the second table of two `tied`."""
    if key == TOKENIZER or (key == TIED and tied):
        return None
    return TABLE if key == TIED else UMT5.original_to_ours(key)
