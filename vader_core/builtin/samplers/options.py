"""The samplers' options, apart from the samplers so that listing them imports no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Spacing = Literal["leading", "trailing", "linspace"]
FlowSpacing = Literal["even", "trained", "trained_shifted"]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DDIMOptions(_Options):
    """Options of ``ddim``."""

    eta: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="fresh noise a step: 0 none (DDIM), 1 as much as ancestral DDPM",
    )
    timestep_spacing: Spacing = Field(
        default="leading", description="how the S timesteps are spread over the trained ones"
    )
    steps_offset: int = Field(default=1, ge=0, description="added to every timestep of `leading` spacing")
    set_alpha_to_one: bool = Field(
        default=False, description="end at no noise at all instead of at the noise of timestep 0"
    )


class DPMSolverOptions(_Options):
    """Options of ``dpmpp``."""

    order: Literal[1, 2] = Field(
        default=2, description="2 uses the previous step's estimate as well (2M), 1 does not"
    )
    timestep_spacing: Spacing = Field(
        default="linspace", description="how the S timesteps are spread over the trained ones"
    )
    steps_offset: int = Field(default=1, ge=0, description="added to every timestep of `leading` spacing")


class EulerOptions(_Options):
    """Options of ``euler``."""

    churn: float = Field(
        default=0.0, ge=0.0, description="total fresh noise over the steps (S_churn of Karras et al. 2022)"
    )
    timestep_spacing: Spacing | None = Field(
        default=None,
        description="how the timesteps of a discrete schedule are spread (`leading` if not given); "
        "a Karras schedule has a spacing of its own and refuses this",
    )
    steps_offset: int | None = Field(
        default=None, ge=0, description="added to every timestep of `leading` spacing (1 if not given)"
    )


class RectifiedFlowOptions(_Options):
    """Options of ``rectified_flow``."""

    shift: float | None = Field(
        default=None,
        gt=0.0,
        description="static time shift in place of the backbone's; 1 spaces the times evenly",
    )
    noise_level: float = Field(
        0.0,
        ge=0,
        description="Random steps with the flow's marginals, for policy gradients: Flow-GRPO's a; 0 is none.",
    )


class FlowEulerOptions(_Options):
    """Options of ``flow_euler``."""

    shift: float | None = Field(
        default=None, gt=0.0, description="static time shift in place of the backbone's"
    )
    spacing: FlowSpacing | None = Field(
        default=None,
        description="where the steps lie before the shift, in place of the backbone's: `even` (1 - i / S), "
        "`trained` (evenly to the smallest trained time), `trained_shifted` (to that time, shifted) or "
        "`linear_quadratic` (slowly, then faster and faster)",
    )
    terminal: float | None = Field(
        default=None, ge=0.0, lt=1.0, description="noise level of the last step, in place of the backbone's"
    )
    sigmas: tuple[float, ...] | None = Field(
        default=None,
        min_length=1,
        description="the noise levels themselves, before the shift, from 1 down; as many as there are steps",
    )
    stochastic: bool = Field(
        default=False, description="go to the data at every step, and back with fresh noise"
    )

    @field_validator("sigmas")
    @classmethod
    def _falling(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None:
            inside = all(0.0 < sigma <= 1.0 for sigma in value)
            falling = all(before > after for before, after in pairwise(value))
            if not (inside and falling):
                raise ValueError("noise levels lie above 0 and at most at 1, and fall")
        return value


class FlowUniPCOptions(_Options):
    """Options of ``flow_unipc``."""

    shift: float | None = Field(
        default=None, gt=0.0, description="static time shift in place of the backbone's"
    )
    order: Literal[1, 2] = Field(
        default=2, description="2 uses the previous step's estimate as well, 1 does not"
    )


class IDDPMOptions(_Options):
    """Options of ``iddpm``."""

    table_dtype: Literal["float64", "float32"] = Field(
        default="float64",
        description="in which the coefficients are computed; Open-Sora 1.1 keeps them in float32, which "
        "moves a sample of 100 steps by 1.5e-4",
    )


class LCMOptions(_Options):
    """Options of ``lcm``."""

    grid: int = Field(
        default=50,
        ge=1,
        description="timesteps that the student was distilled on, which the S are taken from: 50 for "
        "T2V-Turbo, 200 for its second version",
    )
