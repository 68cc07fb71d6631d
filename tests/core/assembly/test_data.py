"""Clips are refused before anything is loaded where the run cannot use their size."""

import pytest

from vader_core.api.configure import complete, configure
from vader_core.assembly.data import _check_size
from vader_core.assembly.prepare import prepare
from vader_core.errors import VaderError
from vader_core.geometry import Geometry


def test_clips_whose_tokens_do_not_divide_are_refused(registry):
    config = configure(
        registry=registry,
        backbone={"name": "wan", "weights": "random", "architecture": "tiny"},
        prompts="text:a dog",
        trainer={"device": "cpu"},
    )
    backbone = prepare(complete(config, registry, training=False), registry).backbone
    odd = Geometry(48, 48, 1, 16.0)  # 9 tokens
    _check_size(backbone, odd, 1)
    _check_size(backbone, Geometry(48, 64, 1, 16.0), 2)
    with pytest.raises(VaderError, match=r"clips of 48x48.*parallel.context=2 does not divide the 9 tokens"):
        _check_size(backbone, odd, 2)
