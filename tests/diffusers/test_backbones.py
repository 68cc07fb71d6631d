"""The families against the backbone contract, at tiny sizes with random weights."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from vader_core.geometry import GeometryRequest
from vader_core.testing import check_backbone

_SPEC = importlib.util.spec_from_file_location(
    "tiny_pipelines", Path(__file__).with_name("tiny_pipelines.py")
)
tiny_pipelines = sys.modules.setdefault("tiny_pipelines", importlib.util.module_from_spec(_SPEC))
if not hasattr(tiny_pipelines, "build"):
    _SPEC.loader.exec_module(tiny_pipelines)

torch.set_num_threads(1)

MODELS = [
    ("wan", "tiny"),
    ("wan", "tiny-a14b"),
    pytest.param("wan", "tiny-5b", marks=pytest.mark.soak),
    ("wan_i2v", "tiny"),
    pytest.param("wan_i2v", "tiny-5b", marks=pytest.mark.soak),
    ("ltx", "tiny"),
    pytest.param("ltx", "tiny-0.9.7", marks=pytest.mark.soak),
    ("ltx2", "tiny-2.3"),
    ("cogvideox", "tiny"),
    pytest.param("cogvideox", "tiny-1.5", marks=pytest.mark.soak),
    ("hunyuan_video", "tiny"),
    ("hunyuan_video15", "tiny"),
]


@pytest.mark.quick_cases("wan-tiny", "ltx-tiny")
@pytest.mark.parametrize(("backbone", "model"), MODELS, ids=lambda value: value)
def test_contract(backbone, model):
    short = {} if backbone in ("wan_i2v", "cogvideox") else {"max_sequence_length": 16}  # written into those
    check_backbone(backbone, {"weights": "random", "model": model, **short})


@pytest.mark.slow
def test_contract_of_a_traced_pipeline(tmp_path):
    path = tiny_pipelines.build("wan", "tiny", tmp_path)
    request = GeometryRequest(height=32, width=32, num_frames=9)
    check_backbone("diffusers", {"weights": str(path)}, geometry=request)
