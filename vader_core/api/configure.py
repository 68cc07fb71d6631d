"""Configurations from Python: recipes, run directories and values, the later wins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vader_core.assembly.resolve import choose_device, resolve
from vader_core.builtin.prompts.grammar import giving_way
from vader_core.errors import VaderError
from vader_core.function_files import named_in_python
from vader_core.paths import entered
from vader_core.profiling.estimate import decide_checkpointing
from vader_core.registry import Registry, load_registry
from vader_core.run.config import RunConfig, check_keys, validated
from vader_core.run.layers import merged, prompts_spelled_out, read_yaml
from vader_core.run.recipes import read_recipe
from vader_core.run.section import Tree
from vader_core.run.stages import stages_of


def configure(
    *,
    recipe: str | None = None,
    from_run: str | Path | None = None,
    registry: Registry | None = None,
    **sections: Any,
) -> RunConfig:
    """The configuration of a run.

    Args:
        recipe: Published settings that a plugin ships.
        from_run: A run directory, whose own settings hold.
        registry: Where recipes come from; the installed plugins by default.
        **sections: Values by section, as in the run's YAML:
            ``backbone={"name": "demo"}, reward=["demo_aesthetic"], trainer={"lr": 1e-4}``. A backbone, a
            sampler and prompts may be given by name alone, prompts of your own as a list of texts,
            rewards and monitors as names or as ``FILE.py:FUNCTION``, which permits that file's code in this
            process.

    Raises:
        VaderError: An unknown recipe, section or key, or a bad value.
    """
    layers: list[Tree] = []
    if recipe is not None:
        found = registry or load_registry()
        layers.append(read_recipe(found, recipe))
    if from_run is not None:
        layers.append(run_settings(entered(from_run)))
    given = {name: _spelled_out(name, value) for name, value in sections.items()}
    if "source" in (given.get("prompts") or {}):
        layers = [_other_prompts(layer) for layer in layers]
    layers.append(given)
    for layer in layers:
        check_keys(layer)
    return validated(merged(*layers))


def run_settings(folder: Path) -> Tree:
    """The settings of a run directory, as a tree.

    Raises:
        VaderError: Not a run directory.
    """
    if not (folder / "config.yaml").is_file():
        raise VaderError(f"{folder} is not a run directory: it has no config.yaml")
    return read_yaml(folder / "config.yaml")


def complete_stages(config: RunConfig, registry: Registry) -> RunConfig:
    """A run in stages with every stage complete.

    Args:
        config: What was asked for; left as it is.
        registry: Where the components come from.
    """
    found = []
    for stage, item in zip(stages_of(config), config.stages, strict=True):
        sections = complete(stage.config, registry).model_dump(mode="json")
        del sections["stages"]
        seam = None if item.seam is None else item.seam.model_dump()
        found.append({"name": item.name, "seam": seam, **sections})
    return validated(config.model_dump() | {"stages": found})


def _other_prompts(layer: Tree) -> Tree:
    held = layer.get("prompts")
    return {**layer, "prompts": giving_way(held)} if isinstance(held, Mapping) else layer


def _spelled_out(section: str, value: Any) -> Any:
    """Short forms: a component by its name, rewards as names."""
    if isinstance(value, str) and section in ("backbone", "sampler"):
        return {"name": value}
    if section == "prompts":
        return prompts_spelled_out(value)
    if section in ("reward", "monitor"):
        items = [value] if isinstance(value, str | Mapping) else list(value)
        return [_term(item) if isinstance(item, str) else dict(item) for item in items]
    return value


def _term(text: str) -> Tree:
    """A reward by its name, or by ``FILE.py:FUNCTION[:WEIGHT]``."""
    found = named_in_python(text)
    if found is None:
        return {"name": text}
    entry: Tree = {
        "name": found.function,
        "function_file": str(found.file),
        "function_sha256": found.checksum,
    }
    # A weight that is no number is refused with all other values.
    return {**entry, "weight": found.weight} if found.weight else entry


def complete(
    config: RunConfig, registry: Registry, *, device: torch.device | None = None, training: bool = True
) -> RunConfig:
    """The configuration with every default filled in, and gradient checkpointing decided.

    Args:
        config: What was asked for; left as it is.
        registry: Where the components come from.
        device: Where it will run; the run's own by default.
        training: Whether something is trained.

    Raises:
        VaderError: Anything in it that cannot be done, or a run in stages, each of which is a configuration.
    """
    if config.stages and training:
        raise VaderError(
            "these settings have stages, each with its own: give -o stages=[] and the settings of the stage "
            "that is meant"
        )
    device = choose_device(config) if device is None else device
    return decide_checkpointing(resolve(config, registry, device=device, training=training), registry, device)
