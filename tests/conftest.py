"""Lets tests say ``from reference_loop import by_hand``; the order of the files; the garbage collector."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

_FOLDER = str(Path(__file__).resolve().parent)
if _FOLDER not in sys.path:
    sys.path.insert(0, _FOLDER)

#: Files of 20 seconds and more. They are handed out first, so that no worker ends alone with one of them.
LONGEST = (
    "core/parallel/test_shared_sampling.py",
    "core/test_resume.py",
    "core/profiling/test_estimate.py",
    "core/parallel/test_parallel.py",
    "core/test_conformance.py",
    "core/training/test_processes.py",
    "rewards/test_conformance.py",
    "demo/test_exactness.py",
    "core/test_faults.py",
    "parity/test_diffusers.py",
    "core/test_training_run.py",
    "diffusers/test_backbones.py",
    "parity/test_data.py",
    "videocrafter/test_end_to_end.py",
    "docs/test_pages.py",
    "opensora/test_text_encoder.py",
    "rewards/test_batching.py",
    "workspace/test_wheels.py",
    "core/nn/test_functional.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    places = {str(Path(_FOLDER, name)): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(str(item.path), len(LONGEST)))


def pytest_collection_finish() -> None:
    """What the collected modules imported stays: a look through half a million objects takes 0.4 seconds."""
    gc.collect()
    gc.freeze()
