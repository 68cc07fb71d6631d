"""CUDA graphs with a gradient: all that surrounds a capture, without a device; and on one, the capture."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from levered import Net as Folded
from levered import adapted
from torch import Tensor, nn

from vader_core.api.bench import with_prompts, with_random_files
from vader_core.api.configure import complete, configure
from vader_core.assembly.levers import _no_grad_levers
from vader_core.assembly.prepare import prepare
from vader_core.lora.adapter import lora_layers
from vader_core.lora.layers import ADAPTER
from vader_core.performance import cuda_graphs
from vader_core.performance.cuda_graphs import GraphedForward
from vader_core.performance.fold_adapter import Folding
from vader_core.profiling.bench import Bench, load
from vader_core.registry import load_registry

TINY = {"architecture": "tiny", "weights": "random"}


class Net(nn.Module):
    """A frozen layer, a trained one, and an input that may be left out of the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 8).requires_grad_(False)
        self.trained = nn.Linear(8, 6)
        self.calls = 0

    def forward(self, x: Tensor, *, scale: Tensor, twice: bool = False) -> Tensor:
        self.calls += 1
        out = self.trained(torch.tanh(self.frozen(x) * scale))
        return out + out if twice else out


def made(device: str = "cpu") -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    dtype = torch.float64 if device == "cpu" else torch.float32
    net = Net().to(device, dtype)
    return net, *torch.randn(2, 3, 6, device=device, dtype=dtype)


def gradients(net: Net, calls: list[tuple[Tensor, dict[str, Any]]]) -> list[Tensor]:
    """Of the summed squares of all calls, which are made before any is sent back, last one first."""
    net.zero_grad(set_to_none=True)
    given = [x.detach().clone().requires_grad_() for x, _ in calls]
    outputs = [net(x, **options) for x, (_, options) in zip(given, calls, strict=True)]
    for output in reversed(outputs):
        output.pow(2).sum().backward()
    found = [one.grad for one in (*given, *net.trained.parameters())]
    assert all(one is not None for one in found)
    return [one.clone() for one in found if one is not None]


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A capture that runs again what it captured; everything around it is the real thing."""
    taken: list[Any] = []

    def captured(function: Any, pool: Any) -> Any:
        taken.append(pool)
        function()
        return torch.enable_grad()(function)

    monkeypatch.setattr(cuda_graphs, "captured", captured)
    monkeypatch.setattr(cuda_graphs, "graph_pool", object)
    monkeypatch.setattr(cuda_graphs, "beside", nullcontext)
    monkeypatch.setattr(cuda_graphs, "_on_device", lambda leaves: True)
    return taken


def test_the_gradient_is_the_eager_one_and_follows_the_weights(captures: list[Any]) -> None:
    net, x, y = made()
    scale = torch.ones(8, dtype=torch.float64)
    calls = [(x, {"scale": scale})]
    wanted = gradients(net, calls)
    GraphedForward(net, lambda: None, gradients=True)
    for found, one in zip(gradients(net, calls), wanted, strict=True):
        assert torch.equal(found, one)
    assert len(captures) == 2  # forward and backward
    with torch.no_grad():  # as an optimizer does
        net.trained.weight.mul_(1.5)
        net.frozen.weight.add_(0.1)
    other = [(y, {"scale": scale * 2.0})]
    found = gradients(net, other)
    net.forward.gradients = False  # type: ignore[attr-defined]
    for one, again in zip(found, gradients(net, other), strict=True):
        assert torch.equal(one, again)
    assert len(captures) == 2


def test_calls_that_wait_for_their_backward_pass_do_not_share_a_graph(captures: list[Any]) -> None:
    net, x, y = made()
    scale = torch.ones(8, dtype=torch.float64)
    calls = [(x, {"scale": scale}), (y, {"scale": scale})]
    wanted = gradients(net, calls)
    GraphedForward(net, lambda: None, gradients=True)
    for _ in range(
        2
    ):  # the second time both graphs are there, and the accumulated gradient is no graph's own
        for found, one in zip(gradients(net, calls), wanted, strict=True):
            assert torch.equal(found, one)
    assert len(captures) == 4
    assert len(set(captures)) == 2


def test_graphs_of_several_shapes_share_their_memory(captures: list[Any]) -> None:
    net, x, y = made()
    scale = torch.ones(8, dtype=torch.float64)
    calls = [(x, {"scale": scale}), (y[:2], {"scale": scale})]
    wanted = [gradients(net, [call]) for call in calls]
    GraphedForward(net, lambda: None, gradients=True)
    for _ in range(2):
        for call, eager in zip(calls, wanted, strict=True):
            for found, one in zip(gradients(net, [call]), eager, strict=True):
                assert torch.equal(found, one)
    assert len(captures) == 4
    assert len(set(captures)) == 1


def test_a_call_that_nobody_sends_back_leaves_its_graph_free(captures: list[Any]) -> None:
    net, x, _ = made()
    scale = torch.ones(8, dtype=torch.float64)
    GraphedForward(net, lambda: None, gradients=True)
    for _ in range(3):
        loss = net(x, scale=scale).sum()
        del loss
    assert len(captures) == 2


def test_a_second_backward_pass_is_an_error(captures: list[Any]) -> None:
    net, x, _ = made()
    GraphedForward(net, lambda: None, gradients=True)
    loss = net(x, scale=torch.ones(8, dtype=torch.float64)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="sent back once"):
        loss.backward()


def test_each_shape_argument_and_state_has_its_own_graph(captures: list[Any]) -> None:
    net, x, y = made()
    scale = torch.ones(8, dtype=torch.float64)
    state = ["one"]
    GraphedForward(net, lambda: tuple(state), gradients=True)
    for number, call in enumerate(
        [(x, {"scale": scale}), (x[:2], {"scale": scale}), (y, {"scale": scale, "twice": True})]
    ):
        gradients(net, [call])
        assert len(captures) == 2 * (number + 1)
    state[0] = "two"
    gradients(net, [(x, {"scale": scale})])
    assert len(captures) == 8
    net(x, scale=scale).sum().backward()  # the input wants no gradient: another backward pass
    assert len(captures) == 10


def test_without_anything_to_learn_or_without_the_option_the_module_itself_runs(captures: list[Any]) -> None:
    net, x, _ = made()
    scale = torch.ones(8, dtype=torch.float64)
    graphed = GraphedForward(net, lambda: None, gradients=True)
    net.trained.requires_grad_(False)
    net(x, scale=scale)
    net.trained.requires_grad_(True)
    graphed.gradients = False
    net(x, scale=scale).sum().backward()
    with torch.no_grad():  # not switched on
        net(x, scale=scale)
    assert net.calls == 3
    assert not captures


@pytest.mark.gpu
def test_captured_gradients_equal_the_eager_ones() -> None:
    net, x, y = made("cuda")
    scale = torch.ones(8, device="cuda")
    calls = [(x, {"scale": scale}), (y, {"scale": 2.0 * scale})]
    shorter = [(y[:2], {"scale": scale})]  # in the memory of one of them
    wanted = [gradients(net, calls), gradients(net, shorter)]
    GraphedForward(net, lambda: None, gradients=True)
    for _ in range(2):
        before = net.calls
        for given, eager in zip((calls, shorter), wanted, strict=True):
            for found, one in zip(gradients(net, given), eager, strict=True):
                torch.testing.assert_close(found, one, rtol=1e-6, atol=1e-6)
    assert net.calls == before  # replayed
    with torch.no_grad():
        net.trained.weight.mul_(1.5)
    found = gradients(net, calls)
    net.forward.gradients = False  # type: ignore[attr-defined]
    for one, again in zip(found, gradients(net, calls), strict=True):
        torch.testing.assert_close(one, again, rtol=1e-6, atol=1e-6)


def test_folding_is_captured_once_per_scale(captures: list[Any], net: Folded) -> None:
    adapted(net, 0.3)
    folding, captured = Folding(net), Folding(net, captured=True)
    layers = [layer for _, layer in lora_layers(net)]
    weights = [layer.base_layer.weight for layer in layers]

    def folded(by: Folding) -> list[Tensor]:
        by.on()
        found = [weight.detach().clone() for weight in weights]
        by.off()
        return found

    for scale, graphs in ((1.0, 1), (1.0, 1), (0.5, 2), (1.0, 2)):
        for layer in layers:
            layer.scaling[ADAPTER] = scale
            with torch.no_grad():
                layer.lora_B[ADAPTER].weight.add_(0.01)  # as an update does
        for found, wanted in zip(folded(captured), folded(folding), strict=True):
            assert torch.equal(found, wanted)
        assert len(captures) == graphs


@pytest.mark.slow_cases("demo-*")
@pytest.mark.parametrize(
    ("name", "num_frames"),
    [
        ("demo", None),
        ("opensora", 17),
        pytest.param("videocrafter", 4, marks=pytest.mark.soak),
        pytest.param("modelscope", 4, marks=pytest.mark.soak),
    ],
)
def test_an_update_is_the_same_whichever_frames_are_drawn(
    captures: list[Any], name: str, num_frames: int | None
) -> None:
    """Denoiser and decoders captured once serve every update; the frames are chosen outside of them."""
    registry = load_registry()
    small = {} if num_frames is None else {"architecture": "tiny"}
    size = {} if num_frames is None else {"height": 64, "width": 64, "num_frames": num_frames}
    config = configure(
        registry=registry,
        backbone={"name": name, **small},
        video=size,
        reward=[{"name": "aesthetic_hps", "aesthetic": TINY, "hps": TINY}],
        sampler={"num_steps": 2},
        trainer={"device": "cpu"},
        performance={"gradient_checkpointing": False},
        validation={"prompts": 0},
    )
    config = with_prompts(with_random_files(config, registry), registry)
    assembly = prepare(complete(config, registry), registry)
    bench = Bench(load(assembly))
    wanted = [update(bench, step) for step in range(3)]
    towers = [tower for term in assembly.rewards.terms for tower in term.reward.towers()]
    assert towers
    parts = [assembly.backbone.denoiser, *assembly.backbone.decoders(), *towers]
    for part in parts:
        GraphedForward(part, lambda: None, gradients=True)
    for step, (frames, one) in enumerate(wanted):
        assert update(bench, step)[0] == frames
        torch.testing.assert_close(update(bench, step)[1], one, rtol=1e-5, atol=1e-7)
    assert len({frames for frames, _ in wanted}) > 1 or name == "demo"  # which decodes all of them
    assert len(set(captures)) == len(parts)  # graphs of one network share their memory
    if name != "opensora":  # which has one for each length of text
        assert len(captures) == 2 * len(parts)


def update(bench: Bench, step: int) -> tuple[tuple[int, ...], Tensor]:
    """The decoded frames, and the gradient."""
    trainer = bench.trainer
    batches = trainer.batches.at(step, 0, *bench.processes.here)
    (prepared,) = trainer.objective.prepare(trainer.model, [batches], bench.processes)
    for parameter in bench.parameters:
        parameter.grad = None
    result = trainer.objective.step(trainer.model, prepared, lambda loss: loss.backward(), 0)
    found = [one.grad.flatten() for one in bench.parameters if one.grad is not None]
    assert found
    return tuple(result.frames), torch.cat(found)


def test_each_expert_is_replayed(captures: list[Any]) -> None:
    """A prediction calls one of two experts itself, past the denoiser that holds them."""
    registry = load_registry()
    config = configure(
        registry=registry,
        backbone={"name": "wan", "weights": "random", "model": "tiny-a14b", "max_sequence_length": 4},
        reward=[{"name": "hps", **TINY}],
        prompts="text:a red boat",
        sampler={"num_steps": 4, "shift": 1.0},
        video={"height": 32, "width": 32, "num_frames": 5},
        trainer={"device": "cpu"},
        performance={"gradient_checkpointing": False},
        validation={"prompts": 0},
    )
    assembly = prepare(complete(config, registry), registry)
    bench = Bench(load(assembly))
    _, wanted = update(bench, 0)
    asked = assembly.config.performance.model_copy(update={"cuda_graphs": "all"})
    assembly.config = assembly.config.model_copy(update={"performance": asked})
    bench.trainer.model.levers = tuple(_no_grad_levers(assembly, None))
    torch.testing.assert_close(update(bench, 0)[1], wanted, rtol=1e-5, atol=1e-7)
    for expert in assembly.backbone.experts():
        assert isinstance(expert.forward, GraphedForward)
        assert expert.forward._graphs or expert.forward._slots
