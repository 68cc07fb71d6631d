"""What several devices bring: seconds per step, peak memory, and how far the gradient is from one device's.

    python benchmarks/scale.py                       all rows, for a machine with two 80 GB devices
    python benchmarks/scale.py wan-1 wan-shard       some of them
    python benchmarks/scale.py --tiny                the same rows at tiny sizes on the CPU, over gloo
    python benchmarks/scale.py --estimate            what the estimate says of them; no device is needed

Weights are random and of the models' sizes; the reward is the mean of the pixels where a row names no other.
Each row has its own processes and its own limit, and prints one JSON line when it is done. A row that names
another one compares its gradient with that one's, which must have run before in the same call.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vader_core.api.configure import complete, configure
from vader_core.assembly.levers import process_switches
from vader_core.assembly.loading import load_parts
from vader_core.assembly.parallel import in_processes
from vader_core.assembly.prepare import prepare
from vader_core.device import GIB
from vader_core.profiling.estimate import estimate, without_files
from vader_core.registry import Registry, load_registry
from vader_core.run.config import RunConfig
from vader_core.run.layers import changed, merged
from vader_core.testing.plugin import add_testing_plugin
from vader_core.training.joined import join
from vader_core.training.setup import make_trainer
from vader_core.training.texts import encode_up_front

PROMPT = "a red ball moving left on a blue background"


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        backbone: Its section of the configuration.
        tiny: The same at tiny size.
        reward: Its section.
        tiny_reward: The same at tiny size.
        world: Processes.
        steps: Optimizer steps; the first warms up, unless it is the only one.
        limit: Seconds until it is given up.
        parallel: Its section.
        against: The row whose gradient is compared, and after how many of its micro-steps.
        accumulate: Micro-steps.
        given: Further sections.
    """

    backbone: dict[str, Any]
    tiny: dict[str, Any]
    world: int = 1
    steps: int = 2
    limit: int = 90
    parallel: dict[str, Any] = field(default_factory=dict)
    against: tuple[str, int] | None = None
    accumulate: int = 1
    given: dict[str, Any] = field(default_factory=dict)
    reward: dict[str, Any] = field(default_factory=lambda: {"name": "brightness"})
    tiny_reward: dict[str, Any] = field(default_factory=lambda: {"name": "brightness"})


_WAN = {"name": "wan", "model": "2.1-1.3b"}
_A14B = {"name": "wan", "model": "2.2-a14b"}
_VC = {"name": "videocrafter"}
_TINY, _PAIR = ({"name": "wan", "architecture": name} for name in ("tiny", "tiny-a14b"))
_TINY_VC = {"name": "videocrafter", "architecture": "tiny"}
_LARGE = {"video": {"height": 480, "width": 832, "num_frames": 81}, "sampler": {"num_steps": 4}}
#: A small clip: what the reward takes is what is looked at.
_SHORT = {"video": {"height": 256, "width": 448, "num_frames": 17}, "sampler": {"num_steps": 4}}

#: Else the pace is the processor's, which launches many small kernels.
_GRAPHS = {"performance": {"cuda_graphs": True}}
_FASTEST = {"performance": {"cuda_graphs": True, "fold_adapter": True, "gradient_checkpointing": False}}


def _videocrafter(world: int, **given: Any) -> Row:
    """One of VideoCrafter2's rows, with HPS as the reward."""
    hps = {"name": "hps", "weights": "random"}
    tiny = {**hps, "architecture": "tiny"}
    return Row(_VC, _TINY_VC, world, steps=10, limit=120, given=given, reward=hps, tiny_reward=tiny)


def _with_reward(world: int, **more: Any) -> Row:
    """A small model with a reward of 7B, HPSv3."""
    reward = {"name": "hps_v3", "weights": "random"}
    tiny = {**reward, "architecture": "tiny"}
    return Row(_WAN, _TINY, world, steps=3, given=_SHORT, reward=reward, tiny_reward=tiny, **more)


_IN_PIECES = {"shard": 2, "shard_rewards": True}

#: In the order of their worth.
ROWS = {
    "wan-1": Row(_WAN, _TINY, accumulate=2, limit=110, given=_LARGE),
    "wan-shard": Row(_WAN, _TINY, 2, parallel={"shard": 2}, against=("wan-1", 2), given=_LARGE),
    "wan-context": Row(_WAN, _TINY, 2, parallel={"context": 2}, against=("wan-1", 1), given=_LARGE),
    "a14b-both": Row(_A14B, _PAIR, 2, steps=2, limit=150, parallel={"shard": 2, "context": 2}, given=_LARGE),
    "a14b-shard": Row(_A14B, _PAIR, 2, steps=1, limit=150, parallel={"shard": 2}, given=_LARGE),
    "vc2-1": _videocrafter(1, **_GRAPHS),
    "vc2-2": _videocrafter(2, **_GRAPHS),
    "vc2-fastest-1": _videocrafter(1, **_FASTEST),
    "vc2-fastest-2": _videocrafter(2, **_FASTEST),
    "vc2-plain-1": _videocrafter(1),
    "vc2-plain-2": _videocrafter(2),
    "vc2-texts": Row(_VC, _TINY_VC, 2, steps=2, limit=80, parallel={"shard": 2, "shard_text_encoders": True}),
    "wan-data": Row(_WAN, _TINY, 2, against=("wan-1", 2), given=_LARGE),
    "wan-shard-kept": Row(
        _WAN, _TINY, 2, parallel={"shard": 2, "keep_gathered": True}, against=("wan-1", 2), given=_LARGE
    ),
    "reward-1": _with_reward(1, accumulate=2),
    "reward-shard": _with_reward(2, parallel={"shard": 2}, against=("reward-1", 2)),
    "reward-pieces": _with_reward(2, parallel=_IN_PIECES, against=("reward-1", 2)),
}


def asked_for(row: Row, registry: Registry, *, tiny: bool) -> RunConfig:
    """A row's configuration."""
    given = {} if tiny else row.given
    config = configure(
        registry=registry,
        backbone=row.tiny if tiny else row.backbone,
        prompts=f"text:{PROMPT}",
        reward=[row.tiny_reward if tiny else row.reward],
        objective={"reward_gradient": {"gradient": "last"}},
        trainer={"max_steps": row.steps, "accumulate": row.accumulate},
        validation={"prompts": 0},
        **merged({"sampler": {"num_steps": 4}} if tiny else {}, given),
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
        fill(trainer.updates.parameters)
        if cuda:
            torch.cuda.empty_cache()
        loaded = time.perf_counter() - begun
        loading = torch.cuda.max_memory_allocated() / GIB if cuda else 0.0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        gradients = keep_gradients(trainer, processes)
        seconds, peaks = [], []
        for _ in range(row.steps):
            if cuda:
                torch.cuda.synchronize()
            started = time.perf_counter()
            trainer.train_step()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
            peaks.append(torch.cuda.max_memory_allocated() / GIB if cuda else 0.0)
    if processes.first:
        torch.save(gradients, folder / f"{name}.pt")
    timed = seconds[1:] or seconds
    per_step = statistics.median(timed)
    videos = processes.count * row.accumulate
    found = {
        "row": name,
        "processes": row.world,
        "parallel": row.parallel,
        "reward": assembly.config.reward[0].name,
        "video": str(assembly.geometry),
        "seconds_per_step": per_step,
        "warmed_up": row.steps > 1,
        "all_seconds": seconds,
        "videos_per_step": videos,
        "seconds_per_video": per_step / videos,
        "peak_gib": every(max(peaks), row.world),
        "loading_peak_gib": every(loading, row.world),
        "loading_seconds": loaded,
        "loss": trainer.last_loss,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
    }
    if row.against is not None:
        found["gradient"] = compared(gradients, folder, row.against)
    return found


def every(value: float, world: int) -> list[float]:
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
    return {"against": name, "largest": apart / largest, "norm": difference / norm}


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
        for name in asked.rows or ROWS:
            run_row(name, Path(folder), tiny=asked.tiny)


if __name__ == "__main__":
    main()
