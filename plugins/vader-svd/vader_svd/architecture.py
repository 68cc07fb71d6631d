"""Constructor parameters of the networks: the published ones, a tiny one, and what a file says.

The numbers are those of the published `config.json` files; a name that is not given here takes the default
of the diffusers or transformers class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vader_core.errors import VaderError
from vader_core.paths import entered

_UNET = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "transformer_layers_per_block": 1,
    "num_attention_heads": [5, 10, 20, 20],
    "num_frames": 14,
}
_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
_IMAGE_ENCODER = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
_SCHEDULER = {
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "prediction_type": "v_prediction",
    "use_karras_sigmas": True,
    "timestep_type": "continuous",
}

_TINY_UNET = {
    "sample_size": 8,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    "block_out_channels": [32, 64],
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "transformer_layers_per_block": 1,
    "num_attention_heads": [2, 4],
    "num_frames": 4,
}
_TINY_VAE = {
    **_VAE,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "sample_size": 32,
}
_TINY_IMAGE_ENCODER = {
    **_IMAGE_ENCODER,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 32,
    "projection_dim": 32,
}


class Architecture(BaseModel):
    """Constructor parameters of the three networks.

    Args:
        unet: Of diffusers' `UNetSpatioTemporalConditionModel`.
        vae: Of diffusers' `AutoencoderKLTemporalDecoder`.
        image_encoder: Of transformers' `CLIPVisionConfig`.
        scheduler: Of diffusers' `EulerDiscreteScheduler`; the published values where left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unet: dict[str, Any]
    vae: dict[str, Any]
    image_encoder: dict[str, Any]
    scheduler: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _holds_what_is_read(self) -> Self:
        """A part of a folder that is not of this model, or is cut, lacks what is read here."""
        levels = self.vae.get("block_out_channels")
        if not (isinstance(levels, list | tuple) and levels):
            raise ValueError("vae: block_out_channels is no list of numbers")
        for part, name in (("vae", "latent_channels"), ("unet", "num_frames")):
            found = getattr(self, part).get(name)
            if not isinstance(found, int) or found < 1:
                raise ValueError(f"{part}: {name} is {found!r}, not a whole number above 0")
        if not isinstance(self.image_encoder.get("image_size", 224), int):
            raise ValueError("image_encoder: image_size is no whole number")
        return self

    @property
    def vae_factor(self) -> int:
        """Pixels to one latent position, along each side."""
        return 2 ** (len(self.vae["block_out_channels"]) - 1)

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return int(self.vae["latent_channels"])

    @property
    def sigmas(self) -> tuple[float, float]:
        """Smallest and largest noise level.

        Raises:
            VaderError: A scheduler of another kind than the one this model was trained with.
        """
        for name, needed in _SCHEDULER.items():
            found = self.scheduler.get(name, needed)
            if name not in ("sigma_min", "sigma_max") and found != needed:
                raise VaderError(
                    f"backbone 'svd': the scheduler's {name}={found!r} is not supported: only {needed!r}, "
                    "the published value"
                )
        both = {**_SCHEDULER, **self.scheduler}
        return float(both["sigma_min"]), float(both["sigma_max"])


#: `full` and `xt` differ only in the length they were trained at (14 and 25 frames).
NAMED = {
    "full": Architecture(unet=_UNET, vae=_VAE, image_encoder=_IMAGE_ENCODER),
    "xt": Architecture(unet={**_UNET, "num_frames": 25}, vae=_VAE, image_encoder=_IMAGE_ENCODER),
    "tiny": Architecture(unet=_TINY_UNET, vae=_TINY_VAE, image_encoder=_TINY_IMAGE_ENCODER),
}
#: The networks of a diffusers folder, each with its own `config.json`.
PARTS = ("unet", "vae", "image_encoder")


def resolve_architecture(value: str) -> Architecture:
    """``full``, ``xt``, ``tiny``, a JSON file with the parts as keys, or a folder in diffusers' layout.

    Raises:
        VaderError: None of these, or a file that does not hold what it should.
    """
    if value in NAMED:
        return NAMED[value]
    path = entered(value)
    if path.is_dir():
        parts = {part: read_config(path / part / "config.json") for part in PARTS}
        scheduler = path / "scheduler" / "scheduler_config.json"
        settings = read_config(scheduler) if scheduler.is_file() else {}
        return _checked({**parts, "scheduler": settings}, path)
    if not path.is_file():
        raise VaderError(
            f"backbone 'svd': architecture {value!r} is not known: use {', '.join(NAMED)}, "
            "a JSON file with the keys unet, vae and image_encoder, or a folder in diffusers' layout"
        )
    return _checked(_read_json(path), path)


def _checked(parts: Any, path: Path) -> Architecture:
    try:
        return Architecture.model_validate(parts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise VaderError(f"backbone 'svd': architecture {path}: {where}: {first['msg']}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise VaderError(f"backbone 'svd': {path} is not readable JSON: {error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """Constructor parameters from a `config.json`; the keys that name classes and versions are left out.

    Raises:
        VaderError: No such file, or not a JSON object.
    """
    held = _read_json(path)
    if not isinstance(held, dict):
        raise VaderError(f"backbone 'svd': {path} does not hold a JSON object")
    if isinstance(held.get("vision_config"), dict):
        held = {
            **held["vision_config"],
            **{key: value for key, value in held.items() if key == "projection_dim"},
        }
    ignored = {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "vision_config"}
    return {key: value for key, value in held.items() if not key.startswith("_") and key not in ignored}


#: Recorded by the classes but used by no computation.
_UNUSED = {"sample_size"}


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The parameters that both name with different values, as ``name=found instead of wanted``.

    >>> differences({"num_frames": 14, "in_channels": 8}, {"num_frames": 25, "in_channels": 8})
    ['num_frames=25 instead of 14']
    """
    return [
        f"{name}={found[name]} instead of {value}"
        for name, value in wanted.items()
        if name in found
        and name not in _UNUSED
        and json.loads(json.dumps(found[name])) != json.loads(json.dumps(value))
    ]
