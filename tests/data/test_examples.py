"""The examples in docstrings say what the code does."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import vader_data

MODULES = sorted(module.name for module in pkgutil.walk_packages(vader_data.__path__, "vader_data."))


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    assert len(MODULES) > 30
