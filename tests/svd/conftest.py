"""A tiny model, and a picture to start from."""

from __future__ import annotations

import pytest
import torch
from vader_svd.backbone import SvdBackbone
from vader_svd.demo_images import HELD_OUT, TRAINING, render
from vader_svd.options import SvdConfig

from vader_core import Geometry, Prompt


def make(dtype=torch.float32, load=True, **options) -> SvdBackbone:
    config = SvdConfig(**{"weights": "random", "architecture": "tiny", **options})
    backbone = SvdBackbone(config, device=torch.device("cpu"), dtype=dtype)
    if load:
        backbone.load()
    return backbone


@pytest.fixture(scope="session")
def make_backbone():
    """Makes a backbone on the CPU: ``make_backbone(dtype, load=True, **options)``."""
    return make


@pytest.fixture(scope="session")
def tiny():
    """A loaded tiny model, shared: not to be changed."""
    return make()


@pytest.fixture
def geometry():
    return Geometry(32, 32, 4, 7)


@pytest.fixture(scope="session")
def prompts(tmp_path_factory):
    """Two prompts whose pictures have another shape than the video."""
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for scene in (TRAINING[1], HELD_OUT[0]):
        path = folder / f"{scene.name}.png"
        render(scene, 40, 72).save(path)
        made.append(Prompt(scene.text, image=path))
    return made
