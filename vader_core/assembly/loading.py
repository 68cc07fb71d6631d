"""Everything that a run loads, in the order that asks for least memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vader_core.assembly.levers import pull_levers
from vader_core.assembly.parallel import (
    check_rewards_cut,
    cut_denoiser,
    cut_reward,
    cut_text_encoders,
    share_sequence,
)
from vader_core.assembly.parts import ROLLOUT_ADAPTER, Assembly
from vader_core.backbone import Backbone
from vader_core.device import out_of_memory_named
from vader_core.errors import VaderError
from vader_core.function_files import permitted
from vader_core.lora.tuning import Lora
from vader_core.method.mixture import Mixture, Term
from vader_core.method.tuning import Tuning
from vader_core.parallel.rows import read_pieces
from vader_core.parallel.whole import in_pieces
from vader_core.reward import Reward
from vader_core.run.adapters import find_adapter
from vader_core.run.base_model import base_model
from vader_core.run.config import MonitorSection, RewardSection
from vader_core.tuning.full import Full

#: Share of a device's free memory that a denoiser may take before it is cut; text encoders come with it.
_SHARE_TO_LOAD = 0.75

if TYPE_CHECKING:
    from vader_core.parallel.mesh import Mesh
    from vader_core.parallel.shard import Sharded


def load_parts(assembly: Assembly, encode: Callable[[], None]) -> None:
    """Load backbone, adapter and rewards, encode the texts, and pull the levers.

    With ``performance.offload`` the rewards come first, each put to rest before the next is made, so that no
    two networks of theirs and the denoiser's are on the device together.

    Args:
        assembly: Prepared.
        encode: Encodes the texts and lets the encoder go; called before rewards are loaded onto the device.
    """
    offload, sharded, mesh = None, None, assembly.mesh
    if assembly.config.performance.offload:
        from vader_core.performance.offload import Offload

        offload = Offload(assembly.device)
        load_rewards(assembly, then=offload.reward)
    if mesh is not None and mesh.layout.shard > 1:
        sharded = load_in_pieces(assembly, mesh, attach, later=assembly.config.tuning.kind == "lora")
    else:
        load_backbone(assembly)
    if offload is not None:
        offload.backbone(assembly.backbone)
    encode()
    if sharded is None:
        attach(assembly)
    if mesh is not None and mesh.layout.context > 1:
        share_sequence(assembly, mesh)
    assembly.progress("loading the rewards", 0, 0)
    if offload is None:
        load_rewards(assembly, then=cutting(assembly))
    pull_levers(assembly, offload, sharded)


def load_model(assembly: Assembly, attach: Callable[[Assembly], Any], *, later: bool = False) -> None:
    """Load a model that samples alone, shared as its mesh says.

    Args:
        assembly: Prepared.
        attach: Puts what was trained on the loaded backbone.
        later: Whether the denoiser's weights may be read after that, as they may where it is an adapter.
    """
    mesh = assembly.mesh
    if mesh is not None and mesh.layout.shard > 1:
        sharded = load_in_pieces(assembly, mesh, attach, later=later)
        if assembly.config.parallel.keep_gathered:
            from vader_core.parallel.shard import KeptGathered

            assembly.model.levers = (KeptGathered(sharded),)
    else:
        load_backbone(assembly)
        attach(assembly)
    if mesh is not None and mesh.layout.context > 1:
        share_sequence(assembly, mesh)


def cutting(assembly: Assembly) -> Callable[[Reward], Reward]:
    """What becomes of each reward before the next is made: it is cut, where that is asked for."""
    mesh = assembly.mesh
    if mesh is None or not assembly.config.parallel.shard_rewards:
        return lambda reward: reward
    return lambda reward: cut_reward(reward, mesh)


def load_in_pieces(
    assembly: Assembly, mesh: Mesh, attach: Callable[[Assembly], Any], *, later: bool
) -> Sharded:
    """Load the backbone, one process of a machine after the other, and cut it.

    Where the backbone can leave the denoiser in its files, it is cut first, and then all processes read their
    own rows at once. Else a model that no device holds whole is read into the CPU's memory, which so holds it
    once.

    Args:
        assembly: Prepared.
        mesh: Who shares it.
        attach: Puts what learns, or what was trained, on the loaded backbone.
        later: Whether the denoiser's weights may be read after ``attach``.
    """
    backbone, device = assembly.backbone, assembly.device
    with mesh.own_turn():
        backbone.may_leave_unread = later
        backbone.device = device if _fits(assembly) else torch.device("cpu")
        try:
            load_backbone(assembly)
        finally:
            backbone.device = device
        attach(assembly)
        if backbone.unread is not None:
            backbone.unread.on_meta(backbone.denoiser)
        sharded = cut_denoiser(assembly, mesh)
        if isinstance(assembly.model.tuning, Full):
            assembly.model.tuning.cut(sharded.part)
        if assembly.config.parallel.shard_text_encoders:
            cut_text_encoders(assembly, mesh)
        for role, module in backbone.modules().items():
            if role != "denoiser" and not any(in_pieces(one) for one in module.parameters()):
                nn.Module.to(module, device)
    if backbone.unread is not None:
        read_pieces(backbone.unread, device)
    return sharded


def _fits(assembly: Assembly) -> bool:
    """Whether the whole denoiser has room on this process's device while it is cut."""
    if assembly.device.type != "cuda":
        return True
    with torch.device("meta"):
        numbers = sum(one.numel() for one in assembly.backbone.build_denoiser().parameters())
    free, _ = torch.cuda.mem_get_info(assembly.device)
    return numbers * assembly.dtype.itemsize < _SHARE_TO_LOAD * free


def load_backbone(assembly: Assembly) -> None:
    """Build the model and read its weights.

    Raises:
        MachineError: The device has too little memory.
    """
    with out_of_memory_named(f"loading backbone {assembly.config.backbone.name!r}"):
        assembly.backbone.load()


def attach(assembly: Assembly) -> Tuning:
    """Make what learns: full weights, the adapter to start from where there is one, else a fresh one."""
    start = assembly.config.lora.start
    denoiser = assembly.backbone.denoiser
    if assembly.config.tuning.kind == "full":
        full = full_weights(assembly.backbone, assembly.config.tuning.modules)
        assembly.model.tuning = full
        return full
    if start is None:
        tuning = Lora(denoiser, assembly.lora_settings())
    else:
        tuning = Lora(denoiser, start=find_adapter(start, assembly.registry), what=start)
    tuning.base = base_model(assembly.config, assembly.registry)
    distilled = assembly.config.rollout.lora
    if distilled is not None:
        adapter = find_adapter(distilled, assembly.registry)
        tuning.add(ROLLOUT_ADAPTER, adapter, 0.0, what=f"--rollout-lora {distilled}")
    assembly.model.tuning = tuning
    return tuning


def full_weights(backbone: Backbone, modules: Sequence[str] | None) -> Full:
    """The denoiser's own weights as what learns."""
    return Full(
        backbone.denoiser,
        modules,
        to_official=backbone.to_official,
        from_official=backbone.from_official,
    )


def load_rewards(
    assembly: Assembly, *, training: bool = True, then: Callable[[Reward], Reward] = lambda reward: reward
) -> None:
    """Load the rewards and the monitors, and hand the rewards to the objective.

    Args:
        assembly: Prepared.
        training: Refuse rewards without a gradient where the objective needs one.
        then: What becomes of each before the next is made.

    Raises:
        VaderError: A reward without a gradient is to be trained on, or none can be cut that should be.
    """
    objective = assembly.objective if training else None
    wants_gradient = objective is not None and "rewards" in objective.needs
    mesh = assembly.mesh if assembly.config.parallel.shard_rewards else None
    with nullcontext() if mesh is None else mesh.own_turn():
        assembly.rewards = _mixture(assembly, assembly.config.reward, wants_gradient, then)
        assembly.monitors = _mixture(assembly, assembly.config.monitor, False, then)
    if training and mesh is not None:
        check_rewards_cut(assembly)  # sampling may have other rewards, or none
    if objective is not None:
        objective.use(assembly.rewards)


def related_judges(assembly: Assembly) -> list[str]:
    """A warning for each monitor that stands on the same network as a reward that is trained on."""
    found = []
    for judge in assembly.monitors.terms:
        for trained in assembly.rewards.terms:
            shared = sorted(set(judge.reward.families) & set(trained.reward.families))
            if shared:
                found.append(
                    f"--monitor {judge.name} stands on the same network as --reward {trained.name} "
                    f"({', '.join(shared)}), so it is no independent judge: watch one of another family too"
                )
    return found


def _mixture(
    assembly: Assembly,
    items: Sequence[RewardSection] | Sequence[MonitorSection],
    wants_gradient: bool,
    then: Callable[[Reward], Reward],
) -> Mixture:
    terms = []
    for item in items:
        component = permitted(assembly.registry, item.model_dump())
        trained = isinstance(item, RewardSection)
        with out_of_memory_named(f"loading {'reward' if trained else 'monitor'} {item.name!r}"):
            reward = component.make(item.options, device=assembly.device, dtype=assembly.dtype)
        if wants_gradient and not reward.differentiable:
            raise VaderError(
                f"reward {item.name!r} has no gradient, and this objective needs one: use "
                f"--objective nft, or watch it with --monitor {item.name} and train on another --reward"
            )
        if isinstance(item, RewardSection):
            terms.append(Term(item.name, then(reward), item.weight, item.cap))
        else:
            terms.append(Term(item.name, then(reward)))
    return Mixture(tuple(terms))
