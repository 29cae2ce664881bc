"""Checkpoint folders as they lie on the Hub, in the diffusers layout, but of tiny random networks."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from wan_cases import SKYREELS, UMT5, VAE21, VAE22, WAN, fill

from sora_cli.files import weights
from sora_cli.models.wan.configs import TinyConfig, Umt5Config, WanConfig, WanVaeConfig
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.text import Umt5
from sora_cli.models.wan.tiny_decoder import TinyDecoder
from sora_cli.models.wan.vae import WanVae

WAN22, WAN21, SKYREELS2 = "wan2.2", "wan2.1", "skyreels2"
A14B, A14B_I2V = "wan2.2-a14b", "wan2.2-a14b-i2v"  # of two transformers
KINDS = {WAN22: (WAN, VAE22), WAN21: (WAN, VAE21), SKYREELS2: (SKYREELS, VAE21)}  # (transformer, autoencoder)
PARTS = ("transformer", "vae", "text_encoder", "tokenizer")
WRITTEN_BY = "0.35.0.dev0"
SPECIAL = ("<pad>", "</s>", "<unk>")
LETTERS = "▁etaoinshrdlcumwfgypbvkjxqz0123456789.,'-"


def write(folder: Path, kind: str, parts: tuple[str, ...] = PARTS, channels: int = 0, seed: int = 0,
          narrower: int = 2) -> Path:  # fmt: skip
    """A checkpoint of a tiny model of the kind, with the parts named; `folder` itself is returned.

    Latents have few channels, 6 or 4, by which no known architecture is recognised: `channels` = 48 or 16 makes them
    those of Wan 2.2 or 2.1."""
    transformer, autoencoder = KINDS[kind]
    count = channels or autoencoder["z_dim"]
    means, stds = autoencoder["latents_mean"], autoencoder["latents_std"]
    transformer = transformer | {"in_channels": count, "out_channels": count, "text_dim": UMT5["d_model"]}
    autoencoder = {key: value // narrower if key.endswith("base_dim") else value for key, value in autoencoder.items()}
    autoencoder |= {"z_dim": count, "latents_mean": repeated(means, count), "latents_std": repeated(stds, count)}
    if "transformer" in parts:
        write_transformer(folder / "transformer", transformer, seed)
    if "vae" in parts:
        write_vae(folder / "vae", autoencoder, seed)
    if "text_encoder" in parts:
        write_text_encoder(folder / "text_encoder", seed)
    if "tokenizer" in parts:
        write_tokenizer(folder / "tokenizer")
    write_json(folder / "model_index.json", {"_class_name": "WanPipeline", "_diffusers_version": WRITTEN_BY})
    return folder


def write_two(folder: Path, kind: str, channels: int = 0, seed: int = 0, narrower: int = 2) -> Path:
    """A checkpoint of a tiny Wan 2.2 A14B: two transformers of different numbers, which see 4 channels of a mask and a
    latent beside theirs in the model that goes on from pictures."""
    count = channels or VAE21["z_dim"]
    write(folder, WAN21, channels=channels, seed=seed, narrower=narrower)
    inputs = count + (4 + count) * (kind == A14B_I2V)
    config = WAN | {"in_channels": inputs, "out_channels": count, "text_dim": UMT5["d_model"]}
    for number, name in enumerate(("transformer", "transformer_2")):
        write_transformer(folder / name, config, seed + 10 * number)
    told = {"_class_name": "WanPipeline", "_diffusers_version": WRITTEN_BY, "boundary_ratio": 0.85}
    write_json(folder / "model_index.json", told)
    return folder


def repeated(values: list[float], count: int) -> list[float]:
    return [values[i % len(values)] for i in range(count)]


def write_transformer(folder: Path, config: dict[str, Any], seed: int) -> None:
    """float32, in shards with an index."""
    paced = config.get("inject_sample_info", False)
    names = {"_class_name": "SkyReelsV2Transformer3DModel" if paced else "WanTransformer3DModel",
             "_diffusers_version": WRITTEN_BY, "pos_embed_seq_len": None}  # fmt: skip
    write_json(folder / "config.json", names | config)
    network = fill(WanDit(WanConfig.from_hub(config)), seed)
    write_shards(folder, "diffusion_pytorch_model", network.state_dict())


def write_vae(folder: Path, config: dict[str, Any], seed: int) -> None:
    """float32, in one file."""
    names = {"_class_name": "AutoencoderKLWan", "_diffusers_version": WRITTEN_BY, "clip_output": False}
    write_json(folder / "config.json", names | config)
    network = fill(WanVae(WanVaeConfig.from_hub(config)), seed)
    weights.save(folder / "diffusion_pytorch_model.safetensors", network.state_dict(), {"format": "pt"})


def write_tiny(path: Path, channels: int, patch: int, seed: int = 0) -> Path:
    """A tiny decoder of the real layout in float16, with something of the encoder that lies in the published files."""
    torch.manual_seed(seed)
    network = TinyDecoder(TinyConfig(channels, patch))
    tensors = {name: value.half() * 2 for name, value in network.state_dict().items()}  # else all of it is grey
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.save(path, tensors | {"encoder.0.weight": torch.zeros(64, 3 * patch**2, 3, 3).half()}, {"format": "pt"})
    return path


def write_text_encoder(folder: Path, seed: int) -> None:
    """bfloat16, in shards with an index."""
    names = {"architectures": ["UMT5EncoderModel"], "torch_dtype": "bfloat16", "transformers_version": "4.45.1"}
    write_json(folder / "config.json", names | UMT5)
    network = fill(Umt5(Umt5Config.from_hub(UMT5)), seed)
    write_shards(folder, "model", {name: value.bfloat16() for name, value in network.state_dict().items()})


def write_shards(folder: Path, stem: str, tensors: dict[str, Tensor]) -> None:
    total = sum(value.nbytes for value in tensors.values())
    paths = weights.save_part(folder, stem, tensors, {"format": "pt"}, limit=total // 2)
    places = {name: path.name for path in paths for name in weights.read_header(path).shapes}
    write_json(folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def write_tokenizer(folder: Path) -> None:
    """Letters, with UMT5's way of marking words; as many tokens as the text encoder knows, and the end after all."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*SPECIAL, *LETTERS, "▁the", "▁a", "ing", "er", "at", "on"]
    assert len(pieces) <= UMT5["vocab_size"]
    scores = [(piece, len(piece) / 4 - 3) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=SPECIAL.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>"})
    (folder / "spiece.model").write_bytes(b"the same for sentencepiece")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":  # python tests/wan_folders.py FOLDER: one of each kind, to look at
    for kind in KINDS:
        print(write(Path(sys.argv[1]) / kind, kind))
