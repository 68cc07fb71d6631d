"""How a reward's model is made: architecture, weights, frozen, on its device, in its precision."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.nn.build import empty_module, fill_randomly
from vader_core.paths import entered
from vader_core.weights import (
    WeightFile,
    WeightSource,
    load_exactly,
    load_tensors,
    locate,
    parse_weights,
)
from vader_core.wrappings import unwrapped

Model = TypeVar("Model", bound=nn.Module)


def architecture(
    option: str | Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]], *, needed_for: str
) -> dict[str, Any]:
    """The configuration that an ``architecture`` option means.

    Args:
        option: The name of a preset, the path of a JSON file, or the configuration itself.
        presets: Configurations by name.
        needed_for: What asks, for messages.

    Raises:
        VaderError: Neither a preset nor a readable JSON file.
    """
    if not isinstance(option, str):
        return dict(option)
    if option in presets:
        return dict(presets[option])
    return read_config(entered(option), needed_for=needed_for, allowed=sorted(presets))


def read_config(path: Path, *, needed_for: str, allowed: list[str] | None = None) -> dict[str, Any]:
    """The object in a JSON file."""
    names = "".join(f"`{name}`, " for name in allowed or [])
    if not path.is_file():
        raise VaderError(
            f"{needed_for}: architecture {str(path)!r} is no file; use {names}or the path of a config.json"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VaderError(f"{needed_for}: {path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise VaderError(f"{needed_for}: {path} holds no JSON object")
    return config


def beside(source: WeightSource, wanted: WeightFile) -> WeightSource:
    """Where ``wanted`` lies that belongs to the weights of ``source``: same folder, same repository."""
    if source.kind == "hub":
        return WeightSource("hub", repository=source.repository, file=wanted.file, revision=source.revision)
    if source.kind == "path" and source.path is not None and source.path.is_file():
        return WeightSource("path", path=source.path.parent)
    return source


def companion(weights: str, wanted: WeightFile, *, needed_for: str, hint: str) -> Path:
    """The file (config, vocabulary) that belongs to the weights.

    Raises:
        VaderError: Not there; ends with ``hint``.
    """
    path = locate(beside(parse_weights(weights), wanted), wanted, needed_for=needed_for)
    path = path / Path(wanted.file).name if path.is_dir() else path
    if not path.is_file():
        raise VaderError(f"{needed_for}: no {wanted.file} beside the weights ({path.parent}); {hint}")
    return path


def published_architecture(
    option: str | Mapping[str, Any],
    weights: str,
    presets: Mapping[str, Mapping[str, Any]],
    config: WeightFile,
    *,
    needed_for: str,
) -> dict[str, Any]:
    """As :func:`architecture`, but ``full`` with real weights reads the config.json beside them."""
    if option == "full" and weights != "random":
        hint = "put it there, or give the option architecture=PATH"
        return read_config(
            companion(weights, config, needed_for=needed_for, hint=hint), needed_for=needed_for
        )
    return architecture(option, presets, needed_for=needed_for)


def read_weights(weights: str, wanted: WeightFile, *, needed_for: str, option: str) -> dict[str, Tensor]:
    """The flat tensors that a ``weights`` option means (not ``random``).

    A folder stands for the file of the published name in it, or for its shards. What training code wraps
    tensors in is taken off.
    """
    try:
        source = parse_weights(weights)
    except VaderError as error:
        raise VaderError(f"{needed_for} ({option}): {error}") from error
    if source.kind == "pretrained" and wanted.repository.startswith("github.com/"):
        raise VaderError(
            f"{needed_for}: its weights are on no hub: take {wanted.file} of {wanted.repository} at commit "
            f"{wanted.revision} and give {option}"
        )
    path = locate(source, wanted, needed_for=needed_for, option=option)
    if path.is_dir() and not any(path.glob("*.index.json")):
        path = path / Path(wanted.file).name
    return unwrapped(load_tensors(path, needed_for=needed_for), what=f"{needed_for}: {path}")


def load_model(
    build: Callable[[], Model],
    weights: str,
    wanted: WeightFile,
    *,
    device: torch.device,
    dtype: torch.dtype,
    needed_for: str,
    option: str,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> Model:
    """A model with the weights that a ``weights`` option means, frozen and in eval mode.

    Args:
        build: Makes the module.
        weights: The option's value.
        wanted: What ``pretrained`` stands for.
        device: Where the model goes.
        dtype: Of its weights.
        needed_for: What asks, for messages.
        option: The option that names a local file, for messages.
        convert: From the file's keys to the module's.

    Raises:
        VaderError: The weights are missing, refused, or do not fit.
    """
    if weights == "random":
        model = empty_module(build, device=device, dtype=dtype)
        fill_randomly(model, 0, needed_for)
        return model
    tensors = convert(read_weights(weights, wanted, needed_for=needed_for, option=option))
    model = empty_module(build, device=device, dtype=dtype)
    load_exactly(model, completed(tensors, model), what=needed_for)
    return model


def completed(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A file's tensors and what files leave out: computed index buffers, further names of tied weights.

    Index buffers (whole numbers) come from the model, whatever the file holds: versions of transformers store
    them or do not.
    """
    own = model.state_dict(keep_vars=True)
    result = {name: value for name, value in tensors.items() if name in own or value.is_floating_point()}
    first_name = {id(own[name]): name for name in reversed(list(own)) if name in tensors}
    for name, value in own.items():
        if not value.is_floating_point():
            result[name] = value
        elif name not in result and id(value) in first_name:
            result[name] = tensors[first_name[id(value)]]
    return result
