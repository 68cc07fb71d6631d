"""The contract's own clauses."""

from __future__ import annotations

import pytest

from vader_core.geometry import GeometryRequest
from vader_core.testing.backbones import backbone_clauses, backbone_subject

OPTIONS = {"weights": "random", "architecture": "tiny"}


@pytest.fixture(scope="module")
def subject():
    return backbone_subject("videocrafter", OPTIONS, geometry=GeometryRequest(16, 24, 3))


@pytest.mark.parametrize("clause", backbone_clauses(), ids=str)
def test_backbone(subject, clause):
    assert clause.require(subject)
