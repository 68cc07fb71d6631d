"""Networks without storage, filled afterwards."""

import threading

import pytest
import torch
from torch import nn

from vader_core.nn.build import VECTOR_DEVIATION, empty_module, fill_randomly, frozen

CPU, META = torch.device("cpu"), torch.device("meta")


class Net(nn.Module):
    """Tied tables, a computed buffer that a file leaves out, one that it holds, and a drawn one."""

    def __init__(self, width=64):
        super().__init__()
        self.table = nn.Embedding(96, width)
        self.head = nn.Linear(width, 96, bias=False)
        self.head.weight = self.table.weight
        self.inner = nn.ModuleList([nn.Linear(width, width), nn.LayerNorm(width)])
        self.again = self.inner[0]
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("places", torch.arange(5), persistent=False)
        self.register_buffer("thirds", torch.arange(4) / 3)
        self.register_buffer("null", torch.randn(7, width))


def made(**given):
    return empty_module(Net, **({"device": CPU, "dtype": torch.float32} | given))


def filled(*key, make=Net, dtype=torch.float32, **given):
    module = empty_module(make, device=CPU, dtype=dtype)
    fill_randomly(module, *key, **given)
    return module


def test_an_empty_module_is_the_module_itself_but_for_its_values():
    state = torch.get_rng_state()
    module, plain = made(dtype=torch.bfloat16), Net().to(torch.bfloat16)
    torch.set_rng_state(state)
    shapes = {name: (value.shape, value.dtype) for name, value in plain.state_dict().items()}
    assert {name: (value.shape, value.dtype) for name, value in module.state_dict().items()} == shapes
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert module.head.weight is module.table.weight
    assert module.again is module.inner[0]
    assert torch.equal(module.places, torch.arange(5))
    assert "places" not in module.state_dict()


def test_building_draws_nothing_from_the_global_generator_and_leaves_no_hook():
    state = torch.get_rng_state()
    made()
    assert torch.equal(torch.get_rng_state(), state)
    assert not nn.Linear(2, 2).weight.is_meta


def test_a_failing_constructor_leaves_no_hook():
    def fails():
        nn.Linear(2, 2)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        empty_module(fails, device=CPU, dtype=torch.float32)
    assert not nn.Linear(2, 2).weight.is_meta


def test_no_initialisation_is_computed_and_other_threads_build_as_ever():
    seen = {}

    def make():
        thread = threading.Thread(target=lambda: seen.update(other=nn.Linear(2, 2)))
        thread.start()
        thread.join()
        seen["own"] = nn.Linear(2, 2)
        return seen["own"]

    module = empty_module(make, device=CPU, dtype=torch.float32)
    assert not seen["other"].weight.is_meta
    assert module is seen["own"]
    assert not module.weight.is_meta


def test_buffers_are_rounded_once():
    module = made(dtype=torch.bfloat16, keep=lambda net: net.thirds.data.float())
    assert module.thirds.dtype == torch.bfloat16

    def keep(net):
        net.thirds = net.thirds.float()
        net.inner[1].double()

    module = made(dtype=torch.bfloat16, keep=keep)
    assert torch.equal(module.thirds, torch.arange(4) / 3)
    assert module.inner[1].weight.dtype == torch.float64
    assert module.inner[0].weight.dtype == torch.bfloat16


def test_the_meta_device_is_a_device_too():
    module = made(device=META)
    held = [*module.parameters(), *module.buffers()]
    assert all(value.is_meta for value in held)
    fill_randomly(module, 0)
    assert all(value.is_meta for value in held)


def test_the_device_around_it_does_not_matter():
    with META:
        module = made()
    assert all(value.device == CPU for value in [*module.parameters(), *module.buffers()])


def test_one_parameter_under_two_names_stays_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            shared = nn.Parameter(torch.zeros(3))
            self.one, self.two = shared, shared

    module = empty_module(Twice, device=CPU, dtype=torch.float32)
    assert module.one is module.two


def test_random_values_have_the_documented_spread():
    state = torch.get_rng_state()
    module = filled(0)
    assert torch.equal(torch.get_rng_state(), state)
    matrix, norm = module.inner[0].weight, module.inner[1]
    assert matrix.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert matrix.mean().abs() < 0.01
    assert module.table.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert norm.weight.mean().item() == pytest.approx(1.0, abs=0.05)
    for vector in (norm.weight, norm.bias, module.inner[0].bias):
        assert vector.std().item() == pytest.approx(VECTOR_DEVIATION, rel=0.3)
    assert 0 < module.scale.abs() < 1
    assert all((value != 0).all() for value in module.parameters())
    assert torch.equal(module.thirds, torch.arange(4) / 3)


def test_a_row_of_a_kernel_is_what_its_output_sums_over():
    kernel = filled(0, make=lambda: nn.Conv2d(16, 64, 3)).weight
    assert kernel.std().item() == pytest.approx((16 * 9) ** -0.5, rel=0.05)


def test_each_name_has_its_own_numbers():
    module = filled(3)
    assert not torch.equal(module.inner[0].bias, module.inner[1].bias)
    alone = nn.ModuleDict({"inner": nn.ModuleList([nn.Linear(64, 64)])})
    fill_randomly(alone, 3)
    assert torch.equal(alone["inner"][0].weight, module.inner[0].weight)
    again, other, part = filled(3), filled(4), filled(3, "part")
    assert torch.equal(again.scale, module.scale)
    for one in (other, part):
        assert not torch.equal(one.inner[0].weight, module.inner[0].weight)


def test_every_dtype_has_the_same_numbers_rounded():
    wide = filled(1).inner[0].weight
    assert torch.equal(filled(1, dtype=torch.bfloat16).inner[0].weight, wide.bfloat16())
    assert torch.equal(filled(1, dtype=torch.float64).inner[0].weight, wide.double())


def test_named_spreads_take_precedence_and_reach_buffers():
    module = filled(0, spread={"table.weight": (5.0, 0.5), "null": (0.0, 2.0), "als": (9.0, 9.0)})
    assert module.table.weight.mean().item() == pytest.approx(5.0, abs=0.1)
    assert module.null.std().item() == pytest.approx(2.0, rel=0.15)
    assert torch.equal(module.null, filled(0, spread={"null": (0.0, 2.0)}).null)


def test_a_name_ends_at_a_dot():
    module = filled(0, spread={"d.weight": (5.0, 0.1)})
    assert module.head.weight.mean().abs() < 0.1


def test_frozen_returns_the_module():
    layer = nn.Linear(2, 2)
    assert frozen(layer) is layer
    assert not layer.training
    assert not layer.weight.requires_grad
