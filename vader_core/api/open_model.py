"""A loaded model, to work with from Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vader_core.api.configure import complete
from vader_core.assembly.levers import process_switches
from vader_core.assembly.loading import full_weights, load_backbone
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.errors import VaderError
from vader_core.lora.tuning import Lora
from vader_core.method.model import Model
from vader_core.registry import Registry, load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.checkpoint import newest_whole
from vader_core.run.config import RunConfig
from vader_core.run.layers import changed
from vader_core.run.stages import newest_trained
from vader_core.tuning.full import is_full, modules_of


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
    assembly = open_assembly(config, lora, registry or load_registry())
    model, own = assembly.model, assembly.model.autocast

    @contextmanager
    def as_configured() -> Iterator[None]:
        """The process's switches are the model's own while it computes, and the caller's in between."""
        with process_switches(assembly.config), own():
            yield

    model.autocast = as_configured
    return model


def open_assembly(config: RunConfig, lora: str | Sequence[str], registry: Registry) -> Assembly:
    """The loaded parts of ``config``, with the adapters attached; nothing is trained.

    Args:
        config: What was asked for.
        lora: As for :func:`open_model`; the first stands where training would put its own.
        registry: Where the components come from.
    """
    given = [lora] if isinstance(lora, str) else list(lora)
    # Read before the model is built: a file that is no adapter ends the command at once.
    scaled = [scaled_lora(text) for text in given]
    full = [(place, scale) for text, scale in scaled if (place := full_checkpoint(text)) is not None]
    if full and len(scaled) > 1:
        raise VaderError("--lora: a run of --tune full is a whole model, so no adapter stands beside it")
    adapters = [] if full else [(text, find_adapter(text, registry), scale) for text, scale in scaled]
    config = changed(config, tuning={"kind": "lora", "modules": None})
    assembly = prepare(complete(config, registry, training=False), registry)
    load_backbone(assembly)
    for place, scale in full:
        weights = full_weights(assembly.backbone, modules_of(place))
        weights.load(place)
        weights.set_strength(scale)
        assembly.model.tuning = weights
    if adapters:
        (what, first, scale), *others = adapters
        tuning = Lora(assembly.backbone.denoiser, start=first, what=f"--lora {what}")
        tuning.set_strength(scale)
        for number, (name, adapter, factor) in enumerate(others, start=2):
            tuning.add(f"lora{number}", adapter, factor, what=f"--lora {name}")
        assembly.model.tuning = tuning
    return assembly


def full_checkpoint(text: str) -> Path | None:
    """The checkpoint of full weights that a ``--lora`` value means: a folder of one, or a run's newest."""
    folder = Path(text).expanduser()
    if not folder.is_dir():
        return None
    place = folder if is_full(folder) else newest_whole(newest_trained(folder) / "checkpoints")[0]
    return place if place is not None and is_full(place) else None


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
