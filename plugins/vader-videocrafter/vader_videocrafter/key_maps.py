"""Official tensor names and those of the libraries that run the autoencoder and the text encoder."""

from __future__ import annotations

import re

_LEVEL = re.compile(r"(encoder\.down_blocks|decoder\.up_blocks)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d)\.(.+)\.(weight|bias)")
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def official_autoencoder_name(name: str, num_levels: int) -> str:
    """Official name (relative to `first_stage_model.`) of a tensor of diffusers' `AutoencoderKL`.

    Args:
        name: E.g. `decoder.up_blocks.3.resnets.1.conv1.weight`.
        num_levels: Resolutions of the autoencoder (4); the official decoder counts them the other way round.

    Returns:
        E.g. `decoder.up.0.block.1.conv1.weight`.
    """
    if found := _LEVEL.fullmatch(name):
        down = found[1].startswith("encoder")
        index = int(found[2]) if down else num_levels - 1 - int(found[2])
        rest = found[3].replace("resnets.", "block.").replace("samplers.0.", "sample.")
        rest = rest.replace("conv_shortcut", "nin_shortcut")
        return f"{'encoder.down' if down else 'decoder.up'}.{index}.{rest}"
    if found := _MIDDLE.fullmatch(name):
        if found[2] == "resnets":
            layer = found[4].replace("conv_shortcut", "nin_shortcut")
            return f"{found[1]}.mid.block_{int(found[3]) + 1}.{layer}.{found[5]}"
        return f"{found[1]}.mid.attn_1.{_ATTENTION[found[4]]}.{found[5]}"
    return name.replace("conv_norm_out", "norm_out")


def is_pointwise_convolution(official: str) -> bool:
    """Whether an official autoencoder tensor is a 1x1 convolution that diffusers keeps as a matrix."""
    return re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", official) is not None


_TEXT_TOP = {
    "model.token_embedding.weight": "embeddings.token_embedding.weight",
    "model.positional_embedding": "embeddings.position_embedding.weight",
    "model.ln_final.weight": "final_layer_norm.weight",
    "model.ln_final.bias": "final_layer_norm.bias",
}
_TEXT_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TEXT_BLOCK = re.compile(r"model\.transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


def text_names(official: str) -> tuple[str, ...]:
    """Names in transformers' `CLIPTextModel` of an official tensor (relative to `cond_stage_model.`).

    Args:
        official: E.g. `model.transformer.resblocks.0.attn.in_proj_weight`.

    Returns:
        One name; three for the fused query, key and value projection (thirds of the first axis, in this
        order); none for what the text encoding does not use (`text_projection`, `logit_scale`). Without the
        `text_model.` in front that some releases of transformers have.
    """
    if official in _TEXT_TOP:
        return (_TEXT_TOP[official],)
    found = _TEXT_BLOCK.fullmatch(official)
    if found is None:
        return ()
    layer = f"encoder.layers.{found[1]}"
    if found[2] == "attn.in_proj":
        return tuple(f"{layer}.self_attn.{part}_proj.{found[3]}" for part in "qkv")
    return (f"{layer}.{_TEXT_LAYER[found[2]]}.{found[3]}",)
