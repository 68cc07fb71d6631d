"""A plugin module that imports torch while it is listed."""

import torch

from vader_core.hookspecs import hookimpl
from vader_core.testing.tiny import BrightnessReward


def make(config, *, device, dtype):
    return BrightnessReward()


@hookimpl
def register_rewards(register):
    register("brightness", make, summary=f"made with torch {torch.__version__.split('.')[0]}")
