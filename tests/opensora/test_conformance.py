"""Backbone and sampler against their contracts."""

from __future__ import annotations

import pytest
from tiny_opensora import OPTIONS, SMALL

from vader_core.geometry import GeometryRequest
from vader_core.testing.backbones import backbone_clauses, backbone_subject
from vader_core.testing.samplers import sampler_clauses, sampler_subject


@pytest.fixture(scope="module")
def subject():
    request = GeometryRequest(SMALL.height, SMALL.width, SMALL.num_frames, SMALL.fps)
    return backbone_subject("opensora", OPTIONS, geometry=request)


@pytest.mark.slow_cases("bfloat16", "checkpointing", "swapping", "chosen_gradient", "gradient_to_lora")
@pytest.mark.parametrize("clause", backbone_clauses(), ids=str)
def test_backbone(clause, subject):
    clause.require(subject)


@pytest.mark.parametrize("options", [{}, {"timestep_transform": False}], ids=["shifted", "even"])
@pytest.mark.parametrize("clause", sampler_clauses(), ids=str)
def test_sampler(clause, options):
    clause.require(sampler_subject("rflow", options))
