"""What a file of weights seems to be, by the names of its tensors, where it is not what was asked for. No torch."""

import re
from collections.abc import Iterable, Mapping

from sora_cli.models.wan.names import bare

Shapes = Mapping[str, tuple[int, ...]]  # of a file's tensors or a network's parameters, by their bare names

LORA = "a LoRA; use it with --lora"
# a pattern that some name of such a file begins with; the first that fits tells, so that narrow ones come first
MARKS = (
    (r".*\.(lora_[AB]|lora_down|lora_up|hada_w1_a|lokr_w1|dora_scale)(\.|$)", LORA),
    (r"input_blocks\.0\.|down_blocks\.0\.", "a Stable Diffusion or SDXL model"),
    (r"joint_blocks\.0\.", "a Stable Diffusion 3 model"),
    (r"distilled_guidance_layer\.", "a Chroma model"),
    (r"txt_in\.individual_token_refiner\.", "a HunyuanVideo model"),
    (r"double_blocks\.0\.", "a Flux model"),
    (r"(patchify_proj|adaln_single)\.", "an LTX-Video model"),
    (r"transformer_blocks\.0\.attn\.add_q_proj", "a Qwen-Image model"),
    (r"(cap_embedder|noise_refiner)\.", "a Lumina or Z-Image model"),
    (r"blocks\.0\.attn1?\.qkv|net\.blocks\.0\.", "a Cosmos or Mochi model"),
    (r"conditioner\.embedders\.|cond_stage_model\.|first_stage_model\.|text_encoders\.|vae\.",
     "a whole checkpoint of several networks"),
    (r"vace_blocks\.|vace_patch_embedding\.", "a Wan VACE transformer"),
    (r"(img_emb|condition_embedder\.image_embedder)\.|.*\.k_img\.", "a Wan transformer that takes image embeddings"),
    (r"(casual_audio_encoder|audio_proj|audio_injector)\.", "a Wan transformer that takes audio"),
    (r"(ref_conv|control_adapter|pose_patch_embedding)\.", "a Wan transformer with a control input"),
    (r"patch_embedding\.weight", "a Wan transformer"),
    (r"(text_model|transformer\.resblocks)\.|.*text_model\.encoder\.", "a CLIP text encoder"),
    (r"vision_model\.|visual\.", "a vision encoder"),
    (r"(shared|encoder\.embed_tokens|token_embedding)\.weight|enc\.blk\.0\.", "a T5 text encoder"),
    (r"(model\.)?layers\.0\.(self_attn|mlp)|blk\.0\.|(model\.)?embed_tokens\.", "a language model"),
    (r"(encoder|decoder)\.(conv1|conv_in|mid|mid_block|up|down|up_blocks|upsamples)\.", "an autoencoder (VAE)"),
)  # fmt: skip
UNKNOWN = "an unknown kind of model"


def seems(names: Iterable[str], architecture: str = "") -> str:
    """In a few words, what holds tensors of such names; a GGUF says it itself."""
    if architecture and architecture not in ("wan", "pig"):
        return f"a GGUF of architecture {ascii(architecture)[1:40].rstrip(chr(39))}"
    names = [bare(name) for name in names]
    return next((what for mark, what in MARKS if any(re.match(mark, name) for name in names)), UNKNOWN)
