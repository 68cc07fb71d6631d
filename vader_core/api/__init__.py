"""What can be asked for, as functions: they print nothing, and report to a listener."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
