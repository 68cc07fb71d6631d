"""How much device memory a run will ask for, computed on paper: no weights, no device."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vader_core.assembly.levers import process_switches
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import make_objective, prepare
from vader_core.assembly.resolve import resolve
from vader_core.device import GIB, free_gib
from vader_core.errors import VaderError
from vader_core.evaluation.validation import score_pairs, validation_pairs
from vader_core.geometry import Geometry
from vader_core.method.gradient import RandomCut, Refl, parse_gradient
from vader_core.parallel.layout import Layout
from vader_core.parallel.whole import own_piece
from vader_core.performance.offload import modules_of
from vader_core.profiling.bench import Bench, load
from vader_core.profiling.paper_device import PaperDevice, on_paper
from vader_core.profiling.paper_optimizer import PaperAdamW8bit
from vader_core.profiling.paper_processes import processes_on_paper, traffic
from vader_core.profiling.paper_rewards import on_paper_alone
from vader_core.profiling.stopwatch import PHASES, Stopwatch, timed_parts
from vader_core.randomness import Randomness
from vader_core.registry import Kind, Registry
from vader_core.run.config import RewardSection, RunConfig, validated
from vader_core.run.layers import changed, merged
from vader_core.sampler import Plan, Sampler
from vader_core.schedule import Schedule
from vader_core.text import TextCache
from vader_core.weights import with_random_weights

#: What no tensor shows: the workspaces of cuBLAS and cuBLASLt, 32 MiB each on Hopper, for the thread that
#: goes forward and for the one that goes back. Each benchmark row without CUDA graphs held 0.11 to 0.13 GiB
#: more than its tensors where nothing but weights was alive.
WORKSPACE = 4 * 32 * 2**20
#: The share of the free memory that an estimate may take: it can be off by a tenth, and memory fragments.
MARGIN = 0.8
#: Phases in which a captured differentiated step goes on holding what it saves; in the others it is needed.
OUTSIDE = ("text", "no-grad steps", "optimizer")
#: Differentiated steps that are run on paper; each further one asks for as much as the last of them. A model
#: of several networks takes one more than those, so that the last step wakes none.
TRACED = 2


@dataclass(frozen=True)
class Estimate:
    """Device memory in GiB.

    Args:
        peak: The most a training step has allocated.
        parts: What rests on the device during a step, by what it is.
        phases: The most allocated in each phase of a step.
        saved: What the differentiated steps leave for their backward pass.
        loading: The most allocated while the parts are loaded.
        validation: The most allocated while validating; ``None`` where the run does not.
        traffic: What one process is sent by others in an optimizer step, by what it is.
        precision: Of the run on a CUDA device.
    """

    peak: float
    parts: dict[str, float]
    phases: dict[str, float]
    saved: float
    loading: float
    validation: float | None
    precision: str
    traffic: dict[str, float] = field(default_factory=dict)


def estimate(
    config: RunConfig, registry: Registry, *, validation: bool = True, processes: int = 1
) -> Estimate:
    """Run a training step of ``config`` on paper, on a CUDA device.

    Args:
        config: Any configuration, complete or not; left as it is.
        registry: Where the components come from.
        validation: Look at a validation too, where the run has any.
        processes: How many train, each on a device of its own; the first one's is looked at.
    """
    eight_bit, graphed = config.trainer.optimizer == "adamw8bit", config.performance.cuda_graphs == "all"
    config = without_files(config, registry)
    layout = Layout(processes, config.parallel.shard, config.parallel.context)
    layout.check()
    with on_paper() as device, processes_on_paper(layout) as mesh, process_switches(config):
        assembly = _on_cuda(config, registry)
        assembly.mesh = mesh
        paper = _Paper(assembly, device, layout, eight_bit=eight_bit)
        return paper.estimate(validation=validation, graphed=graphed)


def _on_cuda(config: RunConfig, registry: Registry) -> Assembly:
    device = torch.device("cuda")
    assembly = prepare(resolve(config, registry, device=device), registry, device=device)
    assembly.backbone.text_cache = TextCache("paper")
    return assembly


def without_files(config: RunConfig, registry: Registry) -> RunConfig:
    """The same run with random weights, a fresh adapter, and nothing that needs the driver."""
    checkpointing = config.performance.gradient_checkpointing
    tree = merged(
        config.model_dump(),
        {
            "lora": {"start": None},
            "rollout": {"lora": None},
            "performance": {
                "cuda_graphs": False,
                "compile_blocks": False,  # there is no compiler on paper
                # what is free is asked of a real device
                "gradient_checkpointing": True if checkpointing == "auto" else checkpointing,
            },
        },
    )
    if tree["trainer"]["optimizer"] == "adamw8bit":  # its kernels need the driver
        tree["trainer"]["optimizer"] = "adamw"
    chosen: list[tuple[Kind, Any]] = [("backbone", tree["backbone"])] if config.backbone.name else []
    chosen += [("reward", item) for item in (*tree["reward"], *tree["monitor"])]
    own = set(RewardSection.model_fields)
    for kind, section in chosen:
        component = registry.get(kind, section["name"])
        if component.weights:  # what ships with a plugin is read, as it may not come in random
            options = {key: value for key, value in section.items() if key not in own}
            section.update(with_random_weights(component.config, options))
    return validated(tree)


def count_operations(config: RunConfig, registry: Registry) -> int:
    """Matrix, convolution and attention operations of an optimizer step, 2 per multiply-add, on paper.

    Args:
        config: Any configuration, complete or not; left as it is.
        registry: Where the components come from.
    """
    # What the counter knows are torch's own operations.
    plain = changed(without_files(config, registry), performance={"fused_kernels": False, "fp8": False})
    with on_paper() as device:
        assembly = _on_cuda(plain, registry)
        with process_switches(plain):
            bench = Bench(load(assembly))
            with FlopCounterMode(display=False) as counter:
                bench.step(0, _PaperStopwatch(assembly.device, device))
    return int(counter.get_total_flops())


def decide_checkpointing(config: RunConfig, registry: Registry, device: torch.device) -> RunConfig:
    """The configuration with ``gradient_checkpointing: auto`` decided by what is free on ``device``.

    It is on where a step without it would ask for more than :data:`MARGIN` of what is free.

    Raises:
        VaderError: The step cannot be followed on paper.
    """
    if config.performance.gradient_checkpointing != "auto":
        return config
    free = free_gib() if device.type == "cuda" else None
    if free is None:
        return changed(config, performance={"gradient_checkpointing": device.type != "cpu"})
    whole = changed(config, performance={"gradient_checkpointing": False})
    facts = memory_facts(whole, registry, validation=False)
    if facts["estimated_peak_gib"] is None:
        raise VaderError(
            f"performance.gradient_checkpointing=auto needs an estimate, which is {facts['estimate']}: "
            "use true or false"
        )
    return changed(
        config, performance={"gradient_checkpointing": facts["estimated_peak_gib"] > MARGIN * free}
    )


class _PaperStopwatch(Stopwatch):
    """Times nothing; takes its peaks from the ledger."""

    def __init__(self, device: torch.device, paper: PaperDevice) -> None:
        super().__init__(device)
        self.paper, self.ledger = paper, paper.ledger
        self._exchanged, self._predictions = 0, 0
        self.before_graph: int | None = None
        self.saved = 0.0

    def now(self) -> float:
        """Wall-clock seconds."""
        return time.perf_counter()

    def take_peak(self) -> float:
        """The peak since the last call, in GiB."""
        found = self.ledger.peak
        self.ledger.reset()
        return (found + WORKSPACE) / GIB

    @property
    def exchanged(self) -> float:
        """Bytes of a shared sequence that a prediction exchanged, going forward."""
        return self._exchanged / max(1, self._predictions)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """As ever; what the differentiated steps leave is kept."""
        if name == "differentiated steps" and self.before_graph is None:
            self.before_graph = self.ledger.live
        before = self.paper.exchanged
        with super().phase(name):
            yield
        if name in ("no-grad steps", "differentiated steps"):
            self._exchanged += self.paper.exchanged - before
            self._predictions += 1
        if name == "differentiated steps":
            self.saved = (self.ledger.live - (self.before_graph or 0)) / GIB


class _Paper:
    """A run loaded on paper."""

    def __init__(
        self, assembly: Assembly, device: PaperDevice, layout: Layout, *, eight_bit: bool = False
    ) -> None:
        self.assembly, self.device, self.ledger = assembly, device, device.ledger
        self.layout = layout
        load(assembly)
        assembly.rewards = on_paper_alone(assembly.rewards)
        assembly.monitors = on_paper_alone(assembly.monitors)
        if assembly.objective is not None:
            assembly.objective.use(assembly.rewards)
        self.gradient = parse_gradient(str(self._asked().get("gradient") or "last"))
        self.loading = (self.ledger.peak + WORKSPACE) / GIB
        self.num_steps, self.sampler = assembly.model.num_steps, assembly.model.sampler
        self.bench = Bench(assembly)
        if eight_bit:
            updates = self.bench.trainer.updates
            updates.optimizer = self.bench.optimizer = PaperAdamW8bit(updates.optimizer.param_groups)
        for parameter in self.bench.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.bench.optimizer.step()
        self.bench.optimizer.zero_grad(set_to_none=True)
        self.averages = [parameter.detach().clone() for parameter in self.bench.parameters * self._copies()]

    def _asked(self) -> dict[str, Any]:
        """The reward gradient's options; empty where another objective runs."""
        item = self.assembly.config.objective.get("reward_gradient")
        return {} if item is None else item.options

    def _copies(self) -> int:
        return int(self.assembly.config.validation.guard == "adapt")

    def estimate(self, *, validation: bool, graphed: bool = False) -> Estimate:
        """Trace as much as the figures need; what a captured step saves stays when the step is over."""
        parts = self._parts()
        wanted = len(self._most_steps())
        traced = max(TRACED, 1 + len(self.assembly.backbone.experts()))
        first = self._trace(min(wanted, traced))
        phases, saved, further = dict(first.peaks), first.saved, max(0, wanted - traced)
        if further:
            fewer = self._trace(traced - 1)
            phases = {name: peak + further * (peak - fewer.peaks[name]) for name, peak in phases.items()}
            saved += further * (saved - fewer.saved)
        kept = saved if graphed else 0.0
        phases = {name: peak + (kept if name in OUTSIDE else 0.0) for name, peak in phases.items()}
        return Estimate(
            peak=max(phases.values()),
            parts=parts,
            phases={name: phases[name] for name in PHASES if name in phases},
            saved=saved,
            loading=self.loading,
            validation=self._validation(kept) if validation else None,
            precision=str(self.assembly.config.trainer.precision),
            traffic=self._traffic(wanted, first.exchanged),
        )

    def _traffic(self, differentiated: int, exchanged: float) -> dict[str, float]:
        found = traffic(self.assembly, self.layout, differentiated=differentiated, exchanged=exchanged)
        return {name: size / GIB for name, size in found.items()}

    def _parts(self) -> dict[str, float]:
        backbone, size_of = self.assembly.backbone, self.device.bytes_of
        learning = {id(parameter) for parameter in self.bench.parameters}
        states = [value for state in self.bench.optimizer.state.values() for value in state.values()]
        gradients = size_of(_own(self.bench.parameters))
        averages = [*self.averages, *(self.bench.trainer.average.tensors or {}).values()]
        found = {
            "denoiser": size_of(_tensors(backbone.denoiser, but=learning)),
            "adapter and optimizer": gradients + size_of(_own([*self.bench.parameters, *states, *averages])),
        }
        for lever in self.assembly.model.levers:
            found[lever.holds] = lever.bytes
        for role, module in backbone.modules().items():
            if role != "denoiser":
                found[role.replace("_", " ")] = size_of(_tensors(module))
        for kind in ("rewards", "monitors"):
            terms = getattr(self.assembly, kind).terms
            held = [one for term in terms for part in modules_of(term.reward) for one in _tensors(part)]
            found[kind] = size_of(held)
        found["workspace"] = WORKSPACE
        return {name: size / GIB for name, size in found.items() if size}

    def _trace(self, count: int) -> _PaperStopwatch:
        """One step with ``count`` differentiated ones, and one of each other kind that the run has."""
        self._shorten(count)
        gc.collect()
        self.ledger.reset()
        stopwatch = _PaperStopwatch(self.assembly.device, self.device)
        with timed_parts(self.assembly, stopwatch):
            self.bench.step(0, stopwatch)
        stopwatch.note_peak("other")
        return stopwatch

    def _shorten(self, count: int) -> None:
        """Let the next step take ``count`` differentiated steps, and one of each other kind it has."""
        model, assembly = self.assembly.model, self.assembly
        drawn = self._most_steps()
        before, after = self._steps_around(drawn)
        # The ends of what is differentiated: by the time it is told, a model may choose its network.
        chosen = [0] * before + [*drawn[: count - 1], drawn[-1]] + [self.num_steps - 1] * after
        if len(chosen) < self.num_steps:
            model.num_steps, model.sampler = len(chosen), _of_steps(self.sampler, self.num_steps, chosen)
            model._plans.clear()
        gradient = "steps:" + ",".join(str(step) for step in range(before, before + count))
        if isinstance(self.gradient, Refl):
            gradient = f"refl:{before}-{before}"
        if self._asked().get("low_variance"):
            gradient = "last"
        if self._asked():
            section = assembly.config.objective["reward_gradient"]
            shortened = section.model_copy(update={"gradient": gradient})
            config = assembly.config.model_copy(update={"objective": {"reward_gradient": shortened}})
            objective = make_objective(config, assembly.registry, assembly.backbone)
            assert objective is not None
            assembly.objective = self.bench.trainer.objective = objective

    def _validation(self, kept: float) -> float | None:
        assembly = self.assembly
        if not assembly.config.validation.prompts:
            return None
        self._shorten(1)
        gc.collect()
        self.ledger.reset()
        pairs = validation_pairs(assembly)[: assembly.config.validation.batch]
        score_pairs(assembly, pairs, (assembly.rewards, assembly.monitors))
        return kept + (self.ledger.peak + WORKSPACE) / GIB

    def _most_steps(self) -> list[int]:
        """The steps that are differentiated, by the draw of the gradient choice that has most."""
        if isinstance(self.gradient, RandomCut):
            return list(range(self.num_steps))
        return sorted(self.gradient.draw(self.num_steps, Randomness(0)).steps)

    def _steps_around(self, drawn: list[int]) -> tuple[int, int]:
        """How many no-grad steps to trace before and after the differentiated ones (0 or 1 each)."""
        return int(drawn[0] > 0), int(not isinstance(self.gradient, Refl) and drawn[-1] < self.num_steps - 1)


def _of_steps(sampler: Sampler, num_steps: int, chosen: Sequence[int]) -> Sampler:
    """The same sampler, whose plans are those of ``num_steps`` steps without all but the chosen ones."""

    def plan(schedule: Schedule, _: int, geometry: Geometry) -> Plan:
        whole = sampler.plan(schedule, num_steps, geometry)
        tables = {
            name: (*(table[i] for i in chosen), *table[num_steps:]) for name, table in whole.tables.items()
        }
        return replace(whole, timesteps=tuple(whole.timesteps[i] for i in chosen), tables=tables)

    short = copy(sampler)
    object.__setattr__(short, "plan", plan)
    return short


def _tensors(module: nn.Module, but: Container[int] = ()) -> list[Tensor]:
    return _own(one for one in (*module.parameters(), *module.buffers()) if id(one) not in but)


def _own(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process holds of them."""
    return [own_piece(one)[0] for one in tensors]


#: Options that take less memory, and how to tell that they are on.
_SAVERS: dict[str, Callable[[RunConfig], bool]] = {
    "-o performance.gradient_checkpointing=true": lambda run: (
        run.performance.gradient_checkpointing is not False
    ),
    "-o performance.offload=true": lambda run: run.performance.offload,
    "-o sampler.split_guidance=true": lambda run: run.sampler.split_guidance,
    "--batch-size 1": lambda run: run.trainer.batch_size == 1,
    "-o validation.batch=1": lambda run: run.validation.batch == 1,
}


def memory_facts(
    config: RunConfig, registry: Registry, *, validation: bool = True, processes: int = 1
) -> dict[str, Any]:
    """The estimate as facts for a plan, in GiB, with advice where the device here has too little.

    A component that cannot be followed on paper (one whose shapes depend on values) is named instead.
    """
    try:
        found = estimate(config, registry, validation=validation, processes=processes)
    except Exception as error:  # whatever a component does with a tensor that has no contents
        if not torch.backends.cuda.is_built():
            return {
                "estimated_peak_gib": None,
                "estimate": "not possible with PyTorch's build for the CPU alone: plan with the ordinary one "
                "(pip install torch), which needs no GPU either",
            }
        reason = str(error).strip().partition("\n")[0][:200]
        kind = "" if isinstance(error, VaderError) else f"{type(error).__name__}: "
        return {"estimated_peak_gib": None, "estimate": f"not possible: {kind}{reason}"}
    facts: dict[str, Any] = {
        "estimated_for": f"cuda, {found.precision}"
        + (", blocks not compiled" if config.performance.compile_blocks else ""),
        "estimated_peak_gib": found.peak,
        "estimated_parts_gib": found.parts | {"saved for the backward pass": found.saved},
        "estimated_phases_gib": found.phases,
        "estimated_loading_gib": found.loading,
    }
    if found.traffic:
        facts["estimated_sent_per_step_gib"] = found.traffic
    if found.validation is not None:
        facts["estimated_validation_gib"] = found.validation
    free = free_gib()
    most = max(found.peak, found.loading, found.validation or 0.0)
    if free is not None and most > free:
        facts["memory"] = advice(config, most, free)
    return facts


def advice(config: RunConfig, wanted: float, free: float) -> str:
    """What to do where ``wanted`` GiB will be asked for and ``free`` are there."""
    options = [option for option, on in _SAVERS.items() if not on(config)]
    return (
        f"{wanted:.1f} GiB will be asked for, {free:.1f} are free. What helps: fewer frames, a smaller size"
        + "".join(f", {option}" for option in options)
    )
