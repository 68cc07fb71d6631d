"""How much of a reward's gradient each sampling step carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vader_core.api.bench import with_prompts
from vader_core.api.configure import complete
from vader_core.assembly.levers import process_switches
from vader_core.assembly.loading import attach, load_backbone, load_rewards
from vader_core.assembly.prepare import prepare
from vader_core.errors import VaderError
from vader_core.profiling.gradient_norms import GradientNorms, batch_of
from vader_core.registry import Registry, load_registry
from vader_core.run.config import RunConfig


def gradient_norms(
    config: RunConfig, *, last: Sequence[int] = (), registry: Registry | None = None
) -> dict[str, Any]:
    """Differentiate every sampling step on its own, and the last few together.

    Args:
        config: What was asked for; without rewards the loss is minus the brightness of the middle frame.
        last: Counts of last steps to differentiate together.
        registry: Where the components come from; the installed plugins by default.

    Returns:
        ``steps``: step, timestep and norm of each; ``last``: the norm by count.

    Raises:
        VaderError: Anything that cannot be done.
    """
    registry = registry or load_registry()
    config = complete(with_prompts(config, registry), registry, training=bool(config.reward))
    steps = int(config.sampler.num_steps or 0)
    wrong = [count for count in last if not 1 <= count <= steps]
    if wrong:
        raise VaderError(f"--last {wrong[0]} with {steps} steps: use 1 to {steps}")
    assembly = prepare(config, registry)
    load_backbone(assembly)
    attach(assembly)
    if config.reward:
        load_rewards(assembly)
    with process_switches(assembly.config), torch.enable_grad():
        measured = GradientNorms(assembly, batch_of(assembly))
        rows = [
            {"step": one.step, "timestep": one.timestep, "norm": one.norm} for one in measured.single_steps()
        ]
        together = {str(count): measured.last_steps(count) for count in last}
    return {"video": str(assembly.geometry), "steps": rows, "last": together}
