"""Official ``config.json`` files as sizes of ours; what we cannot do is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vader_core.errors import VaderError
from vader_easyanimate.architecture import AutoencoderConfig, MotionConfig, TransformerConfig

#: Transformer fields that can only have one value here, and that value.
_FIXED: Mapping[str, Any] = {
    "dropout": 0.0,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "patch_3d": False,
    "fake_3d": False,
    "basic_block_type": "motionmodule",
    "time_position_encoding_before_transformer": False,
}
#: Sizes that have one name in the official file and in ours.
_SAME = (
    "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers",
    "sample_size", "patch_size", "caption_channels", "norm_eps", "enable_uvit",
)  # fmt: skip
_MOTION_FIXED: Mapping[str, Any] = {"temporal_position_encoding": True}
_VAE_FIXED: Mapping[str, Any] = {
    "mid_block_type": "MidBlock3D",
    "mid_block_use_attention": True,
    "mid_block_attention_type": "3d",
    "mid_block_num_attention_heads": 1,
    "act_fn": "silu",
}
_DOWN = {"SpatialDownBlock3D": False, "SpatialTemporalDownBlock3D": True}
_UP = {"SpatialUpBlock3D": False, "SpatialTemporalUpBlock3D": True}


def _require(given: Mapping[str, Any], fixed: Mapping[str, Any], what: str) -> None:
    for name, wanted in fixed.items():
        if name in given and given[name] != wanted:
            raise VaderError(f"{what}: {name}={given[name]!r} is not supported, only {wanted!r} is")


def transformer_config(official: Mapping[str, Any]) -> TransformerConfig:
    """Sizes from the transformer's ``config.json`` (``transformer_additional_kwargs`` of the yaml merged in).

    Raises:
        VaderError: A variant that is not V1's or V2's text-to-video model.
    """
    what = "EasyAnimate transformer config"
    _require(official, _FIXED, what)
    motion = dict(official.get("motion_module_kwargs") or {})
    _require(motion, _MOTION_FIXED, f"{what}: motion_module_kwargs")
    kinds = list(motion.get("attention_block_types", ("Temporal_Self", "Temporal_Self")))
    if set(kinds) != {"Temporal_Self"}:
        raise VaderError(f"{what}: attention_block_types={kinds} is not supported, only Temporal_Self is")
    grid = {"Vanilla": False, "VanillaGrid": True}.get(official.get("motion_module_type", "VanillaGrid"))
    if grid is None:
        raise VaderError(
            f"{what}: motion_module_type={official['motion_module_type']!r} is not supported: "
            "Vanilla (V2) and VanillaGrid (V1) are"
        )
    given = {name: official[name] for name in _SAME if official.get(name) is not None}
    sizes = TransformerConfig(
        **{"enable_uvit": False, **given},
        motion=MotionConfig(
            num_attention_heads=motion.get("num_attention_heads", 8),
            num_transformer_block=motion.get("num_transformer_block", 1),
            num_attentions=len(kinds),
            max_frames=motion.get("temporal_position_encoding_max_len", 4096),
            dim_div=motion.get("temporal_attention_dim_div", 1),
            block_size=motion.get("block_size", 1) if grid else 1,
        ),
    )
    width = official.get("cross_attention_dim", sizes.width)
    if width not in (None, sizes.width):
        raise VaderError(f"{what}: cross_attention_dim={width} is not the model's width {sizes.width}")
    return sizes


def official_transformer(sizes: TransformerConfig) -> dict[str, Any]:
    """The inverse of :func:`transformer_config`: what the official loader reads beside the weights."""
    motion = sizes.motion
    return {
        "_class_name": "Transformer3DModel",
        **_FIXED,
        **{name: getattr(sizes, name) for name in _SAME},
        "norm_num_groups": 32,
        "num_embeds_ada_norm": 1000,
        "cross_attention_dim": sizes.width,
        "motion_module_type": "Vanilla" if motion.block_size == 1 else "VanillaGrid",
        "motion_module_kwargs": {
            **_MOTION_FIXED,
            "num_attention_heads": motion.num_attention_heads,
            "num_transformer_block": motion.num_transformer_block,
            "attention_block_types": ["Temporal_Self"] * motion.num_attentions,
            "temporal_position_encoding_max_len": motion.max_frames,
            "temporal_attention_dim_div": motion.dim_div,
            "block_size": motion.block_size,
        },
    }


def autoencoder_config(official: Mapping[str, Any]) -> AutoencoderConfig:
    """Sizes from the autoencoder's ``config.json`` (``vae_kwargs`` of the yaml merged in).

    Raises:
        VaderError: A variant that is neither MagViT nor the slice autoencoder.
    """
    what = "EasyAnimate autoencoder config"
    _require(official, _VAE_FIXED, what)
    temporal = [_DOWN.get(kind) for kind in official["down_block_types"]]
    again = [_UP.get(kind) for kind in official["up_block_types"]]
    if None in temporal or temporal != again:
        raise VaderError(
            f"{what}: down_block_types={official['down_block_types']} with "
            f"up_block_types={official['up_block_types']} is not supported"
        )
    names: tuple[str, ...] = (
        "in_channels",
        "out_channels",
        "ch",
        "ch_mult",
        "layers_per_block",
        "latent_channels",
    )
    names += ("norm_num_groups", "slice_compression_vae", "mini_batch_encoder", "mini_batch_decoder")
    given = {name: official[name] for name in names if name in official}
    return AutoencoderConfig(**given, temporal_levels=tuple(bool(one) for one in temporal))
