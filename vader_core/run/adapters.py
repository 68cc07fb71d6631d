"""Where a LoRA is found: a run directory, a folder, a file of any known format, or the hub."""

from __future__ import annotations

from pathlib import Path

from vader_core.errors import VaderError
from vader_core.lora.adapter import CONFIG_FILE, load_adapter
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.registry import Registry
from vader_core.weights import WeightFile, fetch, parse_weights


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
        path = Path(text).expanduser()
        if not path.exists():
            raise VaderError(
                f"--lora {text}: no such file or folder; give a run directory, a path, or hub:REPO[/FILE]"
            )
        return path
    source = parse_weights(text)
    wanted = WeightFile(source.repository, source.file, source.revision)
    return fetch(wanted, needed_for="--lora", option="--lora PATH")


def read_adapter(path: Path, registry: Registry) -> Adapter:
    """Read a run directory, a peft folder, or a file of any registered format."""
    if path.is_dir():
        if (path / CONFIG_FILE).is_file():
            return load_adapter(path)
        from vader_core.run.checkpoint import newest_whole

        place, faults = newest_whole(path / "checkpoints")
        if place is None:
            detail = f" ({'; '.join(faults)})" if faults else ""
            raise VaderError(f"--lora {path}: neither {CONFIG_FILE} nor a whole checkpoint is in it{detail}")
        return load_adapter(place)
    formats = [announced.resolve()() for announced in registry.lora_formats.values()]
    for format_ in formats:
        if format_.recognises(path):
            return format_.read(path)
    known = ", ".join(sorted(registry.lora_formats)) or "none"
    raise VaderError(f"--lora {path}: a file of no known LoRA format (installed formats: {known})")


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
