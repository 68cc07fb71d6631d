"""The published repositories whose JSON files ship with the plugin, and tiny models of the same kinds.

So sizes, plans and estimates work without a network and without a weight on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError, near

_FOLDER = Path(__file__).parent / "published"


#: The model that ``pretrained`` means by itself, by backbone.
DEFAULT = {
    "wan": "2.1-1.3b",
    "wan_i2v": "2.1-14b-480p",
    "ltx": "2b",
    "ltx2": "2.0",
    "cogvideox": "2b",
    "hunyuan_video": "13b",
    "hunyuan_video15": "480p-t2v",
}


@dataclass(frozen=True)
class Published:
    """A model that a backbone knows by name.

    Args:
        name: For ``-o backbone.model=NAME``.
        repository: On the hub; ``None`` for a tiny model, which has random weights alone.
        licence: As its authors call it.
        size: Billions of the transformer's parameters.
        note: What else a user should know.
        defaults: Geometry, steps and guidance of its authors.
        folder: The repository's JSON files: ``model_index``, and ``config`` of each component of diffusers.
        numbers: Parameters in the folders that the pipeline reads, text encoders included; 0 of a tiny one.
    """

    name: str
    repository: str | None
    licence: str
    size: float
    note: str
    defaults: Mapping[str, Any]
    folder: Mapping[str, Mapping[str, Any]]
    numbers: int = 0


@cache
def published(backbone: str) -> dict[str, Published]:
    """Every model of a backbone by name, the published ones first."""
    found = [
        Published(path.stem, **json.loads(path.read_text(encoding="utf-8")))
        for path in sorted((_FOLDER / backbone).glob("*.json"))
    ]
    return {model.name: model for model in sorted(found, key=lambda model: model.repository is None)}


def named(backbone: str, name: str) -> Published:
    """One of a backbone's models.

    Raises:
        VaderError: There is none of that name; the message lists them.
    """
    models = published(backbone)
    if name not in models:
        close = near(name, list(models))
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise VaderError(
            f"backbone {backbone!r} has no model {name!r}{hint}; it knows {', '.join(models)}. Any other "
            "folder in diffusers' layout goes to --weights"
        )
    return models[name]


def alike(backbone: str, folder: Mapping[str, Mapping[str, Any]], *, place: str = "") -> Published | None:
    """The published model whose denoisers a folder has, for its authors' defaults.

    Of several, the one that the folder is named after, else the one with the most other parts in common.

    Args:
        backbone: The registered name.
        folder: Its JSON files.
        place: Its path or repository.
    """
    found = []
    for model in published(backbone).values():
        parts = [part for part in model.folder if part.startswith("transformer")]
        if all(_same(model.folder[part], folder.get(part)) for part in parts):
            common = sum(_same(config, folder.get(part)) for part, config in model.folder.items())
            called = bool(model.repository) and str(model.repository).rpartition("/")[2] in place
            found.append((called, common, model))
    return max(found, key=lambda entry: entry[:2])[2] if found else None


def _same(known: Mapping[str, Any], given: Mapping[str, Any] | None) -> bool:
    """Whether a folder's configuration says what the known one does; later versions write more settings."""
    return given is not None and all(
        _plain(value) == _plain(known[name]) for name, value in given.items() if name in known
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
