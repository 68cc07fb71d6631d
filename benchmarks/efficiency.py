"""Reward gradients against a policy gradient on the demo: reward and alignment per reward query and second.

    python benchmarks/efficiency.py sweep --out runs/efficiency --jobs 2
    python benchmarks/efficiency.py timing --out runs/efficiency
    python benchmarks/efficiency.py collect runs/efficiency benchmarks/results/efficiency.json
    python benchmarks/efficiency_report.py benchmarks/results/efficiency.json docs/efficiency.svg

All methods train the same LoRA of the same model with the same sampler, prompts, reward, optimizer and
clipping; they differ in where the update comes from and in the clips per update. ``nft`` and ``supervised``
make theirs without guidance or not at all. Every run is scored at intervals on the same held-out prompts and
noise, sampled without random steps. Runs that have their file are not made again. It runs from a bare
checkout too, with ``PYTHONPATH=.:plugins/vader-demo:examples/vader-policy-gradient``.

``supervised`` fine-tunes on clips of the demo's world, 8 an update: those 24 that the reward likes best of as
many as the methods have queries. The scoring counts as queries, and is done before the first update.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from checkout import registry_of_checkout, with_policy_gradient

from vader_core.api.configure import complete
from vader_core.assembly.loading import attach, load_backbone, load_rewards
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.evaluation.comparison import evaluation_pairs
from vader_core.evaluation.validation import score_pairs
from vader_core.prompts import Prompt, shuffled_index
from vader_core.randomness import Randomness
from vader_core.run.config import validated
from vader_core.run.layers import merged
from vader_core.training.batches import PromptBatches
from vader_core.training.processes import SingleProcess

REWARD = "demo_aesthetic"
MONITORS = ("demo_alignment", "demo_alignment_held_out", "demo_aesthetic_held_out", "demo_judge_shape")
#: Clips per update of the reward gradient, as in the demo recipe.
BATCH_SIZE = 4
#: Prompts per update of the policy gradient, and clips per prompt.
GROUPS, GROUP_SIZE = 4, 8
#: Of the policy gradient's sampling: a in sigma = a sqrt(tau / (1 - tau)); this one is the paper's.
NOISE_LEVEL = 0.7
#: Clips per update of fine-tuning, and which share of the clips that were scored are learned from.
TUNED, BEST = 8, 0.1
#: Updates of fine-tuning, which asks no queries by then.
TUNING_UPDATES = 60
#: Names the noise of the held-out clips, the same for every run.
EVALUATION_SEED = 0


METHODS = ("vader", "policy_gradient", "nft", "supervised")


@dataclass(frozen=True)
class Job:
    """One training run.

    Args:
        method: ``vader``, ``nft``, ``supervised`` or ``policy_gradient``.
        lr: Learning rate.
        seed: Of everything the run draws.
        queries: Reward queries until it ends.
        every: Updates between evaluations.
        noise_level: Of the policy gradient's sampling.
        beta: Of ``nft``.
    """

    method: str
    lr: float
    seed: int
    queries: int
    every: int
    noise_level: float = NOISE_LEVEL
    beta: float = 1.0

    @property
    def batch_size(self) -> int:
        """Reward queries per update; 0 where all are asked before the first."""
        sizes = {"vader": BATCH_SIZE, "supervised": 0}
        return sizes.get(self.method, GROUPS * GROUP_SIZE)

    @property
    def updates(self) -> int:
        """Until it ends."""
        return self.queries // self.batch_size if self.batch_size else TUNING_UPDATES

    @property
    def name(self) -> str:
        """Of its file."""
        own = f"{self.beta:g}" if self.method == "nft" else f"{self.noise_level:g}"
        return f"{self.method}-{self.lr:g}-{own}-{self.seed}"

    @property
    def sections(self) -> dict[str, Any]:
        """What the method asks of the configuration."""
        if self.method == "vader":
            own = {"gradient": "last", "reward_frames": "all"}
            return {"objective": {"reward_gradient": own}, "trainer": {"batch_size": BATCH_SIZE}}
        if self.method == "nft":
            return {
                "objective": {
                    "nft": {"weight": 1.0, "group": GROUP_SIZE, "noisiest": 1.0, "beta": self.beta}
                },
                "trainer": {"batch_size": GROUPS},
            }
        if self.method == "supervised":
            return {
                "objective": {"supervised": {"weight": 1.0}},
                "data": {"source": "demo_style", "look": "plain", "count": self.queries, "held_out": 0},
                "trainer": {"batch_size": TUNED},
            }
        return {
            "objective": {"policy_gradient": {"weight": 1.0, "group": GROUP_SIZE}},
            "sampler": {"noise_level": self.noise_level},
            "trainer": {"batch_size": GROUPS},
        }


#: The sweep: (method, learning rate, queries, updates between evaluations, noise level, or beta of ``nft``).
SWEEP = (
    ("vader", 1.5e-4, 240, 2, 0.7),
    ("vader", 5e-4, 240, 2, 0.7),
    ("vader", 1e-3, 240, 2, 0.7),
    ("vader", 2e-3, 240, 2, 0.7),
    ("policy_gradient", 3e-4, 3840, 5, 0.7),
    ("policy_gradient", 1e-3, 1920, 3, 0.7),
    ("policy_gradient", 3e-3, 960, 1, 0.7),
    ("policy_gradient", 6e-3, 960, 1, 0.7),
    ("policy_gradient", 1e-3, 1920, 3, 0.3),
    ("policy_gradient", 3e-3, 960, 1, 0.3),
    ("nft", 5e-4, 960, 1, 1.0),
    ("nft", 1.5e-3, 960, 1, 1.0),
    ("nft", 4e-3, 640, 1, 1.0),
    ("nft", 5e-4, 960, 1, 0.25),
    ("nft", 1.5e-3, 640, 1, 0.25),
    ("supervised", 5e-4, 240, 4, 0.0),
    ("supervised", 1.5e-3, 240, 4, 0.0),
    ("supervised", 4e-3, 240, 4, 0.0),
)


def assemble(job: Job, pairs: int, device: str) -> tuple[Assembly, Assembly]:
    """The demo with its adapter attached, the reward and the monitors; and the same model for its judges."""
    registry = with_policy_gradient(registry_of_checkout())
    # Fine-tuning asks the reward once, which clips to learn from: to the run itself it is a monitor.
    watched = (REWARD, *MONITORS) if job.method == "supervised" else MONITORS
    plain = {
        "backbone": {"name": "demo"},
        "reward": [] if job.method == "supervised" else [{"name": REWARD}],
        "monitor": [{"name": name} for name in watched],
        "prompts": {"source": "demo"},
        "lora": {"rank": 8, "alpha": 8},
        "trainer": {"seed": job.seed, "device": device, "precision": "fp32"},
        "performance": {"gradient_checkpointing": False},
        "validation": {"batch": min(pairs, 64 if device == "cuda" else 8)},
    }
    assembly = prepare(complete(validated(merged(plain, job.sections)), registry), registry)
    load_backbone(assembly)
    attach(assembly)
    load_rewards(assembly)
    config = complete(validated(merged(plain, {"trainer": {"seed": EVALUATION_SEED}})), registry)
    model = prepare(config, registry).model
    model = replace(model, backbone=assembly.backbone, tuning=assembly.model.tuning)
    return assembly, replace(assembly, config=config, model=model)


def _evaluate(judge: Assembly, pairs: int) -> dict[str, float]:
    mixtures = (judge.rewards, judge.monitors)
    scored = score_pairs(judge, evaluation_pairs(judge, pairs), mixtures, keep_videos=False)
    return {name: round(float(values.mean()), 5) for name, values in scored.scores.items()}


def _updates(assembly: Assembly, job: Job) -> Iterator[None]:
    """Train without end; one update per item."""
    model, objective, trainer = assembly.model, assembly.objective, assembly.config.trainer
    assert objective is not None
    parameters = list(model.tuning.parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=job.lr, weight_decay=0.01)
    processes = SingleProcess(assembly.device)
    draw = _best_clips(assembly) if job.method == "supervised" else assembly.draw_prompts
    batches = PromptBatches(draw, assembly.geometry, job.seed, trainer.batch_size, 1)
    for step in itertools.count():
        optimizer.zero_grad(set_to_none=True)
        (batch,) = batches.at(step, 0, *processes.here).values()
        given = {"prompts": batch, "videos": batch}
        (prepared,) = objective.prepare(model, [given], processes)
        objective.step(model, prepared, processes.backward, 0)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        objective.after_update(model, step)
        yield


def _best_clips(assembly: Assembly) -> Callable[[Sequence[int]], list[Prompt]]:
    """The clips of the run's data that the reward likes best, in endless shuffled passes."""
    source, seed = assembly.videos.source, assembly.config.trainer.seed
    reward = next(term.reward for term in assembly.monitors.terms if term.name == REWARD)
    clips = list(source.clips())
    scores = []
    with torch.no_grad():
        for clip in clips:
            assert clip.video is not None
            assert clip.video.pixels is not None
            pixels = clip.video.pixels[None].to(assembly.device)
            scores.append(float(reward(pixels, [clip], Randomness(seed)).score))
    order = sorted(range(len(clips)), key=scores.__getitem__, reverse=True)
    best = [clips[place] for place in order[: max(1, round(BEST * len(clips)))]]
    return lambda indices: [best[shuffled_index(index, len(best), seed)] for index in indices]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def train(job: Job, pairs: int, device: str, ends_at: float, until: float = math.inf) -> dict[str, Any]:
    """One run's curve, to its end or to a reward; it is not whole where the clock passes ``ends_at``."""
    assembly, judge = assemble(job, pairs, device)
    curve = [{"queries": 0, "seconds": 0.0, **_evaluate(judge, pairs)}]
    updates, spent, whole = _updates(assembly, job), 0.0, True
    for done in range(1, job.updates + 1):
        begun = _now(assembly.device)
        next(updates)
        spent += _now(assembly.device) - begun
        if done % job.every == 0 or done == job.updates:
            asked = done * job.batch_size or job.queries
            scores = _evaluate(judge, pairs)
            curve.append({"queries": asked, "updates": done, "seconds": round(spent, 3), **scores})
        if curve[-1][REWARD] >= until:
            break
        if time.time() > ends_at:
            whole = False
            break
    return {**asdict(job), "batch_size": job.batch_size, "whole": whole, "curve": curve}


def _train_and_write(work: tuple[Job, int, str, float, str, float]) -> str:
    job, pairs, device, ends_at, out, until = work
    name, path = job.name, Path(out) / f"{job.name}.json"
    if path.is_file():
        return f"{name}: there already"
    if time.time() > ends_at:
        return f"{name}: no time left"
    torch.set_num_threads(1 if device == "cuda" else torch.get_num_threads())
    begun = time.perf_counter()
    found = train(job, pairs, device, ends_at, until)
    spent = time.perf_counter() - begun
    path.write_text(json.dumps(found))
    last = found["curve"][-1]
    monitored = ", ".join(f"{score} {last[score]:.3f}" for score in (REWARD, MONITORS[0]))
    return f"{name}: {last['queries']} queries, {spent:.0f} s, {monitored}"


def job_of(setting: tuple[str, float, int, int, float], seed: int, share: float = 1.0) -> Job:
    """One run of the sweep, shortened to a share of its queries."""
    method, lr, queries, every, own = setting
    least = max(int(queries * share), GROUPS * GROUP_SIZE)
    more = {"beta": own} if method == "nft" else {"noise_level": own}
    return Job(method, lr, seed, least, every, **more)


def sweep(options: argparse.Namespace) -> None:
    """Every setting with every seed, several at once; the costliest first."""
    options.out.mkdir(parents=True, exist_ok=True)
    ends_at = time.time() + options.deadline
    jobs = [
        job_of(setting, seed, options.share)
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for setting in SWEEP
        if setting[0] in options.methods
        and (not options.rates or setting[1] in options.rates)
        and (not options.betas or setting[0] != "nft" or setting[4] in options.betas)
    ]
    # Seed by seed, so that a sweep that runs out of time has whole seeds.
    rest = (options.pairs, options.device, ends_at, str(options.out), options.until)
    work = [(job, *rest) for job in jobs]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for line in pool.imap_unordered(_train_and_write, work):
            print(line, flush=True)


def _median_seconds(update: Callable[[], None], device: torch.device, repeats: int) -> float:
    update()
    taken = []
    for _ in range(repeats):
        begun = _now(device)
        update()
        taken.append(_now(device) - begun)
    return sorted(taken)[len(taken) // 2]


def timing(options: argparse.Namespace) -> None:
    """Seconds per update of each method with nothing else running; what the sweep's own clock cannot say."""
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "machine": _machine(options.device),
        "torch": torch.__version__.partition("+")[0],
    }
    for method in METHODS:
        job = Job(method, 1e-5, 0, 240, 1)
        assembly, _ = assemble(job, 8, options.device)
        updates = _updates(assembly, job)
        begun = _now(assembly.device)
        next(updates)  # before it fine-tuning chooses its clips
        first = _now(assembly.device) - begun
        seconds = _median_seconds(lambda updates=updates: next(updates), assembly.device, options.repeats)
        found[method] = {"seconds_an_update": round(seconds, 4), "queries_an_update": job.batch_size}
        if job.batch_size:
            found[method]["seconds_a_query"] = round(seconds / job.batch_size, 5)
        else:
            found[method]["seconds_before"] = round(first - seconds, 4)
    (options.out / f"timing-{options.device}.json").write_text(json.dumps(found))
    print(json.dumps(found))


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def collect(options: argparse.Namespace) -> None:
    """All runs and timings of folders, and of files that this command wrote, as one file.

    Of two runs of the same setting and seed the longer is kept.
    """
    runs: dict[tuple[Any, ...], dict[str, Any]] = {}
    timings: dict[str, Any] = {}
    for source in options.sources:
        for path in sorted(source.glob("*.json")) if source.is_dir() else [source]:
            found = json.loads(path.read_text())
            if path.name.startswith("timing-"):
                timings[path.stem.removeprefix("timing-")] = found
                continue
            timings |= found.get("timings", {})
            for run in found.get("runs", [found]):
                own = run["beta"] if run["method"] == "nft" else run["noise_level"]
                key = (METHODS.index(run["method"]), -own, run["lr"], run["seed"])
                if key not in runs or len(run["curve"]) > len(runs[key]["curve"]):
                    runs[key] = run
    tree = {
        "command": "python benchmarks/efficiency.py sweep",
        "reward": REWARD,
        "monitors": list(MONITORS),
        "policy_gradient": {"groups": GROUPS, "group_size": GROUP_SIZE, "noise_level": NOISE_LEVEL},
        "vader_batch_size": BATCH_SIZE,
        "timings": timings,
        "runs": [runs[key] for key in sorted(runs)],
    }
    options.file.parent.mkdir(parents=True, exist_ok=True)
    options.file.write_text(_compact(tree))


def _compact(tree: dict[str, Any]) -> str:
    """JSON with one line per run."""
    runs = ",\n  ".join(json.dumps(run) for run in tree.pop("runs"))
    head = json.dumps(tree, indent=1).removesuffix("\n}")
    return f'{head},\n "runs": [\n  {runs}\n ]\n}}\n'


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    one = commands.add_parser("sweep", help=sweep.__doc__)
    one.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    one.add_argument("--rates", type=float, nargs="+", help="learning rates; by default all")
    one.add_argument("--betas", type=float, nargs="+", help="of nft; by default all")
    one.add_argument("--until", type=float, default=math.inf, help="a run ends at this reward")
    one.add_argument("--seeds", type=int, default=5)
    one.add_argument("--first-seed", type=int, default=0)
    one.add_argument("--jobs", type=int, default=1, help="runs at once")
    one.add_argument("--pairs", type=int, default=64, help="held-out clips of an evaluation")
    one.add_argument("--share", type=float, default=1.0, help="share of each run's queries")
    one.add_argument("--deadline", type=float, default=float("inf"), help="seconds after which runs end")
    one.set_defaults(call=sweep)
    two = commands.add_parser("timing", help=timing.__doc__)
    two.add_argument("--repeats", type=int, default=5)
    two.set_defaults(call=timing)
    for command in (one, two):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--device", default=default, choices=("cpu", "cuda"))
    three = commands.add_parser("collect", help=collect.__doc__)
    three.add_argument("sources", type=Path, nargs="+", help="folders, or collected files")
    three.add_argument("file", type=Path)
    three.set_defaults(call=collect)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
