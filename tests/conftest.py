"""What every test needs: modules of helpers, the slow cases, the order of the files, the garbage collector.

Tests can say ``from reference_loop import by_hand``.
"""

from __future__ import annotations

import gc
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

_FOLDER = str(Path(__file__).resolve().parent)
if _FOLDER not in sys.path:
    sys.path.insert(0, _FOLDER)

#: Files of 15 seconds and more in `make test` or `make slow`. They are handed out first, so that no worker
#: ends alone with one of them.
LONGEST = (
    "core/profiling/test_estimate.py",
    "core/parallel/test_shared_sampling.py",
    "core/parallel/test_parallel.py",
    "core/test_conformance.py",
    "workspace/test_tutorial.py",
    "core/training/test_processes.py",
    "parity/test_data.py",
    "parity/test_diffusers.py",
    "demo/test_exactness.py",
    "core/test_faults.py",
    "diffusers/test_backbones.py",
    "studio/test_end_to_end.py",
    "studio/test_pages.py",
    "docs/test_pages.py",
    "core/profiling/test_estimate_families.py",
    "core/test_any_configuration.py",
    "workspace/test_wheels.py",
    "rewards/test_conformance.py",
    "data/test_run.py",
    "core/profiling/test_estimate_processes.py",
    "core/test_resume.py",
    "svd/test_backbone.py",
    "parity/test_easyanimate.py",
    "easyanimate/test_conformance.py",
    "core/api/test_python_page.py",
    "core/test_cli_information.py",
    "core/method/test_nft.py",
    "core/test_listing.py",
)


@pytest.hookimpl(tryfirst=True)  # before `-m` looks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the slow cases, and puts the longest files first."""
    unknown = _mark_slow_cases(items)
    if unknown and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"quick_cases or slow_cases that are none: {', '.join(sorted(unknown))}")
    places = {str(Path(_FOLDER, name)): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(str(item.path), len(LONGEST)))


def _mark_slow_cases(items: list[pytest.Item]) -> set[str]:
    """Follows `quick_cases` and `slow_cases`; the patterns of theirs that no test's case is like."""
    seen: dict[str, bool] = {}
    for item in items:
        for mark in [*item.iter_markers("quick_cases"), *item.iter_markers("slow_cases")]:
            case = item.callspec.id  # type: ignore[attr-defined]
            like = [pattern for pattern in mark.args if fnmatchcase(case, pattern)]
            if bool(like) == (mark.name == "slow_cases"):
                item.add_marker("slow")
            for pattern in mark.args:
                name = f"{pattern} of {item.nodeid.partition('[')[0]}"
                seen[name] = seen.get(name, False) or pattern in like
    return {name for name, found in seen.items() if not found}


def pytest_collection_finish() -> None:
    """What the collected modules imported stays: a look through half a million objects takes 0.4 seconds."""
    gc.collect()
    gc.freeze()
