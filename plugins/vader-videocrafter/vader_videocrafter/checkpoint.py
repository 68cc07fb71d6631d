"""The official checkpoint: one file in, the tensors of three modules out, every key accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.weights import in_brackets, load_tensors, misfit_message
from vader_core.wrappings import unwrapped
from vader_videocrafter.architecture import Architecture, TextArchitecture
from vader_videocrafter.autoencoder import build_autoencoder
from vader_videocrafter.key_maps import is_pointwise_convolution, official_autoencoder_name, text_names
from vader_videocrafter.schedule import STORED_SCALE_LENGTH, videocrafter_schedule
from vader_videocrafter.unet import VideoUNet

UNET = "model.diffusion_model."
AUTOENCODER = "first_stage_model."
TEXT = "cond_stage_model."


SCHEDULE_VECTORS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
SCHEDULE_TOLERANCE = 1e-3
"""Largest difference between a stored schedule and ours: above half precision's rounding, far below another
schedule's."""


@dataclass(frozen=True)
class Parts:
    """The tensors of one checkpoint, under the names of the modules that run them.

    Args:
        unet: For `VideoUNet`.
        autoencoder: For diffusers' `AutoencoderKL`.
        text: For transformers' `CLIPTextModel`, without `text_model.` in front.
    """

    unet: dict[str, Tensor]
    autoencoder: dict[str, Tensor]
    text: dict[str, Tensor]


def official_manifest(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Every key of an official checkpoint of these sizes, with its shape (2039 in the released model)."""
    steps = videocrafter_schedule().num_train_timesteps
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(SCHEDULE_VECTORS, (steps,))
    shapes["scale_arr"] = (STORED_SCALE_LENGTH,)
    with torch.device("meta"):
        unet = VideoUNet(architecture.unet)
        autoencoder = build_autoencoder(architecture.autoencoder)
    shapes |= {UNET + name: tuple(value.shape) for name, value in unet.state_dict().items()}
    for name, value in autoencoder.state_dict().items():
        official = official_autoencoder_name(name, len(architecture.autoencoder.block_out_channels))
        pointwise = (1, 1) if is_pointwise_convolution(official) else ()
        shapes[AUTOENCODER + official] = (*value.shape, *pointwise)
    return shapes | {TEXT + name: shape for name, shape in text_shapes(architecture.text).items()}


def text_shapes(architecture: TextArchitecture) -> dict[str, tuple[int, ...]]:
    """Shapes of an OpenCLIP text tower, relative to `cond_stage_model.`, with what is never run."""
    width = architecture.width
    shapes: dict[str, tuple[int, ...]] = {
        "model.positional_embedding": (architecture.context_length, width),
        "model.text_projection": (width, architecture.embed_dim),
        "model.logit_scale": (),
        "model.token_embedding.weight": (architecture.vocab_size, width),
        "model.ln_final.weight": (width,),
        "model.ln_final.bias": (width,),
    }
    block = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
    }
    for index in range(architecture.layers):
        shapes |= {f"model.transformer.resblocks.{index}.{name}": shape for name, shape in block.items()}
    return shapes


def split_checkpoint(tensors: Mapping[str, Any], architecture: Architecture, *, what: str) -> Parts:
    """Sorts an unwrapped checkpoint into its modules.

    Args:
        tensors: By official name.
        architecture: Sizes that they must fit.
        what: The file, for messages.

    Raises:
        VaderError: Listing every key that is missing, unexpected or of another shape; or a schedule that is
            not VideoCrafter2's.
    """
    _check_keys(tensors, official_manifest(architecture), what)
    _check_schedule(tensors, what)
    unet = {key.removeprefix(UNET): value for key, value in tensors.items() if key.startswith(UNET)}
    with torch.device("meta"):
        autoencoder = build_autoencoder(architecture.autoencoder).state_dict()
    return Parts(
        unet=unet,
        autoencoder={
            name: tensors[
                AUTOENCODER
                + official_autoencoder_name(name, len(architecture.autoencoder.block_out_channels))
            ].reshape(value.shape)
            for name, value in autoencoder.items()
        },
        text=text_tensors(
            {key.removeprefix(TEXT): value for key, value in tensors.items() if key.startswith(TEXT)},
            architecture.text.layers - 1,
        ),
    )


def text_tensors(official: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """An OpenCLIP text tower's tensors under transformers' names, its first `num_layers` blocks only.

    Args:
        official: Relative to `cond_stage_model.`.
        num_layers: Blocks to keep; the penultimate layer needs one less than the tower has.
    """
    converted: dict[str, Tensor] = {}
    unused = tuple(
        f"encoder.layers.{index}."
        for index in range(num_layers, 1 + max((_block(key) for key in official), default=0))
    )
    for key, value in official.items():
        names = text_names(key)
        if names and not names[0].startswith(unused):
            converted |= dict(zip(names, value.chunk(len(names)), strict=True))
    return converted


def _block(key: str) -> int:
    parts = key.split(".")
    return int(parts[3]) if key.startswith("model.transformer.resblocks.") else -1


def _check_keys(tensors: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]], what: str) -> None:
    missing = sorted(wanted.keys() - tensors.keys())
    unexpected = sorted(key for key in tensors if key not in wanted)
    misfits = [
        f"{key} {_shape(tensors[key])} instead of {shape}"
        for key, shape in sorted(wanted.items())
        if key in tensors and _shape(tensors[key]) != shape
    ]
    if missing or unexpected or misfits:
        raise VaderError(misfit_message(what, missing, unexpected, misfits))


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _check_schedule(tensors: Mapping[str, Tensor], what: str) -> None:
    schedule = videocrafter_schedule()
    expected = {"alphas_cumprod": schedule.alphas_cumprod, "scale_arr": schedule.scale}
    for name, ours in expected.items():
        if ours is None:
            continue
        stored = tensors[name][: len(ours)].double().cpu()
        difference = (stored - ours).abs().max().item()
        if not difference <= SCHEDULE_TOLERANCE:
            raise VaderError(
                f"{what}: its {name} differs by {difference:.3g} from VideoCrafter2's; it was trained with "
                "another noise schedule and cannot be used as a VideoCrafter2 checkpoint"
            )


def read_checkpoint(path: Path, architecture: Architecture, *, what: str) -> Parts:
    """Reads an official checkpoint file (`.ckpt`, `.pt`, `.safetensors`); nothing in it is run.

    Args:
        path: The file, or a folder that holds `model.ckpt` or `model.safetensors`.
        architecture: Sizes that it must have.
        what: What asks for it, for messages.

    Raises:
        VaderError: Not readable, or keys that do not fit.
    """
    if path.is_dir() and not any(path.glob("*.index.json")):
        candidates = [path / "model.ckpt", path / "model.safetensors"]
        found = [candidate for candidate in candidates if candidate.is_file()]
        if not found:
            raise VaderError(
                f"{what}: {path} holds neither model.ckpt nor model.safetensors{in_brackets(path)}; "
                "name the file itself"
            )
        path = found[0]
    loaded = load_tensors(path, needed_for=what)
    tensors = unwrapped(loaded, what=f"{what}, {path}")
    return split_checkpoint(tensors, architecture, what=f"{what}, {path}")
