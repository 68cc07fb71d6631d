"""Lets these tests say ``from tiny_easyanimate import …``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_FOLDER = str(Path(__file__).resolve().parent)
if _FOLDER not in sys.path:
    sys.path.insert(0, _FOLDER)


@pytest.fixture(scope="module")
def backbone():
    from tiny_easyanimate import make

    return make()
