"""Reward-gradient alignment of video diffusion models.

The public names are listed in ``__init__.pyi`` and resolved when used: ``from vader_core import hookimpl``
imports no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
