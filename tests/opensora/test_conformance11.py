"""The backbone `opensora11` against its contract, and its default sampler and prompts."""

from __future__ import annotations

import pytest
from tiny_opensora11 import OPTIONS, SMALL

from vader_core.geometry import GeometryRequest
from vader_core.testing.backbones import backbone_clauses, backbone_subject
from vader_core.testing.prompt_sources import check_prompt_source
from vader_core.testing.samplers import sampler_clauses, sampler_subject


@pytest.fixture(scope="module")
def subject():
    request = GeometryRequest(SMALL.height, SMALL.width, SMALL.num_frames, SMALL.fps)
    return backbone_subject("opensora11", OPTIONS, geometry=request)


@pytest.mark.parametrize("clause", backbone_clauses(), ids=str)
def test_backbone(clause, subject):
    clause.require(subject)


@pytest.mark.parametrize("options", [{}, {"table_dtype": "float32"}], ids=["float64", "float32"])
@pytest.mark.parametrize("clause", sampler_clauses(), ids=str)
def test_sampler(clause, options):
    clause.require(sampler_subject("iddpm", options))


def test_prompts():
    check_prompt_source("toy_bricks")
