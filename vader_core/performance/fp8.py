"""Products of frozen linear layers in float8 (e4m3), for the no-grad steps of training rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from vader_core.nn.functional import Switch
from vader_core.precision import without_autocast

if TYPE_CHECKING:
    from vader_core.performance.fold_adapter import Folding

FLOAT8 = torch.float8_e4m3fn
#: The largest number of e4m3.
LARGEST = 448.0
#: The smallest scale: a row of zeros stays zeros.
TINIEST = 1e-12
#: Both widths of a layer are multiples of this, as the device's programs want.
MULTIPLE = 16
#: Narrower layers gain nothing: writing the activations once more costs what their product saves.
LEAST_WIDTH = 512
#: Fewer rows are no work: embeddings of times and the like.
LEAST_ROWS = 64
#: The first CUDA compute capability with these products.
CAPABILITY = (8, 9)


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows scaled to the range of e4m3 and rounded.

    Args:
        x: [n, k], bfloat16, float16 or float32.

    Returns:
        The rows in float8 [n, k], and what each is to be multiplied by, float32 [n, 1].
    """
    if x.is_cuda and _programs() is not None:
        found: tuple[Tensor, Tensor] = _programs().quantise_rows(x.contiguous())
        return found
    scale = (x.abs().amax(dim=1, keepdim=True).float() / LARGEST).clamp(min=TINIEST)
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(FLOAT8), scale


def _programs() -> Any:
    return Switch.find("vader_core.performance.fp8_programs")


class Fp8:
    """Gives the wide frozen linear layers of a denoiser a second, float8 copy of their weights.

    Weights have a scale per output channel, activations one per row, found anew at each call. The products
    are summed in float32 and given in the dtype that the layer would give. The kept weights serve whatever is
    differentiated.

    Args:
        denoiser: With a LoRA attached; the adapter's own layers are left alone.
        folding: Folds the adapter into the weights, which are then rounded anew before each use.
        least_width: Layers with fewer input or output channels are left alone.
    """

    #: It changes results, so validation and sampling do without.
    exact = False
    #: What it holds beside the model.
    holds = "float8 copy"

    def __init__(
        self, denoiser: nn.Module, folding: Folding | None = None, least_width: int = LEAST_WIDTH
    ) -> None:
        #: Whether the products are in float8 now.
        self.active = False
        self._folding = folding
        found = {
            name: part
            for name, part in denoiser.named_modules()
            if type(part) is nn.Linear and _fits(part, least_width)
        }
        for layer in found.values():
            layer.__class__ = _Fp8Linear
        self.layers = cast("dict[str, _Fp8Linear]", found)
        for made in self.layers.values():
            made.fp8 = self
            made.fp8_weight, made.fp8_scale = quantised(made.weight.data)

    @property
    def bytes(self) -> int:
        """Memory of the float8 copy."""
        return sum(layer.weight.numel() + 4 * len(layer.weight) for layer in self.layers.values())

    @torch.no_grad()
    def on(self) -> None:
        """Switch the products on; does nothing where that is so already."""
        if self.active:
            return
        if self._folding is not None:
            for layer in self.layers.values():
                weight, scale = quantised(layer.weight.data)
                layer.fp8_weight.copy_(weight)
                layer.fp8_scale.copy_(scale)
        self.active = True

    def off(self) -> None:
        """Switch the products off."""
        self.active = False


def _fits(layer: nn.Linear, least: int) -> bool:
    widths = (layer.in_features, layer.out_features)
    return not layer.weight.requires_grad and all(
        width >= least and width % MULTIPLE == 0 for width in widths
    )


class _Fp8Linear(nn.Linear):
    """A linear layer whose product is in float8 while that is switched on and no graph is recorded."""

    fp8: Fp8
    fp8_weight: Tensor
    fp8_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[…, k] to […, n]."""
        if not self.fp8.active or torch.is_grad_enabled() or x.numel() < LEAST_ROWS * self.in_features:
            return super().forward(x)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        rows, scale = quantised(x.flatten(0, -2))
        bias = None if self.bias is None else self.bias.to(torch.bfloat16)
        with without_autocast(x.device):  # the CPU's form is made of products of its own
            out = torch._scaled_mm(
                rows,
                self.fp8_weight.t(),
                scale,
                self.fp8_scale.t(),
                bias=bias,
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
        return out.to(dtype).unflatten(0, x.shape[:-1])
