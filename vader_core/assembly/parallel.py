"""What several processes share of a run: checked before anything is loaded, cut once it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from vader_core.assembly.parts import Assembly
from vader_core.errors import VaderError
from vader_core.parallel.layout import Layout
from vader_core.parallel.whole import in_pieces
from vader_core.run.config import RunConfig
from vader_core.run.layers import changed

if TYPE_CHECKING:
    from vader_core.parallel.mesh import Mesh
    from vader_core.parallel.shard import Sharded
    from vader_core.reward import Reward

#: Options that have an effect on pieces alone.
_OF_PIECES = ("keep_gathered", "shard_rewards", "shard_text_encoders")


def check_parallel(assembly: Assembly) -> None:
    """Refuse what cannot work together with weights in pieces, or with a sequence in parts.

    Raises:
        VaderError: Saying which option to leave out.
    """
    config = assembly.config
    if config.parallel.shard > 1:
        _check_shard(config)
    for name in _OF_PIECES:
        if getattr(config.parallel, name) and config.parallel.shard == 1:
            raise VaderError(f"parallel.{name} has no effect without parallel.shard: leave it out")
    if config.parallel.context > 1:
        _check_context(assembly)


def _check_shard(config: RunConfig) -> None:
    asked = config.performance
    reasons = {
        "fp8": (asked.fp8, "keeps a copy of every weight whole"),
        "swap_blocks": (asked.swap_blocks > 0, "moves weights that are in pieces"),
        "cuda_graphs": (asked.cuda_graphs, "would record the gathering of the weights"),
        "channels_last": (bool(asked.channels_last), "lays weights out so that they cannot be cut"),
        "offload_activations": (
            asked.offload_activations and not asked.gradient_checkpointing,
            "would save the gathered weights with the activations without gradient_checkpointing",
        ),
    }
    for name, (on, reason) in reasons.items():
        if on:
            raise VaderError(
                f"performance.{name} {reason}, so it does not go with parallel.shard: leave one out"
            )
    if asked.offload and config.parallel.shard_rewards:
        raise VaderError(
            "performance.offload moves the rewards to the CPU, and parallel.shard_rewards cuts them: leave "
            "one out"
        )
    if config.tuning.kind == "full":
        _check_full_shard(config)


def _check_full_shard(config: RunConfig) -> None:
    if config.trainer.optimizer == "adamw8bit":
        raise VaderError(
            "trainer.optimizer=adamw8bit cannot follow weights in pieces (--tune full with parallel.shard): "
            "leave one out"
        )
    if config.trainer.precision == "fp16":
        raise VaderError(
            "--precision fp16 scales its loss by what each process finds, which does not go with weights in "
            "pieces that learn (--tune full with parallel.shard): use bf16"
        )


def _check_context(assembly: Assembly) -> None:
    config = assembly.config
    parts = config.parallel.context
    assembly.backbone.check_sequence(parts, assembly.geometry)
    reasons = {
        "lora.dropout": (config.lora.dropout > 0, "is drawn for the whole sequence"),
        "performance.cuda_graphs": (
            config.performance.cuda_graphs,
            "would record what the processes exchange",
        ),
        "objective.reward_gradient.carry_gradient": (
            assembly.segments.carry_gradient,
            "needs the whole gradient of a picture, of which each process would have a part",
        ),
    }
    for name, (on, reason) in reasons.items():
        if on:
            raise VaderError(f"{name} {reason}, so it does not go with parallel.context: leave one out")


def in_processes(config: RunConfig, layout: Layout) -> RunConfig:
    """The configuration as one of the processes carries it out: what the global batch says, filled in."""
    trainer = config.trainer
    steps = layout.accumulate(trainer.accumulate, trainer.batch_size, trainer.global_batch)
    return config if steps == trainer.accumulate else changed(config, trainer={"accumulate": steps})


# -- once loaded -------------------------------------------------------------------------------------------


def cut_denoiser(assembly: Assembly, mesh: Mesh) -> Sharded:
    """Cut the denoiser's weights into pieces; what learns beside them stays whole."""
    from vader_core.parallel.shard import Sharded

    backbone = assembly.backbone
    beside = () if assembly.config.tuning.kind == "full" else _adapters(assembly)
    return Sharded(backbone.denoiser, backbone.blocks(), mesh.weights, beside)


def _adapters(assembly: Assembly) -> list[nn.Parameter]:
    """Every adapter's weights, the trained one's and those beside it."""
    marks = ("lora_", "lora_magnitude")
    named = assembly.backbone.denoiser.named_parameters()
    return [parameter for name, parameter in named if any(mark in name for mark in marks)]


def cut_text_encoders(assembly: Assembly, mesh: Mesh) -> None:
    """Cut the text encoders' layers into pieces.

    Raises:
        VaderError: There is none to cut, though the weights are real.
    """
    from vader_core.parallel.shard import Sharded, repeated_blocks

    found = [one for role, one in assembly.backbone.modules().items() if role.startswith("text_encoder")]
    for module in found:
        Sharded(module, repeated_blocks(module), mesh.weights, rest=False)
    section = assembly.config.backbone
    if section.options.get("weights") != "random" and not any(map(_has_pieces, found)):
        raise VaderError(
            f"parallel.shard_text_encoders: backbone {section.name!r} has no text encoder at hand "
            "that could be cut (some read theirs when the first text is encoded): leave it out"
        )


def check_rewards_cut(assembly: Assembly) -> None:
    """Refuse ``parallel.shard_rewards`` where it changed nothing.

    Raises:
        VaderError: No reward has layers to cut.
    """
    from vader_core.performance.offload import modules_of

    rewards = [term.reward for mixture in (assembly.rewards, assembly.monitors) for term in mixture.terms]
    if not any(_has_pieces(module) for reward in rewards for module in modules_of(reward)):
        raise VaderError(
            "parallel.shard_rewards: none of the rewards and monitors has layers that could be cut: leave it "
            "out"
        )


def _has_pieces(module: nn.Module) -> bool:
    return any(in_pieces(one) for one in module.parameters())


def cut_reward(reward: Reward, mesh: Mesh) -> Reward:
    """Cut the layers of a reward's networks into pieces; the same reward."""
    from vader_core.parallel.shard import Sharded, repeated_blocks
    from vader_core.performance.offload import modules_of

    for module in modules_of(reward):
        Sharded(module, repeated_blocks(module), mesh.weights, rest=False)
    return reward


def share_sequence(assembly: Assembly, mesh: Mesh) -> None:
    """Split the denoiser's sequence, and the decoder's frames where single ones are exact."""
    from vader_core.parallel.context import split_decode

    backbone = assembly.backbone
    backbone.split_sequence(mesh.sequence)
    mesh.bound_waits()  # who splits it may have made further groups
    if backbone.decode_is_exact:
        group = mesh.sequence["ulysses"].get_group()
        backbone.decode = split_decode(backbone.decode, group)  # type: ignore[method-assign]
