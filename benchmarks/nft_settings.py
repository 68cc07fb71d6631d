"""How far a reward without a gradient gets with the content kept: settings of the recipe `demo_nft`.

    python benchmarks/nft_settings.py run --out runs/nft_settings --jobs 2
    python benchmarks/nft_settings.py collect runs/nft_settings benchmarks/results/nft_settings.json
    python benchmarks/nft_settings.py table benchmarks/results/nft_settings.json

Every setting is the recipe with a few options changed. Scores are means over the same held-out clips, always
sampled as the recipe samples (with guidance) and without guidance, as training samples. What counts is the
smallest file before the held-out alignment of caption and picture has fallen by 0.02. Runs that are finished
are not made again; one that the clock cut leaves its curve so far.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from checkout import registry_of_checkout, with_rewards
from curves import collect, read, write
from jaxtyping import Float
from torch import Tensor

from vader_core.api.configure import complete
from vader_core.assembly.loading import attach, load_backbone, load_rewards
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.evaluation.comparison import evaluation_pairs
from vader_core.evaluation.validation import score_pairs
from vader_core.method.mixture import Mixture
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import FramesNeeded, Reward, RewardOutput
from vader_core.run.config import validated
from vader_core.run.layers import changed, merged, read_recipe
from vader_core.training.batches import PromptBatches
from vader_core.training.optimizer import Updates
from vader_core.training.processes import SingleProcess

REWARD, ALIGNMENT = "jpeg_size", "demo_alignment_held_out"
#: A fall of the alignment that counts as content lost.
FALL = 0.02
#: An alignment that is enough: the base model's clips have 0.826 in the mean.
FLOOR = 0.82


class Enough(Reward):
    """The caption's reward up to a floor: a clip that shows its caption well enough gains nothing by more.

    Args:
        inner: The reward.
        floor: What is enough.
    """

    name = "demo_alignment"
    differentiable = False

    def __init__(self, inner: Reward, floor: float) -> None:
        self._inner, self._floor = inner, floor

    @property
    def frames(self) -> FramesNeeded:
        """The reward's own."""
        return self._inner.frames

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """The score, and as loss what it lacks to the floor."""
        score = self._inner(video, prompts, rng).score
        return RewardOutput(score, (self._floor - score).clamp(min=0))


def _setting(
    lr: float,
    batch_size: int = 2,
    aligned: float = 0.0,
    *,
    floor: float | None = None,
    wide: bool = False,
    **objective: Any,
) -> dict[str, Any]:
    """What a setting changes in the recipe.

    Args:
        lr: Learning rate.
        batch_size: Prompts per update.
        aligned: Weight of the caption's reward beside the size; its judge is another net.
        floor: It counts up to this alone.
        wide: The adapter is on every layer that can have one, with rank 16.
        **objective: Options of the objective.
    """
    tree: dict[str, Any] = {
        "objective": {"nft": objective},
        "trainer": {"lr": lr, "batch_size": batch_size},
        "reward": [{"name": REWARD}],
        "monitor": [{"name": ALIGNMENT}],
    }
    if aligned:
        tree["reward"].append({"name": "demo_alignment", "weight": aligned})
    if wide:
        tree["lora"] = {"rank": 16, "alpha": 16, "targets": ["all"]}
    return {"tree": tree, "floor": floor}


#: An old policy that follows slowly from the first update on.
_SLOW = {"decay": 0.9, "decay_ramp": 0}

SETTINGS: dict[str, dict[str, Any]] = {
    "lr 1.5e-3": _setting(1.5e-3),
    "lr 8e-4": _setting(8e-4),
    "lr 4e-4": _setting(4e-4),
    "lr 4e-4, batch 4": _setting(4e-4, 4),
    "lr 8e-4, batch 4": _setting(8e-4, 4),
    "lr 8e-4, batch 4, 2 levels": _setting(8e-4, 4, timesteps=2),
    "lr 8e-4, batch 4, beta 0.3": _setting(8e-4, 4, beta=0.3),
    "lr 4e-4, batch 4, beta 0.3": _setting(4e-4, 4, beta=0.3),
    "lr 8e-4, batch 4, base 0.1": _setting(8e-4, 4, base_weight=0.1),
    "lr 8e-4, batch 8": _setting(8e-4, 8),
    "lr 8e-4, batch 4, group 16": _setting(8e-4, 4, group=16),
    "lr 8e-4, alignment 5": _setting(8e-4, aligned=5.0),
    "lr 1.5e-3, alignment 5": _setting(1.5e-3, aligned=5.0),
    "lr 1.5e-3, alignment 20": _setting(1.5e-3, aligned=20.0),
    # The caption's reward beside the size, with more prompts to an update.
    "lr 5e-4, batch 4, alignment 10": _setting(5e-4, 4, aligned=10.0),
    "lr 1e-3, batch 4, alignment 5": _setting(1e-3, 4, aligned=5.0),
    "lr 1e-3, batch 4, alignment 10": _setting(1e-3, 4, aligned=10.0),
    "lr 1e-3, batch 4, alignment 20": _setting(1e-3, 4, aligned=20.0),
    "lr 2e-3, batch 4, alignment 10": _setting(2e-3, 4, aligned=10.0),
    "lr 2e-3, batch 4, alignment 20": _setting(2e-3, 4, aligned=20.0),
    "lr 1e-3, batch 4, alignment 10, 4 levels": _setting(1e-3, 4, aligned=10.0, timesteps=4),
    "lr 1e-3, batch 4, alignment 10, beta 0.3": _setting(1e-3, 4, aligned=10.0, beta=0.3),
    "lr 1e-3, batch 4, alignment 10, base 0.1": _setting(1e-3, 4, aligned=10.0, base_weight=0.1),
    "lr 1e-3, batch 4, alignment 10, group 16": _setting(1e-3, 4, aligned=10.0, group=16),
    "lr 1e-3, batch 8, alignment 10": _setting(1e-3, 8, aligned=10.0),
    "lr 1e-3, batch 4, alignment 2": _setting(1e-3, 4, aligned=2.0),
    "lr 1e-3, batch 4, alignment 3": _setting(1e-3, 4, aligned=3.0),
    "lr 1e-3, batch 8, alignment 3": _setting(1e-3, 8, aligned=3.0),
    # The same up to a floor: above it, size alone counts.
    "lr 1e-3, batch 2, floor 20": _setting(1e-3, 2, aligned=20.0, floor=FLOOR),
    "lr 1e-3, batch 4, floor 10": _setting(1e-3, 4, aligned=10.0, floor=FLOOR),
    "lr 1e-3, batch 4, floor 20": _setting(1e-3, 4, aligned=20.0, floor=FLOOR),
    "lr 1e-3, batch 8, floor 20": _setting(1e-3, 8, aligned=20.0, floor=FLOOR),
    "lr 1e-3, batch 4, floor 20, wide": _setting(1e-3, 4, aligned=20.0, floor=FLOOR, wide=True),
    "lr 1e-3, batch 4, floor 20, group 16": _setting(1e-3, 4, aligned=20.0, floor=FLOOR, group=16),
    # A lower floor: what training samples, without guidance, shows its caption less well than what is judged.
    "lr 1e-3, batch 4, floor 20 at 0.81": _setting(1e-3, 4, aligned=20.0, floor=0.81),
    "lr 1e-3, batch 4, floor 20 at 0.80": _setting(1e-3, 4, aligned=20.0, floor=0.80),
    "lr 1e-3, batch 4, floor 20 at 0.78": _setting(1e-3, 4, aligned=20.0, floor=0.78),
    "lr 1e-3, batch 4, floor 10 at 0.80": _setting(1e-3, 4, aligned=10.0, floor=0.80),
    "lr 5e-4, batch 4, floor 20 at 0.80": _setting(5e-4, 4, aligned=20.0, floor=0.80),
    "lr 5e-4, batch 8, floor 20 at 0.80": _setting(5e-4, 8, aligned=20.0, floor=0.80),
    "lr 1e-3, batch 4, floor 20 at 0.80, group 16": _setting(1e-3, 4, aligned=20.0, floor=0.80, group=16),
    "lr 1e-3, batch 4, floor 20 at 0.80, old 0.9": _setting(1e-3, 4, aligned=20.0, floor=0.80, **_SLOW),
    "lr 1e-3, batch 4, floor 20 at 0.80, 4 levels": _setting(1e-3, 4, aligned=20.0, floor=0.80, timesteps=4),
    "lr 1e-3, batch 4, floor 20 at 0.78, group 16": _setting(1e-3, 4, aligned=20.0, floor=0.78, group=16),
    "lr 5e-4, batch 8, floor 20 at 0.78": _setting(5e-4, 8, aligned=20.0, floor=0.78),
    "lr 1e-3, batch 4, alignment 4": _setting(1e-3, 4, aligned=4.0),
    "lr 5e-4, batch 4, alignment 3": _setting(5e-4, 4, aligned=3.0),
    "lr 1e-3, batch 4, alignment 3, old 0.9": _setting(1e-3, 4, aligned=3.0, **_SLOW),
    "lr 1e-3, batch 4, alignment 3, group 16": _setting(1e-3, 4, aligned=3.0, group=16),
    "lr 5e-4, batch 4, alignment 3, group 16": _setting(5e-4, 4, aligned=3.0, group=16),
}


def assemble(setting: str, seed: int, device: str) -> Assembly:
    """The recipe with a setting, loaded."""
    registry = with_rewards(registry_of_checkout())
    given = {
        "trainer": {"seed": seed, "device": device, "precision": "fp32"},
        "performance": {"gradient_checkpointing": False},
        "validation": {"batch": 32 if device == "cuda" else 8},
    }
    config = complete(
        validated(merged(read_recipe(registry, "demo_nft"), given, SETTINGS[setting]["tree"])), registry
    )
    assembly = prepare(config, registry)
    load_backbone(assembly)
    attach(assembly)
    load_rewards(assembly)
    floor = SETTINGS[setting]["floor"]
    if floor is not None:
        terms = (
            replace(term, reward=Enough(term.reward, floor)) if term.name == Enough.name else term
            for term in assembly.rewards.terms
        )
        assembly.rewards = Mixture(tuple(terms))
        assert assembly.objective is not None
        assembly.objective.use(assembly.rewards)
    return assembly


def scores(assembly: Assembly, pairs: int) -> dict[str, float]:
    """Mean scores with guidance, and without (``plain_``)."""
    found: dict[str, float] = {}
    plain = replace(assembly.model.guidance, scale=1.0)
    for prefix, model in (("", assembly.model), ("plain_", replace(assembly.model, guidance=plain))):
        judge = replace(assembly, model=model, config=changed(assembly.config, trainer={"seed": 0}))
        scored = score_pairs(
            judge, evaluation_pairs(judge, pairs), (judge.rewards, judge.monitors), keep_videos=False
        )
        found |= {prefix + name: round(float(values.mean()), 4) for name, values in scored.scores.items()}
    return found


def train(work: tuple[str, int, argparse.Namespace]) -> str:
    """One run; it ends once the alignment has fallen by twice the limit."""
    setting, seed, options = work
    path = options.out / f"run-{setting.replace(', ', '+').replace(' ', '_')}-{seed}.json"
    there = path.is_file() and json.loads(path.read_text())["whole"]
    if there or time.time() > options.ends_at:
        return f"{path.name}: {'there' if there else 'no time left'}"
    torch.set_num_threads(1)
    assembly = assemble(setting, seed, options.device)
    trainer, model, objective = assembly.config.trainer, assembly.model, assembly.objective
    assert objective is not None
    processes = SingleProcess(assembly.device)
    updates = Updates(model.tuning, trainer, processes)
    batches = PromptBatches(assembly.draw_prompts, assembly.geometry, trainer.seed, trainer.batch_size, 1)
    curve = [{"updates": 0, "queries": 0, **scores(assembly, options.pairs)}]
    each = trainer.batch_size * objective.terms[0].objective.queries
    found = {"setting": setting, "seed": seed, "whole": False, "curve": curve}
    for step in range(options.queries // each):
        (prepared,) = objective.prepare(model, [batches.at(step, 0, *processes.here)], processes)
        with updates.update() as backward:
            objective.step(model, prepared, backward, 0)
        objective.after_update(model, step)
        if (step + 1) % options.every == 0:
            done = {"updates": step + 1, "queries": (step + 1) * each}
            curve.append({**done, **scores(assembly, options.pairs)})
            write(path, found)
            if curve[0][ALIGNMENT] - curve[-1][ALIGNMENT] > 2 * FALL:
                break
            if time.time() > options.ends_at:
                return f"{path.name}: cut after {curve[-1]}"
    write(path, found | {"whole": True})
    return f"{path.name}: {curve[-1]}"


def run(options: argparse.Namespace) -> None:
    """Every setting with every seed, seed by seed."""
    options.out.mkdir(parents=True, exist_ok=True)
    options.ends_at = time.time() + options.deadline
    work = [(setting, seed, options) for seed in options.seeds for setting in options.settings]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for line in pool.imap_unordered(train, work):
            print(line, flush=True)


def kept(curve: list[dict[str, float]], prefix: str = "") -> dict[str, float]:
    """The last point before the alignment has fallen by the limit for the first time."""
    found = curve[0]
    for point in curve:
        if curve[0][prefix + ALIGNMENT] - point[prefix + ALIGNMENT] > FALL:
            break
        found = point
    return found


def gather(options: argparse.Namespace) -> None:
    """All runs as one file."""
    collect(options.sources, options.file, "python benchmarks/nft_settings.py run", ("setting", "seed"))


def table(options: argparse.Namespace) -> None:
    """Markdown: the smallest file with the content kept, medians and ranges over the seeds."""
    runs = read(options.source)
    print("| setting | seeds | smaller, with the content kept | queries | alignment | without guidance |")
    print("| --- | --- | --- | --- | --- | --- |")
    for setting in dict.fromkeys(one["setting"] for one in runs):
        own = [one["curve"] for one in runs if one["setting"] == setting]
        points = [kept(curve) for curve in own]
        smaller = [1 - point[REWARD] / curve[0][REWARD] for point, curve in zip(points, own, strict=True)]
        plain = [1 - kept(curve, "plain_")["plain_" + REWARD] / curve[0]["plain_" + REWARD] for curve in own]
        fall = [point[ALIGNMENT] - curve[0][ALIGNMENT] for point, curve in zip(points, own, strict=True)]
        print(
            f"| {setting} | {len(own)} | {spread(smaller)} | "
            f"{statistics.median(point['queries'] for point in points):.0f} | "
            f"{statistics.median(fall):+.3f} | {spread(plain)} |"
        )


def spread(values: list[float]) -> str:
    """Median and range, in percent."""
    return f"{statistics.median(values):.0%} ({min(values):.0%} to {max(values):.0%})"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help=run.__doc__)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    command.add_argument("--seeds", type=int, nargs="+", default=[100])
    command.add_argument("--queries", type=int, default=1536)
    command.add_argument("--every", type=int, default=2, help="updates between evaluations")
    command.add_argument("--pairs", type=int, default=32)
    command.add_argument("--jobs", type=int, default=1)
    command.add_argument("--deadline", type=float, default=float("inf"), help="seconds after which runs end")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.set_defaults(call=run)
    command = commands.add_parser("table", help=table.__doc__)
    command.add_argument("source", type=Path, help="a folder, or a file of collect")
    command.set_defaults(call=table)
    command = commands.add_parser("collect", help=gather.__doc__)
    command.add_argument("sources", type=Path, nargs="+")
    command.add_argument("file", type=Path)
    command.set_defaults(call=gather)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
