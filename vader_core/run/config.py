"""The run's configuration: one tree, a section per owner."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vader_core.data.options import DataOptions
from vader_core.errors import VaderError, did_you_mean
from vader_core.registry import checked
from vader_core.run.section import ComponentSection, Section, Tree
from vader_core.values import read_value

Tracker = Literal["tensorboard", "wandb", "trackio"]
Precision = Literal["fp32", "bf16", "fp16"]
LearningRateSchedule = Literal[
    "constant", "linear", "cosine", "linear_warmup", "warmup_from_zero", "cosine_const", "one_cycle"
]

#: Rank of a fresh adapter where none is asked for.
DEFAULT_RANK = 16


class BackboneSection(ComponentSection):
    """The model; `weights` and the backbone's further options stand beside its name."""

    name: str | None = Field(None, description="Registered name of the backbone.")


class VideoSection(Section):
    """The training geometry; what is not given is the backbone's default."""

    height: int | None = Field(None, description="Pixels.")
    width: int | None = Field(None, description="Pixels.")
    num_frames: int | str | None = Field(None, description="Video frames, or a form of the backbone's own.")
    fps: float | None = Field(None, description="Frames per second.")


class SamplerSection(ComponentSection):
    """How videos are sampled; the sampler's own options stand beside its name."""

    name: str | None = Field(None, description="Registered name of the sampler.")
    num_steps: int | None = Field(None, ge=1, le=10_000, description="Sampling steps S.")
    guidance_scale: float | str | None = Field(None, description="A number, or FIRST:LAST over the frames.")
    split_guidance: bool = Field(
        False, description="Run the guidance branches one after the other: less memory, the same result."
    )


class ObjectiveSection(ComponentSection):
    """One objective; its own options stand beside its weight."""

    weight: float | None = Field(None, description="Factor of its loss; left out, it runs where implied.")


class ScoredSection(ComponentSection):
    """A reward; its own options stand beside its name."""

    name: str = Field(description="Registered name of the reward, or the function's.")
    function_file: str | None = Field(
        None, description="The Python file of `--reward FILE.py:FUNCTION`; only the command line names it."
    )
    function_sha256: str | None = Field(None, description="SHA-256 of that file.")


class RewardSection(ScoredSection):
    """One reward to train on."""

    weight: float = Field(1.0, description="Factor of its loss.")
    cap: float | None = Field(None, description="Score from which on a sample has no gradient.")


class MonitorSection(ScoredSection):
    """One reward to watch."""


class PromptSection(ComponentSection):
    """What to ask for; the prompt source's own options stand beside its name."""

    source: str | None = Field(None, description="NAME, file:PATH, text:… or images:FOLDER.")
    negative_prompt: str | None = Field(
        None, description="Used for every prompt that has no negative prompt of its own."
    )


class DataSection(DataOptions):
    """What is learned from; a named source's own options stand beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    @property
    def options(self) -> Tree:
        """The source's own options."""
        return dict(self.model_extra or {})


class TuningSection(Section):
    """What learns."""

    kind: Literal["lora", "full"] = Field("lora", description="An adapter, or the denoiser's own weights.")
    modules: list[str] | None = Field(
        None, description="With full: names of the modules that learn; all by default."
    )


class LoraSection(Section):
    """The adapter."""

    rank: int | None = Field(
        None, ge=1, le=32_768, description="Rank r; 16 by default, with `start` the adapter's own."
    )
    alpha: float | None = Field(
        None, gt=0, description="The update is scaled by alpha / r; alpha = r by default."
    )
    targets: list[str] | None = Field(
        None, description="Ends of module names, or `all`; the backbone's by default."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input while training.")
    start: str | None = Field(
        None, description="An adapter to start from: a run, a path, or hub:REPO[/FILE]."
    )


class RolloutSection(ComponentSection):
    """How the rollouts of a store are made; the options of `sampler` stand beside it."""

    lora: str | None = Field(
        None,
        description="A distilled adapter that counts meanwhile, frozen: a run, a path, or hub:REPO[/FILE].",
    )
    sampler: str | None = Field(None, description="Registered name of the sampler; the run's by default.")
    num_steps: int | None = Field(
        None, ge=1, le=10_000, description="Sampling steps; 4 by default with `lora`, else the run's."
    )
    guidance_scale: float | str | None = Field(None, description="A number, or FIRST:LAST; 1 by default.")

    @property
    def asked(self) -> bool:
        """Whether anything of it was given."""
        return self != RolloutSection()


class TrainerSection(Section):
    """The loop around an update."""

    lr: float = Field(2e-4, gt=0, description="Learning rate.")
    batch_size: int = Field(1, ge=1, description="Videos per process in each micro-step.")
    accumulate: int = Field(1, ge=1, description="Micro-steps to accumulate before each optimizer step.")
    global_batch: int | None = Field(
        None,
        ge=1,
        description="Videos per optimizer step over all processes, whose number then may change; in place of "
        "accumulate.",
    )
    max_steps: int = Field(100, ge=0, description="Optimizer steps.")
    max_grad_norm: float = Field(1.0, gt=0, description="Clip the gradient to this norm.")
    precision: Precision | None = Field(
        None, description="Precision of the forward pass; fp32 on a CPU, else the backbone's default."
    )
    seed: int = Field(0, ge=0, description="Seed for everything random.")
    optimizer: Literal["adamw", "adamw8bit", "came", "lion"] = Field(
        "adamw",
        description="8-bit needs bitsandbytes and saves 6 bytes per trainable parameter; came and lion need "
        "pytorch-optimizer and save up to 4.",
    )
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the mean gradient.")
    beta2: float | None = Field(
        None, ge=0, lt=1, description="Decay of the mean squared gradient, 0.999; of Lion's momentum, 0.99."
    )
    eps: float | None = Field(
        None, gt=0, description="AdamW: added to the root of the mean squared gradient; 1e-8 by default."
    )
    lr_factors: dict[str, float] = Field(
        default_factory=dict,
        description="Module name -> factor of the learning rate for the weights that lie in it; the first "
        "that fits counts.",
    )
    lr_schedule: LearningRateSchedule = Field(
        "constant",
        description="Learning rate after the warm-up: constant, or falling to 0 (linear, cosine); or a "
        "published schedule with a warm-up of its own: linear_warmup (Open-Sora 1.2), warmup_from_zero "
        "(EasyAnimate), cosine_const and one_cycle (text2bricks).",
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of warm-up.")
    cooldown_steps: int = Field(0, ge=0, description="one_cycle: steps of the way down.")
    min_lr: float | None = Field(None, gt=0, description="one_cycle: learning rate at step 0.")
    final_lr: float | None = Field(None, gt=0, description="one_cycle: learning rate after the way down.")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Decay of averaged weights, which are then what is evaluated and kept."
    )
    nonfinite_limit: int = Field(
        5, ge=1, description="Stop after this many steps in a row whose loss or gradient is not finite."
    )
    device: Literal["cpu", "cuda"] | None = Field(
        None, description="The accelerator by default, where there is one."
    )


class PerformanceSection(Section):
    """What makes a step faster or smaller."""

    gradient_checkpointing: bool | Literal["auto"] | None = Field(
        None,
        description="Recompute activations of the differentiated steps; on by default on an accelerator. "
        "`auto`: only where the estimated memory without it is not free.",
    )
    cuda_graphs: bool | Literal["all"] = Field(
        False, description="Replay the no-grad steps from CUDA graphs; with `all` the differentiated too."
    )
    channels_last: bool | None = Field(
        None,
        description="Store convolution weights with channels innermost; by default on CUDA where it pays.",
    )
    fused_kernels: bool = Field(
        True, description="Use this toolkit's own kernels in the denoiser, on CUDA in 16 bits."
    )
    compile_blocks: bool | Literal["all"] = Field(
        False, description="Compile the denoiser's blocks in differentiated or `all` steps, on CUDA."
    )
    fold_adapter: bool = Field(
        False,
        description="Fold the adapter into the base weights in the no-grad steps; rounds it in 16 bits.",
    )
    fp8: bool = Field(
        False,
        description="Multiply wide linear layers in float8 in the no-grad steps; bf16 on CUDA 8.9 or newer.",
    )
    offload: bool = Field(
        False,
        description="Keep autoencoder and rewards on the CPU between uses; the backward pass goes in stages.",
    )
    offload_activations: bool = Field(
        False,
        description="Keep what the differentiated steps save for the backward pass in pinned CPU memory.",
    )
    swap_blocks: int = Field(
        0,
        ge=0,
        description="Keep the n largest blocks of the denoiser in pinned CPU memory, fetched one ahead.",
    )
    guidance_interval: str | None = Field(
        None, description="LO-HI: of the no-grad steps only these are guided, the others conditional alone."
    )
    guidance_cache: int = Field(
        1, ge=1, description="Compute the guidance at every k-th no-grad step and reuse it in between."
    )
    feature_cache: int = Field(
        1, ge=1, description="Run the denoiser's deep part at every k-th no-grad step and reuse its result."
    )


class ParallelSection(Section):
    """How several processes share a model; by default each holds it whole and makes videos of its own."""

    shard: int = Field(1, ge=1, description="Processes that share one copy of the denoiser's weights.")
    keep_gathered: bool = Field(
        False, description="With shard: keep the gathered weights through a rollout's steps without a graph."
    )
    shard_rewards: bool = Field(False, description="With shard: the rewards' weights are shared likewise.")
    shard_text_encoders: bool = Field(False, description="With shard: the text encoders' weights likewise.")
    context: int = Field(1, ge=1, description="Processes that share one video's sequence.")
    timeout: float = Field(15, gt=0, description="Minutes that a process waits for the others.")


class ValidationSection(Section):
    """What is sampled, scored and watched while training."""

    every: int = Field(0, ge=0, description="Steps between validations; 0 is before and after training only.")
    prompts: int = Field(4, ge=0, description="Held-out prompts per validation; 0 turns validation off.")
    seeds: int = Field(2, ge=1, description="Seeds per validation prompt.")
    batch: int = Field(4, ge=1, description="Videos sampled at once while validating.")
    evaluation_pairs: int = Field(
        0, ge=0, description="Prompt and seed pairs of the closing evaluation; 0 turns it off."
    )
    guard: Literal["off", "stop", "adapt"] = Field(
        "off",
        description="What an alarm does beside saying so: `stop` ends the run, `adapt` goes back to the best "
        "weights with half the learning rate.",
    )
    monitor_limit: float = Field(
        0.05,
        gt=0,
        description="Fall of a monitor, as a share of the base model's score, that raises the alarm.",
    )


class RunSection(Section):
    """What is kept of a run."""

    checkpoint_every: int = Field(50, ge=0, description="Steps between checkpoints; 0 is at the end only.")
    keep: int = Field(3, ge=0, description="Checkpoints to keep, the best apart; 0 keeps all.")
    trackers: list[Tracker] = Field(
        default=["tensorboard"], description="Where metrics and clips go beside metrics.jsonl."
    )


class SeamSection(Section):
    """What a stage takes over from the one before it; its weights are taken over always."""

    optimizer: Literal["fresh", "kept"] = Field(description="The optimizer's moments: none yet, or kept.")
    schedule: Literal["fresh", "continued"] = Field(
        description="The learning rate's steps are counted from this stage's first, or on from the stage "
        "before: one schedule over both."
    )
    weights: Literal["trained", "average"] = Field(
        "trained", description="Begin with the weights that were trained, or with their average."
    )
    average: Literal["fresh", "kept"] | None = Field(
        None, description="trainer.ema begins anew, or goes on; by default as the optimizer."
    )


class StageSection(ComponentSection):
    """One stage: beside its name, any section of a run but `stages`, laid over the run's own."""

    name: str | None = Field(None, description="What it is called.")
    seam: SeamSection | None = Field(
        None, description="What it takes over; every stage but the first must say."
    )


class RunConfig(Section):
    """A run."""

    backbone: BackboneSection = Field(default_factory=BackboneSection)
    video: VideoSection = Field(default_factory=VideoSection)
    sampler: SamplerSection = Field(default_factory=SamplerSection)
    rollout: RolloutSection = Field(default_factory=RolloutSection)
    objective: dict[str, ObjectiveSection] = Field(default_factory=dict)
    reward: list[RewardSection] = Field(default_factory=list)
    monitor: list[MonitorSection] = Field(default_factory=list)
    prompts: PromptSection = Field(default_factory=PromptSection)
    data: DataSection = Field(default_factory=DataSection)
    tuning: TuningSection = Field(default_factory=TuningSection)
    lora: LoraSection = Field(default_factory=LoraSection)
    trainer: TrainerSection = Field(default_factory=TrainerSection)
    performance: PerformanceSection = Field(default_factory=PerformanceSection)
    parallel: ParallelSection = Field(default_factory=ParallelSection)
    validation: ValidationSection = Field(default_factory=ValidationSection)
    run: RunSection = Field(default_factory=RunSection)
    stages: list[StageSection] = Field(default_factory=list)


#: Where a key of the first edition is now.
MOVED = {
    "backbone.options": "backbone",
    "sampling": "sampler",
    "sampling.sampler": "sampler.name",
    "sampling.options": "sampler",
    "gradient": "objective.reward_gradient.gradient",
    "reward_frames": "objective.reward_gradient.reward_frames",
    "rewards": "reward",
    "monitors": "monitor",
    "prompts.options": "prompts",
    "trainer.detach_input": "objective.reward_gradient.detach_input",
    "trainer.low_variance": "objective.reward_gradient.low_variance",
    "trainer.inner_updates": "objective.reward_gradient.inner_updates",
    "trainer.base_weight": "objective.reward_gradient.base_weight",
    "trainer.segments": "objective.reward_gradient.segments",
    "trainer.gradient_segments": "objective.reward_gradient.gradient_segments",
    "trainer.carry_gradient": "objective.reward_gradient.carry_gradient",
    "trainer.validate_every": "validation.every",
    "trainer.validation_prompts": "validation.prompts",
    "trainer.validation_seeds": "validation.seeds",
    "trainer.validation_batch": "validation.batch",
    "trainer.evaluation_pairs": "validation.evaluation_pairs",
    "trainer.guard": "validation.guard",
    "trainer.monitor_limit": "validation.monitor_limit",
    "trainer.checkpoint_every": "run.checkpoint_every",
    "trainer.keep": "run.keep",
    "trainer.trackers": "run.trackers",
} | {f"trainer.{name}": f"performance.{name}" for name in PerformanceSection.model_fields}


def validated(tree: Mapping[str, Any]) -> RunConfig:
    """The tree as a checked configuration; values are read by the type of their option.

    Raises:
        VaderError: Unknown keys, with the near name; keys that moved, with their place; bad values, with what
            is allowed.
    """
    check_keys(tree)
    given = dict(tree)
    if given.get("stages"):
        given["stages"] = [_stage(item, f"stages.{number}") for number, item in enumerate(tree["stages"], 1)]
    config: RunConfig = checked(RunConfig, given, "configuration")
    return config


def _stage(tree: Mapping[str, Any], where: str) -> Tree:
    """A stage whose sections are read by the types of their options; only what was given is in it."""
    own = {key: value for key, value in tree.items() if key in StageSection.model_fields}
    rest = {key: value for key, value in tree.items() if key not in own}
    if "stages" in rest:
        raise VaderError(f"configuration: {where} has stages of its own: list all stages in the run's")
    _check_keys(rest, RunConfig, where)
    sections: RunConfig = checked(RunConfig, rest, where)
    return own | sections.model_dump(mode="json", exclude_unset=True)


def check_keys(tree: Mapping[str, Any]) -> None:
    """Refuse a tree with an unknown key.

    Raises:
        VaderError: Naming the key, and the near one or its new place.
    """
    _check_keys(tree, RunConfig, "")


def _check_keys(tree: Any, model: type[BaseModel], where: str) -> None:
    """Name unknown keys with the near one; values are pydantic's to check."""
    if not isinstance(tree, Mapping):
        raise VaderError(f"configuration: {where or 'the file'} must be a mapping of keys to values")
    for key, value in tree.items():
        place = f"{where}.{key}" if where else str(key)
        if key in model.model_fields:
            _check_value(value, model.model_fields[key].annotation, place)
        elif place in MOVED:
            raise VaderError(f"configuration: {place!r} is now {MOVED[place]!r}")
        elif model.model_config.get("extra") != "allow":
            raise VaderError(
                f"configuration: unknown key {place!r}{did_you_mean(str(key), model.model_fields)} "
                f"(known here: {', '.join(model.model_fields)})"
            )


def _check_value(value: Any, annotation: Any, place: str) -> None:
    """Look for unknown keys in a section, or in each of several."""
    inner = _section_of(annotation)
    if inner is None or (not isinstance(value, Mapping) and read_value(value, annotation) is None):
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_keys(item, inner, f"{place}[{index}]")
    elif typing.get_origin(annotation) is dict and isinstance(value, Mapping):
        for name, item in value.items():
            _check_keys(item, inner, f"{place}.{name}")
    else:
        _check_keys(value, inner, place)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
