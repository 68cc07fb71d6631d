"""Options of the core's own objectives. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RewardGradientOptions(BaseModel):
    """Options of the objective ``reward_gradient``."""

    model_config = ConfigDict(extra="forbid")

    gradient: str | None = Field(
        None,
        description="Steps to differentiate: last, last:K, random, random:LO-HI, from:I, steps:I,J,…, refl "
        "or refl:LO-HI; the backbone's by default.",
    )
    reward_frames: str | None = Field(
        None,
        description="Frames that rewards of images are given; left out, those that the backbone decodes "
        "cheaply, else random.",
    )
    detach_input: bool = Field(
        False, description="Detach the latents that a differentiated prediction is given (DRTune)."
    )
    low_variance: int = Field(
        0, ge=0, description="Re-noise n times and differentiate n last steps (DRaFT-LV); 0 is off."
    )
    inner_updates: int = Field(
        1,
        ge=1,
        description="Optimizer updates per step: after the first, its rollout is re-noised and the last step "
        "differentiated again.",
    )
    store: Literal["rollouts", "data"] | None = Field(
        None,
        description="Update from clean latents that are there, noised anew to the one step that `gradient` "
        "draws: own `rollouts`, each of which serves several updates, or the clips of `--data`.",
    )
    store_size: int = Field(
        4, ge=1, description="Rollouts that the store holds for each micro-step; they are used in turns."
    )
    store_refresh: int = Field(
        4, ge=0, description="Steps that a stored rollout serves before it is made anew; 0 keeps it for good."
    )
    direct_align: bool = Field(
        False,
        description="With a store: take one sampling step and remove the rest of the noise that was mixed "
        "in, in place of the model's own estimate (Direct-Align of SRPO); sharp at noisy steps too.",
    )
    discount: float = Field(
        1.0,
        gt=0,
        le=1,
        description="With a store: the loss of step k counts discount^(S - 1 - k), noisy steps less.",
    )
    base_weight: float = Field(
        0.0, ge=0, description="Weight of the squared distance to the base model's prediction."
    )
    segments: int = Field(1, ge=1, description="Segments of a long video.")
    gradient_segments: list[int] | None = Field(
        None, description="Segments whose rollout is differentiated; the last by default."
    )
    carry_gradient: bool = Field(
        False, description="Let the gradient run through the frame that joins two segments."
    )


class SupervisedOptions(BaseModel):
    """Options of the objective ``supervised``."""

    model_config = ConfigDict(extra="forbid")

    timesteps: Literal["uniform", "logit_normal"] | None = Field(
        None,
        description="How noise levels are drawn: uniform (as the schedule spreads them) or logit_normal "
        "(most often half-way); by default logit_normal for a rectified flow.",
    )
    caption_dropout: float = Field(
        0.1, ge=0, lt=1, description="Share of the clips that are learned from without their caption."
    )
    frame_masks: dict[str, float] | None = Field(
        None,
        description="Kind of mask -> probability: frames that are given and not learned, e.g. "
        "{image_head: 0.1, quarter_tail: 0.05}.",
    )
    min_snr: float | None = Field(
        None, gt=0, description="Min-SNR gamma, such as 5: cut the weight of easy timesteps."
    )
    snr_loss: bool = Field(
        False,
        description="Compare the data up to timestep 249 of 1000, the noise above it (EasyAnimate); only for "
        "models that predict noise and a variance.",
    )
    tables: Literal["float32", "float64"] = Field(
        "float64",
        description="Precision of the tables of a model that predicts its variance; Open-Sora 1.1 was "
        "trained with float32.",
    )


class NFTOptions(BaseModel):
    """Options of the objective ``nft``."""

    model_config = ConfigDict(extra="forbid")

    group: int = Field(
        8, ge=2, description="Clips per prompt; they are compared with each other. The paper takes 24."
    )
    loss: Literal["nft", "awm"] = Field(
        "nft",
        description="nft contrasts two predictions; awm weighs the training loss with the advantage "
        "(Advantage Weighted Matching, published with noisiest=1, timesteps=6 and old_weight=0.1).",
    )
    old_weight: float = Field(
        0.0, ge=0, description="Weight of the squared distance to the old policy's prediction; 0 is off."
    )
    beta: float = Field(
        1.0,
        gt=0,
        description="How far the two predictions that are compared lie from the old policy's, 1 is at the "
        "current one; less is faster and less stable (0.1 in some recipes).",
    )
    clip: float = Field(
        5.0,
        gt=0,
        description="Advantage, in standard deviations of the group, beyond which more does not count.",
    )
    timesteps: int = Field(2, ge=1, description="Noise levels per clip and update.")
    noisiest: float = Field(
        0.3,
        gt=0,
        le=1,
        description="Share of the training noise levels that is drawn from, the noisiest ones; 1 is all of "
        "them.",
    )
    decay: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="After each update the old policy is this share of itself and the rest of the current "
        "one; must be above 0.",
    )
    decay_ramp: int = Field(
        500,
        ge=0,
        description="Steps over which `decay` rises from 0 to its value; 0 is constant from the start.",
    )
    base_weight: float = Field(
        1e-4, ge=0, description="Weight of the squared distance to the base model's prediction; 0 is off."
    )
