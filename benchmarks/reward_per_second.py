"""Reward gained per second on the demo: the recipe against levers that change the result.

    python benchmarks/reward_per_second.py tune --out runs/per_second --jobs 14
    python benchmarks/reward_per_second.py final --out runs/per_second --jobs 14
    OMP_NUM_THREADS=1 python benchmarks/reward_per_second.py timing --out runs/per_second --device cpu
    python benchmarks/reward_per_second.py collect runs/per_second benchmarks/results/reward_per_second.json
    python benchmarks/reward_per_second_report.py docs/efficiency.md

Every variant is the recipe ``demo`` with a few options changed. With the learning rate that suits it best,
how soon is it at reward 9 with the content kept? Every variant gets the same tuning: each rate of one grid,
with seeds that are used for nothing else (``tune``); then five fresh seeds (``final``). All are scored after
their updates on the same held-out captions and noise, sampled as the recipe samples, whatever the variant
does while training. What a variant gains per update does not depend on the machine, so curves may come from
any device; what an update costs is measured alone on one CPU thread, in seconds of processor time
(``timing``). Runs that have their file are not made again. It works from a bare checkout too, with
``PYTHONPATH=.:plugins/vader-demo``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from checkout import registry_of_checkout
from reward_per_second_report import (
    ALIGNMENT,
    HIGH,
    RECIPE,
    REWARD,
    chosen_rates,
)

from vader_core.api.configure import complete
from vader_core.assembly.levers import pull_levers
from vader_core.assembly.loading import attach, load_backbone, load_rewards
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.evaluation.comparison import evaluation_pairs
from vader_core.evaluation.validation import score_pairs
from vader_core.run.config import validated
from vader_core.run.layers import changed, merged, read_recipe
from vader_core.training.batches import PromptBatches
from vader_core.training.optimizer import Updates
from vader_core.training.processes import SingleProcess

MONITORS = (ALIGNMENT, "demo_aesthetic_held_out")
#: Learning rates that every variant is tuned over.
RATES = (8e-4, 1.6e-3, 3.2e-3, 6.4e-3)
#: Seeds of the tuning, and of the figures.
TUNING_SEEDS = (100, 101)
SEEDS = (0, 1, 2, 3, 4)
#: Updates that a run has at most.
MOST_UPDATES = 24
#: A run that has lost so much alignment does not find its content again.
LOST = 0.05
#: How a distilled adapter makes the clips of a store.
STUDENT = {"lora": "runs/demo_student", "num_steps": 2, "guidance_scale": 1.0}


def _trainer(**options: Any) -> dict[str, Any]:
    return {"trainer": options}


def _steps(count: int, **options: Any) -> dict[str, Any]:
    return {"sampler": {"num_steps": count}, "trainer": options}


def _objective(**options: Any) -> dict[str, Any]:
    return {"objective": {"reward_gradient": options}}


def _stored(size: int, refresh: int, gradient: str, **rollout: Any) -> dict[str, Any]:
    """A store of rollouts. One that is never refreshed is filled beforehand, by the base model.

    Args:
        size: Clips.
        refresh: Steps that each serves; 0 is for good.
        gradient: At which step an update is made.
        **rollout: How the clips are made, where not as the recipe samples.
    """
    store = {"store": "rollouts", "store_size": size, "store_refresh": refresh, "gradient": gradient}
    return _trainer(batch_size=1) | _objective(**store) | ({"rollout": rollout} if rollout else {})


def _held(weight: float, variant: dict[str, Any]) -> dict[str, Any]:
    """A variant with the caption's own reward beside the trained one; what judges it is another net."""
    rewards = [{"name": REWARD}, {"name": "demo_alignment", "weight": weight}]
    return variant | {"reward": rewards, "monitor": [{"name": name} for name in MONITORS]}


#: The banks that keep the content best, and what holds it on top.
_BANKS = {
    "bank of 4 in 3 steps, 4th step": _stored(4, 0, "steps:3", num_steps=3, guidance_scale=3.0),
    "bank of 4 in 3 steps, 4th or 5th step": _stored(4, 0, "random:3-4", num_steps=3, guidance_scale=3.0),
    "bank of 4 in 2 steps, 4th step": _stored(4, 0, "steps:3", num_steps=2, guidance_scale=3.0),
}
#: Weights of the caption's reward beside them.
_WEIGHTS = (3, 10, 30, 100)

#: What each variant changes in the recipe: a batch of 4, 6 steps, all 8 frames, guidance 3.
VARIANTS: dict[str, dict[str, Any]] = {
    RECIPE: {},
    "batch 1": _trainer(batch_size=1),
    "2 steps": _steps(2),
    "3 steps, batch 1": _steps(3, batch_size=1),
    "low variance 2": _objective(low_variance=2),
    # One clip per update from here on. Of 6 steps the 4th still mixes two parts of noise with one of data.
    "batch 1, 4th step": _stored(1, 1, "steps:3"),
    "store": _stored(4, 4, "last"),
    "store, 4th step": _stored(4, 4, "steps:3"),
    "bank of 24": _stored(24, 0, "last"),
    "bank of 24, 4th step": _stored(24, 0, "steps:3"),
    "bank of 4, 4th step": _stored(4, 0, "steps:3"),
    # The same, from clips that are cheaper to make.
    "bank of 4 in 3 steps, 4th step": _BANKS["bank of 4 in 3 steps, 4th step"],
    "bank of 4 in 2 steps, 4th step": _BANKS["bank of 4 in 2 steps, 4th step"],
    "bank of 8 in 2 steps, 4th step": _stored(8, 0, "steps:3", num_steps=2, guidance_scale=3.0),
    "bank of 4, 4th or 5th step": _stored(4, 0, "random:3-4"),
    "bank of 4 in 3 steps, 4th or 5th step": _BANKS["bank of 4 in 3 steps, 4th or 5th step"],
    # The caption's reward beside the trained one.
    **{
        f"{name}, caption {weight}": _held(weight, bank)
        for name, bank in _BANKS.items()
        for weight in _WEIGHTS
    },
    # By a student that benchmarks/demo_student.py distilled: two steps without guidance.
    "student, 4th step": _stored(1, 1, "steps:3", **STUDENT),
    "store by student, 4th step": _stored(4, 4, "steps:3", **STUDENT),
    "bank of 4 by student, 4th step": _stored(4, 0, "steps:3", **STUDENT),
}


@dataclass(frozen=True)
class Job:
    """One training run.

    Args:
        variant: Of :data:`VARIANTS`.
        lr: Learning rate.
        seed: Of everything the run draws.
    """

    variant: str
    lr: float
    seed: int

    @property
    def file(self) -> str:
        """Where the run is kept."""
        return f"run-{self.variant.replace(', ', '+').replace(' ', '_')}-{self.lr:g}-{self.seed}.json"

    def over(self, point: dict[str, float], base: dict[str, float]) -> bool:
        """Whether the curve says all that is asked of it."""
        return point[REWARD] >= HIGH or base[ALIGNMENT] - point[ALIGNMENT] > LOST


def assemble(variant: str, seed: int, pairs: int, device: str, lr: float = RATES[0]) -> Assembly:
    """The variant's parts, loaded, with its levers pulled."""
    registry = registry_of_checkout()
    given = {
        "monitor": [{"name": name} for name in MONITORS],
        "trainer": {"lr": lr, "seed": seed, "device": device, "precision": "fp32"},
        "performance": {"gradient_checkpointing": False},
        "validation": {"batch": min(pairs, 64 if device == "cuda" else 8)},
    }
    tree = merged(read_recipe(registry, "demo"), given, VARIANTS[variant])
    assembly = prepare(complete(validated(tree), registry), registry)
    load_backbone(assembly)
    attach(assembly)
    load_rewards(assembly)
    pull_levers(assembly)
    return assembly


def _judge(assembly: Assembly) -> Assembly:
    """The same model, sampled as the recipe samples, with noise that is the same for every run."""
    registry = registry_of_checkout()
    tree = merged(read_recipe(registry, "demo"), {"trainer": {"precision": "fp32"}})
    config = complete(validated(tree), registry, device=assembly.device)
    plain = prepare(config, registry, device=assembly.device).model
    model = replace(plain, backbone=assembly.backbone, tuning=assembly.model.tuning)
    return replace(assembly, config=changed(assembly.config, trainer={"seed": 0}), model=model)


def _evaluate(judge: Assembly, pairs: int) -> dict[str, float]:
    mixtures = (judge.rewards, judge.monitors)
    scored = score_pairs(judge, evaluation_pairs(judge, pairs), mixtures, keep_videos=False)
    return {name: round(float(values.mean()), 4) for name, values in scored.scores.items()}


def _bank_of(variant: str) -> int:
    """Clips that a variant's bank holds before its first update."""
    own = VARIANTS[variant].get("objective", {}).get("reward_gradient", {})
    return int(own["store_size"]) if own.get("store_refresh") == 0 else 0


def _fill(assembly: Assembly, batches: PromptBatches, bank: int) -> None:
    """Fill the bank, by the base model and from prompts that no update is given."""
    assert assembly.objective is not None
    for place in range(bank):
        batch = batches.at(1000 * bank + place, 0, 0, 1)
        assembly.objective.prepare(assembly.model, [batch], SingleProcess(assembly.device))


def _updates(assembly: Assembly, bank: int = 0) -> Iterator[bool]:
    """Train without end; one update an item, which says whether it made a rollout of its own."""
    trainer, model, objective = assembly.config.trainer, assembly.model, assembly.objective
    assert objective is not None
    processes = SingleProcess(assembly.device)
    updates = Updates(model.tuning, trainer, processes)
    batches = PromptBatches(
        assembly.draw_prompts, assembly.geometry, trainer.seed, trainer.batch_size, trainer.accumulate
    )
    _fill(assembly, batches, bank)
    made: list[None] = []
    rollout = model.rollout
    model.rollout = lambda *given, **more: made.append(None) or rollout(*given, **more)  # type: ignore
    for step in itertools.count():
        made.clear()
        (prepared,) = objective.prepare(model, [batches.at(step, 0, *processes.here)], processes)
        for update in range(objective.updates):
            with updates.update() as backward:
                objective.step(model, prepared, backward, update)
            yield bool(made)
            made.clear()


def train(job: Job, pairs: int, device: str, first: int = 1) -> dict[str, Any]:
    """One run's curve: scores before the first update, and after each from the ``first`` on."""
    torch.backends.cudnn.allow_tf32 = False
    assembly = assemble(job.variant, job.seed, pairs, device, job.lr)
    judge = _judge(assembly)
    curve = [{"updates": 0, "rollouts": 0, **_evaluate(judge, pairs)}]
    bank = _bank_of(job.variant)
    updates, rollouts = _updates(assembly, bank), 0
    for done in range(1, MOST_UPDATES + 1):
        rollouts += next(updates)
        if done < first:
            continue
        curve.append({"updates": done, "rollouts": rollouts, **_evaluate(judge, pairs)})
        if job.over(curve[-1], curve[0]):
            break
    return {**asdict(job), "bank": bank, "curve": curve}


def _train_and_write(work: tuple[Job, int, str, Path, float, int]) -> str:
    job, pairs, device, out, ends_at, first = work
    if time.time() > ends_at:
        return f"{job.file}: no time left"
    torch.set_num_threads(1)
    begun = time.perf_counter()
    found = train(job, pairs, device, first)
    beside = out / f".{job.file}"
    beside.write_text(json.dumps(found))
    beside.replace(out / job.file)
    last = found["curve"][-1]
    scores = ", ".join(f"{name} {last[name]:.3f}" for name in (REWARD, ALIGNMENT))
    return f"{job.file}: {last['updates']} updates, {time.perf_counter() - begun:.0f} s, {scores}"


def _run(jobs: list[Job], options: argparse.Namespace) -> None:
    """The jobs that have not been run yet, several at once."""
    options.out.mkdir(parents=True, exist_ok=True)
    ends_at = time.time() + options.deadline
    known = {(run["variant"], run["lr"], run["seed"]) for run in _read_runs([*options.known, options.out])}
    missing = [job for job in jobs if (job.variant, job.lr, job.seed) not in known]
    rest = (options.pairs, options.device, options.out, ends_at, options.first)
    work = [(job, *rest) for job in missing]
    print(f"{len(jobs)} runs, {len(missing)} missing", flush=True)
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for line in pool.imap_unordered(_train_and_write, work):
            print(line, flush=True)


def _variants(options: argparse.Namespace) -> list[str]:
    unknown = sorted(set(options.variants or ()) - set(VARIANTS))
    if unknown:
        raise SystemExit(f"no variant {unknown[0]!r}; there are: {'; '.join(VARIANTS)}")
    return options.variants or list(VARIANTS)


def tune(options: argparse.Namespace) -> None:
    """Every variant at every learning rate of the grid, with the tuning's seeds."""
    seeds, rates = TUNING_SEEDS[: options.seeds], options.rates or RATES
    jobs = [Job(name, lr, seed) for seed in seeds for name in _variants(options) for lr in rates]
    _run(jobs, options)


def final(options: argparse.Namespace) -> None:
    """Every variant at its best learning rate, that times ``--share``, or ``--rates``; five fresh seeds."""
    options.out.mkdir(parents=True, exist_ok=True)
    best = chosen_rates(_read_runs([*options.known, options.out]), TUNING_SEEDS)
    names = _variants(options)
    rates = {name: options.rates or [best[name] * options.share] for name in names}
    jobs = [Job(name, lr, seed) for seed in SEEDS for name in names for lr in rates[name]]
    _run(jobs, options)


@lru_cache(maxsize=1)
def _machine() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"


def _updates_of(variant: str) -> int:
    """Updates after which each kind of the variant's has come: with a rollout, and with a kept one."""
    own = VARIANTS[variant].get("objective", {}).get("reward_gradient", {})
    return int(own.get("store_size", 1)) * max(1, int(own.get("store_refresh", 1)))


def timing(options: argparse.Namespace) -> None:
    """Processor seconds of an update of each variant, in turns, so that what drifts drifts for all.

    An update that makes its own rollout is told from one that uses a kept one.
    """
    if options.device == "cpu":
        torch.set_num_threads(1)
    names = _variants(options)
    options.out.mkdir(parents=True, exist_ok=True)
    updates = {name: _updates(assemble(name, 0, 8, options.device), _bank_of(name)) for name in names}
    taken: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for turn in range(options.rounds + 1):
        for name in names:
            for _ in range(1 if _bank_of(name) else _updates_of(name)):
                wall, busy = time.perf_counter(), time.process_time()
                fresh = next(updates[name])
                if options.device == "cuda":
                    torch.cuda.synchronize()
                spent = (time.process_time() - busy, time.perf_counter() - wall)
                if turn:
                    taken.setdefault((name, fresh), []).append(spent)
    variants: dict[str, dict[str, Any]] = {}
    for (name, fresh), times in taken.items():
        # The mean: an update of ``refl`` ends at a random step.
        variants.setdefault(name, {})["rollout" if fresh else "kept"] = {
            "processor_seconds": round(statistics.mean(one for one, _ in times), 4),
            "processor_seconds_range": [round(f(one for one, _ in times), 4) for f in (min, max)],
            "wall_seconds": round(statistics.mean(one for _, one in times), 4),
        }
    for name in filter(_bank_of, names):
        variants[name]["making"] = {"processor_seconds": round(_making(name, options.device), 4)}
    found = {
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else f"{_machine()}, 1 thread",
        "torch": torch.__version__.partition("+")[0],
        "rounds": options.rounds,
        "variants": variants,
    }
    (options.out / f"timing-{options.device}.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


def _making(variant: str, device: str) -> float:
    """Processor seconds per clip of the variant's bank."""
    assembly, bank = assemble(variant, 0, 8, device), _bank_of(variant)
    trainer = assembly.config.trainer
    batches = PromptBatches(assembly.draw_prompts, assembly.geometry, trainer.seed, trainer.batch_size, 1)
    busy = time.process_time()
    _fill(assembly, batches, bank)
    return (time.process_time() - busy) / bank


def _read_runs(sources: list[Path]) -> list[dict[str, Any]]:
    runs: dict[tuple[str, float, int], dict[str, Any]] = {}
    for source in sources:
        paths = sorted(source.glob("run-*.json")) if source.is_dir() else [source]
        for found in (json.loads(path.read_text()) for path in paths):
            for run in found.get("runs", [found]):
                if run["variant"] in VARIANTS:
                    runs[run["variant"], run["lr"], run["seed"]] = run
    order = list(VARIANTS)
    return [runs[key] for key in sorted(runs, key=lambda key: (order.index(key[0]), *key[1:]))]


def collect(options: argparse.Namespace) -> None:
    """All runs and timings of folders, and of files that this command wrote, as one file; later ones win."""
    runs = _read_runs(options.sources)
    timings: dict[str, Any] = {}
    for source in options.sources:
        if source.is_file():
            timings |= json.loads(source.read_text())["timings"]
        for path in sorted(source.glob("timing-*.json")):
            timings[path.stem.removeprefix("timing-")] = json.loads(path.read_text())
    tree = {
        "command": "python benchmarks/reward_per_second.py",
        "variants": VARIANTS,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": SEEDS,
        "timings": timings,
    }
    head = json.dumps(tree, indent=1).removesuffix("\n}")
    lines = ",\n  ".join(json.dumps(run) for run in runs)
    options.file.parent.mkdir(parents=True, exist_ok=True)
    options.file.write_text(f'{head},\n "runs": [\n  {lines}\n ]\n}}\n')


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    for call in (tune, final):
        command = commands.add_parser(call.__name__, help=call.__doc__)
        command.add_argument("--jobs", type=int, default=1, help="runs at once")
        command.add_argument("--pairs", type=int, default=64, help="held-out clips of an evaluation")
        command.add_argument("--first", type=int, default=1, help="update after which scores begin")
        command.add_argument("--deadline", type=float, default=float("inf"), help="no run begins after it")
        command.add_argument(
            "--known", type=Path, nargs="+", default=[], help="collected files of earlier runs"
        )
        command.set_defaults(call=call)
    commands.choices["tune"].add_argument("--rates", type=float, nargs="+", help="by default the grid")
    commands.choices["final"].add_argument("--rates", type=float, nargs="+", help="by default the best")
    commands.choices["tune"].add_argument("--seeds", type=int, default=2, help="of the tuning's")
    commands.choices["final"].add_argument("--share", type=float, default=1.0, help="of the best rate")
    command = commands.add_parser("timing", help=timing.__doc__)
    command.add_argument("--rounds", type=int, default=12)
    command.set_defaults(call=timing)
    for command in list(commands.choices.values()):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--device", default=default, choices=("cpu", "cuda"))
        command.add_argument("--variants", nargs="+", help="by default all")
    command = commands.add_parser("collect", help=collect.__doc__)
    command.add_argument("sources", type=Path, nargs="+", help="folders of runs, or collected files")
    command.add_argument("file", type=Path)
    command.set_defaults(call=collect)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
