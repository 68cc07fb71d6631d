"""Registers the core's own components, through the hooks that every plugin uses. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from vader_core.builtin.samplers.options import (
    DDIMOptions,
    DPMSolverOptions,
    EulerOptions,
    RectifiedFlowOptions,
)
from vader_core.hookspecs import Register, hookimpl


def _ddim(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.ddim import DDIM

    return DDIM(config)


def _dpmpp(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.dpmpp import DPMSolver

    return DPMSolver(config)


def _euler(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.euler import Euler

    return Euler(config)


def _rectified_flow(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.rectified_flow import RectifiedFlowEuler

    return RectifiedFlowEuler(config)


@hookimpl
def register_samplers(register: Register) -> None:
    """DDIM, DPM-Solver++ (2M), Euler and rectified flow."""
    register("ddim", _ddim, config=DDIMOptions, summary="DDIM for epsilon and v models")
    register(
        "dpmpp",
        _dpmpp,
        config=DPMSolverOptions,
        summary="DPM-Solver++ (2M) for few steps, epsilon and v models",
    )
    register(
        "euler",
        _euler,
        config=EulerOptions,
        summary="Euler on the noise level: EDM (Karras), epsilon and v models",
    )
    register(
        "rectified_flow",
        _rectified_flow,
        config=RectifiedFlowOptions,
        summary="Euler steps along a rectified flow, with a static time shift",
    )
