"""The run's configuration: one tree, whose layers are merged so that the later wins."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from vader_core.errors import VaderError, did_you_mean, unknown
from vader_core.registry import Registry, checked

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


def merged(*layers: Mapping[str, Any]) -> Tree:
    """The layers as one tree; the later wins, mappings are merged, lists are replaced.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    result: Tree = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
                result[key] = merged(result[key], value)
            else:
                result[key] = copy.deepcopy(value) if not isinstance(value, Mapping) else merged(value)
    return result


def read_yaml(path: Path) -> Tree:
    """A configuration file.

    Raises:
        VaderError: Not there, not YAML, or not a mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise VaderError(f"--config {path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise VaderError(f"--config {path} is not YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise VaderError(f"--config {path}: the file must be a mapping of keys to values")
    return tree


def to_yaml(config: RunConfig) -> str:
    """The whole tree as YAML, which ``--config`` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def recipes(registry: Registry) -> dict[str, Tree]:
    """Every installed recipe by name."""
    found: dict[str, Tree] = {}
    for package in registry.recipe_packages():
        try:
            folder = resources.files(package).joinpath("recipes")
        except ModuleNotFoundError:
            continue
        if not folder.is_dir():
            continue
        for file in folder.iterdir():
            if file.name.endswith(".yaml"):
                found[file.name.removesuffix(".yaml")] = (
                    yaml.safe_load(file.read_text(encoding="utf-8")) or {}
                )
    return found


def read_recipe(registry: Registry, name: str) -> Tree:
    """The recipe of that name.

    Raises:
        VaderError: No installed plugin has one of that name.
    """
    known = recipes(registry)
    if name not in known:
        raise unknown("recipe", name, known)
    return {key: value for key, value in known[name].items() if key != "summary"}


def parse_value(text: str) -> Any:
    """An ``-o`` value: YAML, so numbers, booleans and lists mean themselves; anything else is text.

    >>> parse_value("2"), parse_value("true"), parse_value("240p"), parse_value("[1, 2]")
    (2, True, '240p', [1, 2])
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def apply_options(tree: Tree, options: Sequence[str]) -> Tree:
    """The tree with every ``-o KEY=VALUE`` applied.

    Raises:
        VaderError: No ``=``, a section that does not exist, a reward that is not in the run.
    """
    result = merged(tree)
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise VaderError(f"-o {option}: write -o KEY=VALUE")
        section, _, rest = key.partition(".")
        if not rest:
            raise VaderError(f"-o {option}: {_OPTION_FORMS}")
        _apply_option(result, option, section, rest, parse_value(text))
    return result


_OPTION_FORMS = "KEY is backbone.K, sampler.K, reward.NAME.K, prompts.K or trainer.K"


#: Keys of a section itself; every other key is an option of the component.
_OWN_KEYS = {
    "backbone": (),
    "sampler": ("num_steps", "guidance_scale", "split_guidance"),
    "prompts": ("negative_prompt",),
}


def _mapping(tree: Tree, key: str, option: str) -> Tree:
    """The mapping at ``key``, made where it is missing."""
    inner = tree.setdefault(key, {})
    if not isinstance(inner, dict):
        raise VaderError(f"-o {option}: in the configuration {key!r} is {inner!r}, but must be a mapping")
    return inner


def _apply_option(tree: Tree, option: str, section: str, rest: str, value: Any) -> None:
    places = {"backbone": "backbone", "sampler": "sampling", "prompts": "prompts"}
    if section in places:
        place = _mapping(tree, places[section], option)
        if rest in _OWN_KEYS[section]:
            place[rest] = value
        else:
            _mapping(place, "options", option)[rest] = value
    elif section in ("trainer", "lora"):
        _mapping(tree, section, option)[rest] = value
    elif section == "reward":
        name, _, key = rest.partition(".")
        if not key:
            raise VaderError(f"-o {option}: write reward.NAME.KEY=VALUE")
        items = [
            item for item in [*tree.get("rewards", []), *tree.get("monitors", [])] if item.get("name") == name
        ]
        if not items:
            names = [str(item.get("name")) for item in [*tree.get("rewards", []), *tree.get("monitors", [])]]
            raise VaderError(
                f"-o {option}: no reward {name!r} in this run{did_you_mean(name, names)} "
                f"(rewards and monitors: {', '.join(names) or 'none'})"
            )
        for item in items:
            if key in ("weight", "cap") and item in tree.get("rewards", []):
                item[key] = value
            else:
                _mapping(item, "options", option)[key] = value
    else:
        raise VaderError(f"-o {option}: unknown section {section!r}; {_OPTION_FORMS}")


def parse_reward(text: str) -> Tree:
    """Read ``NAME[:WEIGHT]``.

    >>> parse_reward("hps:0.5")
    {'name': 'hps', 'weight': 0.5}
    """
    name, colon, weight = text.partition(":")
    if not colon:
        return {"name": name}
    try:
        return {"name": name, "weight": float(weight)}
    except ValueError:
        raise VaderError(
            f"--reward {text!r}: the weight {weight!r} is not a number; write NAME:WEIGHT"
        ) from None


def changes(before: RunConfig, after: RunConfig) -> list[str]:
    """What differs, one line a key: ``trainer.lr: 0.0002 -> 0.0001``."""
    left, right = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    keys = sorted(left.keys() | right.keys())
    return [
        f"{key}: {left.get(key)!r} -> {right.get(key)!r}" for key in keys if left.get(key) != right.get(key)
    ]


def _flat(tree: Any, where: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping):
        items = [(f"{where}.{key}" if where else str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list) and tree and isinstance(tree[0], Mapping):
        items = [(f"{where}[{value.get('name', index)}]", value) for index, value in enumerate(tree)]
    else:
        return {where: tree}
    result: dict[str, Any] = {}
    for key, value in items:
        result.update(_flat(value, key))
    return result
