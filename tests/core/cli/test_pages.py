"""Whoever looks for a page in the browser is told where it is."""

from __future__ import annotations

import pytest

import vader_core.registry
from vader_core.cli import run
from vader_core.registry import Registry


@pytest.mark.parametrize("name", ["studio", "ui"])
def test_the_studio_is_named_with_what_brings_it(name, monkeypatch, capsys):
    monkeypatch.setattr(vader_core.registry, "load_registry", Registry)
    assert run([name]) == 2
    assert "it comes with vader-studio: pip install ./plugins/vader-studio" in capsys.readouterr().err
