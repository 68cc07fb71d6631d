"""The contracts' own clauses."""

from __future__ import annotations

import pytest

from vader_core.geometry import GeometryRequest
from vader_core.testing.backbones import backbone_clauses, backbone_subject
from vader_core.testing.samplers import sampler_clauses, sampler_subject

OPTIONS = {"weights": "random", "architecture": "tiny"}


@pytest.fixture(scope="module")
def backbone_case():
    return backbone_subject("videocrafter", OPTIONS, geometry=GeometryRequest(16, 24, 3))


@pytest.mark.slow_cases("bfloat16", "checkpointing", "swapping", "chosen_gradient", "gradient_to_lora")
@pytest.mark.parametrize("clause", backbone_clauses(), ids=str)
def test_backbone(backbone_case, clause):
    assert clause.require(backbone_case)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("clause", sampler_clauses(), ids=str)
def test_sampler(clause, eta):
    assert clause.require(sampler_subject("ddim_videocrafter", {"eta": eta}))
