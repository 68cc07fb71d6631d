"""Where a LoRA is found: a run directory, a folder, a file of any known format, or the hub."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vader_core.component import told
from vader_core.errors import VaderError
from vader_core.lora.adapter import load_adapter
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.lora.names import COMPONENTS
from vader_core.lora.nearest import near_words, nearest
from vader_core.lora.reader import CONFIG_FILE, TENSORS_FILES, is_lora, read_lora
from vader_core.paths import entered
from vader_core.registry import Registry
from vader_core.tensor_files import kind_of
from vader_core.weights import WeightFile, fetch, in_brackets, parse_weights, tensor_names
from vader_core.wrappings import refuse_not_finite

#: Diffusers puts its pipeline's component before every name.
_PIPELINE = tuple(f"{component}." for component in COMPONENTS)


def find_adapter(text: str, registry: Registry) -> Adapter:
    """Read a ``--lora`` value: a run directory, a peft folder, a file, or hub:REPO[/FILE].

    Of a run directory the newest whole checkpoint is taken.

    Raises:
        VaderError: Nothing there, or a file of no known format.
    """
    return read_adapter(locate_adapter(text), registry)


def locate_adapter(text: str) -> Path:
    """The local file or folder that a ``--lora`` value means."""
    if not text.startswith("hub:"):
        path = entered(text)
        if not path.exists():
            raise VaderError(
                f"--lora {text}: no such file or folder; give a run directory, a path, or hub:REPO[/FILE]"
            )
        return path
    source = parse_weights(text)
    wanted = WeightFile(source.repository, source.file, source.revision)
    return fetch(wanted, needed_for="--lora", option="--lora PATH")


def read_adapter(path: Path, registry: Registry) -> Adapter:
    """Read a run directory, a folder with a LoRA, or a file of any registered or common format.

    A plugin's own format goes before the common ones, for it may know more: an alpha that is never stored.

    Raises:
        VaderError: It is none, or it holds numbers that are not finite.
    """
    adapter = _read(path, registry)
    refuse_not_finite(adapter.tensors, what=f"--lora {path}")
    return adapter


def _read(path: Path, registry: Registry) -> Adapter:
    if path.is_dir():
        return load_adapter(_folder_of(path))
    names = tensor_names(path)
    of_peft = path.name in TENSORS_FILES and (path.parent / CONFIG_FILE).is_file()
    of_pipeline = is_lora(path) and all(name.startswith(_PIPELINE) for name in names)
    if of_peft:  # it says by itself what it is
        return read_lora(path)
    if of_pipeline:
        pipeline: Adapter = registry.lora_formats["diffusers"].resolve()().read(path)
        return pipeline
    own, broken = _recognising(path, registry)
    if own is not None:
        return own.read(path)
    if is_lora(path):
        try:
            return read_lora(path)
        except VaderError as error:
            near = near_words(_near(names, registry))
            if not near:
                raise
            raise VaderError(f"{error}{near}") from error
    kind_of(path, needed_for=f"--lora {path}")
    known = ", ".join(sorted(registry.lora_formats)) or "none"
    first = f"its first tensor is {next(iter(names))!r}" if names else "it holds no tensors by name"
    raise VaderError(
        f"--lora {path}: a file of no known LoRA format: {first} (installed formats: {known}; known as well: "
        "kohya, ComfyUI, peft's .bin)"
        + near_words(_near(names, registry))
        + "".join(f"; {one}" for one in broken)
    )


def _near(names: Iterable[str], registry: Registry) -> tuple[str, list[str]] | None:
    """The installed format that knows all but a few of the names."""
    asked = []
    for announced in registry.lora_formats.values():
        if announced.plugin != "builtin":
            with suppress(Exception):  # the plugin border, as above
                asked.append(announced.resolve()())
    return nearest(list(names), asked)


def _recognising(path: Path, registry: Registry) -> tuple[LoraFormat | None, list[str]]:
    """The plugin's own format that knows the file, and what is wrong with those that could not be asked."""
    broken: list[str] = []
    for announced in registry.lora_formats.values():
        if announced.plugin == "builtin":
            continue
        try:
            format_: LoraFormat = announced.resolve()()
            if format_.recognises(path):
                return format_, broken
        except Exception as error:  # the plugin border: one broken format must not keep the others' files out
            broken.append(f"format {announced.name!r} cannot be asked: {told(error)}")
    return None, broken


def backbone_of(path: Path, registry: Registry) -> str | None:
    """The backbone whose own format a LoRA file is written in; ``None`` where several models share it."""
    own, _ = _recognising(path, registry)
    return own.name if own is not None and own.name in registry.components["backbone"] else None


def _folder_of(path: Path) -> Path:
    """The folder that holds the adapter: ``path`` itself, or a run's newest whole checkpoint."""
    from vader_core.run.checkpoint import newest_whole
    from vader_core.run.stages import newest_trained

    if is_lora(path):
        return path
    place, faults = newest_whole(newest_trained(path) / "checkpoints")
    if place is None:
        detail = f" ({'; '.join(faults)})" if faults else ""
        raise VaderError(
            f"--lora {path}: neither a LoRA ({', '.join(TENSORS_FILES)}) nor a whole checkpoint is in "
            f"it{detail}{in_brackets(path)}"
        )
    return place


def lora_format(name: str, registry: Registry) -> LoraFormat:
    """The registered format of that name.

    Raises:
        VaderError: None has it; lists those that are installed.
    """
    from vader_core.errors import unknown

    if name not in registry.lora_formats:
        raise unknown("LoRA format", name, registry.lora_formats)
    made: LoraFormat = registry.lora_formats[name].resolve()()
    return made
