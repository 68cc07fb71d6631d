"""The motion module: attention over frames, in every block."""

from __future__ import annotations

from torch import Tensor, nn

from vader_core.nn import functional
from vader_easyanimate.architecture import MotionConfig
from vader_easyanimate.attention import FeedForward, FrameAttention

#: Groups of the norm at a module's entry, and what is added to its variance.
GROUPS = 32
GROUP_EPS = 1e-6


class MotionBlock(nn.Module):
    """Attentions over frames, each behind a norm, then a gated feed-forward.

    Args:
        width: Channels.
        config: Sizes.
        table: Positions of the latent frames, [1, max_frames, width].
    """

    def __init__(self, width: int, config: MotionConfig, table: Tensor) -> None:
        super().__init__()
        count, heads = config.num_attentions, config.num_attention_heads
        self.attention_blocks = nn.ModuleList(
            FrameAttention(width, heads, table=table, square=config.block_size) for _ in range(count)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(count))
        self.ff = FeedForward(width, gated=True)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[b, t, s, width] → the same."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            assert isinstance(attention, FrameAttention)
            x = x + attention.over_frames(_normed(norm, x), grid)
        return x + self.ff(_normed(self.ff_norm, x))


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(norm, nn.LayerNorm)
    return functional.layer_norm(x, norm.weight, norm.bias, norm.eps)


class _TemporalTransformer(nn.Module):
    def __init__(self, width: int, config: MotionConfig, table: Tensor) -> None:
        super().__init__()
        inner = width // config.dim_div
        self.norm = nn.GroupNorm(GROUPS, width, eps=GROUP_EPS)
        self.proj_in = nn.Linear(width, inner)
        self.transformer_blocks = nn.ModuleList(
            MotionBlock(inner, config, table) for _ in range(config.num_transformer_block)
        )
        self.proj_out = nn.Linear(inner, width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        norm, channels_first = self.norm, x.flatten(0, 1).transpose(1, 2)
        normed = functional.group_norm(channels_first, norm.num_groups, norm.weight, norm.bias, norm.eps)
        hidden = self.proj_in(normed.transpose(1, 2)).unflatten(0, x.shape[:2])
        for block in self.transformer_blocks:
            hidden = block(hidden, grid)
        return x + self.proj_out(hidden)


class MotionModule(nn.Module):
    """Adds what the other frames say; the group norm's statistics are each frame's own.

    Args:
        width: Channels of the model.
        config: Sizes.
        table: Positions of the latent frames, [1, max_frames, width / dim_div].
    """

    def __init__(self, width: int, config: MotionConfig, table: Tensor) -> None:
        super().__init__()
        self.temporal_transformer = _TemporalTransformer(width, config, table)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[b, t, s, width] → the same; ``grid`` is (rows, columns) of the s places."""
        return self.temporal_transformer(x, grid)
