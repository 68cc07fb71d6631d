"""The fused programs in Open-Sora 1.1's denoiser, on the device."""

from __future__ import annotations

import pytest
import torch
from vader_opensora.v11.architecture import STDiT2Config
from vader_opensora.v11.stdit2 import STDiT2, Told

from vader_core.nn.functional import fused_kernels


@pytest.mark.gpu
@pytest.mark.parametrize("frames", [15, 70])
@torch.no_grad()
def test_the_fused_model_is_the_model(frames):
    torch.manual_seed(0)
    config = STDiT2Config(depth=2, hidden_size=144, num_heads=2, caption_channels=32, model_max_length=64)
    model = STDiT2(config).eval().to("cuda", torch.bfloat16).keep_time_wide(torch.float32)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.normal_(1.0, 0.2)
    latents = torch.randn(2, 4, frames, 10, 14, device="cuda")
    mask = torch.arange(40, device="cuda") < torch.tensor([[40], [13]], device="cuda")
    generated = (torch.arange(frames, device="cuda") > 0).repeat(2, 1)
    text = torch.randn(2, 40, 32, device="cuda")
    numbers = (80.0, 112.0, 80 / 112, float(frames), 24.0)
    told = Told(*(torch.full((2,), number, device="cuda") for number in numbers))

    def predicted(chosen):
        time = torch.tensor([700.0, 700.0], device="cuda").to(latents)
        given = latents.to(next(chosen.parameters()).dtype)
        return chosen(given, time, text, mask, generated, told=told, size=(80.0, 112.0))

    fused = predicted(model)
    with fused_kernels(False):
        plain = predicted(model)
        exact = predicted(model.double())
    error, usual = (float((x - exact).norm() / exact.norm()) for x in (fused, plain))
    assert error <= 1.1 * usual
