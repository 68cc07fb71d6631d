"""Deep features of a denoiser, kept at one no-grad step and reused at the next few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

#: The cache whose :meth:`FeatureCache.at` is open; never set outside it.
_open: FeatureCache | None = None


def residual(x: Tensor, deep: Callable[[Tensor], Tensor]) -> Tensor:
    """``deep(x)`` for a stack of blocks that map tokens to tokens.

    Within :meth:`FeatureCache.at` it may be ``x`` plus what ``deep`` last added to its input.
    """
    return deep(x) if _open is None or torch.is_grad_enabled() else _open.residual(x, deep)


def output(x: Tensor, deep: Callable[[Tensor], Tensor]) -> Tensor:
    """``deep(x)`` for the inside of a U-Net (DeepCache, arXiv 2312.00858).

    Within :meth:`FeatureCache.at` it may be what ``deep`` last gave.
    """
    return deep(x) if _open is None or torch.is_grad_enabled() else _open.output(x, deep)


class FeatureCache:
    """What a denoiser's deep part gave, by guidance branch.

    A denoiser that can reuse features runs its deep part through :func:`residual` or :func:`output`.
    """

    def __init__(self) -> None:
        self._branches: tuple[str, ...] = ()
        self._reusing = False
        self._made: dict[str, int] = {}
        # Never dropped or moved: a CUDA graph reads and writes them where they lie.
        self._held: dict[tuple[object, ...], Tensor] = {}

    @property
    def state(self) -> tuple[object, ...]:
        """What the denoiser's next call does, for whoever replays calls."""
        return self._branches, self._reusing

    def reset(self) -> None:
        """Forget the rollout."""
        self._made = {}

    @contextmanager
    def at(self, i: int, branches: Sequence[str], every: int) -> Iterator[None]:
        """Within, the denoiser is called for step ``i``.

        Features that are younger than ``every`` steps are reused, older ones made anew.

        Args:
            i: Executed step.
            branches: The guidance branches that the batch holds, in order, in equal parts.
            every: Steps that features serve, the one that makes them included.
        """
        global _open
        self._branches = tuple(branches)
        self._reusing = all(i - self._made.get(name, i - every) < every for name in branches)
        before, _open = _open, self
        try:
            yield
            if not self._reusing:
                self._made |= dict.fromkeys(branches, i)
        finally:
            _open = before
            self._branches, self._reusing = (), False

    def residual(self, x: Tensor, deep: Callable[[Tensor], Tensor]) -> Tensor:
        """``deep(x)``, or ``x`` plus what ``deep`` last added to its input."""
        if self._reusing:
            return x + self._kept(x)
        out = deep(x)
        self._keep(x, out - x)
        return out

    def output(self, x: Tensor, deep: Callable[[Tensor], Tensor]) -> Tensor:
        """``deep(x)``, or what ``deep`` last gave."""
        if self._reusing:
            return self._kept(x)
        out = deep(x)
        self._keep(x, out)
        return out

    def _keys(self, x: Tensor) -> list[tuple[object, ...]]:
        one = (len(x) // len(self._branches), *x.shape[1:])
        return [(name, one, x.dtype, x.device) for name in self._branches]

    def _kept(self, x: Tensor) -> Tensor:
        parts = [self._held[key] for key in self._keys(x)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _keep(self, x: Tensor, features: Tensor) -> None:
        for key, part in zip(self._keys(x), features.chunk(len(self._branches)), strict=True):
            if key in self._held:
                self._held[key].copy_(part)
            else:
                self._held[key] = part.clone()
