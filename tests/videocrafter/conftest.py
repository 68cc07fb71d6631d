"""Lets these tests say ``from tiny_videocrafter import make_backbone``, and gives them a loaded backbone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vader_videocrafter.backbone import VideoCrafter

_FOLDER = str(Path(__file__).resolve().parent)
if _FOLDER not in sys.path:
    sys.path.insert(0, _FOLDER)


@pytest.fixture
def backbone() -> VideoCrafter:
    from tiny_videocrafter import make_backbone

    made = make_backbone()
    made.load()
    return made
