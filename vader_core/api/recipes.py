"""The installed recipes."""

from __future__ import annotations

from vader_core.registry import Registry, load_registry
from vader_core.run.layers import recipes as _recipes


def recipes(registry: Registry | None = None) -> dict[str, str]:
    """Every recipe by name, with its summary.

    Args:
        registry: Where they come from; the installed plugins by default.
    """
    found = _recipes(registry or load_registry())
    return {name: str(tree.get("summary", "")) for name, tree in sorted(found.items())}
