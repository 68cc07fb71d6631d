"""The options that several commands share, and how they become a configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vader_core.cli.overrides import apply_options, parse_reward
from vader_core.registry import Registry
from vader_core.run.config import RunConfig, Tree, check_keys, validated
from vader_core.run.layers import merged, read_recipe, read_yaml

Decorator = Callable[[Any], Any]

#: Flag -> where its value goes in the tree.
PLACES: dict[str, tuple[str, ...]] = {
    "backbone": ("backbone", "name"),
    "weights": ("backbone", "options", "weights"),
    "height": ("video", "height"),
    "width": ("video", "width"),
    "num_frames": ("video", "num_frames"),
    "fps": ("video", "fps"),
    "sampler": ("sampling", "sampler"),
    "num_steps": ("sampling", "num_steps"),
    "guidance_scale": ("sampling", "guidance_scale"),
    "gradient": ("gradient",),
    "reward_frames": ("reward_frames",),
    "prompts": ("prompts", "source"),
    "negative_prompt": ("prompts", "negative_prompt"),
    "lora_rank": ("lora", "rank"),
    "lora_alpha": ("lora", "alpha"),
    "lora_targets": ("lora", "targets"),
    "lora": ("lora", "start"),
    "lr": ("trainer", "lr"),
    "batch_size": ("trainer", "batch_size"),
    "accumulate": ("trainer", "accumulate"),
    "max_steps": ("trainer", "max_steps"),
    "max_grad_norm": ("trainer", "max_grad_norm"),
    "precision": ("trainer", "precision"),
    "seed": ("trainer", "seed"),
    "keep": ("trainer", "keep"),
    "guard": ("trainer", "guard"),
    "device": ("trainer", "device"),
}

_MODEL = [
    click.option("--backbone", metavar="NAME", help="The video model."),
    click.option("--weights", metavar="W", help="pretrained, PATH, hub:REPO[/FILE][@REVISION] or random."),
    click.option("--height", type=int, help="Pixels."),
    click.option("--width", type=int, help="Pixels."),
    click.option("--num-frames", help="Frames, or a form of the backbone's own, such as 2s."),
    click.option("--fps", type=float, help="Frames per second."),
    click.option("--sampler", metavar="NAME", help="How noise becomes latents."),
    click.option("--num-steps", type=int, metavar="S", help="Sampling steps."),
    click.option("--guidance-scale", metavar="G", help="A number, or FIRST:LAST over the frames."),
    click.option("--prompts", metavar="P", help="NAME, file:PATH, text:… or images:FOLDER."),
    click.option("--negative-prompt", metavar="TEXT", help="What the videos should not show."),
    click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of the forward pass."),
    click.option("--seed", type=int, help="Of everything that is drawn."),
    click.option(
        "--device", type=click.Choice(["cpu", "cuda"]), help="By default the accelerator that is there."
    ),
    click.option(
        "--config", "config_file", type=click.Path(path_type=Path), help="A YAML file of `vader config`."
    ),
    click.option("--recipe", metavar="NAME", help="Published settings that a plugin ships."),
    click.option(
        "-o", "options", multiple=True, metavar="KEY=VALUE", help="Any other option; see `vader show`."
    ),
]
_REWARDS = [
    click.option("--reward", "rewards", multiple=True, metavar="NAME[:WEIGHT]", help="Train on it (repeat)."),
    click.option("--monitor", "monitors", multiple=True, metavar="NAME", help="Watch it (repeat)."),
    click.option(
        "--reward-frames", metavar="F", help="random, first, middle, last, fml, alternate, all or an index."
    ),
]
_TRAINING = [
    click.option(
        "--gradient", metavar="G", help="last, last:K, random, from:I, steps:I,J, refl or refl:LO-HI."
    ),
    click.option("--lora-rank", type=int, help="Rank of the adapter."),
    click.option("--lora-alpha", type=float, help="The update is scaled by alpha / rank."),
    click.option("--lora-targets", metavar="A,B", help="Ends of module names, or all."),
    click.option("--lora", metavar="L", help="Start from a run directory, a PATH or hub:REPO[/FILE]."),
    click.option("--lr", type=float, help="Learning rate."),
    click.option("--batch-size", type=int, help="Videos a process and micro-step."),
    click.option("--accumulate", type=int, help="Micro-steps an optimizer step."),
    click.option("--max-steps", type=int, help="Optimizer steps."),
    click.option("--max-grad-norm", type=float, help="The gradient is clipped to this norm."),
    click.option("--keep", type=int, help="Checkpoints that are kept."),
    click.option("--guard", type=click.Choice(["off", "stop", "adapt"]), help="What an alarm does."),
]


def _apply(decorators: list[Decorator], command: Any) -> Any:
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def model_options(command: Any) -> Any:
    """What to sample from, and how."""
    return _apply(_MODEL, command)


def reward_options(command: Any) -> Any:
    """What to score with."""
    return _apply(_REWARDS, command)


def training_options(command: Any) -> Any:
    """How to train."""
    return _apply(_TRAINING, command)


def tree_of(flags: dict[str, Any], registry: Registry, *, base: Tree | None = None) -> Tree:
    """The layers as one tree: base, recipe, ``--config``, ``-o``, flags; the later wins."""
    layers: list[Tree] = [base or {}]
    if flags.get("recipe"):
        layers.append(check_keys(read_recipe(registry, flags["recipe"])))
    if flags.get("config_file"):
        layers.append(check_keys(read_yaml(flags["config_file"])))
    flag_tree = _flag_tree(flags)
    names: Tree = {key: value for key, value in flag_tree.items() if key in ("rewards", "monitors")}
    tree = apply_options(merged(*layers, names), flags.get("options") or ())
    flag_tree = {key: value for key, value in flag_tree.items() if key not in names}
    return merged(tree, flag_tree)


def config_of(flags: dict[str, Any], registry: Registry, *, base: Tree | None = None) -> RunConfig:
    """The checked configuration that the command line asks for."""
    return validated(tree_of(flags, registry, base=base))


def _flag_tree(flags: dict[str, Any]) -> Tree:
    tree: Tree = {}
    for name, place in PLACES.items():
        value = flags.get(name)
        if value is None:
            continue
        inner = tree
        for key in place[:-1]:
            inner = inner.setdefault(key, {})
        inner[place[-1]] = _value_of(name, value)
    if flags.get("rewards"):
        tree["rewards"] = [parse_reward(text) for text in flags["rewards"]]
    if flags.get("monitors"):
        tree["monitors"] = [{"name": name} for name in flags["monitors"]]
    return tree


def _value_of(name: str, value: Any) -> Any:
    if name == "lora_targets":
        return [target.strip() for target in value.split(",") if target.strip()]
    if name == "num_frames" and value.isdigit():
        return int(value)
    return value


def is_bare(flags: dict[str, Any]) -> bool:
    """Whether nothing says what to train: then the demo runs."""
    return not any(flags.get(name) for name in ("backbone", "rewards", "recipe", "config_file"))
