"""The backbone on its tiny random model."""

from __future__ import annotations

import pytest
import torch
from vader_opensora.backbone import OpenSora
from vader_opensora.options import OpenSoraOptions

from vader_core.geometry import Geometry, GeometryRequest
from vader_core.testing.backbones import backbone_clauses, backbone_subject
from vader_core.testing.samplers import check_sampler

OPTIONS = {"weights": "random", "architecture": "tiny"}
SMALL = Geometry(height=32, width=48, num_frames=17, fps=24.0)


def make(dtype=torch.float32, **options) -> OpenSora:
    backbone = OpenSora(OpenSoraOptions(**{**OPTIONS, **options}), device=torch.device("cpu"), dtype=dtype)
    backbone.load()
    return backbone


def bare(**options) -> OpenSora:
    return OpenSora(OpenSoraOptions(**options), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def subject():
    request = GeometryRequest(SMALL.height, SMALL.width, SMALL.num_frames, SMALL.fps)
    return backbone_subject("opensora", OPTIONS, geometry=request)


@pytest.fixture(scope="module")
def backbone():
    return make()


@pytest.mark.parametrize("clause", backbone_clauses(), ids=str)
def test_conformance(clause, subject):
    clause.require(subject)


def test_sampler_conformance():
    check_sampler("rflow")
