"""The sizes of Wan's networks, as a published config.json has them, or a table of weights.toml. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_args, get_type_hints

from sora_cli.errors import SoraError

PATCH = 2  # latent cells along each side of a transformer's token; one latent frame deep
CHUNK = 4  # frames of a latent, after the first
CONTEXT = 512  # tokens of a text that Wan was trained with
LEAST = 1e-6  # of a deviation that latents are divided by; published ones are around 1
WIDTHS = (256, 128, 64, 64)  # features of a tiny decoder's three stages and behind the last; each doubles the size
GROWTH = (1, 2, 2)  # frames that each of these stages makes of one
MOST_LAYERS, MOST = 1000, 1_000_000  # that a stranger's configuration may ask for, and any number of it
EPS = 1e-6  # of the norms of all published networks

C = TypeVar("C")


@dataclass(frozen=True)
class WanConfig:
    """Sizes of the transformer."""

    inputs: int  # channels of a latent, and of what is given beside it
    outputs: int  # channels of a latent
    heads: int
    head_width: int
    layers: int
    hidden: int  # features inside the MLP
    text_width: int
    waves: int  # sinusoids of a timestep's embedding
    eps: float
    paced: bool  # whether the frame rate is an input

    def __post_init__(self) -> None:
        if self.head_width % 2 or self.waves % 2:
            raise ValueError(f"head width {self.head_width} and waves {self.waves} must be even: they come in pairs")

    @property
    def width(self) -> int:
        return self.heads * self.head_width

    @classmethod
    def from_hub(cls, config: Mapping[str, Any]) -> "WanConfig":
        """From a checkpoint's config.json; what this network does not have is refused with a SoraError."""
        demanded = {"patch_size": [1, PATCH, PATCH], "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads"}
        refused = {"image_dim": None, "added_kv_proj_dim": None, "pos_embed_seq_len": None}
        for key, right in (demanded | refused).items():
            there = config.get(key, right)
            if (list(there) if isinstance(there, tuple) else there) != right:
                raise SoraError(f"this Wan transformer is not supported: {key} is {there}, but must be {right}")
        return cls(
            **said(cls, config),
            outputs=config["out_channels"] or config["in_channels"],
            paced=config.get("inject_sample_info", False),
        )

    @classmethod
    def from_table(
        cls, channels: int, width: int, heads: int, hidden: int, layers: int, paced: bool = False,
        text_width: int = 4096, waves: int = 256, given: int = 0,
    ) -> "WanConfig":  # fmt: skip
        """From a table of weights.toml; `given`: channels of its input beside the latent."""
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        head_width = width // heads
        return cls(channels + given, channels, heads, head_width, layers, hidden, text_width, waves, EPS, paced)


@dataclass(frozen=True)
class WanVaeConfig:
    """Sizes of the autoencoder."""

    channels: int  # of a latent
    width: int  # features of the encoder's first stage
    decoder_width: int  # and of the decoder's last
    multiples: tuple[int, ...]  # of that width, one a stage; every stage but the last halves the size
    blocks: int  # residual blocks a stage
    halves_time: tuple[bool, ...]  # which of those stages halve the number of frames too
    residual: bool  # averages are carried around the stages
    patch: int  # pixels along each side that are folded into channels first
    mean: tuple[float, ...]  # of a latent's channels
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.halves_time) != len(self.multiples) - 1 or 2 ** sum(self.halves_time) != CHUNK:
            raise ValueError(f"{len(self.multiples)} stages do not halve time to {CHUNK} frames: {self.halves_time}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations for {self.channels} channels")
        if min(self.std) < LEAST:
            raise ValueError(f"a deviation of the latents is {min(self.std):g}; it must be at least {LEAST:g}")

    @property
    def stride(self) -> int:
        """Pixels along each side of a latent cell."""
        return self.patch * 2 ** len(self.halves_time)

    @property
    def tiny(self) -> "TinyConfig":
        return TinyConfig(self.channels, self.patch)

    @classmethod
    def from_hub(cls, config: Mapping[str, Any]) -> "WanVaeConfig":
        """From a checkpoint's config.json; what this network does not have is refused with a SoraError."""
        if config.get("attn_scales"):
            raise SoraError(f"this Wan autoencoder is not supported: attn_scales is {config['attn_scales']}")
        return cls(
            **said(cls, config),
            decoder_width=config.get("decoder_base_dim") or config["base_dim"],
            residual=config.get("is_residual", False),
            patch=config.get("patch_size") or 1,
        )

    @classmethod
    def from_table(
        cls, channels: int, width: int, decoder_width: int, patch: int = 1, residual: bool = False,
        multiples: Sequence[int] = (1, 2, 4, 4), blocks: int = 2, halves_time: Sequence[bool] = (False, True, True),
    ) -> "WanVaeConfig":  # fmt: skip
        """Latents are as if they were normalised: a table says nothing of their mean and deviation."""
        return cls(channels, width, decoder_width, tuple(multiples), blocks, tuple(halves_time), residual, patch,
                   mean=(0.0,) * channels, std=(1.0,) * channels)  # fmt: skip


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of a tiny decoder of an autoencoder's latents."""

    channels: int  # of a latent
    patch: int  # pixels along each side that the last layer makes of a cell

    @property
    def stride(self) -> int:
        """Pixels along each side of a latent cell."""
        return self.patch * 2 ** len(GROWTH)


@dataclass(frozen=True)
class Umt5Config:
    """Sizes of the text encoder."""

    vocabulary: int
    width: int
    heads: int
    hidden: int  # features inside the MLP
    layers: int
    head_width: int = 64
    buckets: int = 32  # of relative positions
    reach: int = 128  # tokens from which on distances share the last bucket
    eps: float = EPS

    def __post_init__(self) -> None:
        if self.buckets % 4 or self.reach <= self.buckets // 4:
            raise ValueError(f"{self.buckets} buckets must be a multiple of 4 below 4 times reach {self.reach}")

    @classmethod
    def from_hub(cls, config: Mapping[str, Any]) -> "Umt5Config":
        """From a checkpoint's config.json; another kind of text encoder is refused with a SoraError."""
        for key, right in {"model_type": "umt5", "feed_forward_proj": "gated-gelu"}.items():
            if config.get(key, right) != right:
                raise SoraError(f"this text encoder is not supported: {key} is {config[key]}, but must be {right}")
        return cls(**said(cls, config))


PUBLISHED: dict[type, dict[str, str]] = {  # our names of sizes, and those of a published config.json
    WanConfig: {
        "inputs": "in_channels", "heads": "num_attention_heads", "head_width": "attention_head_dim",
        "layers": "num_layers", "hidden": "ffn_dim", "text_width": "text_dim", "waves": "freq_dim", "eps": "eps",
    },
    WanVaeConfig: {
        "channels": "z_dim", "width": "base_dim", "multiples": "dim_mult", "blocks": "num_res_blocks",
        "halves_time": "temperal_downsample", "mean": "latents_mean", "std": "latents_std",
    },
    Umt5Config: {
        "vocabulary": "vocab_size", "width": "d_model", "heads": "num_heads", "head_width": "d_kv", "hidden": "d_ff",
        "layers": "num_layers", "buckets": "relative_attention_num_buckets",
        "reach": "relative_attention_max_distance", "eps": "layer_norm_epsilon",
    },
}  # fmt: skip
LISTS = ("multiples", "halves_time", "mean", "std")


def said(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json has to say of a network, by our names; KeyError for what it does not."""
    found = {ours: config[theirs] for ours, theirs in PUBLISHED[kind].items()}
    return found | {name: tuple(found[name]) for name in LISTS if name in found}


def checked(config: C) -> C:
    """A configuration, every value of the type and size that it has to be of; ValueError naming one that is not."""
    hints = get_type_hints(type(config))
    for field in fields(config):  # type: ignore[arg-type]
        value, (kind, *_) = getattr(config, field.name), get_args(hints[field.name]) or (hints[field.name],)
        most = MOST_LAYERS if field.name in ("layers", "blocks") else MOST
        for one in value if isinstance(value, tuple) else (value,):
            if not sane(one, kind, most):
                raise ValueError(f"its {field.name} is {ascii(one)[:40]}")
    return config


def sane(value: object, kind: type, most: int) -> bool:
    """Whether what JSON says is of a type; whole numbers count something, so they are at least 1, and none is huge."""
    if kind is bool:
        return type(value) is bool
    return type(value) in (int, kind) and (-most if kind is float else 1) <= value <= most  # type: ignore[operator]


def counts(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A table of weights.toml before anything is made of its numbers; ValueError naming one that is no count."""
    for key, value in table.items():
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, int) or not 0 <= one <= MOST:
                raise ValueError(f"its {key} is {ascii(one)[:40]}")
    return table
