"""Backbone and samplers against their contracts."""

from __future__ import annotations

import pytest
from tiny_easyanimate import OPTIONS, SMALL

from vader_core.geometry import GeometryRequest
from vader_core.testing.backbones import backbone_clauses, backbone_subject
from vader_core.testing.samplers import sampler_clauses, sampler_subject


@pytest.fixture(scope="module")
def subject():
    request = GeometryRequest(SMALL.height, SMALL.width, SMALL.num_frames, SMALL.fps)
    return backbone_subject("easyanimate", OPTIONS, geometry=request)


@pytest.mark.slow_cases(
    "bfloat16",
    "checkpointing",
    "swapping",
    "chosen_gradient",
    "encoding",
    "gradient_to_lora",
    "chosen_frames",
)
@pytest.mark.parametrize("clause", backbone_clauses(), ids=str)
def test_backbone(clause, subject):
    clause.require(subject)


@pytest.mark.parametrize("name", ["euler_ancestral", "pndm", "easyanimate_ddim"])
@pytest.mark.parametrize("clause", sampler_clauses(), ids=str)
def test_sampler(clause, name):
    clause.require(sampler_subject(name, {}))
