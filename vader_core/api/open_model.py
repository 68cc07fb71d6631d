"""A loaded model, to work with from Python."""

from __future__ import annotations

from collections.abc import Sequence

from vader_core.api.configure import complete
from vader_core.assembly.loading import load_backbone
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.errors import VaderError
from vader_core.lora.tuning import Lora
from vader_core.method.model import Model
from vader_core.registry import Registry, load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.config import RunConfig


def open_model(
    config: RunConfig, *, lora: str | Sequence[str] = (), registry: Registry | None = None
) -> Model:
    """Load the model of ``config``: ``condition``, ``rollout``, ``decode`` and ``tuning`` then work.

    Args:
        config: What was asked for.
        lora: Adapters, each ``L[:SCALE]`` with L a run directory, a path or ``hub:REPO[/FILE]``.
        registry: Where the components come from; the installed plugins by default.

    Raises:
        VaderError: Anything that cannot be done.
    """
    return open_assembly(config, lora, registry or load_registry()).model


def open_assembly(config: RunConfig, lora: str | Sequence[str], registry: Registry) -> Assembly:
    """The loaded parts of ``config``, with the adapters attached; nothing is trained.

    Args:
        config: What was asked for.
        lora: As for :func:`open_model`; the first stands where training would put its own.
        registry: Where the components come from.
    """
    given = [lora] if isinstance(lora, str) else list(lora)
    # Read before the model is built: a file that is no adapter ends the command at once.
    adapters = [(text, find_adapter(text, registry), scale) for text, scale in map(scaled_lora, given)]
    assembly = prepare(complete(config, registry, training=False), registry)
    load_backbone(assembly)
    if adapters:
        (what, first, scale), *others = adapters
        tuning = Lora(assembly.backbone.denoiser, start=first, what=f"--lora {what}")
        tuning.set_strength(scale)
        for number, (name, adapter, factor) in enumerate(others, start=2):
            tuning.add(f"lora{number}", adapter, factor, what=f"--lora {name}")
        assembly.model.tuning = tuning
    return assembly


def scaled_lora(text: str) -> tuple[str, float]:
    """Read ``L[:SCALE]``.

    >>> scaled_lora("runs/a:0.55"), scaled_lora("hub:me/lora"), scaled_lora("runs/a")
    (('runs/a', 0.55), ('hub:me/lora', 1.0), ('runs/a', 1.0))
    """
    place, colon, scale = text.rpartition(":")
    if not colon or not place:
        return text, 1.0
    try:
        factor = float(scale)
    except ValueError:
        return text, 1.0
    if factor != factor or factor in (float("inf"), float("-inf")):
        raise VaderError(f"--lora {text}: the scale {scale!r} is not a finite number")
    return place, factor
