"""The fused programs against torch in float64: in Triton's interpreter and, marked ``gpu``, on the device."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import kernel_cases
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny_opensora import SMALL, make
from vader_opensora import kernels

from vader_core.lora.adapter import LoraSettings, adapter_off, adapter_parameters, attach_lora
from vader_core.nn.functional import Switch, project
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]


def test_programs_match_float64_in_the_interpreter():
    if find_spec("triton") is None:
        assert not kernels.usable(torch.zeros(1, device="meta", dtype=torch.bfloat16))
        return
    done = subprocess.run(
        [sys.executable, TESTS / "kernel_cases.py"],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("right") == len(kernel_cases.PROGRAMS)


@pytest.mark.parametrize("name", kernel_cases.CASES)
def test_without_the_programs_torch_gives_the_same(name):
    run, given = kernel_cases.CASES[name]()
    for found, expected in zip(run(given), kernel_cases.plainly(name, given), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_padded_text_changes_nothing(backbone):
    prompts = [Prompt("a red boat")]
    conditioning = backbone.condition(backbone.encode_text(prompts), prompts, SMALL, Randomness(1))
    given, length = conditioning.tensors, conditioning.shared["text_length"]
    assert given["text"].shape[1] > length
    latents = backbone.initial_noise(1, SMALL, Randomness(0))

    def predicted(text, mask):
        time = torch.tensor([700.0])
        size = conditioning.shared["size"]
        return backbone.denoiser(latents, time, text, mask, fps=given["fps"], size=size)

    cropped = predicted(given["text"][:, :length], None)
    torch.testing.assert_close(predicted(given["text"], given["mask"]), cropped, rtol=1e-4, atol=1e-5)


def test_the_residual_stream_is_contiguous(backbone):
    seen = []
    handle = backbone.denoiser.final_layer.register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0].is_contiguous())
    )
    prompts = [Prompt("a red boat")]
    conditioning = backbone.condition(backbone.encode_text(prompts), prompts, SMALL, Randomness(1))
    backbone.predict(backbone.initial_noise(1, SMALL, Randomness(0)), torch.tensor([700.0]), conditioning)
    handle.remove()
    assert seen == [True]


def test_gelu_sees_through_an_idle_adapter_alone():
    layer = make().denoiser.spatial_blocks[0].mlp
    plain = layer.fc1
    assert kernels.layer_without_adapter(plain) is plain
    attach_lora(layer, LoraSettings(rank=2, targets=("fc1",)))
    assert kernels.layer_without_adapter(layer.fc1) is None
    with adapter_off(layer):
        assert kernels.layer_without_adapter(layer.fc1) is plain
    layer.fc1.folded = True
    assert kernels.layer_without_adapter(layer.fc1) is plain
    layer.fc1.folded = False
    x = torch.ones(1, plain.in_features)
    for value in adapter_parameters(layer).values():
        torch.nn.init.ones_(value)
    assert not torch.equal(kernels.linear_gelu(layer.fc1, x), kernels.linear_gelu(plain, x))


def test_an_adapter_of_someone_elses_is_called_as_it_is():
    layer = make().denoiser.spatial_blocks[0].mlp
    plain = layer.fc1
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["fc1"], init_lora_weights=False), layer)
    assert layer.fc1.base_layer is plain
    assert kernels.layer_without_adapter(layer.fc1) is None
    x = torch.ones(1, plain.in_features)
    assert torch.equal(project(layer.fc1, x)[0], layer.fc1(x))
    assert not torch.equal(project(layer.fc1, x)[0], plain(x))


@pytest.mark.gpu
@pytest.mark.parametrize("name", kernel_cases.CASES)
@torch.no_grad()
def test_programs_are_as_near_to_float64_as_torch_is(name):
    run, given = kernel_cases.CASES[name]()
    half = kernel_cases.on(given, "cuda", torch.bfloat16)
    exact = kernel_cases.plainly(name, kernel_cases.on(half, "cuda", torch.float64))
    fused = run(kernel_cases.copied(half))
    Switch.on = False
    try:
        plain = run(kernel_cases.copied(half))
    finally:
        Switch.on = True
    for one, other, expected in zip(fused, plain, exact, strict=True):
        error, usual = (float((x.double() - expected).norm() / expected.norm()) for x in (one, other))
        assert error <= 1.1 * usual


@pytest.mark.gpu
@torch.no_grad()
def test_the_fused_model_is_the_model():
    from vader_opensora.architecture import STDiT3Config
    from vader_opensora.stdit3 import STDiT3

    torch.manual_seed(0)
    config = STDiT3Config(depth=2, hidden_size=144, num_heads=2, caption_channels=32, model_max_length=64)
    model = STDiT3(config).eval().to("cuda", torch.bfloat16).keep_time_wide(torch.float32)
    latents = torch.randn(2, 4, 15, 10, 14, device="cuda")
    mask = torch.arange(40, device="cuda") < torch.tensor([[40], [13]], device="cuda")
    frames = (torch.arange(15, device="cuda") > 0).repeat(2, 1)
    text = torch.randn(2, 40, 32, device="cuda")
    time, fps = torch.tensor([700.0, 700.0], device="cuda"), torch.full((2,), 24.0, device="cuda")

    def predicted(chosen):
        return chosen(latents.to(next(chosen.parameters()).dtype), time.to(latents), text, mask, frames,
                      fps=fps, size=(80.0, 112.0))  # fmt: skip

    fused = predicted(model)
    Switch.on = False
    try:
        plain = predicted(model)
        exact = predicted(model.double())
    finally:
        Switch.on = True
    error, usual = (float((x - exact).norm() / exact.norm()) for x in (fused, plain))
    assert error <= 1.1 * usual
