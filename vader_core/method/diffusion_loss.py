"""What supervised training minimises, per sample: the losses of the published trainers, number for number.

All of them compare a prediction on noised data with what it should have been. Latents are [B, C, T, h, w]; a
frame mask [B, T] is True where a frame is to be generated, and frames that are given do not count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vader_core.errors import VaderError

Latents = Float[Tensor, "b c t h w"]
PerSample = Float[Tensor, " b"]
FrameMask = Bool[Tensor, "b t"]

# EasyAnimate's `snr_loss` compares the data up to this timestep of 1000, the noise above it.
SNR_TIMESTEP = 249
_BIN = 1 / 255
_EDGE = 0.999
_SMALLEST = 1e-12


def frame_mean(values: Latents, mask: FrameMask | None = None) -> PerSample:
    """The mean over everything but the batch; with a mask, over its True frames alone.

    A sample whose mask is False everywhere has nothing to learn from: its mean is 0, without a gradient.
    """
    if mask is None:
        return values.flatten(1).mean(dim=1)
    per_frame = values.mean(dim=(1, 3, 4))
    return (per_frame * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def keep_frames(noised: Latents, given: Latents, mask: FrameMask | None) -> Latents:
    """The model's input: ``noised`` where the mask is True, ``given`` elsewhere.

    ``given`` is the data itself under a rectified flow, and the data noised at timestep 0 with the same noise
    under a discrete schedule, as Open-Sora 1.2 and 1.1 do.
    """
    if mask is None:
        return noised
    return torch.where(mask[:, None, :, None, None], noised, given)


def squared_error(prediction: Latents, target: Latents, mask: FrameMask | None = None) -> PerSample:
    """The mean squared error in float32: noise, v or velocity against what the schedule says it should be."""
    return frame_mean((prediction.float() - target.float()).pow(2), mask)


def logit_normal(normal: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Shares of the way to noise in (0, 1) from standard normal numbers: most often in the middle."""
    return torch.sigmoid(normal * std + mean)


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Min-SNR-gamma weights (arXiv 2303.09556) per timestep, for a loss on what the model predicts.

    Args:
        snr: Signal to noise, a_t / (1 - a_t); of any shape.
        gamma: Where the weight of easy timesteps is cut, 5 in the paper; above 0.
        prediction_type: ``epsilon`` or ``v``.

    Raises:
        VaderError: A gamma or a prediction for which the weights are not defined.
    """
    if not gamma > 0:
        raise VaderError(f"min-SNR gamma {gamma} is not allowed: use a number above 0, such as 5")
    if prediction_type == "epsilon":
        return snr.clamp(max=gamma) / snr
    if prediction_type == "v":
        return snr.clamp(max=gamma) / (snr + 1)
    raise VaderError(
        f"min-SNR weights are defined for epsilon and v predictions, not for {prediction_type}: leave it out"
    )


@dataclass(frozen=True)
class LearnedRangeTerms:
    """The two parts of the loss of a model that predicts its own variance.

    Args:
        mse: [B], of the mean.
        vb: [B], the variational bound in bits, of the variance alone.
    """

    mse: PerSample
    vb: PerSample

    @property
    def loss(self) -> PerSample:
        """Their sum."""
        return self.mse + self.vb


@dataclass(frozen=True)
class LearnedRange:
    """The posterior of a discrete diffusion, for models that predict noise and a variance between two bounds.

    (Improved DDPM, arXiv 2102.09672; Open-Sora 1.1 and EasyAnimate V2.) Tables are computed in the dtype
    of ``betas``: Open-Sora's are float32, which moves the bound at timestep 0 by 0.3 %; EasyAnimate's are
    float64.

    Args:
        betas: [N], float32 or float64.
    """

    betas: Tensor

    @classmethod
    def linear(
        cls, dtype: torch.dtype, start: float = 1e-4, end: float = 0.02, steps: int = 1000
    ) -> LearnedRange:
        """Betas evenly spaced from ``start`` to ``end``, spaced in float64 and rounded to ``dtype``."""
        return cls(torch.from_numpy(np.linspace(start, end, steps)).to(dtype))

    @classmethod
    def of(cls, alphas_cumprod: Tensor, dtype: torch.dtype) -> LearnedRange:
        """The tables of a schedule's A_t [N], float64, computed in ``dtype``."""
        cumprod = alphas_cumprod.double()
        before = torch.cat([torch.ones_like(cumprod[:1]), cumprod[:-1]])
        return cls((1 - cumprod / before).to(dtype))

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """A_t, [N]."""
        return torch.cumprod(1 - self.betas, dim=0)

    @cached_property
    def _previous(self) -> Tensor:
        return torch.cat([torch.ones_like(self.alphas_cumprod[:1]), self.alphas_cumprod[:-1]])

    @cached_property
    def lowest_log_variance(self) -> Tensor:
        """Log of the posterior's variance, [N]; entry 0, which would be of 0, is entry 1's (else beta's)."""
        if len(self.betas) == 1:
            return self.highest_log_variance
        variance = self.betas * (1 - self._previous) / (1 - self.alphas_cumprod)
        return torch.cat([variance[1:2], variance[1:]]).log()

    @cached_property
    def highest_log_variance(self) -> Tensor:
        """Log of beta_t, [N]."""
        return self.betas.log()

    @cached_property
    def mean_of_data(self) -> Tensor:
        """The posterior mean's coefficient of the clean data, [N]."""
        return self.betas * self._previous.sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def mean_of_noised(self) -> Tensor:
        """The posterior mean's coefficient of the noised data, [N]."""
        return (1 - self._previous) * (1 - self.betas).sqrt() / (1 - self.alphas_cumprod)

    def add_noise(self, clean: Latents, noise: Latents, t: Int[Tensor, " b"]) -> Latents:
        """sqrt(A_t) clean + sqrt(1 - A_t) noise."""
        signal, rest = self._at(self.alphas_cumprod.sqrt(), t), self._at((1 - self.alphas_cumprod).sqrt(), t)
        return signal * clean + rest * noise

    def noised(
        self, clean: Latents, noise: Latents, t: Int[Tensor, " b"], mask: FrameMask | None = None
    ) -> Latents:
        """The model's input: frames that are given carry the noise of timestep 0, not none."""
        return keep_frames(
            self.add_noise(clean, noise, t), self.add_noise(clean, noise, torch.zeros_like(t)), mask
        )

    def clean_estimate(self, noised: Latents, epsilon: Latents, t: Int[Tensor, " b"]) -> Latents:
        """The data that predicted noise implies; not clipped."""
        inverse = 1 / self.alphas_cumprod
        return self._at(inverse.sqrt(), t) * noised - self._at((inverse - 1).sqrt(), t) * epsilon

    def log_variance(self, share: Latents, t: Int[Tensor, " b"]) -> Latents:
        """The predicted log variance: ``share`` in [-1, 1] goes from the lowest to the highest."""
        upper = (share + 1) / 2
        return upper * self._at(self.highest_log_variance, t) + (1 - upper) * self._at(
            self.lowest_log_variance, t
        )

    def terms(
        self,
        clean: Latents,
        noise: Latents,
        noised: Latents,
        t: Int[Tensor, " b"],
        *,
        epsilon: Latents,
        share: Latents,
        mask: FrameMask | None = None,
        snr_loss: bool = False,
    ) -> LearnedRangeTerms:
        """Both terms for each sample.

        Args:
            clean: The data.
            noise: What was mixed in.
            noised: What the model was given.
            t: Timesteps 0 … N-1, [B].
            epsilon: The predicted noise.
            share: The predicted variance channels, about -1 … 1.
            mask: Frames that are generated, [B, T]; the others do not count.
            snr_loss: EasyAnimate's flag: up to timestep 249 the data are compared in place of the noise.
        """
        mse = frame_mean((noise - epsilon).pow(2), mask)
        if snr_loss:
            data = frame_mean((clean - self.clean_estimate(noised, epsilon, t)).pow(2), mask)
            mse = torch.where(t <= SNR_TIMESTEP, data, mse)
        return LearnedRangeTerms(mse, self._bound(clean, noised, t, epsilon.detach(), share, mask))

    def _bound(
        self,
        clean: Latents,
        noised: Latents,
        t: Int[Tensor, " b"],
        epsilon: Latents,
        share: Latents,
        mask: FrameMask | None,
    ) -> PerSample:
        of_data, of_noised = self._at(self.mean_of_data, t), self._at(self.mean_of_noised, t)
        true_mean = of_data * clean + of_noised * noised
        mean = of_data * self.clean_estimate(noised, epsilon, t) + of_noised * noised
        lowest, log_variance = self._at(self.lowest_log_variance, t), self.log_variance(share, t)
        divergence = 0.5 * (
            -1
            + log_variance
            - lowest
            + torch.exp(lowest - log_variance)
            + (true_mean - mean).pow(2) * torch.exp(-log_variance)
        )
        likelihood = -_bin_log_likelihood(clean, mean, 0.5 * log_variance)
        first, later = (frame_mean(values, mask) / math.log(2.0) for values in (likelihood, divergence))
        return torch.where(t == 0, first, later)

    def _at(self, table: Tensor, t: Int[Tensor, " b"]) -> Tensor:
        """``table`` at ``t`` in float32, broadcast over latents."""
        return table.to(t.device)[t].float()[:, None, None, None, None]


def _bin_log_likelihood(data: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log of the share of a Gaussian that falls into the bin around ``data``, as for bytes in [-1, 1]."""
    centred, inverse = data - mean, torch.exp(-log_scale)
    below_upper = _cumulative(inverse * (centred + _BIN))
    below_lower = _cumulative(inverse * (centred - _BIN))
    inside = (below_upper - below_lower).clamp(min=_SMALLEST).log()
    left = below_upper.clamp(min=_SMALLEST).log()
    right = (1 - below_lower).clamp(min=_SMALLEST).log()
    return torch.where(data < -_EDGE, left, torch.where(data > _EDGE, right, inside))


def _cumulative(x: Tensor) -> Tensor:
    """The standard normal's distribution function, by the tanh formula that the original uses."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3))))
