"""The options that several commands share, and how they become a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from vader_core.builtin.prompts.grammar import giving_way, prompt_source
from vader_core.cli import completion
from vader_core.cli.devices import Device
from vader_core.cli.overrides import (
    apply_options,
    keys_as_tree,
    keys_of,
    named_again,
    parse_reward,
    parse_weighted,
)
from vader_core.cli.paths import EnteredPath
from vader_core.component import Kind
from vader_core.errors import VaderError
from vader_core.paths import check_there, file_of, run_of
from vader_core.registry import Registry
from vader_core.run.config import RunConfig, check_keys, validated
from vader_core.run.layers import merged, read_yaml
from vader_core.run.recipes import read_recipe
from vader_core.run.section import Tree
from vader_core.run.stages import newest_stage, without_given
from vader_core.values import Typed

Decorator = Callable[[Any], Any]

#: Flag -> where its value goes in the tree.
PLACES: dict[str, str] = {
    "backbone": "backbone.name",
    "weights": "backbone.weights",
    "height": "video.height",
    "width": "video.width",
    "num_frames": "video.num_frames",
    "fps": "video.fps",
    "sampler": "sampler.name",
    "num_steps": "sampler.num_steps",
    "guidance_scale": "sampler.guidance_scale",
    "gradient": "objective.reward_gradient.gradient",
    "reward_frames": "objective.reward_gradient.reward_frames",
    "prompts": "prompts.source",
    "data": "data.source",
    "negative_prompt": "prompts.negative_prompt",
    "tune": "tuning.kind",
    "lora_rank": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_targets": "lora.targets",
    "lora": "lora.start",
    "rollout_lora": "rollout.lora",
    "lr": "trainer.lr",
    "batch_size": "trainer.batch_size",
    "accumulate": "trainer.accumulate",
    "max_steps": "trainer.max_steps",
    "max_grad_norm": "trainer.max_grad_norm",
    "precision": "trainer.precision",
    "seed": "trainer.seed",
    "keep": "run.keep",
    "guard": "validation.guard",
    "device": "trainer.device",
}

_MODEL = [
    click.option(
        "--backbone", metavar="NAME", shell_complete=completion.names("backbone"), help="The video model."
    ),
    click.option(
        "--weights", metavar="WEIGHTS", help="pretrained, PATH, hub:REPO[/FILE][@REVISION] or random."
    ),
    click.option("--height", type=int, metavar="PIXELS", help="Height of the videos."),
    click.option("--width", type=int, metavar="PIXELS", help="Width of the videos."),
    click.option("--num-frames", metavar="N", help="Frames, or a form of the model's own, such as 2s."),
    click.option("--fps", type=float, help="Frames per second."),
    click.option(
        "--sampler",
        metavar="NAME",
        shell_complete=completion.names("sampler"),
        help="The rule by which noise becomes a clip.",
    ),
    click.option("--num-steps", type=int, metavar="STEPS", help="Sampling steps."),
    click.option("--guidance-scale", metavar="SCALE", help="A number, or FIRST:LAST over the frames."),
    click.option(
        "--prompts",
        metavar="PROMPTS",
        shell_complete=completion.names("prompt source"),
        help="NAME, file:PATH, text:… or images:FOLDER.",
    ),
    click.option("--negative-prompt", metavar="TEXT", help="What the videos should not show."),
    click.option(
        "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Number format of the model."
    ),
    click.option("--seed", type=int, help="The same seed gives the same run."),
    click.option("--device", type=Device(), help="Where it runs."),
    click.option("--config", "config_file", type=EnteredPath(), help="A YAML file of `vader config`."),
    click.option(
        "--recipe",
        metavar="NAME",
        shell_complete=completion.recipe_names,
        help="Published settings that a plugin ships.",
    ),
    click.option(
        "-o", "options", multiple=True, metavar="KEY=VALUE", help="Any other option; see `vader show`."
    ),
]
_SCORES = [
    click.option(
        "--reward",
        "rewards",
        multiple=True,
        metavar="NAME[:WEIGHT]",
        shell_complete=completion.names("reward"),
        help="A reward, or a function of yours as FILE.py:FUNCTION[:WEIGHT] (repeat).",
    ),
    click.option(
        "--monitor",
        "monitors",
        multiple=True,
        metavar="NAME",
        shell_complete=completion.names("reward"),
        help="A reward to watch and not to train on (repeat).",
    ),
]
_REWARDS = [
    click.option(
        "--objective",
        "objectives",
        multiple=True,
        metavar="NAME[:WEIGHT]",
        shell_complete=completion.names("objective"),
        help="What to minimise (repeat); by default what --reward and --data imply.",
    ),
    *_SCORES,
    click.option(
        "--reward-frames",
        metavar="FRAMES",
        help="random, first, middle, last, fml, alternate, all or an index.",
    ),
]
_TRAINING = [
    click.option(
        "--data", metavar="DATA", help="Learn from clips: file:PATH, videos:FOLDER, cache:FOLDER or NAME."
    ),
    click.option(
        "--gradient",
        metavar="STEPS",
        help="last, last:K, random, random:LO-HI, from:I, steps:I,J, refl or refl:LO-HI.",
    ),
    click.option(
        "--tune", type=click.Choice(["lora", "full"]), help="What learns: an adapter, or the model itself."
    ),
    click.option("--lora-rank", type=int, help="Size of the LoRA's matrices."),
    click.option("--lora-alpha", type=float, help="The LoRA counts alpha / rank times."),
    click.option(
        "--lora-targets", metavar="LAYERS", help="Layers that get one: ends of their names, or all."
    ),
    click.option("--lora", metavar="LORA", help="Start from a run directory, a PATH or hub:REPO[/FILE]."),
    click.option(
        "--rollout-lora",
        metavar="LORA",
        help="A distilled adapter that makes a store's rollouts in few steps.",
    ),
    click.option("--lr", type=float, help="Learning rate."),
    click.option("--batch-size", type=int, help="Videos at once, per process."),
    click.option("--accumulate", type=int, help="Batches whose gradients make one step."),
    click.option("--max-steps", type=int, help="Optimizer steps."),
    click.option("--max-grad-norm", type=float, help="Clip the gradient to this norm."),
    click.option("--keep", type=int, help="Checkpoints to keep beside the best; 0 keeps all."),
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


def scoring_options(command: Any) -> Any:
    """What to score with, for a command that trains on nothing."""
    return _apply(_SCORES, command)


def training_options(command: Any) -> Any:
    """How to train."""
    return _apply(_TRAINING, command)


def lora_base(lora: str | None, flags: dict[str, Any], registry: Registry) -> Tree:
    """What a ``--lora`` value says of a run: its own configuration, or the model that a file is for.

    Raises:
        VaderError: As :func:`run_base`, or a file that cannot be read.
    """
    found = run_base(lora)
    if found or lora is None or flags.get("backbone") is not None:
        return found
    file = file_of(lora)
    if file is None:
        return {}
    from vader_core.run.adapters import backbone_of

    name = backbone_of(file, registry)
    return {} if name is None else {"backbone": {"name": name}}


def run_base(lora: str | None) -> Tree:
    """The configuration of the run that ``--lora`` names, where it names one.

    Raises:
        VaderError: It names nothing that is there.
    """
    if lora is not None:
        check_there(lora)
    folder = run_of(lora) if lora is not None else None
    if folder is None:
        return {}
    base = read_yaml(newest_stage(folder) / "config.yaml")
    if isinstance(base.get("lora"), dict):  # LORA is what the run made, whatever it began with
        base["lora"] = {**base["lora"], "start": None}
    return base


def tree_of(flags: dict[str, Any], registry: Registry, *, base: Tree | None = None) -> Tree:
    """The layers as one tree: base, recipe, ``--config``, ``-o``, flags; the later wins.

    Raises:
        VaderError: A flag and an ``-o`` that say the same thing twice.
    """
    layers: list[Tree] = [base or {}]
    if flags.get("recipe"):
        layers.append(read_recipe(registry, flags["recipe"]))
    if flags.get("config_file"):
        layers.append(read_yaml(flags["config_file"]))
    for layer in layers[1:]:
        check_keys(layer)
    if flags.get("lora") is not None:  # the adapter to start from has its own shape, whatever a recipe says
        layers = [merged(layer, {"lora": _without_shape(layer)}) for layer in layers]
    options = flags.get("options") or ()
    layers = [_giving_way(layer, flags, options) for layer in layers]
    twice = {place: name for name, place in PLACES.items() if flags.get(name) is not None}
    for key in sorted(keys_of(options) & set(twice)):
        flag = "--" + twice[key].replace("_", "-")
        raise VaderError(f"{flag} and -o {key} set the same thing: give one of them")
    named = _scored(flags, merged(*layers), registry)
    for name, weight in (parse_weighted(text, "--objective") for text in flags.get("objectives") or ()):
        named = merged(named, {"objective": {name: {"weight": 1.0 if weight is None else weight}}})
    later = [named, keys_as_tree(options), _flag_tree(flags)]
    tree = merged(_layered(layers, later), named)
    return merged(apply_options(tree, options), _flag_tree(flags))


def _layered(layers: list[Tree], later: list[Tree]) -> Tree:
    """The layers as one tree; what comes after the stages' own layer holds in every stage."""
    staged = max((number for number, layer in enumerate(layers) if layer.get("stages")), default=-1)
    tree = merged(*layers)
    if staged >= 0:
        for layer in [*layers[staged + 1 :], *later]:
            tree["stages"] = without_given(tree["stages"], layer)
    return tree


def _giving_way(layer: Tree, flags: dict[str, Any], options: Sequence[str]) -> Tree:
    """A layer below the command line without what would be idle there: its choice goes before a recipe's.

    Another kind of tuning than the layer's takes the layer's options of the other kind away, and named
    objectives and prompts take the place of the layer's.
    """
    typed = {key: value for key, _, value in (option.partition("=") for option in options)}
    kind = flags.get("tune") or typed.get("tuning.kind")
    found = dict(layer)
    if kind == "full":
        found.pop("lora", None)
    elif kind == "lora" and isinstance(found.get("tuning"), dict):
        found["tuning"] = {key: value for key, value in found["tuning"].items() if key != "modules"}
    if flags.get("prompts") and isinstance(found.get("prompts"), dict):
        found["prompts"] = giving_way(found["prompts"])
    named = {parse_weighted(text, "--objective")[0] for text in flags.get("objectives") or ()}
    if named and isinstance(found.get("objective"), dict):
        found["objective"] = {name: item for name, item in found["objective"].items() if name in named}
    stages = found.get("stages")
    if isinstance(stages, list):
        found["stages"] = [
            _giving_way(one, flags, options) if isinstance(one, dict) else one for one in stages
        ]
    return found


def _without_shape(layer: Tree) -> Tree:
    given = layer.get("lora")
    return {name: None for name in ("rank", "alpha", "targets") if isinstance(given, dict) and name in given}


def config_of(flags: dict[str, Any], registry: Registry, *, base: Tree | None = None) -> RunConfig:
    """The checked configuration that the command line asks for."""
    return _known(validated(tree_of(flags, registry, base=base)), registry)


def _known(config: RunConfig, registry: Registry) -> RunConfig:
    """The configuration, its names looked up: a slip is told before torch is imported, which takes seconds.

    Raises:
        VaderError: A name that nothing installed has.
    """
    named: list[tuple[Kind, str | None]] = [("backbone", config.backbone.name)]
    named.append(("sampler", config.sampler.name))
    scored = [item for item in (*config.reward, *config.monitor) if item.function_file is None]
    named += [("reward", item.name) for item in scored]
    if config.prompts.source is not None:
        named.append(("prompt source", prompt_source(config.prompts.source, config.prompts.options)[0]))
    for kind, name in named:
        if name is not None:
            registry.get(kind, name)
    return config


def config_alone(flags: dict[str, Any], registry: Registry, *, base: Tree | None = None) -> RunConfig:
    """The same for a command that runs in one process: how a run was shared is left out.

    Raises:
        VaderError: ``-o parallel.…``, which this command cannot follow.
    """
    shared = _sharing(flags)
    if shared:
        raise VaderError(
            f"-o {shared[0]}: this command runs in one process; vader train, sample and evaluate share a "
            "model. Leave it out; for memory see performance.offload and performance.swap_blocks"
        )
    return _known(validated({**tree_of(flags, registry, base=base), "parallel": {}}), registry)


def config_shared(flags: dict[str, Any], registry: Registry, *, base: Tree | None = None) -> RunConfig:
    """The same for a command that may run in several: how a run was shared counts no more, ``-o`` does."""
    tree = tree_of(flags, registry, base=base)
    asked = {key.partition(".")[2] for key in _sharing(flags)}
    held = tree.get("parallel", {})
    kept = {name: held[name] for name in held if name in asked}
    return _known(validated({**tree, "parallel": kept}), registry)


def _sharing(flags: dict[str, Any]) -> list[str]:
    """The options of the command line that say what is shared."""
    return sorted(key for key in keys_of(flags.get("options") or ()) if key.startswith("parallel."))


def _scored(flags: dict[str, Any], tree: Tree, registry: Registry) -> Tree:
    """The rewards and monitors of the flags, in place of a recipe's or a run's.

    Functions in files that the run names already only permit it to use them.
    """
    found: Tree = {}
    for section, name, flag in (("reward", "rewards", "--reward"), ("monitor", "monitors", "--monitor")):
        given = [parse_reward(text, registry, flag) for text in flags.get(name) or ()]
        if given:
            found[section] = named_again(given, tree.get(section)) or given
    return found


def _flag_tree(flags: dict[str, Any]) -> Tree:
    tree: Tree = {}
    for name, place in PLACES.items():
        value = flags.get(name)
        if value is None:
            continue
        *path, last = place.split(".")
        inner = tree
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = _value_of(name, value)
    return tree


def _value_of(name: str, value: Any) -> Any:
    if name == "lora_targets":
        return [target.strip() for target in value.split(",") if target.strip()]
    return Typed(value) if isinstance(value, str) else value


def is_bare(flags: dict[str, Any]) -> bool:
    """Whether nothing says what to train: then the demo runs."""
    return not any(flags.get(name) for name in ("backbone", "rewards", "data", "recipe", "config_file"))
