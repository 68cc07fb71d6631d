"""What a training step costs: seconds by phase, memory, operations, share of the device's matrix rate."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

import torch

from vader_core.assembly.loading import load_parts
from vader_core.assembly.parts import Assembly
from vader_core.device import GIB
from vader_core.parallel.whole import in_pieces
from vader_core.profiling.stopwatch import PHASES, SilentStopwatch, Stopwatch, timed_parts, timed_updates
from vader_core.training.processes import SingleProcess
from vader_core.training.setup import make_trainer

#: Side of the square matrices whose product measures the device's matrix rate.
MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product, 2 per multiply-add."""
    side = MATRIX_SIDE.get(device.type, 1024)
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(side, side, generator=generator).to(device, dtype)
    stopwatch = Stopwatch(device)
    for _ in range(3):
        left @ left
    begun = stopwatch.now()
    for _ in range(10):
        left @ left
    return 2.0 * side**3 * 10 / (stopwatch.now() - begun)


class Bench:
    """Times optimizer steps of a loaded assembly, as the trainer takes them.

    Args:
        assembly: Loaded, with rewards and an objective.
    """

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.device = assembly.device
        fp16 = assembly.config.trainer.precision == "fp16"
        self.processes = SingleProcess(assembly.device, loss_scale=fp16)
        _fill(list(assembly.model.tuning.parameters().values()))
        self.trainer = make_trainer(assembly, self.processes, None)
        self.parameters = self.trainer.updates.parameters
        self.optimizer = self.trainer.updates.optimizer

    def step(self, number: int, stopwatch: Stopwatch) -> float:
        """One optimizer step with all its micro-steps and updates; the loss of its first update."""
        trainer = self.trainer
        trainer.step = number
        with timed_updates(trainer.updates, stopwatch):
            trainer.train_step()
        return float(trainer.last_loss)

    def measure(self, steps: int, warmup: int, *, kernels: bool = False) -> dict[str, Any]:
        """Run and report.

        Args:
            steps: Steps measured as a whole, and as many again with the device synchronised around each
                phase; medians are reported.
            warmup: Steps before them.
            kernels: Profile one guided prediction of a no-grad step.
        """
        first = Stopwatch(self.device)
        begun = first.now()
        losses = [self.step(number, first) for number in range(max(1, warmup))]
        first_seconds = first.now() - begun
        totals = [self._undisturbed_seconds(warmup + number, losses) for number in range(steps)]
        rows, peaks = [], []
        for number in range(steps):
            stopwatch = Stopwatch(self.device)
            with timed_parts(self.assembly, stopwatch):
                begun = stopwatch.now()
                stopwatch.take_peak()
                losses.append(self.step(warmup + steps + number, stopwatch))
                spent = stopwatch.now() - begun
                stopwatch.note_peak("other")
            stopwatch.seconds["other"] = spent - sum(stopwatch.seconds.values())
            rows.append(dict(stopwatch.seconds))
            peaks.append(dict(stopwatch.peaks))
        seconds = statistics.median(totals)
        phases = {name: statistics.median(row.get(name, 0.0) for row in rows) for name in PHASES}
        found: dict[str, Any] = {
            "seconds_per_step": seconds,
            "range": [min(totals), max(totals)],
            "steps_measured": steps,
            "first_steps_seconds": first_seconds,
            "phases": phases,
            "peak_allocated_gib": max(max(row.values()) for row in peaks),
            "phase_peaks_gib": {name: max(row.get(name, 0.0) for row in peaks) for name in PHASES},
            "losses": losses,
        }
        if self.device.type == "cuda":
            found["peak_reserved_gib"] = torch.cuda.memory_reserved(self.device) / GIB
        if kernels:
            found["no_grad_kernels"] = self.kernels()
        return found

    def _undisturbed_seconds(self, number: int, losses: list[float]) -> float:
        """One step as a run does it: the device is waited for at its ends alone."""
        silent = SilentStopwatch(self.device)
        begun = silent.now()
        losses.append(self.step(number, silent))
        return silent.now() - begun

    @torch.no_grad()
    def kernels(self) -> dict[str, Any]:
        """Device time of one guided no-grad prediction: in all, and by kernel."""
        from torch.profiler import ProfilerActivity, profile

        assembly, model = self.assembly, self.assembly.model
        batches = self.trainer.batches.at(0, 0, *self.processes.here)
        batch = batches["prompts"] if "prompts" in batches else batches["videos"]
        conditioning = model.condition(batch.prompts, assembly.geometry, batch.rng)
        noise = assembly.backbone.initial_noise(len(batch), assembly.geometry, batch.rng)
        timestep = model.plan(assembly.geometry).timesteps[0]
        with model.without_graph(0):  # the levers are on, but nothing is left out

            def predict() -> None:
                model.predict(noise, timestep, conditioning)

            predict()
            watch = Stopwatch(self.device)
            begun = watch.now()
            predict()
            wall = watch.now() - begun
            activity = ProfilerActivity.CUDA if self.device.type == "cuda" else ProfilerActivity.CPU
            with profile(activities=[activity]) as profiler:
                predict()
                watch.now()
        model.end_levers()
        spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        for event in profiler.events() or []:
            on_device = activity is ProfilerActivity.CPU or event.device_type.name == "CUDA"
            if on_device:
                spent[event.name][0] += (event.self_device_time_total or event.self_cpu_time_total) / 1e3
                spent[event.name][1] += 1
        ordered = sorted(spent.items(), key=lambda item: -item[1][0])
        return {
            "wall_ms": 1e3 * wall,
            "device_ms": sum(time for time, _ in spent.values()),
            "launches": sum(count for _, count in spent.values()),
            "top": [[name[:160], round(time, 3), count] for name, (time, count) in ordered[:60]],
        }


@torch.no_grad()
def _fill(parameters: list[torch.nn.Parameter]) -> None:
    """Small noise in the adapter's zero matrices, so that no arithmetic is done on zeros; it is never cut."""
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        if not in_pieces(parameter) and not bool(parameter.any()):
            parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))


def load(assembly: Assembly, steps: int = 1) -> Assembly:
    """Load what :class:`Bench` needs; the texts of ``steps`` steps are encoded first, as a run does."""

    def encode() -> None:
        trainer = assembly.config.trainer
        prompts = assembly.draw_prompts(list(range(steps * trainer.batch_size * trainer.accumulate)))
        with torch.no_grad(), assembly.autocast():
            assembly.backbone.encode_text(prompts)
        assembly.backbone.release_text_encoder()

    load_parts(assembly, encode)
    return assembly
