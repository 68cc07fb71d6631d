"""A run's levers: on equals off to rounding, and what cannot work is refused before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vader_core.assembly import levers
from vader_core.assembly.prepare import prepare
from vader_core.assembly.resolve import resolve
from vader_core.errors import VaderError
from vader_core.nn.functional import Switch
from vader_core.run.config import validated
from vader_core.run.layers import merged

BENCH = ["bench", "--backbone", "tiny", "--reward", "brightness", "--device", "cpu"]


@pytest.mark.parametrize(
    "option", ["fold_adapter=true", "channels_last=true", "offload=true", "gradient_checkpointing=true"]
)
def test_a_lever_changes_no_step(option: str, tmp_path: Path, vader: Callable[..., int]) -> None:
    common = [*BENCH, "--steps", "1", "--no-operations"]
    assert vader(*common, "--out", tmp_path / "off.json") == 0
    assert vader(*common, "--out", tmp_path / "on.json", "-o", f"performance.{option}") == 0
    off, on = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("off", "on"))
    name, _, value = option.partition("=")
    assert on["config"]["performance"][name] is json.loads(value)
    assert on["config"]["performance"] != off["config"]["performance"]
    assert on["losses"] == pytest.approx(off["losses"], rel=1e-4)


def test_offload_refuses_what_it_cannot_stage(vader: Callable[..., int], capsys: Any) -> None:
    command = [*BENCH, "-o", "performance.offload=true"]
    assert vader(*command, "-o", "objective.reward_gradient.base_weight=0.5") == 2
    assert "objective.reward_gradient.base_weight" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["cuda_graphs=true", "swap_blocks=2", "offload_activations=true"])
def test_some_levers_need_cuda(vader: Callable[..., int], capsys: Any, option: str) -> None:
    assert vader(*BENCH, "-o", f"performance.{option}") == 2
    assert f"performance.{option.partition('=')[0]} needs a CUDA device" in capsys.readouterr().err


def test_a_backbone_that_keeps_no_features_says_so(vader: Callable[..., int], capsys: Any) -> None:
    assert vader(*BENCH, "-o", "performance.feature_cache=2", "-o", "backbone.schedule=flow") == 2
    assert "backbone 'tiny' keeps no features" in capsys.readouterr().err


def test_an_8_bit_optimizer_that_is_not_installed_is_said_at_once(
    vader: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levers, "find_spec", lambda name: None)
    command = ["train", "--backbone", "tiny", "--reward", "brightness", "--prompts", "fixed", "--dry-run"]
    assert vader(*command, "-o", "trainer.optimizer=adamw8bit") == 2
    said = capsys.readouterr().err
    assert "pip install bitsandbytes" in said
    assert said.count("\n") == 1


def on_cuda(registry: Any, performance: dict[str, Any], **sections: Any) -> Any:
    """A run's parts as they would be prepared on a machine with CUDA; nothing is loaded."""
    tree = {
        "backbone": {"name": "tiny"},
        "prompts": {"source": "fixed"},
        "trainer": {"precision": "bf16"},
        "performance": performance,
        **sections,
    }
    device = torch.device("cuda")
    return prepare(resolve(validated(tree), registry, device=device), registry, device=device)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"gradient_checkpointing": False}, "performance.gradient_checkpointing=true"),
        ({"fold_adapter": True}, "performance.fold_adapter"),
        ({"cuda_graphs": True}, "performance.cuda_graphs"),
        ({"fp8": True}, "performance.fp8"),
    ],
)
def test_swapping_refuses_what_needs_the_weights(registry: Any, other: dict[str, Any], said: str) -> None:
    with pytest.raises(VaderError, match=said):
        on_cuda(registry, {"swap_blocks": 1, **other})
    assert on_cuda(registry, {"swap_blocks": 1}).config.performance.swap_blocks == 1


@pytest.mark.parametrize("name", ["fold_adapter", "cuda_graphs"])
def test_a_dropout_that_would_be_lost_is_refused(registry: Any, name: str) -> None:
    with pytest.raises(VaderError, match=rf"performance.{name} and lora.dropout=0.1"):
        on_cuda(registry, {name: True}, lora={"dropout": 0.1})
    assert getattr(on_cuda(registry, {name: True}).config.performance, name)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"performance": {"gradient_checkpointing": True}}, r"gradient_checkpointing .*set it to false"),
        ({"performance": {"offload": True}}, r"performance\.offload moves weights"),
        ({"performance": {"offload_activations": True}}, r"performance\.offload_activations"),
        ({"performance": {"compile_blocks": True}}, r"performance\.compile_blocks"),
        ({"performance": {"swap_blocks": 1, "gradient_checkpointing": True}}, r"performance\.swap_blocks"),
        ({"lora": {"dropout": 0.1}}, r"performance\.cuda_graphs and lora\.dropout"),
        ({"objective": {"reward_gradient": {"gradient": "last:2"}}}, r"one differentiated step.*last:2"),
        (
            {"objective": {"reward_gradient": {"gradient": "random"}}},
            r"one differentiated step.*random takes",
        ),
        ({"parallel": {"shard": 2}}, r"performance\.cuda_graphs would record"),
        (
            {"backbone": {"name": "tiny_image"}, "objective": {"reward_gradient": {"segments": 2}}},
            r"objective\.reward_gradient\.segments",
        ),
    ],
)
def test_a_captured_gradient_refuses_what_it_cannot_hold(
    registry: Any, sections: dict[str, Any], said: str
) -> None:
    plain = {"cuda_graphs": "all", "gradient_checkpointing": False}
    reward = {"reward": [{"name": "brightness"}]}
    with pytest.raises(VaderError, match=said):
        on_cuda(registry, **merged({"performance": plain}, reward, sections))
    one_step = {"objective": {"reward_gradient": {"gradient": "random:1-3"}}}
    assert on_cuda(registry, plain, **reward, **one_step).config.performance.cuda_graphs == "all"


def test_float8_says_which_device_it_wants(registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    with pytest.raises(VaderError, match=r"8\.9 or newer, and this one has 8\.0"):
        on_cuda(registry, {"fp8": True})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    assert on_cuda(registry, {"fp8": True}).config.performance.fp8


@pytest.mark.parametrize("before", [False, True])
def test_the_process_s_switches_are_put_back(monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    assert Switch.on
    config = validated({"performance": {"fused_kernels": False, "cuda_graphs": True}})
    seen = []

    def fails() -> None:
        with levers.process_switches(config):
            seen.extend([Switch.on, torch.backends.cudnn.benchmark])
            raise ValueError("within")

    with pytest.raises(ValueError, match="within"):
        fails()
    assert seen == [False, True]
    assert Switch.on
    assert torch.backends.cudnn.benchmark is before
