"""The fused kernels: in Triton's interpreter, and what runs in their place where they cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.nn import functional as kernels
from vader_core.nn.fused_diffusers import fuse_decoder, fuse_denoiser

#: Relative to float64; float32 rounds to 6e-8, and attention's two products to a few times that.
INTERPRETED_ERROR = 1e-6


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def switched_off() -> Iterator[None]:
    with kernels.fused_kernels(False):
        yield


@pytest.mark.slow
def test_every_program_and_its_gradient_in_the_interpreter() -> None:
    if find_spec("triton") is None:  # a platform without Triton computes with torch's own kernels
        assert kernels.Switch.find("vader_core.nn.launches") is None
        return
    script = Path(__file__).with_name("interpreted_kernels.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.rsplit(": ", 1) for line in done.stdout.splitlines()]
    assert len(lines) == 18
    for case, errors in lines:
        assert max(map(float, errors.split())) < INTERPRETED_ERROR, case


def _innermost(*shape: int) -> Tensor:
    return torch.randn(shape[0], *shape[2:], shape[1], dtype=torch.float64).movedim(-1, 1)


CONVOLUTIONS = {
    "frame": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 5, 3)),
    "stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 6, 4)),
    "place": (nn.Conv2d(4, 6, 1), (2, 4, 5, 3)),
    "frames": (nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0)), (2, 4, 5, 3, 2)),
    "all axes": (nn.Conv3d(4, 6, 3, padding=1), (2, 4, 5, 3, 2)),
    "same": (nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 5, 3)),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 5, 3)),
    "no bias": (nn.Conv2d(4, 6, 3, bias=False), (2, 4, 5, 3)),
    "other": (nn.Sequential(nn.Conv2d(4, 6, 3)), (2, 4, 5, 3)),
}


@pytest.mark.parametrize("innermost", [True, False])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolve_is_the_convolution(case: str, trained: bool, innermost: bool) -> None:
    conv, shape = CONVOLUTIONS[case]
    conv = conv.double().requires_grad_(trained)
    x = _innermost(*shape)
    x = (x if innermost else x.contiguous()).requires_grad_()
    out, bias = kernels.convolve(conv, x)
    out = out if bias is None else out + bias.reshape(-1, *[1] * (x.ndim - 2))
    expected = conv(x)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    wanted = torch.randn_like(expected)
    given = [x, *(conv.parameters() if trained else ())]
    for found, exact in zip(*(torch.autograd.grad(y, given, wanted) for y in (out, expected)), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


def test_a_frozen_convolution_keeps_no_activations() -> None:
    conv = nn.Conv2d(4, 6, 3).requires_grad_(False)
    x = torch.randn(2, 4, 5, 3, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        kernels.convolve(conv, x)
    assert [tensor.shape for tensor in kept] == [conv.weight.shape]


def test_a_frozen_convolution_can_be_recomputed() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1).double().requires_grad_(False)
    x = _innermost(2, 4, 5, 3).requires_grad_()

    def twice(given: Tensor) -> Tensor:
        return kernels.convolve(conv, kernels.convolve(conv, given)[0].tanh())[0]

    results = twice(x), checkpoint(twice, x, use_reentrant=False)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in results]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("recorded", [True, False])
def test_convolve_with_bias_is_the_convolution(case: str, recorded: bool) -> None:
    conv, shape = CONVOLUTIONS[case]
    conv, x = conv.double().requires_grad_(False), _innermost(*shape).requires_grad_(recorded)
    out, expected = kernels.convolve_with_bias(conv, x), conv(x)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    if recorded:
        wanted = torch.randn_like(expected)
        found, exact = (torch.autograd.grad(y, x, wanted)[0] for y in (out, expected))
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recorded", [True, False])
def test_wide_planes_are_convolved_along_the_frames_too(recorded: bool) -> None:
    conv = nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0)).double().requires_grad_(False)
    x = _innermost(2, 4, 5, 16, kernels.WIDE_PLANE // 16)
    with torch.set_grad_enabled(recorded):
        out, bias = kernels.convolve(conv, x)
    assert bias is not None
    torch.testing.assert_close(out + bias[:, None, None, None], conv(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_projection_without_its_bias_added_in_place(recorded: bool) -> None:
    layer, x, total = nn.Linear(4, 6).double(), torch.randn(2, 3, 4).double(), torch.randn(2, 3, 6).double()
    expected = total + layer(x)
    out, bias = kernels.project(layer, x)
    assert bias is layer.bias
    torch.testing.assert_close(total + out + bias, expected)
    with torch.set_grad_enabled(recorded):
        plain = kernels.accumulating(layer, x)
        assert (plain is None) == recorded
        if plain is not None:
            for given in (total.clone(), total.transpose(0, 1).contiguous().transpose(0, 1)):
                torch.testing.assert_close(kernels.accumulate(given, plain, x) + bias, expected)


def test_a_layer_with_an_active_adapter_runs_as_it_is() -> None:
    net, x = nn.Sequential(nn.Linear(4, 6)), torch.randn(3, 4)
    attach_lora(net, LoraSettings(rank=2, alpha=2.0, targets=("0",)))
    with torch.no_grad():
        for value in adapter_parameters(net).values():
            value.normal_()
        out, bias = kernels.project(net[0], x)
        assert bias is None
        assert torch.equal(out, net[0](x))
        assert kernels.accumulating(net[0], x) is None


def test_the_switch_is_put_back() -> None:
    assert kernels.Switch.on
    seen = []

    def fails() -> None:
        with kernels.fused_kernels(False):
            with kernels.fused_kernels(True):
                seen.append(kernels.Switch.on)
            seen.append(kernels.Switch.on)
            raise ValueError("within")

    with pytest.raises(ValueError, match="within"):
        fails()
    assert seen == [True, False]
    assert kernels.Switch.on


@pytest.mark.usefixtures("switched_off")
def test_switched_off_a_convolution_runs_as_it_is() -> None:
    conv, x = nn.Conv2d(4, 6, 1), torch.randn(2, 4, 5, 3)
    out, bias = kernels.convolve(conv, x)
    assert bias is None
    assert torch.equal(out, conv(x))


def test_group_norm_adds_first() -> None:
    x, extra = _innermost(6, 8, 3, 5), torch.randn(2, 8, dtype=torch.float64)
    weight, bias = torch.randn(2, 8, dtype=torch.float64)
    whole = x + torch.cat([extra[:1].expand(3, -1), extra[1:].expand(3, -1)])[:, :, None, None]
    expected = F.silu(F.group_norm(whole, 4, weight, bias, 1e-5))
    torch.testing.assert_close(kernels.group_norm(x, 4, weight, bias, 1e-5, silu=True, extra=extra), expected)


def test_merge_is_a_sum() -> None:
    x, residual = _innermost(2, 6, 3, 5), _innermost(2, 6, 3, 5)
    bias, factor = torch.randn(6, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    torch.testing.assert_close(
        kernels.merge(x, residual, bias, factor), residual + 0.3 * (x + bias[:, None, None])
    )
    torch.testing.assert_close(kernels.merge(x, residual), residual + x)


def test_add_layer_norm_is_a_sum_and_its_norm() -> None:
    x, other, extra = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8), torch.randn(6, 8)
    weight, bias = torch.randn(2, 8)
    total, out = kernels.add_layer_norm(x, other, weight, bias, 1e-5, extra=extra)
    torch.testing.assert_close(total, x + other + extra.view(2, 3, 1, 8))
    torch.testing.assert_close(out, F.layer_norm(total, (8,), weight, bias, 1e-5))
    later = torch.randn(8)
    more, same = kernels.add_layer_norm(x, other, weight, bias, 1e-5, extra=extra, later=later)
    torch.testing.assert_close(more, total + later)
    assert torch.equal(same, out)


@pytest.mark.parametrize("most", [4, 65535])
def test_attention_over_frames_stays_at_its_place(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MOST_SEQUENCES", most)
    q, k, v = torch.randn(3, 2, 5, 7, 6)
    found = kernels.attention_over_frames(q, k, v, 2)
    for sample in range(2):
        for place in range(7):
            one = [part[sample, :, place].unflatten(-1, (2, 3)).transpose(0, 1) for part in (q, k, v)]
            expected = F.scaled_dot_product_attention(*one).transpose(0, 1).flatten(1)
            torch.testing.assert_close(found[sample, :, place], expected, rtol=1e-5, atol=1e-6)


# -- diffusers' U-Nets -------------------------------------------------------------------------------------


def _text_unet() -> tuple[nn.Module, Callable[[Any], Tensor]]:
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=8,
    )
    x, text = torch.randn(2, 4, 3, 8, 8).double(), torch.randn(2, 5, 24).double()
    return unet, lambda net: net(x, torch.tensor([400.0, 3.0]), text, return_dict=False)[0]


def _picture_unet(tokens: int = 1) -> tuple[nn.Module, Callable[[Any], Tensor]]:
    from diffusers import UNetSpatioTemporalConditionModel

    unet = UNetSpatioTemporalConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 64),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=24,
        transformer_layers_per_block=1,
        num_attention_heads=(2, 4),
    )
    x, image = torch.randn(2, 3, 8, 8, 8).double(), torch.randn(2, tokens, 24).double()
    ids = torch.tensor([[6.0, 127.0, 0.02], [6.0, 30.0, 0.1]], dtype=torch.float64)
    return unet, lambda net: net(x, torch.tensor([1.0, 2.0]), image, ids, return_dict=False)[0]


def _filled(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(0.2 * torch.randn(value.shape) + (1.0 if value.ndim == 1 else 0.0) * 0.3)
    return net.double().eval().requires_grad_(False)


@pytest.mark.quick_cases("*layout0")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("make", "blocks"), [(_text_unet, 26), (_picture_unet, 21), (lambda: _picture_unet(3), 21)]
)
def test_fused_diffusers_unets_keep_numbers_and_gradients(make: Any, blocks: int, layout: Any) -> None:
    unet, run = make()
    targets = ("attn1.to_q", "to_v", "to_out.0", "time_emb_proj", "conv_shortcut")
    attach_lora(_filled(unet), LoraSettings(rank=2, alpha=2.0, targets=targets))
    with torch.no_grad():
        for value in adapter_parameters(unet).values():
            value.copy_(0.1 * torch.randn(value.shape))
    unet.double()
    for parameter in unet.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    names = list(unet.state_dict())
    results = []
    for fused in (False, True):
        if fused:
            assert fuse_denoiser(unet) == blocks
            assert list(unet.state_dict()) == names
        out = run(unet)
        gradients = torch.autograd.grad(out.square().mean(), list(adapter_parameters(unet).values()))
        with torch.no_grad():
            results.append((out, run(unet), *gradients))
    for plain, found in zip(*results, strict=True):
        # the least is for gradients that are nothing but rounding
        torch.testing.assert_close(found, plain, rtol=1e-8, atol=1e-12)


def _image_decoder() -> tuple[nn.Module, Tensor, Callable[[Any, Tensor], Tensor]]:
    from diffusers import AutoencoderKL

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    net = AutoencoderKL(**kinds, block_out_channels=(32, 64), sample_size=16)  # type: ignore[arg-type]
    return net, torch.randn(2, 4, 5, 3).double(), lambda net, z: net.decode(z).sample


def _temporal_decoder() -> tuple[nn.Module, Tensor, Callable[[Any, Tensor], Tensor]]:
    from diffusers import AutoencoderKLTemporalDecoder

    net = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 64), sample_size=16
    )
    return net, torch.randn(6, 4, 5, 3).double(), lambda net, z: net.decode(z, num_frames=3).sample


@pytest.mark.parametrize(("make", "blocks"), [(_image_decoder, 7), (_temporal_decoder, 11)])
def test_fused_decoders_keep_numbers_and_gradients(make: Any, blocks: int) -> None:
    net, latents, run = make()
    _filled(net)
    names = list(net.state_dict())
    results, kept = [], []
    for fused in (False, True):
        if fused:
            assert fuse_decoder(net.decoder) == blocks
            assert list(net.state_dict()) == names
        given = latents.clone().requires_grad_()
        held: dict[int, int] = {}

        def hold(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
            out = run(net, given)
        for parameter in net.parameters():
            held.pop(parameter.untyped_storage().data_ptr(), None)
        kept.append(sum(held.values()))
        results.append((out, *torch.autograd.grad(out.square().mean(), given)))
    for plain, found in zip(*results, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-8, atol=1e-12)
    # without the fused norms on the CPU, the convolutions alone
    assert kept[1] < 0.8 * kept[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 8])
def test_doubling_is_interpolation(channels: int, dtype: torch.dtype) -> None:
    x = _innermost(2, channels, 5, 3).to(dtype).requires_grad_()
    out, expected = kernels.doubled(x), F.interpolate(x, scale_factor=2.0, mode="nearest")
    assert torch.equal(out, expected)
    assert kernels.channels_innermost(out)
    wanted = torch.randint(-8, 8, expected.shape).to(dtype)
    found, exact = (torch.autograd.grad(y, x, wanted)[0] for y in (out, expected))
    assert torch.equal(found, exact)


def test_blocks_with_dropout_in_training_stay_as_they_are() -> None:
    unet, _ = _text_unet()
    kept = fuse_denoiser(unet.train())
    unet, _ = _text_unet()
    assert kept < fuse_denoiser(unet.eval())


# -- on the device -----------------------------------------------------------------------------------------


def _cases() -> dict[str, tuple[Callable[..., Any], list[Tensor]]]:
    x, y = torch.randn(2, 6, 9, 7, 64, device="cuda").movedim(-1, 2)
    weight, bias, *pair = torch.randn(4, 64, device="cuda")
    extra = torch.stack(pair)
    rows, frames = torch.randn(2, 9, 64, device="cuda"), torch.randn(3, 2, 12, 300, 64, device="cuda")
    affine = [weight, bias, extra]
    return {
        "group norm": (
            lambda t, w, b, e: kernels.group_norm(t, 8, w, b, 1e-5, silu=True, extra=e),
            [x, *affine],
        ),
        "layer norm": (lambda t, w, b: kernels.layer_norm(t, w, b, 1e-5), [rows, weight, bias]),
        "sum": (
            lambda t, o, w, b, e: kernels.add_layer_norm(t, o, w, b, 1e-5, extra=e),
            [rows, rows.flip(0), *affine],
        ),
        "gate": (kernels.gated_gelu, [torch.randn(5, 10, 96, device="cuda"), torch.randn(96, device="cuda")]),
        "merge": (kernels.merge, [x, y, bias]),
        "frames": (lambda q, k, v: kernels.attention_over_frames(q, k, v, 2), list(frames)),
    }


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["group norm", "layer norm", "sum", "gate", "merge", "frames"])
def test_kernels_are_as_near_to_float64_as_torch_is(case: str) -> None:
    run, given = _cases()[case]
    half = [tensor.bfloat16() for tensor in given]

    def results(tensors: list[Tensor], wanted: list[Tensor] | None) -> tuple[list[Tensor], list[Tensor]]:
        tensors = [tensor.detach().requires_grad_(tensor.ndim > 2) for tensor in tensors]
        found = run(*tensors)
        found = list(found) if isinstance(found, tuple) else [found]
        wanted = [torch.randn_like(part) for part in found] if wanted is None else wanted
        leaves = [tensor for tensor in tensors if tensor.requires_grad]
        gradients = torch.autograd.grad(found, leaves, [w.to(f) for w, f in zip(wanted, found, strict=True)])
        return [*found, *gradients], wanted

    fused, wanted = results(half, None)
    exact, _ = results([tensor.double() for tensor in half], wanted)
    with kernels.fused_kernels(False):
        plain, _ = results(half, wanted)
    for found, usual, right in zip(fused, plain, exact, strict=True):
        error, limit = ((part.double() - right).norm() / right.norm() for part in (found, usual))
        assert error <= 1.1 * limit + 1e-4
