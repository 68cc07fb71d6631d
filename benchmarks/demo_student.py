"""A few-step student of the demo's model: a LoRA that samples in two steps, without guidance.

    python benchmarks/demo_student.py --out runs/demo_student

The teacher is the model as the recipe `demo` samples it: 6 steps, guidance 3. The student learns the straight
way between each of its clips and the noise that it was made from, at the two times that a two-step sampler
visits (rectified flow's second round, arXiv 2209.03003). What comes out is an adapter as peft writes it, for
``--rollout-lora``, and a JSON line that says how its clips compare with the teacher's.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from checkout import registry_of_checkout
from torch import Tensor

from vader_core.api.configure import complete
from vader_core.assembly.loading import attach, load_backbone, load_rewards
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.conditioning import Conditioning
from vader_core.evaluation.comparison import evaluation_pairs
from vader_core.evaluation.validation import score_pairs
from vader_core.run.config import validated
from vader_core.run.layers import merged, read_recipe
from vader_core.training.batches import PromptBatches

STEPS = 2
RANK = 64
#: Of the pairs: no run of the other benchmarks has it.
SEED = 1000
MONITORS = ("demo_alignment_held_out",)


@dataclass(frozen=True)
class Pair:
    """Clips of the teacher, and the noise that they were made from.

    Args:
        noise: [B, C, T, h, w].
        clean: [B, C, T, h, w].
        conditioning: Of the captions.
    """

    noise: Tensor
    clean: Tensor
    conditioning: Conditioning


def assemble(device: str, lr: float, batch_size: int) -> Assembly:
    """The demo with a fresh adapter on every layer that can have one."""
    registry = registry_of_checkout()
    given: dict[str, Any] = {
        "monitor": [{"name": name} for name in MONITORS],
        "lora": {"rank": RANK, "alpha": RANK, "targets": ["all"]},
        "trainer": {
            "lr": lr,
            "seed": SEED,
            "device": device,
            "precision": "fp32",
            "batch_size": batch_size,
        },
        "performance": {"gradient_checkpointing": False},
    }
    config = complete(validated(merged(read_recipe(registry, "demo"), given)), registry)
    assembly = prepare(config, registry)
    load_backbone(assembly)
    attach(assembly)
    load_rewards(assembly)
    return assembly


@torch.no_grad()
def teach(assembly: Assembly, count: int) -> list[Pair]:
    """About ``count`` clips of the teacher, in batches; captions are those of training."""
    model, trainer = assembly.model, assembly.config.trainer
    batches = PromptBatches(assembly.draw_prompts, assembly.geometry, trainer.seed, trainer.batch_size, 1)
    pairs = []
    for number in range(math.ceil(count / trainer.batch_size)):
        batch = batches.at(number, 0, 0, 1)["prompts"]
        conditioning = model.condition(batch.prompts, batch.geometry, batch.rng)
        noise = model.backbone.initial_noise(len(batch), batch.geometry, batch.rng)
        made = model.rollout(conditioning, batch.geometry, batch.rng, noise=noise)
        pairs.append(Pair(noise, made.latents, conditioning))
    return pairs


def loss_of(assembly: Assembly, pair: Pair, step: int) -> Tensor:
    """Mean squared error of the student's velocity at its ``step``-th time, from clip to noise."""
    model = assembly.model
    schedule = model.backbone.schedule_for(assembly.geometry)
    plan = model.sampler.plan(schedule, STEPS, assembly.geometry)
    told = torch.full((len(pair.clean),), plan.timesteps[step], device=pair.clean.device)
    state = model.sampler.renoise(plan, step, pair.clean, pair.noise)
    found = model.predict(state.latents, told, pair.conditioning, guided=False)
    return (found.value - schedule.target(pair.clean, pair.noise, told)).square().mean()


def train(assembly: Assembly, pairs: list[Pair], updates: int) -> float:
    """AdamW with the rate falling to 0 along a cosine; gives the mean loss of the last tenth."""
    parameters = list(assembly.model.tuning.parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=assembly.config.trainer.lr, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    losses = []
    for update in range(updates):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(assembly, pairs[update // STEPS % len(pairs)], update % STEPS)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        falling.step()
        losses.append(loss.detach())
    return float(torch.stack(losses[-max(1, updates // 10) :]).mean())


def scores(assembly: Assembly, steps: int, guidance: float, count: int) -> dict[str, float]:
    """Mean scores of clips of held-out captions."""
    model = replace(
        assembly.model, num_steps=steps, guidance=replace(assembly.model.guidance, scale=guidance)
    )
    judge = replace(assembly, model=model)
    found = score_pairs(
        judge, evaluation_pairs(judge, count), (judge.rewards, judge.monitors), keep_videos=False
    )
    return {name: round(float(values.mean()), 4) for name, values in found.scores.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=768, help="of the teacher")
    parser.add_argument("--updates", type=int, default=800)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--pairs", type=int, default=32, help="held-out clips of the comparison")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    assembly = assemble(options.device, options.lr, options.batch)
    begun = time.perf_counter()
    found: dict[str, Any] = {"teacher": scores(assembly, assembly.model.num_steps, 3.0, options.pairs)}
    found["before"] = scores(assembly, STEPS, 1.0, options.pairs)
    pairs = teach(assembly, options.clips)
    found["loss"] = round(train(assembly, pairs, options.updates), 5)
    found["student"] = scores(assembly, STEPS, 1.0, options.pairs)
    found["seconds"] = round(time.perf_counter() - begun, 1)
    assembly.model.tuning.save(options.out)
    (options.out / "student.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
