"""A folder's scheduler as a schedule and a sampler of the core."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.schedule import RectifiedFlow, Schedule, VariancePreserving

_KNOWN = "FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, CogVideoXDDIMScheduler, DDIMScheduler"
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


@dataclass(frozen=True)
class DynamicShift:
    """A time shift that grows with the number of tokens: exp(mu), mu on the line through two points.

    Args:
        base: mu at ``base_tokens``.
        largest: mu at ``largest_tokens``.
        base_tokens: Tokens of the first point.
        largest_tokens: Tokens of the second.
        exponential: Whether the shift is exp(mu), else mu itself.
    """

    base: float
    largest: float
    base_tokens: int
    largest_tokens: int
    exponential: bool = True

    def at(self, tokens: int) -> float:
        """The static shift that a video of ``tokens`` tokens gets."""
        slope = (self.largest - self.base) / (self.largest_tokens - self.base_tokens)
        mu = tokens * slope + (self.base - slope * self.base_tokens)
        return math.exp(mu) if self.exponential else mu


@dataclass(frozen=True)
class Scheduling:
    """What a stored scheduler means here.

    Args:
        sampler: The core's sampler.
        options: That sampler's options.
        schedule: The schedule; with a dynamic shift, at shift 1.
        dynamic: How the shift follows the number of tokens, where it does.
    """

    sampler: str
    schedule: Schedule
    options: Mapping[str, Any] = field(default_factory=dict)
    dynamic: DynamicShift | None = None

    def at(self, tokens: int) -> Schedule:
        """The schedule of a video of ``tokens`` tokens."""
        if self.dynamic is None or not isinstance(self.schedule, RectifiedFlow):
            return self.schedule
        schedule = self.schedule
        return RectifiedFlow(
            schedule.num_train_timesteps,
            self.dynamic.at(tokens),
            spacing=schedule.spacing,
            terminal=schedule.terminal,
        )


def read_scheduler(config: Mapping[str, Any], *, own_times: bool, needed_for: str) -> Scheduling:
    """The core's words for ``scheduler_config.json``.

    Args:
        config: The file.
        own_times: Whether the pipeline lets the scheduler choose its times; otherwise it hands it 1 … 1 / S.
        needed_for: Begins a message.

    Raises:
        VaderError: A scheduler, or a setting of one, that no sampler of the core follows.
    """
    kind = str(config.get("_class_name"))
    if kind == "FlowMatchEulerDiscreteScheduler":
        return _flow_euler(config, own_times, needed_for)
    if kind == "UniPCMultistepScheduler":
        return _unipc(config, needed_for)
    if kind in ("CogVideoXDDIMScheduler", "DDIMScheduler"):
        return _ddim(config, needed_for)
    raise VaderError(
        f"{needed_for}: its scheduler {kind} is not one that a sampler here follows; known are {_KNOWN}. "
        "Replace scheduler/scheduler_config.json in a copy of the folder"
    )


def _refuse(config: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], needed_for: str) -> None:
    for name, values in allowed.items():
        found = config.get(name, values[0])
        if found not in values:
            shown = ", ".join(str(value) for value in values)
            raise VaderError(
                f"{needed_for}: its {config['_class_name']} has {name}={found}; only {shown} can be followed"
            )


def _flow_euler(config: Mapping[str, Any], own_times: bool, needed_for: str) -> Scheduling:
    off = (False, None)
    unknown = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas")
    _refuse(config, dict.fromkeys(unknown, off), needed_for)
    dynamic = None
    if config.get("use_dynamic_shifting"):
        dynamic = DynamicShift(
            float(config.get("base_shift", 0.5)),
            float(config.get("max_shift", 1.15)),
            int(config.get("base_image_seq_len", 256)),
            int(config.get("max_image_seq_len", 4096)),
            config.get("time_shift_type", "exponential") == "exponential",
        )
    own = "trained" if dynamic is not None else "trained_shifted"
    schedule = RectifiedFlow(
        int(config.get("num_train_timesteps", 1000)),
        1.0 if dynamic is not None else float(config.get("shift", 1.0)),
        spacing=own if own_times else "even",  # type: ignore[arg-type]  # one of the three words
        terminal=config.get("shift_terminal") or None,
    )
    options = {"stochastic": True} if config.get("stochastic_sampling") else {}
    return Scheduling("flow_euler", schedule, options, dynamic)


def _unipc(config: Mapping[str, Any], needed_for: str) -> Scheduling:
    _refuse(
        config,
        {
            "use_flow_sigmas": (True,),
            "prediction_type": ("flow_prediction",),
            "solver_type": ("bh2",),
            "solver_order": (2, 1),
            "predict_x0": (True,),
            "lower_order_final": (True,),
            "final_sigmas_type": ("zero",),
            "thresholding": (False,),
            "disable_corrector": ([],),
            "solver_p": (None,),
            "use_karras_sigmas": (False, None),
            "use_exponential_sigmas": (False, None),
            "use_beta_sigmas": (False, None),
            "use_dynamic_shifting": (False, None),
        },
        needed_for,
    )
    schedule = RectifiedFlow(
        int(config.get("num_train_timesteps", 1000)),
        float(config.get("flow_shift", 1.0)),
        spacing="trained_shifted",
        terminal=config.get("shift_terminal") or None,
    )
    order = int(config.get("solver_order", 2))
    return Scheduling("flow_unipc", schedule, {} if order == 2 else {"order": order})


def _ddim(config: Mapping[str, Any], needed_for: str) -> Scheduling:
    config = {"clip_sample": True, **config}  # what diffusers takes where the file does not say
    _refuse(
        config,
        {
            "clip_sample": (False,),
            "thresholding": (False, None),
            "beta_schedule": ("scaled_linear", "linear"),
            "prediction_type": ("epsilon", "v_prediction"),
            "trained_betas": (None,),
        },
        needed_for,
    )
    alphas = _alphas(config)
    prediction = _PREDICTIONS[config.get("prediction_type", "epsilon")]
    options = {
        "timestep_spacing": config.get("timestep_spacing", "leading"),
        "steps_offset": int(config.get("steps_offset", 0)),
        "set_alpha_to_one": bool(config.get("set_alpha_to_one", True)),
    }
    schedule = VariancePreserving(alphas, prediction)  # type: ignore[arg-type]  # one of the two words
    return Scheduling("ddim", schedule, options)


def _alphas(config: Mapping[str, Any]) -> Tensor:
    """a_t in float64, with CogVideoX's shift of the signal-to-noise ratio and without signal at the end."""
    start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    steps = int(config.get("num_train_timesteps", 1000))
    if config.get("beta_schedule", "linear") == "scaled_linear":
        alphas = VariancePreserving.scaled_linear(start, end, steps)
    else:
        alphas = (1.0 - torch.linspace(start, end, steps, dtype=torch.float64)).cumprod(0)
    if config["_class_name"] == "CogVideoXDDIMScheduler":
        factor = float(config.get("snr_shift_scale", 3.0))
        alphas = alphas / (factor + (1.0 - factor) * alphas)
    if config.get("rescale_betas_zero_snr"):
        # Lin et al. 2023, algorithm 1: the roots are moved and stretched so that the last is 0
        roots = alphas.sqrt()
        alphas = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))).square()
    return alphas
