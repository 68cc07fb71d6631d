"""At which noise levels a model is trained."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.geometry import Geometry
from vader_core.schedule import RectifiedFlow


def spread_timesteps(
    backbone: Backbone, geometry: Geometry, uniform: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Timesteps as the schedule spreads them in training, with the backbone's own shift for that size.

    Args:
        backbone: Says the schedule and the shift.
        geometry: Of the videos.
        uniform: In [0, 1), from little noise to much, float64.
    """
    schedule = backbone.schedule_for(geometry)
    timestep = schedule.training_timesteps(uniform)
    ratio = backbone.training_shift(geometry)
    if ratio == 1.0 or not isinstance(schedule, RectifiedFlow):
        return timestep
    share = timestep / schedule.num_train_timesteps
    return schedule.num_train_timesteps * ratio * share / (1 + (ratio - 1) * share)
