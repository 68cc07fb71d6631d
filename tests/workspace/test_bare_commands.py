"""A backbone and a reward are enough: each first-party backbone that starts from text has prompts."""

from __future__ import annotations

import pytest
import torch

from vader_core.first_party import FIRST_PARTY
from vader_core.registry import load_registry

#: The traced one knows its family from a folder alone.
NAMES = sorted({name for kinds in FIRST_PARTY.values() for name in kinds.get("backbone", ())} - {"diffusers"})


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_that_starts_from_text_has_prompts(name: str) -> None:
    registry = load_registry()
    made = registry.get("backbone", name).make({}, device=torch.device("meta"), dtype=torch.float32)
    if not (made.needs_image and made.defaults.prompts is None):
        registry.get("prompt source", str(made.defaults.prompts))
