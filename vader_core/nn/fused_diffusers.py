"""Diffusers' video U-Nets and decoders on the fused kernels: other forward passes, the same parameters.

Activations keep their channels innermost throughout. Frames stay where they are in memory: only the temporal
attention and the temporal convolutions look along them. Every number stays the same to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward, TemporalBasicTransformerBlock
from diffusers.models.resnet import (
    AlphaBlender,
    ResnetBlock2D,
    SpatioTemporalResBlock,
    TemporalConvLayer,
    TemporalResnetBlock,
)
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import (
    TransformerSpatioTemporalModel,
    TransformerTemporalModel,
)
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F

from vader_core.nn import functional as kernels
from vader_core.nn.fused import fuse_norms, swap_forward

_BLOCKS = (BasicTransformerBlock, TemporalBasicTransformerBlock)
_ATTENTION_NORMS = ("spatial_norm", "group_norm", "norm_cross", "norm_q", "norm_k")


def fuse_denoiser(denoiser: nn.Module) -> int:
    """Change a `UNet3DConditionModel` or `UNetSpatioTemporalConditionModel` in place.

    Blocks with parts that those two never have (other norms, dropout in training) stay as they are.

    Returns:
        How many blocks have another forward pass.
    """
    fuse_norms(denoiser)
    swap_forward(denoiser, GEGLU, _gated)
    fused = 0
    for kind, (forward, plain) in _FORWARDS.items():
        fused += swap_forward(denoiser, kind, forward, plain)
    return fused


def fuse_decoder(decoder: nn.Module) -> int:
    """Change the decoder of an `AutoencoderKL` or an `AutoencoderKLTemporalDecoder` in place.

    Its frozen convolutions keep no activations for the backward pass, and its weights lie with channels
    innermost, so activations do.

    Returns:
        How many blocks have another forward pass.
    """
    _join_last_norm(decoder)
    fuse_norms(decoder)
    fused = swap_forward(decoder, ResnetBlock2D, _residual, _plain_residual)
    fused += swap_forward(decoder, SpatioTemporalResBlock, _mixed_residual, _plain_mixed_residual)
    fused += swap_forward(decoder, Upsample2D, _upsampled, _plain_upsample)
    swap_forward(decoder, nn.Conv2d, kernels.convolve_with_bias)
    for parameter in decoder.parameters():
        if parameter.ndim in _INNERMOST:
            parameter.data = parameter.data.contiguous(memory_format=_INNERMOST[parameter.ndim])
    return fused


_INNERMOST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _join_last_norm(decoder: Any) -> None:
    """Let the last norm apply the activation that follows it, which has no parameters."""
    if type(decoder.conv_norm_out) is nn.GroupNorm and type(decoder.conv_act) is nn.SiLU:
        swap_forward(decoder.conv_norm_out, nn.GroupNorm, _norm_and_silu)
        decoder.conv_act = nn.Identity().train(decoder.training)


def _norm_and_silu(self: Any, x: Tensor) -> Tensor:
    if kernels.autocasting(x):
        return F.silu(nn.GroupNorm.forward(self, x))
    return _norm(self, x, silu=True)


def _gated(self: Any, hidden_states: Tensor) -> Tensor:
    return kernels.gated_gelu(*kernels.project(self.proj, hidden_states))


# -- residual blocks -----------------------------------------------------------------------------------


def _still(*modules: nn.Module) -> bool:
    """No dropout among ``modules`` that does anything."""
    parts = [part for module in modules for part in module.modules() if isinstance(part, nn.Dropout)]
    return all(part.p == 0 or not part.training for part in parts)


def _norm(norm: Any, x: Tensor, *, silu: bool = False, extra: Tensor | None = None) -> Tensor:
    return kernels.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=silu, extra=extra)


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Of two additions [m, c] and [c], where there are any."""
    if first is None:
        return None if second is None else second[None]
    return first if second is None else first + second


def _plain_residual(block: Any) -> bool:
    sampled = block.upsample is not None or block.downsample is not None
    # without an embedding the decoders' kind is the usual one
    usual = block.time_embedding_norm == "default"
    usual = usual or (block.time_embedding_norm == "group" and block.time_emb_proj is None)
    return usual and isinstance(block.nonlinearity, nn.SiLU) and not sampled and _still(block)


def _residual(self: Any, input_tensor: Tensor, temb: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
    """[n, c, h, w] and [n, e] → [n, c', h, w]."""
    h, bias = kernels.convolve(self.conv1, _norm(self.norm1, input_tensor, silu=True))
    shift = None
    if temb is not None and self.time_emb_proj is not None:
        shift = self.time_emb_proj(temb if self.skip_time_act else F.silu(temb))
    h, bias = kernels.convolve(self.conv2, _norm(self.norm2, h, silu=True, extra=_sum(shift, bias)))
    kept, more = input_tensor, None
    if self.conv_shortcut is not None:
        kept, more = kernels.convolve(self.conv_shortcut, input_tensor)
    out = kernels.merge(h, kept, kernels.added(bias, more))
    return out if self.output_scale_factor == 1 else out / self.output_scale_factor


def _plain_upsample(layer: Any) -> bool:
    usual = layer.interpolate and layer.norm is None and layer.name == "conv"
    return usual and layer.use_conv and not layer.use_conv_transpose


def _upsampled(
    self: Any, hidden_states: Tensor, output_size: Any = None, *args: Any, **kwargs: Any
) -> Tensor:
    """[n, c, h, w] → [n, c', 2 h, 2 w], or of ``output_size``."""
    if output_size is not None:
        given: Tensor = F.interpolate(hidden_states, size=output_size, mode="nearest")
    else:
        given = kernels.doubled(hidden_states)
    return kernels.convolve_with_bias(self.conv, given)


def _unfolded(x: Tensor, num_frames: int) -> Tensor:
    """[b t, c, h, w] → a view [b, c, t, h, w]."""
    return x.unflatten(0, (-1, num_frames)).transpose(1, 2)


def _folded(x: Tensor) -> Tensor:
    """[b, c, t, h, w] → [b t, c, h, w]."""
    return x.transpose(1, 2).flatten(0, 1)


def _frame_convs(self: Any, hidden_states: Tensor, num_frames: int = 1) -> Tensor:
    x = _unfolded(hidden_states, num_frames)
    h, bias = x, None
    for layers in (self.conv1, self.conv2, self.conv3, self.conv4):
        h, bias = kernels.convolve(layers[-1], _norm(layers[0], h, silu=True, extra=_sum(None, bias)))
    return _folded(kernels.merge(h, x, bias))


def _plain_mixture(mixer: AlphaBlender) -> bool:
    return mixer.merge_strategy in ("learned", "learned_with_images")


def _temporal_share(mixer: Any) -> Tensor:
    """Of the temporal branch, one number; neither U-Net nor decoder calls its input mere images."""
    wide = mixer.mix_factor.to(torch.promote_types(mixer.mix_factor.dtype, torch.float32))
    share = torch.sigmoid(wide)
    return share if mixer.switch_spatial_to_temporal_mix else 1.0 - share


def _plain_mixed_residual(block: Any) -> bool:
    inner = block.temporal_res_block
    return (
        _plain_mixture(block.time_mixer)
        and type(inner) is TemporalResnetBlock
        and inner.conv_shortcut is None
        and _still(inner)
    )


def _mixed_residual(
    self: Any, hidden_states: Tensor, temb: Tensor | None = None, image_only_indicator: Any = None
) -> Tensor:
    """The spatial block's result x plus the temporal branch's share of what its block adds to x."""
    num_frames = image_only_indicator.shape[-1]
    x = _unfolded(self.spatial_res_block(hidden_states, temb), num_frames)
    block = self.temporal_res_block
    h, bias = kernels.convolve(block.conv1, _norm(block.norm1, x, silu=True))
    shift = None
    if temb is not None and block.time_emb_proj is not None:
        # the U-Net repeats one embedding for all frames of a sample
        shift = block.time_emb_proj(F.silu(temb[::num_frames]))
    h, bias = kernels.convolve(block.conv2, _norm(block.norm2, h, silu=True, extra=_sum(shift, bias)))
    return _folded(kernels.merge(h, x, bias, _temporal_share(self.time_mixer)))


# -- transformers --------------------------------------------------------------------------------------


def _plain_attention(attn: Any) -> bool:
    norms = [getattr(attn, name, None) for name in _ATTENTION_NORMS]
    usual = attn.rescale_output_factor == 1.0 and not attn.residual_connection
    return all(norm is None for norm in norms) and usual


def _plain_block(block: Any) -> bool:
    if type(block) not in _BLOCKS or block.attn2 is None or block._chunk_size is not None:
        return False
    norms = [block.norm1, block.norm2, block.norm3]
    if isinstance(block, BasicTransformerBlock):
        if block.norm_type != "layer_norm" or block.pos_embed is not None or block.only_cross_attention:
            return False
    elif not block.is_res:
        return False
    usual = all(isinstance(norm, nn.LayerNorm) and len(norm.normalized_shape) == 1 for norm in norms)
    feeds = [block.ff, getattr(block, "ff_in", None)]
    usual = usual and all(feed is None or type(feed) is FeedForward for feed in feeds)
    return usual and _plain_attention(block.attn1) and _plain_attention(block.attn2) and _still(block)


def _plain_transformer(model: Any) -> bool:
    blocks = [*model.transformer_blocks, *getattr(model, "temporal_transformer_blocks", [])]
    image = not isinstance(model, Transformer2DModel) or model.is_input_continuous
    mixer = getattr(model, "time_mixer", None)
    return image and all(map(_plain_block, blocks)) and (mixer is None or _plain_mixture(mixer))


def _attend(attn: Any, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Of [rows, n, d] along n, of [b, t, n, d] along t; or of either to ``context`` [m, l, e].

    Also the bias [d] that is still to be added, if there is one.
    """
    source = x if context is None else context
    q, k, v = attn.to_q(x), attn.to_k(source), attn.to_v(source)
    if x.ndim == 4 and context is None:
        found = kernels.attention_over_frames(q, k, v, attn.heads)
    else:
        # every query sees the whole context on its own
        q = q.reshape(len(source), -1, q.shape[-1])
        q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (q, k, v))
        found = kernels.attention(q, k, v).transpose(1, 2).reshape(*x.shape[:-1], -1)
    return kernels.project(attn.to_out[0], found)


def _trained(*layers: nn.Module) -> bool:
    weights = [weight for layer in layers for weight in layer.parameters()]
    return torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)


def _of_one_token(attn: Any, context: Tensor) -> Tensor:
    """Attention to one token alone, [m, 1, e] → [m, d]: its value, whatever queries and keys say."""
    out: Tensor = attn.to_out[0](attn.to_v(context[:, 0]))
    return out


def _add_norm(
    norm: Any,
    x: Tensor,
    other: Tensor | None,
    extra: Tensor | None = None,
    later: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return kernels.add_layer_norm(x, other, norm.weight, norm.bias, norm.eps, extra=extra, later=later)


def _before_last(feed: Any, x: Tensor) -> Tensor:
    for layer in list(feed.net)[:-1]:
        x = layer(x)
    return x


def _after_first(block: Any, x: Tensor, found: Tensor, bias: Tensor | None, context: Tensor | None) -> Tensor:
    """A block's result from its first attention's on, whose ``bias`` is still to be added."""
    attn = block.attn2
    last = kernels.accumulating(block.ff.net[-1], x)
    later = None if last is None else last.bias
    if context is not None and context.shape[1] == 1 and not _trained(attn.to_q, attn.to_k):
        extra = _sum(_of_one_token(attn, context), bias)
    else:
        x, normed = _add_norm(block.norm2, x, found, _sum(None, bias))
        found, bias = _attend(attn, normed, context)
        extra = _sum(None, bias)
    x, normed = _add_norm(block.norm3, x, found, extra, later)
    if last is None:
        out: Tensor = x + block.ff(normed)
        return out
    return kernels.accumulate(x, last, _before_last(block.ff, normed))


def _block(block: Any, x: Tensor, context: Tensor | None) -> Tensor:
    return _after_first(block, x, *_attend(block.attn1, block.norm1(x), None), context)


def _tokens(layer: Any, x: Tensor, *, linear: bool) -> Tensor:
    """[n, c, h, w] → [n, h w, d], through a projection of either kind."""
    if not linear:
        return kernels.convolve_with_bias(layer, x).flatten(2).transpose(1, 2)
    out: Tensor = layer(x.flatten(2).transpose(1, 2))
    return out


def _add_image(x: Tensor, layer: Any, tokens: Tensor, *, linear: bool) -> Tensor:
    """[n, h w, d] through a projection of either kind, added to ``x`` [n, c, h, w]."""
    bias = None
    if linear:
        tokens, bias = kernels.project(layer, tokens)
    found = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
    if not linear:
        found, bias = kernels.convolve(layer, found)
    return kernels.merge(found, x, bias)


def _spatial(
    self: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    *args: Any,
    return_dict: bool = True,
    **kwargs: Any,
) -> Any:
    linear = self.use_linear_projection
    tokens = _tokens(self.proj_in, _norm(self.norm, hidden_states), linear=linear)
    for block in self.transformer_blocks:
        tokens = _block(block, tokens, encoder_hidden_states)
    return (_add_image(hidden_states, self.proj_out, tokens, linear=linear),)


def _temporal(
    self: Any, hidden_states: Tensor, *args: Any, num_frames: int = 1, return_dict: bool = True, **kwargs: Any
) -> Any:
    video = _norm(self.norm, _unfolded(hidden_states, num_frames))
    tokens = self.proj_in(video.permute(0, 2, 3, 4, 1).flatten(2, 3))
    for block in self.transformer_blocks:
        tokens = _block(block, tokens, None)
    return (_add_image(hidden_states, self.proj_out, tokens.flatten(0, 1), linear=True),)


def _frame_embedding(self: Any, num_frames: int, x: Tensor) -> Tensor:
    """[t, c]: of the frames' numbers."""
    numbers = torch.arange(num_frames, device=x.device)
    out: Tensor = self.time_pos_embed(self.time_proj(numbers).to(x.dtype))
    return out


def _temporal_block(
    block: Any, tokens: Tensor, embedding: Tensor, context: Tensor, num_frames: int
) -> Tensor:
    """[b t, n, d], embedding [b t, d], context [b, l, e] → the same shape."""
    x, normed = _add_norm(block.norm_in, tokens, None, embedding)
    fed, bias = kernels.project(block.ff_in.net[-1], _before_last(block.ff_in, normed))
    x, normed = _add_norm(block.norm1, x, fed, _sum(None, bias))
    x, normed = (part.unflatten(0, (-1, num_frames)) for part in (x, normed))
    return _after_first(block, x, *_attend(block.attn1, normed, None), context).flatten(0, 1)


def _spatiotemporal(
    self: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    image_only_indicator: Tensor,
    return_dict: bool = True,
) -> Any:
    num_frames = image_only_indicator.shape[-1]
    samples = len(hidden_states) // num_frames
    context = encoder_hidden_states[::num_frames]
    tokens = _tokens(self.proj_in, _norm(self.norm, hidden_states), linear=True)
    embedding = _frame_embedding(self, num_frames, tokens).repeat(samples, 1)
    for block, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
        tokens = _block(block, tokens, encoder_hidden_states)
        mixed = _temporal_block(temporal, tokens, embedding, context, num_frames)
        tokens = torch.lerp(tokens, mixed, _temporal_share(self.time_mixer).to(mixed.dtype))
    return (_add_image(hidden_states, self.proj_out, tokens, linear=True),)


_FORWARDS: dict[Any, Any] = {
    Upsample2D: (_upsampled, _plain_upsample),
    ResnetBlock2D: (_residual, _plain_residual),
    TemporalConvLayer: (_frame_convs, _still),
    SpatioTemporalResBlock: (_mixed_residual, _plain_mixed_residual),
    Transformer2DModel: (_spatial, _plain_transformer),
    TransformerTemporalModel: (_temporal, _plain_transformer),
    TransformerSpatioTemporalModel: (_spatiotemporal, _plain_transformer),
}
