"""Modules of Triton programs on paper: what they allocate, without Triton and without a launch."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any


class _Launchless(ModuleType):
    """Stands for Triton: whatever is asked of it is there, and no program does anything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Launchless(name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __getitem__(self, grid: Any) -> Any:
        return self


@cache
def without_launches(name: str) -> ModuleType:
    """A copy of a module of Triton programs that allocates as it does and launches nothing.

    Args:
        name: The module's, in full.
    """
    package = sys.modules[name.rpartition(".")[0]]
    siblings = ("triton_programs", name.rpartition(".")[2])
    triton, language = _Launchless("triton"), _Launchless("triton.language")
    vars(triton)["next_power_of_2"] = lambda value: 1 << (value - 1).bit_length()
    stands = {"triton": triton, "triton.language": language}
    taken = {**stands, **{f"{package.__name__}.{sibling}": None for sibling in siblings}}
    before = {place: sys.modules.pop(place, None) for place in taken}
    held = {sibling: vars(package).pop(sibling, None) for sibling in siblings}
    sys.modules.update(stands)
    try:
        return import_module(name)
    finally:
        for places, kept in ((sys.modules, before), (vars(package), held)):
            for place, module in kept.items():
                places.pop(place, None)
                if module is not None:
                    places[place] = module
