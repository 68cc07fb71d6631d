"""Open-Sora's sampler: Euler steps along a shifted rectified flow, with frame masks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import RectifiedFlow, Schedule
from vader_opensora.flow import NUM_TIMESTEPS, even_timesteps, shifted, time_shift
from vader_opensora.frame_masks import FRAME_MASK, REFERENCE, active_frames
from vader_opensora.resolutions import check_frames

#: Flags of a conditioning's shared part: some frames are edited; compare masks as the official code does.
EDITED = "edited"
STRICT_MASK = "strict_mask"


class RFlow(Sampler):
    """Rectified-flow sampling as in Open-Sora 1.2.

    Args:
        timestep_transform: Shift the timesteps by the video's size and length.
        conditioning_dtype: In which the shift is computed; float32, or bfloat16 as the official run has it.
    """

    schedules = (RectifiedFlow,)

    def __init__(
        self, *, timestep_transform: bool = True, conditioning_dtype: torch.dtype = torch.float32
    ) -> None:
        self.timestep_transform = timestep_transform
        self.conditioning_dtype = conditioning_dtype

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Timesteps (1 - i / S) N, shifted; every step goes to the next timestep, the last to 0.

        Raises:
            VaderError: Another kind of schedule, 2 … 16 frames, or a size that overflows the conditioning's
                dtype.
        """
        self.require(schedule, num_steps)
        assert isinstance(schedule, RectifiedFlow)
        unit = schedule.num_train_timesteps
        times = shifted(even_timesteps(num_steps), self._ratio(schedule, geometry)).double() / NUM_TIMESTEPS
        taus = times.tolist()
        sizes = [tau - after for tau, after in zip(taus, [*taus[1:], 0.0], strict=True)]
        return Plan(
            timesteps=tuple(float(torch.tensor(tau * unit, dtype=torch.float32)) for tau in taus),
            tables={
                "tau": tuple(taus),
                "size": tuple(sizes),
                # The official prediction points from noise to data.
                "sign": tuple(float(-schedule.velocity_sign) for _ in taus),
            },
            prediction_type="velocity",
        )

    def _ratio(self, schedule: RectifiedFlow, geometry: Geometry) -> Tensor:
        if not self.timestep_transform:
            return torch.tensor([schedule.shift])
        check_frames(geometry.num_frames)
        size = (geometry.height, geometry.width, geometry.num_frames)
        height, width, frames = (torch.tensor([value], dtype=self.conditioning_dtype) for value in size)
        ratio = time_shift(height, width, frames)
        if not bool(torch.isfinite(ratio).all()):
            raise VaderError(
                f"conditioning_dtype=float16 cannot hold {geometry.height} x {geometry.width} pixels "
                "(its largest number is 65504), so that every timestep would be nan: use float32 or bfloat16"
            )
        # Shifts compose by multiplication; Open-Sora's own schedule has none.
        return ratio * schedule.shift

    # -- steps -------------------------------------------------------------------------------------------

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """Latents + velocity · step size."""
        factor = plan.tables["sign"][i] * plan.tables["size"][i]
        return state.at(state.latents + prediction.value * factor)

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """Latents + velocity · tau; frames that are given are clean already."""
        estimate = state.latents + prediction.value * (plan.tables["sign"][i] * plan.tables["tau"][i])
        if "active" in state.extra:
            return torch.where(state.extra["active"], estimate, state.extra["given"])
        return estimate

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """(1 - tau) clean + tau noise."""
        tau = plan.tables["tau"][i]
        return State((1 - tau) * clean + tau * noise)

    # -- frame masks -------------------------------------------------------------------------------------

    def needs_noise(self, plan: Plan, i: int, conditioning: Conditioning) -> bool:
        """Only where frames are edited, so that some join in later."""
        return FRAME_MASK in conditioning.tensors and bool(conditioning.shared.get(EDITED, True))

    def before_step(
        self, plan: Plan, i: int, state: State, conditioning: Conditioning, noise: Tensor | None
    ) -> State:
        """Put given frames in their place; noise those that are generated from now on."""
        if FRAME_MASK not in conditioning.tensors:
            return state
        mask = conditioning.tensors[FRAME_MASK]
        strict = bool(conditioning.shared.get(STRICT_MASK, False))
        initial = state.extra.get("initial", state.latents)
        given = torch.where(_broadcast(mask >= 1), initial, conditioning.tensors.get(REFERENCE, initial))
        active = active_frames(mask, plan.timesteps[i], strict=strict)
        before = mask >= 1 if i == 0 else active_frames(mask, plan.timesteps[i - 1], strict=strict)
        latents = torch.where(_broadcast(before), state.latents, given)
        if noise is not None:
            joining = _broadcast(active & ~before)
            latents = torch.where(joining, self.renoise(plan, i, latents, noise).latents, latents)
        return replace(
            state, latents=latents, extra={"initial": initial, "given": given, "active": _broadcast(active)}
        )

    def after_step(
        self, plan: Plan, i: int, state: State, conditioning: Conditioning, noise: Tensor | None
    ) -> State:
        """Put frames that are not generated yet back to what is given."""
        if "active" not in state.extra:
            return state
        return state.at(torch.where(state.extra["active"], state.latents, state.extra["given"]))


def _broadcast(mask: Tensor) -> Tensor:
    """[b, t] → [b, 1, t, 1, 1]."""
    return mask[:, None, :, None, None]
