"""Every reward, small and random, against the core's contract kit."""

from __future__ import annotations

import pytest
from vader_rewards.plugin import REWARDS

from vader_core.prompts import Prompt
from vader_core.testing.rewards import check_reward

TINY = {"weights": "random", "architecture": "tiny"}
OPTIONS = {
    "aesthetic_hps": {"aesthetic": TINY, "hps": TINY},
    "jpeg_size": {},
    # A random detector has no confident opinions.
    "object_detection": {**TINY, "mode": "encourage", "object": "dog"},
}
PROMPTS = (
    Prompt("a red boat", metadata={"label": "jogging", "object": "boat"}),
    Prompt("two dogs surfing water on a wave", metadata={"object": "dog"}),
)


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_contract(name):
    check_reward(name, OPTIONS.get(name, TINY), prompts=PROMPTS)
