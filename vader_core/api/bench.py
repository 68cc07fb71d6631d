"""Measure what a training step costs."""

from __future__ import annotations

from typing import Any

import torch

from vader_core.api.configure import complete
from vader_core.api.plan import plan_facts, require_trainable
from vader_core.assembly.levers import process_switches
from vader_core.assembly.prepare import prepare
from vader_core.assembly.resolve import backbone_component, choose_device
from vader_core.device import out_of_memory_named
from vader_core.errors import VaderError
from vader_core.function_files import permitted
from vader_core.profiling.bench import Bench, load, matrix_rate
from vader_core.profiling.estimate import count_operations, memory_facts
from vader_core.registry import Registry, load_registry
from vader_core.run.config import RunConfig, validated
from vader_core.run.directory import environment
from vader_core.run.layers import changed

#: Where neither the caller nor the backbone names prompts.
PROMPT = "text:a red boat on a calm lake at sunrise"


def bench(
    config: RunConfig,
    *,
    steps: int = 3,
    warmup: int = 1,
    operations: bool = True,
    kernels: bool = False,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Time optimizer steps: seconds by phase, peak memory, operations, share of the matrix rate.

    Weights that would have to be downloaded are random unless the configuration says otherwise.

    Args:
        config: What was asked for.
        steps: Measured steps.
        warmup: Steps before them.
        operations: Count operations too.
        kernels: Profile one no-grad prediction, kernel by kernel.
        registry: Where the components come from; the installed plugins by default.

    Raises:
        VaderError: Anything that cannot be done.
    """
    if steps < 1 or warmup < 0:
        raise VaderError("--steps must be 1 or more, --warmup 0 or more")
    registry = registry or load_registry()
    config = with_prompts(with_random_files(config, registry), registry)
    assembly = prepare(complete(config, registry), registry)
    require_trainable(assembly)
    facts = plan_facts(assembly, 1)
    with process_switches(assembly.config):
        load(assembly, max(1, warmup) + 2 * steps)  # timed as a whole, then phase by phase
        with out_of_memory_named("measuring"):
            found = Bench(assembly).measure(steps, warmup, kernels=kernels)
    found["training_seconds"] = facts["steps"] * found["seconds_per_step"]
    settled = assembly.config.model_dump(mode="json")
    result = {"plan": facts, **found, "environment": environment(), "config": settled}
    if operations:
        rate = matrix_rate(assembly.device, assembly.dtype)
        result |= _floor(assembly.config, registry, rate, found["seconds_per_step"])
    if assembly.device.type == "cuda":
        result |= _estimate(assembly.config, registry, found["peak_allocated_gib"])
    return result


def with_random_files(config: RunConfig, registry: Registry) -> RunConfig:
    """Random weights wherever files would be downloaded and the option was left alone."""
    if not config.reward:
        raise VaderError("no reward: give --reward NAME (`vader plugins` lists them)")
    tree = config.model_dump()
    chosen = [(backbone_component(config, registry), tree["backbone"])]
    chosen += [(permitted(registry, item), item) for item in tree["reward"]]
    for component, section in chosen:
        if component.weights and "weights" in component.config.model_fields:
            section.setdefault("weights", "random")
    return validated(tree)


def with_prompts(config: RunConfig, registry: Registry) -> RunConfig:
    """The backbone's own prompts, or a prompt of the bench's, where none are named."""
    if config.prompts.source is not None:
        return config
    component = backbone_component(config, registry)
    backbone = component.make(config.backbone.options, device=choose_device(config), dtype=torch.float32)
    return changed(config, prompts={"source": backbone.defaults.prompts or PROMPT})


def _floor(config: RunConfig, registry: Registry, rate: float, seconds: float) -> dict[str, Any]:
    """Counted operations, and the seconds that they take at the device's matrix rate."""
    counted = count_operations(config, registry)
    return {
        "tera_operations": counted / 1e12,
        "matrix_rate_tera": rate / 1e12,
        "floor_seconds": counted / rate,
        "ratio_to_floor": seconds / (counted / rate),
    }


def _estimate(config: RunConfig, registry: Registry, measured: float) -> dict[str, Any]:
    """The memory estimate, and by how much of the measured peak it is off."""
    facts = memory_facts(config, registry, validation=False)
    if facts["estimated_peak_gib"] is not None:
        facts["estimate_error"] = facts["estimated_peak_gib"] / measured - 1
    return facts
