"""The run's configuration: one tree, whose layers are merged so that the later wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vader_core.errors import VaderError, did_you_mean
from vader_core.registry import checked

Tree = dict[str, Any]
Tracker = Literal["tensorboard", "wandb"]
Precision = Literal["fp32", "bf16", "fp16"]


class Section(BaseModel):
    """A part of the tree; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class BackboneSection(Section):
    """The model."""

    name: str | None = Field(None, description="Registered name of the backbone.")
    options: Tree = Field(
        default_factory=dict, description="The backbone's own options, `weights` among them."
    )


class VideoSection(Section):
    """The training geometry; what is not given is the backbone's default."""

    height: int | None = Field(None, description="Pixels.")
    width: int | None = Field(None, description="Pixels.")
    num_frames: int | str | None = Field(None, description="Video frames, or a form of the backbone's own.")
    fps: float | None = Field(None, description="Frames per second.")


class SamplingSection(Section):
    """How videos are sampled."""

    sampler: str | None = Field(None, description="Registered name of the sampler.")
    num_steps: int | None = Field(None, ge=1, description="Sampling steps S.")
    guidance_scale: float | str | None = Field(None, description="A number, or FIRST:LAST over the frames.")
    split_guidance: bool = Field(
        False, description="Run the guidance branches one after the other (less memory)."
    )
    options: Tree = Field(default_factory=dict, description="The sampler's own options.")


class RewardSection(Section):
    """One reward to train on."""

    name: str = Field(description="Registered name of the reward.")
    weight: float = Field(1.0, description="Factor of its loss.")
    cap: float | None = Field(None, description="Score from which on there is no gradient.")
    options: Tree = Field(default_factory=dict, description="The reward's own options.")


class MonitorSection(Section):
    """One reward to watch."""

    name: str = Field(description="Registered name of the reward.")
    options: Tree = Field(default_factory=dict, description="The reward's own options.")


class PromptSection(Section):
    """What to ask for."""

    source: str | None = Field(None, description="NAME, file:PATH, text:… or images:FOLDER.")
    negative_prompt: str | None = Field(
        None, description="Takes the place of the backbone's negative prompt."
    )
    options: Tree = Field(default_factory=dict, description="The prompt source's own options.")


class LoraSection(Section):
    """The adapter."""

    rank: int = Field(16, ge=1, description="Rank r.")
    alpha: float | None = Field(
        None, gt=0, description="The update is scaled by alpha / r; by default alpha = r."
    )
    targets: list[str] | None = Field(
        None, description="Ends of module names, or `all`; the backbone's by default."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input while training.")
    start: str | None = Field(
        None, description="An adapter to start from: a run, a path, or hub:REPO[/FILE]."
    )


class TrainerSection(Section):
    """The loop around a step."""

    lr: float = Field(2e-4, gt=0, description="Learning rate.")
    batch_size: int = Field(1, ge=1, description="Videos a process and micro-step.")
    accumulate: int = Field(1, ge=1, description="Micro-steps an optimizer step.")
    max_steps: int = Field(100, ge=0, description="Optimizer steps.")
    max_grad_norm: float = Field(1.0, gt=0, description="The gradient is clipped to this norm.")
    precision: Precision | None = Field(
        None, description="The backbone's default on an accelerator, fp32 on a CPU."
    )
    seed: int = Field(0, ge=0, description="Of everything that is drawn.")
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="8-bit needs bitsandbytes; it saves 6 bytes a number of the adapter."
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW.")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="After the warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Decay of averaged weights, which are then what is kept."
    )
    gradient_checkpointing: bool | Literal["auto"] | None = Field(
        None,
        description="Recompute activations of the differentiated steps; by default on an accelerator only. "
        "`auto`: only where the estimated memory without it is not free.",
    )
    cuda_graphs: bool = Field(False, description="Replay the no-graph steps from a CUDA graph; fixed shapes.")
    channels_last: bool | None = Field(
        None,
        description="Hold the denoiser's kernels with channels innermost; by default on CUDA where it pays.",
    )
    fused_kernels: bool = Field(True, description="Kernels of our own in the denoiser, on CUDA in 16 bits.")
    fold_adapter: bool = Field(
        False,
        description="Fold the adapter into the base weights in the no-graph steps; rounds it in 16 bits.",
    )
    fp8: bool = Field(
        False,
        description="Multiply wide linear layers in float8 in the no-graph steps; bf16, CUDA 8.9 or newer.",
    )
    offload: bool = Field(
        False,
        description="Keep autoencoder and rewards on the CPU between uses; the backward pass in stages.",
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
        None, description="LO-HI: of the no-graph steps only these are guided, the others conditional alone."
    )
    guidance_cache: int = Field(
        1, ge=1, description="Work the guidance out at every k-th no-graph step and reuse it in between."
    )
    feature_cache: int = Field(
        1,
        ge=1,
        description="Run the denoiser's deep part at every k-th no-graph step and reuse its result.",
    )
    detach_input: bool = Field(
        False, description="Detach the latents a differentiated prediction is given (DRTune)."
    )
    low_variance: int = Field(
        0, ge=0, description="Re-noise n times and differentiate n last steps (DRaFT-LV)."
    )
    inner_updates: int = Field(
        1,
        ge=1,
        description="Optimizer updates a step: after the first, its rollout is re-noised and the last step "
        "differentiated again.",
    )
    base_weight: float = Field(
        0.0, ge=0, description="Weight of the squared distance to the base prediction."
    )
    segments: int = Field(1, ge=1, description="Segments of a long video.")
    gradient_segments: list[int] | None = Field(
        None, description="Segments with a graph; by default the last."
    )
    carry_gradient: bool = Field(
        False, description="Let the graph run through the frame that joins segments."
    )
    validate_every: int = Field(0, ge=0, description="Steps between validations; 0 is before and after only.")
    validation_prompts: int = Field(
        4, ge=0, description="Held-out prompts of a validation; 0 is no validation."
    )
    validation_seeds: int = Field(2, ge=1, description="Seeds a validation prompt.")
    validation_batch: int = Field(4, ge=1, description="Videos sampled at once while validating.")
    evaluation_pairs: int = Field(
        0, ge=0, description="Prompt and seed pairs of the closing evaluation; 0 is none."
    )
    checkpoint_every: int = Field(50, ge=0, description="Steps between checkpoints; 0 is at the end only.")
    keep: int = Field(3, ge=0, description="Checkpoints that are kept, the best apart; 0 is all.")
    nonfinite_limit: int = Field(5, ge=1, description="Non-finite steps in a row after which the run stops.")
    guard: Literal["off", "stop", "adapt"] = Field(
        "off",
        description="What an alarm does beside saying so: `stop` ends the run, `adapt` goes back to the best "
        "adapter with half the learning rate.",
    )
    monitor_limit: float = Field(
        0.05,
        gt=0,
        description="Fall of a monitor, as a share of the base model's score, that raises the alarm.",
    )
    trackers: list[Tracker] = Field(
        default=["tensorboard"], description="Where metrics go beside metrics.jsonl."
    )
    device: Literal["cpu", "cuda"] | None = Field(
        None, description="By default the accelerator that is there."
    )


class RunConfig(Section):
    """A run."""

    backbone: BackboneSection = Field(default_factory=BackboneSection)
    video: VideoSection = Field(default_factory=VideoSection)
    sampling: SamplingSection = Field(default_factory=SamplingSection)
    gradient: str | None = Field(None, description="Where the gradient flows.")
    rewards: list[RewardSection] = Field(default_factory=list)
    monitors: list[MonitorSection] = Field(default_factory=list)
    reward_frames: str | None = Field(
        None, description="Frames that rewards of images are given; by default random."
    )
    prompts: PromptSection = Field(default_factory=PromptSection)
    lora: LoraSection = Field(default_factory=LoraSection)
    trainer: TrainerSection = Field(default_factory=TrainerSection)


def validated(tree: Tree) -> RunConfig:
    """The tree as a checked configuration.

    Raises:
        VaderError: Unknown keys, with the near name; bad values, with what is allowed.
    """
    _check_keys(tree, RunConfig, "")
    config: RunConfig = checked(RunConfig, tree, "configuration")
    return config


def check_keys(tree: Tree) -> Tree:
    """The tree itself, if it has no unknown key.

    Raises:
        VaderError: Naming the key and the near one.
    """
    _check_keys(tree, RunConfig, "")
    return tree


def _check_keys(tree: Any, model: type[BaseModel], where: str) -> None:
    """Name unknown keys with the near one; values are pydantic's to check."""
    if not isinstance(tree, Mapping):
        raise VaderError(f"configuration: {where or 'the file'} must be a mapping of keys to values")
    for key, value in tree.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in model.model_fields:
            raise VaderError(
                f"configuration: unknown key {place!r}{did_you_mean(str(key), model.model_fields)} "
                f"(known here: {', '.join(model.model_fields)})"
            )
        inner = _section_of(model, str(key))
        if inner is not None and isinstance(value, list):
            for index, item in enumerate(value):
                _check_keys(item, inner, f"{place}[{index}]")
        elif inner is not None:
            _check_keys(value, inner, place)


def _section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    annotation = model.model_fields[key].annotation
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None
