"""Full weights of a run as a model's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vader_core.api.configure import run_settings
from vader_core.api.open_model import full_checkpoint
from vader_core.assembly.resolve import backbone_component
from vader_core.errors import MachineError, VaderError
from vader_core.files import replacing
from vader_core.paths import entered, run_of
from vader_core.registry import Registry, load_registry
from vader_core.run.config import validated
from vader_core.run.stages import newest_stage
from vader_core.tuning.full import WEIGHTS_FILE

#: Largest file; more are written as shards with an index.
SHARD = "10GB"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def export(
    run: str | Path,
    out: str | Path,
    *,
    dtype: str = "fp32",
    overwrite: bool = False,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Write the weights of a run of ``--tune full`` under the official names, as safetensors.

    Args:
        run: A run directory, or one of its checkpoints.
        out: The folder: ``diffusion_pytorch_model.safetensors`` and ``config.json`` where the model is
            one of diffusers' kind, else ``model.safetensors``; shards with their index where it is large.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        overwrite: Write into a folder that is not empty.
        registry: Where the backbone comes from; the installed plugins by default.

    Returns:
        ``files`` by name, ``tensors``, ``parameters``, ``config`` (whether one was written).

    Raises:
        VaderError: Not such a run, or the folder is not empty.
        MachineError: It cannot be written.
    """
    from huggingface_hub import save_torch_state_dict

    place, folder = full_checkpoint(str(run)), entered(out)
    home = run_of(str(run))
    if place is None or home is None:
        raise VaderError(
            f"{run}: not a run of --tune full with a whole checkpoint (a LoRA: `vader lora convert`)"
        )
    if dtype not in DTYPES:
        raise VaderError(f"--dtype {dtype!r} is not allowed: use {', '.join(DTYPES)}")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise VaderError(f"{folder} exists and is not empty: choose another, or give --overwrite")
    config = _official_config(home, registry or load_registry())
    state = {
        name: value.to(DTYPES[dtype]) if value.is_floating_point() else value
        for name, value in load_file(place / WEIGHTS_FILE).items()
    }
    stem = "model" if config is None else "diffusion_pytorch_model"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_torch_state_dict(
            state, folder, filename_pattern=stem + "{suffix}.safetensors", max_shard_size=SHARD
        )
        if config is not None:
            with replacing(folder / "config.json") as beside:
                beside.write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise MachineError(f"cannot write {folder}: {error}") from error
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "tensors": len(state),
        "parameters": sum(value.numel() for value in state.values()),
        "config": config is not None,
    }


def _official_config(run: Path, registry: Registry) -> dict[str, Any] | None:
    """The model's ``config.json``, where it has one."""
    config = validated(run_settings(newest_stage(run)))
    component = backbone_component(config, registry)
    backbone = component.make(config.backbone.options, device=torch.device("cpu"), dtype=torch.float32)
    with torch.device("meta"):
        denoiser = backbone.build_denoiser()
    found = backbone.official_config(denoiser)
    return None if found is None else dict(found)
