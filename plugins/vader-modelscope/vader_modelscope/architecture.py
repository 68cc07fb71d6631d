"""Constructor parameters of the three networks: the published ones, a tiny one, or what a folder says.

The published numbers are those of the `config.json` files of the hub repository; a name that is not given
here takes the default of its diffusers or transformers class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from vader_core.errors import VaderError
from vader_core.paths import entered

Part = Literal["unet", "vae", "text_encoder"]
PARTS: tuple[Part, ...] = ("unet", "vae", "text_encoder")

#: Words that a configuration file adds around the constructor's parameters.
_NOT_PARAMETERS = frozenset({"architectures", "model_type", "torch_dtype", "dtype", "transformers_version"})

_UNET: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
    "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "attention_head_dim": 64,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
}
_VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
_TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}


class Architecture(BaseModel):
    """Constructor parameters of the three networks.

    Args:
        unet: Of diffusers' `UNet3DConditionModel`.
        vae: Of diffusers' `AutoencoderKL`.
        text_encoder: Of transformers' `CLIPTextConfig`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]

    @model_validator(mode="after")
    def _holds_what_is_read(self) -> Self:
        """A part of a folder that is not of this model, or is cut, lacks what is read here."""
        levels = self.vae.get("block_out_channels")
        if not (isinstance(levels, list | tuple) and levels):
            raise ValueError("vae: block_out_channels is no list of numbers")
        words = ("text_encoder", "max_position_embeddings"), ("text_encoder", "vocab_size")
        for part, name in (("unet", "in_channels"), *words):
            found = getattr(self, part).get(name)
            if not isinstance(found, int) or found < 1:
                raise ValueError(f"{part}: {name} is {found!r}, not a whole number above 0")
        return self

    def part(self, name: Part) -> dict[str, Any]:
        """The parameters of one network, without the words that only files carry."""
        given: dict[str, Any] = getattr(self, name)
        return {key: value for key, value in given.items() if key[:1] != "_" and key not in _NOT_PARAMETERS}

    @property
    def vae_stride(self) -> int:
        """Pixels a latent pixel stands for, in height and in width."""
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))


FULL = Architecture(unet=_UNET, vae=_VAE, text_encoder=_TEXT_ENCODER)

#: For tests: every kind of block that the full model has, about 1.4 million parameters.
TINY = Architecture(
    unet={
        **_UNET,
        "sample_size": 8,
        "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
        "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        # groups of one channel would take away all that the time embedding adds
        "norm_num_groups": 8,
    },
    vae={
        **_VAE,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [32, 32],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 32,
    },
    text_encoder={
        **_TEXT_ENCODER,
        "vocab_size": 1000,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
    },
)

_NAMED = {"full": FULL, "tiny": TINY}


def find_architecture(asked: str | dict[str, Any] | None, weights_folder: Path | None) -> Architecture:
    """The architecture that the options mean.

    Args:
        asked: ``full``, ``tiny``, a folder in diffusers' layout, a JSON file with ``unet``, ``vae`` and
            ``text_encoder``, or these three as a dict; ``None`` follows the weights.
        weights_folder: Folder of the weights where they are local; read where nothing was asked for.

    Raises:
        VaderError: No such name or file, or a file that does not hold the three configurations.
    """
    if asked is None:
        return FULL if weights_folder is None else read_folder(weights_folder)
    if isinstance(asked, dict):
        return _checked(asked, "architecture")
    if asked in _NAMED:
        return _NAMED[asked]
    path = entered(asked)
    if path.is_dir():
        return read_folder(path)
    if path.is_file():
        return _checked(read_json(path), str(path))
    raise VaderError(
        f"backbone 'modelscope': architecture={asked!r} is not allowed: use full, tiny, a folder in "
        "diffusers' layout, or a JSON file with unet, vae and text_encoder"
    )


def read_folder(folder: Path) -> Architecture:
    """The architecture of a folder in diffusers' layout: a config.json for each of the three networks."""
    return _checked({part: read_json(folder / part / "config.json") for part in PARTS}, str(folder))


def read_json(path: Path) -> dict[str, Any]:
    """One JSON file that holds an object.

    Raises:
        VaderError: It is missing or holds something else.
    """
    if not path.is_file():
        raise VaderError(f"backbone 'modelscope': {path} is missing: the folder must be in diffusers' layout")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VaderError(f"backbone 'modelscope': {path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise VaderError(f"backbone 'modelscope': {path} holds no JSON object")
    return found


def _checked(parts: dict[str, Any], where: str) -> Architecture:
    try:
        return Architecture.model_validate(parts)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise VaderError(f"backbone 'modelscope': {where} is no architecture: {problems}") from error
