"""Float8 products: near to the kept ones where they are on, the kept ones bit for bit where they are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reference_loop import STEPS, batch_of, make
from torch import nn

from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.method.gradient import Drawn
from vader_core.performance.fold_adapter import Folding
from vader_core.performance.fp8 import FLOAT8, LARGEST, LEAST_ROWS, Fp8, quantised

WIDTH = 64
#: A number of e4m3 is off by at most 1 / 16, evenly spread by 2.6 %: two of them in a product by 3.7 %.
ROUGHLY = 0.045


def _on_the_cpu() -> bool:
    """Whether this torch has the products on a CPU too: 2.11 scales whole matrices there."""
    rows, scale = quantised(torch.ones(16, 16))
    try:
        torch._scaled_mm(rows, rows.t(), scale, scale.t(), out_dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


multiplied = pytest.mark.skipif(not _on_the_cpu(), reason="this torch scales rows on CUDA alone")


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH, bias=False))
    return made.bfloat16().requires_grad_(False)


def rows(count=LEAST_ROWS):
    generator = torch.Generator().manual_seed(1)
    wide = torch.randn(2, count, WIDTH, generator=generator) * torch.logspace(-3, 3, count)[:, None]
    return wide.bfloat16()


def distance(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def test_every_row_uses_the_whole_range():
    x = rows()[0]
    x[3] = 0
    found, scale = quantised(x)
    assert found.dtype == FLOAT8
    assert scale.shape == (LEAST_ROWS, 1)
    largest = found.float().abs().amax(1)
    assert largest[3] == 0
    assert bool((largest[torch.arange(LEAST_ROWS) != 3] >= 0.99 * LARGEST).all())
    back = found.float() * scale
    assert float((back - x.float()).abs().div(x.float().abs().amax(1, keepdim=True) + 1e-9).max()) <= 1 / 16


@multiplied
@torch.no_grad()
def test_on_is_near_and_off_is_the_same_bits(net):
    x = rows()
    wanted = [net[0](x), net(x)]
    names = list(net.state_dict())
    fp8 = Fp8(net, least_width=WIDTH)
    assert list(fp8.layers) == ["0", "2"]
    assert list(net.state_dict()) == names
    assert fp8.bytes == 2 * 2 * WIDTH * WIDTH + 4 * 3 * WIDTH
    assert torch.equal(net(x), wanted[1])
    fp8.on()
    found = net[0](x)
    assert found.dtype == x.dtype
    assert found.shape == wanted[0].shape
    assert 0.005 < distance(found, wanted[0]) < ROUGHLY
    assert distance(net(x), wanted[1]) < 2 * ROUGHLY
    fp8.off()
    assert torch.equal(net(x), wanted[1])


@multiplied
@torch.no_grad()
def test_few_rows_and_autocast(net):
    fp8 = Fp8(net, least_width=WIDTH)
    few = rows(LEAST_ROWS // 4)
    wanted = net(few)
    fp8.on()
    assert torch.equal(net(few), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net[0](rows().float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, net[0](rows()))


def test_a_recorded_product_is_whole(net):
    x = rows().requires_grad_()
    plain = net(x)
    fp8 = Fp8(net, least_width=WIDTH)
    fp8.on()
    assert torch.equal(net(x), plain)


@multiplied
@torch.no_grad()
@pytest.mark.parametrize("fold", [False, True])
def test_the_adapter_counts_folded_or_not(net, fold):
    attach_lora(net, LoraSettings(4, 4.0, ("all",)))
    x = rows()
    base = net(x)
    generator = torch.Generator().manual_seed(2)
    folding = Folding(net) if fold else None
    fp8 = Fp8(net, folding, least_width=WIDTH)
    for size in (0.5, 1.0):
        for name, value in adapter_parameters(net).items():
            if "lora_B" in name:
                value.copy_(size * torch.randn(value.shape, generator=generator))
        wanted = net(x)
        assert distance(base, wanted) > 4 * ROUGHLY
        if folding is not None:
            folding.on()
        fp8.on()
        assert distance(net(x), wanted) < 2 * ROUGHLY
        fp8.off()
        if folding is not None:
            folding.off()
        assert torch.equal(net(x), wanted)


def test_narrow_odd_and_trained_layers_are_left_alone(net):
    assert not Fp8(net).layers
    odd = nn.Sequential(nn.Linear(WIDTH, WIDTH + 1), nn.Linear(WIDTH + 1, WIDTH)).requires_grad_(False)
    assert not Fp8(odd, least_width=WIDTH).layers
    assert not Fp8(net.requires_grad_(True), least_width=WIDTH).layers


@pytest.mark.parametrize(
    ("precision", "message"), [("fp32", "use bf16, or leave it out"), ("bf16", "needs a CUDA device")]
)
def test_other_machines_and_precisions_are_refused(vader, capsys, precision, message):
    command = ["bench", "--backbone", "tiny", "--reward", "brightness", "--device", "cpu"]
    assert vader(*command, "--precision", precision, "-o", "performance.fp8=true") == 2
    assert message in capsys.readouterr().err


@multiplied
def test_training_rollouts_use_it_and_sampling_does_not(registry, monkeypatch):
    parts = make(registry, "tiny", {"schedule": "flow"})
    fp8 = Fp8(parts.backbone.denoiser, least_width=16)
    model = replace(parts.model, levers=(fp8,))
    seen = []
    plain = type(parts.backbone).predict

    def predict(self, *given):
        seen.append((fp8.active, torch.is_grad_enabled()))
        return plain(self, *given)

    monkeypatch.setattr(type(parts.backbone), "predict", predict)
    batch = batch_of(parts)
    conditioning = model.condition(batch.prompts, parts.geometry, batch.rng)
    given = (conditioning, parts.geometry, batch.rng)
    model.rollout(*given, Drawn(frozenset({2, 4})))
    assert seen == [(True, False), (True, False), (False, True), (True, False), (False, True)]
    model.whole().rollout(*given)
    assert seen[STEPS:] == [(False, False)] * STEPS
    model.rollout(*given)
    assert seen[2 * STEPS :] == [(True, False)] * STEPS
    assert not fp8.active


@pytest.mark.gpu
@torch.no_grad()
def test_the_device_rounds_as_the_cpu_does():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = (torch.randn(300, 1152) * torch.logspace(-3, 3, 300)[:, None]).to(dtype)
        x[7] = 0
        found, scale = quantised(x.cuda())
        wanted, of = quantised(x)
        torch.testing.assert_close(scale.cpu(), of, rtol=1e-6, atol=0)
        # A quotient at the middle between two numbers may fall to either.
        assert float((found.cpu().float() != wanted.float()).float().mean()) < 1e-3
    net = nn.Sequential(nn.Linear(1152, 4608)).bfloat16().requires_grad_(False)
    x = torch.randn(4, 500, 1152).bfloat16()
    wanted = net.float()(x.float())
    net = net.bfloat16().cuda()
    Fp8(net).on()
    assert distance(net(x.cuda()).cpu(), wanted) < ROUGHLY
