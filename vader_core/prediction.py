"""What a denoiser says at one step."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """One call's result.

    Args:
        value: Noise, v or velocity, as the schedule's ``prediction_type`` says: [B, C, T, h, w].
        variance: What a model with a learned variance says beside it, in the model's own form
            [B, C, T, h, w]; ``None`` for a model with a fixed one. Samplers that know no variance ignore it.
    """

    value: Float[Tensor, "b c t h w"]
    variance: Float[Tensor, "b c t h w"] | None = None

    def chunk(self, parts: int) -> tuple[Prediction, ...]:
        """The batch in equal parts, in order."""
        values = self.value.chunk(parts)
        variances = [None] * parts if self.variance is None else list(self.variance.chunk(parts))
        return tuple(Prediction(*pair) for pair in zip(values, variances, strict=True))

    def to(self, like: Tensor) -> Prediction:
        """The same in the dtype of ``like``."""
        variance = None if self.variance is None else self.variance.to(like.dtype)
        return Prediction(self.value.to(like.dtype), variance)
