"""What plugin authors and this project test with: a tiny backbone, two rewards, and the conformance kit.

The names are listed in ``__init__.pyi`` and resolved when used, so that importing a plugin module beside
this package costs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
