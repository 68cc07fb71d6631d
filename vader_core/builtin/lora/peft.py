"""Peft's folder: ``adapter_model.safetensors`` and ``adapter_config.json``."""

from __future__ import annotations

from pathlib import Path

from vader_core.errors import VaderError
from vader_core.lora.adapter import load_adapter, save_adapter
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.lora.reader import CONFIG_FILE, TENSORS_FILES


class PeftFolder(LoraFormat):
    """What peft's ``save_pretrained`` writes."""

    name = "peft"

    def recognises(self, path: Path) -> bool:
        """Whether it is such a folder, or the tensors file in one."""
        return _folder(path) is not None

    def read(self, path: Path) -> Adapter:
        """Read the folder, or the folder that the tensors file lies in.

        Raises:
            VaderError: It is neither.
        """
        folder = _folder(path)
        if folder is None:
            raise VaderError(f"LoRA format 'peft': {path} is no folder with {CONFIG_FILE} in it")
        return load_adapter(folder)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write the folder ``path``.

        Raises:
            VaderError: A file is in its place.
        """
        if path.suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt"):
            raise VaderError(
                f"LoRA format 'peft' is a folder, but {path} has a file's ending: leave {path.suffix} out"
            )
        if path.exists() and not path.is_dir():
            raise VaderError(f"LoRA format 'peft' is a folder, but {path} is a file: choose another OUT")
        save_adapter(adapter, path)


def _folder(path: Path) -> Path | None:
    folder = path.parent if path.name in TENSORS_FILES[:2] else path
    return folder if (folder / CONFIG_FILE).is_file() else None
