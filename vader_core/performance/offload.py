"""Modules that rest on the CPU and visit the device while they are used."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.backbone import Backbone
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import FramesNeeded, Reward, RewardOutput

#: Roles of modules that stay: the denoiser is always used, the text encoder is the backbone's to move.
_STAY = ("denoiser", "text_encoder")


class Resting:
    """Frozen modules whose weights lie in (pinned) CPU memory outside :meth:`awake`.

    They are frozen, so nothing is copied back: the device's copy is dropped.

    Args:
        modules: Moved to the CPU at once.
        device: Where they work.
        stay: Identities of tensors that stay where they are.
    """

    def __init__(
        self, modules: Iterable[nn.Module], device: torch.device, *, stay: Container[int] = ()
    ) -> None:
        self.device = device
        tensors = {
            id(tensor): tensor
            for module in modules
            for tensor in (*module.parameters(), *module.buffers())
            if id(tensor) not in stay
        }
        self._tensors = list(tensors.values())
        self._kept = [self._on_cpu(tensor.data) for tensor in self._tensors]
        self._users = 0
        self._rest()

    @property
    def bytes(self) -> int:
        """What the weights take up."""
        return sum(kept.numel() * kept.element_size() for kept in self._kept)

    def _on_cpu(self, tensor: Tensor) -> Tensor:
        kept = tensor.cpu()
        return kept.pin_memory() if self.device.type == "cuda" else kept

    def _rest(self) -> None:
        for tensor, kept in zip(self._tensors, self._kept, strict=True):
            tensor.data = kept

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Within, the weights are on the device; nests."""
        if self._users == 0:
            for tensor, kept in zip(self._tensors, self._kept, strict=True):
                tensor.data = kept.to(self.device, non_blocking=True)
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._rest()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, awake while it runs."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.awake():
                return function(*args, **kwargs)

        return call


class RestingReward(Reward):
    """A reward that is awake while it scores.

    Args:
        reward: The reward.
        resting: Its modules.
    """

    def __init__(self, reward: Reward, resting: Resting) -> None:
        self.reward, self.place = reward, reward.place
        self.resting = resting
        self.differentiable = reward.differentiable  # type: ignore[misc]
        self.exact_gradient = reward.exact_gradient  # type: ignore[misc]
        self.reads_text = reward.reads_text  # type: ignore[misc]

    @property
    def frames(self) -> FramesNeeded:
        """Which frames it must see."""
        return self.reward.frames

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """As the reward does."""
        with self.resting.awake():
            return self.reward(video, prompts, rng)


class Offload:
    """Everything but the denoiser rests on the CPU between its uses.

    Args:
        device: Where the work is done.
    """

    autoencoder: Resting

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._rewards: list[Resting] = []

    def backbone(self, backbone: Backbone) -> None:
        """Put a loaded backbone's networks to rest and wrap the calls that use them."""
        held = [module for role, module in backbone.modules().items() if role not in _STAY]
        self.autoencoder = Resting(held, self.device)
        for name in ("condition", "decode", "encode_video"):
            setattr(backbone, name, self.autoencoder.around(getattr(backbone, name)))

    def reward(self, reward: Reward) -> Reward:
        """The same reward, resting."""
        resting = Resting(modules_of(reward), self.device)
        self._rewards.append(resting)
        return RestingReward(reward, resting)

    @contextmanager
    def rewards_awake(self) -> Iterator[None]:
        """Within, the rewards stay on the device, for their backward pass."""
        with ExitStack() as stack:
            for resting in self._rewards:
                stack.enter_context(resting.awake())
            yield


def modules_of(reward: object) -> list[nn.Module]:
    """The modules that a reward, or the rewards within it, hold as attributes."""
    found: list[nn.Module] = []
    for value in vars(reward).values():
        if isinstance(value, nn.Module):
            found.append(value)
        elif isinstance(value, Reward):
            found += modules_of(value)
        elif isinstance(value, list | tuple | dict):
            inner = value.values() if isinstance(value, dict) else value
            for item in inner:
                if isinstance(item, nn.Module):
                    found.append(item)
                elif isinstance(item, Reward):
                    found += modules_of(item)
    return found
