"""How far float8 products move the trained demo denoiser: layer by layer, a prediction, a rollout.

python benchmarks/fp8_deviation.py benchmarks/results/fp8.json

Everything against float32, beside what bfloat16 does by itself. The demo's layers are 160 and 640 wide, so
the least width is lowered; the CPU's form of the product rounds as the device's does and sums in float32.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from shortcuts_deviation import BATCH, load, sample
from torch import Tensor, nn

from vader_core.assembly.parts import Assembly
from vader_core.method.shortcuts import WHOLE
from vader_core.performance.fp8 import Fp8
from vader_core.precision import without_autocast
from vader_core.randomness import Randomness

LEAST_WIDTH = 128


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative norm of the difference."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@torch.no_grad()
def predictions(assembly: Assembly) -> list[Tensor]:
    """The guided prediction of each step for pure noise, as far as the step's time goes."""
    backbone, model = assembly.backbone, assembly.model
    prompts = assembly.held_out_prompts()[:BATCH]
    rng = Randomness(1, samples=tuple(range(BATCH)))
    with assembly.autocast():
        conditioning = backbone.condition(backbone.encode_text(prompts), prompts, assembly.geometry, rng)
        noise = backbone.initial_noise(BATCH, assembly.geometry, rng)
        found = []
        for time in model.plan(assembly.geometry).timesteps:
            given = noise.new_full((BATCH,), time)
            found.append(model.guidance.predict(backbone, noise, given, conditioning).value.float())
    return found


@torch.no_grad()
def layer_errors(assembly: Assembly, fp8: Fp8) -> dict[str, dict[str, float]]:
    """Each layer's own product in float8 and in bfloat16 against float32, on the activations it is given."""
    errors: dict[str, dict[str, list[float]]] = {}

    def compare(name: str, layer: nn.Linear, x: Tensor) -> None:
        with without_autocast(x.device):
            wanted = nn.functional.linear(x.float(), layer.weight.float(), layer.bias.float())
        own = errors.setdefault(name, {"fp8": [], "bf16": []})
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for kind in own:
                fp8.active = kind == "fp8"
                own[kind].append(distance(type(layer).forward(layer, x), wanted))
        fp8.off()

    hooks = [
        layer.register_forward_pre_hook(lambda layer, given, name=name: compare(name, layer, given[0]))
        for name, layer in fp8.layers.items()
    ]
    predictions(assembly)
    for hook in hooks:
        hook.remove()
    return {
        name: {kind: statistics.mean(values) for kind, values in own.items()} for name, own in errors.items()
    }


def main(file: Path) -> None:
    """Measure and write."""
    exact, half = load(), load(precision="bf16")
    wanted, plain = predictions(exact), predictions(half)
    latents, scores = sample(exact, WHOLE)
    half_latents, half_scores = sample(half, WHOLE)
    fp8 = Fp8(half.backbone.denoiser, least_width=LEAST_WIDTH)
    layers = layer_errors(half, fp8)
    fp8.on()
    rounded = predictions(half)
    fp8.off()
    half.model.levers = (fp8,)
    eight_latents, eight_scores = sample(half, WHOLE)
    weights = sum(parameter.numel() for parameter in half.backbone.denoiser.parameters())
    found: dict[str, Any] = {
        "layers": len(layers),
        "share_of_the_weights": sum(layer.weight.numel() for layer in fp8.layers.values()) / weights,
        "layer": {
            kind: {
                "median": statistics.median(one[kind] for one in layers.values()),
                "largest": max(one[kind] for one in layers.values()),
            }
            for kind in ("bf16", "fp8")
        },
        "prediction_by_step": {
            "bf16": [distance(one, other) for one, other in zip(plain, wanted, strict=True)],
            "fp8": [distance(one, other) for one, other in zip(rounded, wanted, strict=True)],
        },
        "latents": {"bf16": distance(half_latents, latents), "fp8": distance(eight_latents, latents)},
        "scores": {"fp32": scores, "bf16": half_scores, "fp8": eight_scores},
        "largest_layers": sorted(layers, key=lambda name: -layers[name]["fp8"])[:5],
    }
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
