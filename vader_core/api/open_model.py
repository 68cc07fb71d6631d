"""A loaded model, to work with from Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vader_core.api.configure import complete
from vader_core.assembly.levers import process_switches
from vader_core.assembly.loading import full_weights, load_model
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter
from vader_core.lora.tuning import Lora
from vader_core.method.model import Model
from vader_core.paths import entered
from vader_core.registry import Registry, load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.checkpoint import newest_whole
from vader_core.run.config import RunConfig
from vader_core.run.layers import changed
from vader_core.run.stages import newest_trained
from vader_core.training.joined import agree, join
from vader_core.training.processes import SingleProcess
from vader_core.tuning.full import Full, is_full, modules_of


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


@dataclass
class Opened:
    """A loaded model that is kept for the next call that asks for the same weights and adapters.

    Args:
        key: What it was loaded from.
        model: The model.
    """

    key: Any = None
    model: Model | None = None


@dataclass(frozen=True)
class Ready:
    """A model that is checked and not loaded.

    Args:
        assembly: Prepared.
        scaled: Places and strengths of what was asked for as ``--lora``.
        full: The checkpoint of full weights, where that is what was asked for.
        adapters: What was asked for else, by its words.
    """

    assembly: Assembly
    scaled: tuple[tuple[str, float], ...]
    full: Path | None
    adapters: tuple[tuple[str, Adapter], ...]

    def attach(self, assembly: Assembly) -> None:
        """Put what was asked for on the loaded backbone."""
        if self.full is not None:
            weights = full_weights(assembly.backbone, modules_of(self.full))
            weights.load(self.full)
            assembly.model.tuning = weights
        elif self.adapters:
            (what, first), *others = self.adapters
            tuning = Lora(assembly.backbone.denoiser, start=first, what=f"--lora {what}")
            for number, (name, adapter) in enumerate(others, start=2):
                tuning.add(f"lora{number}", adapter, 1.0, what=f"--lora {name}")
            assembly.model.tuning = tuning


def ready_to_open(config: RunConfig, lora: str | Sequence[str], registry: Registry) -> Ready:
    """Check what can be checked of :func:`open_assembly` without weights.

    Args:
        config: What was asked for.
        lora: As for :func:`open_model`.
        registry: Where the components come from.

    Raises:
        VaderError: Anything that cannot be done.
    """
    given = [lora] if isinstance(lora, str) else list(lora)
    # Read before the model is built: a file that is no adapter ends the command at once.
    scaled = [scaled_lora(text) for text in given]
    full = [place for text, _ in scaled if (place := full_checkpoint(text)) is not None]
    if full and len(scaled) > 1:
        raise VaderError("--lora: a run of --tune full is a whole model, so no adapter stands beside it")
    adapters = [] if full else [(text, find_adapter(text, registry)) for text, _ in scaled]
    config = changed(config, tuning={"kind": "lora", "modules": None})
    assembly = prepare(complete(config, registry, training=False), registry)
    return Ready(assembly, tuple(scaled), next(iter(full), None), tuple(adapters))


def open_assembly(
    config: RunConfig,
    lora: str | Sequence[str],
    registry: Registry,
    opened: Opened | None = None,
) -> Assembly:
    """The loaded parts of ``config``, with the adapters attached; nothing is trained.

    Args:
        config: What was asked for.
        lora: As for :func:`open_model`; the first stands where training would put its own.
        registry: Where the components come from.
        opened: The model that it holds is taken where it is the one that is asked for; otherwise it is let go
            before this one is loaded, and holds this one afterwards.
    """
    return _loaded(ready_to_open(config, lora, registry), opened)


def open_together(
    config: RunConfig,
    lora: str | Sequence[str],
    registry: Registry,
    opened: Opened | None = None,
    *,
    out: Path | None = None,
) -> tuple[Assembly, SingleProcess]:
    """The same with the processes that a launcher started, which share the work and perhaps the model.

    Args:
        config: What was asked for; its ``parallel`` says what is shared.
        lora: As for :func:`open_assembly`.
        registry: Where the components come from.
        opened: Likewise; left alone where there are several processes.
        out: Where the results go, the same everywhere.

    Raises:
        VaderError: They were not started with the same words.
    """
    ready = ready_to_open(config, lora, registry)
    processes = join(ready.assembly)
    agree(processes, ready.assembly.config, Path() if out is None else out)
    ready.assembly.mesh = processes.mesh
    with processes.together():
        return _loaded(ready, opened if processes.layout.world == 1 else None), processes


def _loaded(ready: Ready, opened: Opened | None) -> Assembly:
    assembly, strengths = ready.assembly, [scale for _, scale in ready.scaled]
    key = _key(assembly, [place for place, _ in ready.scaled])
    if opened is not None and opened.key == key and opened.model is not None:
        kept = opened.model
        assembly.model = replace(assembly.model, backbone=kept.backbone, tuning=kept.tuning)
        set_strengths(assembly, strengths)
        return assembly
    if opened is not None:
        opened.key = opened.model = None
    load_model(assembly, ready.attach, later=ready.full is None)
    set_strengths(assembly, strengths)
    if opened is not None:
        opened.key, opened.model = key, assembly.model
    return assembly


def set_strengths(assembly: Assembly, scales: Sequence[float]) -> None:
    """Let the adapters of an opened model count so many times from now on, in the order they were given."""
    tuning = assembly.model.tuning
    if isinstance(tuning, Lora):
        tuning.set_strength(scales[0])
        for name, scale in zip(tuning.beside, scales[1:], strict=True):
            tuning.set_scale(name, scale)
    elif isinstance(tuning, Full):
        tuning.set_strength(scales[0])


@contextmanager
def all_off(assembly: Assembly) -> Iterator[None]:
    """Within, no adapter counts, neither the first nor those beside it."""
    tuning = assembly.model.tuning
    with ExitStack() as stack:
        stack.enter_context(tuning.off())
        if isinstance(tuning, Lora):
            for name in tuning.beside:
                stack.enter_context(tuning.with_scale(name, 0.0))
        yield


def _key(assembly: Assembly, places: Sequence[str]) -> tuple[Any, ...]:
    """What a loaded model depends on: not the prompts, the size or the sampling."""
    tree = assembly.config.model_dump(mode="json")
    precision = tree["trainer"]["precision"]
    return (
        str(assembly.device),
        repr((tree["backbone"], tree["performance"], precision)),
        tuple((place, _files_of(place)) for place in places),
    )


def _files_of(place: str) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files that an adapter is read from; empty for one of the hub."""
    path = entered(place)
    if place.startswith("hub:") or not path.exists():
        return ()
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    return tuple((str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in files if one.is_file())


def full_checkpoint(text: str) -> Path | None:
    """The checkpoint of full weights that a ``--lora`` value means: a folder of one, or a run's newest."""
    folder = entered(text)
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
