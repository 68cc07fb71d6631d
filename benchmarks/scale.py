"""What several devices bring: seconds per step, peak memory, and how far the gradient is from one device's.

    python benchmarks/scale.py                       all rows of two devices (of 80 GB)
    python benchmarks/scale.py wan-1 wan-shard       some of them
    python benchmarks/scale.py --tiny                the same rows at tiny sizes on the CPU, over gloo
    python benchmarks/scale.py --estimate            what the estimate says of them; no device is needed

Weights are random and of the models' sizes; the reward is the mean of the pixels where a row names no other.
Each row has its own processes and its own limit, and prints one JSON line when it is done. A row that names
another one compares its gradient (with ``--tune full`` how far the weights have moved) with that one's, which
must have run before in the same call. Every step of every process is timed apart: until its first reduction,
in that one, where it waits for the others, and in the later ones.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from scale_rows import ROWS, Row
from torch import Tensor

from vader_core.api.configure import complete, configure
from vader_core.assembly.levers import process_switches
from vader_core.assembly.loading import load_parts
from vader_core.assembly.parallel import in_processes
from vader_core.assembly.prepare import prepare
from vader_core.device import GIB
from vader_core.parallel.whole import whole_tree
from vader_core.profiling.estimate import estimate, without_files
from vader_core.registry import Registry, load_registry
from vader_core.run.config import RunConfig
from vader_core.run.layers import changed, merged
from vader_core.testing.plugin import add_testing_plugin
from vader_core.training.joined import join
from vader_core.training.pauses import short_pauses
from vader_core.training.processes import SingleProcess
from vader_core.training.setup import make_trainer, shared_cores
from vader_core.training.texts import encode_up_front
from vader_core.training.trainer import Trainer
from vader_core.tuning.full import Full

PROMPT = "a red ball moving left on a blue background"


def asked_for(row: Row, registry: Registry, *, tiny: bool) -> RunConfig:
    """A row's configuration."""
    given = {name: value for name, value in row.given.items() if not tiny or name in ("tuning", "trainer")}
    config = configure(
        registry=registry,
        backbone=row.tiny if tiny else row.backbone,
        prompts=f"text:{PROMPT}",
        reward=[row.tiny_reward if tiny else row.reward],
        objective={"reward_gradient": {"gradient": "last"}},
        validation={"prompts": 0},
        **merged(
            {"trainer": {"max_steps": row.steps, "accumulate": row.accumulate}},
            {"sampler": {"num_steps": 4}} if tiny else {},
            given,
        ),
    )
    return changed(config, parallel=row.parallel)


def configured(row: Row, registry: Registry, *, tiny: bool) -> RunConfig:
    """The same, complete, with random weights."""
    config = asked_for(row, registry, tiny=tiny)
    graphs = config.performance.cuda_graphs  # on paper there are none
    config = complete(without_files(config, registry), registry)
    return changed(config, performance={"cuda_graphs": graphs})


def estimated(name: str, row: Row, *, tiny: bool) -> dict[str, Any]:
    """What the estimate says of a row, in GiB."""
    registry = add_testing_plugin(load_registry())
    found = estimate(asked_for(row, registry, tiny=tiny), registry, validation=False, processes=row.world)
    return {
        "row": name,
        "estimated_peak_gib": found.peak,
        "estimated_loading_gib": found.loading,
        "parts_gib": found.parts,
        "phases_gib": found.phases,
        "sent_gib": found.traffic,
    }


def measured(row: Row, folder: Path, name: str, *, tiny: bool) -> dict[str, Any]:
    """Run a row in this process, which is one of its processes."""
    begun = time.perf_counter()
    registry = add_testing_plugin(load_registry())
    config = configured(row, registry, tiny=tiny)
    assembly = prepare(config, registry)
    processes = join(assembly)
    assembly.mesh = processes.mesh
    assembly.config = in_processes(assembly.config, processes.layout)
    cuda = assembly.device.type == "cuda"
    with process_switches(assembly.config):
        load_parts(assembly, lambda: encode_up_front(assembly, processes))
        trainer = make_trainer(assembly, processes, None)
        full = isinstance(assembly.model.tuning, Full)
        before = whole_tree(trainer.model.tuning.snapshot(), keep=processes.first) if full else {}
        gradients = {} if full else keep_gradients(trainer, processes)
        if not full:
            fill(trainer.updates.parameters)
        if cuda:
            torch.cuda.empty_cache()
        loaded = time.perf_counter() - begun
        loading = torch.cuda.max_memory_allocated() / GIB if cuda else 0.0
        steps = Steps(trainer, processes)
        with short_pauses(assembly.device):
            found = steps.turns(row) if row.turns else steps.plain(row.steps)
        if full:
            after = whole_tree(trainer.model.tuning.snapshot(), keep=processes.first)
            gradients = {"whole": moved(before, after)} if processes.first else {}
            gradients[row.accumulate] = gradients.get("whole")
    if processes.first:
        torch.save(gradients, folder / f"{name}.pt")
    videos = processes.count * row.accumulate
    found = {
        "row": name,
        "processes": row.world,
        "parallel": row.parallel,
        "reward": assembly.config.reward[0].name,
        "video": str(assembly.geometry),
        **found,
        "videos_per_step": videos,
        "seconds_per_video": found["seconds_per_step"] / videos,
        "peak_gib": every(steps.peak, row.world),
        "loading_peak_gib": every(loading, row.world),
        "loading_seconds": loaded,
        "loss": trainer.last_loss,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "threads": [torch.get_num_threads(), shared_cores(1000) * row.world],
    }
    if row.against is not None and processes.first:
        kind = "weights" if full else "gradient"
        found[kind] = compared(gradients, folder, row.against)
    return found


def moved(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """How far each weight is from where it was."""
    return {name: after[name].float() - value.float() for name, value in before.items()}


class Steps:
    """A trainer's steps, each timed apart.

    Args:
        trainer: Loaded.
        processes: Those that train together.
    """

    def __init__(self, trainer: Trainer, processes: SingleProcess) -> None:
        self.trainer, self.together = trainer, processes
        self.alone = SingleProcess(processes.device)
        self.cuda = processes.device.type == "cuda"
        #: The most memory that a step had, GiB.
        self.peak = 0.0
        self._spans: list[float] = []
        self._collecting = 0.0
        for one in (self.together, self.alone):
            one.mean = self._timed(one.mean)  # type: ignore[method-assign]
        gc.callbacks.append(self._collected)

    def _collected(self, phase: str, _: Mapping[str, Any]) -> None:
        self._collecting += time.perf_counter() * (1 if phase == "stop" else -1)

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _timed(self, mean: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def timed(value: Tensor) -> Tensor:
            self._spans.append(self._now())
            found = mean(value)
            self._spans.append(self._now())
            return found

        return timed

    def one(self) -> dict[str, float]:
        """Seconds of one step: all of it, until its first reduction, in that one, in the later ones.

        Beside them the seconds of processors, and those spent collecting garbage.
        """
        self._spans, self._collecting = [], 0.0
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        begun, worked = self._now(), time.process_time()
        self.trainer.train_step()
        ended = self._now()
        if self.cuda:
            self.peak = max(self.peak, torch.cuda.max_memory_allocated() / GIB)
        lasted = [stop - start for start, stop in zip(self._spans[::2], self._spans[1::2], strict=True)]
        found = {
            "all": ended - begun,
            "before": self._spans[0] - begun,
            "waiting": lasted[0],
            "later": sum(lasted[1:]),
            "processor": time.process_time() - worked,
            "garbage": self._collecting,
        }
        return {name: round(value, 4) for name, value in found.items()}

    def plain(self, count: int) -> dict[str, Any]:
        """So many steps together, of which the first warms up unless it is the only one."""
        done = [self.one() for _ in range(count)]
        return {
            "seconds_per_step": median(done[1:] or done),
            "warmed_up": count > 1,
            "steps": every(done, self.together.layout.world),
        }

    def turns(self, row: Row) -> dict[str, Any]:
        """One process alone, all apart, all together, ``row.turns`` times ``row.steps`` steps of each."""
        self.one()
        done: dict[str, list[dict[str, float]]] = {"alone": [], "apart": [], "together": []}
        for kind in [*done] * row.turns:
            processes = self.together if kind == "together" else self.alone
            self.trainer.processes = self.trainer.updates.processes = processes
            if kind != "alone" or self.together.first:
                done[kind] += [self.one() for _ in range(row.steps)]
            self.together.wait()
        world = self.together.layout.world
        by_process = {kind: every(steps, world) for kind, steps in done.items()}
        medians = {kind: [median(steps) for steps in each if steps] for kind, each in by_process.items()}
        (alone,), together = medians["alone"], max(medians["together"])
        return {
            "seconds_per_step": together,
            "warmed_up": True,
            "of_the_speed": alone / together,
            "medians": medians,
            "turns": by_process,
        }


def median(steps: list[dict[str, float]]) -> float:
    """Of the whole steps."""
    return statistics.median(step["all"] for step in steps)


def every(value: Any, world: int) -> list[Any]:
    """Each process's ``value``."""
    found = [value] * world
    if world > 1:
        torch.distributed.all_gather_object(found, value)
    return found


@torch.no_grad()
def fill(parameters: list[torch.nn.Parameter]) -> None:
    """Away from the zeros that an adapter starts from, the same on every process."""
    generator = torch.Generator().manual_seed(7)
    for parameter in parameters:
        parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))


def keep_gradients(trainer: Any, processes: Any) -> dict[Any, Any]:
    """The first step's reduced gradient, and what stood after each micro-step before the last."""
    kept: dict[Any, Any] = {}
    updates, tuning = trainer.updates, trainer.model.tuning
    finish, backward = updates.finish, processes.backward

    def here(scale: float) -> dict[str, Any]:
        return {
            name: parameter.grad.detach().float().cpu() * scale
            for name, parameter in tuning.parameters().items()
            if parameter.grad is not None
        }

    def back(loss: Any) -> None:
        backward(loss)
        if "whole" not in kept:
            micro = sum(isinstance(key, int) for key in kept) + 1
            kept[micro] = here(trainer.config.accumulate / micro)

    def ended(finite: bool) -> Any:
        found = finish(finite)
        if "whole" not in kept:
            # Clipped by then, by a factor that does not change its direction.
            scale = max(1.0, (found or 0.0) / trainer.config.max_grad_norm)
            kept["whole"] = here(scale)
        return found

    processes.backward, updates.finish = back, ended
    return kept


def compared(gradients: dict[Any, Any], folder: Path, against: tuple[str, int]) -> dict[str, Any]:
    """The difference to another row's gradient, as shares of its largest number and of its norm."""
    name, micro = against
    place = folder / f"{name}.pt"
    if not place.is_file():
        return {"against": name, "missing": True}
    other, own = torch.load(place)[micro], gradients["whole"]
    largest = max(float(value.abs().max()) for value in other.values())
    apart = max(float((value - own[key]).abs().max()) for key, value in other.items())
    norm = sum(float(value.pow(2).sum()) for value in other.values()) ** 0.5
    difference = sum(float((value - own[key]).pow(2).sum()) for key, value in other.items()) ** 0.5
    return {
        "against": name,
        "largest": apart / largest,
        "norm": difference / norm,
        "largest_number": largest,
        "largest_difference": apart,
    }


# -- processes ---------------------------------------------------------------------------------------------


def run_row(name: str, folder: Path, *, tiny: bool) -> None:
    """Fork a row's processes, wait for them within its limit, and print its line."""
    row = ROWS[name]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun, place = time.monotonic(), folder / f"{name}.json"
    children = {_child(rank, row, port, folder, name, tiny=tiny): rank for rank in range(row.world)}
    waiting, codes, late = set(children), {}, False
    while waiting:
        for child in list(waiting):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                waiting.discard(child)
                codes[children[child]] = os.waitstatus_to_exitcode(status)
        failed = any(codes.values())
        late = time.monotonic() > begun + row.limit
        if waiting and (late or failed):
            time.sleep(0.0 if late else 3.0)
            for child in waiting:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            break
        time.sleep(0.1)
    wall = round(time.monotonic() - begun, 1)
    if place.is_file():
        print(json.dumps({**json.loads(place.read_text()), "wall_seconds": wall}), flush=True)
        return
    said = [(folder / f"{name}.{rank}.log").read_text(errors="replace")[-1500:] for rank in range(row.world)]
    failure = {"row": name, "failed": "late" if late else codes, "wall_seconds": wall, "said": said}
    print(json.dumps(failure), flush=True)


def _child(rank: int, row: Row, port: int, folder: Path, name: str, *, tiny: bool) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    with (folder / f"{name}.{rank}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            if row.world > 1:
                told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": row.world}
                told |= {"LOCAL_WORLD_SIZE": row.world, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
                os.environ |= {key: str(value) for key, value in told.items()}
            found = measured(row, folder, name, tiny=tiny)
            if rank == 0:
                (folder / f"{name}.json").write_text(json.dumps(found))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            log.flush()
            sys.stderr.flush()
            os._exit(code)


def main() -> None:
    """Measure the rows that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--estimate", action="store_true", help="what the estimate says, without a device")
    asked = parser.parse_args()
    for name in asked.rows:
        if name not in ROWS:
            parser.error(f"no row {name!r} (rows: {', '.join(ROWS)})")
    if asked.estimate:
        for name in asked.rows or ROWS:
            print(json.dumps(estimated(name, ROWS[name], tiny=asked.tiny)), flush=True)
        return
    if asked.tiny:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.rows or [name for name, row in ROWS.items() if row.world <= 2]:
            run_row(name, Path(folder), tiny=asked.tiny)


if __name__ == "__main__":
    main()
