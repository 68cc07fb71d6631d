"""Reward-gradient alignment of video diffusion models.

The public names are listed in ``__init__.pyi`` and resolved when used: ``from vader_core import hookimpl``
imports no torch.
"""

from typing import Any

import lazy_loader

_resolve, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """A public name, or the version of what is installed."""
    if name != "__version__":
        return _resolve(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vader-core")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "0.1.0"
