"""The spatial and the temporal transformer around `TransformerBlock`.

Activations between layers are `[b*t, c, h, w]` with the frame index fastest.
"""

from __future__ import annotations

from torch import Tensor, nn

from vader_core.nn import functional as kernels
from vader_videocrafter.attention import TransformerBlock
from vader_videocrafter.norm import GroupNorm
from vader_videocrafter.recompute import call


def unfold_frames(x: Tensor, num_frames: int) -> Tensor:
    """`[b*t, c, h, w]` to a `[b, c, t, h, w]` view."""
    return x.unflatten(0, (-1, num_frames)).transpose(1, 2)


def fold_frames(x: Tensor) -> Tensor:
    """`[b, c, t, h, w]` to `[b*t, c, h, w]`."""
    return x.transpose(1, 2).flatten(0, 1)


class SpatialTransformer(nn.Module):
    """Attention among the pixels of a frame and to the text; a residual."""

    def __init__(
        self,
        channels: int,
        heads: int,
        head_width: int,
        *,
        depth: int,
        context_width: int,
        use_linear: bool,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.use_linear = use_linear
        self.checkpointing = checkpointing
        self.norm = GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, inner) if use_linear else nn.Conv2d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(inner, heads, head_width, context_width) for _ in range(depth)
        )
        self.proj_out = nn.Linear(inner, channels) if use_linear else nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """`x` `[b*t, c, h, w]`, `context` `[b, l, d]`; `[b*t, c, h, w]` out."""
        size = x.shape[-2:]
        tokens = self.norm(x)
        if not self.use_linear:
            tokens = self.proj_in(tokens)
        tokens = tokens.flatten(2).transpose(1, 2)
        if self.use_linear:
            tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = call(block, self.checkpointing, tokens, context)
        bias = None
        if self.use_linear:
            tokens, bias = kernels.project(self.proj_out, tokens)
        out = tokens.transpose(1, 2).unflatten(2, size)
        if not self.use_linear:
            out, bias = kernels.convolve(self.proj_out, out)
        return kernels.merge(out, x, bias)


class TemporalTransformer(nn.Module):
    """Two self-attentions along the frames at each pixel; a residual.

    The normalisation's statistics run over all frames. There is no position encoding of any kind, so any
    number of frames works, and only the temporal convolutions know their order.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        head_width: int,
        *,
        depth: int,
        use_linear: bool,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.use_linear = use_linear
        self.checkpointing = checkpointing
        self.norm = GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, inner) if use_linear else nn.Conv1d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(inner, heads, head_width, None) for _ in range(depth)
        )
        self.proj_out = nn.Linear(inner, channels) if use_linear else nn.Conv1d(inner, channels, 1)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """`x` `[b*t, c, h, w]` with `num_frames` t; `[b*t, c, h, w]` out."""
        video = self.norm(unfold_frames(x, num_frames))
        # Frames stay where they are: only the attention looks along them.
        tokens = video.permute(0, 2, 3, 4, 1).flatten(2, 3)
        tokens = self._project(self.proj_in, tokens)
        for block in self.transformer_blocks:
            tokens = call(block, self.checkpointing, tokens)
        bias = None
        if self.use_linear:
            tokens, bias = kernels.project(self.proj_out, tokens)
        else:
            tokens = self._project(self.proj_out, tokens)
        found = tokens.unflatten(2, x.shape[-2:]).permute(0, 1, 4, 2, 3).flatten(0, 1)
        return kernels.merge(found, x, bias)

    def _project(self, layer: nn.Module, tokens: Tensor) -> Tensor:
        if self.use_linear:
            return layer(tokens)
        if type(layer) is nn.Conv1d:  # one tap wide: a linear layer, without turning the tokens around
            return nn.functional.linear(tokens, layer.weight.squeeze(-1), layer.bias)
        rows = layer(tokens.flatten(1, 2).transpose(1, 2))
        return rows.transpose(1, 2).unflatten(1, tokens.shape[1:3])
