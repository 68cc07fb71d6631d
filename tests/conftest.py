"""Lets tests say ``from reference_loop import by_hand``; keeps the garbage collector off what is imported."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

_FOLDER = str(Path(__file__).resolve().parent)
if _FOLDER not in sys.path:
    sys.path.insert(0, _FOLDER)


def pytest_collection_finish() -> None:
    """What the collected modules imported stays: a look through half a million objects takes 0.4 seconds."""
    gc.collect()
    gc.freeze()
